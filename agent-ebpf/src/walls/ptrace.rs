//! Processes of others: an agent neither traces them, nor looks into what only a tracer may see
//! (memory, environment, descriptors, roots), nor has one of them trace it.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, field, owner_of_task, refuse};
use crate::{Outcome, globals};

/// `PTRACE_MODE_NOAUDIT` (`include/linux/ptrace.h`): nobody is to be told, as when `ps` reads
/// what all may see of a process and the kernel asks whether to show addresses too.
const NOAUDIT: u32 = 4;

/// `ptrace_access_check(child, mode)`.
#[inline(always)]
pub(crate) fn access(ctx: &LsmContext) -> Outcome {
    judge(ctx, argument(ctx, 1) as u32, Hook::PtraceAccess)
}

/// `ptrace_traceme(parent)`.
#[inline(always)]
pub(crate) fn traceme(ctx: &LsmContext) -> Outcome {
    judge(ctx, 0, Hook::PtraceTraceme)
}

#[inline(always)]
fn judge(ctx: &LsmContext, mode: u32, hook: Hook) -> Outcome {
    let Some(who) = Confined::by(wall::PTRACE) else {
        return Outcome::Pass;
    };
    let other = argument(ctx, 0);
    if who.is(owner_of_task(other)) {
        return Outcome::Pass;
    }
    if mode & NOAUDIT != 0 {
        return silently(&who);
    }
    let pid = field(other, globals::task_tgid()).unwrap_or(0);
    refuse(who.agent.as_ref(), hook, Reason::Ptrace, [pid, mode])
}

/// Refuses without a word, unless the agent is only monitored.
#[inline(always)]
fn silently(who: &Confined) -> Outcome {
    match &who.agent {
        Some(agent) if agent.mode() == agent_common::layout::Mode::Monitor => Outcome::Pass,
        _ => Outcome::Refuse,
    }
}
