//! Whose the pages are that a packet's data lies in.
//!
//! What a program writes is copied as a rule, and then no longer its own. But zero copy
//! (`MSG_ZEROCOPY`, io_uring's `SEND_ZC`), sendfile(2) and splice(2) have a packet point to
//! pages that the program can still write to: it could have a good name read here and another
//! one sent. The kernel marks such packets (`SKBFL_SHARED_FRAG` and its neighbours).

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel};

use crate::globals;

/// Reads a value of the kernel's own; none where nothing is.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper writes a whole value, or fails and says so; any bytes are one for the
    // integers that this is used for.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            address as *const _,
        )
    };
    (failed == 0).then_some(value)
}

/// Whether the program that wrote the packet's data may still change it; also where that
/// cannot be told.
#[inline(always)]
pub(crate) fn are_shared(skb: *mut __sk_buff) -> bool {
    // The context of a program on packets is the packet itself: it is the verifier that shows
    // it as a `__sk_buff` (`convert_ctx_access`).
    let packet = skb as u64;
    let Some(head) = read::<u64>(packet + globals::skb_head()) else {
        return true;
    };
    let Some(end) = read::<u32>(packet + globals::skb_end()) else {
        return true;
    };
    let mask = globals::page_shared();
    match read::<u8>(head + u64::from(end) + globals::page_flags()) {
        Some(flags) => mask == 0 || u64::from(flags) & mask != 0,
        None => true,
    }
}
