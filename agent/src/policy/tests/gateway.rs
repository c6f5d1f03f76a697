//! What a policy says of plain HTTP, of the way out, and of the doors of the gateway.

use super::errors::{agent, one};
use super::verdicts::host;
use crate::policy::{Compiled, GatewayPolicy, Http, Policy, ProxyRule, Rule, Via, parse};
use agent_common::Addr;
use agent_common::verdict::Check;
use std::net::IpAddr;

fn policy(body: &str) -> Policy {
    let set = parse("p.yaml", &agent(body)).unwrap_or_else(|errors| panic!("{errors}"));
    set.agents["a"].clone()
}

fn allow(rule: &str) -> String {
    format!("    allow:\n    - {{{rule}}}\n")
}

fn rule(keys: &str) -> Rule {
    policy(&allow(keys)).rules[0].clone()
}

fn digest(body: &str) -> String {
    let set = parse("p.yaml", &agent(body)).unwrap_or_else(|errors| panic!("{errors}"));
    set.digest
}

#[test]
fn where_the_host_of_a_request_counts() {
    for (keys, http, text) in [
        (
            "host: a.example, ports: [80]",
            Http::Port80,
            "allow tcp a.example:80",
        ),
        (
            "host: a.example, ports: [443]",
            Http::Port80,
            "allow tcp a.example:443",
        ),
        (
            "host: a.example, ports: [8080], http: host",
            Http::Every,
            "allow tcp a.example:8080, http host",
        ),
        (
            "host: a.example, ports: all, tls: none, http: none",
            Http::None,
            "allow tcp a.example:all, tls none, http none",
        ),
        (
            "cidr: 10.0.0.1, ports: [80]",
            Http::None,
            "allow tcp 10.0.0.1:80",
        ),
        (
            "host: a.example, protocol: udp, ports: [80]",
            Http::None,
            "allow udp a.example:80",
        ),
    ] {
        let rule = rule(keys);
        assert_eq!(
            (rule.http, rule.to_string().as_str()),
            (http, text),
            "{keys}"
        );
    }
}

#[test]
fn the_way_out() {
    let none = ProxyRule {
        url: "https://proxy.corp:3128".to_owned(),
        ca: None,
        certificate: None,
        key: None,
        credentials: None,
    };
    let proxy = |rule: ProxyRule| Via::Proxy(rule.into());
    let full = ProxyRule {
        ca: Some("/e/ca.pem".into()),
        certificate: Some("/e/c.pem".into()),
        key: Some("/e/k.pem".into()),
        credentials: Some("/e/user".into()),
        ..none.clone()
    };
    for (keys, via, text) in [
        ("", Via::Direct, "allow tcp a.example:443"),
        (
            ", via: gateway",
            Via::Gateway,
            "allow tcp a.example:443, via gateway",
        ),
        (
            ", via: {proxy: \"https://Proxy.corp:3128/\"}",
            proxy(none),
            "allow tcp a.example:443, via https://proxy.corp:3128",
        ),
        (
            ", via: {proxy: \"https://proxy.corp:3128\", ca: /e/ca.pem, certificate: /e/c.pem, key: /e/k.pem, credentials: /e/user}",
            proxy(full),
            "allow tcp a.example:443, via https://proxy.corp:3128",
        ),
    ] {
        let rule = rule(&format!("host: a.example, ports: [443]{keys}"));
        assert_eq!(
            (&rule.via, rule.to_string().as_str()),
            (&via, text),
            "{keys}"
        );
    }
    let net = rule("cidr: 10.0.0.0/8, ports: [22], via: gateway");
    assert_eq!(net.to_string(), "allow tcp 10.0.0.0/8:22, via gateway");
}

