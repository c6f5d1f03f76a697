//! `limits:` of a policy on the real kernel. Which of them it can do depends on the controllers
//! that cgroup v2 has: where one is there its limit is shown to hold, and where it is not it
//! must be said in every place. Guests (`cargo xtask vm-test`) have all of them.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::{cgroup, wait};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn policy(limits: &str) -> String {
    format!(
        "version: 1\nagents:\n  worker:\n    limits: {{ {limits} }}\n    allow:\n      - {{ cidr: 203.0.113.10, ports: [80] }}\n"
    )
}

fn hit(stage: &Stage, what: &str) -> Value {
    stage
        .daemon
        .event(|event| {
            event["kind"] == "limit_hit"
                && event["message"]
                    .as_str()
                    .is_some_and(|m| m.starts_with(what))
        })
        .expect("an incident")
}

/// The limit's line in status: whether it holds, and the words about it.
fn shown(stage: &Stage, limit: &str) -> (bool, String) {
    let status = stage.daemon.status().expect("status");
    let agents = status["agents"].as_array().expect("agents");
    let agent = agents.iter().find(|agent| agent["name"] == AGENT);
    let limits = agent.expect("the agent")["limits"].clone();
    let limits = limits.as_array().expect("limits");
    let found = limits.iter().find(|found| found["limit"] == limit);
    let found = found.unwrap_or_else(|| panic!("no {limit} in {limits:?}"));
    let detail = found["detail"].as_str().unwrap_or_default().to_owned();
    (found["holds"] == true, detail)
}

/// Whether the controller is there. Where it is not, that the machine's words say so.
fn there(stage: &Stage, controller: &str, limit: &str) -> bool {
    let file = cgroup::root().expect("cgroup2").join("cgroup.controllers");
    let offered = std::fs::read_to_string(file).expect("controllers");
    if offered.split_whitespace().any(|name| name == controller) {
        return true;
    }
    eprintln!(
        "THE LIMIT {limit} IS NOT TRIED HERE: cgroup v2 has no controller {controller} on this machine; only that this is said is tested"
    );
    let missing = format!("{limit}: the controller is not in cgroup v2 here");
    let said = |what: &str, text: &str| {
        assert!(text.contains(&missing), "{missing}\nnot in {what}:\n{text}");
    };
    let (holds, detail) = shown(stage, limit);
    assert!(!holds);
    said("status", &format!("{limit}: {detail}"));
    let text = stage.daemon.cli(&["status"]).output().expect("status");
    assert_eq!(text.status.code(), Some(3), "it is degraded");
    said("status", &String::from_utf8_lossy(&text.stdout));
    let reload = stage.daemon.reload().expect("reload");
    said("reload", &String::from_utf8_lossy(&reload.stdout));
    let run = stage.daemon.run_as(AGENT, PLAIN_USER, &["/bin/true"]);
    let run = run.expect("run");
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    said("run", &String::from_utf8_lossy(&run.stderr));
    let file = stage.world.folder().join("check.yaml");
    std::fs::write(
        &file,
        policy("memory: 1GiB, swap: 0, cpu: 50%, pids: 5, io: { read: 1MB/s }"),
    )
    .expect("write");
    let path = file.display().to_string();
    let check = stage.daemon.cli(&["check", &path]).output().expect("check");
    said("check", &String::from_utf8_lossy(&check.stdout));
    let doctor = stage.daemon.cli(&["doctor"]).output().expect("doctor");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let line = doctor
        .lines()
        .find(|line| line.contains("not in cgroup v2 here"));
    assert!(
        line.is_some_and(|line| line.contains(controller)),
        "{doctor}"
    );
    false
}

#[test]
fn a_run_ends_when_its_time_is_up_whatever_the_daemon_does() {
    let mut stage = Stage::new(&policy("time: 6s"), "").expect("stage");
    let begun = Instant::now();
    let argv = ["sleep", "600"].map(str::to_owned);
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    let mut child = command.stdin(Stdio::null()).spawn().expect("run");
    wait::until("the run", wait::patience(), || {
        shown(&stage, "time").1.contains("left").then_some(())
    })
    .expect("is shown");
    // The time runs on without a daemon, and is not begun anew by the next one.
    stage.daemon.kill9().expect("kill");
    std::thread::sleep(Duration::from_secs(3));
    stage.daemon.restart().expect("restart");
    let status = wait::until(
        "the end",
        wait::patience() + Duration::from_secs(10),
        || child.try_wait().expect("child"),
    )
    .expect("ends");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(5), "{took:?}");
    let incident = hit(&stage, "time: ");
    assert_eq!(incident["run"], "run-0", "{incident}");
    assert_eq!(incident["agent"], AGENT);
    // A shorter time holds for a run that is under way.
    let limits = policy("time: 1h");
    stage.daemon.enforce(&limits).expect("reload");
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    let mut child = command.stdin(Stdio::null()).spawn().expect("run");
    wait::until("the run", wait::patience(), || {
        shown(&stage, "time").1.contains("59m").then_some(())
    })
    .expect("is shown");
    stage.daemon.enforce(&policy("time: 1s")).expect("reload");
    let status = wait::until("the end", wait::patience(), || {
        child.try_wait().expect("child")
    })
    .expect("ends");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[test]
