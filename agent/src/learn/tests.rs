//! What is learned is what was seen: no less, and nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use agent_common::protocol::ProtocolClass;
use agent_common::{Hook, Protocol, Reason};
use proptest::prelude::*;

use super::*;
use crate::cli::explain::{Flow, Target as Asked, explain};
use crate::flow::tests::record;
use crate::flow::{DnsQuestion, Endpoint, FlowRecord, FlowVerdict};
use crate::policy;

const NAMES: [&str; 8] = [
    "api.example.com",
    "a.b.example.com",
    "on",
    "null",
    "1e3.example",
    "xn--mnchen-3ya.example",
    "_svc._tcp.example.org",
    "pastebin.com",
];

fn seen(name: Option<&str>, ip: IpAddr, protocol: &str, port: u16) -> FlowRecord {
    let mut flow = record();
    flow.verdict = FlowVerdict::WouldDeny;
    flow.socket_cookie = 0;
    flow.dest = Some(Endpoint { ip, port });
    flow.names = name.map(str::to_owned).into_iter().collect();
    (flow.protocol, flow.protocol_number) = match protocol {
        "udp" => (ProtocolClass::Udp, 17),
        "icmp" => (ProtocolClass::Icmp, 1),
        _ => (ProtocolClass::Tcp, 6),
    };
    flow
}

fn question(name: &str, qtype: &str) -> FlowRecord {
    let mut flow = record();
    flow.hook = Hook::Dns;
    flow.reason = Some(Reason::Name);
    flow.dest = None;
    flow.process = None;
    flow.dns = Some(DnsQuestion {
        name: name.into(),
        qtype: qtype.into(),
        outcome: "refused".into(),
        ..DnsQuestion::default()
    });
    flow
}

fn learned(flows: &[FlowRecord]) -> (Lesson, Written) {
    let mut lesson = Lesson::default();
    flows.iter().for_each(|flow| lesson.flow(flow));
    let written = write(&lesson, &How::default());
    (lesson, written)
}

fn file(written: &Written) -> String {
    insert("", "a", &written.rules, &written.notes).expect("an empty file")
}

