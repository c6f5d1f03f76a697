//! Constants that the daemon writes before it loads the programs.
//!
//! They are read with `read_volatile`, so that the compiler does not fold in the value
//! here; the verifier knows them as constants and drops the dead branches.

use core::ptr::read_volatile;

use agent_common::Hook;

/// Nanoseconds that one event costs its bucket; 0 turns the throttle off.
#[unsafe(no_mangle)]
static EVENT_COST_NS: u64 = 0;

/// The most nanoseconds that a bucket saves up.
#[unsafe(no_mangle)]
static EVENT_BURST_NS: u64 = 0;

/// Helpers that programs on packets may call on this kernel, by [`agent_common::layout::helper`].
///
/// Which helper a type of program may call differs by kernel. Every call of one that some
/// kernel refuses stands behind its bit here: the verifier knows the word as a constant
/// (kernel 5.5, `bpf_map_is_rdonly`) and never looks at a call that cannot be reached.
#[unsafe(no_mangle)]
static PACKET_HELPERS: u64 = 0;

/// The same for programs on socket options.
#[unsafe(no_mangle)]
static SOCKOPT_HELPERS: u64 = 0;

/// Where `sk_buff.head` lies.
#[unsafe(no_mangle)]
static SKB_HEAD: u64 = 0;

/// Where `sk_buff.end` lies.
#[unsafe(no_mangle)]
static SKB_END: u64 = 0;

/// Where in `skb_shared_info` the byte lies that tells whose a packet's pages are.
#[unsafe(no_mangle)]
static PAGE_FLAGS: u64 = 0;

/// Bits of that byte by which a page may still be changed by who wrote it. Zero: not known, and
/// then every page may.
#[unsafe(no_mangle)]
static PAGE_SHARED: u64 = 0;

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
getter!(packet_helpers, PACKET_HELPERS);
getter!(sockopt_helpers, SOCKOPT_HELPERS);
getter!(skb_head, SKB_HEAD);
getter!(skb_end, SKB_END);
getter!(page_flags, PAGE_FLAGS);
getter!(page_shared, PAGE_SHARED);

/// Whether a hook's program may call a helper here. Programs on sockets and on addresses
/// may call all of them since kernel 5.7.
#[inline(always)]
pub(crate) fn may_call(hook: Hook, helper: u64) -> bool {
    match hook {
        Hook::Egress | Hook::Ingress => packet_helpers() & helper != 0,
        Hook::Setsockopt => sockopt_helpers() & helper != 0,
        _ => true,
    }
}
