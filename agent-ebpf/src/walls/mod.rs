//! The walls of BPF LSM: what an agent may not do with the kernel beside sending packets.
//!
//! They are called for every task of the machine, so each first asks whose task it is, and
//! leaves when it is nobody's here. A run that `exeat run` still sets up is let alone too: the
//! launcher mounts and unshares, and only the first program that it becomes is the agent's.

pub(crate) mod bpf;
pub(crate) mod families;
pub(crate) mod migrating;
pub(crate) mod mount;
pub(crate) mod passing;
pub(crate) mod ptrace;
pub(crate) mod starting;
pub(crate) mod trial;
pub(crate) mod unix;

use agent_common::{Addr, Hook, Reason, layout::Mode, verdict::NO_RULE};
use aya_ebpf::{EbpfContext as _, programs::LsmContext};

use crate::{
    Outcome,
    agent::{Agent, Owner, index_of},
    globals,
    maps::AGENTS,
    pages::read,
    report::{self, Refused},
};

/// A task that a wall holds for.
#[derive(Clone, Copy)]
struct Confined {
    /// Its agent; none where it has no policy.
    agent: Option<Agent>,
}

impl Confined {
    /// The task that runs, if this wall holds for it.
    #[inline(always)]
    fn by(wall: u16) -> Option<Self> {
        let agent = match Owner::of_task() {
            Owner::Outsider => return None,
            Owner::Unknown => None,
            Owner::Agent(agent) => Some(agent),
        };
        let open = matches!(&agent, Some(agent) if agent.info.open & wall != 0);
        (!open && !starting::is_starting()).then_some(Self { agent })
    }

    /// Whether it is the agent of this index.
    #[inline(always)]
    fn is(&self, index: Option<u32>) -> bool {
        match (&self.agent, index) {
            (Some(agent), Some(index)) => agent.index == index,
            _ => false,
        }
    }
}

/// Reports, and refuses unless the agent is only monitored.
#[inline(always)]
fn refuse(agent: Option<&Agent>, hook: Hook, reason: Reason, detail: [u32; 2]) -> Outcome {
    let monitored = matches!(agent, Some(agent) if agent.mode() == Mode::Monitor);
    report::refused(
        &Refused {
            hook,
            reason,
            rule: NO_RULE,
            agent: index_of(agent),
            generation: agent.map_or(0, |agent| agent.info.generation),
            protocol: 0,
            source: Addr::default(),
            source_port: 0,
            dest: Addr::default(),
            dest_port: 0,
            detail,
            socket_cookie: 0,
            netns_cookie: 0,
            monitored,
            allowed: false,
            without_task: None,
        },
        None,
    );
    if monitored {
        Outcome::Pass
    } else {
        Outcome::Refuse
    }
}

/// An argument of the hook. Read as memory: the verifier knows what a pointer in the context
/// points to and lets only some arithmetic be done with it, which differs by kernel.
#[inline(always)]
fn argument(ctx: &LsmContext, n: u64) -> u64 {
    read(ctx.as_ptr() as u64 + n * 8).unwrap_or(0)
}

/// What a pointer points to, at a field.
#[inline(always)]
fn field<T: Copy + Default>(of: u64, at: u64) -> Option<T> {
    match of {
        0 => None,
        of => read(of + at),
    }
}

/// How many cgroups above one another are looked at. Who is deeper is nobody's here, and so
/// somebody else.
const DEPTH: u32 = 16;

/// Index of the agent that a cgroup (`struct cgroup`) belongs to.
#[inline(always)]
fn owner_of_cgroup(mut cgroup: u64) -> Option<u32> {
    for _ in 0..DEPTH {
        let id: u64 = field(field(cgroup, globals::cgroup_kn())?, globals::kn_id())?;
        // SAFETY: the value is one aligned word.
        if let Some(index) = unsafe { AGENTS.get(id) } {
            return Some(*index);
        }
        let above: u64 = field(cgroup, globals::cgroup_self() + globals::css_parent())?;
        if above == 0 {
            return None;
        }
        cgroup = above - globals::cgroup_self();
    }
    None
}

/// Index of the agent that made a socket (`struct sock`).
#[inline(always)]
fn owner_of_sock(sock: u64) -> Option<u32> {
    owner_of_cgroup(field(sock, globals::sock_cgroup())?)
}

/// Index of the agent that a task (`struct task_struct`) belongs to.
#[inline(always)]
fn owner_of_task(task: u64) -> Option<u32> {
    let set = field(task, globals::task_cgroups())?;
    owner_of_cgroup(field(set, globals::set_cgroup())?)
}