fn allows(text: &str, target: Asked, protocol: &str, port: u16) -> bool {
    let set = policy::parse("p.yaml", text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    set_allows(&set, target, protocol, port)
}

fn set_allows(set: &policy::PolicySet, target: Asked, protocol: &str, port: u16) -> bool {
    let flow = Flow {
        protocol: match protocol {
            "udp" => Protocol::UDP,
            "icmp" => Protocol::ICMP,
            _ => Protocol::TCP,
        },
        target,
        port,
    };
    let answer = explain(&set.agents["a"], &flow).expect("compiles");
    answer.verdict.is_allow()
}

/// Public, private, special, IPv6.
fn address(n: u8) -> IpAddr {
    match n % 5 {
        0 => Ipv4Addr::new(203, 0, 113, n).into(),
        1 => Ipv4Addr::new(10, 1, 2, n).into(),
        2 => Ipv4Addr::new(127, 0, 0, n).into(),
        3 => format!("2001:db8::{n:x}").parse().expect("address"),
        _ => Ipv4Addr::new(198, 51, 100, n).into(),
    }
}

const PORTS: [u16; 6] = [22, 80, 443, 4000, 8443, 65535];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn every_flow_that_was_seen_is_allowed_and_no_other(
        flows in proptest::collection::vec(
            (proptest::option::of(0..NAMES.len()), any::<u8>(), 0..3usize, 0..PORTS.len()), 1..20)
    ) {
        let protocols = ["tcp", "udp", "icmp"];
        let mut records = Vec::new();
        let mut wanted = BTreeSet::new();
        for (name, n, protocol, port) in flows {
            let protocol = protocols[protocol];
            let port = if protocol == "icmp" { 0 } else { PORTS[port] };
            // An address of this machine is its own, whatever name came with it.
            let ip = address(n);
            let name = name.map(|at| NAMES[at]).filter(|_| !ip.is_loopback());
            records.push(seen(name, ip, protocol, port));
            wanted.insert((name.map(str::to_owned).unwrap_or(ip.to_string()), protocol, port));
        }
        let (_, written) = learned(&records);
        let text = file(&written);
        let set = policy::parse("p.yaml", &text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        for target in NAMES.iter().map(|n| (*n).to_owned()).chain((0..=255).step_by(37).map(|n| address(n).to_string())) {
            let asked = || match target.parse::<IpAddr>() {
                Ok(ip) => Asked::Addr(ip),
                Err(_) => Asked::Host(target.parse().expect("a name")),
            };
            for protocol in protocols {
                let ports: &[u16] = if protocol == "icmp" { &[0] } else { &PORTS };
                for port in ports.iter().copied().chain((protocol != "icmp").then_some(444)) {
                    let want = wanted.contains(&(target.clone(), protocol, port));
                    prop_assert_eq!(
                        set_allows(&set, asked(), protocol, port), want,
                        "{} {} {}\n{}", protocol, target, port, text
                    );
                }
            }
        }
        for (target, protocol, port) in &wanted {
            let asked = match target.parse::<IpAddr>() {
                Ok(ip) => Asked::Addr(ip),
                Err(_) => Asked::Host(target.parse().expect("a name")),
            };
            prop_assert!(set_allows(&set, asked, protocol, *port), "{target} {protocol} {port}\n{text}");
        }
    }

    #[test]
    fn nothing_that_a_program_chose_becomes_policy(
        comm in ".{0,15}", exe in "(/.{0,30})?", name in ".{0,40}", said in ".{0,40}"
    ) {
        let mut flow = seen(Some(&name), address(5), "tcp", 443);
        flow.server_name = Some(said.clone());
        let process = flow.process.as_mut().expect("a process");
        process.comm = comm;
        process.exe = (!exe.is_empty()).then(|| exe.into());
        let mut by_name = flow.clone();
        by_name.reason = Some(Reason::TlsName);
        let (_, written) = learned(&[flow, by_name, question(&name, "A"), question("ok.example", &said)]);
        let text = file(&written);
        let set = policy::parse("p.yaml", &text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(set.agents.len(), 1);
        prop_assert!(set.agents.values().all(|policy| policy.rules.len() <= 2), "{}", text);
    }
}

#[test]
fn rules_read_well() {
    let mut quic = seen(Some("api.example.com"), address(0), "udp", 443);
    quic.time = "2026-03-05T12:00:00Z".parse().expect("time");
    let (_, written) = learned(&[
        seen(Some("api.example.com"), address(0), "tcp", 443),
        seen(Some("api.example.com"), address(0), "tcp", 443),
        seen(Some("api.example.com"), address(0), "tcp", 8443),
        seen(Some("host.corp.example"), address(1), "tcp", 443),
        seen(None, address(4), "tcp", 443),
        quic,
    ]);
    let text = file(&written);
    let known = "version: 1
agents:
  a:
    allow:
      # /usr/bin/curl: 3 times, on 2026-03-04 12:00:01Z
      # LOOK: port 8443 is not 443, 80 or 53
      - host: api.example.com
        ports: [443, 8443]
        reason: learned on 2026-03-04
      # /usr/bin/curl: once, on 2026-03-05 12:00:00Z
      # LOOK: QUIC: names in it are not read, the address is enough
      - host: api.example.com
        protocol: udp
        ports: [443]
        quic: unchecked
        reason: learned on 2026-03-05
      # /usr/bin/curl: once, on 2026-03-04 12:00:01Z
      - host: host.corp.example
        ports: [443]
        private: true   # it stands for 10.1.2.1
        reason: learned on 2026-03-04
      # /usr/bin/curl: once, on 2026-03-04 12:00:01Z
      # LOOK: an address without a name
      - cidr: \"198.51.100.4\"
        ports: [443]
        reason: learned on 2026-03-04
";
    assert_eq!(text, known, "{text}");
    assert_eq!(written.flags.len(), 3, "{:?}", written.flags);
}

#[test]
fn an_answer_of_the_dns_names_an_address() {
    let mut lesson = Lesson::default();
    lesson.answer("old.example.com", &[address(0)]);
    lesson.answer("API.Example.com.", &[address(0)]);
    lesson.answer("evil.example", &["127.0.0.1".parse().expect("address")]);
    lesson.flow(&seen(None, address(0), "tcp", 443));
    lesson.flow(&seen(
        None,
        "127.0.0.1".parse().expect("address"),
        "tcp",
        5432,
    ));
    let text = file(&write(&lesson, &How::default()));
    assert!(text.contains("- host: api.example.com"), "{text}");
    assert!(
        text.contains("# the same address is also old.example.com"),
        "{text}"
    );
    assert!(
        text.contains("- cidr: \"127.0.0.1\""),
        "no name may stand for it: {text}"
    );
    assert!(!text.contains("evil"), "{text}");
}

#[test]
fn one_flow_is_told_twice_and_counted_once() {
    let mut flow = seen(None, address(0), "tcp", 443);
    flow.socket_cookie = 77;
    let mut packet = flow.clone();
    packet.hook = Hook::Egress;
    let (lesson, _) = learned(&[flow.clone(), packet, flow]);
    assert_eq!(
        lesson
            .wants
            .values()
            .map(|seen| seen.count)
            .collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn a_name_without_a_port_is_a_comment_until_a_person_says_one() {
    let flows = [
        question("files.example.com", "A"),
        question("files.example.com", "TXT"),
    ];
    let (lesson, written) = learned(&flows);
    assert_eq!(written.rules, Vec::<String>::new());
    let text = file(&written);
    assert!(text.contains("# - host: files.example.com"), "{text}");
    assert!(text.contains("# asked for TXT"), "{text}");
    let how = How {
        assumed_port: Some(443),
        known: None,
    };
    let assumed = file(&write(&lesson, &how));
    let target = || Asked::Host("files.example.com".parse().expect("name"));
    assert!(allows(&assumed, target(), "tcp", 443), "{assumed}");
    assert!(!allows(&assumed, target(), "tcp", 80), "{assumed}");
}

#[test]
fn what_deny_rules_walls_and_servers_of_the_dns_refuse_is_a_comment() {
    let mut denied = seen(None, address(0), "tcp", 443);
    denied.reason = Some(Reason::DenyRule);
    let mut wall = seen(None, address(0), "tcp", 443);
    (wall.hook, wall.reason) = (Hook::UnixConnect, Some(Reason::UnixSocket));
    let mut raw = seen(None, address(0), "tcp", 0);
    (raw.protocol, raw.protocol_number) = (ProtocolClass::Other, 132);
    let multicast = seen(None, "224.0.0.251".parse().expect("address"), "udp", 5353);
    let mut kept = seen(None, address(0), "udp", 53);
    kept.suppressed = 9;
    let (_, written) = learned(&[denied, wall, raw, multicast, kept]);
    assert_eq!(written.rules, Vec::<String>::new());
    let text = file(&written);
    for part in [
        "deny_rule",
        "unix_connect: unix_socket",
        "IP protocol 132",
        "multicast",
        "DNS server 203.0.113.0",
        "9 records were kept back",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    policy::parse("p.yaml", &text).expect("a policy");
}

#[test]
fn many_names_of_a_domain_are_no_wildcard() {
    let flows: Vec<_> = (0..7)
        .map(|n| seen(Some(&format!("n{n}.example.com")), address(0), "tcp", 443))
        .collect();
    let (_, written) = learned(&flows);
    assert_eq!(written.rules.len(), 7);
    let text = file(&written);
    assert!(
        text.contains("7 names below example.com were seen"),
        "{text}"
    );
    let other = Asked::Host("other.example.com".parse().expect("name"));
    assert!(!allows(&text, other, "tcp", 443), "{text}");
}

#[test]
fn memory_is_bounded_and_says_so() {
    let mut lesson = Lesson::default();
    for n in 0..20_000u32 {
        let ip = IpAddr::from(Ipv4Addr::from(0xcb00_0000 + n));
        lesson.flow(&seen(None, ip, "tcp", 443));
        lesson.flow(&question(&format!("n{n}.example.com"), "A"));
    }
    assert!(lesson.wants.len() <= 4096 && lesson.asked.len() <= 4096);
    assert!(lesson.left_out > 30_000);
    let written = write(&lesson, &How::default());
    assert!(
        written
            .flags
            .iter()
            .any(|flag| flag.contains("beyond what is remembered"))
    );
}

#[test]
fn rules_go_behind_those_that_are_there() {
    let rules = vec!["- host: n.example.com\n  ports: [443]\n".to_owned()];
    for (name, before) in [
        (
            "rules",
            "version: 1\nagents:\n  a: # mine\n    mode: monitor\n    allow:\n      - host: x.example\n        ports: [443]   # why\n\n      # last\n    deny:\n      - cidr: 10.0.0.0/8\n  b:\n    allow: []\n",
        ),
        (
            "flush",
            "version: 1\nagents:\n  a:\n    allow:\n    - host: x.example\n      ports: [443]\n    dns:\n      refuse: refused\n",
        ),
        (
            "no rules",
            "version: 1\nagents:\n  a:\n    mode: monitor\n  b:\n",
        ),
        ("nothing", "version: 1\nagents:\n  a:\n"),
        (
            "nothing, then another",
            "version: 1\nagents:\n  a:\n  b:\n    mode: monitor\n",
        ),
        (
            "no agent",
            "version: 1\nagents:\n    b:\n        mode: monitor\ngroups:\n  g:\n    - host: y.example\n      ports: [1]\n",
        ),
        (
            "no agents",
            "version: 1\ngroups:\n  g:\n    - host: y.example\n      ports: [1]\n",
        ),
        (
            "quoted",
            "version: 1\nagents:\n  \"a\":\n    allow:\n      - host: x.example\n        ports: [443]\n",
        ),
    ] {
        let old = policy::parse("p.yaml", before).expect(name);
        let after = insert(before, "a", &rules, &["# note\n".to_owned()]).expect(name);
        let new =
            policy::parse("p.yaml", &after).unwrap_or_else(|e| panic!("{name}: {e}\n{after}"));
        let count = |set: &policy::PolicySet| set.agents.get("a").map_or(0, |a| a.rules.len());
        assert_eq!(count(&new), count(&old) + 1, "{name}: {after}");
        assert_eq!(
            old.agents.get("b"),
            new.agents.get("b").filter(|_| old.agents.contains_key("b")),
            "{name}"
        );
        for line in before.lines() {
            assert!(after.contains(line), "{name}: {line} is gone from\n{after}");
        }
        assert!(after.contains("# note"), "{after}");
    }
    for flow in [
        "version: 1\nagents: {a: {mode: monitor}}\n",
        "version: 1\nagents:\n  a: {mode: monitor}\n",
        "version: 1\nagents:\n  a:\n    allow: [{host: x.example, ports: [443]}]\n",
    ] {
        let error = insert(flow, "a", &rules, &[]).expect_err(flow);
        assert!(error.to_string().contains("by hand"), "{error}");
    }
}
