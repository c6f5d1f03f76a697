//! `exeat run --policy`: one run without a daemon.
//!
//! Instances of this kind share `/run` and collect each other's leftovers, so the tests
//! here take turns.

use exeat_tests::cgroup;
use exeat_tests::daemon::program;
use exeat_tests::disk::BPFFS;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::stage::{ALLOWED, ALLOWED_V4};
use exeat_tests::world::{World, open_to_all};
use exeat_tests::{unique, wait};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

const POLICY: &str = "\
version: 1
agents:
  alone:
    sandbox: none
    allow:
      - { host: allowed.example, ports: [80], http: none }
";

static TURNS: Mutex<()> = Mutex::new(());

struct Scene {
    world: World,
    _dns: exeat_tests::dns::DnsHost,
    allowed: exeat_tests::http::HttpHost,
    other: exeat_tests::http::HttpHost,
    policy: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

fn scene() -> Scene {
    let turn = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new().expect("world");
    let dns = world.dns().expect("dns");
    dns.set(ALLOWED, &[ALLOWED_V4], 60);
    let policy = world.folder().join("alone.yaml");
    std::fs::write(&policy, POLICY).expect("write");
    open_to_all(&policy).expect("chmod");
    Scene {
        allowed: world.http(&format!("{ALLOWED_V4}:80")).expect("host"),
        other: world.http("203.0.113.20:80").expect("host"),
        world,
        _dns: dns,
        policy,
        _turn: turn,
    }
}

impl Scene {
    fn command(&self, uid: u32, argv: &[&str]) -> Command {
        let mut command = self.world.laptop.command_as(uid, program());
        // Whatever configuration this machine has is not this test's.
        command
            .env_remove("EXEAT_CONFIG")
            .args(["run", "--policy"])
            .arg(&self.policy)
            .arg("--")
            .args(argv)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, argv: &[&str]) -> Output {
        self.command(0, argv).output().expect("run")
    }
}

#[test]
fn the_command_can_be_another_users() {
    let scene = scene();
    let run = |user: &str, script: &str| {
        let child = scene
            .world
            .laptop
            .command_as(0, program())
            .env_remove("EXEAT_CONFIG")
            .args(["run", "--user", user, "--policy"])
            .arg(&scene.policy)
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        let pid = child.id();
        let output = child.wait_with_output().expect("output");
        gone(pid);
        output
    };
    let output = run("nobody", "id -u; id -g; id -G; echo $HOME");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "65534\n65534\n65534\n/nonexistent\n", "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let output = run("no-such-user", "true");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("there is no user `no-such-user`"), "{said}");
}

/// What an instance that process `pid` started has on this machine.
fn traces(pid: u32) -> [PathBuf; 3] {
    let name = format!("exeat-run-{pid}");
    [
        Path::new("/run").join(&name),
        Path::new(BPFFS).join(&name),
        cgroup::root()
            .expect("cgroup2")
            .join(format!("{name}.slice")),
    ]
}

fn gone(pid: u32) {
    wait::until("every trace to go", wait::patience(), || {
        traces(pid).iter().all(|path| !path.exists()).then_some(())
    })
    .unwrap_or_else(|e| {
        let left: Vec<_> = traces(pid).into_iter().filter(|p| p.exists()).collect();
        panic!("{e}: {left:?}")
    });
}

/// The daemon of an instance: the process whose command line names its configuration.
fn daemon_of(pid: u32) -> Option<u32> {
    let config = format!("/run/exeat-run-{pid}/config.yaml");
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).any(|w| w == config.as_bytes()))
        })
}

