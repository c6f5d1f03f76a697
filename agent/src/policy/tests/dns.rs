//! What is said about the DNS: what it comes to, and every error.

use super::errors::{agent, one};
use crate::policy::{BudgetLimits, DnsPolicy, OverBudget, Refuse, parse};

fn dns(text: &str) -> DnsPolicy {
    let text = agent(&format!("    dns: {text}\n"));
    let set = parse("p.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    set.agents["a"].dns
}

#[test]
fn what_is_not_said_is_the_default() {
    let default = DnsPolicy::default();
    assert_eq!(
        default,
        DnsPolicy {
            refuse: Refuse::Refused,
            validate: false,
            budget: BudgetLimits {
                names: 300,
                bytes: 8192,
                entropy_bits: 24_000,
                repeat_bits: 24_000,
            },
            over_budget: OverBudget::Block,
        }
    );
    for text in ["", "{}", "{budget: }", "{budget: {}}", "{refuse: refused}"] {
        assert_eq!(dns(text), default, "{text}");
    }
    assert_eq!(
        dns(
            "{refuse: nxdomain, dnssec: validate, over_budget: report, budget: {names: 1, bytes: 2MiB, entropy_bits: 3, repeat_bits: 4}}"
        ),
        DnsPolicy {
            refuse: Refuse::NxDomain,
            validate: true,
            budget: BudgetLimits {
                names: 1,
                bytes: 2 * 1024 * 1024,
                entropy_bits: 3,
                repeat_bits: 4,
            },
            over_budget: OverBudget::Report,
        }
    );
    assert_eq!(dns("{budget: {bytes: 7}}").budget.bytes, 7);
    assert_eq!(dns("{budget: {bytes: 16 KiB}}").budget.bytes, 16 * 1024);
}

#[test]
fn what_an_agent_says_wrongly() {
    for (text, column, message, help) in [
        (
            "[x]",
            10,
            "`dns` of agent `a` is a list",
            "`dns: {refuse: nxdomain}`",
        ),
        (
            "{refuse: servfail}",
            19,
            "`servfail` is no value of `refuse`",
            "`refused`, `nxdomain`",
        ),
        (
            "{refuse: NXDOMAIN}",
            19,
            "is no value of `refuse`",
            "did you mean `nxdomain`?",
        ),
        (
            "{dnssec: true}",
            19,
            "`dnssec` is a true/false value",
            "write `validate`, or leave",
        ),
        (
            "{dnssec: \"off\"}",
            19,
            "`off` is no value of `dnssec`",
            "leave `dnssec` out",
        ),
        (
            "{over_budget: allow}",
            24,
            "is no value of `over_budget`",
            "`block`, `report`",
        ),
        (
            "{budgte: {}}",
            11,
            "unknown key `budgte` in `dns` of agent `a`",
            "did you mean `budget`?",
        ),
        (
            "{budget: 300}",
            19,
            "`budget` of agent `a` is a number",
            "`budget: {names: 300, bytes: 8KiB}`",
        ),
        (
            "{budget: {name: 3}}",
            20,
            "unknown key `name`",
            "did you mean `names`?",
        ),
        (
            "{budget: {names: 0}}",
            27,
            "a budget of 0 names",
            "remove the wildcards instead",
        ),
        (
            "{budget: {names: 8KiB}}",
            27,
            "`8KiB` is no number for `names`",
            "a whole number from 1",
        ),
        (
            "{budget: {names: -1}}",
            27,
            "-1 is out of the range of `names`",
            "a whole number",
        ),
        (
            "{budget: {bytes: 8kb}}",
            27,
            "`8kb` is no number for `bytes`",
            "`8192` or `8KiB`",
        ),
        (
            "{budget: {bytes: 4096MiB}}",
            27,
            "4294967296 is out of the range",
            "`8192` or `8KiB`",
        ),
        (
            "{budget: {bytes: KiB}}",
            27,
            "is no number for `bytes`",
            "`8192` or `8KiB`",
        ),
        (
            "{budget: {entropy_bits: 1.5}}",
            34,
            "`entropy_bits` is a number",
            "a whole number",
        ),
    ] {
        one(
            &agent(&format!("    dns: {text}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn what_a_rule_says_wrongly() {
    let rule = |keys: &str| {
        agent(&format!(
            "    allow:\n    - {{host: a.example, ports: [1], {keys}}}\n"
        ))
    };
    for (keys, column, message, help) in [
        (
            "private: maybe",
            46,
            "`private` is text",
            "write `private: true`",
        ),
        (
            "private: 1",
            46,
            "`private` is a number",
            "write `private: true`",
        ),
        (
            "ech: strip",
            42,
            "`strip` is no value of `ech`",
            "leave `ech` out",
        ),
        (
            "ech: kep",
            42,
            "`kep` is no value of `ech`",
            "did you mean `keep`?",
        ),
        (
            "ech: true",
            42,
            "`ech` is a true/false value",
            "write `keep`, or leave the key out",
        ),
        (
            "types: []",
            44,
            "the list of types is empty",
            "leave `types` out",
        ),
        (
            "types: [txt]",
            45,
            "`txt` is not a record type",
            "did you mean `TXT`?",
        ),
        (
            "types: [TXT, ANY]",
            50,
            "`ANY` is no type of records",
            "never answered",
        ),
        (
            "types: [AXFR]",
            45,
            "`AXFR` is no type of records",
            "never answered",
        ),
        (
            "types: [IXFR]",
            45,
            "`IXFR` is no type of records",
            "never answered",
        ),
        (
            "types: [OPT]",
            45,
            "`OPT` is no type of records",
            "never answered",
        ),
        (
            "types: [252]",
            45,
            "`252` is no type of records",
            "never answered",
        ),
        (
            "types: [65535]",
            45,
            "record type 65535 does not exist",
            "1 to 65534",
        ),
        (
            "types: [TYPE65400]",
            45,
            "is not a record type",
            "write the number: `65400`",
        ),
        (
            "types: [null]",
            45,
            "a type is nothing",
            "the type NULL is `10`",
        ),
        ("types: [[TXT]]", 45, "a type is a list", "[TXT, MX, 65400]"),
        ("types: {a: b}", 44, "a type is a map", "[TXT, MX, 65400]"),
        (
            "type: TXT",
            37,
            "unknown key `type`",
            "did you mean `types`?",
        ),
    ] {
        one(&rule(keys), 5, column, message, help);
    }
}

#[test]
fn answers_are_for_allow_rules_with_a_host() {
    for (key, value) in [
        ("private", "true"),
        ("types", "[TXT]"),
        ("ech", "keep"),
        ("tls", "sni"),
        ("quic", "unchecked"),
        ("http", "host"),
        ("inspect", "{}"),
    ] {
        let column = |before: &str| 8 + before.len() as u32 + key.len() as u32 + 2;
        let with = |list: &str, before: &str| {
            agent(&format!("    {list}:\n    - {{{before}{key}: {value}}}\n"))
        };
        for (list, before, message, help) in [
            (
                "allow",
                "cidr: 10.0.0.1, ports: [1], ",
                "a rule with `cidr` has",
                "in the rule with `host`",
            ),
            (
                "deny",
                "host: a.example, ",
                "a deny rule has",
                "not answered at all",
            ),
        ] {
            one(
                &with(list, before),
                5,
                column(before),
                &format!("{message} `{key}`"),
                help,
            );
        }
        let before = "cidr: 10.0.0.1, ports: [1], ";
        one(
            &with("listen", before),
            5,
            8 + before.len() as u32,
            &format!("unknown key `{key}`"),
            &format!("`{key}` is for allow rules with `host`"),
        );
        let before = "group: g, ";
        let groups = "groups:\n  g:\n  - {host: a.example, ports: [1]}\n";
        one(
            &(with("allow", before) + groups),
            5,
            column(before),
            &format!("a rule with `group` has `{key}`"),
            "each rule of the group says its own",
        );
    }
}

#[test]
fn a_group_may_say_it_and_be_denied_elsewhere() {
    let text = "version: 1\nagents:\n  a:\n    allow: [{group: g}]\n  b:\n    deny: [{group: g}]\ngroups:\n  g:\n  - {host: a.example, ports: [1], types: [TXT]}\n";
    let set = parse("p.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let line = |agent: &str| set.agents[agent].rules[0].to_string();
    assert_eq!(line("a"), "allow tcp a.example:1, types TXT");
    assert_eq!(line("b"), "deny any a.example:1");
}
