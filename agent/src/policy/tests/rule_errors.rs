//! Every error of a rule: its place, what it says, and what it tells to write instead.

use super::errors::{agent, one};

/// A file with one allow rule, written in flow style; it begins in line 5, column 7.
fn rule(rule: &str) -> String {
    agent(&format!("    allow:\n    - {{{rule}}}\n"))
}

#[test]
fn rules() {
    one(
        &rule("ports: [1]"),
        5,
        7,
        "the rule names no destination",
        "write one of `host:`, `cidr:` and `group:`",
    );
    one(
        &rule("host: a.example, cidr: 10.0.0.1, ports: [1]"),
        5,
        31,
        "the rule has `host` and `cidr`",
        "make a rule of each",
    );
    one(
        &rule("host: a.example, host: b.example, ports: [1]"),
        5,
        25,
        "`host` is written twice",
        "begin a new rule with a dash",
    );
    one(
        &rule("host: a.example, port: 1, ports: [1]"),
        5,
        25,
        "unknown key `port`",
        "did you mean `ports`?",
    );
    one(
        &rule("host: a.example, protcol: udp, ports: [1]"),
        5,
        25,
        "unknown key `protcol`",
        "did you mean `protocol`?",
    );
    one(
        &rule("host: a.example, ports: [1], xyzzy: 1"),
        5,
        37,
        "unknown key `xyzzy`",
        "the keys are `host`, `cidr`, `group`",
    );
    one(
        &rule("host: a.example"),
        5,
        7,
        "the rule for a.example names no ports",
        "`ports: [443]`, or `ports: all`",
    );
    one(
        &rule("host: [a.example], ports: [1]"),
        5,
        14,
        "`host` is a list, not text",
        "one rule for each",
    );
    one(
        &rule("host: 5, ports: [1]"),
        5,
        14,
        "`host` is a number, not text",
        "host: api.example.com",
    );
    one(
        &rule("host: , ports: [1]"),
        5,
        8,
        "`host` is nothing",
        "host: api.example.com",
    );
    one(
        &rule("host: \"*\", ports: [1]"),
        5,
        14,
        "would be every name",
        "name the domains",
    );
    one(
        &rule("host: \"a.*.example.com\", ports: [1]"),
        5,
        14,
        "not the whole first label",
        "`host: \"*.example.com\"`",
    );
    one(
        &rule("host: 10.0.0.1, ports: [1]"),
        5,
        14,
        "is an address",
        "write `cidr: 10.0.0.1`",
    );
    one(
        &rule("host: \"https://a.example/\", ports: [1]"),
        5,
        14,
        "is a URL",
        "`host: a.example`",
    );
    one(
        &rule("cidr: a.example, ports: [1]"),
        5,
        14,
        "is a name",
        "write `host: a.example`",
    );
    one(
        &rule("cidr: 10.0.0.1/8, ports: [1]"),
        5,
        14,
        "bits set beyond its prefix",
        "`10.0.0.0/8`",
    );
    one(
        &rule("host: a.example, protocol: any, ports: [1]"),
        5,
        35,
        "`any` is no protocol",
        "a rule for each of",
    );
    one(
        &rule("host: a.example, protocol: TCP, ports: [1]"),
        5,
        35,
        "`TCP` is no protocol",
        "did you mean `tcp`?",
    );
    one(
        &rule("host: a.example, protocol: https, ports: [1]"),
        5,
        35,
        "`https` is no protocol",
        "name the transport",
    );
    one(
        &rule("host: a.example, protocol: sctp, ports: [1]"),
        5,
        35,
        "`sctp` is no protocol",
        "`tcp`, `udp`, `icmp`",
    );
    one(
        &rule("host: a.example, protocol: icmp, ports: [1]"),
        5,
        48,
        "icmp has no ports",
        "remove `ports`",
    );
    one(
        &rule("host: a.example, ports: [1], reason: 5"),
        5,
        45,
        "`reason` is a number",
        "put it in quotes",
    );
    let long = "x".repeat(257);
    one(
        &rule(&format!("host: a.example, ports: [1], reason: {long}")),
        5,
        45,
        "longer than 256 characters",
        "shorten it",
    );
    one(
        &rule("host: a.example, ports: [1], reason: \"a\\u0007b\""),
        5,
        45,
        "control characters",
        "plain text",
    );
}

