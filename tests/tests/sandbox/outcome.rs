//! Ends and signals are those of the command.

use super::{BOTH, Scene, stderr};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::ALLOWED;
use exeat_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

#[test]
fn the_end_is_that_of_the_command() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        for code in [0, 1, 42, 125, 255] {
            let output = scene.sh(&format!("exit {code}"));
            assert_eq!(output.status.code(), Some(code), "{user}");
            assert!(output.stderr.is_empty(), "{}", stderr(&output));
        }
        for signal in [
            libc::SIGTERM,
            libc::SIGKILL,
            libc::SIGINT,
            libc::SIGPIPE,
            libc::SIGHUP,
            libc::SIGSEGV,
            libc::SIGABRT,
            libc::SIGUSR1,
        ] {
            let output = scene.sh(&format!("kill -{signal} $$"));
            assert_eq!(output.status.signal(), Some(signal), "{user}");
        }
        // SIGPIPE kills, as it does a program that no Rust program has started.
        let output = scene
            .command(&["bash", "-c", "set -o pipefail; yes | head -1"])
            .output()
            .expect("run");
        assert_eq!(output.status.code(), Some(128 + libc::SIGPIPE));
        let output = scene.command(&["no-such-program"]).output().expect("run");
        assert_eq!(output.status.code(), Some(127), "{output:?}");
        assert!(stderr(&output).contains("command not found"), "{output:?}");
        let output = scene.command(&["/etc/passwd"]).output().expect("run");
        assert_eq!(output.status.code(), Some(126), "{output:?}");
        let hidden = scene.in_home("notes/a").display().to_string();
        let output = scene.command(&[&hidden]).output().expect("run");
        assert_eq!(output.status.code(), Some(127), "{output:?}");
        assert!(stderr(&output).contains("not in the sandbox"), "{output:?}");
    }
}

#[test]
fn signals_to_the_caller_reach_the_command() {
    let scene = Scene::new(PLAIN_USER, "");
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ] {
        let number = signal as i32;
        let script = format!(
            "trap 'echo caught; exit 7' {number}; echo ready; while :; do sleep 0.05; done"
        );
        let mut child = scene
            .command(&["sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("line");
        assert_eq!(line, "ready\n");
        kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("rest");
        assert_eq!(rest, "caught\n", "{signal}");
        assert_eq!(child.wait().expect("wait").code(), Some(7), "{signal}");
    }
}

#[test]
fn a_stop_of_the_caller_from_outside_and_its_end_are_the_commands() {
    let scene = Scene::new(PLAIN_USER, "");
    let mut child = scene
        .command(&["sh", "-c", "echo ready; kill -STOP $$; echo on; exit 3"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    let pid = Pid::from_raw(child.id() as i32);
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .and_then(|rest| rest.trim().chars().next())
    };
    wait::until(
        "the caller to stop with the command",
        wait::patience(),
        || (state() == Some('T')).then_some(()),
    )
    .expect("stopped");
    kill(pid, Signal::SIGCONT).expect("continue");
    let mut said = String::new();
    child
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut said)
        .expect("read");
    assert_eq!(said, "ready\non\n");
    assert_eq!(child.wait().expect("wait").code(), Some(3));
}

#[test]
fn what_the_command_closes_is_closed() {
    let scene = Scene::new(PLAIN_USER, "");
    let mut child = scene
        .command(&["sh", "-c", "exec >&-; sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    let mut said = String::new();
    // Ends although the command goes on.
    child
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut said)
        .expect("read");
    assert!(child.try_wait().expect("wait").is_none());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("kill");
    assert_eq!(child.wait().expect("wait").signal(), Some(libc::SIGTERM));
}

#[test]
fn an_ignored_signal_and_limits_are_inherited() {
    let scene = Scene::new(PLAIN_USER, "");
    let run = scene.command(&[
        "sh",
        "-c",
        "kill -HUP $$; ulimit -n; umask; echo $0 \"$@\"",
        "name",
        "two words",
        "",
    ]);
    let mut outer = scene.stage.world.laptop.command_as(PLAIN_USER, "sh");
    outer
        .args([
            "-c",
            "trap '' HUP; ulimit -n 333; umask 027; exec \"$@\"",
            "sh",
        ])
        .arg(run.get_program())
        .args(run.get_args());
    scene.prepare(&mut outer, &scene.project);
    let output = outer.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "333\n0027\nname two words \n", "{output:?}");
}

#[test]
fn what_it_may_reach_is_what_the_policy_says() {
    for user in BOTH {
        let scene = Scene::new(user, "    sandbox: {read: [/tmp/none]}\n");
        let ask = |name: &str| {
            scene.sh(&format!(
                "curl -sS --max-time 5 --noproxy '*' http://{name}/"
            ))
        };
        let output = ask(ALLOWED);
        assert!(output.status.success(), "{user}: {}", stderr(&output));
        assert!(!ask("other.example").status.success(), "{user}");
        assert!(!ask("203.0.113.20").status.success(), "{user}");
    }
}
