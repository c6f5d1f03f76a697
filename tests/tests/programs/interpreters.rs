//! Shells, and what an interpreter does to a system: processes, signals, files, locks.

use crate::scene::Scene;
use exeat_tests::clients;

#[test]
fn a_shell_has_jobs_pipes_and_temporary_files() {
    let scene = Scene::new();
    let script = "set -e; \
        sleep 30 & kill $!; wait $! || true; \
        x=$(printf 'b\\na\\n' | sort | tr '\\n' ' '); \
        t=$(mktemp); echo text > $t; \
        mkfifo pipe; (echo through > pipe &) ; y=$(cat pipe); \
        exec 9> lock; flock 9; \
        echo \"$x$(cat $t) $y\"; echo done > result";
    assert_eq!(
        scene.says(&["/bin/bash", "-c", script]),
        "a b text through\n"
    );
    assert_eq!(scene.read("result"), "done\n");
}

#[test]
fn the_exit_code_and_the_signal_are_the_programs_own() {
    let scene = Scene::new();
    for code in [0, 1, 42, 255] {
        let output = scene.run(&["/bin/sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code));
    }
    assert_eq!(scene.run(&["/no/such/program"]).status.code(), Some(127));
}

#[test]
fn what_is_outside_is_not_to_be_seen() {
    let scene = Scene::new();
    let secret = scene.secret.display().to_string();
    assert!(!scene.run(&["/bin/cat", &secret]).status.success());
    let processes = scene.says(&["/bin/sh", "-c", "ls /proc | grep -c '^[0-9]'"]);
    let count: u32 = processes.trim().parse().expect("a number");
    assert!(count < 8, "{count} processes are seen");
    let variables = scene.says(&["/usr/bin/env"]);
    assert!(!variables.contains("GITHUB_TOKEN"), "{variables}");
    assert!(variables.contains("PATH="), "{variables}");
}

#[test]
fn vim_edits_a_file() {
    let Some(vim) = clients::find("vim") else {
        return;
    };
    let vim = vim.display().to_string();
    let scene = Scene::new();
    scene.write("text", "one\n");
    scene.says(&[
        &vim,
        "-es",
        "-u",
        "NONE",
        "-c",
        "%s/one/two/",
        "-c",
        "wq",
        "text",
    ]);
    assert_eq!(scene.read("text"), "two\n");
}

#[test]
fn java_runs() {
    let Some(java) = clients::find("java") else {
        return;
    };
    let java = java.display().to_string();
    let scene = Scene::new();
    let output = scene.run(&[&java, "-version"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
