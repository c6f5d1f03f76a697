//! Every error: its place, what it says, and what it tells to write instead.

use crate::policy::{Diagnostic, parse};

fn errors(text: &str) -> Vec<Diagnostic> {
    parse("p.yaml", text).expect_err(text).errors
}

/// A file with one agent `a` whose body begins in line 4.
pub(super) fn agent(body: &str) -> String {
    format!("version: 1\nagents:\n  a:\n{body}")
}

#[track_caller]
pub(super) fn one(text: &str, line: u32, column: u32, message: &str, help: &str) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    let error = &errors[0];
    let at = error.at.expect("a place");
    assert_eq!((at.line, at.column), (line, column), "{text}\n{error}");
    assert!(error.message.contains(message), "{text}\n{error}");
    assert!(error.help.contains(help), "{text}\n{error}");
    let shown = error.to_string();
    assert!(
        shown.starts_with(&format!("p.yaml:{line}:{column}: ")),
        "{shown}"
    );
    let caret = shown.lines().nth(2).expect("the line of the caret");
    assert_eq!(caret.chars().count(), 9 + column as usize, "{shown}");
    assert!(caret.ends_with('^'), "{shown}");
}

#[test]
fn the_file_as_a_whole() {
    for text in [
        "",
        " \n\n",
        "# only a comment\n",
        "\u{feff}",
        "---\n",
        "null",
    ] {
        one_of(
            text,
            "the file is empty",
            "begin the file with `version: 1`",
        );
    }
    one(
        "- a\n",
        1,
        1,
        "a policy file is a list, not a map of keys",
        "begin the file with `version: 1`",
    );
    one(
        "hello",
        1,
        1,
        "a policy file is text",
        "begin the file with `version: 1`",
    );
    one(
        "agents: {a: {}}\n",
        1,
        1,
        "the file has no `version`",
        "write `version: 1` as its first line",
    );
    one(
        "version: 2\nagents: {}\n",
        1,
        10,
        "version 2 of the policy language is not known",
        "write `version: 1`",
    );
    one(
        "version: \"1\"\nagents: {}\n",
        1,
        10,
        "`version` is text",
        "write `version: 1`",
    );
    one(
        "version: 1.0\nagents: {}\n",
        1,
        10,
        "`version` is a number",
        "write `version: 1`",
    );
    one(
        "version: 1\n",
        1,
        1,
        "names neither agents nor groups",
        "write `agents:`",
    );
    one(
        "version: 1\nagnets: {}\nagents: {}\n",
        2,
        1,
        "unknown key `agnets` in a policy file",
        "did you mean `agents`?",
    );
    one(
        "version: 1\nnetwork: {}\nagents: {}\n",
        2,
        1,
        "unknown key `network`",
        "the keys are `version`, `agents`, `groups`",
    );
    one(
        "version: 1\nversion: 1\nagents: {}\n",
        2,
        1,
        "`version` is written twice, first in line 1",
        "keep one",
    );
    one(
        "version: 1\nagents: [a]\n",
        2,
        9,
        "`agents` is a list, not a map of names",
        "as in `my-agent:`",
    );
    one(
        "version: 1\ngroups: x\n",
        2,
        9,
        "`groups` is text, not a map of names",
        "as in `my-group:`",
    );
}

#[track_caller]
fn one_of(text: &str, message: &str, help: &str) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].message.contains(message), "{}", errors[0]);
    assert!(errors[0].help.contains(help), "{}", errors[0]);
}

#[test]
fn what_is_not_yaml() {
    for text in [
        "version: 1\nagents: {a\n",
        "version: 1\n\tagents: 1\n",
        "a: b: c\n",
        "a: \"b\n",
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].at.is_some(), "{}", errors[0]);
        assert!(errors[0].line_text.is_some(), "{}", errors[0]);
    }
    one_of(
        "version: 1\nagents: {a: {}}\n---\nversion: 1\n",
        "more than one YAML document",
        "one document a file",
    );
    one_of("version: 1\nagents: *x\n", "alias", "use a group");
    // A wildcard without quotes is an alias to YAML.
    one_of(
        &agent("    allow:\n    - host: *.example.com\n      ports: [443]\n"),
        "alias",
        "put a wildcard in quotes, as in `host: \"*.example.com\"`",
    );
}

