//! `bpf(2)`: with it root detaches what holds it.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, refuse};
use crate::Outcome;

/// `bpf(cmd, attr, size)`.
#[inline(always)]
pub(crate) fn call(ctx: &LsmContext) -> Outcome {
    match Confined::by(wall::BPF) {
        Some(who) => {
            let command = argument(ctx, 0) as u32;
            refuse(who.agent.as_ref(), Hook::Bpf, Reason::Bpf, [command, 0])
        }
        None => Outcome::Pass,
    }
}
