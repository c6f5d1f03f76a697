//! What people grant, revoke and cut off, in the kernel.

mod asked;

use std::process::Output;
use std::time::Duration;

use anyhow::Context;
use exeat_tests::asked::{FAR, FAR6};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::cgroup::{self, CgroupGuard};
use exeat_tests::daemon::program;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::sink::{TcpSink, UdpSink};
use exeat_tests::stage::{AGENT, OTHER, OTHER_V4, POLICY, Stage};
use exeat_tests::wait;
use serde_json::Value;

/// The limit of the issue, and what this machine may take for it.
const AT_ONCE: Duration = Duration::from_millis(100);

fn json(output: Output) -> anyhow::Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).context(said)
}

/// `exeat ARGS --output json`, as root.
fn ask(stage: &Stage, args: &[&str]) -> anyhow::Result<Value> {
    let args = [args, &["--output", "json"]].concat();
    json(stage.daemon.cli(&args).output()?)
}

/// Grants something to the agent; the grant's id.
fn grant(stage: &Stage, args: &[&str]) -> anyhow::Result<String> {
    let given = ask(stage, &[&["grant", "--agent", AGENT], args].concat())?;
    Ok(given["id"].as_str().context("an id")?.to_owned())
}

fn grants(stage: &Stage) -> Vec<Value> {
    let all = ask(stage, &["grants"]).expect("grants");
    all.as_array().expect("a list").clone()
}

/// That a command is refused, and what it said.
fn refused(output: Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn took(report: &Value) -> Duration {
    Duration::from_micros(report["took_us"].as_u64().expect("a time"))
}

fn at_once(report: &Value) {
    println!("took {:?}", took(report));
    assert!(took(report) < wait::scaled(AT_ONCE), "{report}");
}

fn status(stage: &Stage) -> Value {
    let status = stage.daemon.status().expect("status");
    let agents = status["agents"].as_array().expect("agents").clone();
    let agent = agents.into_iter().find(|agent| agent["name"] == AGENT);
    agent.expect("the agent")
}

fn sinks(stage: &Stage) -> ([TcpSink; 2], [UdpSink; 2]) {
    let at = [format!("{FAR}:7000"), format!("[{FAR6}]:7000")];
    let tcp = |at: &String| stage.world.tcp_sink(at).expect("sink");
    let udp = |at: &String| stage.world.udp_sink(at).expect("sink");
    (at.each_ref().map(tcp), at.each_ref().map(udp))
}

/// A puppet with a connection of each kind to a host that is granted.
fn connected(stage: &Stage) -> (Puppet, Vec<String>) {
    let ids = [FAR, FAR6].map(|host| {
        grant(
            stage,
            &["--address", host, "--for", "1h", "--why", "the test"],
        )
        .expect("grant")
    });
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .value(&format!(
            "t4 = tcp({FAR:?}, 7000); t6 = tcp({FAR6:?}, 7000)\n\
             u4 = udp({FAR:?}, 7000); u6 = udp({FAR6:?}, 7000); un = udp()\n\
             t4.sendall(b'a'); t6.sendall(b'a'); u4.send(b'a'); u6.send(b'a')\n\
             un.sendto(b'a', ({FAR:?}, 7000))\n1"
        ))
        .expect("connections");
    (puppet, ids.into())
}

/// Who waits is told of it, once; after that there is nothing to read.
fn told(puppet: &mut Puppet) {
    for wait in ["t4.recv(1)", "t6.recv(1)"] {
        assert_eq!(
            puppet.errno(wait).expect(wait),
            libc::ECONNABORTED,
            "{wait}"
        );
    }
}

/// Each way of sending that the puppet has; all are dead.
fn all_dead(puppet: &mut Puppet) {
    for send in [
        "t4.send(b'x')",
        "t6.send(b'x')",
        "u4.send(b'x')",
        "u6.send(b'x')",
        "un.sendto(b'x', ('203.0.113.31', 7000))",
        "tcp('203.0.113.31', 7000)",
        "tcp('2001:db8::31', 7000)",
    ] {
        let errno = puppet.errno(send).expect(send);
        assert_ne!(errno, 0, "{send}");
        assert_ne!(errno, libc::ETIMEDOUT, "{send}: its program is told");
    }
}

#[test]
fn a_name_that_is_granted_is_reached_until_it_is_revoked() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let https = format!("https://{OTHER}/");
    let curl = |what: &str| stage.curl_as(AGENT, what).expect("curl");
    assert_ne!(curl(&https), Some(0));
    let id = grant(
        &stage,
        &["--host", OTHER, "--for", "1h", "--why", "a \x1b[2J test"],
    )
    .expect("grant");
    wait::until("the name to be reached", wait::patience(), || {
        (curl(&https) == Some(0)).then_some(())
    })
    .expect("reached");
    // In plain HTTP too, by the gateway, and no other name at the same address.
    assert_eq!(curl(&format!("http://{OTHER}/")), Some(0));
    stage.dns.set("third.example", &[OTHER_V4], 60);
    assert_ne!(curl("https://third.example/"), Some(0));
    let agent = status(&stage);
    assert_eq!(
        (&agent["grants"], &agent["questions"]),
        (&1.into(), &0.into())
    );
    let listed = grants(&stage);
    assert_eq!(listed[0]["by"]["uid"], 0);
    assert_eq!(listed[0]["by"]["via"], "cli");
    let shown = stage.daemon.cli(&["grants"]).output().expect("grants");
    assert!(!shown.stdout.contains(&0x1b), "safe on a terminal");

    let report = ask(&stage, &["revoke", &id]).expect("revoke");
    assert_eq!(report["grants"][0]["id"], id.as_str());
    assert_ne!(curl(&https), Some(0));
    assert_ne!(curl(&format!("http://{OTHER}/")), Some(0));
    assert!(grants(&stage).is_empty());
    let again = stage.daemon.cli(&["revoke", &id]).output().expect("revoke");
    assert!(refused(again, 1).contains("no grant"));
    for kind in ["granted", "grant_ended"] {
        stage
            .daemon
            .event(|event| event["kind"] == kind && event["facts"]["grant"] == id.as_str())
            .expect(kind);
    }
}

