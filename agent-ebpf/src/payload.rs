//! What a packet carries behind its headers, as the reader of ClientHellos wants it.

use core::arch::asm;

use agent_common::hello::{Buffer, Bytes, CHUNK, COPY_END};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

/// The bytes of a packet from an offset on, in the linear part or not.
pub(crate) struct Payload {
    /// The program's context.
    pub(crate) skb: *mut __sk_buff,
    /// Where the payload begins, from the IP header on.
    pub(crate) offset: u32,
}

/// The number, if it is below the limit. LLVM knows that it is and would leave the
/// comparison out; the verifier, which sees a number read back from a map, needs it.
#[inline(always)]
fn below(number: u32, limit: u32) -> Option<usize> {
    let mut number = u64::from(number);
    // SAFETY: the register keeps its value, but LLVM takes it for changed. An instruction for
    // the reason that `report::slot` has.
    unsafe { asm!("{number} = {number}", number = inout(reg) number, options(nomem, nostack)) };
    (number < u64::from(limit)).then_some(number as usize)
}

impl Bytes for Payload {
    #[inline(always)]
    fn copy(&self, at: u32, to: &mut Buffer, from: u32, count: u32) -> bool {
        // One less, and one more below: old kernels refuse a length that may be zero
        // (5.10: "R3 min value is outside of the allowed memory range"), and LLVM folds a
        // comparison with zero into the other one, where the verifier does not see it.
        let before = count.wrapping_sub(1);
        let (Some(from), Some(before)) = (below(from, COPY_END), below(before, CHUNK)) else {
            return false;
        };
        // SAFETY: `from + count` is inside of `to` (`COPY_END + CHUNK` is no more than its
        // size), and the verifier checks just that; the helper checks the packet's end.
        unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                self.offset.wrapping_add(at),
                to.as_mut_ptr().add(from).cast(),
                before as u32 + 1,
            ) == 0
        }
    }
}
