//! What an agent may and may not reach, and what is told about it.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, ALLOWED_V4, OTHER_V4, OTHER_V6, POLICY, Stage};
use exeat_tests::technique::program;
use exeat_tests::{unique, wait};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

/// curl's exit codes: https://curl.se/docs/manpage.html#EXIT
const CANNOT_RESOLVE: i32 = 6;
const CANNOT_CONNECT: i32 = 7;

fn stage() -> Stage {
    Stage::new(POLICY, "").expect("stage")
}

/// Runs a technique of the hostile program as the agent, against the other host.
fn hostile(stage: &Stage, technique: &str) -> serde_json::Value {
    let (program, token) = (program(), unique::token());
    let argv = [
        program.to_str().expect("path"),
        technique,
        "--target",
        OTHER_V4,
        "--target6",
        OTHER_V6,
        "--port",
        "443",
        "--payload",
        &token,
    ];
    let output = stage.daemon.run_as(AGENT, PLAIN_USER, &argv).expect("run");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "{technique}: {e}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

#[test]
fn the_allowed_name_is_reached_by_https_and_http() {
    let stage = stage();
    assert_eq!(
        stage
            .curl_as(AGENT, "https://allowed.example/")
            .expect("run"),
        Some(0)
    );
    assert_eq!(
        stage
            .curl_as(AGENT, "http://allowed.example/")
            .expect("run"),
        Some(0)
    );
    let requests = stage.allowed[0].requests();
    assert_eq!(requests[0].server_name.as_deref(), Some("allowed.example"));
    assert_eq!(stage.allowed[1].requests().len(), 1);
}

#[test]
fn what_the_policy_does_not_name_is_refused_and_no_packet_leaves() {
    let stage = stage();
    let cases = [
        ("another name", "https://other.example/", CANNOT_RESOLVE),
        ("a raw address", "https://203.0.113.20/", CANNOT_CONNECT),
        (
            "a raw IPv6 address",
            "https://[2001:db8::20]/",
            CANNOT_CONNECT,
        ),
        (
            "a v4-mapped address",
            "http://[::ffff:203.0.113.20]/",
            CANNOT_CONNECT,
        ),
        (
            "another port of the allowed host",
            "http://203.0.113.10:8080/",
            CANNOT_CONNECT,
        ),
        (
            "the host's own loopback",
            "http://127.0.0.1:80/",
            CANNOT_CONNECT,
        ),
    ];
    for (case, url, code) in cases {
        assert_eq!(
            stage.curl_as(AGENT, url).expect("run"),
            Some(code),
            "{case}"
        );
    }
    let forbidden = stage.forbidden(|_| false).expect("settle");
    assert!(forbidden.is_empty(), "{forbidden:?}");
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
    assert_eq!(
        stage.dns.asked("other.example"),
        0,
        "the question itself left the laptop"
    );
    assert!(stage.other.iter().all(|host| host.requests().is_empty()));
}

#[test]
fn a_refusal_is_eperm_and_comes_at_once() {
    let stage = stage();
    for technique in [
        "tcp4",
        "tcp6",
        "tcp-mapped",
        "udp4-sendto",
        "udp6-sendto",
        "udp-mapped-sendto",
        "udp4-connect-send",
    ] {
        let start = Instant::now();
        let said = hostile(&stage, technique);
        assert_eq!(said["outcome"], "refused", "{technique}: {said}");
        assert_eq!(said["errno"], libc::EPERM, "{technique}: {said}");
        // A socket that only the backstop stops gives up after 1.5 s.
        assert!(
            start.elapsed() < wait::scaled(Duration::from_millis(1400)),
            "{technique} took {:?}",
            start.elapsed()
        );
    }
    assert!(stage.forbidden(|_| false).expect("settle").is_empty());
}

#[test]
fn a_refusal_is_listed_with_process_destination_and_reason() {
    let stage = stage();
    stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == OTHER_V4 && e["dest"]["port"] == 443)
        .expect("event");
    assert_eq!(event["agent"], AGENT);
    assert_eq!(event["verdict"], "deny");
    assert_eq!(event["reason"], "no_rule");
    assert_eq!(event["hook"], "connect4");
    assert_eq!(event["protocol"], "tcp");
    assert_eq!(event["process"]["comm"], "curl");
    assert_eq!(event["process"]["uid"], PLAIN_USER);
    assert!(event["process"]["pid"].as_u64().is_some_and(|pid| pid > 0));
}

