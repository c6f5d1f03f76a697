//! Whether the sandbox of an agent can be made on this machine, for an ordinary user: every part
//! of it is tried in a child, and thrown away with it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{prctl, wait::waitpid},
    unistd::{
        ForkResult, Gid, Uid, chdir, fork, getegid, geteuid, pipe, pivot_root, setgid, setuid,
    },
};
use serde::{Deserialize, Serialize};

use super::{LaunchError, capabilities, landlock, seccomp, services};
use crate::policy::Openings;

/// User and group `nobody` of the kernel (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// A part of the sandbox. Later ones need those before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// User, mount, pid, ipc, uts and cgroup namespaces.
    Namespaces,
    /// A root of its own, with its own `/proc`.
    Root,
    /// A network namespace, which `network: own` asks for.
    Network,
    /// Landlock.
    Landlock,
    /// Having no capabilities.
    Capabilities,
    /// The filters of system calls.
    SystemCalls,
}

impl Part {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::Root,
        Self::Network,
        Self::Landlock,
        Self::Capabilities,
        Self::SystemCalls,
    ];

    /// What it is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => {
                "namespaces of an ordinary user's own (user, mount, pid, ipc, uts, cgroup)"
            }
            Self::Root => "a root and a /proc of the sandbox's own",
            Self::Network => "a network namespace of the sandbox's own (`network: own`)",
            Self::Landlock => "Landlock",
            Self::Capabilities => "no capabilities in the sandbox",
            Self::SystemCalls => "a filter of system calls (seccomp)",
        }
    }

    /// What to do where it fails.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Namespaces | Self::Root | Self::Capabilities => services::help(),
            Self::Network => "raise user.max_net_namespaces",
            Self::Landlock => {
                "boot a kernel of 6.12 or later, with `landlock` among the parameter `lsm=`"
            }
            Self::SystemCalls => "use a kernel with CONFIG_SECCOMP_FILTER",
        }
    }
}

/// What came of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub part: Part,
    /// Whether it works as it should.
    pub works: bool,
    /// What was seen.
    pub detail: String,
}

/// Tries them all, as the service user `nobody` where this is root. Call it with one thread.
///
/// # Errors
/// When there is no child to try it in.
pub fn attempt() -> io::Result<Vec<Outcome>> {
    let (ours, theirs) = pipe()?;
    // SAFETY: the caller is a command with one thread, so that whatever the child allocates or
    // locks is free; the child ends without unwinding.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ours);
            let mut told = Told(theirs.into());
            if become_ordinary().is_ok() {
                told.try_all();
            }
            // SAFETY: ends the child without the parent's clean-up.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let text = read_all(ours);
            waitpid(child, None)?;
            Ok(outcomes(&text?))
        }
    }
}

fn read_all(pipe: OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    fs::File::from(pipe).read_to_string(&mut text)?;
    Ok(text)
}

/// One for each part: what the child did not come to does not work.
fn outcomes(text: &str) -> Vec<Outcome> {
    let told: Vec<Outcome> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    Part::ALL
        .into_iter()
        .map(|part| {
            let found = told.iter().find(|outcome| outcome.part == part);
            found.cloned().unwrap_or_else(|| Outcome {
                part,
                works: false,
                detail: "was not tried, because what it needs failed".to_owned(),
            })
        })
        .collect()
}

fn become_ordinary() -> nix::Result<()> {
    if geteuid().is_root() {
        nix::unistd::setgroups(&[])?;
        setgid(Gid::from_raw(NOBODY))?;
        setuid(Uid::from_raw(NOBODY))?;
    }
    // See `services`: else the files of this process are root's.
    prctl::set_dumpable(true)
}

/// The child's side of the pipe.
struct Told(fs::File);

impl Told {
    /// Tells of a part, and whether the next one may be tried.
    fn tell(&mut self, part: Part, result: Result<String, String>) -> bool {
        let works = result.is_ok();
        let outcome = Outcome {
            part,
            works,
            detail: result.unwrap_or_else(|error| error),
        };
        let line = serde_json::to_string(&outcome).unwrap_or_default();
        let told = writeln!(self.0, "{line}");
        works && told.is_ok()
    }

