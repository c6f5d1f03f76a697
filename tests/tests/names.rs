//! Names of the policy as an agent meets them: wildcards, names that move, other types, and
//! addresses that a name may not stand for.

use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, OTHER, Stage};
use exeat_tests::wait;
use exeat_tests::world::NAME_SERVER;
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue,
};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::json;

const WILD: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: '*.wild.example', ports: [80] }
      - { host: alias.example, ports: [80] }
      - { host: text.example, ports: [80], types: [TXT] }
      - { host: service.example, ports: [443] }
      - { host: public.example, ports: [80] }
      - { host: intranet.example, ports: [80], private: true }
    deny:
      - { host: no.wild.example }
";

/// What a client of the standard library's resolver does not do: any type, over either
/// transport, and the answer as it came.
const ASK: &str = "
def ask(name, kind, tcp_too=False):
    q = question(name, kind)
    if tcp_too:
        s = tcp('203.0.113.53', 53)
        s.sendall(struct.pack('>H', len(q)) + q)
        (length,) = struct.unpack('>H', take(s, 2))
        return take(s, length)
    s = udp('203.0.113.53', 53)
    s.send(q)
    return s.recv(4096)

def code(name, kind, tcp_too=False):
    return ask(name, kind, tcp_too)[3] & 15

def resolved(name):
    return sorted({r[4][0] for r in getaddrinfo(name, 80, type=SOCK_STREAM)})
";

const NOERROR: i64 = 0;
const NXDOMAIN: i64 = 3;
const REFUSED: i64 = 5;

fn puppet(stage: &Stage) -> Puppet {
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet.ask(ASK).expect("functions");
    puppet
}

fn number(kind: RecordType) -> u16 {
    kind.into()
}

#[test]
fn a_wildcard_is_any_depth_below_and_not_the_apex() {
    let stage = Stage::new(WILD, "").expect("stage");
    // It is denied, and so are its addresses: it must not come to stand for this one.
    stage.dns.set("no.wild.example", &["203.0.113.32"], 60);
    stage.dns.set("*.wild.example", &["203.0.113.30"], 60);
    stage.dns.set("wild.example", &["203.0.113.31"], 60);
    stage.dns.set("notwild.example", &["203.0.113.31"], 60);
    let _host = stage.world.http("203.0.113.30:80").expect("host");
    let mut agent = puppet(&stage);
    for name in ["a.wild.example", "b.a.wild.example", "A.Wild.Example"] {
        let found = agent.value(&format!("resolved({name:?})")).expect(name);
        assert_eq!(found, json!(["203.0.113.30"]), "{name}");
        // The first packet to a fresh address is not lost.
        let connected = format!("tcp(resolved({name:?})[0], 80).getpeername()[1]");
        assert_eq!(agent.value(&connected).expect(name), 80);
    }
    for name in [
        "wild.example",
        "notwild.example",
        "no.wild.example",
        "example",
    ] {
        let got = agent.value(&format!("code({name:?}, 1)")).expect(name);
        assert_eq!(got, REFUSED, "{name}");
        // The daemon asks for the addresses of a name that is denied, to deny them too, and
        // never for this type.
        let kind = RecordType::HTTPS;
        let got = agent.value(&format!("code({name:?}, {})", number(kind)));
        assert_eq!(got.expect(name), REFUSED, "{name}");
        assert_eq!(stage.dns.asked_for(name, kind), 0, "{name} went upstream");
    }
    for name in ["wild.example", "notwild.example", "example"] {
        assert_eq!(stage.dns.asked(name), 0, "{name} went upstream");
    }
    assert_eq!(
        agent.errno("tcp('203.0.113.31', 80)").expect("ask"),
        libc::EPERM,
        "an address that was never leased"
    );
}

#[test]
fn an_alias_is_followed_and_only_its_own_addresses_are_leased() {
    let stage = Stage::new(WILD, "").expect("stage");
    stage.dns.alias("alias.example", "edge.cdn.example", 60);
    stage.dns.set("edge.cdn.example", &["203.0.113.40"], 60);
    let _host = stage.world.http("203.0.113.40:80").expect("host");
    let mut agent = puppet(&stage);
    let found = agent.value("resolved('alias.example')").expect("alias");
    assert_eq!(found, json!(["203.0.113.40"]));
    agent
        .value("tcp('203.0.113.40', 80).close()")
        .expect("connect");
    // What it is an alias of is a name outside the policy.
    let got = agent.value("code('edge.cdn.example', 1)").expect("ask");
    assert_eq!(got, REFUSED);
    let event = stage
        .daemon
        .event(|e| e["dns"]["name"] == "alias.example" && e["dns"]["qtype"] == "A")
        .expect("event");
    let dns = &event["dns"];
    assert_eq!(dns["chain"], json!(["edge.cdn.example"]), "{event}");
    assert_eq!(dns["addresses"], json!(["203.0.113.40"]), "{event}");
    assert_eq!(dns["rcode"], "noerror", "{event}");
    assert_eq!(event["verdict"], "allow", "{event}");
    let server = dns["upstream"].as_str().expect("upstream");
    assert!(server.contains(NAME_SERVER), "{event}");
}

