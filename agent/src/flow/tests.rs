use super::*;
use agent_common::FlowEvent;
use agent_common::event::{FLAG_MONITOR, FLAG_TASK, FLAG_USER};

pub(crate) fn event() -> FlowEvent {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"curl");
    FlowEvent {
        boot_ns: 5_000_000_000,
        cgroup: 77,
        socket_cookie: 8,
        netns_cookie: 1,
        suppressed: 0,
        sequence: 1,
        pid: 1235,
        tgid: 1234,
        uid: 1000,
        gid: 100,
        agent: 3,
        generation: 9,
        rule: agent_common::verdict::NO_RULE,
        cpu: 0,
        source_port: 5555,
        dest_port: 443,
        reason: Reason::NoRule.number(),
        hook: Hook::Connect4.number(),
        protocol: 6,
        flags: FLAG_TASK | FLAG_USER,
        detail: [0; 2],
        source: Addr::from_v4([10, 0, 0, 1]),
        dest: Addr::from_v4([203, 0, 113, 9]),
        comm,
    }
}

pub(crate) fn clock() -> BootClock {
    let wall = "2026-03-04T12:00:00Z".parse().expect("time");
    BootClock::new(4_000_000_000, wall)
}

pub(crate) fn known() -> Known {
    Known {
        agent: "build-bot".into(),
        paths: crate::process::Paths {
            exe: Some("/usr/bin/curl".into()),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// The record of an event without a name.
pub(crate) fn from_event(event: &FlowEvent, known: Known) -> FlowRecord {
    let said = NamedEvent {
        flow: *event,
        name: [0; agent_common::hello::NAME_BYTES],
    };
    FlowRecord::from_event(&said, &clock(), known)
}

pub(crate) fn record() -> FlowRecord {
    from_event(&event(), known())
}

#[test]
fn a_refused_connect_reads_as_one_line() {
    assert_eq!(
        record().line(&TimeZone::UTC),
        "12:00:01 build-bot  deny  tcp 10.0.0.1:5555 → 203.0.113.9:443  no_rule  \
         curl[1234] uid 1000 (/usr/bin/curl)"
    );
}

#[test]
fn rule_names_and_suppressed_are_shown() {
    let mut e = event();
    e.flags |= FLAG_MONITOR;
    e.reason = Reason::DenyRule.number();
    e.suppressed = 12;
    let mut k = known();
    k.names = vec!["api.example.com".into()];
    k.rule = Some(RuleText {
        number: 4,
        text: "deny cidr 203.0.113.0/24".into(),
        reason: Some("old data centre".into()),
    });
    let line = from_event(&e, k).line(&TimeZone::UTC);
    for part in [
        "would_deny",
        "203.0.113.9:443 (api.example.com)  deny_rule [deny cidr 203.0.113.0/24] \
         (old data centre)",
        "+12 more not shown",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_packet_without_a_task_has_no_process() {
    let mut e = event();
    e.flags = 0;
    let r = from_event(&e, known());
    assert_eq!((r.process.clone(), r.uid()), (None, None));
    assert!(!r.line(&TimeZone::UTC).contains("uid"));
}

#[test]
fn a_name_that_was_said_is_shown_and_cannot_write_to_the_terminal() {
    let mut name = [0; agent_common::hello::NAME_BYTES];
    name[..6].copy_from_slice(b"ev\x1b[\xffl");
    let mut flow = event();
    flow.reason = Reason::TlsName.number();
    let record = FlowRecord::from_event(&NamedEvent { flow, name }, &clock(), known());
    assert_eq!(record.server_name.as_deref(), Some("ev\\x1b[\\xffl"));
    let line = record.line(&TimeZone::UTC);
    assert!(
        line.contains(r"203.0.113.9:443 as ev\\x1b[\\xffl  tls_name"),
        "{line}"
    );
    assert_eq!(super::tests::record().server_name, None);
}

#[test]
fn sockets_options_binds_and_other_protocols_read_well() {
    let line = |change: fn(&mut FlowEvent)| {
        let mut e = event();
        change(&mut e);
        from_event(&e, known()).line(&TimeZone::UTC)
    };
    let socket = line(|e| {
        e.hook = Hook::SockCreate.number();
        e.protocol = 136;
        e.detail = [2, 2 | 136 << 8];
    });
    assert!(
        socket.contains("socket family 2 type 2 protocol 136"),
        "{socket}"
    );
    let option = line(|e| {
        e.hook = Hook::Setsockopt.number();
        e.detail = [41, 57];
    });
    assert!(option.contains("option level 41 name 57"), "{option}");
    let bind = line(|e| {
        e.hook = Hook::Bind4.number();
        e.dest_port = 8080;
    });
    assert!(bind.contains("tcp listen 203.0.113.9:8080"), "{bind}");
    let sctp = line(|e| {
        e.hook = Hook::Egress.number();
        e.protocol = 132;
    });
    assert!(sctp.contains("proto-132 10.0.0.1:5555 →"), "{sctp}");
    let ping = line(|e| {
        e.protocol = 58;
        (e.source_port, e.dest_port) = (0, 0);
    });
    assert!(ping.contains("icmp 10.0.0.1 → 203.0.113.9 "), "{ping}");
}

#[test]
fn a_question_at_the_gate_reads_as_one_line_too() {
    let mut flow = GateFlow {
        time: "2026-03-04T12:00:01Z".parse().expect("time"),
        agent: "build-bot".into(),
        question: DnsQuestion {
            name: "evil\u{1b}.example".into(),
            qtype: "TXT".into(),
            rcode: "refused".into(),
            ..DnsQuestion::default()
        },
        tcp: false,
        source: Some("[::ffff:127.0.0.1]:4000".parse().expect("address")),
        generation: 2,
        verdict: FlowVerdict::Deny,
        reason: Some(Reason::Name),
        suppressed: 0,
    };
    let record = FlowRecord::from_gate(flow.clone());
    assert_eq!(
        record.line(&TimeZone::UTC),
        "12:00:01 build-bot  deny  udp query evil\\u{1b}.example TXT → refused  name"
    );
    assert_eq!(
        record.source.map(|s| s.to_string()).as_deref(),
        Some("127.0.0.1:4000")
    );
    flow.verdict = FlowVerdict::Allow;
    flow.reason = None;
    flow.question = DnsQuestion {
        name: "api.example".into(),
        qtype: "A".into(),
        outcome: "answered".into(),
        rcode: "noerror".into(),
        addresses: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
        ttl: Some(30),
        left_out: vec!["10.0.0.1".into()],
        detail: Some("no \u{1b}room".into()),
        took_us: Some(120),
        ..DnsQuestion::default()
    };
    let record = FlowRecord::from_gate(flow);
    assert_eq!(
        record.line(&TimeZone::UTC),
        "12:00:01 build-bot  allow  udp query api.example A → 192.0.2.1, 192.0.2.2 without \
         10.0.0.1 (no \\u{1b}room)"
    );
    let json = serde_json::to_value(&record).expect("json");
    assert_eq!(json["verdict"], "allow");
    assert!(json.get("reason").is_none(), "{json}");
    assert_eq!(json["dns"]["took_us"], 120);
    assert_eq!(
        serde_json::from_value::<FlowRecord>(json).expect("back"),
        record
    );
}

#[test]
fn json_keeps_everything_and_uses_the_words() {
    let mut r = record();
    r.rule = Some(RuleText {
        number: 1,
        text: "x".into(),
        reason: None,
    });
    let json = serde_json::to_value(&r).expect("json");
    assert_eq!(json["time"], "2026-03-04T12:00:01Z");
    assert_eq!(json["reason"], "no_rule");
    assert_eq!(json["hook"], "connect4");
    assert_eq!(json["protocol"], "tcp");
    assert_eq!(json["verdict"], "deny");
    assert_eq!(json["dest"]["ip"], "203.0.113.9");
    let back: FlowRecord = serde_json::from_value(json.clone()).expect("back");
    assert_eq!(back, r);
    let mut bad = json;
    bad["reason"] = "because".into();
    assert!(serde_json::from_value::<FlowRecord>(bad).is_err());
}

#[test]
fn nothing_that_the_program_chose_can_drive_a_terminal() {
    let hostile = "a\x1b]0;x\x07\u{9b}2J\u{202e}\n\\u{1b}\u{2028}\u{7f}é";
    let shown = printable(hostile);
    assert!(!shown.chars().any(is_unsafe), "{shown}");
    assert_eq!(
        shown,
        "a\\u{1b}]0;x\\u{7}\\u{9b}2J\\u{202e}\\u{a}\\\\u{1b}\\u{2028}\\u{7f}é"
    );
    let mut e = event();
    e.comm = *b"\x1b[2J\nroot\r\xff\x9b\x00zzz";
    let mut k = known();
    k.agent = "a\u{202e}b".into();
    k.paths.exe = Some("/tmp/\x1b[31m".into());
    k.names = vec!["n\x07".into()];
    let line = from_event(&e, k).line(&TimeZone::UTC);
    assert!(!line.chars().any(is_unsafe), "{line}");
    assert!(!line.contains("zzz"), "after the NUL: {line}");
    assert!(matches!(printable("plain é"), Cow::Borrowed(_)));
}

#[test]
fn a_clock_beyond_reason_does_not_panic() {
    assert_eq!(clock().at(u64::MAX), clock().at(u64::MAX));
    assert!(clock().at(0) < clock().at(5_000_000_000));
}
