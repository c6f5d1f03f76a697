//! What a policy asks of requests inside TLS.

use super::errors::{agent, one};
use crate::policy::{Http, Inspect, Policy, RequestRule, Routes, Rule, Shown, Via, parse};
use agent_common::verdict::Check;
use std::collections::BTreeSet;

const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

fn policy(body: &str) -> Policy {
    let set = parse("p.yaml", &agent(body)).unwrap_or_else(|errors| panic!("{errors}"));
    set.agents["a"].clone()
}

fn allow(keys: &str, inspect: &str) -> String {
    format!("    allow:\n    - {{{keys}, inspect: {inspect}}}\n")
}

fn rule(inspect: &str) -> Rule {
    policy(&allow("host: a.example, ports: [443]", inspect)).rules[0].clone()
}

fn inspect(written: &str) -> Inspect {
    let inspect = rule(written).inspect.expect("inspected");
    Inspect::clone(&inspect)
}

fn nothing() -> Inspect {
    Inspect {
        requests: Vec::new(),
        strip: BTreeSet::new(),
        max_body: None,
        patterns: Vec::new(),
        pins: BTreeSet::new(),
    }
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn everything_that_can_be_said() {
    assert_eq!(inspect("{}"), nothing());
    assert_eq!(inspect("~"), nothing());
    let all = inspect(&format!(
        "{{requests: [{{methods: [POST, GET], path: /v1/**}}, {{methods: HEAD}}, {{path: \"/\"}}], strip: [Cookie, x-a, cookie], max_body: 1MiB, patterns: [{{name: aws-key, regex: \"AKIA[0-9A-Z]{{16}}\"}}, {{name: b, regex: x+, action: report}}, {{name: c, regex: z, action: block}}], pins: \"{PIN}\"}}"
    ));
    let requests = [
        (&["GET", "POST"][..], Some("/v1/**")),
        (&["HEAD"], None),
        (&[], Some("/")),
    ]
    .map(|(methods, path)| RequestRule {
        methods: words(methods),
        path: path.map(str::to_owned),
    });
    assert_eq!(all.requests, requests);
    assert_eq!(all.strip, words(&["cookie", "x-a"]));
    assert_eq!(all.max_body, Some(1024 * 1024));
    let patterns: Vec<_> = all
        .patterns
        .iter()
        .map(|pattern| {
            (
                pattern.name.as_str(),
                pattern.regex.as_str(),
                pattern.report_only,
            )
        })
        .collect();
    assert_eq!(
        patterns,
        [
            ("aws-key", "AKIA[0-9A-Z]{16}", false),
            ("b", "x+", true),
            ("c", "z", false)
        ]
    );
    assert!(
        all.patterns[0]
            .regex
            .is_match(b"\xff key=AKIA0123456789ABCDEF\n")
    );
    // The hash of nothing, as everybody knows it.
    let empty = [
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ];
    assert_eq!(all.pins, [empty].into());
    for (written, bytes) in [("0", 0), ("4096", 4096), ("\"8 KiB\"", 8192)] {
        let inspect = inspect(&format!("{{max_body: {written}}}"));
        assert_eq!(inspect.max_body, Some(bytes), "{written}");
    }
}

#[test]
fn what_is_inspected_is_steered_and_nothing_else_leaves() {
    for (keys, via, text) in [
        (
            "ports: [443]",
            Via::Gateway,
            "allow tcp a.example:443, via gateway, inspected",
        ),
        (
            "ports: [443], via: gateway, http: none",
            Via::Gateway,
            "allow tcp a.example:443, via gateway, inspected",
        ),
        (
            "ports: [80, 8443], tls: sni",
            Via::Gateway,
            "allow tcp a.example:80,8443, tls sni, via gateway, inspected",
        ),
    ] {
        let policy = policy(&allow(&format!("host: a.example, {keys}"), "{}"));
        let rule = &policy.rules[0];
        assert_eq!((&rule.via, rule.http), (&via, Http::None), "{keys}");
        assert_eq!(rule.to_string(), text);
        let routes = Routes::new(&policy);
        for (port, _) in &rule.ports {
            assert_eq!(rule.check(*port), Check::Gateway);
            let find = |shown| routes.find("a.example", *port, shown);
            assert!(find(Shown::Tls).is_ok_and(|found| found.inspect.is_some()));
            assert!(find(Shown::Http).is_err() && find(Shown::Unread).is_err());
        }
        assert!(policy.uses_gateway());
    }
    let proxy = policy(&allow(
        "host: a.example, ports: [443], via: {proxy: \"http://p.example:1\"}",
        "{}",
    ));
    assert!(matches!(proxy.rules[0].via, Via::Proxy(_)));
}

#[test]
fn a_rule_that_looks_is_taken_before_one_that_does_not() {
    let policy = policy(
        "    allow:\n    - {host: a.example, ports: [443]}\n    - {host: a.example, ports: [443], via: {proxy: \"http://p.example:1\"}}\n    - {host: a.example, ports: [443], inspect: {max_body: 1}}\n    - {host: \"*.example\", ports: [443], inspect: {}}\n",
    );
    let routes = Routes::new(&policy);
    let rule = |name: &str| routes.find(name, 443, Shown::Tls).expect(name);
    assert_eq!((rule("a.example").rule, rule("b.example").rule), (2, 3));
    let max = rule("a.example")
        .inspect
        .and_then(|inspect| inspect.max_body);
    assert_eq!(max, Some(1));
}

#[test]
fn what_is_said_wrongly() {
    const HOST: &str = "host: a.example, ports: [443]";
    // Where the error is: at this text behind `inspect`.
    for (keys, inspect, place, message, help) in [
        (
            HOST,
            "[]",
            "[]",
            "`inspect` of a rule is a list",
            "`inspect: {}`",
        ),
        (
            HOST,
            "true",
            "true",
            "`inspect` of a rule is a true/false value",
            "`inspect: {}`",
        ),
        (
            HOST,
            "{request: []}",
            "request",
            "unknown key `request`",
            "did you mean `requests`?",
        ),
        (
            HOST,
            "{headers: [a]}",
            "headers",
            "unknown key `headers`",
            "did you mean `strip`?",
        ),
        (
            HOST,
            "{requests: []}",
            "[]",
            "the list of `requests` is empty",
            "leave `requests` out",
        ),
        (
            HOST,
            "{requests: [{}]}",
            "{}",
            "says neither methods nor a path",
            "leave `requests` out",
        ),
        (
            HOST,
            "{requests: [GET]}",
            "GET",
            "a request is text",
            "- methods: [GET]",
        ),
        (
            HOST,
            "{requests: [{methods: []}]}",
            "[]",
            "the list of `methods` is empty",
            "leave `methods` out",
        ),
        (
            HOST,
            "{requests: [{methods: get}]}",
            "get",
            "`get` is a method of its own",
            "write `GET`",
        ),
        (
            HOST,
            "{requests: [{methods: [G T]}]}",
            "G T",
            "`G T` is no method",
            "[GET, POST]",
        ),
        (
            HOST,
            "{requests: [{methods: [CONNECT]}]}",
            "CONNECT",
            "would open a tunnel",
            "remove it",
        ),
        (
            HOST,
            "{requests: [{path: v1}]}",
            "v1",
            "`v1` does not begin with `/`",
            "path: /v1/**",
        ),
        (
            HOST,
            "{requests: [{path: \"/a?b\"}]}",
            "\"/a",
            "holds more than a path",
            "without it",
        ),
        (
            HOST,
            "{requests: [{path: /a%2f}]}",
            "/a",
            "holds an escape",
            "the character itself",
        ),
        (
            HOST,
            "{requests: [{path: \"/[ab]\"}]}",
            "\"/[",
            "patterns elsewhere use",
            "only `*` and `**`",
        ),
        (
            HOST,
            "{requests: [{path: /a/../b}]}",
            "/a",
            "holds `.` or `..`",
            "path: /v1/**",
        ),
        (
            HOST,
            "{requests: [{path: /a//b}]}",
            "/a",
            "holds an empty segment",
            "path: /v1/**",
        ),
        (
            HOST,
            "{requests: [{path: /a**}]}",
            "/a",
            "holds `**` inside a segment",
            "whole segments",
        ),
        (
            HOST,
            "{strip: []}",
            "[]",
            "the list of `strip` is empty",
            "leave `strip` out",
        ),
        (
            HOST,
            "{strip: \"a b\"}",
            "\"a b",
            "`a b` is no name of a header",
            "strip: [cookie",
        ),
        (
            HOST,
            "{strip: [Host]}",
            "Host",
            "`Host` cannot be taken out",
            "remove it",
        ),
        (
            HOST,
            "{max_body: 1TiB}",
            "1TiB",
            "`1TiB` is no number of bytes",
            "max_body: 1MiB",
        ),
        (
            HOST,
            "{max_body: -1}",
            "-1",
            "`-1` is no number of bytes",
            "max_body: 1MiB",
        ),
        (
            HOST,
            "{max_body: [1]}",
            "[1]",
            "`max_body` is a list",
            "max_body: 1MiB",
        ),
        (
            HOST,
            "{patterns: [{name: a}]}",
            "{name",
            "the pattern has no `regex`",
            "- name: aws-key",
        ),
        (
            HOST,
            "{patterns: [{regex: a}]}",
            "{regex",
            "the pattern has no `name`",
            "- name: aws-key",
        ),
        (
            HOST,
            "{patterns: [{name: A b, regex: a}]}",
            "A b",
            "`A b` is no name for a pattern",
            "`a-b`",
        ),
        (
            HOST,
            "{patterns: [{name: a, regex: a}, {name: a, regex: b}]}",
            "a, regex: b",
            "two patterns are named `a`",
            "another name",
        ),
        (
            HOST,
            "{patterns: [{name: a, regex: \"a(\"}]}",
            "\"a(",
            "cannot be used: unclosed group",
            "docs.rs/regex",
        ),
        (
            HOST,
            "{patterns: [{name: a, regex: \"(?=a)\"}]}",
            "\"(?",
            "look-around",
            "docs.rs/regex",
        ),
        (
            HOST,
            "{patterns: [{name: a, regex: \"a*\"}]}",
            "\"a*",
            "matches where nothing is",
            "must be there",
        ),
        (
            HOST,
            "{patterns: [{name: a, regex: \"\\\\w{9000}\"}]}",
            "\"\\\\w",
            "the regex is too large",
            "smaller counts",
        ),
        (
            HOST,
            "{patterns: [{name: a, regex: b, action: warn}]}",
            "warn",
            "`warn` is no value of `action`",
            "`block`, `report`",
        ),
        (
            HOST,
            "{pins: []}",
            "[]",
            "the list of `pins` is empty",
            "leave `pins` out",
        ),
        (
            HOST,
            "{pins: sha1/aaaa}",
            "sha1",
            "`sha1/aaaa` is no pin",
            "SubjectPublicKeyInfo",
        ),
        (
            HOST,
            "{pins: sha256/aaaa}",
            "sha256",
            "`sha256/aaaa` is no pin",
            "44 characters",
        ),
        (
            "host: a.example, ports: [443, 8443]",
            "{}",
            "{}",
            "ports where not only TLS leaves",
            "`tls: sni`",
        ),
        (
            "host: a.example, ports: all",
            "{}",
            "{}",
            "ports where not only TLS leaves",
            "ports: [443]",
        ),
        (
            "protocol: udp, host: a.example, ports: [1]",
            "{}",
            "{}",
            "a rule for udp has `inspect`",
            "over tcp",
        ),
    ] {
        let text = agent(&allow(keys, inspect));
        let line = text.lines().nth(4).expect("the rule");
        let from = line.find("inspect: ").expect("inspect") + 9;
        let column = from + line[from..].rfind(place).expect(place) + 1;
        one(&text, 5, column as u32, message, help);
    }
    // At the other key.
    for (key, value) in [("tls", "none"), ("http", "host"), ("ech", "keep")] {
        let text = agent(&allow(&format!("{HOST}, {key}: {value}"), "{}"));
        let line = text.lines().nth(4).expect("the rule");
        let column = line.find(value).expect(value);
        let column = match value {
            "host" => line.rfind(value).expect(value),
            _ => column,
        };
        let message = format!("the rule has `inspect` and `{key}: {value}`");
        one(&text, 5, column as u32 + 1, &message, "remove one of them");
    }
}

#[test]
fn several_mistakes_are_told_together() {
    let text = agent(&allow(
        "host: a.example, ports: [443]",
        "{requests: [{methods: [get]}, {path: x}], strip: [\"a b\"], patterns: [{name: a, regex: \"[\"}], pins: [x]}",
    ));
    let errors = parse("p.yaml", &text).expect_err("mistakes");
    assert_eq!(errors.errors.len(), 5, "{errors}");
}

#[test]
fn rules_of_a_group_look_only_where_they_allow() {
    let text = "version: 1\nagents:\n  a:\n    allow: [{group: g}]\n  b:\n    deny: [{group: g}]\n  c:\n    allow: [{group: g}]\ngroups:\n  g:\n  - {host: a.example, ports: [443], inspect: {}}\n";
    let set = parse("p.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let inspected = |agent: &str| set.agents[agent].rules[0].inspect.is_some();
    assert_eq!(["a", "b", "c"].map(inspected), [true, false, true]);
    // What is wrong in a group is told once.
    let text = text.replace("inspect: {}", "inspect: {pins: x}");
    one(&text, 11, 53, "`x` is no pin", "44 characters");
}

#[test]
fn each_of_it_changes_the_digest() {
    let written = [
        "{}",
        "{requests: [{methods: GET}]}",
        "{requests: [{methods: POST}]}",
        "{requests: [{path: /a}]}",
        "{strip: cookie}",
        "{max_body: 1}",
        "{max_body: 2}",
        "{patterns: [{name: a, regex: a}]}",
        "{patterns: [{name: b, regex: a}]}",
        "{patterns: [{name: a, regex: b}]}",
        "{patterns: [{name: a, regex: a, action: report}]}",
        &format!("{{pins: {PIN}}}"),
    ];
    let digests: BTreeSet<String> = written
        .iter()
        .map(|inspect| {
            let text = agent(&allow("host: a.example, ports: [443]", inspect));
            let set = parse("p.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
            set.digest
        })
        .collect();
    assert_eq!(digests.len(), written.len());
}
