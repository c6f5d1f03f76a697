//! Every map, with the argument for its size.

use agent_common::{
    Addr, FlowEvent,
    layout::{
        Bank, Bucket, FlowState, Handshake, Held, Holds, MAX_ADOPTED, MAX_AGENTS, MAX_BANKS,
        MAX_ENTRIES, MAX_RUNS, MAX_SOCKETS, MAX_STEERED, NameKey, Origin, REASON_SLOTS, RING_BYTES,
        SocketKey, Stats,
    },
    verdict::{Entry, SetRef},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};

/// Room for the inner tables' template; the daemon makes each real one as large as its
/// policy needs (only arrays must keep the template's size).
const TEMPLATE: usize = 1024;

pub(crate) type Exact = HashMap<Addr, SetRef, TEMPLATE>;
pub(crate) type Prefix = LpmTrie<Addr, SetRef, TEMPLATE>;
pub(crate) type Names = HashMap<NameKey, SetRef, TEMPLATE, { BPF_F_NO_PREALLOC as usize }>;
pub(crate) type Steered = LruHashMap<u64, Origin, { MAX_STEERED as usize }>;
pub(crate) type Entries = Array<Entry, { MAX_ENTRIES as usize }>;

/// Id of the slice's cgroup, alone. A map and no constant of the programs: a slice that was
/// removed and made again has another id, and programs must not be the last to know.
#[btf_map]
pub(crate) static SLICE: Array<u64, 1> = Array::new();

/// Id of an agent's cgroup → index of the agent.
#[btf_map]
pub(crate) static AGENTS: HashMap<u64, u32, { MAX_AGENTS as usize }> = HashMap::new();

/// Id of a run's cgroup → index of the agent, for hooks that this kernel tells only the
/// cgroup that the task is in and not what is above it.
#[btf_map]
pub(crate) static RUNS: HashMap<u64, u32, { MAX_RUNS as usize }> = HashMap::new();

/// Id of a cgroup outside the slice that is governed where it is → index of the agent. Cgroups
/// below it are the agent's too.
#[btf_map]
pub(crate) static ADOPTED: HashMap<u64, u32, { MAX_ADOPTED as usize }> = HashMap::new();

/// A bit for each level below the cgroup2 root that such a cgroup lies at. Zero where there is
/// none: a task that is nobody's then pays for one look.
#[btf_map]
pub(crate) static LEVELS: Array<u64, 1> = Array::new();

/// Index of the agent → the bank in force (2·index or 2·index+1), with
/// [`agent_common::layout::ISOLATED`] where the agent is cut off. One word, so a reader meets
/// the old bank or the new one, whole.
#[btf_map]
pub(crate) static FLIP: Array<u32, { MAX_AGENTS as usize }> = Array::new();

/// What each bank is.
#[btf_map]
pub(crate) static BANKS: Array<Bank, { MAX_BANKS as usize }> = Array::new();

/// Exact addresses, by bank. A hash an agent: in one shared by all, an agent with a
/// million entries made another's misses six times slower.
#[btf_map]
pub(crate) static EXACT: ArrayOfMaps<Exact, { MAX_BANKS as usize }> = ArrayOfMaps::new();

/// Prefixes, by bank.
#[btf_map]
pub(crate) static PREFIX: ArrayOfMaps<Prefix, { MAX_BANKS as usize }> = ArrayOfMaps::new();

/// The names that TLS connections to an address may be for, by bank.
#[btf_map]
pub(crate) static NAMES: ArrayOfMaps<Names, { MAX_BANKS as usize }> = ArrayOfMaps::new();

/// Entries, by bank.
#[btf_map]
pub(crate) static ENTRIES: ArrayOfMaps<Entries, { MAX_BANKS as usize }> = ArrayOfMaps::new();

/// The verdict of a socket. Lives and dies with the socket, so it has no bound of its own.
#[btf_map]
pub(crate) static FLOWS: SkStorage<FlowState> = SkStorage::new();

/// The beginning of a TLS connection whose name counts. 376 bytes for each such connection,
/// which live and die with its socket.
#[btf_map]
pub(crate) static HANDSHAKES: SkStorage<Handshake> = SkStorage::new();

/// What a socket waits for a person to answer. Only sockets of agents that ask have it.
#[btf_map]
pub(crate) static HELD: SkStorage<Held> = SkStorage::new();

/// How many connections of an agent began to be held.
#[btf_map]
pub(crate) static HOLDS: Array<Holds, { MAX_AGENTS as usize }> = Array::new();

/// The server that a steered socket asked for.
#[btf_map]
pub(crate) static ORIGINS: SkStorage<Origin> = SkStorage::new();

/// The same for the gateway, which has only the far end of the connection: by agent, and then
/// by the socket's cookie. A table an agent, so that none can push out another's.
#[btf_map]
pub(crate) static STEERED: ArrayOfMaps<Steered, { MAX_AGENTS as usize }> = ArrayOfMaps::new();

/// Refused flows on their way to the daemon.
#[btf_map]
pub(crate) static EVENTS: RingBuf<FlowEvent, { RING_BYTES as usize }> = RingBuf::new();

/// Counters by agent; the last one is for processes without an agent.
#[btf_map]
pub(crate) static STATS: PerCpuArray<Stats, { MAX_AGENTS as usize + 1 }> = PerCpuArray::new();

/// Throttles by agent and reason.
#[btf_map]
pub(crate) static BUCKETS: PerCpuArray<Bucket, { (MAX_AGENTS as usize + 1) * REASON_SLOTS }> =
    PerCpuArray::new();

/// Events tried, by CPU: the sequence numbers by which the reader knows of a gap.
#[btf_map]
pub(crate) static SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Ports of every agent's gate and gateway at `::1`, host order → agent. An agent whose policy
/// allows `::1` must still not ask another agent's.
#[btf_map]
pub(crate) static GATES6: HashMap<u16, u32, { MAX_AGENTS as usize * 2 }> = HashMap::new();

/// Id of a run's cgroup, while `exeat run` sets it up: the walls do not hold for the launcher.
/// The first program that is executed in it takes it out.
#[btf_map]
pub(crate) static STARTING: HashMap<u64, u32, { MAX_RUNS as usize }> = HashMap::new();

/// Sockets outside of agents that agents may connect to.
#[btf_map]
pub(crate) static SOCKETS: HashMap<SocketKey, u32, { MAX_SOCKETS as usize }> = HashMap::new();

/// Calls that the trial program saw: whether this kernel calls programs at LSM hooks at all.
#[btf_map]
pub(crate) static TRIAL: Array<u64, 1> = Array::new();
