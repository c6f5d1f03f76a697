//! Runs that are being set up.

use aya_ebpf::helpers::bpf_get_current_cgroup_id;

use crate::{Outcome, maps::STARTING};

/// Whether the task is in a run's cgroup that nothing was executed in yet: then it is the
/// launcher.
#[inline(always)]
pub(super) fn is_starting() -> bool {
    // SAFETY: a helper without pointers; nothing is read of the value.
    unsafe { STARTING.get(bpf_get_current_cgroup_id()) }.is_some()
}

/// A program has taken the place of another one, and has not begun: the run is set up.
#[inline(always)]
pub(crate) fn executed() -> Outcome {
    // SAFETY: a helper without pointers.
    let run = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: nothing is read of the value.
    if unsafe { STARTING.get(run) }.is_some() {
        // It is there, and nobody else takes it out.
        let _ = STARTING.remove(run);
    }
    Outcome::Pass
}
