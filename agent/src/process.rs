//! What `/proc` knows of the process behind an event, and the clock that events carry.
//!
//! A pid is only a number: by the time an event is read its process may be gone and the
//! number given to another. A process that started after the event is therefore not the
//! one; its paths are left out rather than guessed.

use std::path::PathBuf;

use procfs::process::Process;

use crate::flow::BootClock;

/// What is known of a process. Fields that cannot be read are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The program.
    pub exe: Option<PathBuf>,
    /// Process id of the parent.
    pub ppid: Option<u32>,
    /// The parent's program.
    pub parent_exe: Option<PathBuf>,
    /// Whose process it is, if that was asked for: see [`paths`].
    pub user: Option<User>,
}

/// What the kernel says of a task in an event, where it lets the hook ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Name of the task.
    pub comm: String,
}

/// The paths of process `tgid` as it was at `boot_ns` (`CLOCK_BOOTTIME`). Empty if the
/// process is gone, or if the number belongs to a younger one. `with_user`: the event came
/// from a hook that may not ask whose process it is, so `/proc` is asked for that too.
///
/// `/proc` gives start times in ticks of 10 ms, rounded down, so a number that was given
/// away within the tick of the event is not noticed; the kernel hands out numbers in turn
/// and comes back to one only after all the others.
pub fn paths(tgid: u32, boot_ns: u64, with_user: bool) -> Paths {
    let Some(process) = open_before(tgid, boot_ns) else {
        return Paths::default();
    };
    let exe = process.exe().ok();
    let ppid = process.stat().ok().and_then(|s| u32::try_from(s.ppid).ok());
    let user = with_user.then(|| user(&process)).flatten();
    let parent = ppid.and_then(|p| open_before(p, boot_ns));
    let parent_exe = parent.and_then(|p| p.exe().ok());
    Paths {
        exe,
        ppid,
        parent_exe,
        user,
    }
}

fn user(process: &Process) -> Option<User> {
    let status = process.status().ok()?;
    Some(User {
        uid: status.ruid,
        gid: status.rgid,
        comm: status.name,
    })
}

/// `Process` holds the `/proc/PID` directory open: once it is shown to be the right
/// process, later reads are of it or fail.
fn open_before(pid: u32, boot_ns: u64) -> Option<Process> {
    let process = Process::new(i32::try_from(pid).ok().filter(|p| *p > 0)?).ok()?;
    let stat = process.stat().ok()?;
    started_before(stat.starttime, procfs::ticks_per_second(), boot_ns).then_some(process)
}

fn started_before(start_ticks: u64, ticks_per_second: u64, boot_ns: u64) -> bool {
    let start = u128::from(start_ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
    start <= u128::from(boot_ns)
}

/// The relation of `CLOCK_BOOTTIME` to the calendar at this moment. Read it anew now and
/// then: it changes when the wall clock is set.
pub fn boot_clock() -> std::io::Result<BootClock> {
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    let nanos = u64::try_from(boot.tv_sec()).unwrap_or(0) * 1_000_000_000
        + u64::try_from(boot.tv_nsec()).unwrap_or(0);
    Ok(BootClock::new(nanos, jiff::Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_now() -> u64 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("clock");
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    }

    #[test]
    fn our_own_paths_are_found() {
        let found = paths(std::process::id(), boot_now(), true);
        assert_eq!(found.exe, std::env::current_exe().ok());
        assert_eq!(found.ppid, Some(std::os::unix::process::parent_id()));
        let user = found.user.expect("our own status");
        assert_eq!(user.uid, nix::unistd::getuid().as_raw());
        assert_eq!(user.gid, nix::unistd::getgid().as_raw());
        assert!(!user.comm.is_empty());
    }

    #[test]
    fn a_process_that_is_younger_than_the_event_is_not_the_one() {
        assert_eq!(paths(std::process::id(), 1, true), Paths::default());
        assert!(started_before(100, 100, 1_000_000_000));
        assert!(!started_before(101, 100, 1_000_000_000));
    }

    #[test]
    fn numbers_that_no_process_has_give_nothing() {
        assert_eq!(paths(0, u64::MAX, true), Paths::default());
        assert_eq!(paths(u32::MAX, u64::MAX, true), Paths::default());
    }

    #[test]
    fn the_clock_gives_this_moment() {
        let clock = boot_clock().expect("clock");
        let here = clock.at(boot_now());
        let off = jiff::Timestamp::now().duration_since(here).abs();
        assert!(off < jiff::SignedDuration::from_secs(5), "{off:?}");
    }
}
