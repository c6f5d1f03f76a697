//! Who is it? From a task or a packet to the agent and its tables in force.

use agent_common::{
    Addr, Hook,
    layout::{
        AGENT_LEVEL, Bank, ISOLATED, MAX_ADOPTED_LEVEL, MAX_BANKS, Mode, NO_AGENT, SLICE_LEVEL,
        gate_v4, helper,
    },
    verdict::{Entry, SetRef, Tables},
};
use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_skb_ancestor_cgroup_id,
    },
};

use crate::{
    globals,
    maps::{
        ADOPTED, AGENTS, BANKS, ENTRIES, EXACT, Entries, Exact, FLIP, GATES6, LEVELS, PREFIX,
        Prefix, RUNS, SLICE,
    },
};

/// Who a task or a socket belongs to.
pub(crate) enum Owner {
    /// Not below the slice: none of our business.
    Outsider,
    /// Below the slice, but no agent that has tables: refused.
    Unknown,
    /// An agent.
    Agent(Agent),
}

/// An agent and the bank that is in force for it.
#[derive(Clone, Copy)]
pub(crate) struct Agent {
    pub(crate) index: u32,
    pub(crate) bank: u32,
    pub(crate) info: &'static Bank,
    /// Cut off: every flow is refused.
    pub(crate) isolated: bool,
}

impl Owner {
    /// The owner of the task that runs now.
    #[inline(always)]
    pub(crate) fn of_task() -> Self {
        if is_launched() {
            // SAFETY: a helper without pointers.
            return Self::of_cgroup(unsafe { bpf_get_current_ancestor_cgroup_id(AGENT_LEVEL) });
        }
        // SAFETY: as above.
        match adopted(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) }) {
            Some(index) => Self::of_index(index),
            None => Self::Outsider,
        }
    }

    /// The same at a hook of the slice that some kernels do not tell what is above the task's
    /// own cgroup. There a cgroup that is no run, such as one that an agent made below its
    /// own, belongs to nobody we know, and that means refused.
    #[inline(always)]
    pub(crate) fn of_task_at(hook: Hook) -> Self {
        if globals::may_call(hook, helper::ANCESTOR) {
            return Self::of_task();
        }
        if !globals::may_call(hook, helper::CGROUP) {
            return Self::Unknown;
        }
        // SAFETY: a helper without pointers.
        let id = unsafe { bpf_get_current_cgroup_id() };
        // SAFETY: the value is one aligned word.
        match unsafe { RUNS.get(id).or_else(|| ADOPTED.get(id)) } {
            Some(index) => Self::of_index(*index),
            None => Self::Unknown,
        }
    }

    /// The owner of the socket that a packet leaves from.
    #[inline(always)]
    pub(crate) fn of_packet(skb: *mut __sk_buff) -> Self {
        // SAFETY: `skb` is the context of the program.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(skb, AGENT_LEVEL) };
        // SAFETY: as in `of_cgroup`.
        if let Some(index) = unsafe { AGENTS.get(id) } {
            return Self::of_index(*index);
        }
        // SAFETY: as above.
        match adopted(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) }) {
            Some(index) => Self::of_index(index),
            // The program stands at the slice or at a cgroup that is governed, so somebody
            // should have been found.
            None => Self::Unknown,
        }
    }

    #[inline(always)]
    fn of_cgroup(id: u64) -> Self {
        // SAFETY: the value is one aligned word; an element is only removed when its
        // cgroup has no task left.
        match unsafe { AGENTS.get(id) } {
            Some(index) => Self::of_index(*index),
            None => Self::Unknown,
        }
    }

    #[inline(always)]
    fn of_index(index: u32) -> Self {
        match Agent::of_index(index) {
            Some(agent) => Self::Agent(agent),
            None => Self::Unknown,
        }
    }
}

/// Whether a cgroup is an agent's in the slice.
#[inline(always)]
pub(crate) fn is_agent(id: u64) -> bool {
    // SAFETY: nothing is read of the value.
    unsafe { AGENTS.get(id) }.is_some()
}

/// Whether the task that runs now is below the slice: it was started by the launcher, or moved
/// there by its program's name.
#[inline(always)]
pub(crate) fn is_launched() -> bool {
    // SAFETY: a helper without pointers.
    let slice = unsafe { bpf_get_current_ancestor_cgroup_id(SLICE_LEVEL) };
    SLICE.get(0) == Some(&slice)
}

