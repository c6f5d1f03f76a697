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

use agent_common::{
    Addr, Hook, Reason,
    layout::{Mode, NO_AGENT},
    verdict::NO_RULE,
};
use aya_ebpf::{EbpfContext as _, helpers::bpf_probe_read_kernel_str_bytes, programs::LsmContext};

use crate::{
    Outcome,
    agent::{Agent, Owner, index_of},
    globals,
    maps::{ADOPTED, AGENTS},
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
    fn is(&self, index: u32) -> bool {
        index_of(self.agent.as_ref()) == index
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

/// Bytes that are read of a name; one that is longer is cut, and is none that is looked for.
const NAME: usize = 16;

/// A name of the kernel's memory, with zeroes behind it; zero where there is none.
#[inline(always)]
fn name_at(address: u64) -> u128 {
    let mut found = [0; NAME];
    if address == 0 {
        return 0;
    }
    // SAFETY: the helper checks the address and writes no more than the buffer holds.
    match unsafe { bpf_probe_read_kernel_str_bytes(address as *const u8, &mut found) } {
        Ok(_) => u128::from_le_bytes(found),
        Err(_) => 0,
    }
}

/// What [`name_at`] gives for a name of less than [`NAME`] bytes.
const fn name(text: &str) -> u128 {
    let text = text.as_bytes();
    assert!(text.len() < NAME);
    let mut all = 0;
    let mut at = 0;
    while at < text.len() {
        all |= (text[at] as u128) << (8 * at);
        at += 1;
    }
    all
}

/// How many cgroups above one another are looked at. Who is deeper is nobody's here, and so
/// somebody else.
const DEPTH: u32 = 16;

/// Instead of an index: of no agent. A number and no `None`, because LLVM compares what is in a
/// `None` before it looks whether there is anything, and the verifier refuses to read what was
/// never written ("R1 !read_ok"). Whoever has no agent is not the same as nobody either.
const NOBODY: u32 = u32::MAX;

const _: () = assert!(NOBODY != NO_AGENT);

/// A pointer at a field; zero where nothing is.
#[inline(always)]
fn pointer(of: u64, at: u64) -> u64 {
    field(of, at).unwrap_or(0)
}

/// Index of the agent that a cgroup (`struct cgroup`) belongs to, or [`NOBODY`].
#[inline(always)]
fn owner_of_cgroup(mut cgroup: u64) -> u32 {
    for _ in 0..DEPTH {
        let id = pointer(pointer(cgroup, globals::cgroup_kn()), globals::kn_id());
        // SAFETY: the value is one aligned word.
        if let Some(index) = unsafe { AGENTS.get(id).or_else(|| ADOPTED.get(id)) } {
            return *index;
        }
        let above = pointer(cgroup, globals::cgroup_self() + globals::css_parent());
        if above == 0 {
            return NOBODY;
        }
        cgroup = above - globals::cgroup_self();
    }
    NOBODY
}

/// Index of the agent that made a socket (`struct sock`), or [`NOBODY`].
#[inline(always)]
fn owner_of_sock(sock: u64) -> u32 {
    owner_of_cgroup(pointer(sock, globals::sock_cgroup()))
}

/// Index of the agent that a task (`struct task_struct`) belongs to, or [`NOBODY`].
#[inline(always)]
fn owner_of_task(task: u64) -> u32 {
    let set = pointer(task, globals::task_cgroups());
    owner_of_cgroup(pointer(set, globals::set_cgroup()))
}
