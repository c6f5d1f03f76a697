//! What a new policy does to connections that are open.

use exeat_tests::puppet::{self, Puppet};
use exeat_tests::stage::{AGENT, ALLOWED_V4, Stage};
use exeat_tests::world::World;
use exeat_tests::{unique, wait};

const KEPT: &str = "203.0.113.31";
const REMOVED: &str = "203.0.113.30";
const REMOVED6: &str = "2001:db8::30";

fn policy(allow: &[&str], deny: &[&str]) -> String {
    let mut text = "version: 1\nagents:\n  worker:\n".to_owned();
    for (key, nets) in [("allow", allow), ("deny", deny)] {
        if nets.is_empty() {
            continue;
        }
        text += &format!("    {key}:\n");
        for net in nets {
            for protocol in ["tcp", "udp"] {
                text +=
                    &format!("      - {{ cidr: '{net}', protocol: {protocol}, ports: [7000] }}\n");
            }
        }
    }
    text
}

fn stage(policy: &str) -> (Stage, Puppet) {
    let stage = Stage::new(policy, "").expect("stage");
    let agent = stage.daemon.puppet(AGENT).expect("puppet");
    (stage, agent)
}

/// Every way of sending that an open socket has; `{}` stands for the payload.
const SENDS: [(&str, &str); 4] = [
    ("t4", "t4.sendall(b'{}')"),
    ("t6", "t6.sendall(b'{}')"),
    ("u4", "u4.send(b'{}')"),
    ("u6", "u6.send(b'{}')"),
];

#[test]
fn open_sockets_whose_destination_left_the_policy_stop_at_their_next_packet() {
    let (stage, mut agent) = stage(&policy(&[REMOVED, REMOVED6, KEPT], &[]));
    let world = &stage.world;
    let tcp = [
        world.tcp_sink(&format!("{REMOVED}:7000")).expect("sink"),
        world.tcp_sink(&format!("[{REMOVED6}]:7000")).expect("sink"),
    ];
    let udp = [
        world.udp_sink(&format!("{REMOVED}:7000")).expect("sink"),
        world.udp_sink(&format!("[{REMOVED6}]:7000")).expect("sink"),
    ];
    let holds = |token: &str| {
        tcp.iter().filter(|sink| sink.holds(token)).count()
            + udp.iter().filter(|sink| sink.holds(token)).count()
    };
    let open = format!(
        "t4 = tcp({REMOVED:?}, 7000); t6 = tcp({REMOVED6:?}, 7000)\n\
         u4 = udp({REMOVED:?}, 7000); u6 = udp({REMOVED6:?}, 7000)"
    );
    agent.value(&open).expect("open");
    let before = unique::token();
    for (name, send) in SENDS {
        agent
            .value(&send.replace("{}", &before))
            .unwrap_or_else(|e| panic!("{name}: {e:#}"));
    }
    wait::until("the first bytes at every sink", wait::patience(), || {
        (holds(&before) == 4).then_some(())
    })
    .expect("sinks");

    stage
        .daemon
        .enforce(&policy(&[KEPT], &[]))
        .expect("enforce");
    let after = unique::token();
    for _ in 0..5 {
        for (name, send) in SENDS {
            let errno = agent.errno(&send.replace("{}", &after)).expect("ask");
            // A stream takes bytes that its packets may not carry; a datagram says so.
            let expected = if name.starts_with('u') {
                libc::EPERM
            } else {
                0
            };
            assert_eq!(errno, expected, "{name}");
        }
    }
    for address in [REMOVED, REMOVED6] {
        for protocol in ["tcp", "udp"] {
            let event = stage
                .daemon
                .event(|e| e["dest"]["ip"] == address && e["protocol"] == protocol)
                .expect("event");
            assert_eq!(event["hook"], "egress", "{event}");
            assert_eq!(event["reason"], "no_rule", "{event}");
        }
    }
    stage.world.settle(&stage.sniffer).expect("settle");
    let leaked = stage.sniffer.count(|p| p.contains(after.as_bytes()));
    assert_eq!(leaked, 0, "packets on the wire");
    assert_eq!(holds(&after), 0, "bytes at a sink");
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}

/// Answers every byte at `host` with the same.
fn echo(world: &World, host: &str) -> Puppet {
    let argv = puppet::arguments();
    let mut command = world.internet.command(&argv[0]);
    command.args(&argv[1..]);
    let mut puppet = Puppet::start(command).expect("puppet");
    let code = format!(
        "l = listener({host:?}, 7000); l.settimeout(None)\n\
         d = udp(); d.bind(({host:?}, 7000)); d.settimeout(None)\n\
         def serve(s):\n\
         \x20   while True:\n\
         \x20       m = s.recv(100)\n\
         \x20       if not m: return\n\
         \x20       s.sendall(m)\n\
         def streams():\n\
         \x20   while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()\n\
         def datagrams():\n\
         \x20   while True: d.sendto(*d.recvfrom(100))\n\
         for f in streams, datagrams: threading.Thread(target=f, daemon=True).start()"
    );
    puppet.value(&code).expect("echo");
    puppet
}

