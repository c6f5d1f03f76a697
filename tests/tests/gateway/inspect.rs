//! TLS that the gateway looks into, for rules that say so.

use super::{ALL_EVENTS, SHARED, Scene, policy};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::http::{Authority, HttpHost};
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::wait;
use std::process::Output;

const RULE: &str = "host: good.example, ports: [443], inspect: { requests: [ { methods: [GET, POST], path: '/v1/**' } ], strip: [x-secret], max_body: 64KiB, patterns: [ { name: aws-key, regex: 'AKIA[0-9A-Z]{16}' } ] }";

/// The daemon trusts the test's hosts; programs trust what `exeat run` gives them.
struct Place {
    host: HttpHost,
    stage: Stage,
}

impl Place {
    fn new(rules: &[&str]) -> Self {
        let authority = Authority::new().expect("authority");
        let folder = std::env::temp_dir();
        let roots = authority.write(&folder).expect("roots");
        let config = format!(
            "{ALL_EVENTS}gateway: {{ authorities: {} }}\n",
            roots.display()
        );
        let stage = Stage::new(&policy(rules), &config).expect("stage");
        stage.dns.set("good.example", &[SHARED], 60);
        let names = ["good.example", "evil.example"];
        let host = stage.world.https("203.0.113.30:443", &authority, &names);
        Self {
            host: host.expect("host"),
            stage,
        }
    }

    /// curl as an ordinary program of the agent: it is told of nothing.
    fn curl(&self, words: &[&str]) -> Output {
        let patience = wait::seconds(10);
        let mut argv = vec![
            "/usr/bin/curl",
            "-sS",
            "--max-time",
            &patience,
            "--noproxy",
            "*",
        ];
        argv.extend(words);
        let output = self.stage.daemon.run_as(AGENT, PLAIN_USER, &argv);
        output.expect("curl")
    }

    fn event(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let event = self.stage.daemon.event(wanted);
        event.unwrap_or_else(|e| panic!("{e:#}: {:?}", self.stage.daemon.events()))
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn requests_are_judged_by_method_path_and_what_they_hold() {
    let place = Place::new(&[RULE]);
    let ok = place.curl(&["https://good.example/v1/models", "-H", "X-Secret: hush"]);
    assert_eq!(text(&ok), "reached\n");
    let requests = place.host.requests();
    let head = requests[0].head.to_ascii_lowercase();
    assert!(head.starts_with("get /v1/models http/1.1"), "{head}");
    assert!(!head.contains("hush"), "{head}");
    for words in [
        &["https://good.example/v2/models"][..],
        &["-X", "DELETE", "https://good.example/v1/models"],
        &["https://good.example/v1/x?key=AKIAABCDEFGHIJKLMNOP"],
        &["-d", "k=AKIAABCDEFGHIJKLMNOP", "https://good.example/v1/x"],
        &["https://good.example/v1/%2e%2e/admin"],
    ] {
        let refused = text(&place.curl(words));
        assert!(refused.contains("Exeat"), "{words:?}: {refused}");
    }
    assert_eq!(
        place.host.requests().len(),
        1,
        "{:?}",
        place.host.requests()
    );
    let event = place.event(|e| e["connection"]["request"]["patterns"][0] == "aws-key");
    assert_eq!(event["verdict"], "deny");
    assert_eq!(event["reason"], "http_request");
    let event = place.event(|e| e["connection"]["request"]["status"] == 200);
    assert_eq!(event["connection"]["request"]["path"], "/v1/models");
    let told = format!(
        "{:?}{}",
        place.stage.daemon.events().expect("events"),
        place.stage.daemon.log()
    );
    assert!(!told.contains("AKIA") && !told.contains("hush"), "{told}");
}

/// A server whose certificate is not good gets nothing of the program's.
#[test]
fn a_server_that_is_not_who_it_says_gets_nothing() {
    let place = Place::new(&[
        "host: good.example, ports: [443], inspect: { pins: ['sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='] }",
    ]);
    let refused = place.curl(&["https://good.example/"]);
    assert!(!refused.status.success());
    assert!(place.host.requests().is_empty());
    let event = place.event(|e| e["connection"]["outcome"] == "pin_mismatch");
    assert_eq!(event["reason"], "server");
}

/// Off where no rule says so: nothing is made, and nobody is told to trust anything.
#[test]
fn without_a_rule_there_is_no_authority() {
    let scene = Scene::new(&["host: good.example, ports: [443], via: gateway"]);
    let output = scene
        .stage
        .daemon
        .run_as(AGENT, PLAIN_USER, &["/usr/bin/env"]);
    let output = output.expect("env");
    let bundle = scene
        .stage
        .daemon
        .runtime_dir()
        .join("inspection-bundle.pem");
    assert!(!text(&output).contains("inspection-bundle"));
    assert!(!bundle.exists());
    assert!(!scene.stage.daemon.state_dir().join("inspection").exists());
}
