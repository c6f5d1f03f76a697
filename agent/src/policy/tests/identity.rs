//! `identity` of an agent.

use super::errors::{agent, one};
use crate::identity::Sha256;
use crate::policy::{Identity, PolicySet, parse};

const A: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn identity(body: &str) -> (Identity, Vec<String>) {
    let set = read(body);
    let policy = set.agents.values().next().expect("agent");
    let warnings = set.warnings.iter().map(ToString::to_string).collect();
    (policy.identity.clone(), warnings)
}

#[test]
fn nothing_is_asked_unless_it_is_said() {
    let (found, warnings) = identity("");
    assert!(!found.says_something());
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn each_kind_is_one_or_a_list() {
    let upper = A.to_uppercase();
    let text = format!(
        "    identity: {{sha256: [{A}, {upper}], package: nodejs, minisign: [{KEY}], all: true}}\n"
    );
    let (found, warnings) = identity(&text);
    let expected = Identity {
        sha256: [Sha256::of(b"abc")].into(),
        package: ["nodejs".to_owned()].into(),
        minisign: [KEY.to_owned()].into(),
        all: true,
    };
    assert_eq!(found, expected);
    assert!(warnings.is_empty(), "{warnings:?}");
    let (found, _) = identity("    identity:\n      package: [nodejs, \"python3*\"]\n");
    assert!(found.means_package("python3.11") && !found.all && found.says_something());
}

#[test]
fn what_asks_nothing_or_nothing_that_can_be_is_an_error() {
    for (value, column, message, help) in [
        ("{}", 15, "asks nothing of a program", "exeat identify"),
        (
            "{all: true}",
            15,
            "asks nothing of a program",
            "package: [nodejs]",
        ),
        ("[nodejs]", 15, "is a list, not a map", "package: [nodejs]"),
        ("{sha256: []}", 24, "`sha256` is empty", "leave the key out"),
        ("{sha256: abc}", 24, "`abc` is no SHA-256", "64 hexadecimal"),
        ("{sha256: [7]}", 25, "is a number, not text", "quotes"),
        (
            "{package: [\"a b\"]}",
            26,
            "no name of a package",
            "python3*",
        ),
        ("{package: \"\"}", 25, "is empty", "python3*"),
        (
            "{minisign: RWQf}",
            26,
            "no public key of minisign",
            "minisign.pub",
        ),
        (
            "{package: a, all: yes please}",
            33,
            "`all` is text",
            "all: true",
        ),
        (
            "{packages: [a]}",
            16,
            "unknown key `packages`",
            "did you mean `package`?",
        ),
    ] {
        one(
            &agent(&format!("    identity: {value}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn what_does_less_than_it_seems_to_is_warned_of() {
    let (_, warnings) = identity("    identity: {package: [\"*\"]}\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("every package"), "{warnings:?}");
    assert!(warnings[0].starts_with("p.yaml:4:26: "), "{warnings:?}");
    let both = format!("    identity: {{package: [\"*\"], sha256: {A}, all: true}}\n");
    assert!(identity(&both).1.is_empty());
    let (_, warnings) = identity("    mode: monitor\n    identity: {package: nodejs}\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("monitor mode"), "{warnings:?}");
}

#[test]
fn the_digest_tells_identities_apart() {
    let digest = |body: &str| read(body).digest;
    let all = [
        digest("    mode: enforce\n"),
        digest("    identity: {package: a}\n"),
        digest("    identity: {package: b}\n"),
        digest("    identity: {package: a, all: true}\n"),
        digest(&format!("    identity: {{sha256: {A}}}\n")),
        digest(&format!("    identity: {{minisign: {KEY}}}\n")),
    ];
    let apart: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(apart.len(), all.len());
}
