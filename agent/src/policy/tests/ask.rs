//! `ask` of an agent.

use super::errors::{agent, one};
use crate::asking::Asks;
use crate::policy::ask::{Ask, DEFAULT_TIMEOUT};
use crate::policy::{PolicySet, parse};

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn asked(body: &str) -> (Ask, Vec<String>) {
    let set = read(body);
    let policy = set.agents.values().next().expect("agent");
    let warnings = set.warnings.iter().map(ToString::to_string).collect();
    (policy.ask, warnings)
}

#[test]
fn a_word_or_more() {
    let ask = |who, timeout| Ask { who, timeout };
    for (body, expected) in [
        ("", Ask::default()),
        ("    ask: nobody\n", Ask::default()),
        ("    ask: user\n", ask(Asks::User, DEFAULT_TIMEOUT)),
        ("    ask: admin\n", ask(Asks::Admin, DEFAULT_TIMEOUT)),
        ("    ask: {who: user, timeout: 60s}\n", ask(Asks::User, 60)),
        (
            "    ask: {who: admin, timeout: 10m}\n",
            ask(Asks::Admin, 600),
        ),
        ("    ask: {who: user, timeout: 5s}\n", ask(Asks::User, 5)),
    ] {
        assert_eq!(asked(body), (expected, vec![]), "{body}");
    }
    assert_eq!(Ask::default().who, Asks::Nobody);
}

#[test]
fn what_nobody_can_be_asked_is_an_error() {
    for (value, column, message, help) in [
        ("boss", 10, "`boss` is no value of `ask`", "`user`"),
        ("7", 10, "`ask` of agent", "ask: user"),
        (
            "{timeout: 60s}",
            10,
            "does not say who is asked",
            "ask: user",
        ),
        ("{who: users}", 16, "`users` is no value of `who`", "`user`"),
        (
            "{who: user, timeout: 60}",
            31,
            "`timeout` is a number",
            "60s",
        ),
        ("{who: user, timeout: soon}", 31, "`soon` is no time", "60s"),
        ("{who: user, timeout: 4s}", 31, "at least 5 seconds", "60s"),
        ("{who: user, timeout: 11m}", 31, "at most 10 minutes", "60s"),
        ("{who: user, wait: 4s}", 22, "`wait`", "timeout"),
    ] {
        one(
            &agent(&format!("    ask: {value}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn what_asks_nobody_in_the_end_is_warned_of() {
    let (ask, warnings) = asked("    mode: monitor\n    ask: user\n");
    assert_eq!(ask.who, Asks::User);
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("only monitored, so nobody is asked")),
        "{warnings:?}"
    );
    let (_, warnings) = asked("    ask: {who: nobody, timeout: 60s}\n");
    assert!(
        warnings.iter().any(|w| w.contains("no question times out")),
        "{warnings:?}"
    );
}

#[test]
fn the_digest_tells_who_is_asked() {
    let digest = |body: &str| read(body).digest;
    assert_ne!(digest(""), digest("    ask: user\n"));
    assert_ne!(
        digest("    ask: user\n"),
        digest("    ask: {who: user, timeout: 9s}\n")
    );
    assert_eq!(digest(""), digest("    ask: nobody\n"));
}
