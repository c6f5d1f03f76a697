//! What is never asked about, and what must never get out meanwhile.

use super::*;
use exeat_tests::attack::{Attack, Effect};
use exeat_tests::technique::{Technique, list};

#[test]
fn what_is_forbidden_or_not_of_the_internet_is_nobodys_question() {
    let stage = stage();
    stage.dns.set("forbidden.example", &["203.0.113.98"], 60);
    let mut agent = puppet(&stage);
    for host in [
        "203.0.113.99",
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "224.0.0.251",
        "::1",
        "fe80::1",
        "fd00::1",
        "127.64.0.9",
    ] {
        let got = agent.errno(&format!("tcp({host:?}, 4433)")).expect(host);
        assert!([libc::EPERM, libc::EINVAL].contains(&got), "{host}: {got}");
        let got = agent.errno(&format!("udp({host:?}, 4433)")).expect(host);
        assert!([libc::EPERM, libc::EINVAL].contains(&got), "{host}: {got}");
    }
    // Nor names: denied, of networks nearby, of no host, of types that no rule lists.
    for (name, kind) in [
        ("forbidden.example", 1),
        ("printer.local", 1),
        ("wpad", 1),
        ("1.113.0.203.in-addr.arpa", 12),
        ("other.example", 16),
        ("other.example", 255),
    ] {
        let step = format!(
            "s = udp('203.0.113.53', 53); s.send(question({name:?}, {kind})); s.recv(512)[3] & 15"
        );
        assert_eq!(agent.value(&step).expect(name), 5, "{name}");
    }
    let asked = questions(&stage);
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(left(&stage), [""; 0]);
}

#[test]
fn in_monitor_mode_nobody_is_asked() {
    let policy = policy("user").replace("    ask:", "    mode: monitor\n    ask:");
    let stage = Stage::new(&policy, "").expect("stage");
    let mut agent = puppet(&stage);
    assert_eq!(
        agent
            .errno(&format!("tcp({OTHER_V4:?}, 80).close()"))
            .expect("ask"),
        0
    );
    stage
        .daemon
        .event(|e| e["verdict"] == "would_deny")
        .expect("event");
    assert!(questions(&stage).is_empty());
}

/// All ways to open a TCP connection, and those with a socket that was made elsewhere.
fn ways() -> Vec<Technique> {
    let wanted = [
        "tcp",
        "uring-tcp",
        "fastopen",
        "prejoin-tcp",
        "scm-rights",
        "mptcp",
        "fork",
        "double-fork",
    ];
    let all = list().expect("list");
    let some: Vec<Technique> = all
        .into_iter()
        .filter(|t| wanted.iter().any(|start| t.name.starts_with(start)))
        .collect();
    assert!(some.len() > 10, "{}", some.len());
    some
}

#[test]
fn whatever_way_a_connection_is_opened_nothing_leaves_while_it_is_held() {
    // Nobody answers: what has no time-out of its own ends by the question's.
    let stage = Stage::new(&policy("{who: user, timeout: 5s}"), "").expect("stage");
    let free = |_: &exeat_tests::sniff::Packet| false;
    let socket = stage.daemon.control_socket().expect("socket");
    let attack = Attack {
        victim: stage.daemon.pid().expect("pid"),
        socket: &socket,
        folder: stage.daemon.bpffs(),
        ..Attack::typical(&stage.world, &stage.sniffer, &free)
    };
    let sinks = attack.sinks().expect("sinks");
    let reports = attack
        .run_all(&ways(), &stage.daemon.launcher(AGENT))
        .expect("attacks");
    let mut held = 0;
    for (name, report) in &reports {
        assert_ne!(report.effect, Effect::Out, "{name}: {}", report.said);
        // A socket that was made outside leaves by no hook that could hold it.
        if name.starts_with("prejoin") || name.starts_with("scm-rights") {
            let refused = Effect::Refused(libc::EPERM);
            assert_eq!(report.effect, refused, "{name}: {}", report.said);
        }
        held += usize::from(report.effect != Effect::Refused(libc::EPERM));
    }
    assert!(held > 3, "some are held: {reports:?}");
    assert_eq!(sinks.accepted(), 0);
    assert_eq!(left(&stage), [""; 0]);
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}