/// Two threads that send a number and wait for it to come back, without pause.
const PING_PONG: &str = "
rounds, errors, stop = {}, [], False
def pingpong(name, s):
    while not stop:
        m = struct.pack('>Q', rounds.setdefault(name, 0))
        try:
            s.send(m)
            if take(s, 8) != m: raise ValueError('another answer')
        except BaseException as e:
            errors.append('%s: %r after %d' % (name, e, rounds[name]))
            return
        rounds[name] += 1
threads = [threading.Thread(target=pingpong, args=(n, f(HOST, 7000)), daemon=True) for n, f in (('tcp', tcp), ('udp', udp))]
for t in threads: t.start()
";

/// Waits until TCP and UDP have both made a round from now on.
fn another_round(agent: &mut Puppet, turn: u32) {
    let old = agent.value("dict(rounds)").expect("rounds");
    wait::until("another round of both", wait::patience(), || {
        let new = agent.value("dict(rounds)").ok()?;
        let more = |way: &str| new[way].as_u64() > old[way].as_u64();
        (more("tcp") && more("udp")).then_some(())
    })
    .unwrap_or_else(|e| panic!("turn {turn}: {e:#}: {:?}", agent.value("errors")));
}

#[test]
fn connections_to_a_leased_name_go_on_through_kills_and_restarts() {
    let text = "version: 1\nagents:\n  worker:\n    allow:\n\
        \x20     - { host: allowed.example, ports: [7000] }\n\
        \x20     - { host: allowed.example, protocol: udp, ports: [7000] }\n";
    let (mut stage, mut agent) = stage(text);
    let _echo = echo(&stage.world, ALLOWED_V4);
    agent
        .value(&format!(
            "HOST = gethostbyname('allowed.example')\n{PING_PONG}"
        ))
        .expect("start");
    for turn in 0..6 {
        stage.daemon.kill9().expect("kill");
        another_round(&mut agent, turn);
        stage.daemon.restart().expect("restart");
        another_round(&mut agent, turn);
        if turn % 2 == 0 {
            stage.daemon.restart().expect("stop and start");
            another_round(&mut agent, turn);
        }
    }
    assert_eq!(
        agent.value("errors").expect("errors"),
        serde_json::json!([])
    );
}

#[test]
fn a_hangup_signal_is_a_reload() {
    let (stage, mut agent) = stage(&policy(&[KEPT], &[]));
    let connect = format!("tcp({KEPT:?}, 7000)");
    assert_eq!(agent.errno(&connect).expect("ask"), libc::ECONNREFUSED);
    stage
        .daemon
        .write_policy(&policy(&[REMOVED], &[]))
        .expect("write");
    let daemon = nix::unistd::Pid::from_raw(stage.daemon.pid().expect("pid") as i32);
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGHUP).expect("signal");
    wait::until("the new policy", wait::patience(), || {
        (agent.errno(&connect).ok()? == libc::EPERM).then_some(())
    })
    .expect("in force");
    // A policy with an error changes nothing, and status says so.
    stage.daemon.write_policy("version: 2\n").expect("write");
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGHUP).expect("signal");
    let error = wait::until("the error in status", wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        status["policy"]["last_error"].as_str().map(str::to_owned)
    });
    assert!(error.expect("error").contains("test.yaml"));
    assert_eq!(agent.errno(&connect).expect("ask"), libc::EPERM);
    let other = format!("tcp({REMOVED:?}, 7000)");
    assert_eq!(agent.errno(&other).expect("ask"), libc::ECONNREFUSED);
}

#[test]
fn a_connection_that_stays_allowed_goes_on_through_twenty_reloads() {
    let (stage, mut agent) = stage(&policy(&[KEPT, REMOVED], &[]));
    let _echo = echo(&stage.world, KEPT);
    agent
        .value(&format!("HOST = {KEPT:?}\n{PING_PONG}"))
        .expect("start");
    for turn in 0..20 {
        let text = if turn % 2 == 0 {
            policy(&[KEPT], &[REMOVED])
        } else {
            policy(&["203.0.113.0/24", KEPT], &[])
        };
        stage.daemon.enforce(&text).expect("enforce");
        another_round(&mut agent, turn);
    }
    assert_eq!(
        agent.value("errors").expect("errors"),
        serde_json::json!([])
    );
    let events = stage.daemon.events().expect("events");
    // Ends of flows are told too.
    let refused = |e: &&serde_json::Value| e["dest"]["ip"] == KEPT && e["verdict"] != "allow";
    assert!(!events.iter().any(|e| refused(&e)), "{events:?}");
}

