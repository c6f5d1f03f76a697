//! Mounts: what an agent sees is what it was given.
//!
//! The launcher makes an agent's view, and nothing in it may change that. Whatever is governed where
//! it is (a service, a container) is given its view by its own maker, systemd or a container's
//! runtime, from inside its cgroup: there the wall refuses what lets the kernel itself send, a
//! network's file system.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, name, name_at, refuse};
use crate::{Outcome, agent::is_launched};

/// `MS_REMOUNT`, `MS_BIND`, `MS_MOVE` and the changes of propagation (`MS_UNBINDABLE`,
/// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`): none begins a file system (mount(2)).
const OF_WHAT_IS_THERE: u32 = 0x20 | 0x1000 | 0x2000 | 0x1e_0000;

/// File systems that are of this machine alone.
const LOCAL: [u128; 11] = [
    name("bpf"),
    name("cgroup"),
    name("cgroup2"),
    name("devpts"),
    name("devtmpfs"),
    name("mqueue"),
    name("overlay"),
    name("proc"),
    name("ramfs"),
    name("sysfs"),
    name("tmpfs"),
];

/// `sb_mount(dev_name, path, type, flags, data)`.
#[inline(always)]
pub(crate) fn mount(ctx: &LsmContext) -> Outcome {
    let Some(who) = Confined::by(wall::MOUNT) else {
        return Outcome::Pass;
    };
    let flags = argument(ctx, 3) as u32;
    if !is_launched()
        && (flags & OF_WHAT_IS_THERE != 0 || LOCAL.contains(&name_at(argument(ctx, 2))))
    {
        return Outcome::Pass;
    }
    refuse(who.agent.as_ref(), Hook::Mount, Reason::Mount, [flags, 0])
}

/// `move_mount`, `sb_umount` and `sb_pivotroot`, whatever they are about.
#[inline(always)]
pub(crate) fn change(hook: Hook) -> Outcome {
    match Confined::by(wall::MOUNT) {
        Some(who) if is_launched() => refuse(who.agent.as_ref(), hook, Reason::Mount, [0; 2]),
        _ => Outcome::Pass,
    }
}