#[test]
fn revoking_a_grant_ends_the_connections_that_it_allowed_and_no_others() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let _sinks = sinks(&stage);
    let (mut puppet, ids) = connected(&stage);
    let report = ask(&stage, &["revoke", &ids[0]]).expect("revoke");
    at_once(&report);
    assert_eq!(report["connections"], 2, "{report}");
    assert_ne!(puppet.errno("t4.recv(1)").expect("answer"), 0);
    assert_ne!(puppet.errno("u4.send(b'x')").expect("answer"), 0);
    assert_ne!(
        puppet.errno("tcp('203.0.113.31', 7000)").expect("answer"),
        0
    );
    // The other grant holds.
    puppet.value("t6.send(b'x')").expect("goes on");
    puppet.value("u6.send(b'x')").expect("goes on");
}

#[test]
fn revoking_all_of_an_agent_ends_every_flow_at_once() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let _sinks = sinks(&stage);
    let (mut puppet, _) = connected(&stage);
    let report = ask(&stage, &["revoke", "--agent", AGENT]).expect("revoke");
    at_once(&report);
    assert_eq!(report["connections"], 4, "{report}");
    assert_eq!(report["isolated"], false);
    told(&mut puppet);
    all_dead(&mut puppet);
    assert!(grants(&stage).is_empty());
    // Its policy is in force: it may reach what that says.
    let code = stage.curl_as(AGENT, "https://allowed.example/");
    assert_eq!(code.expect("curl"), Some(0));
}

#[test]
fn an_isolated_agent_reaches_nothing_and_runs_on_whatever_becomes_of_the_daemon() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let _sinks = sinks(&stage);
    let (mut puppet, _) = connected(&stage);
    let report = ask(&stage, &["isolate", "--agent", AGENT]).expect("isolate");
    at_once(&report);
    assert_eq!(report["connections"], 4, "{report}");
    told(&mut puppet);
    all_dead(&mut puppet);
    let reaches = |stage: &Stage| {
        let code = stage.curl_as(AGENT, "https://allowed.example/");
        code.expect("curl") == Some(0)
    };
    assert!(!reaches(&stage));
    assert_eq!(status(&stage)["isolated"], true);
    let packets = stage.forbidden(|p| {
        p.is_to(FAR.parse().expect("address")) || p.is_to(FAR6.parse().expect("address"))
    });
    let packets = packets.expect("packets");
    assert!(packets.is_empty(), "{packets:?}");

    stage.daemon.kill9().expect("kill -9");
    all_dead(&mut puppet);
    stage.daemon.restart().expect("restart");
    assert_eq!(status(&stage)["isolated"], true);
    assert!(status(&stage)["frozen"].is_null(), "it is not stopped");
    all_dead(&mut puppet);
    stage.daemon.reload().expect("reload");
    assert!(!reaches(&stage));
    // Frozen and thawed meanwhile, it is cut off still.
    ask(&stage, &["freeze", "--agent", AGENT]).expect("freeze");
    ask(&stage, &["thaw", "--agent", AGENT]).expect("thaw");
    assert!(!reaches(&stage));

    ask(&stage, &["isolate", "--agent", AGENT, "--off"]).expect("rejoin");
    assert_eq!(status(&stage)["isolated"], false);
    assert!(reaches(&stage));
    // The grants of before hold again.
    puppet
        .value(&format!("tcp({FAR:?}, 7000).send(b'x')"))
        .expect("connect");
}