#[test]
fn what_must_still_be_seen() {
    use Check::{Gateway, Name, None, OuterName, Relay};
    const PORTS: [u16; 5] = [22, 79, 80, 443, 444];
    for (keys, checks) in [
        ("", [None, None, Gateway, Name, None]),
        (", ech: keep", [None, None, Gateway, OuterName, None]),
        (", tls: sni", [Name, Name, Gateway, Name, Name]),
        (", tls: none", [None, None, Gateway, None, None]),
        (", http: none", [None, None, None, Name, None]),
        (", http: host", [Gateway; 5]),
        (", tls: none, http: none", [None; 5]),
        (", via: gateway", [Relay, Relay, Gateway, Gateway, Relay]),
        (
            ", via: gateway, ech: keep",
            [Relay, Relay, Gateway, Gateway, Relay],
        ),
        (", via: gateway, tls: sni", [Gateway; 5]),
        (", via: gateway, tls: none, http: none", [Relay; 5]),
    ] {
        let rule = rule(&format!("host: a.example, ports: all{keys}"));
        assert_eq!(PORTS.map(|port| rule.check(port)), checks, "{keys}");
    }
    let net = rule("cidr: 10.0.0.0/8, ports: all");
    assert_eq!(PORTS.map(|port| net.check(port)), [None; 5]);
    let net = rule("cidr: 10.0.0.0/8, ports: all, via: gateway");
    assert_eq!(PORTS.map(|port| net.check(port)), [Relay; 5]);
}

#[test]
fn ports_are_cut_only_where_the_check_changes() {
    for (keys, ranges) in [
        (
            "ports: all",
            vec![(0, 79), (80, 80), (81, 442), (443, 443), (444, 65535)],
        ),
        ("ports: all, tls: none, http: none", vec![(0, 65535)]),
        (
            "ports: all, via: gateway, tls: none",
            vec![(0, 79), (80, 80), (81, 65535)],
        ),
        ("ports: [\"80-81\"], http: none", vec![(80, 81)]),
        (
            "ports: [\"79-80\", 443]",
            vec![(79, 79), (80, 80), (443, 443)],
        ),
        ("ports: [\"80-443\"], http: host", vec![(80, 443)]),
    ] {
        let policy = policy(&allow(&format!("host: a.example, {keys}")));
        let mut compiled = Compiled::new(&policy).expect("compiles");
        let addr = Addr::from("192.0.2.1".parse::<IpAddr>().expect("address"));
        compiled.lease(addr, &policy.hosts()).expect("leases");
        let mut found: Vec<_> = compiled
            .entries()
            .iter()
            .map(|entry| entry.ports())
            .collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, ranges, "{keys}");
    }
}

#[test]
fn what_is_steered_is_found_before_what_is_not() {
    // The address of a host that is reached through the gateway is also in a network that is
    // open: the connection is steered, and the gateway may let it pass unread.
    let policy = policy(
        "    allow:\n    - {cidr: 192.0.2.0/24, ports: [443, 22]}\n    - {host: a.example, ports: [443], via: gateway}\n    deny:\n    - {cidr: 192.0.2.9}\n",
    );
    let mut compiled = Compiled::new(&policy).expect("compiles");
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().expect("address"));
    let (one, two, nine) = (addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.9"));
    let hosts = [host(0)].into();
    for addr in [one, nine] {
        compiled.lease(addr, &hosts).expect("leases");
    }
    let judge = |addr, port| {
        use agent_common::Protocol;
        use agent_common::verdict::{Query, Verdict, judge};
        let protocol = Protocol::TCP;
        match judge(
            &compiled,
            &Query {
                addr,
                port,
                protocol,
            },
        ) {
            Verdict::Allow { rule, check } => Some((rule, check)),
            Verdict::Deny { .. } => None,
        }
    };
    assert_eq!(judge(one, 443), Some((1, Check::Gateway)));
    assert_eq!(judge(one, 22), Some((0, Check::None)));
    assert_eq!(judge(two, 443), Some((0, Check::None)));
    assert_eq!(judge(nine, 443), None);
    let unread = |addr, port| (compiled.unread(addr, port), compiled.denies(addr, port));
    assert_eq!(unread(one, 443), (Some(0), false));
    assert_eq!(unread(one, 80), (None, false));
    assert_eq!(unread(nine, 443), (None, true));
    assert_eq!(unread(addr("203.0.113.1"), 443), (None, false));
    // The name is there for the kernel, by its own rules alone.
    let names: Vec<_> = compiled
        .named()
        .map(|(addr, name, _)| (addr, name.as_str()))
        .collect();
    assert_eq!(names, [(one, "a.example"), (nine, "a.example")]);
}

