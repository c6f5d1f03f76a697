//! For tests of what a process does to itself: it is done in a child.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};

/// What `act` gives in a child: its exit code from 0 to 255, or 128 and the signal that ended
/// it.
pub(crate) fn in_child(act: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs what the test gives it and ends without unwinding; the allocator
    // of the C library is usable after a fork.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => match waitpid(child, None).expect("waitpid") {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => panic!("{other:?}"),
        },
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(act)).unwrap_or(254);
            // SAFETY: ends the child without the parent's clean-up.
            unsafe { libc::_exit(code) }
        }
    }
}
