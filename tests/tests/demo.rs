//! The demo, from outside: what it prints, what it returns, and what it leaves.

use exeat_tests::daemon::program;
use exeat_tests::wait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command
        .env("EXEAT_BIN", program())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Cgroups, pins and folders that carry the pid of a demo.
fn left_by(pid: u32) -> Vec<String> {
    let prefix = format!("exeat-test-{pid}-");
    let root = exeat_tests::cgroup::root().expect("cgroup2");
    let mut left = Vec::new();
    for parent in [root.as_path(), Path::new(exeat_tests::disk::BPFFS)] {
        for entry in std::fs::read_dir(parent).expect("read the folder") {
            let name = entry.expect("entry").file_name();
            let name = name.to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                left.push(name);
            }
        }
    }
    left
}

#[test]
fn it_shows_everything_and_leaves_nothing() {
    let child = demo().spawn().expect("start the demo");
    let pid = child.id();
    let output = child.wait_with_output().expect("the demo's end");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    for line in [
        "host | 203.0.113.10:443 received `GET /hello HTTP/1.1`, by TLS for api.example.test",
        "host | 203.0.113.11:80 received `GET /page HTTP/1.1`",
        "demo  deny  udp query other.example.test A",
        "demo  deny  tcp 203.0.113.20:80  no_rule  curl",
        "demo  deny  tcp [2001:db8::20]:80  no_rule  curl",
        "demo  deny  udp 203.0.113.20:9999  no_rule  hostile",
        "root # kill -9 ",
        "a raw IPv4 address          0 packets, curl: (7)",
        "host | 203.0.113.10:443 received `GET /still-here HTTP/1.1`",
        "exeat_enforcement_active 1",
        "Nothing. Looked for: ",
        "What to try next",
    ] {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
    assert!(!said.contains("NOT AS EXPECTED"), "{said}");
    assert!(!said.contains('\x1b'), "colours without a terminal");
    assert_eq!(errors, "");
    assert_eq!(left_by(pid), Vec::<String>::new());
}

#[test]
fn interrupted_in_the_middle_it_cleans_up() {
    // A group of its own, signalled as a whole: what a terminal does at Ctrl-C.
    let mut child = demo().process_group(0).spawn().expect("start the demo");
    let pid = child.id();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("stdout"));
    // The agent runs and the walls are up.
    while !said.contains("agent $ ") {
        let length = lines.read_line(&mut said).expect("a line");
        assert!(length > 0, "the demo ended early:\n{said}");
    }
    assert_ne!(
        left_by(pid),
        Vec::<String>::new(),
        "there is nothing to clean up"
    );
    killpg(Pid::from_raw(pid as i32), Signal::SIGINT).expect("signal");
    lines.read_to_string(&mut said).expect("the rest");
    let status = wait::until("the demo to end", wait::patience(), || {
        child.try_wait().ok().flatten()
    })
    .expect("an end");
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("Interrupted: cleaning up."), "{said}");
    assert!(said.contains("Nothing. Looked for: "), "{said}");
    assert!(!said.contains("What to try next"), "{said}");
    assert_eq!(left_by(pid), Vec::<String>::new());
}

#[test]
fn without_a_binary_it_says_what_to_do() {
    let output = demo()
        .env("EXEAT_BIN", "/nonexistent/exeat")
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("cargo xtask build"), "{errors}");
}
