//! Connections that wait for a person: TCP to what no rule decides, of agents that ask.
//!
//! ```text
//! connect ─ no rule ─→ let begin, the socket is HELD ─→ SYN ─ egress ─ still no rule ─→ kept back
//!                                                        ↑ again, twice a second ─────────┘
//!                                                        └ a rule: it passes, as any other
//! ```
//!
//! Nothing here lets a packet out: egress judges each SYN by the tables, and only where they
//! refuse it is asked whether the socket waits. A daemon that is gone, or an event that finds no
//! room, leaves it kept back until the connect times out.

use agent_common::{
    Addr, Protocol, Reason,
    layout::{Held, MAX_HELD},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_ktime_get_boot_ns, bpf_setsockopt, bpf_sk_storage_get},
    programs::{SockAddrContext, SockContext},
};

use crate::{
    Outcome,
    agent::Agent,
    ctx::Packet,
    maps::{HELD, HOLDS},
    report,
};

const SOL_TCP: i32 = 6;
const TCP_SYNCNT: i32 = 7;
/// `MAX_TCP_SYNCNT`. The kernel's usual six are used up in three seconds at two a second.
const MOST_SYNS: i32 = 127;

/// SYNs that are kept back so that TCP sends again in half a second: 45 seconds of them. The
/// rest of [`MOST_SYNS`] are refused, after which it waits twice as long each time: for the
/// longest question that there can be.
const QUICK: u32 = 90;

/// The daemon is told of each eighth SYN, four seconds apart: one that was started meanwhile
/// knows of no socket that waits, and an event may have been lost.
const TELL_EVERY: u32 = 8;

/// What becomes of a packet that was refused.
pub(crate) enum Waits {
    /// Nobody waits for it.
    No,
    /// It is kept back, and that is known.
    Still(Outcome),
    /// It is kept back, and to be told of.
    Told,
}

/// Nobody was asked about what a rule, a wall or the daemon's own addresses decide.
#[inline(always)]
fn undecided(reason: Reason) -> bool {
    matches!(reason, Reason::NoRule | Reason::Port)
}

/// Makes the place of what a new socket may wait for. A socket that was made elsewhere has none,
/// and is never held: no program sees its packets.
#[inline(always)]
pub(crate) fn make(ctx: &SockContext, agent: &Agent, protocol: Protocol) {
    if agent.info.asks == 0 || protocol != Protocol::TCP {
        return;
    }
    let map = (&raw const HELD).cast_mut().cast();
    let mut none = Held::default();
    let none = (&raw mut none).cast();
    // SAFETY: the program's context is a socket; the value is a whole one. Without memory there
    // is none, and the socket is never held.
    unsafe { bpf_sk_storage_get(map, ctx.as_ptr(), none, BPF_SK_STORAGE_GET_F_CREATE.into()) };
}

/// Whether a connect that was refused may begin, to be held until a person has answered.
#[inline(always)]
pub(crate) fn begin(
    ctx: &SockAddrContext,
    agent: &Agent,
    dest: &Addr,
    port: u16,
    reason: Reason,
) -> bool {
    if agent.info.asks == 0 || !undecided(reason) || port == 0 || dest.is_special() {
        return false;
    }
    // SAFETY: the storage belongs to the context's socket.
    let held = unsafe { HELD.get_ptr_mut(ctx) };
    if held.is_null() || !has_room(agent) {
        return false;
    }
    // SAFETY: not null, so it points to a whole value; the socket is locked.
    unsafe {
        (*held).addr = *dest;
        (*held).port = u32::from(port);
        (*held).kept_back = 0;
    }
    let mut count = MOST_SYNS;
    let count = (&raw mut count).cast();
    // SAFETY: the program's context, and four bytes that are there. Where it fails the connect
    // times out earlier.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_TCP, TCP_SYNCNT, count, 4) };
    true
}

/// Whether one more connection of the agent may be held.
#[inline(always)]
fn has_room(agent: &Agent) -> bool {
    let Some(holds) = HOLDS.get_ptr_mut(agent.index) else {
        return false;
    };
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let window = u64::from(agent.info.asks) * 1_000_000_000;
    // SAFETY: a map value. Two CPUs may begin a window at once, and each then counts from zero:
    // a handful more are held.
    unsafe {
        if now.wrapping_sub((*holds).since) >= window {
            (*holds).since = now;
            (*holds).count = 0;
        }
        report::add(&raw mut (*holds).count, 1);
        (&raw const (*holds).count).read_volatile() <= MAX_HELD
    }
}

/// Whether a packet that was refused is the SYN of a socket that waits.
#[inline(always)]
pub(crate) fn waits(
    socket: Option<*mut bpf_sock>,
    agent: &Agent,
    packet: &Packet,
    reason: Reason,
) -> Waits {
    let Some(socket) = socket else {
        return Waits::No;
    };
    if agent.info.asks == 0 || !packet.opens || !undecided(reason) {
        return Waits::No;
    }
    let map = (&raw const HELD).cast_mut().cast();
    // SAFETY: `socket` came from bpf_sk_fullsock.
    let held = unsafe { bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0) };
    let held: *mut Held = held.cast();
    if held.is_null() {
        return Waits::No;
    }
    // SAFETY: not null, so it points to a whole value; the socket is locked.
    unsafe {
        if (*held).port != u32::from(packet.dest_port) || (*held).addr != packet.dest {
            return Waits::No;
        }
        let before = (*held).kept_back;
        (*held).kept_back = before.wrapping_add(1);
        if before.is_multiple_of(TELL_EVERY) {
            return Waits::Told;
        }
        Waits::Still(if before < QUICK {
            Outcome::Hold
        } else {
            Outcome::Refuse
        })
    }
}
