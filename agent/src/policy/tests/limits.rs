//! `limits` of an agent.

use super::errors::{agent, one};
use crate::policy::{IoLimits, Limits, PolicySet, parse};

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn limits(body: &str) -> (Limits, Vec<String>) {
    let set = read(body);
    let policy = set.agents.values().next().expect("agent");
    let warnings = set.warnings.iter().map(ToString::to_string).collect();
    (policy.limits.clone(), warnings)
}

#[test]
fn they_are_written_as_people_write_amounts() {
    for body in ["", "    limits:\n", "    limits: {}\n"] {
        assert_eq!(limits(body), (Limits::default(), vec![]), "{body}");
    }
    let (found, warnings) = limits(
        "    limits:\n      memory: 2GiB\n      swap: 0\n      cpu: 150%\n      pids: 512\n      io: {read: 50MB/s, write: 10MiB/s, write_ops: 100/s}\n      open_files: 1024\n      time: 1h30m\n",
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    let expected = Limits {
        memory: Some(2 << 30),
        swap: Some(0),
        cpu: Some(150),
        pids: Some(512),
        io: IoLimits {
            read: Some(50_000_000),
            write: Some(10 << 20),
            read_ops: None,
            write_ops: Some(100),
        },
        open_files: Some(1024),
        time: Some(5_400),
    };
    assert_eq!(found, expected);
    let shown: Vec<String> = found
        .each()
        .into_iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    assert_eq!(
        shown.join(", "),
        "memory 2GiB, swap 0, cpu 150%, pids 512, io.read 50MB/s, io.write 10MiB/s, io.write_ops 100/s, open_files 1024, time 1h30m"
    );
}

#[test]
fn what_is_no_amount_is_an_error() {
    for (value, column, message, help) in [
        (
            "memory: 2G",
            22,
            "`2G` is no amount for `memory`",
            "`2GiB` (1024)",
        ),
        ("memory: 4096", 22, "too small", "at least 1048576"),
        ("memory: [1]", 22, "`memory` is a list", "`2GiB`"),
        ("cpu: 2", 19, "the number 2, without a unit", "`150%`"),
        ("cpu: 0%", 19, "too small", "at least 1"),
        ("pids: many", 20, "`many` is no amount", "a whole number"),
        ("pids: 0", 20, "too small", "at least 1"),
        ("pids: 5000000", 20, "larger than", "at most 4194304"),
        ("open_files: 3", 26, "too small", "at least 16"),
        ("time: 4", 20, "the number 4, without a unit", "`1h30m`"),
        ("time: 30m1h", 20, "`30m1h` is no amount", "`90m`"),
        (
            "io: {read: 10MB}",
            25,
            "`10MB` is no amount for `read`",
            "`10MB/s`",
        ),
        ("io: 7", 18, "`io` of agent `a` is a number", "`io: {read"),
        (
            "ram: 2GiB",
            14,
            "unknown key `ram`",
            "did you mean `memory`?",
        ),
    ] {
        let text = agent(&format!("    limits: {{{value}}}\n"));
        one(&text, 4, column, message, help);
    }
    one(
        &agent("    limits: 2GiB\n"),
        4,
        13,
        "`limits` of agent `a` is text",
        "`limits: {memory: 2GiB",
    );
}

#[test]
fn what_does_not_hold_is_warned_of() {
    let (_, warnings) = limits("    limits: {memory: 2GiB}\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("p.yaml:4:22: "), "{warnings:?}");
    assert!(warnings[0].contains("swap: 0"), "{warnings:?}");
    let (_, warnings) = limits("    mode: monitor\n    limits: {pids: 7}\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("only monitored"), "{warnings:?}");
}

#[test]
fn the_digest_tells_limits_apart() {
    let digest = |body: &str| read(body).digest;
    let none = digest("    mode: enforce\n");
    let some = digest("    limits: {pids: 7}\n");
    let other = digest("    limits: {pids: 8}\n");
    assert!(none != some && some != other);
}