/// The agent of the outermost cgroup that is governed where it is, of those that `above` tells
/// by their level: what an agent makes below its own is its own, whatever its name.
#[inline(always)]
fn adopted(above: impl Fn(i32) -> u64) -> Option<u32> {
    let levels = *LEVELS.get(0)?;
    if levels == 0 {
        return None;
    }
    for level in 1..=MAX_ADOPTED_LEVEL {
        if levels >> level & 1 == 0 {
            continue;
        }
        // SAFETY: the value is one aligned word.
        if let Some(index) = unsafe { ADOPTED.get(above(level as i32)) } {
            return Some(*index);
        }
    }
    None
}

impl Agent {
    /// The agent at an index; none if it has no tables.
    #[inline(always)]
    pub(crate) fn of_index(index: u32) -> Option<Self> {
        let word = *FLIP.get(index)?;
        let bank = word & !ISOLATED;
        if bank >= MAX_BANKS {
            return None;
        }
        let info = BANKS.get(bank)?;
        if info.generation == 0 {
            return None;
        }
        Some(Self {
            index,
            bank,
            info,
            isolated: word & ISOLATED != 0,
        })
    }

    #[inline(always)]
    pub(crate) fn mode(&self) -> Mode {
        // Who is cut off is so in monitor mode too.
        if self.isolated {
            return Mode::Enforce;
        }
        Mode::from_number(self.info.mode)
    }

    /// The gate's address and port for a destination of this family; none if the agent
    /// has no gate there.
    #[inline(always)]
    pub(crate) fn gate(&self, towards: &Addr) -> Option<(Addr, u16)> {
        let (addr, port) = match towards.as_v4() {
            Some(_) => (Addr::from_v4(gate_v4(self.index)), self.info.gate4_port),
            None => (Addr::V6_LOOPBACK, self.info.gate6_port),
        };
        if port == 0 { None } else { Some((addr, port)) }
    }

    /// The gateway's, in the same way.
    #[inline(always)]
    pub(crate) fn gateway(&self, towards: &Addr) -> Option<(Addr, u16)> {
        let (addr, port) = match towards.as_v4() {
            Some(_) => (Addr::from_v4(gate_v4(self.index)), self.info.gateway4_port),
            None => (Addr::V6_LOOPBACK, self.info.gateway6_port),
        };
        if port == 0 { None } else { Some((addr, port)) }
    }

    /// Whether a port at the agent's gate address is one of its gate or gateway.
    #[inline(always)]
    fn serves_v4(&self, port: u16) -> bool {
        let [http, socks] = self.info.proxy_ports;
        port != 0
            && (port == self.info.gate4_port
                || port == self.info.gateway4_port
                || port == http
                || port == socks)
    }
}

/// What a destination is to the gates and gateways.
pub(crate) enum GateUse {
    /// Neither.
    None,
    /// The agent's own gate or gateway.
    Own,
    /// Another agent's gate, or an address of the gates' range that nobody has.
    Foreign,
}

/// Whether a destination is a gate.
#[inline(always)]
pub(crate) fn gate_use(agent: &Agent, addr: &Addr, port: u16) -> GateUse {
    if addr.is_gate_v4() {
        return if *addr == Addr::from_v4(gate_v4(agent.index)) && agent.serves_v4(port) {
            GateUse::Own
        } else {
            GateUse::Foreign
        };
    }
    if addr.is_v6_loopback() {
        // SAFETY: one aligned word.
        return match unsafe { GATES6.get(port) } {
            Some(owner) if *owner == agent.index => GateUse::Own,
            Some(_) => GateUse::Foreign,
            None => GateUse::None,
        };
    }
    GateUse::None
}

/// Counters' index of an owner.
#[inline(always)]
pub(crate) fn index_of(agent: Option<&Agent>) -> u32 {
    match agent {
        Some(agent) => agent.index,
        None => NO_AGENT,
    }
}

/// The verdict's look-ups, answered from maps.
pub(crate) struct KernelTables {
    exact: &'static Exact,
    prefix: &'static Prefix,
    entries: &'static Entries,
}

impl KernelTables {
    /// The tables of a bank; none if the daemon has not put them in.
    #[inline(always)]
    pub(crate) fn of(bank: u32) -> Option<Self> {
        Some(Self {
            exact: EXACT.get(bank)?,
            prefix: PREFIX.get(bank)?,
            entries: ENTRIES.get(bank)?,
        })
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn exact(&self, addr: &Addr) -> Option<SetRef> {
        // SAFETY: the value is one aligned word, read in one load.
        unsafe { self.exact.get(addr) }.copied()
    }

    #[inline(always)]
    fn prefix(&self, addr: &Addr) -> Option<SetRef> {
        self.prefix.get(&Key::new(128, *addr)).copied()
    }

    #[inline(always)]
    fn entry(&self, index: u16) -> Option<Entry> {
        self.entries.get(u32::from(index)).copied()
    }
}
