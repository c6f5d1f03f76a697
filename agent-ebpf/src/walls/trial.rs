//! Does this kernel call programs at LSM hooks? One that was booted without `bpf` among its
//! LSMs takes them, attaches them, and never calls them.

use core::ptr::write_volatile;

use crate::{Outcome, maps::TRIAL};

/// Counts a call.
#[inline(always)]
pub(crate) fn seen() -> Outcome {
    if let Some(count) = TRIAL.get_ptr_mut(0) {
        // SAFETY: a whole word of the map. Two calls at a time may count as one, and one is
        // enough.
        unsafe { write_volatile(count, 1) };
    }
    Outcome::Pass
}