#[test]
fn grants_end_on_time_and_take_their_connections_along() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let _sink = stage.world.tcp_sink(&format!("{FAR}:7000")).expect("sink");
    grant(&stage, &["--address", FAR, "--for", "3s"]).expect("grant");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .value(&format!("t = tcp({FAR:?}, 7000); t.sendall(b'a')\n1"))
        .expect("connection");
    // It waits for what never comes, and is told at the end of the grant.
    let errno = puppet.errno("PATIENCE = 30; t.settimeout(30); t.recv(1)");
    assert_eq!(errno.expect("answer"), libc::ECONNABORTED);
    assert_ne!(
        puppet
            .errno(&format!("tcp({FAR:?}, 7000)"))
            .expect("answer"),
        0
    );
    assert!(grants(&stage).is_empty());
    stage
        .daemon
        .event(|event| {
            event["kind"] == "grant_ended" && event["facts"]["because"] == "its time is over"
        })
        .expect("it is told");
}

#[test]
fn grants_survive_a_restart_and_a_kill_at_any_moment() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let _sink = stage.world.tcp_sink(&format!("{FAR}:7000")).expect("sink");
    let mut kept = vec![grant(&stage, &["--address", FAR, "--always"]).expect("grant")];
    for round in 0..3u64 {
        // Grants are given while the daemon is killed: what was said to hold does.
        let command = |n: u64| {
            let address = format!("198.51.100.{n}");
            let args = [
                "grant",
                "--agent",
                AGENT,
                "--always",
                "--output",
                "json",
                "--address",
            ];
            stage.daemon.cli(&[&args[..], &[address.as_str()]].concat())
        };
        let mut commands: Vec<_> = (1..8).map(|n| command(round * 20 + n)).collect();
        let giver = std::thread::spawn(move || {
            let mut given = Vec::new();
            for command in &mut commands {
                match command.output().map_err(Into::into).and_then(json) {
                    Ok(grant) => given.push(grant["id"].as_str().expect("id").to_owned()),
                    Err(_) => break,
                }
            }
            given
        });
        std::thread::sleep(Duration::from_millis(60 + round * 57));
        stage.daemon.kill9().expect("kill -9");
        kept.extend(giver.join().expect("giver"));
        stage.daemon.restart().expect("restart");
        let all = grants(&stage);
        for id in &kept {
            assert!(
                all.iter().any(|g| g["id"] == id.as_str()),
                "{id} is lost: {all:?}"
            );
        }
    }
    println!("{} grants survived", kept.len());
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    let connect = format!("tcp({FAR:?}, 7000).send(b'x')");
    puppet.value(&connect).expect("it is in force");
    // A reload keeps them, and an agent that leaves the policy takes them along.
    stage.daemon.reload().expect("reload");
    puppet.value(&connect).expect("it is in force");
    stage
        .daemon
        .enforce("version: 1\nagents: { another: {} }\n")
        .expect("policy");
    assert!(grants(&stage).is_empty());
}

