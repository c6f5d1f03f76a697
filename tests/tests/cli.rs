//! The built binary as a user has it.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use exeat_tests::stage::{AGENT, ALLOWED_V4, OTHER_V4, POLICY, Stage};
use exeat_tests::wait;
use exeat_tests::world::open_to_all;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const SEVERAL_ERRORS: &str = "\
version: 1
agents:
  worker:
    mode: enforced
    allow:
      - host: not_a_host!
        ports: [443]
      - cidr: 10.0.0.1/8
        ports: [99999]
    alow: []
";

/// The binary without a daemon and without the machine's configuration.
struct Bench {
    folder: TempDir,
    config: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        open_to_all(folder.path()).expect("chmod");
        let config = folder.path().join("config.yaml");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "runtime_dir: {}\nstate_dir: {}\npolicy: [{}]\n",
            at("run"),
            at("state"),
            at("policy.yaml")
        );
        std::fs::write(&config, text).expect("write");
        open_to_all(&config).expect("chmod");
        Self { folder, config }
    }

    fn policy(&self, text: &str) -> String {
        let path = self.folder.path().join("policy.yaml");
        std::fs::write(&path, text).expect("write");
        path.display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(program())
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("run exeat")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn check_says_what_is_wrong_where_and_all_of_it() {
    let bench = Bench::new();
    let file = bench.policy(POLICY);
    let output = bench.run(&["check", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("worker"));
    let report = json(&bench.run(&["check", "--output", "json", &file]));
    assert_eq!(report["ok"], true);
    assert_eq!(report["agents"][0]["name"], "worker");

    bench.policy(SEVERAL_ERRORS);
    let output = bench.run(&["check", &file]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stdout) + &text(&output.stderr);
    for (line, words) in [
        (4, "enforced"),
        (6, "not_a_host!"),
        (8, "10.0.0.1/8"),
        (9, "99999"),
        (10, "alow"),
    ] {
        assert!(
            said.contains(&format!("policy.yaml:{line}:")),
            "line {line}: {said}"
        );
        assert!(said.contains(words), "{words}: {said}");
    }
    let output = bench.run(&["check", "--output", "json", &file]);
    assert_eq!(output.status.code(), Some(2));
    let report = json(&output);
    assert_eq!(report["ok"], false);
    let errors = report["errors"].as_array().expect("errors");
    let lines: Vec<u64> = errors.iter().filter_map(|e| e["line"].as_u64()).collect();
    for line in [4, 6, 8, 9, 10] {
        assert!(lines.contains(&line), "{lines:?}");
    }
    assert!(
        errors
            .iter()
            .all(|e| e["help"].as_str().is_some_and(|h| !h.is_empty()))
    );

    let missing = bench.run(&["check", "/nowhere/policy.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn explain_names_the_rule_that_decides() {
    let bench = Bench::new();
    let file = bench.policy(POLICY);
    let explain =
        |target: &str| bench.run(&["explain", "--policy", &file, "--agent", AGENT, target]);
    let output = explain("tcp://allowed.example:443");
    let said = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{said}{}",
        text(&output.stderr)
    );
    assert!(said.contains("the one that is allowed"), "{said}");
    for target in [
        "tcp://allowed.example:22",
        "tcp://other.example:443",
        "tcp://127.0.0.1:443",
    ] {
        let output = explain(target);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{target}: {}",
            text(&output.stdout)
        );
    }
    let output = explain("not a target");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn schema_completions_and_help_are_printed() {
    let bench = Bench::new();
    let schema = json(&bench.run(&["schema"]));
    assert!(schema["properties"]["agents"].is_object(), "{schema}");
    for (shell, word) in [
        ("bash", "complete"),
        ("zsh", "#compdef"),
        ("fish", "complete"),
    ] {
        let output = bench.run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(word), "{shell}");
        assert!(text(&output.stdout).contains("exeat"), "{shell}");
    }
    for arguments in [["--help"].as_slice(), &["run", "--help"], &["--version"]] {
        let output = bench.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    for arguments in [
        ["nonsense"].as_slice(),
        &["status", "--nonsense"],
        &["run"],
        &[],
    ] {
        assert_eq!(bench.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    // The completion is one that the shell itself takes.
    let script = bench.run(&["completions", "bash"]).stdout;
    let path = bench.folder.path().join("completion");
    std::fs::write(&path, script).expect("write");
    let checked = Command::new("bash")
        .arg("-n")
        .arg(&path)
        .output()
        .expect("bash");
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}

#[test]
fn without_a_daemon_the_commands_say_so() {
    let bench = Bench::new();
    bench.policy(POLICY);
    for command in ["status", "events", "leases", "reload"] {
        let output = bench.run(&[command]);
        assert_eq!(output.status.code(), Some(4), "{command}");
        let said = text(&output.stderr);
        assert!(
            said.contains("the daemon is not running"),
            "{command}: {said}"
        );
    }
    let output = bench.run(&["doctor", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let report = json(&output);
    assert_eq!(report["can_enforce"], true);
    assert_eq!(report["enforcing"], Value::Null);
    let findings = report["findings"].as_array().expect("findings");
    assert!(findings.len() > 10);
    assert!(
        findings
            .iter()
            .all(|f| f["feature"].is_string() && f["grade"].is_string())
    );
    let output = bench.run(&["doctor"]);
    assert!(text(&output.stdout).contains("This kernel can enforce"));
    assert!(text(&output.stdout).contains("What this version does not stop"));
}

#[test]
fn the_doctor_tries_the_sandbox_as_an_ordinary_user() {
    const PARTS: [&str; 6] = [
        "namespaces of an ordinary user's own",
        "a root and a /proc of the sandbox's own",
        "a network namespace of the sandbox's own",
        "Landlock",
        "no capabilities in the sandbox",
        "a filter of system calls",
    ];
    let bench = Bench::new();
    let grades = |output: &Output| {
        let report = json(output);
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        PARTS.map(|part| {
            let of_it = |finding: &&Value| {
                let feature = finding["feature"].as_str();
                feature.is_some_and(|feature| feature.starts_with(part))
            };
            findings.iter().find(of_it).cloned().unwrap_or_default()
        })
    };
    let here = grades(&bench.run(&["doctor", "--output", "json"]));
    for (part, finding) in PARTS.iter().zip(&here) {
        assert!(finding["grade"].is_string(), "{part}: {here:?}");
    }
    // A user namespace in which there may be no other stands for a machine without them.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let output = Command::new("/usr/bin/unshare")
        .args(["--user", "--map-current-user", "--keep-caps"])
        .args(["/bin/sh", "-c", script, "sh"])
        .arg(program())
        .arg("--config")
        .arg(&bench.config)
        .args(["doctor", "--output", "json"])
        .stdin(Stdio::null())
        .uid(PLAIN_USER)
        .gid(PLAIN_USER)
        .current_dir("/")
        .output()
        .expect("run exeat");
    let there = grades(&output);
    for (part, finding) in PARTS.iter().zip(&there) {
        assert_eq!(finding["grade"], "missing", "{part}: {there:?}");
    }
    let said = there[0].to_string();
    assert!(said.contains("user.max_user_namespaces"), "{said}");
    assert!(said.contains("starts nothing without"), "{said}");
}

#[test]
fn a_bad_configuration_names_its_line() {
    let bench = Bench::new();
    std::fs::write(&bench.config, "slice: exeat.slice\nmetrcs: off\n").expect("write");
    let output = bench.run(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("metrcs") && said.contains("config.yaml"),
        "{said}"
    );
    let output = bench.run(&["daemon"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_view_of_a_running_daemon_is_for_people_and_for_programs() {
    let stage = Stage::new(POLICY, "").expect("stage");
    stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    stage
        .daemon
        .event(|e| e["dest"]["ip"] == OTHER_V4)
        .expect("event");
    let cli = |arguments: &[&str]| stage.daemon.cli(arguments).output().expect("run");
    for (command, words) in [
        // With those of BPF LSM, where the kernel has them, there are more than 14.
        (
            "status",
            [AGENT, "walls: ", " up, ", " 0 failed", "enforce"].as_slice(),
        ),
        ("events", &[AGENT, OTHER_V4, "curl", "no_rule"]),
        ("leases", &[AGENT, "allowed.example", ALLOWED_V4]),
        ("reload", &["1 agent"]),
        ("doctor", &["The daemon enforces"]),
    ] {
        let output = cli(&[command]);
        let said = text(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command}: {}",
            text(&output.stderr)
        );
        for word in words {
            assert!(said.contains(word), "{command}: no {word:?} in {said}");
        }
        // Not at a terminal: no colours.
        assert!(!said.contains('\x1b'), "{command}: {said:?}");
        let output = cli(&[command, "--output", "json"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        for line in text(&output.stdout).lines().filter(|_| command == "events") {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        }
        if command != "events" {
            json(&output);
        }
    }
    let status = stage.daemon.status().expect("status");
    let walls = status["enforcement"]["walls"].as_array().expect("walls");
    for hook in [
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
        "sock_create",
        "egress",
    ] {
        let wall = walls.iter().find(|wall| wall["name"] == hook);
        assert_eq!(wall.expect("wall")["state"], "up", "{hook}");
    }
    let output = cli(&["leases", "--agent", "nobody-knows"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("nobody-knows"));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let stage = Stage::new(POLICY, "").expect("stage");
    stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    let exeat = program();
    let config = stage.daemon.config();
    for command in [
        "status",
        "events",
        "leases",
        "doctor",
        "schema",
        "completions zsh",
        "--help",
    ] {
        let line = format!(
            "set -o pipefail; {} --config {} {command} | true",
            exeat.display(),
            config.display()
        );
        let output = stage
            .world
            .laptop
            .command("bash")
            .args(["-c", &line])
            .output()
            .expect("bash");
        let said = text(&output.stderr);
        assert!(
            !said.contains("panicked") && said.is_empty(),
            "{command}: {said}"
        );
        let code = output.status.code();
        assert!([Some(0), Some(141)].contains(&code), "{command}: {code:?}");
    }
}

#[test]
fn a_follower_sees_what_happens_and_ends_with_its_reader() {
    use std::io::{BufRead, BufReader};
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut follower = stage
        .daemon
        .cli(&["events", "--follow", "--output", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("follow");
    let mut lines = BufReader::new(follower.stdout.take().expect("stdout")).lines();
    stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    let seen = lines.find_map(|line| {
        let event: Value = serde_json::from_str(&line.expect("line")).expect("JSON");
        (event["dest"]["ip"] == OTHER_V4).then_some(event)
    });
    assert_eq!(seen.expect("an event")["agent"], AGENT);
    drop(lines);
    // The next event meets a closed pipe.
    let ended = wait::until("the follower to end", wait::patience(), || {
        stage.curl_as(AGENT, "https://203.0.113.20/").ok()?;
        follower.try_wait().ok().flatten()
    });
    let _ = follower.kill();
    let _ = follower.wait();
    ended.expect("ended");
}

#[test]
fn an_ordinary_user_may_look_but_not_touch() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let cli = |arguments: &[&str]| {
        stage
            .daemon
            .cli_as(PLAIN_USER, arguments)
            .output()
            .expect("run")
    };
    for arguments in [["daemon"].as_slice(), &["reload"], &["teardown"]] {
        let output = cli(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {said}");
        assert!(
            said.contains("root") || said.contains("sudo"),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("panicked"));
    }
    assert_eq!(cli(&["status"]).status.code(), Some(0));
    assert!(!stage.daemon.links().expect("links").is_empty());
    assert_eq!(
        stage
            .curl_as(AGENT, "http://allowed.example/")
            .expect("run"),
        Some(0)
    );
}

#[test]
fn a_second_daemon_and_a_teardown_find_the_first() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let links = stage.daemon.links().expect("links");
    let pid = stage.daemon.pid().expect("pid");
    let second = stage.daemon.cli(&["daemon"]).output().expect("run");
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&pid.to_string()),
        "which one runs is not said: {said}"
    );
    for arguments in [
        ["teardown"].as_slice(),
        &["teardown", "--kill"],
        &["teardown", "--release"],
    ] {
        let output = stage.daemon.cli(arguments).output().expect("run");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the daemon is running"), "{said}");
    }
    assert_eq!(stage.daemon.links().expect("links"), links);
    assert!(stage.daemon.status().is_ok());
}

#[test]
fn teardown_does_not_free_what_runs_unless_told_to() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    stage.daemon.stop().expect("stop");
    let output = stage.daemon.cli(&["teardown"]).output().expect("run");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--kill") && said.contains("--release"),
        "{said}"
    );
    assert_eq!(
        agent.errno("tcp('203.0.113.20', 80)").expect("ask"),
        libc::EPERM,
        "still enforced"
    );
    let output = stage
        .daemon
        .cli(&["teardown", "--kill"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(agent.ask("1").is_err(), "it still runs");
    assert!(!stage.daemon.bpffs().exists());
    assert!(!stage.daemon.slice().expect("slice").exists());
}

#[test]
fn teardown_can_let_go() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    stage.daemon.stop().expect("stop");
    let output = stage
        .daemon
        .cli(&["teardown", "--release"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!stage.daemon.bpffs().exists());
    agent
        .value("tcp('203.0.113.20', 80)")
        .expect("it was told that it goes free");
}
