//! `match` of an agent.

use super::errors::{agent, one};
use crate::policy::{MatchBy, PolicySet, parse};

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn warnings(text: &str) -> Vec<String> {
    let set = parse("p.yaml", text).expect(text);
    set.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn each_selector_is_read_in_its_shortest_form() {
    let digest = "AB".repeat(32);
    let set = read(&format!(
        "    match:\n    - unit: agent@*.service\n    - cgroup: /agents.slice/**\n    - container: agent-*\n    - container: role=agent\n    - flatpak: com.example.Agent\n    - snap: agent\n    - executable: /opt//agent/*/bin\n    - sha256: {digest}\n    - programs_under: /home/*/agents/\n"
    ));
    let policy = set.agents.values().next().expect("agent");
    let found: Vec<String> = policy.matching.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "container: agent-*".to_owned(),
            "container: role=agent".to_owned(),
            "flatpak: com.example.Agent".to_owned(),
            "snap: agent".to_owned(),
            "unit: agent@*.service".to_owned(),
            "cgroup: agents.slice/**".to_owned(),
            format!("sha256: {}", digest.to_lowercase()),
            "executable: /opt/agent/*/bin".to_owned(),
            "programs_under: /home/*/agents".to_owned(),
        ]
    );
    assert!(
        read("    match: []\n")
            .agents
            .values()
            .all(|p| p.matching.is_empty())
    );
}

#[test]
fn what_is_no_selector_is_an_error() {
    for (value, column, message, help) in [
        ("7", 12, "`match` of agent `a` is a number", "match: ["),
        ("[{}]", 13, "says nothing", "one of the keys"),
        (
            "[{unit: a.service, cgroup: b}]",
            31,
            "`unit` and `cgroup`",
            "one key",
        ),
        (
            "[{unit: agent}]",
            20,
            "`agent` is no unit",
            "with its ending",
        ),
        ("[{unit: '*'}]", 20, "matches everything", "name what"),
        (
            "[{cgroup: a/../b}]",
            22,
            "is no path of a cgroup",
            "agents.slice",
        ),
        ("[{cgroup: '**'}]", 22, "matches everything", "name what"),
        ("[{cgroup: 'a[b]'}]", 22, "globs elsewhere", "only `*`"),
        (
            "[{container: a/b}]",
            25,
            "no name of a container",
            "container: agent",
        ),
        ("[{flatpak: agent}]", 23, "no flatpak id", "com.example"),
        ("[{snap: A}]", 20, "no name of a snap", "snap list"),
        (
            "[{executable: agent}]",
            26,
            "no absolute path",
            "executable: /home",
        ),
        ("[{sha256: abc}]", 22, "no SHA-256", "64 hexadecimal"),
        (
            "[{programs_under: /}]",
            30,
            "matches everything",
            "name what",
        ),
        (
            "[{programs_under: [/a]}]",
            30,
            "is a list, not text",
            "a selector for each",
        ),
        ("[{units: a.service}]", 14, "unknown key `units`", "`unit`"),
    ] {
        one(
            &agent(&format!("    match: {value}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn who_comes_second_is_told() {
    let two = |a: &str, b: &str| {
        warnings(&format!(
            "version: 1\nagents:\n  a:\n    match: [{a}]\n  b:\n    match: [{b}]\n"
        ))
    };
    for (first, second) in [
        ("{unit: x.service}", "{unit: x.service}"),
        ("{unit: x*.service}", "{unit: xy.service}"),
        ("{programs_under: /opt}", "{programs_under: /opt}"),
    ] {
        let found = two(first, second);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("p.yaml:6:13: "), "{found:?}");
        assert!(found[0].contains("of agent `a` comes first"), "{found:?}");
    }
    // The one that says less comes second anyway, and has the rest.
    assert!(two("{unit: xy.service}", "{unit: x*.service}").is_empty());
    assert!(two("{programs_under: /opt}", "{programs_under: /opt/a}").is_empty());
    assert!(two("{unit: x.service}", "{cgroup: x.service}").is_empty());
    let found = warnings(&agent("    match: [{snap: a}, {snap: a}]\n"));
    assert!(found[0].contains("written twice"), "{found:?}");
}

#[test]
fn the_order_is_by_kind_and_then_by_depth() {
    let rank = |key: &str, text: &str| MatchBy::parse(key, text).expect(text).rank();
    assert!(rank("container", "a") < rank("unit", "a.service"));
    assert!(rank("unit", "a.service") < rank("cgroup", "a"));
    assert!(rank("sha256", &"0".repeat(64)) < rank("executable", "/a"));
    assert!(rank("executable", "/a") < rank("programs_under", "/a"));
    assert!(rank("programs_under", "/a/b") < rank("programs_under", "/a"));
}

#[test]
fn the_digest_tells_matches_apart() {
    let digest = |body: &str| read(body).digest;
    let none = digest("    mode: enforce\n");
    let some = digest("    match: [{snap: a}]\n");
    let other = digest("    match: [{snap: b}]\n");
    assert!(none != some && some != other && none != other);
}
