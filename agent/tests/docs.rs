//! The documents say what the code does: their examples load, and the words of closed sets
//! are all there.

use std::path::Path;

use agent_common::{Hook, Reason};
use exeat::cli::{Exit, doctor};
use exeat::config::Config;
use exeat::policy::{self, Compiled};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Line number and text of every fenced block with this info string.
fn blocks(text: &str, info: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(found) = line.strip_prefix("```").filter(|rest| !rest.is_empty()) else {
            continue;
        };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        if found == info {
            blocks.push((number + 1, body.join("\n") + "\n"));
        }
    }
    blocks
}

#[test]
fn every_policy_in_the_documents_loads() {
    for (name, least) in [("README.md", 1), ("docs/policy.md", 6)] {
        let found = blocks(&document(name), "yaml policy");
        assert!(found.len() >= least, "{name} has {} policies", found.len());
        for (line, text) in found {
            let set = policy::parse(name, &text)
                .unwrap_or_else(|errors| panic!("the block at {name}:{line}:\n{errors}"));
            for policy in set.agents.values() {
                Compiled::new(policy).unwrap_or_else(|e| panic!("{name}:{line}: {e}"));
            }
        }
    }
}

#[test]
fn every_receiver_in_the_documents_is_one() {
    let found = blocks(&document("docs/shipping.md"), "yaml ship");
    assert!(found.len() >= 3, "{}", found.len());
    for (line, text) in found {
        Config::parse(Path::new("docs/shipping.md"), &text)
            .unwrap_or_else(|e| panic!("the block at docs/shipping.md:{line}: {e}"));
    }
}

#[test]
fn what_the_documents_call_an_error_is_one() {
    let found = blocks(&document("docs/policy.md"), "yaml policy-error");
    assert!(!found.is_empty());
    for (line, text) in found {
        assert!(
            policy::parse("docs/policy.md", &text).is_err(),
            "the block at docs/policy.md:{line} loads"
        );
    }
}

#[test]
fn the_configuration_in_the_documents_is_the_default_with_every_key() {
    let text = document("docs/operations.md");
    let found = blocks(&text, "yaml config");
    let [(_, block)] = found.as_slice() else {
        panic!("{} configurations in docs/operations.md", found.len());
    };
    let config = Config::parse(Path::new("docs/operations.md"), block).expect("configuration");
    assert_eq!(config, Config::default());
    // What a key may be, the reader itself says.
    for section in [
        "",
        "resolver: ",
        "events: ",
        "control: ",
        "asking: ",
        "history: ",
        "detect: ",
        "bundle: ",
    ] {
        let text = match section {
            "" => "nonsense: 1\n".to_owned(),
            section => format!("{section}{{nonsense: 1}}\n"),
        };
        let error = Config::parse(Path::new("c"), &text).expect_err("an unknown key");
        let message = error.to_string();
        let first = message.lines().next().expect("a line");
        let (_, keys) = first
            .split_once("expected ")
            .unwrap_or_else(|| panic!("no list of keys in {message}"));
        for key in keys.trim_start_matches("one of ").split(", ") {
            let key = key.trim_matches('`');
            assert!(
                block.contains(&format!("{key}:")),
                "`{key}` is not in the block"
            );
        }
    }
}

#[test]
fn every_control_method_is_in_its_page() {
    let text = document("docs/control.md");
    for method in exeat::control::Request::METHODS {
        let rows = text.lines().filter(|line| line.starts_with('|'));
        let found = rows
            .filter_map(|line| line.split('|').nth(1))
            .any(|cell| cell.contains(&format!("`{method}`")));
        assert!(found, "`{method}` has no row in docs/control.md");
    }
}

#[test]
fn every_reason_hook_and_field_of_events_is_explained() {
    let text = document("docs/events.md");
    let row = |word: &str| {
        text.lines()
            .any(|line| line.starts_with(&format!("| `{word}` |")))
    };
    for reason in Reason::ALL {
        assert!(row(reason.as_str()), "reason `{}`", reason.as_str());
    }
    for hook in Hook::ALL {
        assert!(row(hook.as_str()), "hook `{}`", hook.as_str());
    }
    // From the type itself, so that a new field is missed here.
    let source = document("agent/src/flow.rs");
    let (_, body) = source
        .split_once("pub struct FlowRecord {")
        .expect("FlowRecord");
    let (body, _) = body.split_once("\n}").expect("its end");
    let fields: Vec<&str> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(field, _)| field)
        .collect();
    assert!(fields.len() > 15, "{fields:?}");
    for field in fields {
        assert!(row(field), "field `{field}`");
    }
}

#[test]
fn exit_codes_and_limits_are_those_of_the_code() {
    let operations = document("docs/operations.md");
    for (exit, meaning) in Exit::ALL {
        let row = format!("| {} | {meaning} |", exit.code());
        assert!(operations.contains(&row), "{row}");
    }
    let readme = document("README.md");
    for limit in doctor::LIMITS {
        assert!(readme.contains(&format!("- {limit}\n")), "{limit}");
    }
}

#[test]
fn every_check_of_health_has_its_row_in_its_place() {
    let text = document("docs/health.md");
    let rows = exeat::health::Check::ALL.map(|check| {
        let (code, usual) = (check.code(), check.usual().as_str());
        format!("| `{check}` | {code} | {usual} | {} |\n", check.about())
    });
    assert!(text.contains(&rows.concat()), "{}", rows.concat());
}

#[test]
fn techniques_that_only_the_sandbox_stops_are_in_the_threat_model() {
    let source = document("tests/tests/attacks.rs");
    let (_, table) = source.split_once("const SANDBOX").expect("SANDBOX");
    let (table, _) = table.split_once("];").expect("its end");
    // Entries are ("name", "wall"): every other quoted text is a name.
    let names: Vec<&str> = table.split('"').skip(1).step_by(4).collect();
    assert!(names.len() > 10, "{names:?}");
    let text = document("docs/threat-model.md");
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "`{name}`");
    }
}