#[test]
fn grants_that_cannot_be_read_do_not_hold_and_are_told_of() {
    use std::os::unix::fs::PermissionsExt;
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let _sink = stage.world.tcp_sink(&format!("{FAR}:7000")).expect("sink");
    grant(&stage, &["--address", FAR, "--always"]).expect("grant");
    let file = stage.daemon.state_dir().join("grants.json");
    let mode = std::fs::metadata(&file).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for root alone");
    stage.daemon.stop().expect("stop");
    let text = std::fs::read_to_string(&file).expect("file");
    std::fs::write(&file, &text[..text.len() / 2]).expect("write");
    stage.daemon.restart().expect("restart");
    assert!(grants(&stage).is_empty());
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    assert_ne!(
        puppet
            .errno(&format!("tcp({FAR:?}, 7000)"))
            .expect("answer"),
        0
    );
    let health = || stage.daemon.status().expect("status")["health"].to_string();
    assert!(
        health().contains("grants of before cannot be read"),
        "{}",
        health()
    );
    grant(&stage, &["--address", FAR, "--always"]).expect("grant");
    assert!(!health().contains("grants of before"), "{}", health());
    assert!(
        stage
            .daemon
            .state_dir()
            .join("grants.json.unreadable")
            .exists()
    );
}

#[test]
fn what_the_policy_denies_cannot_be_granted() {
    let policy = "version: 1\nagents:\n  worker:\n    deny:\n      - { host: '*.evil.example', reason: never }\n      - { cidr: 203.0.113.0/24 }\n      - { cidr: '2001:db8::/32' }\n";
    let stage = Stage::new(policy, "").expect("stage");
    let attempt = |args: &[&str]| {
        let args = [&["grant", "--agent", AGENT, "--always"], args].concat();
        stage.daemon.cli(&args).output().expect("grant")
    };
    for args in [
        ["--host", "a.evil.example"],
        ["--below", "evil.example"],
        ["--address", FAR],
    ] {
        let said = refused(attempt(&args), 5);
        assert!(
            said.contains("deny any") && said.contains("test.yaml:"),
            "{said}"
        );
    }
    for args in [["--address", "169.254.169.254"], ["--address", "127.0.0.1"]] {
        assert!(
            refused(attempt(&args), 5).contains("only the policy"),
            "{args:?}"
        );
    }
    for domain in ["com", "co.uk", "github.io"] {
        assert!(
            refused(attempt(&["--below", domain]), 1).contains("anybody"),
            "{domain}"
        );
    }
    for nonsense in [
        ["--host", "*.example.com"],
        ["--host", "x y"],
        ["--below", "*"],
    ] {
        assert!(!attempt(&nonsense).status.success(), "{nonsense:?}");
    }
    // A name whose addresses are denied may be granted, and is refused all the same.
    assert!(attempt(&["--host", OTHER]).status.success());
    assert_ne!(
        stage
            .curl_as(AGENT, &format!("https://{OTHER}/"))
            .expect("curl"),
        Some(0)
    );
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    assert_ne!(
        puppet
            .errno(&format!("tcp({OTHER_V4:?}, 443)"))
            .expect("answer"),
        0
    );
    // What a person denied is denied too, until that is taken back.
    let denied = grant(&stage, &["--host", "x.example", "--deny", "--always"]).expect("denied");
    let said = refused(attempt(&["--host", "x.example"]), 5);
    assert!(said.contains(&format!("exeat revoke {denied}")), "{said}");
    ask(&stage, &["revoke", &denied]).expect("revoke");
    assert!(attempt(&["--host", "x.example"]).status.success());
}

#[test]
fn a_denial_wins_over_what_the_policy_allows() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let reaches = || {
        let code = stage.curl_as(AGENT, "https://allowed.example/");
        code.expect("curl") == Some(0)
    };
    assert!(reaches());
    let id = grant(
        &stage,
        &["--host", "allowed.example", "--deny", "--for", "1h"],
    )
    .expect("deny");
    assert!(!reaches());
    ask(&stage, &["revoke", &id]).expect("revoke");
    wait::until("it to be reached again", wait::patience(), || {
        reaches().then_some(())
    })
    .expect("reached");
}

