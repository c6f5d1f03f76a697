//! An agent behind the walls, without the launcher's own in front of them.

use exeat_tests::attack::{Launch as _, PLAIN_USER};
use exeat_tests::daemon::Holder;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::stage::{AGENT, POLICY, Stage};
use serde_json::Value;

/// Names of the walls.
pub(crate) const WALLS: [&str; 7] = [
    "lsm_unix",
    "lsm_passing",
    "lsm_cgroup",
    "lsm_ptrace",
    "lsm_families",
    "lsm_bpf",
    "lsm_mount",
];

/// The walls hold for agents with a sandbox alone.
const CONFIG: &str = "sandbox: true\n";

/// What every puppet can do besides.
const FUNCTIONS: &str = "
import ctypes, array, signal
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *[ctypes.c_long(one) if isinstance(one, int) else one for one in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), 'syscall %d' % number)
    return result

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'libc')
    return result

def unix(path, kind=SOCK_STREAM):
    s = socket(AF_UNIX, kind)
    s.settimeout(PATIENCE)
    s.connect(path)
    return s

def serve(path, kind=SOCK_STREAM):
    s = socket(AF_UNIX, kind)
    s.settimeout(PATIENCE)
    s.bind(path)
    if not path.startswith('\\0'):
        os.chmod(path, 0o777)
    if kind == SOCK_STREAM:
        s.listen()
    return s

def give(s, fd):
    s.sendmsg([b'x'], [(SOL_SOCKET, SCM_RIGHTS, array.array('i', [fd]))])

def get(s):
    data, rest, flags, who = s.recvmsg(1, CMSG_SPACE(16))
    fds = array.array('i')
    for level, kind, value in rest:
        fds.frombytes(value[:len(value) - len(value) % 4])
    return len(fds)
";

/// A policy with more lines for the agent.
pub(crate) fn policy(more: &str) -> String {
    format!("{POLICY}{more}")
}

/// A stage where a process may be made an agent by hand.
pub(crate) struct Scene {
    pub(crate) holder: Holder,
    pub(crate) stage: Stage,
}

impl Scene {
    /// `None` where the kernel has no walls of BPF LSM: then [`crate::absent`] shows that this
    /// is told.
    pub(crate) fn new(policy: &str) -> Option<Self> {
        let stage = Stage::new(policy, CONFIG).expect("stage");
        let status = stage.daemon.status().expect("status");
        if state(&status, WALLS[0]).0 != "up" {
            for wall in WALLS {
                let (standing, why) = state(&status, wall);
                assert_eq!(standing, "missing", "{wall}");
                assert!(why.len() > 10, "{wall}: {why:?}");
            }
            eprintln!(
                "this kernel has no walls of BPF LSM: {}",
                state(&status, WALLS[0]).1
            );
            return None;
        }
        for wall in WALLS {
            assert_eq!(
                state(&status, wall),
                ("up".to_owned(), String::new()),
                "{wall}"
            );
        }
        // Makes the agent's cgroup known.
        let holder = stage.daemon.hold(AGENT).expect("hold");
        Some(Self { holder, stage })
    }

    /// Nobody's.
    pub(crate) fn outsider(&self, uid: u32) -> Puppet {
        let argv = puppet::arguments();
        let mut command = self.stage.world.laptop.command_as(uid, &argv[0]);
        command.args(&argv[1..]).current_dir("/");
        let mut puppet = Puppet::start(command).expect("puppet");
        puppet.ask(FUNCTIONS).expect("functions");
        let numbers: Vec<String> = [
            ("socket", libc::SYS_socket),
            ("bpf", libc::SYS_bpf),
            ("clone3", libc::SYS_clone3),
            ("pivot_root", libc::SYS_pivot_root),
            ("fsopen", libc::SYS_fsopen),
            ("fsconfig", libc::SYS_fsconfig),
            ("fsmount", libc::SYS_fsmount),
            ("move_mount", libc::SYS_move_mount),
        ]
        .iter()
        .map(|(name, number)| format!("SYS_{name} = {number}"))
        .collect();
        puppet.ask(&numbers.join("\n")).expect("numbers");
        puppet
    }

    /// One that was moved into the agent's cgroup.
    pub(crate) fn agent(&self, uid: u32) -> Puppet {
        let puppet = self.outsider(uid);
        let launcher = self.stage.daemon.launcher(AGENT);
        launcher.join(puppet.pid()).expect("move");
        puppet
    }

    /// An event of the agent for a reason, at a hook.
    pub(crate) fn told(&self, reason: &str, hook: &str) -> Value {
        let wanted = |event: &Value| event["reason"] == reason && event["hook"] == hook;
        let event = self.stage.daemon.event(wanted).expect("an event");
        assert_eq!(event["agent"], AGENT, "{event}");
        assert_eq!(event["verdict"], "deny", "{event}");
        assert!(event["process"]["pid"].as_u64() > Some(1), "{event}");
        event
    }
}

/// State and detail of a wall of all.
pub(crate) fn state(status: &Value, wall: &str) -> (String, String) {
    let walls = status["enforcement"]["walls"].as_array().expect("walls");
    let found = walls.iter().find(|one| one["name"] == wall).expect(wall);
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("detail"))
}

/// Both users that an agent may be.
pub(crate) const USERS: [u32; 2] = [PLAIN_USER, 0];