fn open_files_of_each_process_are_bounded() {
    let stage = Stage::new(&policy("open_files: 64"), "").expect("stage");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet.ask("import resource, os").expect("import");
    let limits = puppet
        .value("list(resource.getrlimit(resource.RLIMIT_NOFILE))")
        .expect("limits");
    assert_eq!(limits, Value::from(vec![64, 64]));
    let open = "[os.open('/dev/null', os.O_RDONLY) for _ in range(70)]";
    assert_eq!(puppet.errno(open).expect("step"), libc::EMFILE);
    let lift = "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))";
    assert!(puppet.value(lift).is_err(), "a program lifts its limit");
    assert!(shown(&stage, "open_files").0);
}

#[test]
fn processes_are_limited_or_it_is_said_that_they_are_not() {
    let stage = Stage::new(&policy("pids: 20"), "").expect("stage");
    if !there(&stage, "pids", "pids") {
        return;
    }
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .ask("import os, time\ndef start(n):\n    for _ in range(n):\n        if os.fork() == 0:\n            time.sleep(600)\n            os._exit(0)\n")
        .expect("function");
    assert_eq!(puppet.errno("start(30)").expect("step"), libc::EAGAIN);
    let incident = hit(&stage, "pids: ");
    assert!(
        incident["message"]
            .as_str()
            .expect("text")
            .ends_with("limit of 20")
    );
    let (holds, used) = shown(&stage, "pids");
    assert!(holds && used.ends_with("in use"), "{used}");
    // Another limit holds for what runs, and none when it is gone.
    stage.daemon.enforce(&policy("pids: 40")).expect("reload");
    assert_eq!(puppet.errno("start(15)").expect("step"), 0);
    assert_eq!(puppet.errno("start(30)").expect("step"), libc::EAGAIN);
    stage.daemon.enforce(&policy("time: 1h")).expect("reload");
    assert_eq!(puppet.errno("start(30)").expect("step"), 0);
    let killed = stage.daemon.cli(&["kill", "--agent", AGENT]).output();
    assert!(killed.expect("kill").status.success());
}

#[test]
fn memory_is_limited_or_it_is_said_that_it_is_not() {
    let stage = Stage::new(&policy("memory: 64MiB, swap: 0"), "").expect("stage");
    if !there(&stage, "memory", "memory") {
        return;
    }
    // Every page of it is written.
    let code = "b = b'x' * (200 << 20)";
    let output = stage
        .daemon
        .run_as(AGENT, PLAIN_USER, &["/usr/bin/python3", "-I", "-c", code])
        .expect("run");
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");
    let incident = hit(&stage, "memory: 1 process was ended");
    assert!(
        incident["message"]
            .as_str()
            .expect("text")
            .ends_with("64MiB")
    );
    stage
        .daemon
        .enforce(&policy("memory: 1GiB, swap: 0"))
        .expect("reload");
    let output = stage
        .daemon
        .run_as(AGENT, PLAIN_USER, &["/usr/bin/python3", "-I", "-c", code])
        .expect("run");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn cpu_is_limited_or_it_is_said_that_it_is_not() {
    let stage = Stage::new(&policy("cpu: 20%"), "").expect("stage");
    if !there(&stage, "cpu", "cpu") {
        return;
    }
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    let part = puppet
        .ask("import time\ndef part():\n    a, c = time.monotonic(), time.process_time()\n    while time.monotonic() < a + 2: pass\n    return (time.process_time() - c) / (time.monotonic() - a)\n")
        .and_then(|_| puppet.value("part()"))
        .expect("part")
        .as_f64()
        .expect("number");
    assert!(part < 0.4, "{part} of a CPU");
    let (holds, held) = shown(&stage, "cpu");
    assert!(holds && held.starts_with("held back"), "{held}");
    // It is no incident.
    let events = stage.daemon.events().expect("events");
    assert!(events.iter().all(|event| event["kind"] != "limit_hit"));
}

#[test]
fn disks_are_limited_or_it_is_said_that_they_are_not() {
    let stage = Stage::new(&policy("io: { write: 10MB/s }"), "").expect("stage");
    let file = cgroup::root().expect("cgroup2").join("cgroup.controllers");
    let offered = std::fs::read_to_string(file).expect("controllers");
    let (holds, detail) = shown(&stage, "io.write");
    let disk = std::fs::read_dir("/sys/block")
        .expect("disks")
        .any(|disk| disk.expect("disk").path().join("device").exists());
    if !offered.contains("io") || !disk {
        eprintln!("THE LIMIT io IS NOT TRIED HERE: {detail}");
        assert!(!holds && !detail.is_empty());
        return;
    }
    let _holder = stage.daemon.hold(AGENT).expect("a process of the agent");
    let max = stage
        .daemon
        .slice()
        .expect("slice")
        .join(AGENT)
        .join("io.max");
    let (holds, detail) = shown(&stage, "io.write");
    if !max.exists() {
        eprintln!("THE LIMIT io IS NOT TRIED HERE: this kernel cannot throttle disks: {detail}");
        assert!(!holds && detail.contains("io.max"), "{detail}");
        return;
    }
    let text = std::fs::read_to_string(max).expect("io.max");
    assert!(text.contains("wbps=10000000"), "{text}");
    assert!(holds, "{detail}");
}

#[test]
fn a_monitored_agent_has_no_limits() {
    let monitored =
        policy("time: 1s, open_files: 64").replace("  worker:\n", "  worker:\n    mode: monitor\n");
    let stage = Stage::new(&monitored, "").expect("stage");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    std::thread::sleep(Duration::from_secs(3));
    puppet.ask("import resource").expect("import");
    let limit = puppet.value("resource.getrlimit(resource.RLIMIT_NOFILE)[0]");
    assert_ne!(limit.expect("it runs"), 64);
    assert!(!shown(&stage, "time").0);
}