#[test]
fn when_a_gateway_is_needed() {
    for (body, needed) in [
        (allow("host: a.example, ports: [443]"), false),
        (allow("host: a.example, ports: [80]"), true),
        (allow("host: a.example, ports: [\"70-90\"]"), true),
        (allow("host: a.example, ports: [80], http: none"), false),
        (allow("host: a.example, ports: [8080], http: host"), true),
        (allow("host: a.example, ports: [443], via: gateway"), true),
        (allow("cidr: 10.0.0.1, ports: [80]"), false),
        (allow("cidr: 10.0.0.1, ports: [80], via: gateway"), true),
        (
            "    deny:\n    - {host: a.example, ports: [80]}\n".to_owned(),
            false,
        ),
        ("    gateway:\n".to_owned(), false),
        ("    gateway: {listen: socks5}\n".to_owned(), true),
    ] {
        assert_eq!(policy(&body).uses_gateway(), needed, "{body}");
    }
}

#[test]
fn the_doors() {
    for (written, http, socks5) in [
        ("{}", false, false),
        ("{listen: http}", true, false),
        ("{listen: [socks5]}", false, true),
        ("{listen: [socks5, http, http]}", true, true),
    ] {
        let policy = policy(&format!("    gateway: {written}\n"));
        assert_eq!(policy.gateway, GatewayPolicy { http, socks5 }, "{written}");
    }
    assert_eq!(policy("    allow: []\n").gateway, GatewayPolicy::default());
    let doors = |written: &str, column, message, help| {
        one(
            &agent(&format!("    gateway: {written}\n")),
            4,
            column,
            message,
            help,
        );
    };
    doors(
        "[http]",
        14,
        "`gateway` of agent `a` is a list",
        "gateway: {listen: [http]}",
    );
    doors(
        "{door: http}",
        15,
        "unknown key `door`",
        "the keys are `listen`",
    );
    doors(
        "{listen: []}",
        23,
        "the list of `listen` is empty",
        "leave `listen` out",
    );
    doors(
        "{listen: [https]}",
        24,
        "`https` is no value of `listen`",
        "did you mean `http`?",
    );
    doors(
        "{listen: 3128}",
        23,
        "`listen` is a number",
        "`http`, `socks5`",
    );
}

#[test]
fn what_is_said_wrongly() {
    const HOST: &str = "host: a.example, ports: [443], ";
    // Where the error is: at this text of the line.
    for (start, keys, place, message, help) in [
        (
            HOST,
            "http: yes please",
            "yes",
            "`yes please` is no value of `http`",
            "one of `host`, `none`",
        ),
        (
            HOST,
            "http: hosts",
            "hosts",
            "`hosts` is no value of `http`",
            "did you mean `host`?",
        ),
        (
            "host: a.example, protocol: udp, ports: [1], ",
            "http: host",
            "host}",
            "a rule for udp has `http`",
            "over tcp",
        ),
        (
            "cidr: 10.0.0.1, ports: [1], ",
            "http: none",
            "none",
            "a rule with `cidr` has `http`",
            "about a name",
        ),
        (
            HOST,
            "via: proxy",
            "proxy",
            "`proxy` is no value of `via`",
            "write `via: gateway`, or a proxy",
        ),
        (
            HOST,
            "via: gatway",
            "gatway",
            "`gatway` is no value of `via`",
            "did you mean `gateway`?",
        ),
        (
            HOST,
            "via: \"https://u:secret@p.example:1\"",
            "\"https",
            "`p.example:1` is no value of `via`",
            "{proxy:",
        ),
        (
            HOST,
            "via: true",
            "true",
            "`via` is a true/false value",
            "write `via: gateway`",
        ),
        (
            HOST,
            "via: {}",
            "{}",
            "`via` of a rule names no proxy",
            "{proxy:",
        ),
        (
            HOST,
            "via: {ca: /x}",
            "{ca",
            "`via` of a rule names no proxy",
            "{proxy:",
        ),
        (
            HOST,
            "via: {proxy: [x]}",
            "[x]",
            "`proxy` is a list, not text",
            "proxy:",
        ),
        (
            HOST,
            "via: {url: x}",
            "url",
            "unknown key `url`",
            "did you mean `proxy`?",
        ),
        (
            HOST,
            "via: {proxy: \"https://p.example:1\", password: x}",
            "password",
            "unknown key `password`",
            "credentials:",
        ),
        (
            HOST,
            "via: {proxy: \"https://u:secret@p.example:1\"}",
            "\"https",
            "`p.example:1` holds a user",
            "credentials:",
        ),
        (
            HOST,
            "via: {proxy: p.example}",
            "p.example",
            "begins with neither",
            "\"https://proxy.example:3128\"",
        ),
        (
            HOST,
            "via: {proxy: \"https://p.example:1\", ca: x.pem}",
            "x.pem",
            "`x.pem` is no absolute path",
            "ca: /etc/",
        ),
        (
            HOST,
            "via: {proxy: \"https://p.example:1\", credentials: /etc/}",
            "/etc/",
            "is a folder",
            "credentials: /etc/",
        ),
        (
            HOST,
            "via: {proxy: \"https://p.example:1\", key: /k}",
            "/k",
            "a `key` and no `certificate`",
            "write `certificate:`",
        ),
        (
            HOST,
            "via: {proxy: \"https://p.example:1\", certificate: /c}",
            "/c",
            "a `certificate` and no `key`",
            "write `key:`",
        ),
        (
            HOST,
            "via: {proxy: \"http://p.example:1\", ca: /c}",
            "/c",
            "has a `ca` and is asked without TLS",
            "https://",
        ),
        (
            "cidr: 10.0.0.1, protocol: icmp, ",
            "via: gateway",
            "gateway",
            "a rule for icmp has `via`",
            "carries tcp alone",
        ),
        (
            "group: g, ",
            "via: gateway",
            "gateway",
            "a rule with `group` has `via`",
            "its own way out",
        ),
    ] {
        let groups = if start.starts_with("group") {
            "groups:\n  g:\n  - {cidr: 10.0.0.1, ports: [1]}\n"
        } else {
            ""
        };
        let text = agent(&allow(&format!("{start}{keys}"))) + groups;
        let line = text.lines().nth(4).expect("the rule");
        let from = line.find(keys).expect("keys");
        let column = from + line[from..].find(place).expect(place) + 1;
        one(&text, 5, column as u32, message, help);
        assert!(!format!("{message}{help}").contains("secret"));
    }
}

