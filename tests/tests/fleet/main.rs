//! What a fleet sees of one laptop: `exeat health`, and the files of `dist/mdm` run by the programs
//! that they are for, or (where a program cannot be had) as it would run them.

mod compliance;
mod management;
mod osquery;
mod series;

use exeat_tests::daemon::Daemon;
use exeat_tests::stage::{POLICY, Stage};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of `dist/mdm`.
fn mdm(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dist/mdm")
        .join(name)
        .canonicalize()
        .unwrap_or_else(|e| panic!("dist/mdm/{name}: {e}"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn stage() -> Stage {
    Stage::new(POLICY, "").expect("stage")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run(command: &mut Command) -> Output {
    command
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// `exeat health --output json` with more arguments: its exit code and its words.
fn health(daemon: &Daemon, more: &[&str]) -> (i32, Value) {
    let arguments = [&["health", "--output", "json"], more].concat();
    let output = run(&mut daemon.cli(&arguments));
    let verdict =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    (output.status.code().expect("a code"), verdict)
}

fn grade(verdict: &Value, check: &str) -> String {
    let checks = verdict["checks"].as_array().expect("checks");
    let one = checks.iter().find(|one| one["check"] == check);
    let one = one.unwrap_or_else(|| panic!("no {check} in {verdict}"));
    one["grade"].as_str().expect("a grade").to_owned()
}