    fn try_all(&mut self) {
        let works = || "works".to_owned();
        let step = namespaces().map(|()| works());
        if !self.tell(Part::Namespaces, step) {
            return;
        }
        // The first process of the new pid namespace is the next child.
        // SAFETY: as in `attempt`.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                self.try_inside();
                // SAFETY: as in `attempt`.
                unsafe { libc::_exit(0) }
            }
            Ok(ForkResult::Parent { child }) => {
                let _ = waitpid(child, None);
            }
            Err(errno) => {
                self.tell(Part::Root, Err(format!("fork: {}", errno.desc())));
            }
        }
    }

    fn try_inside(&mut self) {
        let works = || "works".to_owned();
        if !self.tell(Part::Root, root().map(|()| works())) {
            return;
        }
        let network = unshare(CloneFlags::CLONE_NEWNET).map_err(failed("unshare"));
        self.tell(Part::Network, network.map(|()| works()));
        let paths = landlock::Paths {
            write: vec!["/".into()],
            ..landlock::Paths::default()
        };
        let landlock = match landlock::restrict(&paths) {
            Ok(reached) if reached.missing.is_empty() => Ok(reached.to_string()),
            Ok(reached) => Err(format!("the sandbox is {reached}")),
            Err(error) => Err(words(&error)),
        };
        self.tell(Part::Landlock, landlock);
        let dropped = capabilities::drop_all().map_err(|error| words(&error));
        if !self.tell(Part::Capabilities, dropped.map(|()| works())) {
            return;
        }
        let filtered = seccomp::install(&Openings::default())
            .map_err(|error| words(&error))
            .and_then(|()| filters());
        self.tell(Part::SystemCalls, filtered.map(|()| works()));
    }
}

fn words(error: &LaunchError) -> String {
    match error {
        LaunchError::Step { step, source } => format!("cannot {step}: {source}"),
        other => other.to_string(),
    }
}

fn failed(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> String {
    move |errno| format!("{call}: {}", errno.desc())
}

fn namespaces() -> Result<(), String> {
    let (user, group) = (geteuid(), getegid());
    unshare(
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(failed("unshare"))?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{user} {user} 1")),
        ("/proc/self/gid_map", format!("{group} {group} 1")),
    ] {
        fs::write(file, text).map_err(|error| format!("write {file}: {error}"))?;
    }
    Ok(())
}

/// A new root on a folder that everybody has: an empty one with `/usr` and a `/proc`.
fn root() -> Result<(), String> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(failed("keep the mounts to itself"))?;
    let base = Path::new("/tmp");
    mount(
        Some("tmpfs"),
        base,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        none,
    )
    .map_err(failed("mount a tmpfs"))?;
    for name in ["usr", "proc", "old"] {
        fs::create_dir(base.join(name)).map_err(|error| format!("make a folder: {error}"))?;
    }
    mount(
        Some("/usr"),
        &base.join("usr"),
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .map_err(failed("bind /usr"))?;
    mount(
        Some("proc"),
        &base.join("proc"),
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
    .map_err(failed("mount a proc"))?;
    chdir(base).map_err(failed("chdir"))?;
    pivot_root(base, &base.join("old")).map_err(failed("pivot_root"))?;
    umount2("/old", MntFlags::MNT_DETACH).map_err(failed("umount the old root"))?;
    chdir("/").map_err(failed("chdir"))
}

/// Whether the filters hold what they should.
fn filters() -> Result<(), String> {
    let errno = |number: libc::c_long, first: libc::c_long| {
        // SAFETY: a socket of a family that no program here has, and a clone3 without arguments:
        // both fail.
        match unsafe { libc::syscall(number, first, 0, 0) } {
            -1 => io::Error::last_os_error().raw_os_error(),
            _ => None,
        }
    };
    if errno(libc::SYS_socket, libc::AF_ALG.into()) != Some(libc::EPERM)
        || errno(libc::SYS_clone3, 0) != Some(libc::ENOSYS)
    {
        return Err("it is taken, but does not hold".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::in_child::in_child;

    #[test]
    fn every_part_is_tried_here() {
        // In a child, because the caller must have one thread.
        let code = in_child(|| {
            let Ok(outcomes) = attempt() else { return 250 };
            let parts: Vec<Part> = outcomes.iter().map(|outcome| outcome.part).collect();
            if parts != Part::ALL {
                return 249;
            }
            // A machine may lack the first; what it has must hold to the end.
            match outcomes.iter().position(|outcome| !outcome.works) {
                None => 0,
                Some(at) => at as i32 + 1,
            }
        });
        assert_eq!(code, 0, "part {code} from 1 does not work here");
    }

    #[test]
    fn a_kernel_without_user_namespaces_is_told_of() {
        let code = in_child(|| {
            // In a namespace whose limit is none, no further one is made.
            if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
                return 250;
            }
            if fs::write("/proc/sys/user/max_user_namespaces", "0").is_err() {
                return 249;
            }
            let mut told = match pipe() {
                Ok((_, theirs)) => Told(theirs.into()),
                Err(_) => return 248,
            };
            // The reading end is closed, so that telling fails too.
            i32::from(namespaces().is_ok() || told.tell(Part::Root, Ok(String::new())))
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn what_was_not_reached_does_not_work() {
        let told = r#"{"part":"Namespaces","works":false,"detail":"unshare: EPERM"}"#;
        let outcomes = outcomes(told);
        assert_eq!(outcomes.len(), Part::ALL.len());
        assert!(outcomes.iter().all(|outcome| !outcome.works));
        assert_eq!(outcomes[0].detail, "unshare: EPERM");
        assert!(outcomes[1].detail.contains("was not tried"));
    }
}
