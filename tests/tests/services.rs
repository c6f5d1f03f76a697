//! Services of the machine that would resolve a name for an agent, or do anything else for
//! it, from outside: none of them hears of it.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::puppet::{self, Answer, Puppet};
use exeat_tests::services::{RESOLVERS, Services};
use exeat_tests::stage::{AGENT, ALLOWED, ALLOWED_V4, OTHER_V4, POLICY, Stage};
use exeat_tests::wait;
use std::process::{Command, Stdio};

/// Ways to a Unix socket, each as a function of its path.
const WAYS: &str = "
import ctypes, tempfile
libc = ctypes.CDLL(None, use_errno=True)

def reach(path):
    s = socket(AF_UNIX, SOCK_STREAM)
    s.connect(path)
    s.close()
    return 'reached'

def by_old_name(path, outside):
    return reach('/var' + path)

def by_link(path, outside):
    link = tempfile.mktemp()
    os.symlink(path, link)
    try:
        return reach(link)
    finally:
        os.unlink(link)

def by_relative_path(path, outside):
    os.chdir('/run')
    try:
        return reach(path[len('/run/'):])
    finally:
        os.chdir('/')

def by_another_process(path, outside):
    return reach(f'/proc/{outside}/root{path}')

def by_its_folder(path, outside):
    return reach(f'/proc/{outside}/cwd{path}')

def in_its_namespace(path, outside):
    fd = os.open(f'/proc/{outside}/ns/mnt', os.O_RDONLY)
    if libc.setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), 'setns')
    return reach(path)

def by_unmounting(path, outside):
    libc.umount2(b'/run', 2)
    return reach(path)

def by_unmounting_in_a_namespace(path, outside):
    child = os.fork()
    if child == 0:
        libc.unshare(0x10000000 | 0x20000)
        libc.umount2(path.rsplit('/', 1)[0].encode(), 2)
        libc.umount2(b'/run', 2)
        try:
            reach(path)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, 'reach')
    return 'reached'
";

const FUNCTIONS: [&str; 8] = [
    "by_old_name",
    "by_link",
    "by_relative_path",
    "by_another_process",
    "by_its_folder",
    "in_its_namespace",
    "by_unmounting",
    "by_unmounting_in_a_namespace",
];

/// The policy of the stage with more lines for the agent.
fn policy(more: &str) -> String {
    format!("{POLICY}{more}")
}

fn prepared(command: Command) -> Puppet {
    let mut puppet = Puppet::start(command).expect("puppet");
    puppet.ask(WAYS).expect("functions");
    puppet
}

fn outside(stage: &Stage) -> Puppet {
    let argv = puppet::arguments();
    let mut command = stage.world.laptop.command_as(PLAIN_USER, &argv[0]);
    command.args(&argv[1..]).current_dir("/");
    prepared(command)
}

fn agent(stage: &Stage) -> Puppet {
    prepared(
        stage
            .daemon
            .run_command(AGENT, PLAIN_USER, &puppet::arguments()),
    )
}

#[test]
fn no_way_leads_to_a_service() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut services = Services::start(&stage.world.laptop, &RESOLVERS).expect("services");
    // Of the same user, in `/`.
    let mut user = outside(&stage);
    let pid = user.value("os.getpid()").expect("pid");
    let mut agent = agent(&stage);
    for path in RESOLVERS {
        assert_eq!(
            user.value(&format!("reach({path:?})")).expect(path),
            "reached"
        );
        assert_eq!(services.visitors().remove(path), Some(1), "{path}");
        let answer = agent.ask(&format!("reach({path:?})")).expect(path);
        assert_eq!(answer.errno(), libc::ENOENT, "{path}");
        for way in FUNCTIONS {
            let attempt = format!("{way}({path:?}, {pid})");
            // A way that does not work for the user proves nothing about the agent; root alone
            // enters namespaces.
            if way != "in_its_namespace" {
                assert_eq!(user.value(&attempt).expect(way), "reached", "{way}");
                assert_eq!(services.visitors().remove(path), Some(1), "{way} {path}");
            }
            let answer = agent.ask(&attempt).expect(way);
            assert!(
                matches!(answer, Answer::Errno(_)),
                "{way} {path}: {answer:?}"
            );
            assert!(services.visitors().is_empty(), "{way} {path}");
        }
        // A service that is started anew makes its socket anew.
        services.restart(path).expect("restart");
        let answer = agent.ask(&format!("reach({path:?})")).expect(path);
        assert_eq!(answer.errno(), libc::ENOENT, "{path} made anew");
        assert!(services.visitors().is_empty(), "{path} made anew");
    }
}

#[test]
fn glibc_asks_the_gate_instead() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let services = Services::start(&stage.world.laptop, &RESOLVERS).expect("services");
    // glibc asks nscd before anybody else, where there is one.
    let nscd = "/run/nscd/socket";
    let mut plain = stage.world.laptop.command_as(PLAIN_USER, "getent");
    plain
        .args(["ahosts", ALLOWED])
        .stdout(Stdio::null())
        .stdin(Stdio::null());
    let mut plain = plain.spawn().expect("getent");
    let asked = wait::until("nscd to be asked", wait::patience(), || {
        services.visitors().contains_key(nscd).then_some(())
    });
    plain.kill().expect("kill");
    plain.wait().expect("wait");
    asked.expect("asked");
    // It may have asked again before it was ended.
    services.visitors();

    let output = stage
        .daemon
        .run_as(AGENT, PLAIN_USER, &["getent", "ahosts", ALLOWED])
        .expect("run");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.contains(ALLOWED_V4), "{output:?}");
    assert!(services.visitors().is_empty());
}

