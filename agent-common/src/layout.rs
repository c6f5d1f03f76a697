//! Keys, values and bounds of the BPF maps.
//!
//! Every type is `repr(C)` without padding, so that the bytes that one side writes
//! are the bytes that the other reads. A change to any of them is a change of
//! [`LAYOUT_VERSION`], and one to [`Handshake`] (with what is in it) of [`HANDSHAKE_VERSION`] too.

use crate::{
    Addr,
    hello::{Client, NAME_BYTES},
    verdict::SetRef,
};

/// Version of everything in this file and in [`crate::event`]. Maps are pinned in a
/// folder that carries it, so a daemon never opens maps of another layout: it makes
/// new ones, fills them, and swaps the programs through their links.
pub const LAYOUT_VERSION: u32 = 5;

/// Version of [`Handshake`] alone, whose map is pinned apart: a connection says its name once,
/// so a daemon of another layout goes on with what was read. Where it differs, connections
/// whose name counts end with the upgrade.
pub const HANDSHAKE_VERSION: u32 = 1;

/// The most agents that one daemon governs at once.
pub const MAX_AGENTS: u32 = 256;

/// The most runs whose cgroup is told to hooks that cannot find their agent otherwise
/// (kernels before 6.1). What those hooks judge is refused to a run beyond that.
pub const MAX_RUNS: u32 = 4096;

/// Each agent has two banks of tables: the one in force and the one being filled.
pub const MAX_BANKS: u32 = MAX_AGENTS * 2;

/// In an element of `FLIP`, beside the bank: every flow of the agent is refused, whatever its
/// policy says and its sockets carry.
pub const ISOLATED: u32 = 1 << 31;

const _: () = assert!(MAX_BANKS < ISOLATED);

/// Entries of one policy. 12 bytes each, so 48 KiB a bank. An array inside a map of
/// maps must have the size of its template to be inlined by the JIT.
pub const MAX_ENTRIES: u32 = 4096;

/// Index under which processes in the slice that belong to no known agent are counted.
pub const NO_AGENT: u32 = MAX_AGENTS;

/// Bytes of the event ring (a power of two): room for 13,797 events of 144 bytes and
/// their 8-byte headers, which is 13 ms of a flood at a million a second.
pub const RING_BYTES: u32 = 2 * 1024 * 1024;

/// Steered connections of one agent whose origin the gateway has not yet asked for. The
/// oldest is forgotten when one more comes, and is then closed by the gateway.
pub const MAX_STEERED: u32 = 2048;

/// Depth of an agent's cgroup below the cgroup2 root: `<slice>/<agent>/<run>`.
pub const SLICE_LEVEL: i32 = 1;
/// See [`SLICE_LEVEL`].
pub const AGENT_LEVEL: i32 = 2;

/// The most cgroups outside the slice that are governed where they are.
pub const MAX_ADOPTED: u32 = 1024;

/// How deep below the cgroup2 root such a cgroup may lie: the programs look for no deeper one.
/// `LEVELS` has a bit for each level that one lies at.
pub const MAX_ADOPTED_LEVEL: u32 = 15;

/// The IPv4 range (127.64.0.0/16, host order) from which every agent gets a gate
/// address of its own: `127.64.0.0 + index + 1`. The gate knows the agent by the
/// address that it was asked at. Loopback needs no route and no address for it.
pub const GATE_V4_BASE: u32 = 0x7f40_0000;

/// First 16 bits of [`GATE_V4_BASE`].
pub const GATE_V4_PREFIX: u16 = 0x7f40;

/// The gate's IPv4 address for an agent, network order.
#[inline(always)]
pub const fn gate_v4(agent: u32) -> [u8; 4] {
    (GATE_V4_BASE | ((agent + 1) & 0xffff)).to_be_bytes()
}

/// Helpers that some kernel refuses to some type of program. The daemon tries each and
/// tells the programs by a word of these bits, per type.
pub mod helper {
    /// `bpf_get_current_ancestor_cgroup_id`: which agent the task is.
    pub const ANCESTOR: u64 = 1;
    /// `bpf_get_current_cgroup_id`: which cgroup the task is in.
    pub const CGROUP: u64 = 1 << 1;
    /// `bpf_get_current_pid_tgid`.
    pub const PROCESS: u64 = 1 << 2;
    /// `bpf_get_current_uid_gid`.
    pub const USER: u64 = 1 << 3;
    /// `bpf_get_current_comm`.
    pub const NAME: u64 = 1 << 4;
}

