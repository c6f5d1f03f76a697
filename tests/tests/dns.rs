//! The steering of port 53: whoever an agent asks, its own gate answers, and only the
//! names of its policy.

use exeat_tests::puppet::{Answer, Puppet};
use exeat_tests::stage::{AGENT, ALLOWED, ALLOWED_V4, OTHER, POLICY, Stage};
use exeat_tests::world::NAME_SERVER;
use exeat_tests::{unique, wait};
use serde_json::{Value, json};

/// Two agents; the first may use all of loopback, so that only the gates' own walls stand
/// between it and the gates.
const TWO_AGENTS: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [80] }
      - { cidr: 127.0.0.0/8, ports: all }
      - { cidr: 127.0.0.0/8, protocol: udp, ports: all }
      - { cidr: '::1', ports: all }
      - { cidr: '::1', protocol: udp, ports: all }
  second:
    allow:
      - { host: other.example, ports: [80] }
";

const REFUSED: i64 = 5;

/// A server that exists, one that does not, both families, and the mapped form.
const SERVERS: [&str; 4] = [
    NAME_SERVER,
    "198.51.100.99",
    "2001:db8::53",
    "::ffff:203.0.113.53",
];

const WAYS: [&str; 4] = ["dns_unconnected", "dns_connected", "dns_message", "dns_tcp"];

fn puppet(stage: &Stage) -> Puppet {
    stage.daemon.puppet(AGENT).expect("puppet")
}

/// Packets to port 53 that hold something that the daemon itself never sends.
fn strays(stage: &Stage, token: &str) -> usize {
    stage.world.settle(&stage.sniffer).expect("settle");
    let to_53 = |p: &exeat_tests::sniff::Packet| p.ports.is_some_and(|(_, to)| to == 53);
    let server = NAME_SERVER.parse().expect("address");
    stage.sniffer.count(|p| {
        (to_53(p) && !p.is_to(server))
            || p.contains(b"\x05other\x07example")
            || p.contains(token.as_bytes())
    })
}

#[test]
fn every_way_of_asking_is_answered_in_the_name_of_the_server_that_was_asked() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = puppet(&stage);
    for server in SERVERS {
        for way in WAYS {
            let mut ask = |name: &str| {
                agent
                    .value(&format!("{way}({server:?}, {name:?})"))
                    .unwrap_or_else(|e| panic!("{way} {server} {name}: {e:#}"))
            };
            let who = json!([server, 53]);
            assert_eq!(
                ask(ALLOWED),
                json!([who, 0, [ALLOWED_V4]]),
                "{way} {server}"
            );
            assert_eq!(ask(OTHER), json!([who, REFUSED, []]), "{way} {server}");
        }
    }
    assert_eq!(stage.dns.asked(OTHER), 0);
    let names = stage.dns.names();
    assert_eq!(names, [ALLOWED], "the stub resolver was asked {names:?}");
    assert_eq!(strays(&stage, "unused token"), 0);
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}

#[test]
fn a_name_that_is_refused_is_an_event_and_a_count() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = puppet(&stage);
    for way in ["dns_connected", "dns_tcp"] {
        agent
            .value(&format!("{way}({NAME_SERVER:?}, 'secret.{way}.example')"))
            .expect("answer");
        let event = stage
            .daemon
            .event(|e| e["dns"]["name"] == format!("secret.{way}.example"))
            .expect("event");
        assert_eq!(event["reason"], "name", "{event}");
        assert_eq!(event["hook"], "dns", "{event}");
        assert_eq!(event["agent"], AGENT, "{event}");
        assert_eq!(event["dns"]["qtype"], "A", "{event}");
        let protocol = if way == "dns_tcp" { "tcp" } else { "udp" };
        assert_eq!(event["protocol"], protocol, "{event}");
    }
    let refused = stage.daemon.metric(
        "exeat_dns_queries_total",
        &["agent=\"worker\"", "verdict=\"deny\"", "rcode=\"refused\""],
    );
    assert_eq!(refused.expect("metrics"), 2.0);
}

