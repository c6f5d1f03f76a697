//! What a policy says of names in TLS and QUIC.

use super::errors::one;
use crate::policy::{Tls, parse};

fn rule(keys: &str) -> String {
    format!("version: 1\nagents:\n  a:\n    allow:\n    - {{host: a.example, {keys}}}\n")
}

#[test]
fn where_the_name_counts() {
    for (keys, tls, text) in [
        ("ports: [443]", Tls::Https, "allow tcp a.example:443"),
        ("ports: [80]", Tls::Https, "allow tcp a.example:80"),
        (
            "ports: [993], tls: sni",
            Tls::Every,
            "allow tcp a.example:993, tls sni",
        ),
        (
            "ports: all, tls: none",
            Tls::None,
            "allow tcp a.example:all, tls none",
        ),
        (
            "protocol: udp, ports: [53000]",
            Tls::None,
            "allow udp a.example:53000",
        ),
        (
            "protocol: udp, ports: [443], quic: unchecked",
            Tls::None,
            "allow udp a.example:443",
        ),
    ] {
        let set = parse("p.yaml", &rule(keys)).unwrap_or_else(|errors| panic!("{errors}"));
        let rule = &set.agents["a"].rules[0];
        assert_eq!((rule.tls, rule.to_string().as_str()), (tls, text), "{keys}");
    }
    let text = "version: 1\nagents:\n  a:\n    allow:\n    - {cidr: 10.0.0.1, ports: [443]}\n";
    let set = parse("p.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(set.agents["a"].rules[0].tls, Tls::None);
}

#[test]
fn what_is_said_wrongly() {
    // Where the error is: at this text of the line.
    for (keys, place, message, help) in [
        (
            "ports: [443], tls: snl",
            "snl",
            "`snl` is no value of `tls`",
            "did you mean `sni`?",
        ),
        (
            "protocol: udp, ports: [1], tls: sni",
            "sni",
            "a rule for udp has `tls`",
            "TLS over tcp",
        ),
        (
            "protocol: icmp, tls: none",
            "none",
            "a rule for icmp has `tls`",
            "TLS over tcp",
        ),
        (
            "protocol: udp, ports: [443]",
            "{host",
            "lets QUIC (udp port 443) out",
            "quic: unchecked",
        ),
        (
            "protocol: udp, ports: all",
            "{host",
            "lets QUIC (udp port 443) out",
            "leave udp port 443 out",
        ),
        (
            "ports: [443], quic: unchecked",
            "{host",
            "has `quic`, and no udp port 443",
            "remove it",
        ),
        (
            "protocol: udp, ports: [444], quic: unchecked",
            "{host",
            "has `quic`, and no udp port 443",
            "remove it",
        ),
        (
            "protocol: udp, ports: [443], quic: checked",
            "checked",
            "`checked` is no value of `quic`",
            "unchecked",
        ),
    ] {
        let text = rule(keys);
        let line = text.lines().nth(4).expect("the rule");
        let column = line.find(place).expect(place) + 1;
        one(&text, 5, column as u32, message, help);
    }
}

#[test]
fn a_rule_of_a_group_is_reported_once() {
    let text = "version: 1\nagents:\n  a:\n    allow: [{group: g}]\n  b:\n    allow: [{group: g}]\n  c:\n    deny: [{group: g}]\ngroups:\n  g:\n  - {host: a.example, protocol: udp, ports: [443]}\n";
    one(text, 11, 5, "lets QUIC (udp port 443) out", "unchecked");
}