/// Sockets, and folders of sockets, outside of agents that agents may connect to, over all
/// agents.
pub const MAX_SOCKETS: u32 = 4096;

/// Walls of BPF LSM: bits of [`Bank::open`].
pub mod wall {
    /// Unix sockets of others.
    pub const UNIX: u16 = 1;
    /// Sockets that are passed across the boundary.
    pub const PASSING: u16 = 1 << 1;
    /// The way into another cgroup.
    pub const CGROUP: u16 = 1 << 2;
    /// Looking into and steering processes of others.
    pub const PTRACE: u16 = 1 << 3;
    /// Families of sockets.
    pub const FAMILIES: u16 = 1 << 4;
    /// `bpf(2)`.
    pub const BPF: u16 = 1 << 5;
    /// Mounts.
    pub const MOUNT: u16 = 1 << 6;
    /// All of them.
    pub const ALL: u16 = (1 << 7) - 1;
}

/// Key of the `SOCKETS` table: a file, or a folder with all that is in it, whose sockets an
/// agent may connect to. Zero and zero: every socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SocketKey {
    /// Index of the agent.
    pub agent: u32,
    /// The file system, as the kernel numbers it (`super_block.s_dev`).
    pub device: u32,
    /// The file.
    pub inode: u64,
}

const _: () = assert!(size_of::<SocketKey>() == 16, "no padding");

/// What is enforced for an agent.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Refusals are refused.
    Enforce = 0,
    /// Refusals are reported and let through.
    Monitor = 1,
}

impl Mode {
    /// From the byte in a map: anything unknown enforces.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Monitor,
            _ => Self::Enforce,
        }
    }
}

/// What a bank of tables is, beside the tables: value of the `BANKS` array. Written
/// while the bank is not in force, never after.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bank {
    /// Number of the compiled policy; 0 means that the bank holds none.
    pub generation: u32,
    /// [`Mode`].
    pub mode: u8,
    /// 1 if some rule allows ICMP, so that ping sockets may be made.
    pub icmp: u8,
    /// UDP and TCP port of the gate at [`gate_v4`], host order; 0 means no gate, and
    /// then queries to port 53 are refused.
    pub gate4_port: u16,
    /// UDP and TCP port of the agent's gate at `::1`, host order; 0 as above.
    pub gate6_port: u16,
    /// TCP port of the agent's gateway at [`gate_v4`], host order; 0 means no gateway, and
    /// then what would be steered there is refused.
    pub gateway4_port: u16,
    /// TCP port of the agent's gateway at `::1`, host order; 0 as above.
    pub gateway6_port: u16,
    /// TCP ports of the gateway's HTTP and SOCKS5 listeners at [`gate_v4`], host order; 0
    /// where there is none.
    pub proxy_ports: [u16; 2],
    /// Walls of BPF LSM that do not hold for the agent, by [`wall`].
    pub open: u16,
    /// Seconds that a question to a person stands; 0 where nobody is asked. A TCP connection
    /// to what no rule decides is then held, not refused.
    pub asks: u16,
    #[doc(hidden)]
    pub _zero: u16,
    /// Every listen entry, for bind.
    pub listeners: SetRef,
}

const _: () = assert!(size_of::<Bank>() == 32, "no padding");

/// Which side opened a TCP connection.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Not known, or no connection: judged by destination.
    Opener = 0,
    /// The agent accepted it: judged by its own port and the peer.
    Acceptor = 1,
    /// The agent opened it, and the name that the connection is for is yet to be seen: a
    /// verdict with this is good for packets without data only.
    Nameless = 2,
}

/// The verdict that a socket carries: value of the `FLOWS` socket storage. Only
/// verdicts that let a flow out are kept; it holds for one destination and one
/// generation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowState {
    /// Generation that the verdict was made in.
    pub generation: u32,
    /// Index of the agent.
    pub agent: u32,
    /// The destination.
    pub addr: Addr,
    /// The destination's port, host order.
    pub port: u16,
    /// Protocol number.
    pub protocol: u8,
    /// [`Role`].
    pub role: u8,
    /// Deciding rule.
    pub rule: u32,
}