#[test]
fn the_resolvers_of_programs_work() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = puppet(&stage);
    let glibc = "sorted({r[4][0] for r in getaddrinfo('allowed.example', 80, type=SOCK_STREAM)})";
    assert_eq!(
        agent.value(glibc).expect("getaddrinfo"),
        json!([ALLOWED_V4])
    );
    let error = agent
        .ask("getaddrinfo('other.example', 80)")
        .expect_err("a refused name resolves");
    assert!(error.to_string().contains("gaierror"), "{error:#}");

    let run = |words: &[&str]| {
        let output = stage
            .daemon
            .run_as(AGENT, exeat_tests::attack::PLAIN_USER, words)
            .expect("run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let timeout = format!("+timeout={}", wait::seconds(5));
    for server in ["@203.0.113.53", "@2001:db8::53"] {
        for transport in ["+notcp", "+tcp"] {
            let said = run(&["dig", server, ALLOWED, transport, "+tries=1", &timeout]);
            assert!(
                said.contains("status: NOERROR"),
                "{server} {transport}: {said}"
            );
            assert!(said.contains(ALLOWED_V4), "{server} {transport}: {said}");
            // dig checks that the answer comes from where it asked.
            let from = format!("SERVER: {}#53", &server[1..]);
            assert!(said.contains(&from), "{server} {transport}: {said}");
            let said = run(&["dig", server, OTHER, transport, "+tries=1", &timeout]);
            assert!(
                said.contains("status: REFUSED"),
                "{server} {transport}: {said}"
            );
        }
    }
    assert_eq!(stage.dns.asked(OTHER), 0);
}

#[test]
fn bytes_to_port_53_that_are_no_question_never_leave() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = puppet(&stage);
    let token = unique::token();
    for server in SERVERS {
        for code in [
            format!("udp({server:?}).sendto({token:?}.encode(), ({server:?}, 53))"),
            format!("udp({server:?}, 53).send({token:?}.encode())"),
            format!("s = tcp({server:?}, 53); s.sendall({token:?}.encode() * 1000)"),
            // Data in the SYN.
            format!(
                "s = socket(AF_INET6 if ':' in {server:?} else AF_INET, SOCK_STREAM)\n\
                 s.sendto({token:?}.encode(), 0x20000000, ({server:?}, 53))"
            ),
        ] {
            // Whether the gate takes it or hangs up is its own affair.
            agent.ask(&code).unwrap_or_else(|e| panic!("{code}: {e:#}"));
        }
    }
    assert_eq!(strays(&stage, &token), 0);
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}

/// Index and ports of an agent's gate, as the daemon keeps them for its restart.
fn gate(stage: &Stage, agent: &str) -> (String, u64, u64) {
    let text =
        std::fs::read_to_string(stage.daemon.runtime_dir().join("state.json")).expect("state");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    let agent = &state["agents"][agent];
    let number = |key: &str| {
        agent[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} in {text}"))
    };
    (
        format!("127.64.0.{}", number("index") + 1),
        number("gate4"),
        number("gate6"),
    )
}

