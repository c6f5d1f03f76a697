//! Each opening opens itself, and nothing else.

use super::{BOTH, Scene};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// What is tried: a name and a script that succeeds where it is open.
const PROBES: &[(&str, &str)] = &[
    ("read-notes", "cat ~/notes/a"),
    ("write-notes", "echo x > ~/notes/a && grep -q x ~/notes/a"),
    ("read-key", "test -s ~/.ssh/id_ed25519"),
    ("write-project", "echo x > file"),
    ("hooks", "echo x > .git/hooks/x"),
    ("variable", "test -n \"$MY_SETTING\""),
    ("token", "test -n \"$MY_TOKEN\""),
    (
        "network",
        "grep -q '^ *lan0\\|^ *eth0\\|^ *veth\\|^ *up' /proc/net/dev || test $(grep -c : /proc/net/dev) -gt 1",
    ),
    ("agent", "test -S \"$SSH_AUTH_SOCK\""),
    ("wayland", "test -S \"$XDG_RUNTIME_DIR/wayland-7\""),
    ("sound", "test -S \"$XDG_RUNTIME_DIR/pipewire-0\""),
    ("other-socket", "test -e \"$RUNTIME/bus\""),
    (
        "io_uring",
        "python3 -I -c 'import ctypes; l = ctypes.CDLL(None, use_errno=True); r = l.syscall(425, 1, 0); assert ctypes.get_errno() == 14'",
    ),
    (
        "ptrace",
        "python3 -I -c 'import ctypes; l = ctypes.CDLL(None); assert l.ptrace(0, 0, 0, 0) == 0'",
    ),
    (
        "userns",
        "python3 -I -c 'import ctypes; l = ctypes.CDLL(None); assert l.unshare(0x10000000) == 0'",
    ),
];

#[test]
fn each_opens_only_itself() {
    for user in BOTH {
        for (lines, open) in [
            ("", &["write-project", "network"][..]),
            ("home: read", &["write-project", "network", "read-notes"]),
            (
                "home: write",
                &["write-project", "network", "read-notes", "write-notes"],
            ),
            ("project: read", &["network"]),
            ("read: ~/notes", &["write-project", "network", "read-notes"]),
            (
                "write: ~/notes",
                &["write-project", "network", "read-notes", "write-notes"],
            ),
            ("read: ~/.ssh", &["write-project", "network", "read-key"]),
            ("autorun: true", &["write-project", "network", "hooks"]),
            (
                "environment: [MY_SETTING, RUNTIME]",
                &["write-project", "network", "variable"],
            ),
            (
                "environment: [MY_TOKEN]",
                &["write-project", "network", "token"],
            ),
            ("network: own", &["write-project"]),
            ("ssh_agent: true", &["write-project", "network", "agent"]),
            ("display: true", &["write-project", "network", "wayland"]),
            ("audio: true", &["write-project", "network", "sound"]),
            ("io_uring: true", &["write-project", "network", "io_uring"]),
            ("debug: true", &["write-project", "network", "ptrace"]),
            (
                "user_namespaces: true",
                &["write-project", "network", "userns"],
            ),
        ] {
            let scene = Scene::new(user, &format!("    sandbox:\n      {lines}\n"));
            let runtime = scene.stage.world.folder().join("runtime");
            std::fs::create_dir(&runtime).expect("folder");
            let _sockets: Vec<UnixListener> = ["agent", "wayland-7", "pipewire-0", "bus"]
                .iter()
                .map(|name| UnixListener::bind(runtime.join(name)).expect("bind"))
                .collect();
            std::os::unix::fs::chown(&runtime, Some(user), None).expect("chown");
            let script: String = PROBES
                .iter()
                .map(|(name, probe)| {
                    format!("if ( {probe} ) >/dev/null 2>&1; then echo {name}; fi\n")
                })
                .collect();
            let mut command = scene.command(&["sh", "-c", &script]);
            command
                .env("MY_SETTING", "x")
                .env("MY_TOKEN", "x")
                .env("RUNTIME", &runtime)
                .env("XDG_RUNTIME_DIR", &runtime)
                .env("WAYLAND_DISPLAY", "wayland-7")
                .env("SSH_AUTH_SOCK", runtime.join("agent"));
            let output = command.output().expect("run");
            let said = String::from_utf8_lossy(&output.stdout);
            let found: BTreeSet<&str> = said.lines().collect();
            let expected: BTreeSet<&str> = open.iter().copied().collect();
            assert_eq!(found, expected, "{user} {lines}: {output:?}");
        }
    }
}

#[test]
fn loopback_of_its_own_network_works() {
    for user in BOTH {
        let scene = Scene::new(
            user,
            "    listen:\n      - {cidr: 127.0.0.1, ports: [8080]}\n    sandbox: {network: own}\n",
        );
        assert_eq!(scene.said("ls /sys/class 2>/dev/null; cat /sys/devices/virtual/net 2>/dev/null; grep -c : /proc/net/dev"), "1");
        assert_eq!(scene.said("python3 -I -c \"import socket; s = socket.socket(); s.bind(('127.0.0.1', 8080)); print('bound')\""), "bound");
    }
}

#[test]
fn a_run_without_a_daemon_has_it_too() {
    let scene = Scene::new(0, "");
    let policy = scene.stage.world.folder().join("alone.yaml");
    let run = |more: &str, user: &[&str], script: &str| {
        std::fs::write(
            &policy,
            format!("version: 1\nagents:\n  a:\n    mode: enforce\n{more}"),
        )
        .expect("write");
        let mut command: Command = scene.stage.world.laptop.command_as(0, program());
        command
            .env_remove("EXEAT_CONFIG")
            .args(["run", "--policy"])
            .arg(&policy)
            .args(user)
            .args(["--", "sh", "-c", script]);
        scene.prepare(&mut command, &scene.project);
        command.stdin(Stdio::null()).output().expect("run")
    };
    let output = run(
        "",
        &[],
        "cat ~/.ssh/id_ed25519; ls /sys/fs/cgroup; echo x > new; exit 6",
    );
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(scene.project.join("new").exists());
    let output = run("    sandbox: none\n", &[], "cat ~/.ssh/id_ed25519");
    assert_eq!(output.stdout, b"secret: an SSH key", "{output:?}");
    let output = run("", &["--user", "nobody"], "id -u; ls /; ls /sys/fs/cgroup");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&format!("{PLAIN_USER}\n")), "{output:?}");
    assert!(
        !said.contains("work") && !said.contains("cgroup.procs"),
        "{said}"
    );
    assert!(Path::new("/sys/fs/cgroup").exists());
}
