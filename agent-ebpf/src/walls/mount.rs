//! Mounts: what an agent sees is what it was given.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, refuse};
use crate::Outcome;

/// `sb_mount(dev_name, path, type, flags, data)`.
#[inline(always)]
pub(crate) fn mount(ctx: &LsmContext) -> Outcome {
    match Confined::by(wall::MOUNT) {
        Some(who) => {
            let flags = argument(ctx, 3) as u32;
            refuse(who.agent.as_ref(), Hook::Mount, Reason::Mount, [flags, 0])
        }
        None => Outcome::Pass,
    }
}

/// `move_mount`, `sb_umount` and `sb_pivotroot`, whatever they are about.
#[inline(always)]
pub(crate) fn change(hook: Hook) -> Outcome {
    match Confined::by(wall::MOUNT) {
        Some(who) => refuse(who.agent.as_ref(), hook, Reason::Mount, [0; 2]),
        None => Outcome::Pass,
    }
}