#[test]
fn a_refused_name_and_a_wrong_port_have_their_own_reasons() {
    let stage = stage();
    stage.curl_as(AGENT, "https://other.example/").expect("run");
    let event = stage
        .daemon
        .event(|e| e["reason"] == "name")
        .expect("event");
    assert_eq!(event["dns"]["name"], "other.example");
    stage
        .curl_as(AGENT, &format!("http://{ALLOWED_V4}:8080/"))
        .expect("run");
    let event = stage
        .daemon
        .event(|e| e["reason"] == "port")
        .expect("event");
    assert_eq!(event["dest"]["ip"], ALLOWED_V4);
    assert_eq!(event["names"][0], "allowed.example");
}

#[test]
fn metrics_count_what_was_blocked_and_allowed() {
    let stage = stage();
    let blocked = |labels: &[&str]| {
        stage
            .daemon
            .metric("exeat_flows_blocked_total", labels)
            .expect("metrics")
    };
    let no_rule = ["agent=\"worker\"", "reason=\"no_rule\"", "protocol=\"tcp\""];
    assert_eq!(blocked(&no_rule), 0.0, "pre-created at 0");
    stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    assert!(blocked(&no_rule) >= 1.0);
    assert_eq!(blocked(&["agent=\"worker\"", "reason=\"deny_rule\""]), 0.0);
    stage
        .curl_as(AGENT, "https://allowed.example/")
        .expect("run");
    let allowed = stage.daemon.metric(
        "exeat_flows_allowed_total",
        &["agent=\"worker\"", "protocol=\"tcp\""],
    );
    assert!(allowed.expect("metrics") >= 1.0);
    assert_eq!(
        stage
            .daemon
            .metric("exeat_enforcement_active", &[])
            .expect("metrics"),
        1.0
    );
}

#[test]
fn the_program_keeps_its_exit_code_user_and_environment() {
    let stage = stage();
    let run = |argv: &[&str]| stage.daemon.run_as(AGENT, PLAIN_USER, argv).expect("run");
    assert_eq!(run(&["/bin/sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(
        run(&["/usr/bin/id", "-u"]).stdout,
        format!("{PLAIN_USER}\n").as_bytes()
    );
    assert_eq!(
        run(&["/bin/sh", "-c", "kill -TERM $$"]).status.signal(),
        Some(libc::SIGTERM)
    );
    assert_eq!(
        run(&["/bin/sh", "-c", "grep NoNewPrivs /proc/self/status"]).stdout,
        b"NoNewPrivs:\t1\n"
    );
    let mut command = stage.daemon.run_command(
        AGENT,
        PLAIN_USER,
        &["/usr/bin/printenv".into(), "MARK".into()],
    );
    let output = command.env("MARK", "kept").output().expect("run");
    assert_eq!(output.stdout, b"kept\n");
}

#[test]
fn an_unknown_agent_does_not_run() {
    let stage = stage();
    let output = stage
        .daemon
        .run_as("nobody-knows", PLAIN_USER, &["/bin/echo", "ran"])
        .expect("run");
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody-knows"));
}

#[test]
fn monitor_mode_lets_through_and_tells() {
    let stage = Stage::new(&POLICY.replace("enforce", "monitor"), "").expect("stage");
    assert_eq!(
        stage.curl_as(AGENT, "http://203.0.113.20/").expect("run"),
        Some(0)
    );
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == OTHER_V4)
        .expect("event");
    assert_eq!(event["verdict"], "would_deny");
}

#[test]
fn an_agent_without_rules_reaches_nothing() {
    let stage = Stage::new("version: 1\nagents:\n  worker: {}\n", "").expect("stage");
    let argv = [
        "https://allowed.example/",
        "https://203.0.113.10/",
        "http://203.0.113.20/",
    ];
    for url in argv {
        assert_ne!(stage.curl_as(AGENT, url).expect("run"), Some(0), "{url}");
    }
    assert!(stage.forbidden(|_| false).expect("settle").is_empty());
}

#[test]
fn programs_outside_are_left_alone() {
    let stage = stage();
    let argv = stage.curl("https://other.example/");
    let output = stage
        .world
        .laptop
        .command(&argv[0])
        .args(&argv[1..])
        .output()
        .expect("curl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_new_policy_stops_what_the_old_one_allowed() {
    let stage = stage();
    assert_eq!(
        stage
            .curl_as(AGENT, "http://allowed.example/")
            .expect("run"),
        Some(0)
    );
    stage
        .daemon
        .write_policy("version: 1\nagents:\n  worker: {}\n")
        .expect("write");
    let output = stage.daemon.reload().expect("reload");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_ne!(
        stage
            .curl_as(AGENT, "http://allowed.example/")
            .expect("run"),
        Some(0)
    );
    assert_eq!(
        stage
            .curl_as(AGENT, &format!("http://{ALLOWED_V4}/"))
            .expect("run"),
        Some(CANNOT_CONNECT)
    );
    assert_eq!(stage.allowed[1].requests().len(), 1);
}
