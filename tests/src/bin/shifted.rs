//! Exeat on a machine whose calendar is set and that sleeps, without setting a clock: the two
//! numbers in the file that `EXEAT_TEST_CLOCK` names are added to what the clocks say.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

/// The file: seconds for the calendar, and seconds asleep.
static SHIFTS: OnceLock<&'static [AtomicI64; 2]> = OnceLock::new();
/// The timer that the kernel cancels when the clock is set or the machine resumes.
static CANCELLED: AtomicI32 = AtomicI32::new(-1);

/// In the place of libc's: whatever in this program asks for the time asks this.
///
/// # Safety
/// As `clock_gettime(2)`: `time` is a timespec that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> i32 {
    // SAFETY: the caller's promise is that of the system call.
    let outcome = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if outcome == 0
        && let Some([calendar, asleep]) = SHIFTS.get()
    {
        let asleep = asleep.load(Ordering::Relaxed);
        let more = match clock {
            // Who sleeps finds the calendar where it would be.
            libc::CLOCK_REALTIME => calendar.load(Ordering::Relaxed) + asleep,
            libc::CLOCK_BOOTTIME => asleep,
            _ => 0,
        };
        // SAFETY: the call succeeded, so `time` is a timespec that it has written.
        unsafe { (*time).tv_sec += more };
    }
    outcome as i32
}

/// In the place of libc's: remembers the timer that waits for the clock to be set.
///
/// # Safety
/// As `timerfd_settime(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timerfd_settime(
    fd: libc::c_int,
    flags: libc::c_int,
    new: *const libc::itimerspec,
    old: *mut libc::itimerspec,
) -> libc::c_int {
    if flags & libc::TFD_TIMER_CANCEL_ON_SET != 0 {
        CANCELLED.store(fd, Ordering::SeqCst);
    }
    // SAFETY: the caller's promise is that of the system call.
    (unsafe { libc::syscall(libc::SYS_timerfd_settime, fd, flags, new, old) }) as i32
}

/// Has the timer end now, as it does when the clock is set.
fn cancel() {
    let soon = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: 0,
            tv_nsec: 1,
        },
    };
    let timer = CANCELLED.load(Ordering::SeqCst);
    // SAFETY: `soon` outlives the call, which writes nothing; a wrong descriptor is an error.
    unsafe {
        libc::syscall(
            libc::SYS_timerfd_settime,
            timer,
            libc::TFD_TIMER_ABSTIME,
            &raw const soon,
            std::ptr::null_mut::<libc::itimerspec>(),
        )
    };
}

fn follow(path: PathBuf) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("the clock's file");
    // SAFETY: a new mapping of a file of 16 bytes, which nothing unmaps or cuts shorter; both
    // numbers are read and written whole.
    let shifts = unsafe {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        let at = libc::mmap(
            std::ptr::null_mut(),
            16,
            protection,
            flags,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        &*at.cast::<[AtomicI64; 2]>()
    };
    SHIFTS.set(shifts).expect("once");
    let notes = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
    notes
        .add_watch(&path, AddWatchFlags::IN_CLOSE_WRITE)
        .expect("watch");
    std::thread::spawn(move || {
        while notes.read_events().is_ok() {
            cancel();
        }
    });
}

fn main() -> std::process::ExitCode {
    if let Some(path) = std::env::var_os("EXEAT_TEST_CLOCK") {
        follow(path.into());
    }
    exeat::cli::main()
}
