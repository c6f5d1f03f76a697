//! The way into another cgroup: a file of cgroupfs that is written to, or a child that is born
//! there.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, field, refuse};
use crate::{Outcome, globals};

/// `CGROUP2_SUPER_MAGIC` and `CGROUP_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const CGROUP2: u64 = 0x6367_7270;
const CGROUP1: u64 = 0x0027_e0eb;
/// `FMODE_WRITE` (`include/linux/fs.h`).
const WRITE: u32 = 2;
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
        CGROUP1 | CGROUP2 => refuse(
            who.agent.as_ref(),
            Hook::FileOpen,
            Reason::Cgroup,
            [mode, 0],
        ),
        _ => Outcome::Pass,
    }
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
