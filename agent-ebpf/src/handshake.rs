//! Which name a TLS connection is for, read from what the agent sends: nothing but the
//! beginning of a handshake leaves before the name in it is one that the policy allows and
//! that the address is leased for.

use agent_common::{
    Protocol, Reason,
    hello::{ENCRYPTED, Fault, NAME_BYTES, Said},
    layout::{Handshake, NameKey},
    verdict::{self, Check, NO_RULE, Verdict},
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_sk_storage_delete, bpf_sk_storage_get},
    programs::SkBuffContext,
};

use crate::{
    agent::{Agent, KernelTables},
    ctx::Packet,
    egress, judge,
    maps::{HANDSHAKES, NAMES},
    pages,
    payload::Payload,
};

/// In the word of [`exeat_judge_name`]: nobody was told of the name yet.
const NEWS: u64 = 1 << 41;

/// What a packet says of the name.
pub(crate) enum Seen {
    /// Nothing that must not leave; the name is still open.
    Open,
    /// The name is certain, and allowed by this rule; whether that is said for the first time.
    Named { rule: u32, news: bool },
    /// The packet must not leave.
    Refused(Reason),
}

/// The state of a connection whose name counts; with `create`, made if there is none.
#[inline(always)]
fn storage(socket: *mut bpf_sock, create: bool) -> *mut Handshake {
    let map = (&raw const HANDSHAKES).cast_mut().cast();
    let flags = if create {
        BPF_SK_STORAGE_GET_F_CREATE
    } else {
        0
    };
    // SAFETY: `socket` came from bpf_sk_fullsock; without a value the kernel makes one of
    // zeroes.
    unsafe { bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), flags.into()) }.cast()
}

/// Judges a packet of a connection that is allowed once its name is.
#[inline(always)]
pub(crate) fn see(
    ctx: &SkBuffContext,
    socket: Option<*mut bpf_sock>,
    agent: &Agent,
    packet: &Packet,
) -> Seen {
    if packet.opens {
        return match socket {
            Some(socket) => begin(storage(socket, true), packet),
            None => Seen::Refused(Reason::State),
        };
    }
    if packet.data == 0 {
        return Seen::Open;
    }
    let said = exeat_read_hello(
        ctx.skb.skb,
        u64::from(packet.sequence),
        u64::from(packet.payload) << 32 | u64::from(packet.data),
        packet.urgent.into(),
    );
    let heard = Heard::unpack(said);
    match heard {
        Heard::Open => return Seen::Open,
        Heard::Refused(reason) => return Seen::Refused(reason),
        Heard::Name | Heard::Settled | Heard::Broken(_) => {}
    }
    let judged = exeat_judge_name(
        ctx.skb.skb,
        u64::from(agent.bank),
        u64::from(packet.dest_port),
    );
    match judge::unpack(judged) {
        Verdict::Deny { reason, .. } => Seen::Refused(reason),
        Verdict::Allow { rule, .. } => match heard {
            Heard::Settled => Seen::Named {
                rule,
                news: judged & NEWS != 0,
            },
            Heard::Broken(reason) | Heard::Refused(reason) => Seen::Refused(reason),
            Heard::Open | Heard::Name => Seen::Open,
        },
    }
}

/// What a packet holds of the handshake, as a word between functions.
enum Heard {
    /// Nothing that must not leave: no name so far.
    Open,
    /// A name, and another may follow.
    Name,
    /// A name, and no other can follow.
    Settled,
    /// A name, and then what no client sends: told only where the name is allowed.
    Broken(Reason),
    Refused(Reason),
}

impl Heard {
    #[inline(always)]
    const fn pack(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Name => 1,
            Self::Settled => 2,
            Self::Broken(reason) => 3 | (reason.number() as u64) << 8,
            Self::Refused(reason) => 4 | (reason.number() as u64) << 8,
        }
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        let reason = Reason::from_number((word >> 8) as u8).unwrap_or(Reason::State);
        match word as u8 {
            0 => Self::Open,
            1 => Self::Name,
            2 => Self::Settled,
            3 => Self::Broken(reason),
            _ => Self::Refused(reason),
        }
    }
}

/// The state of the connection that a packet belongs to.
#[inline(always)]
fn of_packet(skb: *mut __sk_buff) -> Option<&'static mut Handshake> {
    let socket = egress::full_socket(skb)?;
    // SAFETY: if not null it points to a whole value. Only the socket's own packets touch it,
    // and they leave one at a time under the socket's lock.
    unsafe { storage(socket, false).as_mut() }
}

/// What the client of a packet's connection has said its name is, for the record.
#[inline(always)]
pub(crate) fn said(skb: *mut __sk_buff) -> Option<&'static [u8; NAME_BYTES]> {
    let state: &'static Handshake = of_packet(skb)?;
    Some(state.client.name_bytes())
}

/// Reads what a packet holds of the handshake. A function of its own for the verifier, as
/// those of [`crate::judge`] are; and so its variables do not lie on the stack beside those of
/// an event: the two together pass the 512 bytes that a program has.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_read_hello(
    skb: *mut __sk_buff,
    sequence: u64,
    payload: u64,
    urgent: u64,
) -> u64 {
    let (offset, data) = ((payload >> 32) as u32, payload as u32);
    let Some(state) = of_packet(skb) else {
        return Heard::Refused(Reason::TlsOrder).pack();
    };
    let heard = match urgent {
        0 => read(state, skb, sequence as u32, offset, data),
        _ => match state.refused() {
            Some(reason) => Heard::Refused(reason),
            None => Heard::Refused(Reason::TlsOrder),
        },
    };
    if let Heard::Refused(reason) | Heard::Broken(reason) = heard {
        state.refuse(reason);
    }
    heard.pack()
}

