//! The walls of each agent: what holds it, what does not and why, and what its policy insists on.
//!
//! Three kinds: the hooks of cgroups, which all have or nothing runs ([`super::report::walls`]);
//! those of BPF LSM, which some kernels have; and those that `exeat run` puts up around a program
//! before it begins. Of the last the daemon knows whether this machine has what they need: a
//! launcher that cannot put one up starts nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use agent_common::layout::{Mode, wall};
use nix::{
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{major, minor},
};
use tracing::warn;

use super::engine::Engine;
use crate::{
    control::{
        protocol::{Code, Problem},
        status::{Wall, WallState},
    },
    error::chain,
    incident::{Incident, IncidentKind},
    kernel::walls::Standing,
    policy::{Openings, Policy, Sandbox, Services, require},
};

/// Where users' services have their sockets: a folder a user.
const OF_USERS: &str = "/run/user";
/// What each opening is made of there; a `*` at the end stands for any ending.
const DISPLAY: &[&str] = &["wayland-*"];
const AUDIO: &[&str] = &["pulse", "pipewire-*"];
const SSH_AGENT: &[&str] = &[
    "gcr/ssh",
    "gnupg/S.gpg-agent.ssh",
    "keyring/ssh",
    "openssh_agent",
    "ssh-agent.socket",
];
/// Where journald takes the standard output of services.
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// Where X11 has its sockets.
const X11: &str = "/tmp/.X11-unix";
/// Where ssh-agent(1) makes folders of its own, by the beginning of their names.
const SSH_FOLDERS: (&str, &str) = ("/tmp", "ssh-");

/// Whether this machine has what the launcher's walls need.
struct Machine {
    namespaces: Result<String, String>,
    landlock: Result<String, String>,
    seccomp: Result<String, String>,
}

/// It does not change while it runs, but for what an administrator forbids, and that the
/// launcher meets by itself.
static MACHINE: LazyLock<Machine> = LazyLock::new(|| Machine {
    namespaces: namespaces(),
    landlock: landlock(),
    seccomp: seccomp(),
});

fn namespaces() -> Result<String, String> {
    for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            return Err(format!("this kernel has no {kind} namespaces"));
        }
    }
    match fs::read_to_string("/proc/sys/user/max_user_namespaces") {
        Ok(text) if text.trim() == "0" => Err("user.max_user_namespaces is 0".to_owned()),
        _ => Ok("user, mount, pid, ipc, uts and cgroup namespaces".to_owned()),
    }
}