#[test]
fn the_gates_of_others_are_closed_even_where_loopback_is_allowed() {
    let stage = Stage::new(TWO_AGENTS, "").expect("stage");
    let mut agent = puppet(&stage);
    let (v4, port4, port6) = gate(&stage, "second");
    let (own, own4, own6) = gate(&stage, AGENT);
    let mapped = format!("::ffff:{v4}");
    for (case, addr, port) in [
        ("the other's gate", v4.as_str(), port4),
        ("the same, mapped", mapped.as_str(), port4),
        ("the other's address, its DNS port", v4.as_str(), 53),
        ("the other's gate at ::1", "::1", port6),
        ("an address of nobody", "127.64.77.1", 80),
        ("the last address", "127.64.255.255", port4),
        ("our own address, another port", own.as_str(), own4 ^ 1),
    ] {
        for code in [
            format!("tcp({addr:?}, {port})"),
            format!("udp({addr:?}, {port})"),
            format!("udp({addr:?}).sendto(b'x', ({addr:?}, {port}))"),
        ] {
            let errno = agent.errno(&code).expect("ask");
            assert_eq!(errno, libc::EPERM, "{case}: {code}");
        }
    }
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == v4.as_str() && e["dest"]["port"] == port4)
        .expect("event");
    assert_eq!(event["reason"], "gate");
    let (mine, six) = (
        format!("tcp({own:?}, {own4})"),
        format!("tcp('::1', {own6})"),
    );
    assert_eq!(agent.errno(&mine).expect("ask"), 0, "the agent's own gate");
    assert_eq!(
        agent.errno(&six).expect("ask"),
        0,
        "the agent's own gate at ::1"
    );
    // What the policy allows of loopback is open: only nobody listens there.
    for addr in ["127.0.0.1", "127.65.0.1", "::1"] {
        assert_eq!(
            agent.errno(&format!("tcp({addr:?}, 9)")).expect("ask"),
            libc::ECONNREFUSED,
            "{addr}"
        );
    }
    // Nor can an agent stand where a gate is.
    for code in [
        format!("udp('0.0.0.0').bind(('{v4}', 0))"),
        "udp('0.0.0.0').bind(('127.64.9.9', 5353))".to_owned(),
        "s = udp('::'); s.bind(('::ffff:127.64.9.9', 5353))".to_owned(),
    ] {
        assert_eq!(agent.errno(&code).expect("ask"), libc::EPERM, "{code}");
    }
}

#[test]
fn each_agent_is_answered_from_its_own_policy() {
    let stage = Stage::new(TWO_AGENTS, "").expect("stage");
    let mut first = puppet(&stage);
    let mut second = stage.daemon.puppet("second").expect("puppet");
    for way in WAYS {
        for server in ["203.0.113.53", "2001:db8::53"] {
            let codes = |puppet: &mut Puppet| {
                [ALLOWED, OTHER].map(|name| {
                    puppet
                        .value(&format!("{way}({server:?}, {name:?})"))
                        .expect("answer")[1]
                        .clone()
                })
            };
            assert_eq!(
                codes(&mut first),
                [0, REFUSED].map(Value::from),
                "{way} {server}"
            );
            assert_eq!(
                codes(&mut second),
                [REFUSED, 0].map(Value::from),
                "{way} {server}"
            );
        }
    }
}

#[test]
fn without_the_daemon_names_are_closed_and_after_a_restart_they_work_again() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = puppet(&stage);
    let token = unique::token();
    stage.daemon.kill9().expect("kill");
    let before = stage.dns.names();
    // Silence has to be waited for; the refused ways answer at once.
    agent.value("PATIENCE = 0.3").expect("ask");
    for way in WAYS {
        for server in ["203.0.113.53", "2001:db8::53"] {
            let code = format!("{way}({server:?}, 'x{token}.example')");
            match agent.ask(&code).expect("ask") {
                Answer::Errno(libc::ECONNREFUSED) => {}
                // An unconnected socket is not told that nobody listens.
                Answer::TimedOut if way != "dns_tcp" => {}
                other => panic!("{code}: {other:?}"),
            }
        }
    }
    assert_eq!(strays(&stage, &token), 0);
    assert_eq!(stage.dns.names(), before);

    stage.daemon.restart().expect("restart");
    agent.value("PATIENCE = USUAL").expect("ask");
    for way in WAYS {
        for server in ["203.0.113.53", "2001:db8::53"] {
            let answer = agent
                .value(&format!("{way}({server:?}, {ALLOWED:?})"))
                .expect("answer");
            assert_eq!(answer, json!([[server, 53], 0, [ALLOWED_V4]]), "{way}");
        }
    }
}

#[test]
fn a_monitored_agents_questions_go_where_they_went_before_and_are_told() {
    let stage = Stage::new(&POLICY.replace("enforce", "monitor"), "").expect("stage");
    let mut agent = puppet(&stage);
    let glibc = "sorted({r[4][0] for r in getaddrinfo('other.example', 80, AF_INET)})";
    assert_eq!(
        agent.value(glibc).expect("getaddrinfo"),
        json!(["203.0.113.20"])
    );
    assert!(stage.dns.asked(OTHER) > 0);
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == NAME_SERVER && e["dest"]["port"] == 53)
        .expect("event");
    assert_eq!(event["verdict"], "would_deny", "{event}");
}