#[test]
fn users_who_do_not_administer_and_governed_processes_are_refused() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let id = grant(&stage, &["--address", FAR, "--always"]).expect("grant");
    let attempts: [&[&str]; 6] = [
        &["grant", "--agent", AGENT, "--address", FAR6, "--always"],
        &["revoke", "--agent", AGENT],
        &["isolate", "--agent", AGENT],
        &["isolate", "--agent", AGENT, "--off"],
        &["revoke", &id],
        &["ask", "allow", "k3x9pm"],
    ];
    for attempt in attempts {
        let output = stage
            .daemon
            .cli_as(PLAIN_USER, attempt)
            .output()
            .expect("exeat");
        let code = output.status.code();
        refused(output, if attempt.contains(&"--agent") { 5 } else { 1 });
        println!("{attempt:?}: {code:?}");
    }
    let theirs = stage
        .daemon
        .cli_as(PLAIN_USER, &["grants", "--output", "json"]);
    let theirs = json({ theirs }.output().expect("grants")).expect("grants");
    assert_eq!(theirs, Value::Array(Vec::new()), "others' are not shown");

    // The agent, also as root.
    let (exeat, config) = (program(), stage.daemon.config());
    let (exeat, config) = (exeat.to_string_lossy(), config.to_string_lossy());
    for uid in [0, PLAIN_USER] {
        for attempt in attempts
            .iter()
            .chain([&["ask"][..], &["grants"][..]].iter())
        {
            let argv = [&[&*exeat, "--config", &*config][..], attempt].concat();
            let output = stage.daemon.run_as(AGENT, uid, &argv).expect("run");
            let said = refused(output, 5);
            assert!(
                said.contains("governed") || said.contains("agent"),
                "{said}"
            );
        }
    }
    assert_eq!(grants(&stage).len(), 1);
    assert_eq!(status(&stage)["isolated"], false);
}

#[test]
fn grants_are_policy_lines_that_pass_the_check() {
    let stage = Stage::new(POLICY, "").expect("stage");
    grant(
        &stage,
        &["--host", "a.example.com", "--port", "443", "--for", "1h"],
    )
    .expect("grant");
    grant(
        &stage,
        &[
            "--below",
            "example.org",
            "--always",
            "--why",
            "it's \"fine\": #1",
        ],
    )
    .expect("grant");
    grant(&stage, &["--address", FAR6, "--port", "5432", "--always"]).expect("grant");
    grant(&stage, &["--host", "no.example.com", "--deny", "--always"]).expect("grant");
    let output = stage
        .daemon
        .cli(&["grants", "--as-policy"])
        .output()
        .expect("grants");
    let file = stage.world.folder().join("review.yaml");
    std::fs::write(&file, &output.stdout).expect("write");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let check = stage
        .daemon
        .cli(&["check", &file.to_string_lossy()])
        .output()
        .expect("check");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success(), "{text}{said}");
    let yaml = stage
        .daemon
        .cli(&["grants", "--output", "yaml"])
        .output()
        .expect("grants");
    assert!(yaml.status.success());
}

#[test]
fn an_adopted_cgroup_is_isolated_with_what_it_had_open_before() {
    let guard = CgroupGuard::new("exeat-ask").expect("cgroup");
    let folder = guard.path().join("agent");
    let name = guard
        .path()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let policy = format!(
        "version: 1\nagents:\n  worker:\n    match:\n      - {{ cgroup: \"{name}/agent\" }}\n    allow:\n      - {{ cidr: {FAR}, ports: [7000] }}\n"
    );
    let stage = Stage::new(&policy, "").expect("stage");
    let _sinks = sinks(&stage);
    let argv = puppet::arguments();
    let mut command = stage.world.laptop.command_as(PLAIN_USER, &argv[0]);
    command.args(&argv[1..]);
    let mut puppet = Puppet::start(command).expect("puppet");
    puppet
        .value(&format!("t = tcp({FAR:?}, 7000); t.sendall(b'a')\n1"))
        .expect("connection");
    std::fs::create_dir(&folder).expect("cgroup");
    wait::until("it to be adopted", wait::patience(), || {
        let adopted = status(&stage)["adopted"].clone();
        adopted
            .as_array()
            .is_some_and(|all| !all.is_empty())
            .then_some(())
    })
    .expect("adopted");
    // Moved in after the sockets from before were judged: nothing has looked at this one.
    cgroup::add(&folder, puppet.pid()).expect("move");
    puppet
        .value(&format!("n = tcp({FAR:?}, 7000); n.sendall(b'a')\n1"))
        .expect("connection");
    let report = ask(&stage, &["isolate", "--agent", AGENT]).expect("isolate");
    at_once(&report);
    assert_eq!(report["connections"], 2, "{report}");
    for dead in ["t.recv(1)", "n.recv(1)"] {
        assert_eq!(
            puppet.errno(dead).expect(dead),
            libc::ECONNABORTED,
            "{dead}"
        );
    }
    assert_ne!(
        puppet
            .errno(&format!("tcp({FAR:?}, 7000)"))
            .expect("answer"),
        0
    );
}