fn landlock() -> Result<String, String> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` (`include/uapi/linux/landlock.h`).
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag it takes no pointer and answers with a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    if version > 0 {
        return Ok(format!("Landlock ABI {version}"));
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel is built without Landlock".to_owned(),
        Some(libc::EOPNOTSUPP) => {
            "this kernel was booted without `landlock` among the words of `lsm=`".to_owned()
        }
        _ => format!("Landlock cannot be asked: {error}"),
    })
}

fn seccomp() -> Result<String, String> {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("kill_process") && actions.contains("errno") => {
            Ok("a list of system calls".to_owned())
        }
        _ => Err("this kernel has no filter for system calls (CONFIG_SECCOMP_FILTER)".to_owned()),
    }
}

/// The sockets of others that are open to each agent, as the kernel was told.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    told: BTreeMap<u32, BTreeSet<(u32, u64)>>,
}

/// The openings of an agent's sandbox, or why it has none.
fn openings(configured: bool, policy: &Policy) -> Result<&Openings, &'static str> {
    match &policy.sandbox {
        _ if !configured => Err("the configuration says `sandbox: false`"),
        Sandbox::None => Err("its policy says `sandbox: none`"),
        Sandbox::Walls(openings) => Ok(openings),
    }
}

/// Walls of BPF LSM that do not hold for an agent, in bits of [`wall`].
pub(super) fn open(configured: bool, policy: &Policy) -> u16 {
    match openings(configured, policy) {
        Err(_) => wall::ALL,
        // Whoever has a namespace of its own mounts in it.
        Ok(openings) if openings.user_namespaces => wall::MOUNT,
        Ok(_) => 0,
    }
}

/// By what a program of an agent reaches the user's screen or session bus, and so could click
/// on a notification; none where it cannot.
pub(super) fn clicks(configured: bool, policy: &Policy) -> Option<String> {
    if policy.mode == Mode::Monitor {
        return Some("monitor mode puts no sandbox around it".to_owned());
    }
    match openings(configured, policy) {
        Err(why) => Some(why.to_owned()),
        Ok(openings) if openings.display => Some("its policy says `display: true`".to_owned()),
        // A filtered bus lets it speak to every interface of the names that it may reach, and
        // servers have such that click.
        Ok(openings) if !openings.dbus.session.is_empty() => {
            Some("its policy opens names of the session bus".to_owned())
        }
        Ok(_) => None,
    }
}

impl Engine {
    /// The walls of an agent beside the hooks of cgroups, as they would hold for its next run.
    pub(super) fn walls_of(&self, policy: &Policy) -> Vec<Wall> {
        let opened = openings(self.sandbox, policy);
        let open = open(self.sandbox, policy);
        let mut walls: Vec<Wall> = self
            .kernel
            .walls()
            .into_iter()
            .map(|(wall, standing)| {
                let mut shown = of_lsm(wall.name, &wall.hooks(), standing);
                if open & wall.bit != 0 && shown.state == WallState::Up {
                    shown.state = WallState::Missing;
                    shown.detail = match opened {
                        Err(why) => why.to_owned(),
                        Ok(_) => "its policy says `user_namespaces: true`".to_owned(),
                    };
                }
                shown
            })
            .collect();
        let capabilities = Ok("none is left".to_owned());
        let machine = &*MACHINE;
        for (wall, there) in [
            (require::Wall::Namespaces, &machine.namespaces),
            (require::Wall::Landlock, &machine.landlock),
            (require::Wall::Capabilities, &capabilities),
            (require::Wall::Seccomp, &machine.seccomp),
        ] {
            let there = match (policy.mode, opened) {
                (Mode::Monitor, _) => Err("monitor mode changes nothing for a program".to_owned()),
                (Mode::Enforce, Err(why)) => Err(why.to_owned()),
                (Mode::Enforce, Ok(_)) => there.clone(),
            };
            let (state, detail) = match there {
                Ok(detail) => (WallState::Up, detail),
                Err(detail) => (WallState::Missing, detail),
            };
            walls.push(Wall {
                name: wall.as_str().to_owned(),
                hook: "exeat run".to_owned(),
                state,
                detail,
                leaves_out: Vec::new(),
            });
        }
        walls
    }

    /// The walls that a policy requires and that do not stand, each with its reason.
    pub(super) fn lacks(&self, policy: &Policy) -> Vec<String> {
        // Nothing is enforced for it, and so nothing is required.
        if policy.require.is_empty() || policy.mode == Mode::Monitor {
            return Vec::new();
        }
        self.walls_of(policy)
            .into_iter()
            .filter(|wall| wall.state != WallState::Up)
            .filter(|wall| policy.require.iter().any(|name| name.as_str() == wall.name))
            .map(|wall| {
                format!(
                    "`{}` is {}: {}",
                    wall.name,
                    wall.state.as_str(),
                    wall.detail
                )
            })
            .collect()
    }

    /// Refuses what would start without a wall that its policy requires.
    pub(super) fn check_required(
        &self,
        name: &str,
        policy: &Policy,
        pid: u32,
    ) -> Result<(), Problem> {
        let lacks = self.lacks(policy);
        if lacks.is_empty() {
            return Ok(());
        }
        let lacks = lacks.join("; ");
        let message = format!("the policy of `{name}` requires walls that do not stand: {lacks}");
        let incident = Incident::new(IncidentKind::WallMissing, name, message.clone());
        self.incident(incident.of_process(pid, None));
        Err(Problem::new(
            Code::NotEnforceable,
            message,
            format!(
                "see `exeat status --agent {name}` and `sudo exeat doctor`, or take them out of `require:`"
            ),
        ))
    }

    /// Tells the kernel which sockets of others are open to whom: those that are there now.
    pub(super) fn show_sockets(&mut self) {
        if !self.kernel.has_walls() {
            return;
        }
        let mut wanted: BTreeMap<u32, BTreeSet<(u32, u64)>> = BTreeMap::new();
        for agent in self.agents.values() {
            wanted.insert(agent.index, sockets(self.sandbox, &agent.policy));
        }
        for index in self.sockets.told.keys() {
            wanted.entry(*index).or_default();
        }
        for (index, sockets) in wanted {
            if self
                .sockets
                .told
                .get(&index)
                .is_some_and(|told| *told == sockets)
            {
                continue;
            }
            if let Err(error) = self.kernel.set_sockets(index, &sockets) {
                warn!(
                    error = chain(&error),
                    "the kernel was not told of all sockets"
                );
                continue;
            }
            self.sockets.told.insert(index, sockets);
        }
    }
}

/// A wall of BPF LSM in the words of status.
pub(super) fn of_lsm(name: &str, hooks: &str, standing: Standing) -> Wall {
    let (state, detail) = match standing {
        Standing::Up => (WallState::Up, String::new()),
        Standing::Missing(why) => (WallState::Missing, why),
        Standing::Failed(why) => (WallState::Failed, why),
    };
    Wall {
        name: name.to_owned(),
        hook: format!("lsm/{hooks}"),
        state,
        detail,
        leaves_out: Vec::new(),
    }
}

/// Device and inode of what is open to an agent; zeroes for everything.
fn sockets(configured: bool, policy: &Policy) -> BTreeSet<(u32, u64)> {
    let mut paths: Vec<PathBuf> = match &policy.services {
        Services::All => return BTreeSet::from([(0, 0)]),
        Services::Only(paths) => paths.iter().map(PathBuf::from).collect(),
    };
    // systemd connects a service's standard output in the service's own cgroup, and without the
    // journal gives it /dev/null.
    if !policy.matching.is_empty() {
        paths.push(JOURNAL.into());
    }
    if let Ok(openings) = openings(configured, policy) {
        if openings.display {
            paths.push(X11.into());
            paths.extend(of_users(DISPLAY));
        }
        if openings.audio {
            paths.extend(of_users(AUDIO));
        }
        if openings.ssh_agent {
            let (folder, beginning) = SSH_FOLDERS;
            paths.extend(beginning_with(Path::new(folder), beginning));
            paths.extend(of_users(SSH_AGENT));
        }
    }
    // What is not there is not open.
    paths
        .iter()
        .filter_map(|path| identity(path).ok())
        .collect()
}

/// These names in the folder of every user.
fn of_users(names: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for user in beginning_with(Path::new(OF_USERS), "") {
        for name in names {
            match name.strip_suffix('*') {
                Some(beginning) => found.extend(beginning_with(&user, beginning)),
                None => found.push(user.join(name)),
            }
        }
    }
    found
}

fn beginning_with(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
        .map(|entry| entry.path())
        .collect()
}

/// Device, as the kernel numbers it (`MKDEV`), and inode. No link is followed: who may write to
/// a folder on the way could lead root anywhere.
fn identity(path: &Path) -> io::Result<(u32, u64)> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = fs::File::from(openat2(AT_FDCWD, path, how)?);
    let found = file.metadata()?;
    let device = major(found.dev()) << 20 | minor(found.dev());
    Ok((
        u32::try_from(device).map_err(io::Error::other)?,
        found.ino(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse;

    fn policy(body: &str) -> Policy {
        let text = format!("version: 1\nagents:\n  a:\n    mode: enforce\n{body}");
        let set = parse("p.yaml", &text).expect("a policy");
        set.agents.into_values().next().expect("an agent")
    }

    #[test]
    fn no_sandbox_is_no_wall_and_namespaces_of_its_own_open_mounts() {
        assert_eq!(open(true, &policy("")), 0);
        assert_eq!(open(false, &policy("")), wall::ALL);
        assert_eq!(open(true, &policy("    sandbox: none\n")), wall::ALL);
        let own = policy("    sandbox:\n      user_namespaces: true\n");
        assert_eq!(open(true, &own), wall::MOUNT);
    }

    #[test]
    fn all_services_are_all_sockets_and_none_is_none() {
        assert_eq!(
            sockets(true, &policy("    services: all\n")),
            BTreeSet::from([(0, 0)])
        );
        assert_eq!(sockets(true, &policy("")), BTreeSet::new());
    }

    #[test]
    fn a_file_is_known_by_itself_and_never_by_a_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "").expect("a file");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        let inode = fs::metadata(&file).expect("the file").ino();
        assert_eq!(identity(&file).expect("the file").1, inode);
        assert!(identity(&link).is_err());
        let within = folder.path().join("c");
        std::os::unix::fs::symlink(folder.path(), &within).expect("a link");
        assert!(identity(&within.join("a")).is_err());
    }

    #[test]
    fn this_machine_says_what_it_has() {
        for one in [&MACHINE.namespaces, &MACHINE.landlock, &MACHINE.seccomp] {
            let said = match one {
                Ok(said) | Err(said) => said,
            };
            assert!(!said.is_empty());
        }
    }
}
