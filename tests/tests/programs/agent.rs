//! An agent of npm's registry, as far as it goes without the model behind it.

use crate::scene::{HOST, Scene};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::wait;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

#[test]
fn claude_code_asks_its_model_and_nobody_else() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients/claude-code");
    let program = folder.join("node_modules/.bin/claude");
    if !program.exists() {
        let why = "Claude Code is not in target/clients: `cargo xtask setup` brings it";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
        return;
    }
    let program = program.canonicalize().expect("its path");
    let openings = "      environment: [ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL]\n";
    let scene = Scene::of(PLAIN_USER, openings);
    let mut command = scene.command(&[
        "/usr/bin/node",
        &program.display().to_string(),
        "-p",
        "say hi",
    ]);
    command.env("ANTHROPIC_API_KEY", "sk-ant-of-a-test");
    command.env("ANTHROPIC_BASE_URL", format!("https://{HOST}"));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    // It asks again and again, because that host has no model.
    let asked = wait::until("the question to the model", wait::patience(), || {
        let asked = scene.files.asked();
        asked.contains(&"/v1/messages".to_owned()).then_some(())
    });
    child.kill().expect("kill");
    let output = child.wait_with_output().expect("its end");
    asked.unwrap_or_else(|error| panic!("{error:#}\n{output:?}"));
    assert!(scene.other.asked().is_empty());
    // What else it wanted was refused, by name: reports of its use go to another host.
    let events = scene.daemon.events().expect("events");
    let (allowed, denied): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| event["verdict"] == "allow");
    let strangers: Vec<_> = allowed
        .iter()
        .filter(|event| !event.to_string().contains(HOST))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert!(!denied.is_empty());
}
