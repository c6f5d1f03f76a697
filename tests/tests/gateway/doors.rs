//! The explicit proxy listeners, for programs that cannot be steered.

use super::{Scene, policy};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::AGENT;

const RULE: &str = "host: good.example, ports: [443]";

fn scene(listen: &str) -> Scene {
    let rules = policy(&[RULE]);
    Scene::with(&format!("{rules}    gateway: {{ listen: [{listen}] }}\n"))
}

/// What a program of the agent finds in its environment.
fn variable(scene: &Scene, name: &str) -> Option<String> {
    let output = scene
        .stage
        .daemon
        .run_as(AGENT, PLAIN_USER, &["/usr/bin/env"]);
    let output = output.expect("env");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

#[test]
fn by_http_connect_with_the_token_of_the_environment() {
    let mut scene = scene("http");
    let url = variable(&scene, "EXEAT_HTTP_PROXY").expect("the listener");
    assert!(
        variable(&scene, "EXEAT_SOCKS5_PROXY").is_none(),
        "not asked for"
    );
    let authority = scene.authority.display().to_string();
    let by =
        |url: &str, name: &str| format!("proxied({url:?}, '{name}:443', {name:?}, {authority:?})");
    assert_eq!(scene.asked(&by(&url, "good.example")), "reached");
    assert_eq!(scene.asked(&by(&url, "evil.example")), "403");
    let (head, tail) = url.rsplit_once('@').expect("a token");
    let wrong = format!("{}x@{tail}", &head[..head.len() - 1]);
    assert_eq!(scene.asked(&by(&wrong, "good.example")), "407");
    assert_eq!(scene.served(), ["good.example"]);
    scene.event(|e| e["reason"] == "proxy_auth");
    let event = scene.event(|e| e["verdict"] == "allow");
    assert_eq!(event["connection"]["door"], "http_proxy");
    // Nothing of the token is ever told.
    let token = head.rsplit_once(':').expect("a token").1;
    let told = format!(
        "{:?}{}",
        scene.stage.daemon.events().expect("events"),
        scene.stage.daemon.log()
    );
    assert!(!told.contains(token));
}

#[test]
fn by_socks() {
    let mut scene = scene("socks5");
    let url = variable(&scene, "EXEAT_SOCKS5_PROXY").expect("the listener");
    let authority = scene.authority.display().to_string();
    let by = |name: &str| format!("socks({url:?}, {name:?}, 443, {name:?}, {authority:?})");
    assert_eq!(scene.asked(&by("good.example")), "reached");
    let refused = scene.asked(&by("evil.example"));
    assert!(refused.starts_with("code "), "{refused}");
    assert_eq!(scene.served(), ["good.example"]);
}

#[test]
fn a_listener_that_no_policy_asks_for_is_out_of_reach() {
    let mut scene = scene("socks5");
    let url = variable(&scene, "EXEAT_SOCKS5_PROXY").expect("the listener");
    let (_, at) = url.rsplit_once('@').expect("an address");
    let host = at.split(':').next().expect("a host").to_owned();
    let state = scene.stage.daemon.runtime_dir().join("state.json");
    let state = std::fs::read(state).expect("state");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("json");
    let port = state["agents"]["worker"]["gateway"]["ports"]["http"]
        .as_u64()
        .expect("port");
    let refused = scene.agent.errno(&format!("tcp({host:?}, {port})"));
    assert_eq!(refused.expect("refused"), 1, "EPERM");
}