#[test]
fn other_types_are_answered_where_a_rule_lists_them() {
    let stage = Stage::new(WILD, "").expect("stage");
    let txt = RData::TXT(TXT::new(vec!["some text".to_owned()]));
    for name in ["text.example", "alias.example"] {
        stage.dns.set(name, &["203.0.113.41"], 60);
        stage.dns.records(name, std::slice::from_ref(&txt), 60);
    }
    let mut agent = puppet(&stage);
    let kind = number(RecordType::TXT);
    let text = format!("b'some text' in ask('text.example', {kind})");
    assert_eq!(agent.value(&text).expect("ask"), true);
    for kind in [
        RecordType::TXT,
        RecordType::MX,
        RecordType::ANY,
        RecordType::AXFR,
    ] {
        let got = agent
            .value(&format!("code('alias.example', {})", number(kind)))
            .expect("ask");
        assert_eq!(got, REFUSED, "{kind}");
        assert_eq!(stage.dns.asked_for("alias.example", kind), 0, "{kind}");
    }
}

#[test]
fn service_bindings_lose_keys_and_addresses() {
    let stage = Stage::new(WILD, "").expect("stage");
    let ech = b"an ECH key that nobody may use".to_vec();
    let service = HTTPS(SVCB::new(
        1,
        Name::root(),
        vec![
            (
                SvcParamKey::Alpn,
                SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()])),
            ),
            (
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![A::new(198, 51, 100, 77)])),
            ),
            (
                SvcParamKey::EchConfigList,
                SvcParamValue::EchConfigList(EchConfigList(ech)),
            ),
            (
                SvcParamKey::Ipv6Hint,
                SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(
                    0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77,
                )])),
            ),
        ],
    ));
    stage.dns.set("service.example", &["203.0.113.42"], 60);
    stage
        .dns
        .records("service.example", &[RData::HTTPS(service)], 60);
    let mut agent = puppet(&stage);
    let kind = number(RecordType::HTTPS);
    for transport in ["False", "True"] {
        agent
            .ask(&format!("m = ask('service.example', {kind}, {transport})"))
            .expect("ask");
        assert_eq!(agent.value("m[3] & 15").expect("code"), NOERROR);
        assert_eq!(agent.value("b'h2' in m").expect("alpn"), true);
        for lost in [
            "b'ECH key'",
            "bytes([198, 51, 100, 77])",
            "inet_pton(AF_INET6, '2001:db8::77')",
        ] {
            assert_eq!(
                agent.value(&format!("{lost} in m")).expect("m"),
                false,
                "{lost}"
            );
        }
    }
    assert_eq!(
        agent.errno("tcp('198.51.100.77', 443)").expect("ask"),
        libc::EPERM
    );
}

#[test]
fn a_public_name_has_no_private_address() {
    let stage = Stage::new(WILD, "").expect("stage");
    let private = ["10.1.2.3", "192.168.7.7", "fd00::7", "100.64.0.9"];
    let never = [
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.251",
        "::1",
        "fe80::1",
    ];
    let all: Vec<&str> = private.iter().chain(&never).copied().collect();
    let with_public: Vec<&str> = all.iter().chain(&["203.0.113.43"]).copied().collect();
    stage.dns.set("public.example", &with_public, 60);
    stage.dns.set("intranet.example", &all, 60);
    let mut agent = puppet(&stage);
    let found = agent.value("resolved('public.example')").expect("resolved");
    assert_eq!(found, json!(["203.0.113.43"]));
    let mut found: Vec<String> = ["1", "28"]
        .iter()
        .flat_map(|kind| {
            let code = format!("answers(ask('intranet.example', {kind}))[1]");
            let value = agent.value(&code).expect("ask");
            let list = value.as_array().expect("a list").clone();
            list.into_iter()
                .map(|one| one.as_str().expect("text").to_owned())
        })
        .collect();
    found.sort();
    let mut expected = private.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);
    let event = stage
        .daemon
        .event(|e| e["dns"]["name"] == "public.example" && e["reason"] == "rebind")
        .expect("event");
    assert_eq!(event["agent"], AGENT, "{event}");
}

