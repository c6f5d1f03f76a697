//! What happens when something around the daemon fails: denied stays denied, allowed and
//! leased stays allowed.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::disk::TinyDisk;
use exeat_tests::stage::{AGENT, ALLOWED, ALLOWED_V4, POLICY, Stage};
use exeat_tests::wait;
use serde_json::Value;

fn works_as_before(stage: &Stage) {
    assert_eq!(
        stage
            .curl_as(AGENT, "https://allowed.example/")
            .expect("run"),
        Some(0),
        "allowed"
    );
    assert_eq!(
        stage.curl_as(AGENT, "https://203.0.113.20/").expect("run"),
        Some(7),
        "denied"
    );
}

fn name_status(status: &Value) -> Option<Value> {
    let names = status["names"].as_array()?;
    names.iter().find(|name| name["name"] == ALLOWED).cloned()
}

fn generation(stage: &Stage) -> u64 {
    let status = stage.daemon.status().expect("status");
    status["policy"]["generation"].as_u64().expect("generation")
}

#[test]
fn resolver_down_leased_names_stay_and_the_failure_shows() {
    let config = "  timeout_ms: 200\n  attempts: 1\n  min_ttl_seconds: 1\n";
    let stage = Stage::new(POLICY, config).expect("stage");
    for (fault, set) in [("silent", true), ("failing", true)] {
        match fault {
            "silent" => stage.dns.silent(set),
            _ => {
                stage.dns.silent(false);
                stage.dns.failing(set);
            }
        }
        // A shorter life than the first answer's cannot be given to it any more, so the
        // refresh is provoked by a reload, which resolves anew.
        let asked = stage.dns.asked(ALLOWED);
        stage.daemon.reload().expect("reload");
        wait::until("another query", wait::patience(), || {
            (stage.dns.asked(ALLOWED) > asked).then_some(())
        })
        .expect("the daemon resolves again");
        wait::until("the failure in status", wait::patience(), || {
            let name = name_status(&stage.daemon.status().ok()?)?;
            name["failures"].as_u64().filter(|failures| *failures > 0)
        })
        .expect("status shows the failing name");
        works_as_before(&stage);
    }
}

#[test]
fn a_name_that_moves_is_followed_and_its_old_address_has_its_grace() {
    let config = "  min_ttl_seconds: 1\n  grace_seconds: 300\n";
    // curl names the address as its host.
    let policy = POLICY.replace("ports: [443, 80]", "ports: [443, 80]\n        http: none");
    let stage = Stage::new(&policy, config).expect("stage");
    let second = stage.world.http("203.0.113.11:80").expect("second host");
    stage.dns.set(ALLOWED, &["203.0.113.11"], 1);
    stage.daemon.reload().expect("reload");
    wait::until("the new address", wait::patience(), || {
        let name = name_status(&stage.daemon.status().ok()?)?;
        name["addresses"]
            .as_array()?
            .iter()
            .any(|a| a == "203.0.113.11")
            .then_some(())
    })
    .expect("the new address is leased");
    assert_eq!(
        stage.curl_as(AGENT, "http://203.0.113.11/").expect("run"),
        Some(0)
    );
    assert_eq!(second.requests().len(), 1);
    assert_eq!(
        stage
            .curl_as(AGENT, &format!("http://{ALLOWED_V4}/"))
            .expect("run"),
        Some(0),
        "grace"
    );
}

#[test]
fn an_unreadable_policy_changes_nothing_and_is_reported() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let before = generation(&stage);
    let broken = [
        ("not YAML", "version: [1"),
        (
            "an unknown key",
            "version: 1\nagents:\n  worker:\n    alow: []\n",
        ),
        (
            "a wrong port",
            "version: 1\nagents:\n  worker:\n    allow:\n      - { host: other.example, ports: [99999] }\n",
        ),
        ("empty", ""),
    ];
    for (case, text) in broken {
        stage.daemon.write_policy(text).expect("write");
        let output = stage.daemon.reload().expect("reload");
        assert!(!output.status.success(), "{case}: accepted");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("test.yaml"),
            "{case}: does not name the file: {said}"
        );
        assert_eq!(generation(&stage), before, "{case}");
        works_as_before(&stage);
    }
    let failures = stage
        .daemon
        .metric("exeat_policy_load_failures_total", &[])
        .expect("metrics");
    assert!(failures >= broken.len() as f64);
}

#[test]
fn a_full_disk_changes_nothing() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let disk = TinyDisk::mount(&stage.world.laptop, &stage.daemon.state_dir(), 64 * 1024)
        .expect("tiny disk");
    disk.fill().expect("fill");
    works_as_before(&stage);
    stage.daemon.kill9().expect("kill");
    stage
        .daemon
        .restart()
        .expect("the daemon starts on a full disk");
    works_as_before(&stage);
    stage.daemon.stop().expect("stop");
    drop(disk);
}

#[test]
fn the_control_socket_is_closed_to_agents_of_any_user() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let before = generation(&stage);
    // The same words work outside, so it is the agent that is refused.
    assert!(
        stage
            .daemon
            .cli(&["reload"])
            .output()
            .expect("reload")
            .status
            .success()
    );
    let after = generation(&stage);
    assert!(after >= before);
    let binary = exeat_tests::daemon::program();
    let config = stage.daemon.config();
    for uid in [0, PLAIN_USER] {
        for words in [
            ["reload"].as_slice(),
            &["status"],
            &["events"],
            &["run", "--agent", AGENT, "--", "/bin/true"],
        ] {
            let mut argv = vec![
                binary.to_str().expect("path"),
                "--config",
                config.to_str().expect("path"),
            ];
            argv.extend(words);
            let output = stage.daemon.run_as(AGENT, uid, &argv).expect("run");
            assert!(
                !output.status.success(),
                "uid {uid} may {words:?} from within"
            );
        }
    }
    assert_eq!(generation(&stage), after);
}

#[test]
fn a_start_without_a_readable_policy_goes_on_with_the_last_good_one() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    works_as_before(&stage);
    for torn_down in [false, true] {
        stage.daemon.stop().expect("stop");
        if torn_down {
            stage.daemon.teardown().expect("teardown");
        }
        stage
            .daemon
            .write_policy("version: 1\nagents: [\n")
            .expect("write");
        stage.daemon.restart().expect("restart");
        let status = stage.daemon.status().expect("status");
        assert_eq!(status["health"]["state"], "degraded", "{status}");
        assert!(
            status["policy"]["last_error"]
                .as_str()
                .is_some_and(|error| error.contains("test.yaml")),
            "{status}"
        );
        wait::until("the name again", wait::patience(), || {
            let name = name_status(&stage.daemon.status().ok()?)?;
            (!name["addresses"].as_array()?.is_empty()).then_some(())
        })
        .expect("the name of the last good policy is resolved");
        works_as_before(&stage);
    }
    stage.daemon.write_policy(POLICY).expect("write");
    assert!(stage.daemon.reload().expect("reload").status.success());
    let status = stage.daemon.status().expect("status");
    assert_eq!(status["health"]["state"], "ok", "{status}");
}