#[test]
fn a_policy_shows_what_it_names() {
    let own = format!("/run/user/{PLAIN_USER}/own");
    let paths = ["/run/cups/cups.sock", "/run/cups/other.sock", &own];
    for (more, seen) in [
        ("", vec![own.as_str()]),
        ("    services: /run/cups/cups.sock\n", vec![paths[0], &own]),
        ("    services: [/run/cups]\n", paths.to_vec()),
        ("    services: [/run/not-there]\n", vec![&own]),
        ("    services: all\n", paths.to_vec()),
    ] {
        let stage = Stage::new(&policy(more), "").expect("stage");
        let services = Services::start(&stage.world.laptop, &paths).expect("services");
        let mut agent = agent(&stage);
        for path in paths {
            let answer = agent.ask(&format!("reach({path:?})")).expect(path);
            let reached = answer == Answer::Value("reached".into());
            assert_eq!(reached, seen.contains(&path), "{more} {path} {answer:?}");
        }
        assert_eq!(services.visitors().len(), seen.len(), "{more}");
    }
}

#[test]
fn to_monitor_hides_nothing() {
    let text = POLICY.replace("mode: enforce", "mode: monitor");
    let stage = Stage::new(&text, "").expect("stage");
    let _services = Services::start(&stage.world.laptop, &RESOLVERS).expect("services");
    let mut agent = agent(&stage);
    for path in RESOLVERS {
        assert_eq!(
            agent.value(&format!("reach({path:?})")).expect(path),
            "reached"
        );
    }
}

#[test]
fn the_user_of_a_run_by_root_is_the_same_in_it() {
    let stage = Stage::new(POLICY, "").expect("stage");
    // Not nscd: Exeat itself has glibc look up the user's groups.
    let services = Services::start(&stage.world.laptop, &RESOLVERS[1..2]).expect("services");
    let mut command = stage.daemon.cli(&[
        "run", "--agent", AGENT, "--user", "nobody", "--", "sh", "-c",
    ]);
    command
        .arg("id -u; cat /proc/self/uid_map; ls /run; cat /proc/self/status")
        .current_dir("/")
        .stdin(Stdio::null());
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("65534"), "{output:?}");
    let map: Vec<&str> = lines.next().expect("map").split_whitespace().collect();
    assert_eq!(map, ["65534", "65534", "1"], "{output:?}");
    assert!(!said.contains("dbus"), "{said}");
    // Rights in its own namespace would be enough to undo it.
    assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
    assert!(said.contains("CapPrm:\t0000000000000000"), "{said}");
    assert!(services.visitors().is_empty());
}

#[test]
fn what_cannot_be_hidden_is_not_started() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let _services = Services::start(&stage.world.laptop, &RESOLVERS).expect("services");
    // In a hidden folder.
    let argv = ["pwd".to_owned()];
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    // The folder is that of the laptop's mounts, which the command enters first.
    let config = stage.daemon.config();
    let script = format!(
        "cd /run/dbus && exec {} --config {} run --agent {AGENT} -- pwd",
        command.get_program().to_string_lossy(),
        config.display()
    );
    command = stage.world.laptop.command_as(PLAIN_USER, "/bin/sh");
    command.args(["-c", &script]).stdin(Stdio::null());
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(
        said.contains("current folder") && said.contains("services:"),
        "{said}"
    );

    // Where the user may have no namespace.
    let script = "
import ctypes, os, sys
uid, gid = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0
for name, text in [('setgroups', 'deny'), ('uid_map', f'{uid} {uid} 1'), ('gid_map', f'{gid} {gid} 1')]:
    open('/proc/self/' + name, 'w').write(text)
open('/proc/sys/user/max_user_namespaces', 'w').write('0')
os.execv(sys.argv[1], sys.argv[1:])
";
    let mut command = stage
        .world
        .laptop
        .command_as(PLAIN_USER, "/usr/bin/python3");
    let real = stage
        .daemon
        .run_command(AGENT, PLAIN_USER, &["true".to_owned()]);
    command
        .args(["-I", "-c", script])
        .arg(real.get_program())
        .args(real.get_args())
        .stdin(Stdio::null());
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(said.contains("max_user_namespaces"), "{said}");
    assert!(said.contains("services: all"), "{said}");
}

#[test]
fn nothing_is_taken_from_the_users_other_processes() {
    const TAKE: &str = "
def take_from(pid, fd):
    at = os.pidfd_open(pid)
    taken = libc.syscall(438, at, fd, 0)
    if taken < 0:
        raise OSError(ctypes.get_errno(), 'pidfd_getfd')
    os.write(taken, b'taken')
    return 'taken'
";
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut user = outside(&stage);
    user.ask(&format!("held = tcp({OTHER_V4:?}, 80)"))
        .expect("connected");
    let target = user.value("[os.getpid(), held.fileno()]").expect("target");
    let (pid, fd) = (&target[0], &target[1]);
    let mut friend = outside(&stage);
    friend.ask(TAKE).expect("function");
    let taken = friend
        .ask(&format!("take_from({pid}, {fd})"))
        .expect("take");
    // Where Yama is stricter than the kernel's own rule, nobody may.
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let anybody = scope.is_ok_and(|scope| scope.trim() == "0")
        || !std::path::Path::new("/proc/sys/kernel/yama").exists();
    assert_eq!(taken == Answer::Value("taken".into()), anybody, "{taken:?}");

    let mut agent = agent(&stage);
    agent.ask(TAKE).expect("function");
    let answer = agent.ask(&format!("take_from({pid}, {fd})")).expect("take");
    assert_eq!(answer.errno(), libc::EPERM, "{answer:?}");
    let answer = agent
        .ask(&format!("open('/proc/{pid}/environ').read()"))
        .expect("look");
    assert_eq!(answer.errno(), libc::EACCES, "{answer:?}");
}