#[test]
fn a_policy_may_say_that_names_outside_do_not_exist() {
    let policy = "\
version: 1
agents:
  worker:
    dns: { refuse: nxdomain }
    allow:
      - { host: allowed.example, ports: [80] }
";
    let stage = Stage::new(policy, "").expect("stage");
    let mut agent = puppet(&stage);
    assert_eq!(
        agent.value("code('other.example', 1)").expect("ask"),
        NXDOMAIN
    );
    assert_eq!(
        agent.value("code('other.example', 16, True)").expect("ask"),
        NXDOMAIN
    );
    assert_eq!(
        agent.value("code('allowed.example', 1)").expect("ask"),
        NOERROR
    );
    assert_eq!(stage.dns.asked(OTHER), 0);
}

/// Every type, both transports, many in flight on one stream: none of a name outside reaches
/// the upstream.
#[test]
fn ten_thousand_questions_for_names_outside_stay_here() {
    let stage = Stage::new(WILD, "").expect("stage");
    let mut agent = puppet(&stage);
    let flood = "
import select
def flood(count, tcp_too):
    refused = 0
    s = tcp('203.0.113.53', 53) if tcp_too else udp('203.0.113.53', 53)
    for start in range(0, count, 50):
        out = b''
        for n in range(start, start + 50):
            kind = 1 + n % 300 if n % 7 else (255, 251, 252, 65535, 41, 249)[n // 7 % 6]
            q = question('x%d.outside.example' % n, kind, n & 0xffff)
            if tcp_too:
                out += struct.pack('>H', len(q)) + q
            else:
                s.send(q)
        if tcp_too:
            s.sendall(out)
        for _ in range(50):
            m = take(s, struct.unpack('>H', take(s, 2))[0]) if tcp_too else s.recv(4096)
            refused += m[3] & 15 == 5
    return refused
";
    agent.ask(flood).expect("function");
    for transport in ["False", "True"] {
        let refused = agent
            .value(&format!("flood(5000, {transport})"))
            .expect("flood");
        assert_eq!(refused, 5000, "{transport}");
    }
    let names = stage.dns.names();
    let leaked: Vec<_> = names.iter().filter(|n| n.contains("outside")).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(
        stage
            .sniffer
            .count(|p| p.contains(b"\x07outside\x07example")),
        0
    );
}

/// A CDN that hands out 8 of 200 addresses, others each second: whatever is looked up can be
/// connected to, and nothing else of the 200.
#[test]
fn names_that_move_are_never_refused() {
    const ROUNDS: usize = 10_000;
    // No deny rule: the addresses of a denied name are denied to all who share them.
    let policy = "\
version: 1
agents:
  worker:
    allow:
      - { host: '*.wild.example', ports: [8080] }
";
    let stage = Stage::new(policy, "").expect("stage");
    let addresses: Vec<String> = (50..250).map(|n| format!("198.51.100.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    stage.dns.set("*.wild.example", &addresses, 1);
    stage.dns.show(Some(8));
    let _hosts = stage.world.http("0.0.0.0:8080").expect("hosts");
    let mut agent = puppet(&stage);
    let rounds = "
import random
seen = set()
def rounds(count):
    refused = 0
    for n in range(count):
        found = resolved('n%d.wild.example' % (n % 40))
        seen.update(found)
        s = socket()
        s.settimeout(PATIENCE)
        s.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack('ii', 1, 0))
        try:
            s.connect((random.choice(found), 8080))
        except PermissionError:
            refused += 1
        s.close()
    return refused
";
    agent.ask(rounds).expect("functions");
    let mut refused = 0;
    for _ in 0..ROUNDS / 500 {
        let part = agent.value("rounds(500)").expect("rounds");
        refused += part.as_u64().expect("a number");
    }
    let denied = || {
        let events = stage.daemon.events().expect("events");
        let denied = events.into_iter().rfind(|e| e["verdict"] == "deny");
        denied.unwrap_or_default()
    };
    assert_eq!(refused, 0, "{}", denied());
    let seen = agent.value("sorted(seen)").expect("seen");
    let seen: Vec<String> = serde_json::from_value(seen).expect("addresses");
    assert!(seen.len() > 8, "{}", seen.len());
    let never = addresses.iter().find(|one| !seen.iter().any(|s| s == *one));
    if let Some(never) = never {
        let errno = agent.errno(&format!("tcp({never:?}, 8080)")).expect("ask");
        assert_eq!(errno, libc::EPERM, "{never} was never leased");
    }
}

/// A burst of names, as a package manager asks for its mirrors: their addresses fit from the
/// start, as those of listed names do.
#[test]
fn a_wildcard_has_room_for_all_that_it_leads_to() {
    let policy = "\
version: 1
agents:
  worker:
    dns: { budget: { names: 1000, bytes: 100000, entropy_bits: 100000 } }
    allow:
      - { host: '*.wild.example', ports: [8080] }
";
    let stage = Stage::new(policy, "").expect("stage");
    for name in 0..200 {
        let addresses: Vec<String> = (0..20).map(|n| format!("9.9.{name}.{n}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let name = format!("n{name}.wild.example");
        stage.dns.set(&name, &addresses, 60);
    }
    let mut agent = puppet(&stage);
    let given = agent
        .value("sum(len(answers(ask('n%d.wild.example' % n, 1))[1]) for n in range(200))")
        .expect("given");
    assert_eq!(given, 4000);
}

#[test]
fn a_wildcard_is_no_tunnel() {
    let policy = "\
version: 1
agents:
  worker:
    dns: { budget: { names: 20 } }
    allow:
      - { host: '*.wild.example', ports: [80] }
";
    let stage = Stage::new(policy, "").expect("stage");
    stage.dns.set("*.wild.example", &["203.0.113.30"], 60);
    let mut agent = puppet(&stage);
    let codes = agent
        .value("[code('d%d.wild.example' % n, 1) for n in range(30)]")
        .expect("ask");
    let codes: Vec<i64> = serde_json::from_value(codes).expect("codes");
    assert_eq!(codes, [vec![NOERROR; 20], vec![REFUSED; 10]].concat());
    let asked = stage
        .dns
        .names()
        .iter()
        .filter(|n| n.starts_with('d'))
        .count();
    assert_eq!(asked, 20);
    // What was asked within the budget goes on.
    assert_eq!(
        agent.value("code('d3.wild.example', 1)").expect("ask"),
        NOERROR
    );
    let event = stage
        .daemon
        .event(|e| e["reason"] == "budget")
        .expect("event");
    assert_eq!(event["agent"], AGENT, "{event}");
}

#[test]
fn an_upstream_that_fails_is_an_error_at_once_and_not_a_silence() {
    let stage = Stage::new(WILD, "  timeout_ms: 200\n  attempts: 1\n").expect("stage");
    stage.dns.silent(true);
    let mut agent = puppet(&stage);
    let got = agent.value("code('a.wild.example', 1)").expect("ask");
    assert_eq!(got, 2, "SERVFAIL");
    stage.dns.silent(false);
    stage.dns.set("a.wild.example", &["203.0.113.30"], 60);
    wait::until("the name to resolve again", wait::patience(), || {
        let found = agent.value("code('a.wild.example', 1)").ok()?;
        (found == NOERROR).then_some(())
    })
    .expect("recovery");
}

/// Other ways to a resolver than port 53: neighbours, and servers that speak in secret.
#[test]
fn no_other_resolver_is_asked() {
    let stage = Stage::new(WILD, "").expect("stage");
    let mut agent = puppet(&stage);
    agent
        .ask(
            "
def tell(kind, host, port):
    family = AF_INET6 if ':' in host else AF_INET
    s = socket(family, kind)
    s.settimeout(PATIENCE)
    s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
    to = getaddrinfo(host, port, type=kind)[0][4]
    if family == AF_INET6:
        to = to[:3] + (if_nametoindex('eth0') if host.startswith('ff') else 0,)
    if kind == SOCK_STREAM:
        s.connect(to)
        s.send(question('secret.example'))
    else:
        s.sendto(question('secret.example'), to)
    return 'told'
",
        )
        .expect("function");
    let neighbours = [
        ("mDNS", "224.0.0.251", 5353),
        ("mDNS", "ff02::fb", 5353),
        ("LLMNR", "224.0.0.252", 5355),
        ("LLMNR", "ff02::1:3", 5355),
        ("NetBIOS", "255.255.255.255", 137),
    ];
    let servers = ["203.0.113.77", "2001:db8::77"]
        .into_iter()
        .flat_map(|host| {
            [
                ("DNS over TLS or QUIC", host, 853),
                ("DNS over HTTPS or HTTP/3", host, 443),
                ("DNS over QUIC, once", host, 784),
                ("DNSCrypt", host, 5443),
            ]
        });
    for (what, host, port) in neighbours.into_iter().chain(servers) {
        for kind in ["SOCK_DGRAM", "SOCK_STREAM"] {
            let answer = agent
                .ask(&format!("tell({kind}, {host:?}, {port})"))
                .expect(what);
            // TCP to a group or to everybody is no route (tcp_v4_connect, before the hook's
            // verdict on some kernels).
            let group = kind == "SOCK_STREAM" && neighbours.iter().any(|n| n.1 == host);
            let refused = match group {
                true => answer.errno() != 0,
                false => answer.errno() == libc::EPERM,
            };
            assert!(refused, "{what} at {host}:{port} {kind}: {answer:?}");
        }
    }
    let out = stage.forbidden(|_| false).expect("settle");
    assert!(out.is_empty(), "{out:?}");
}
