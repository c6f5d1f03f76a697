//! The hostile program as an agent that nobody launched: caught at its exec, and started in a
//! cgroup that is governed where it is. As an ordinary user.

use super::{policy, until_adopted};
use exeat_tests::attack::{Attack, Effect, Launch, PLAIN_USER};
use exeat_tests::cgroup::{self, CgroupGuard};
use exeat_tests::stage::Stage;
use exeat_tests::technique::{Technique, list, program};
use exeat_tests::{programs, unique};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What walls of the launcher stop, which it never passed, and what only leads nowhere.
const ELSEWHERE: &[&str] = &[
    "packet-in-user-namespace",
    "netns-own",
    "vsock",
    "alg",
    "netlink-netfilter",
    "netlink-xfrm",
    "bluetooth",
    "smc",
    "tipc",
    "rds",
    "can",
    "kcm",
    "qipcrtr",
    "x25",
    "nfc",
    "pppox",
    "bpf-map-create",
    "bpf-prog-load",
    "bpf-links",
    // It becomes root, and is judged as before; the launcher sets no_new_privs.
    "setuid-exec",
];
/// A bind to a port that the kernel chooses; nothing is answered from there.
const LOCAL: &[&str] = &["bind-tcp", "bind-udp"];

fn techniques(handed_in: bool) -> Vec<Technique> {
    let all = list().expect("list").into_iter();
    all.filter(|t| !t.needs_root && !ELSEWHERE.contains(&t.name.as_str()))
        .filter(|t| handed_in || !["fd3", "stdin"].contains(&t.needs.as_str()))
        .collect()
}

fn attack(stage: &Stage, techniques: &[Technique], launch: &(dyn Launch + Sync)) {
    let socket = stage.daemon.control_socket().expect("control socket");
    let attack = Attack {
        victim: stage.daemon.pid().expect("pid"),
        socket: &socket,
        folder: stage.daemon.bpffs(),
        ..Attack::typical(&stage.world, &stage.sniffer, &|_| false)
    };
    // Port 53 of every address but the name server's is free in this world.
    let sinks = attack.sinks().expect("sinks");
    let links = stage.daemon.links().expect("links");
    let reports = attack.run_all(techniques, launch).expect("attacks");
    assert!(reports.len() > 100, "{}", reports.len());
    let out: Vec<String> = reports
        .iter()
        .filter(|(name, _)| !LOCAL.contains(&name.as_str()))
        .filter(|(_, report)| report.effect == Effect::Out)
        .map(|(name, report)| format!("{name}: {}", report.said))
        .collect();
    assert!(out.is_empty(), "{}:\n{}", out.len(), out.join("\n"));
    assert_eq!(stage.daemon.links().expect("links"), links);
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
    drop(sinks);
}

/// Starts a copy that a selector names; what is started before and joins is another file.
struct Copied<'a> {
    stage: &'a Stage,
    copy: PathBuf,
    run: PathBuf,
}

impl Launch for Copied<'_> {
    fn command(&self, root: bool, argv: &[String]) -> Command {
        let uid = if root { 0 } else { PLAIN_USER };
        let mut command = self.stage.world.laptop.command_as(uid, &self.copy);
        command.args(&argv[1..]);
        command
    }

    fn before(&self, root: bool, argv: &[String]) -> Command {
        let uid = if root { 0 } else { PLAIN_USER };
        let mut command = self.stage.world.laptop.command_as(uid, &argv[0]);
        command.args(&argv[1..]);
        command
    }

    fn join(&self, pid: u32) -> anyhow::Result<()> {
        let run = self.run.join(unique::name("joined"));
        std::fs::create_dir_all(&run)?;
        cgroup::add(&run, pid)
    }
}

#[test]
fn caught_at_its_exec() {
    let folder = tempfile::tempdir().expect("folder");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).expect("permissions");
    let copy = folder.path().join("hostile-copy");
    programs::copy(&program(), &copy, 0o755).expect("copy");
    let text = policy(&[format!("executable: {}", copy.display())]);
    let stage = Stage::new(&text, "").expect("stage");
    let _holder = stage.daemon.hold("worker").expect("a process of the agent");
    let run = stage.daemon.slice().expect("slice").join("worker");
    let launch = Copied {
        stage: &stage,
        copy,
        run,
    };
    attack(&stage, &techniques(true), &launch);
}

/// Enters a cgroup as root, and goes on as an ordinary user.
struct Entered<'a> {
    stage: &'a Stage,
    cgroup: &'a Path,
}

impl Launch for Entered<'_> {
    fn command(&self, root: bool, argv: &[String]) -> Command {
        const ENTER: &str = "echo 0 > \"$0/cgroup.procs\" && exec \"$@\"";
        let mut command = self.stage.world.laptop.command_as(0, "/bin/sh");
        command.args(["-c", ENTER]).arg(self.cgroup);
        if !root {
            let user = PLAIN_USER.to_string();
            command.args([
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ]);
        }
        command.args(argv);
        command
    }

    fn before(&self, root: bool, argv: &[String]) -> Command {
        let uid = if root { 0 } else { PLAIN_USER };
        let mut command = self.stage.world.laptop.command_as(uid, &argv[0]);
        command.args(&argv[1..]);
        command
    }

    fn join(&self, pid: u32) -> anyhow::Result<()> {
        cgroup::add(self.cgroup, pid)
    }
}

#[test]
fn in_a_cgroup_that_is_governed_where_it_is() {
    let guard = CgroupGuard::new("exeat-adopt").expect("cgroup");
    let path = guard.path().join("agent.service");
    std::fs::create_dir(&path).expect("cgroup");
    let name = guard.path().file_name().expect("a name").to_string_lossy();
    let stage = Stage::new(&policy(&[format!("cgroup: {name}/*.service")]), "").expect("stage");
    until_adopted(&stage, &path);
    let launch = Entered {
        stage: &stage,
        cgroup: &path,
    };
    // What is handed in there is made elsewhere, and nobody stops the program to look.
    attack(&stage, &techniques(false), &launch);
}