const _: () = assert!(size_of::<FlowState>() == 32, "no padding");

/// What went over a flow so far: whole IP packets, headers included. Added to atomically.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Bytes that left.
    pub sent_bytes: u64,
    /// Packets that left.
    pub sent_packets: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Packets that came.
    pub received_packets: u64,
    /// `CLOCK_BOOTTIME` of the first that left, nanoseconds; 0 where no flow is counted.
    pub first_ns: u64,
}

const _: () = assert!(size_of::<Counted>() == 40, "no padding");

/// Whose a flow is: for its end, which no task may be near.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Starter {
    /// Id of the cgroup of the task, or of the socket where there is no task.
    pub cgroup: u64,
    /// The local address.
    pub source: Addr,
    /// Process id above, thread id below, as the helper gives them.
    pub pid: u64,
    /// Group id above, user id below.
    pub uid: u64,
    /// Name of the task.
    pub comm: [u8; crate::event::COMM_BYTES],
    /// The local port, host order.
    pub source_port: u16,
    /// `FLAG_TASK` and `FLAG_USER` of [`crate::event`].
    pub flags: u8,
    /// 1 where the end of the TCP connection will be told by its state, which lies behind the
    /// end of the descriptor. Stays with the socket.
    pub watched: u8,
    #[doc(hidden)]
    pub _zero: [u8; 4],
}

const _: () = assert!(size_of::<Starter>() == 64, "no padding");

/// Value of the `FLOWS` socket storage: the verdict that a socket carries, and what went over it.
/// One value, because a packet has to find both. Its generation is 0 before there is a verdict.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The verdict.
    pub state: FlowState,
    /// What went over it.
    pub counted: Counted,
    /// Whose it is.
    pub starter: Starter,
}

const _: () = assert!(size_of::<Flow>() == 136, "no padding");
const _: () = assert!(core::mem::offset_of!(Flow, counted) % 8 == 0);

/// Which name a TLS connection to an address may be for: key of the `NAMES` tables.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NameKey {
    /// The destination.
    pub addr: Addr,
    /// The host name in lower case, zeroes behind it.
    pub name: [u8; NAME_BYTES],
}

const _: () = assert!(size_of::<NameKey>() == 272, "no padding");

impl NameKey {
    /// A key; `None` for a name that is longer than any host name.
    pub fn new(addr: Addr, host: &str) -> Option<Self> {
        let mut name = [0; NAME_BYTES];
        // One byte less, so that there is a zero behind every name.
        if host.len() >= NAME_BYTES {
            return None;
        }
        name.get_mut(..host.len())?.copy_from_slice(host.as_bytes());
        Some(Self { addr, name })
    }
}

/// The beginning of a TLS connection: value of the `HANDSHAKES` socket storage. Made only
/// for connections whose name counts, and kept as long as the socket lives, because a new
/// policy judges the name anew.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The destination, right before the name: together they are a [`NameKey`].
    pub addr: Addr,
    /// What the client has said.
    pub client: Client,
    /// TCP sequence number of the next byte that has not been read.
    pub next: u32,
    /// The [`crate::Reason`] that the connection was refused for before its name was certain,
    /// and one; 0 while it is not.
    refused: u8,
    /// 1 once the name was told of.
    told: u8,
    _zero: [u8; 2],
}

const _: () = assert!(size_of::<Handshake>() == 376, "no padding");
const _: () = assert!(core::mem::offset_of!(Handshake, client) == size_of::<Addr>());

impl Handshake {
    /// Why the connection was refused, if it was: nothing of it may leave any more.
    #[inline(always)]
    pub const fn refused(&self) -> Option<crate::Reason> {
        match self.refused {
            0 => None,
            number => match crate::Reason::from_number(number - 1) {
                Some(reason) => Some(reason),
                None => Some(crate::Reason::State),
            },
        }
    }

    /// It is refused, for good if it was not yet.
    #[inline(always)]
    pub const fn refuse(&mut self, reason: crate::Reason) {
        if self.refused == 0 {
            self.refused = reason.number() + 1;
        }
    }

    /// Another connection begins on the socket.
    #[inline(always)]
    pub const fn forgive(&mut self) {
        (self.refused, self.told) = (0, 0);
    }