#[test]
fn agents_and_groups() {
    one(
        "version: 1\nagents:\n  Build Bot: {}\n",
        3,
        3,
        "`Build Bot` is no name for an agent",
        "as in `build-bot`",
    );
    one(
        "version: 1\nagents:\n  ../x: {}\n",
        3,
        3,
        "`../x` is no name for an agent",
        "begins with a letter or digit",
    );
    one(
        "version: 1\ngroups:\n  G: []\n",
        3,
        3,
        "`G` is no name for a group",
        "as in `g`",
    );
    one(
        "version: 1\nagents:\n  a: {}\n  a: {}\n",
        4,
        3,
        "`a` is written twice below `agents`, first in line 3",
        "keep one of them",
    );
    one(
        "version: 1\nagents:\n  a: [x]\n",
        3,
        6,
        "agent `a` is a list",
        "write `allow:`",
    );
    one(
        &agent("    alow: []\n"),
        4,
        5,
        "unknown key `alow` in agent `a`",
        "did you mean `allow`?",
    );
    one(
        &agent("    rules: []\n"),
        4,
        5,
        "unknown key `rules` in agent `a`",
        "did you mean `allow`?",
    );
    one(
        &agent("    <<: {}\n"),
        4,
        5,
        "unknown key `<<`",
        "put the shared rules into a group",
    );
    one(
        &agent("    mode: enforced\n"),
        4,
        11,
        "`enforced` is no mode",
        "did you mean `enforce`?",
    );
    one(
        &agent("    mode: audit\n"),
        4,
        11,
        "`audit` is no mode",
        "write `monitor`",
    );
    one(
        &agent("    mode: 1\n"),
        4,
        11,
        "`mode` is a number",
        "write one of `enforce`, `monitor`",
    );
    one(
        &agent("    mode:\n"),
        4,
        5,
        "`mode` is nothing",
        "write one of",
    );
    one(
        &agent("    allow: {host: a}\n"),
        4,
        12,
        "`allow` of agent `a` is a map of keys, not a list of rules",
        "begin every rule with a dash",
    );
    one(
        &agent("    allow:\n    - a.example\n"),
        5,
        7,
        "a rule in `allow` of agent `a` is text",
        "- host: api.example.com",
    );
    one(
        "version: 1\ngroups:\n  g:\n  - {group: g}\n",
        4,
        13,
        "a group holds a group",
        "write the rules of the other group here",
    );
}

#[test]
fn all_errors_of_a_file_come_at_once_and_in_order() {
    let text = "version: 3
agents:
  Bad Name:
    alow: []
    mode: off
  a:
    allow:
    - {host: 'x.*', ports: [0], protocol: quic}
    - {group: nope}
    - {cidr: 10.0.0.1/8, ports: [1]}
    deny:
    - {cidr: 10.0.0.1, ports: []}
groups:
  g:
  - {host: 10.0.0.1, ports: [99999]}
";
    let errors = errors(text);
    let lines: Vec<u32> = errors
        .iter()
        .map(|error| error.at.expect("place").line)
        .collect();
    assert_eq!(lines, [1, 4, 5, 8, 8, 12, 15], "{errors:#?}");
    let text = text.replace("version: 3", "version: 1");
    let errors = self::errors(&text);
    let lines: Vec<u32> = errors
        .iter()
        .map(|error| error.at.expect("place").line)
        .collect();
    assert_eq!(lines, [3, 4, 5, 8, 8, 8, 9, 10, 12, 15, 15], "{errors:#?}");
}

#[test]
fn too_many_agents() {
    let mut text = String::from("version: 1\nagents:\n");
    for i in 0..256 {
        text += &format!("  a{i}: {{}}\n");
    }
    assert_eq!(
        parse("p.yaml", &text).expect("256 agents").agents.len(),
        256
    );
    text += "  zz: {}\n";
    one(&text, 259, 3, "more than 256 agents", "remove some");
}
