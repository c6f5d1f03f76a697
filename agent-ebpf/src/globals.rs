//! Constants that the daemon writes before it loads the programs.
//!
//! They are read with `read_volatile`, so that the compiler does not fold in the value
//! here; the verifier knows them as constants and drops the dead branches.

use core::ptr::read_volatile;

/// Nanoseconds that one event costs its bucket; 0 turns the throttle off.
#[unsafe(no_mangle)]
static EVENT_COST_NS: u64 = 0;

/// The most nanoseconds that a bucket saves up.
#[unsafe(no_mangle)]
static EVENT_BURST_NS: u64 = 0;

macro_rules! getter {
    ($name:ident, $global:ident) => {
        #[inline(always)]
        pub(crate) fn $name() -> u64 {
            // SAFETY: a reference to a static is always valid to read.
            unsafe { read_volatile(&$global) }
        }
    };
}

getter!(event_cost_ns, EVENT_COST_NS);
getter!(event_burst_ns, EVENT_BURST_NS);