    /// Whether its name was not told of before; from now on it was.
    #[inline(always)]
    pub const fn is_news(&mut self) -> bool {
        let news = self.told == 0;
        self.told = 1;
        news
    }
}

/// Where a steered socket thinks that it talks to: value of the `ORIGINS` socket storage, and
/// of the `STEERED` tables. Made only for sockets that were steered to the gate or the gateway.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The server that the program named.
    pub addr: Addr,
    /// Its port, network order.
    pub port_be: u16,
    /// Port of the gate or gateway that the socket was steered to, network order: an address
    /// is only turned back where it and this port are the gate's.
    pub gate_port_be: u16,
}

const _: () = assert!(size_of::<Origin>() == 20, "no padding");

/// Connections of one agent that may begin to be held while one question stands
/// ([`Bank::asks`]); so at most twice as many are held at any time. More are refused.
pub const MAX_HELD: u64 = 256;

/// What a socket waits for: value of the `HELD` socket storage. Made, empty, with the TCP sockets
/// of agents that ask: so it is only there where the egress hook sees every packet of the socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// The destination.
    pub addr: Addr,
    /// Its port, host order; 0 where nothing is held.
    pub port: u32,
    /// Packets that were held back.
    pub kept_back: u32,
}

const _: () = assert!(size_of::<Held>() == 24, "no padding");

/// Connections that began to be held: value of the `HOLDS` array, by agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holds {
    /// Since when they are counted, `CLOCK_BOOTTIME` nanoseconds.
    pub since: u64,
    /// How many.
    pub count: u64,
}

/// Number of [`crate::Reason`]s that counters have room for.
pub const REASON_SLOTS: usize = 64;
/// Number of protocol classes.
pub const PROTOCOL_SLOTS: usize = 4;

const _: () = assert!(crate::Reason::ALL.len() < REASON_SLOTS);
const _: () = assert!(crate::protocol::ProtocolClass::ALL.len() == PROTOCOL_SLOTS);

/// What the kernel counts for an agent, on one CPU: value of the `STATS` per-CPU array.
/// Added to atomically, because a packet in softirq may interrupt a connect.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Refusals (in monitor mode: would-be refusals) by reason and protocol class.
    pub blocked: [[u64; PROTOCOL_SLOTS]; REASON_SLOTS],
    /// Flows let out, by protocol class: counted at their first packet.
    pub allowed: [u64; PROTOCOL_SLOTS],
    /// Bytes of packets let out, IP header included.
    pub sent_bytes: u64,
    /// Events that found no room in the ring.
    pub events_lost: u64,
    /// Events that the throttle kept back.
    pub events_throttled: u64,
}

// The standard library makes no such array.
impl Default for Stats {
    fn default() -> Self {
        Self {
            blocked: [[0; PROTOCOL_SLOTS]; REASON_SLOTS],
            allowed: [0; PROTOCOL_SLOTS],
            sent_bytes: 0,
            events_lost: 0,
            events_throttled: 0,
        }
    }
}

/// The throttle of one agent and reason on one CPU: value of the `BUCKETS` per-CPU
/// array. A token bucket that counts nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// Time of the last refill, `CLOCK_BOOTTIME` nanoseconds.
    pub refilled: u64,
    /// Nanoseconds saved up.
    pub credit: u64,
    /// Events kept back since the last one that was reported.
    pub suppressed: u64,
}

/// Index in the `BUCKETS` array.
#[inline(always)]
pub const fn bucket_index(agent: u32, reason: crate::Reason) -> u32 {
    agent * REASON_SLOTS as u32 + reason.number() as u32
}

/// The same for flows that are let out: the last slot of the agent, which no reason has.
#[inline(always)]
pub const fn allowed_bucket_index(agent: u32) -> u32 {
    agent * REASON_SLOTS as u32 + (REASON_SLOTS as u32 - 1)
}

#[cfg(feature = "user")]
mod pod {
    use super::{Bank, Bucket, NameKey, Origin, SocketKey, Stats};
    use crate::{
        Addr,
        verdict::{Entry, SetRef},
    };

    // SAFETY: each is `repr(C)` or transparent, made of integers only, without padding (see
    // the size assertions), so any bytes are a value and every byte of a value is written.
    unsafe impl aya::Pod for Bank {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SocketKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Bucket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Stats {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NameKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Origin {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Addr {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SetRef {}
}