#[inline(always)]
fn read(
    state: &mut Handshake,
    skb: *mut __sk_buff,
    sequence: u32,
    offset: u32,
    data: u32,
) -> Heard {
    // A packet that was refused is sent again, as it was or with more behind it.
    if let Some(reason) = state.refused() {
        return Heard::Refused(reason);
    }
    if state.client.is_settled() {
        return Heard::Settled;
    }
    let behind = state.next.wrapping_sub(sequence);
    if behind > i32::MAX as u32 {
        return Heard::Refused(Reason::TlsOrder);
    }
    if behind >= data {
        // Sent again: what it holds was read before, and is kept by the kernel.
        return if state.client.is_named() {
            Heard::Name
        } else {
            Heard::Open
        };
    }
    if pages::are_shared(skb) {
        return Heard::Refused(Reason::TlsShared);
    }
    state.next = sequence.wrapping_add(data);
    match state.client.read(&Payload { skb, offset }, behind, data) {
        Said::More => Heard::Open,
        Said::Name => Heard::Name,
        Said::Settled => Heard::Settled,
        Said::Refused(fault) if state.client.is_named() => Heard::Broken(reason(fault)),
        Said::Refused(fault) => Heard::Refused(reason(fault)),
    }
}

/// Judges the name of a packet's connection for its address and the port.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_judge_name(skb: *mut __sk_buff, bank: u64, port: u64) -> u64 {
    let Some(state) = of_packet(skb) else {
        return judge::pack(Verdict::Deny {
            reason: Reason::State,
            rule: NO_RULE,
        });
    };
    let verdict = judge_name(state, bank as u32, port as u16);
    // A name that is certain is judged with every packet, and may be allowed again by another
    // policy. One that may still change must not: what was refused is sent again, and would
    // leave once a better name has followed it.
    if let Verdict::Deny { reason, .. } = verdict
        && !state.client.is_settled()
    {
        state.refuse(reason);
    }
    let news = verdict.is_allow() && state.client.is_settled() && state.is_news();
    judge::pack(verdict) | if news { NEWS } else { 0 }
}

#[inline(always)]
fn judge_name(state: &Handshake, bank: u32, port: u16) -> Verdict {
    const { assert!(core::mem::offset_of!(NameKey, name) == core::mem::offset_of!(Handshake, client)) };
    let deny = |reason| Verdict::Deny {
        reason,
        rule: NO_RULE,
    };
    let (Some(names), Some(tables)) = (NAMES.get(bank), KernelTables::of(bank)) else {
        return deny(Reason::State);
    };
    let key: *const NameKey = (&raw const *state).cast();
    // SAFETY: the state begins with the address, and right behind it with the name and the
    // zeroes behind that, which is a key.
    let key = unsafe { &*key };
    // SAFETY: the value is one aligned word.
    let Some(set) = (unsafe { names.get(key) }) else {
        return deny(Reason::TlsName);
    };
    match verdict::judge_set(&tables, *set, Protocol::TCP, port) {
        Verdict::Allow { check, .. }
            if state.client.flags() & ENCRYPTED != 0 && check == Check::Name =>
        {
            deny(Reason::TlsEncrypted)
        }
        Verdict::Allow { check, .. } if check.is_steered() => deny(Reason::Unsteered),
        Verdict::Deny { .. } => deny(Reason::TlsName),
        allow => allow,
    }
}

/// A connection begins whose name does not count: one that the socket had before is no part
/// of it, should a new policy ask for its name.
#[inline(always)]
pub(crate) fn forget(socket: *mut bpf_sock) {
    let map = (&raw const HANDSHAKES).cast_mut().cast();
    // SAFETY: `socket` came from bpf_sk_fullsock. That there was nothing is no fault.
    unsafe { bpf_sk_storage_delete(map, socket.cast()) };
}

/// A connection begins, perhaps on a socket that had another one before.
#[inline(always)]
fn begin(state: *mut Handshake, packet: &Packet) -> Seen {
    if state.is_null() {
        return Seen::Refused(Reason::State);
    }
    if packet.data != 0 {
        return Seen::Refused(Reason::TlsEarly);
    }
    // SAFETY: as in `see`.
    let state = unsafe { &mut *state };
    state.client.reset();
    state.forgive();
    state.addr = packet.dest;
    state.next = packet.sequence.wrapping_add(1);
    Seen::Open
}

const fn reason(fault: Fault) -> Reason {
    match fault {
        Fault::NotTls => Reason::NotTls,
        Fault::NoName => Reason::TlsNoName,
        Fault::Address => Reason::TlsAddress,
        Fault::NameLength | Fault::NameBytes => Reason::TlsBadName,
        Fault::Names => Reason::TlsNames,
        Fault::Malformed
        | Fault::Extensions
        | Fault::Repeated
        | Fault::RecordLength
        | Fault::Unreadable => Reason::TlsMalformed,
        Fault::Split => Reason::TlsSplit,
        Fault::Trailing => Reason::TlsTrailing,
    }
}