#[test]
fn ports() {
    for (ports, column, message, help) in [
        (
            "[]",
            32,
            "the list of ports is empty",
            "`ports: [443]`, or `ports: all`",
        ),
        ("0", 32, "port 0 does not exist", "ports go from 1 to 65535"),
        (
            "[443, 65536]",
            38,
            "port 65536 does not exist",
            "ports go from 1 to 65535",
        ),
        ("[\"10-5\"]", 33, "runs backwards", "write \"5-10\""),
        (
            "https",
            32,
            "`https` is not a port",
            "write numbers and ranges",
        ),
        ("[all]", 33, "`all` stands in a list", "without the list"),
        ("[[1]]", 33, "a port is a list", "write numbers and ranges"),
        (
            "{a: 1}",
            32,
            "a port is a map of keys",
            "write numbers and ranges",
        ),
        ("1.5", 32, "a port is a number", "write numbers and ranges"),
        (
            "[-1]",
            33,
            "port -1 does not exist",
            "ports go from 1 to 65535",
        ),
    ] {
        one(
            &rule(&format!("host: a.example, ports: {ports}")),
            5,
            column,
            message,
            help,
        );
    }
    one(
        &rule("host: a.example, ports:"),
        5,
        25,
        "a port is nothing",
        "write numbers and ranges",
    );
}

#[test]
fn groups_that_are_used_wrongly() {
    let with = |allow: &str, group: &str| {
        format!(
            "version: 1\nagents:\n  a:\n    allow:\n    - {{{allow}}}\n  b:\n    allow:\n    - {{group: tools}}\ngroups:\n  tools:\n  - {{{group}}}\n"
        )
    };
    let good = "host: a.example, ports: [1]";
    one(
        &with("group: tolls", good),
        5,
        15,
        "there is no group `tolls`",
        "did you mean `tools`?",
    );
    one(
        &with("group: quite-other", good),
        5,
        15,
        "there is no group `quite-other`",
        "or name one of `tools`",
    );
    one(
        &rule("group: g"),
        5,
        15,
        "there is no group `g`",
        "write it below `groups:`",
    );
    one(
        &with("group: tools, ports: [1]", good),
        5,
        29,
        "a rule with `group` has `ports`",
        "each rule of the group says its own",
    );
    one(
        &with("group: tools, protocol: udp", good),
        5,
        32,
        "a rule with `group` has `protocol`",
        "each rule of the group says its own",
    );
    // Reported once, although two agents use it.
    one(
        &with("group: tools", "host: a.example"),
        11,
        5,
        "the rule for a.example names no ports",
        "`ports: [443]`",
    );
}

#[test]
fn listen_rules() {
    let listen = |rule: &str| agent(&format!("    listen:\n    - {{{rule}}}\n"));
    one(
        &listen("ports: [80]"),
        5,
        7,
        "the listen rule names no peers",
        "write `cidr:`",
    );
    one(
        &listen("cidr: 10.0.0.1"),
        5,
        7,
        "the listen rule names no ports",
        "`ports: [8080]`",
    );
    one(
        &listen("cidr: 10.0.0.1, ports: [80], protocol: udp"),
        5,
        37,
        "unknown key `protocol`",
        "a listen rule is for TCP",
    );
    one(
        &listen("host: a.example, cidr: 10.0.0.1, ports: [80]"),
        5,
        8,
        "unknown key `host`",
        "names peers by address",
    );
    one(
        &listen("cidr: a.example, ports: [80]"),
        5,
        14,
        "is a name",
        "write `host: a.example`",
    );
}
