//! The namespaces of an agent (namespaces(7)): user, mount, pid, ipc, uts, cgroup, and network
//! where the policy says so.
//!
//! The child that this makes is the first process of the new ones; the caller stays outside of
//! all of them. An ordinary user may have them only below a user namespace in which the user is
//! the same and has no other's rights. Root has one too, with everybody in it as they are,
//! because a right in it is none over what belongs to the machine; where none can be had, root
//! goes without.

use std::{fs, io, net::Ipv4Addr};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::prctl,
    unistd::{Pid, getegid, geteuid},
};

use super::LaunchError;
use crate::policy::{Openings, sandbox::Network};

/// On which side of the fork this process is.
pub(super) enum Side {
    /// The caller, with its child's pid.
    Outside(Pid),
    /// The first process of the namespaces.
    Inside,
}

fn failed(step: &'static str) -> impl FnOnce(Errno) -> LaunchError {
    move |errno| LaunchError::Sandbox {
        step: step.to_owned(),
        help: super::services::help(),
        source: errno.into(),
    }
}

/// Forks the first process of new namespaces. It must wait until the caller has mapped its
/// users ([`map`]).
pub(super) fn fork(openings: &Openings) -> Result<Side, LaunchError> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if openings.network == Network::Own {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    // After `--user` the files below /proc/PID are root's, because the kernel then takes the
    // process for one with secrets (PR_SET_DUMPABLE(2const)). It has none yet.
    prctl::set_dumpable(true).map_err(failed("let its users be mapped"))?;
    match clone(flags | CloneFlags::CLONE_NEWUSER) {
        Err(_) if geteuid().is_root() => clone(flags),
        done => done,
    }
    .map_err(failed("make its namespaces"))
}

/// fork(2) with flags. Everything else of the C library's own is as in a fork of a process with
/// one thread.
fn clone(flags: CloneFlags) -> Result<Side, Errno> {
    let flags = flags.bits() as libc::c_long | libc::c_long::from(libc::SIGCHLD);
    // SAFETY: without a stack the child goes on here with a copy of everything, as after
    // fork(2), and this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    match Errno::result(pid)? {
        0 => Ok(Side::Inside),
        pid => Ok(Side::Outside(Pid::from_raw(pid as libc::pid_t))),
    }
}

/// Whether two processes are in the same user namespace.
fn same_users(pid: Pid) -> bool {
    let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/user")).ok();
    of("self") == of(&pid.to_string())
}

/// Says in the child's user namespace who is who, where it is in one of its own.
pub(super) fn map(child: Pid) -> Result<(), LaunchError> {
    if same_users(child) {
        return Ok(());
    }
    let write = |name: &str, text: &str| fs::write(format!("/proc/{child}/{name}"), text);
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        let all = || -> io::Result<()> {
            let gids = everybody(&fs::read_to_string("/proc/self/gid_map")?);
            let uids = everybody(&fs::read_to_string("/proc/self/uid_map")?);
            write("gid_map", &gids)?;
            write("uid_map", &uids)
        };
        if all().is_ok() {
            return Ok(());
        }
    }
    // Needed for `gid_map` (user_namespaces(7)).
    write("setgroups", "deny")
        .and_then(|()| write("uid_map", &format!("{user} {user} 1")))
        .and_then(|()| write("gid_map", &format!("{group} {group} 1")))
        .map_err(|source| LaunchError::Sandbox {
            step: "map its user".to_owned(),
            help: super::services::help(),
            source,
        })
}

/// A map in which everybody of this namespace is who they are, from the map of this namespace.
fn everybody(own: &str) -> String {
    own.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

/// Brings loopback up in a network namespace that was just made.
pub(super) fn loopback_up() -> Result<(), LaunchError> {
    let up = || -> io::Result<()> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // SAFETY: all zeros are a request without a name.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: the request is one for these flags and lives through the call.
        Errno::result(unsafe {
            libc::ioctl(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                libc::SIOCSIFFLAGS as _,
                &request,
            )
        })?;
        Ok(())
    };
    up().map_err(|source| LaunchError::Step {
        step: "bring loopback up in its network namespace",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_who_they_are() {
        let own = "         0          0 4294967295\n";
        assert_eq!(everybody(own), "0 0 4294967295\n");
        let nested = "         0     100000      65536\n      65536       1000          1\n";
        assert_eq!(everybody(nested), "0 0 65536\n65536 65536 1\n");
    }
}