#[test]
fn it_enforces_keeps_the_outcome_and_leaves_nothing() {
    let scene = scene();
    let url = "http://allowed.example/";
    let limit = wait::seconds(5);
    let curl = ["curl", "-sS", "--noproxy", "*", "--max-time", &limit];
    let mut child = scene
        .command(0, &[&curl[..], &[url]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let pid = child.id();
    let status = child.wait().expect("wait");
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.allowed.requests().len(), 1);
    gone(pid);
    for (url, code) in [
        ("http://203.0.113.20/", 7),
        ("http://other.example/", 6),
        ("http://203.0.113.10:81/", 7),
    ] {
        let output = scene.run(&[&curl[..], &[url]].concat());
        assert_eq!(output.status.code(), Some(code), "{url}: {output:?}");
    }
    assert!(scene.other.requests().is_empty());
    let output = scene.run(&["sh", "-c", "exit 42"]);
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(scene.run(&["no-such-program"]).status.code(), Some(127));
}

#[test]
fn the_program_has_no_child_that_it_did_not_make() {
    let scene = scene();
    // A program that waits for all of its children would otherwise wait for a daemon that
    // waits for the program.
    let script = "\
import os
try: print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError: print('no children')";
    let output = scene.run(&["/usr/bin/python3", "-I", "-c", script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "no children\n");
}

#[test]
fn a_wrong_start_says_what_is_wrong_and_leaves_nothing() {
    let scene = scene();
    let before: Vec<_> = leftovers();
    let output = scene
        .command(65_534, &["echo", "ran"])
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("root"), "{said}");

    // A policy that can be read but does not fit the tables fails in the daemon itself.
    let ports: Vec<String> = (1..=65).map(|n| (n * 2).to_string()).collect();
    let too_many = format!(
        "version: 1\nagents:\n  a:\n    allow:\n      - {{ cidr: 10.0.0.0/8, ports: [{}] }}\n",
        ports.join(", ")
    );
    for (text, words) in [
        (too_many.as_str(), "65 different port ranges"),
        ("version: 1\nagents: {}\n", "names no agent"),
        ("version: 1\nagents:\n  a: {}\n  b: {}\n", "--agent"),
        ("version: 1\nagents:\n  a:\n    alow: []\n", "alow"),
    ] {
        std::fs::write(&scene.policy, text).expect("write");
        let output = scene.run(&["echo", "ran"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(output.stdout.is_empty());
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    std::fs::remove_file(&scene.policy).expect("remove");
    let output = scene.run(&["echo", "ran"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert_eq!(leftovers(), before);
}

fn leftovers() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir("/run")
        .expect("/run")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("exeat-run-"))
        .collect();
    all.sort();
    all
}

#[test]
fn killed_its_daemon_leaves_the_refusals_and_the_next_one_collects() {
    let scene = scene();
    let argv = puppet::arguments();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut agent = Puppet::start(scene.command(0, &argv)).expect("puppet");
    let pid = agent.pid();
    let sniffer = scene.world.sniffer().expect("sniffer");
    agent
        .value(&format!("tcp({ALLOWED_V4:?}, 80)"))
        .expect("allowed");
    let daemon = daemon_of(pid).expect("its daemon");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill");
    wait::until("the daemon to be gone", wait::patience(), || {
        daemon_of(pid).is_none().then_some(())
    })
    .expect("gone");
    let token = unique::token();
    for code in [
        "tcp('203.0.113.20', 80)".to_owned(),
        format!("udp().sendto({token:?}.encode(), ('203.0.113.20', 80))"),
    ] {
        assert_eq!(agent.errno(&code).expect("ask"), libc::EPERM, "{code}");
    }
    agent
        .value(&format!("tcp({ALLOWED_V4:?}, 80)"))
        .expect("what was leased stays allowed");
    scene.world.settle(&sniffer).expect("settle");
    assert_eq!(sniffer.count(|p| p.contains(token.as_bytes())), 0);

    // Another run does not touch what something still runs in.
    assert_eq!(scene.run(&["true"]).status.code(), Some(0));
    assert!(traces(pid).iter().all(|path| path.exists()));
    assert_eq!(
        agent.errno("tcp('203.0.113.20', 80)").expect("ask"),
        libc::EPERM
    );
    drop(agent);
    // Now nothing runs in it: the next one takes it away.
    assert_eq!(scene.run(&["true"]).status.code(), Some(0));
    let left: Vec<_> = traces(pid).into_iter().filter(|p| p.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn two_at_once_do_not_meet() {
    let scene = scene();
    let argv = puppet::arguments();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut first = Puppet::start(scene.command(0, &argv)).expect("puppet");
    let mut second = Puppet::start(scene.command(0, &argv)).expect("puppet");
    let pids = [first.pid(), second.pid()];
    for agent in [&mut first, &mut second] {
        agent
            .value(&format!("tcp({ALLOWED_V4:?}, 80)"))
            .expect("allowed");
        let errno = agent.errno("tcp('203.0.113.20', 80)").expect("ask");
        assert_eq!(errno, libc::EPERM);
    }
    drop(first);
    gone(pids[0]);
    assert_eq!(
        second.errno("tcp('203.0.113.20', 80)").expect("ask"),
        libc::EPERM,
        "the end of one is not the end of the other"
    );
    drop(second);
    gone(pids[1]);
}