#[test]
fn other_rules_have_no_way_out() {
    let deny = agent("    deny:\n    - {cidr: 10.0.0.1, via: gateway}\n");
    one(&deny, 5, 29, "a deny rule has `via`", "does not leave");
    let deny = agent("    deny:\n    - {host: a.example, http: host}\n");
    one(
        &deny,
        5,
        31,
        "a deny rule has `http`",
        "not answered at all",
    );
    for key in ["via: gateway", "http: host"] {
        let text = agent(&format!(
            "    listen:\n    - {{cidr: 10.0.0.1, ports: [1], {key}}}\n"
        ));
        one(&text, 5, 36, "unknown key", "is for allow rules");
    }
}

#[test]
fn rules_of_a_group_say_their_own() {
    let text = "version: 1\nagents:\n  a:\n    allow: [{group: g}]\n  b:\n    deny: [{group: g}]\ngroups:\n  g:\n  - {host: a.example, ports: [80], http: none, via: gateway}\n";
    let set = parse("p.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let rule = |agent: &str| set.agents[agent].rules[0].clone();
    assert_eq!((rule("a").http, rule("a").via), (Http::None, Via::Gateway));
    assert_eq!((rule("b").http, rule("b").via), (Http::None, Via::Direct));
    assert!(set.agents["a"].uses_gateway() && !set.agents["b"].uses_gateway());
}

#[test]
fn each_of_it_changes_the_digest() {
    let plain = "host: a.example, ports: [80]";
    let bodies = [
        allow(plain),
        allow(&format!("{plain}, http: host")),
        allow(&format!("{plain}, http: none")),
        allow(&format!("{plain}, via: gateway")),
        allow(&format!("{plain}, via: {{proxy: \"http://p.example:1\"}}")),
        allow(&format!(
            "{plain}, via: {{proxy: \"http://p.example:1\", credentials: /c}}"
        )),
        format!("{}    gateway: {{listen: http}}\n", allow(plain)),
        format!("{}    gateway: {{listen: socks5}}\n", allow(plain)),
    ];
    let digests: std::collections::BTreeSet<_> = bodies.iter().map(|body| digest(body)).collect();
    assert_eq!(digests.len(), bodies.len());
}
