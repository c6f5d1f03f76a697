//! The sockets of local services are out of an agent's sight.
//!
//! A service that anybody on the machine may ask (systemd-resolved over varlink or D-Bus,
//! nscd, Avahi) sends what it is asked from its own cgroup, so no hook of the agent's sees
//! it. The kernel's hooks cannot tell whose socket a path leads to, because they see only the
//! path, and a program may give a thing many paths. So the agent gets a mount namespace whose `/run`
//! is a new one with what [`USUAL`] names, what its policy names, and its user's own folder.
//! What a service makes anew later is not in it. glibc then finds no resolver but the
//! servers of `resolv.conf`, and what is sent to those the gate answers.
//!
//! An ordinary user may do that only in a user namespace (user_namespaces(7)). It also keeps
//! the agent from looking through `/proc/PID/root` of the user's other processes, from tracing
//! them and from taking their sockets (pidfd_getfd(2)): these are in the parent namespace, where
//! the agent lacks the right (ptrace(2), "Ptrace access mode checking"). Root is put in none, and root can leave.

use std::{
    env, fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, stat::Mode},
    unistd::{Gid, Uid, chdir, getegid, geteuid, setgid, setuid},
};

use super::LaunchError;
use crate::policy::services::{RUN, Services};

/// What of `/run` programs need and no service answers at, from there. Lists of servers
/// because `/etc/resolv.conf` may be a link to them: the gate answers whatever they say.
pub(super) const USUAL: &[&str] = &[
    "NetworkManager/no-stub-resolv.conf",
    "NetworkManager/resolv.conf",
    "booted-system",
    "connman/resolv.conf",
    "current-system",
    "lock",
    "media",
    "opengl-driver",
    "opengl-driver-32",
    "resolvconf/resolv.conf",
    "systemd/resolve/resolv.conf",
    "systemd/resolve/stub-resolv.conf",
    "systemd/seats",
    "systemd/sessions",
    "systemd/users",
    "udev/data",
    "udev/tags",
    "utmp",
    "wrappers",
];

/// Folders elsewhere with such sockets: that of old programs, where it is no link to `/run`,
/// and those of two that resolve hosts for glibc (`sss` and `wins` of nsswitch.conf(5)).
const ELSEWHERE: &[&str] = &[
    "/var/run",
    "/var/lib/sss/pipes",
    "/var/lib/samba/winbindd_privileged",
];

/// Room for the names of mount points; nothing is stored there.
const SIZE: &str = "mode=0755,size=1m";

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |error| LaunchError::Services {
        step,
        help: help(),
        source: error.into(),
    }
}

/// Gives this process, and what it becomes, a `/run` without the machine's services; the file
/// `kept` stays where it is there. Call it
/// as the user that the command runs as, with one thread, and open nothing before.
///
/// # Errors
/// When any part of it cannot be done: then nothing may be started.
pub fn hide(services: &Services, kept: Option<&Path>) -> Result<(), LaunchError> {
    let Services::Only(named) = services else {
        return Ok(());
    };
    let folder = env::current_dir().map_err(step("find the current folder"))?;
    namespace()?;
    // What is mounted here must not be mounted for everybody.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(step("keep its mounts to itself"))?;
    let own = format!("user/{}", geteuid());
    let kept: Vec<(PathBuf, OwnedFd)> = USUAL
        .iter()
        .copied()
        .chain([own.as_str()])
        .map(|name| Path::new(RUN).join(name))
        .chain(named.iter().map(PathBuf::from))
        .chain(kept.map(Path::to_owned))
        .filter_map(|path| {
            // What is not there, or is not for this user, is not missed.
            let fd = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
            Some((path, fd))
        })
        .collect();
    empty(Path::new(RUN))?;
    for (path, fd) in &kept {
        bind(path, fd)?;
    }
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let run = identity(Path::new(RUN)).map_err(step("look at the new /run"))?;
    for other in ELSEWHERE.iter().map(Path::new) {
        // Usually a link, and then it leads to the new one already.
        if other.is_dir() && identity(other).is_ok_and(|found| found != run) {
            empty(other)?;
        }
    }
    // The current folder is still the one below what was mounted over.
    chdir(&folder).map_err(|errno| LaunchError::Services {
        step: "stay in the current folder",
        help: "It is hidden from the agent: start it from another folder, or name it in `services:` of its policy",
        source: errno.into(),
    })
}

/// Tries it, as an ordinary user: the service user `nobody` where this is root.
///
/// # Errors
/// With what stands in the way, and what to do about it.
pub fn attempt() -> Result<(), (io::Error, &'static str)> {
    /// User and group `nobody` of the kernel (`/proc/sys/kernel/overflowuid`).
    const NOBODY: u32 = 65_534;
    let mut child = Command::new("/proc/self/exe");
    child
        .arg("--version")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let try_it = || {
        if geteuid().is_root() {
            setgid(Gid::from_raw(NOBODY))?;
            setuid(Uid::from_raw(NOBODY))?;
        }
        hide(&Services::default(), None).map_err(|error| match error {
            LaunchError::Services { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })
    };
    // SAFETY: the caller is a command with one thread, so that whatever the child allocates
    // or locks is free.
    unsafe { child.pre_exec(try_it) };
    match child.status() {
        // What `nobody` may not execute is of no account: it came as far as that.
        Ok(_) => Ok(()),
        Err(error) => Err((error, help())),
    }
}

/// A mount namespace; for one who may not have that, in a user namespace in which the user is
/// the same and has no other's rights.
fn namespace() -> Result<(), LaunchError> {
    match unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => {}
        done => return done.map_err(step("get a mount namespace")),
    }
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(step("get a user namespace"))?;
    // After `--user` the files below are root's, because the kernel then takes the process for
    // one with secrets (PR_SET_DUMPABLE(2const)). It has none yet: the next step is exec.
    prctl::set_dumpable(true).map_err(step("write its ids"))?;
    // Needed for `gid_map` (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").map_err(step("write its ids"))?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1")).map_err(step("write its ids"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1")).map_err(step("write its ids"))
}

fn empty(folder: &Path) -> Result<(), LaunchError> {
    mount(
        Some("tmpfs"),
        folder,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(SIZE),
    )
    .map_err(step("mount over the folder of the services"))
}

/// Puts back what `fd` is, at `path` of the new folder.
fn bind(path: &Path, fd: &OwnedFd) -> Result<(), LaunchError> {
    const STEP: &str = "put back what the agent may see of /run";
    let is_dir = nix::sys::stat::fstat(fd)
        .map(|found| found.st_mode & libc::S_IFMT == libc::S_IFDIR)
        .map_err(step(STEP))?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(step(STEP))?;
    }
    // A path inside one that is there already is there with it.
    let made = match is_dir {
        true => fs::create_dir(path),
        false => fs::File::create_new(path).map(drop),
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(step(STEP))?,
    }
    mount(
        Some(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(step(STEP))
}

/// What an administrator can do about it.
pub(super) fn help() -> &'static str {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "AppArmor keeps user namespaces from ordinary users: give `exeat` a profile with `userns,`, or set kernel.apparmor_restrict_unprivileged_userns=0"
    } else if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        "Ordinary users may have no user namespace: set kernel.unprivileged_userns_clone=1"
    } else if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        "There may be no user namespace: set user.max_user_namespaces, which is 0"
    } else {
        "An ordinary user needs a user namespace for it (user_namespaces(7))"
    }
}
