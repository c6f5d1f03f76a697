//! Files and folders.

use crate::policy::load;
use std::fs;
use std::path::{Path, PathBuf};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("file");
    }
    folder
}

fn messages(paths: &[PathBuf]) -> Vec<String> {
    let errors = load(paths).expect_err("errors").errors;
    errors.iter().map(ToString::to_string).collect()
}

fn path(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

const AGENT_A: &str = "version: 1\nagents:\n  a:\n    allow:\n    - {group: g}\n";
const GROUP_G: &str = "version: 1\ngroups:\n  g:\n  - {host: x.example, ports: [1]}\n";

#[test]
fn the_files_of_a_folder_are_one_policy() {
    let folder = folder(&[
        ("b.yaml", AGENT_A),
        ("a.yml", GROUP_G),
        ("c.yaml", "version: 1\nagents:\n  b: {}\n"),
        ("notes.txt", "not a policy"),
        (".hidden.yaml", "not a policy"),
    ]);
    let set = load(&[folder.path().to_path_buf()]).expect("policy");
    assert_eq!(set.agents.len(), 2);
    let rule = &set.agents["a"].rules[0];
    assert_eq!(Path::new(&*rule.origin.file), path(&folder, "a.yml"));
    assert_eq!(rule.origin.line, 4);
    // Named once more, it is the same file and not a second agent.
    let again = load(&[folder.path().to_path_buf(), path(&folder, "b.yaml")]).expect("policy");
    assert_eq!(again.digest, set.digest);
}

#[test]
fn an_agent_or_group_in_two_files_names_both() {
    let folder = folder(&[
        ("1.yaml", AGENT_A),
        ("2.yaml", GROUP_G),
        ("3.yaml", AGENT_A),
        ("4.yaml", GROUP_G),
    ]);
    let messages = messages(&[folder.path().to_path_buf()]);
    assert_eq!(messages.len(), 2, "{messages:#?}");
    let place = |name: &str| format!("{}:3:3", path(&folder, name).display());
    let (groups, agents) = if messages[0].contains("group") {
        (&messages[0], &messages[1])
    } else {
        (&messages[1], &messages[0])
    };
    assert!(
        agents.starts_with(&place("3.yaml"))
            && agents.contains(&format!("agent `a` is also in {}", place("1.yaml"))),
        "{agents}"
    );
    assert!(
        groups.starts_with(&place("4.yaml"))
            && groups.contains(&format!("group `g` is also in {}", place("2.yaml"))),
        "{groups}"
    );
}

#[test]
fn errors_of_all_files_come_at_once() {
    let folder = folder(&[
        ("1.yaml", "version: 1\nagents: {A: {}}\n"),
        ("2.yaml", "version: 1\nagents: {b: {x: 1}}\n"),
        ("3.yaml", ""),
    ]);
    let latin1 = path(&folder, "4.yaml");
    fs::write(&latin1, b"version: 1\n# caf\xe9\n").expect("file");
    let missing = path(&folder, "missing.yaml");
    let messages = messages(&[folder.path().to_path_buf(), missing]);
    assert_eq!(messages.len(), 5, "{messages:#?}");
    for (name, text, help) in [
        ("1.yaml:2:10", "no name for an agent", "as in `a`"),
        ("2.yaml:2:14", "unknown key `x`", "the keys are"),
        ("3.yaml:1:1", "the file is empty", "version: 1"),
        ("4.yaml", "not UTF-8 text (line 2)", "save it as UTF-8"),
        (
            "missing.yaml",
            "cannot read it: No such file",
            "look at the path",
        ),
    ] {
        let start = path(&folder, name).display().to_string();
        let found = messages
            .iter()
            .find(|message| message.starts_with(&start))
            .expect(name);
        assert!(found.contains(text) && found.contains(help), "{found}");
    }
}

#[test]
fn what_is_no_policy_file() {
    let empty = folder(&[("x.txt", "")]);
    let found = messages(&[empty.path().to_path_buf()]);
    assert!(
        found[0].contains("no `*.yaml` or `*.yml` file"),
        "{found:?}"
    );
    let found = messages(&[PathBuf::from("/dev/null")]);
    assert!(found[0].contains("not a regular file"), "{found:?}");
    let found = messages(&[]);
    assert!(found[0].contains("no policy file was named"), "{found:?}");
    let dir = folder(&[]);
    fs::create_dir(path(&dir, "x.yaml")).expect("folder");
    let found = messages(&[dir.path().to_path_buf()]);
    assert!(found[0].contains("not a regular file"), "{found:?}");
}
