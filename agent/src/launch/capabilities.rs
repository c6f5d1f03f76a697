//! An agent has no capabilities (capabilities(7)), and gets none, also as root.
//!
//! All five sets are emptied, and the bounding set first of all, so that no file gives any back.
//! The secure bits are set and locked, by which being user 0 means nothing to the kernel: no
//! `execve` and no change of user gives a capability, here or in any child.

use std::io;

use caps::{CapSet, clear, read};
use nix::errno::Errno;

use super::LaunchError;

/// SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP and SECBIT_NO_CAP_AMBIENT_RAISE, each with its lock, and
/// the lock of SECBIT_KEEP_CAPS, which is off (linux/securebits.h).
const SECUREBITS: libc::c_ulong = 0b1110_1111;

/// Past the number of any capability.
const END: libc::c_ulong = 64;

fn step<E>(step: &'static str) -> impl FnOnce(E) -> LaunchError
where
    io::Error: From<E>,
{
    move |error| LaunchError::Step {
        step,
        source: error.into(),
    }
}

fn other(error: caps::errors::CapsError) -> io::Error {
    io::Error::other(error)
}

/// prctl(2) with numbers alone.
fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> Result<i32, Errno> {
    // SAFETY: the options of this module take no pointers.
    Errno::result(unsafe { libc::prctl(option, first, second, 0, 0) })
}

/// Takes every capability from this process and from what it becomes, for good. It needs
/// CAP_SETPCAP: root has it, and so has the first process of a user namespace.
///
/// # Errors
/// When any of it cannot be done, or a capability is still there: then nothing may be started.
pub fn drop_all() -> Result<(), LaunchError> {
    // Also those that are newer than this program: the kernel says where they end.
    for capability in 0..END {
        match prctl(libc::PR_CAPBSET_READ, capability, 0) {
            Ok(0) => {}
            Ok(_) => {
                prctl(libc::PR_CAPBSET_DROP, capability, 0)
                    .map_err(step("bound its capabilities"))?;
            }
            Err(_) => break,
        }
    }
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS, 0)
        .map_err(step("lock that root has no capabilities"))?;
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        clear(None, set)
            .map_err(other)
            .map_err(step("drop its capabilities"))?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Bounding,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        let left = read(None, set)
            .map_err(other)
            .map_err(step("read its capabilities"))?;
        if !left.is_empty() {
            return Err(step("drop all of its capabilities")(io::Error::other(
                format!("{left:?} are left"),
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::in_child::in_child;
    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::geteuid;

    /// Runs it in a child that has the right to drop them.
    fn without(act: impl FnOnce() -> i32) -> i32 {
        in_child(|| {
            if !geteuid().is_root() && unshare(CloneFlags::CLONE_NEWUSER).is_err() {
                return 249;
            }
            match drop_all() {
                Ok(()) => act(),
                Err(_) => 250,
            }
        })
    }

    /// The lines `Cap…` of `/proc/self/status` are all zero.
    fn none_left() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let sets: Vec<&str> = status
            .lines()
            .filter(|line| line.starts_with("Cap"))
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        sets.len() == 5
            && sets
                .iter()
                .all(|set| set.bytes().all(|digit| digit == b'0'))
    }

    #[test]
    fn none_is_left() {
        assert_eq!(without(|| i32::from(!none_left())), 0);
    }

    #[test]
    fn root_has_none_after_exec() {
        let code = without(|| {
            use std::os::unix::process::CommandExt as _;
            let script = "grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status \
                 && grep -q '^CapPrm:[[:space:]]*0*$' /proc/self/status && exit 42";
            let _ = std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .exec();
            252
        });
        assert_eq!(code, 42);
    }

    #[test]
    fn the_bits_are_locked() {
        let code = without(|| {
            match (
                prctl(libc::PR_GET_SECUREBITS, 0, 0),
                prctl(libc::PR_SET_SECUREBITS, 0, 0),
                prctl(libc::PR_SET_KEEPCAPS, 1, 0),
            ) {
                (Ok(bits), Err(Errno::EPERM), Err(Errno::EPERM))
                    if bits as libc::c_ulong == SECUREBITS =>
                {
                    0
                }
                _ => 1,
            }
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn what_needs_one_is_refused() {
        let code = without(|| {
            // SAFETY: plain system call with a string that ends in NUL.
            let chroot = Errno::result(unsafe { libc::chroot(c"/".as_ptr()) });
            match chroot {
                Err(Errno::EPERM) => 0,
                _ => 1,
            }
        });
        assert_eq!(code, 0);
    }
}
