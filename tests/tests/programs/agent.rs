//! An agent of npm's registry, as far as it goes without the model behind it.

use crate::scene::{Scene, said};
use exeat_tests::http::HttpHost;
use exeat_tests::wait;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// Where the agent sends what it is asked.
const MODEL: &str = "api.anthropic.com";
const MODEL_V4: &str = "203.0.113.40";

#[test]
fn claude_code_asks_its_model_and_reaches_nobody_else() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients/claude-code");
    let program = folder.join("node_modules/.bin/claude");
    if !program.exists() {
        let why = "Claude Code is not in target/clients: `cargo xtask setup` brings it";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
        return;
    }
    let folder = folder.canonicalize().expect("its folder");
    let scene = Scene::new(&format!(
        "      - {{ host: {MODEL}, ports: [443] }}\n    sandbox:\n      read: [\"{}\"]\n      \
         environment: [ANTHROPIC_API_KEY, NODE_EXTRA_CA_CERTS]\n",
        folder.display()
    ));
    scene.dns.set(MODEL, &[MODEL_V4], 600);
    let settings = scene.authority.server(&[MODEL]).expect("certificate");
    let address = format!("{MODEL_V4}:443").parse().expect("address");
    let model = HttpHost::files(
        &scene.world.internet,
        address,
        Some(settings),
        &scene.served,
    )
    .expect("the model's host");
    let program = folder.join("node_modules/.bin/claude");
    let mut command = scene.command(&["node", &program.display().to_string(), "-p", "say hi"]);
    command.env("ANTHROPIC_API_KEY", "sk-ant-of-a-test");
    command.env("NODE_EXTRA_CA_CERTS", scene.project.join("ca.pem"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    // It asks again and again, because that host has no model.
    let asked = wait::until("the question at the model's host", wait::patience(), || {
        let asked = |head: &str| head.starts_with("POST /v1/messages");
        model
            .requests()
            .iter()
            .any(|one| asked(&one.head))
            .then_some(())
    });
    child.kill().expect("kill");
    let output = child.wait_with_output().expect("its end");
    asked.unwrap_or_else(|error| panic!("{error:#}\n{}", said(&output)));
    let model: std::net::IpAddr = MODEL_V4.parse().expect("address");
    scene.nothing_was_reached_but(&[model]);
}
