//! The way into another cgroup: a file of cgroupfs that is written to, or a child that is born
//! there.
//!
//! What is governed where it is may move to what is below: systemd moves the process of a service
//! twice, from outside and by the process itself, and that is too late for the second where the
//! first was seen.

use agent_common::{
    Hook, Reason,
    layout::{NO_AGENT, wall},
};
use aya_ebpf::programs::LsmContext;

use super::{Confined, DEPTH, argument, field, name, name_at, pointer, refuse};
use crate::{
    Outcome,
    agent::{index_of, is_launched},
    globals,
    maps::ADOPTED,
};

/// `CGROUP2_SUPER_MAGIC` and `CGROUP_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const CGROUP2: u64 = 0x6367_7270;
const CGROUP1: u64 = 0x0027_e0eb;
/// `FMODE_WRITE` (`include/linux/fs.h`).
const WRITE: u32 = 2;
/// The file that moves processes.
const PROCS: u128 = name("cgroup.procs");
/// `CLONE_INTO_CGROUP` (`include/uapi/linux/sched.h`).
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// `file_open(file)`.
#[inline(always)]
pub(crate) fn open(ctx: &LsmContext) -> Outcome {
    let Some(who) = Confined::by(wall::CGROUP) else {
        return Outcome::Pass;
    };
    let file = argument(ctx, 0);
    // What cannot be read is taken for written to, and then for a cgroup's.
    let mode: u32 = field(file, globals::file_mode()).unwrap_or(WRITE);
    if mode & WRITE == 0 {
        return Outcome::Pass;
    }
    let inode: u64 = field(file, globals::file_inode()).unwrap_or(0);
    let volume: u64 = field(inode, globals::inode_sb()).unwrap_or(0);
    match field::<u64>(volume, globals::sb_magic()).unwrap_or(CGROUP2) {
        CGROUP2 if !is_launched() && moves_to_own(inode, index_of(who.agent.as_ref())) => {
            Outcome::Pass
        }
        CGROUP1 | CGROUP2 => refuse(
            who.agent.as_ref(),
            Hook::FileOpen,
            Reason::Cgroup,
            [mode, 0],
        ),
        _ => Outcome::Pass,
    }
}

/// Whether it is the `cgroup.procs` of a cgroup that is governed where it is as this agent, or of
/// one below.
#[inline(always)]
fn moves_to_own(inode: u64, agent: u32) -> bool {
    let file = pointer(inode, globals::inode_private());
    if agent == NO_AGENT || name_at(pointer(file, globals::kn_name())) != PROCS {
        return false;
    }
    let mut folder = pointer(file, globals::kn_parent());
    for _ in 0..DEPTH {
        if folder == 0 {
            return false;
        }
        // SAFETY: the value is one aligned word.
        if let Some(index) = unsafe { ADOPTED.get(pointer(folder, globals::kn_id())) } {
            return *index == agent;
        }
        folder = pointer(folder, globals::kn_parent());
    }
    false
}

/// `task_alloc(task, clone_flags)`.
#[inline(always)]
pub(crate) fn clone(ctx: &LsmContext) -> Outcome {
    let Some(who) = Confined::by(wall::CGROUP) else {
        return Outcome::Pass;
    };
    let flags = argument(ctx, 1);
    if flags & INTO_CGROUP == 0 {
        return Outcome::Pass;
    }
    let detail = [flags as u32, (flags >> 32) as u32];
    refuse(who.agent.as_ref(), Hook::Clone, Reason::Cgroup, detail)
}