#[test]
fn deny_beats_allow_whatever_the_prefix_lengths() {
    let (stage, mut agent) = stage("version: 1\nagents:\n  worker: {}\n");
    let host = |action: &str| {
        format!(
            "    {action}:\n      - {{ host: allowed.example, protocol: tcp, ports: [7000] }}\n"
        )
    };
    let names = "version: 1\nagents:\n  worker:\n";
    let net = |action: &str, net: &str| {
        format!("    {action}:\n      - {{ cidr: '{net}', protocol: tcp, ports: [7000] }}\n")
    };
    // 203.0.113.10 is the address of allowed.example.
    let (target, near) = ("203.0.113.10", "203.0.113.11");
    for (case, text, to_target, to_near) in [
        (
            "a narrow allow in a wide deny",
            policy(&["203.0.113.10/32"], &["203.0.113.0/24"]),
            libc::EPERM,
            libc::EPERM,
        ),
        (
            "a narrow deny in a wide allow",
            policy(&["0.0.0.0/0"], &["203.0.113.10"]),
            libc::EPERM,
            libc::ECONNREFUSED,
        ),
        (
            "the same network",
            policy(&["203.0.113.0/28"], &["203.0.113.0/28"]),
            libc::EPERM,
            libc::EPERM,
        ),
        (
            "an allowed name in a denied network",
            format!("{names}{}{}", host("allow"), net("deny", "203.0.113.0/24")),
            libc::EPERM,
            libc::EPERM,
        ),
        (
            "an allowed name in everything denied",
            format!("{names}{}{}", host("allow"), net("deny", "0.0.0.0/0")),
            libc::EPERM,
            libc::EPERM,
        ),
        (
            "a denied name in an allowed network",
            format!("{names}{}{}", net("allow", "203.0.113.0/24"), host("deny")),
            libc::EPERM,
            libc::ECONNREFUSED,
        ),
        (
            "an allowed name alone, so that the name is known to resolve",
            format!("{names}{}", host("allow")),
            libc::ECONNREFUSED,
            libc::EPERM,
        ),
    ] {
        stage.daemon.enforce(&text).expect("enforce");
        if text.contains("host:") {
            wait::until("the name's lease", wait::patience(), || {
                let status = stage.daemon.status().ok()?;
                (status["names"][0]["addresses"][0] == target).then_some(())
            })
            .expect("lease");
        }
        for (address, expected) in [(target, to_target), (near, to_near)] {
            for address in [address.to_owned(), format!("::ffff:{address}")] {
                let errno = agent
                    .errno(&format!("tcp({address:?}, 7000)"))
                    .expect("ask");
                assert_eq!(errno, expected, "{case}: {address}");
            }
        }
    }
}

#[test]
fn an_agent_that_left_the_policy_is_refused_everything_until_it_is_back() {
    let all = policy(&[REMOVED], &[]);
    let (stage, mut agent) = stage(&all);
    let sink = stage
        .world
        .tcp_sink(&format!("{REMOVED}:7000"))
        .expect("sink");
    let connect = format!("tcp({REMOVED:?}, 7000)");
    agent
        .value(&format!("s = {connect}; u = udp({REMOVED:?}, 7000)"))
        .expect("open");
    stage
        .daemon
        .enforce("version: 1\nagents:\n  another: {}\n")
        .expect("enforce");
    let token = unique::token();
    for (code, expected) in [
        (connect.clone(), libc::EPERM),
        ("tcp('127.0.0.1', 7000)".into(), libc::EPERM),
        ("socket(AF_INET, SOCK_DGRAM)".into(), libc::EPERM),
        ("socket(AF_INET6, SOCK_STREAM)".into(), libc::EPERM),
        (format!("u.send({token:?}.encode())"), libc::EPERM),
        (format!("s.sendall({token:?}.encode())"), 0),
    ] {
        assert_eq!(agent.errno(&code).expect("ask"), expected, "{code}");
    }
    let event = stage
        .daemon
        .event(|e| e["reason"] == "no_policy" && e["hook"] == "egress")
        .expect("event");
    assert_eq!(event["protocol"], "udp", "{event}");
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(stage.sniffer.count(|p| p.contains(token.as_bytes())), 0);
    assert!(!sink.holds(&token));
    // No new process of it starts either.
    let output = stage
        .daemon
        .run_as(AGENT, 0, &["/bin/echo", "ran"])
        .expect("run");
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());

    stage.daemon.enforce(&all).expect("enforce");
    agent.value(&connect).expect("allowed again");
}

