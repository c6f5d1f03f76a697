//! Ping: closed unless a rule speaks of it, and then open to the places of the rule only.

use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, Stage};

const WITH_RULES: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.10, protocol: icmp }
      - { cidr: '2001:db8::/64', protocol: icmp }
      - { host: other.example, protocol: icmp }
      - { cidr: 198.51.100.0/24, ports: all }
    deny:
      - { cidr: '2001:db8::66' }
";

const WITHOUT: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.10, ports: all }
      - { cidr: '2001:db8::/64', ports: all }
";

/// Defines `ping(host, connected, kind)`: the type of the answer.
const PING: &str = "
def ping(host, connected=False, kind=None):
    six = ':' in host
    s = socket(AF_INET6 if six else AF_INET, SOCK_DGRAM, IPPROTO_ICMPV6 if six else IPPROTO_ICMP)
    s.settimeout(PATIENCE)
    m = struct.pack('>BBHHH', kind or (128 if six else 8), 0, 0, 1, 1) + b'exeat-ping-payload'
    if connected:
        s.connect((host, 0))
        s.send(m)
    else:
        s.sendto(m, (host, 0))
    return s.recv(1000)[0]
";

fn scene(policy: &str) -> (Stage, Puppet) {
    let stage = Stage::new(policy, "").expect("stage");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    agent.value(PING).expect("define");
    (stage, agent)
}

fn pings(stage: &Stage) -> usize {
    stage.world.settle(&stage.sniffer).expect("settle");
    stage.sniffer.count(|p| p.contains(b"exeat-ping-payload"))
}

#[test]
fn without_a_rule_there_is_no_ping_socket() {
    let (stage, mut agent) = scene(WITHOUT);
    for host in ["203.0.113.10", "2001:db8::10"] {
        let errno = agent.errno(&format!("ping({host:?})")).expect("ask");
        assert_eq!(errno, libc::EPERM, "{host}");
    }
    let event = stage
        .daemon
        .event(|e| e["hook"] == "sock_create")
        .expect("event");
    assert_eq!(event["reason"], "socket_type");
    assert_eq!(event["protocol"], "icmp");
    assert_eq!(pings(&stage), 0);
}

#[test]
fn with_a_rule_ping_reaches_the_named_places_only() {
    let (stage, mut agent) = scene(WITH_RULES);
    for (host, answer) in [
        ("203.0.113.10", 0),
        ("203.0.113.20", 0),
        ("2001:db8::10", 129),
        ("2001:db8::20", 129),
    ] {
        for connected in ["False", "True"] {
            let code = format!("ping({host:?}, {connected})");
            let got = agent
                .value(&code)
                .unwrap_or_else(|e| panic!("{code}: {e:#}"));
            assert_eq!(got, answer, "{code}");
        }
    }
    let allowed = pings(&stage);
    assert_eq!(allowed, 8);
    agent.value("PATIENCE = 0.3").expect("ask");
    // Ping sockets meet the connect hooks where the kernel has this (0ffe2412531e, 6.1).
    let symbols = std::fs::read_to_string("/proc/kallsyms").expect("kallsyms");
    let meets_connect = symbols.contains("ping_v6_pre_connect");
    for host in [
        "203.0.113.11",
        // Allowed, but not for ICMP.
        "198.51.100.1",
        "2001:db8::66",
        "2001:db8:1::1",
        "127.0.0.1",
        "::1",
    ] {
        for connected in ["False", "True"] {
            let code = format!("ping({host:?}, {connected})");
            // A ping without a connect is judged as a packet, and the kernel does not tell
            // the sender what became of it for IPv6 (ping_v6_sendmsg).
            let judged = !host.contains(':') || connected == "True" && meets_connect;
            let expected = if judged { libc::EPERM } else { libc::ETIMEDOUT };
            assert_eq!(agent.errno(&code).expect("ask"), expected, "{code}");
        }
    }
    assert_eq!(pings(&stage), allowed, "a refused ping left the laptop");
    stage
        .daemon
        .event(|e| e["dest"]["ip"] == "203.0.113.11" && e["protocol"] == "icmp")
        .expect("event");
}

#[test]
fn a_ping_socket_is_for_ping_alone() {
    let (stage, mut agent) = scene(WITH_RULES);
    // The kernel itself lets ping sockets send echo requests only (ping_supported).
    for kind in [0, 3, 13, 42] {
        let code = format!("ping('203.0.113.10', False, {kind} or 255)");
        assert_ne!(agent.errno(&code).expect("ask"), 0, "type {kind}");
    }
    assert_eq!(pings(&stage), 0);
}