#[test]
fn an_accepted_connection_stops_when_its_listen_rule_goes() {
    let listen = |cidr: &str| {
        format!(
            "version: 1\nagents:\n  worker:\n    listen:\n      - {{ cidr: {cidr}, ports: [8080] }}\n"
        )
    };
    let (stage, mut agent) = stage(&listen("203.0.113.0/24"));
    let argv = puppet::arguments();
    let mut command = stage.world.internet.command(&argv[0]);
    command.args(&argv[1..]);
    let mut peer = Puppet::start(command).expect("puppet");
    agent
        .value("l = listener('0.0.0.0', 8080)")
        .expect("listen");
    peer.value("c = tcp('10.99.0.2', 8080, ('203.0.113.30', 0))")
        .expect("connect");
    agent
        .value("s, _ = l.accept(); s.sendall(b'before')")
        .expect("accept");
    assert_eq!(peer.value("take(c, 6).decode()").expect("read"), "before");

    stage
        .daemon
        .enforce(&listen("203.0.113.32/28"))
        .expect("enforce");
    let token = unique::token();
    agent
        .value(&format!("s.sendall({token:?}.encode())"))
        .expect("a stream takes bytes that its packets may not carry");
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == "203.0.113.30" && e["hook"] == "egress")
        .expect("event");
    assert_eq!(event["reason"], "listen", "{event}");
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(stage.sniffer.count(|p| p.contains(token.as_bytes())), 0);

    // Back in the policy, the stream goes on where it stopped.
    stage
        .daemon
        .enforce(&listen("203.0.113.0/24"))
        .expect("enforce");
    let code = format!("take(c, {}).decode()", token.len());
    assert_eq!(peer.value(&code).expect("read"), token.as_str());
}

#[test]
fn a_reload_that_fails_half_way_leaves_no_descriptor_behind() {
    let good = policy(&[KEPT], &[]);
    let (stage, mut agent) = stage(&good);
    let descriptors = || {
        let folder = format!("/proc/{}/fd", stage.daemon.pid().expect("pid"));
        std::fs::read_dir(folder).expect("descriptors").count()
    };
    // Ten agents that are fine, and one after them whose rules do not fit the tables.
    let mut text = good.clone();
    for number in 0..10 {
        text += &format!("  a{number}: {{}}\n");
    }
    let ports: Vec<String> = (1..=65).map(|n| (n * 2).to_string()).collect();
    text += &format!(
        "  zzz:\n    allow:\n      - {{ cidr: 10.0.0.0/8, ports: [{}] }}\n",
        ports.join(", ")
    );
    stage.daemon.write_policy(&text).expect("write");
    let before = descriptors();
    for _ in 0..5 {
        let output = stage.daemon.reload().expect("reload");
        assert_eq!(output.status.code(), Some(2));
    }
    wait::until("every descriptor to be closed", wait::patience(), || {
        // The control connections of the reloads may still be closing.
        (descriptors() <= before).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}: {before} before, {} now", descriptors()));
    let errno = agent.errno(&format!("tcp({KEPT:?}, 7000)")).expect("ask");
    assert_eq!(errno, libc::ECONNREFUSED, "the old policy is in force");
    stage.daemon.enforce(&good).expect("enforce");
}

/// What a package installs has no policy: the daemon runs, governs nobody, and takes the first
/// policy by a reload. From then on a folder without a file is a mistake like any other.
#[test]
fn without_any_policy_the_daemon_runs_and_a_lost_one_stays_in_force() {
    let world = World::new().expect("world");
    let mut daemon = exeat_tests::daemon::Daemon::start(&world, "").expect("a daemon");
    let agents = |daemon: &exeat_tests::daemon::Daemon| {
        let status = daemon.status().expect("status");
        status["agents"].as_array().expect("agents").len()
    };
    let well = |daemon: &exeat_tests::daemon::Daemon| {
        let output = daemon.cli(&["status"]).output().expect("status");
        assert!(output.status.success(), "{output:?}");
    };
    well(&daemon);
    assert_eq!(agents(&daemon), 0);
    daemon.stop().expect("stop");
    daemon.restart().expect("again without a policy");
    well(&daemon);

    daemon.write_policy(&policy(&[KEPT], &[])).expect("write");
    assert!(daemon.reload().expect("reload").status.success());
    assert_eq!(agents(&daemon), 1);

    std::fs::remove_file(daemon.policy_file()).expect("remove");
    let refused = daemon.reload().expect("reload");
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(agents(&daemon), 1, "the agent is governed still");
    daemon.stop().expect("stop");
    daemon.restart().expect("restart");
    assert_eq!(agents(&daemon), 1, "and after a restart");
}
