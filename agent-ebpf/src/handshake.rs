//! Which name a TLS connection is for, read from what the agent sends: nothing but the
//! beginning of a handshake leaves before the name in it is one that the policy allows and
//! that the address is leased for.

use agent_common::{
    Reason,
    hello::{self, ENCRYPTED, Fault, Said},
    layout::{Handshake, NameKey},
    verdict::{Check, Verdict},
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::bpf_sk_storage_get,
    programs::SkBuffContext,
};

use crate::{
    agent::Agent,
    ctx::Packet,
    egress, judge,
    maps::{HANDSHAKES, NAMES},
    payload::Payload,
};

/// What a packet says of the name.
pub(crate) enum Seen {
    /// Nothing that must not leave; the name is still open.
    Open,
    /// The name is certain, and allowed by this rule.
    Named(u32),
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

impl Seen {
    const OPEN: u64 = 1 << 40;
    const NAMED: u64 = 1 << 41;

    #[inline(always)]
    const fn pack(self) -> u64 {
        match self {
            Self::Open => Self::OPEN,
            Self::Named(rule) => Self::NAMED | rule as u64,
            Self::Refused(reason) => reason.number() as u64,
        }
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        if word & Self::OPEN != 0 {
            return Self::Open;
        }
        if word & Self::NAMED != 0 {
            return Self::Named(word as u32);
        }
        Self::Refused(Reason::from_number(word as u8).unwrap_or(Reason::State))
    }
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
    if packet.urgent {
        return Seen::Refused(Reason::TlsOrder);
    }
    Seen::unpack(exeat_read_hello(
        ctx.skb.skb,
        u64::from(agent.bank),
        u64::from(packet.sequence),
        u64::from(packet.payload) << 32 | u64::from(packet.data),
        u64::from(packet.dest_port),
    ))
}

/// Reads what a packet holds of the hello. A function of its own for the verifier, as those of
/// [`crate::judge`] are; and so its variables do not lie on the stack beside those of an event:
/// the two together pass the 512 bytes that a program has.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_read_hello(
    skb: *mut __sk_buff,
    bank: u64,
    sequence: u64,
    payload: u64,
    port: u64,
) -> u64 {
    let offset = (payload >> 32) as u32;
    read(
        skb,
        bank as u32,
        sequence as u32,
        offset,
        payload as u32,
        port as u16,
    )
    .pack()
}

#[inline(always)]
fn read(skb: *mut __sk_buff, bank: u32, sequence: u32, offset: u32, data: u32, port: u16) -> Seen {
    let Some(socket) = egress::full_socket(skb) else {
        return Seen::Refused(Reason::TlsOrder);
    };
    let state = storage(socket, false);
    if state.is_null() {
        return Seen::Refused(Reason::TlsOrder);
    }
    // SAFETY: not null, so it points to a whole value. Only the socket's own packets touch
    // it, and they leave one at a time under the socket's lock.
    let state = unsafe { &mut *state };
    let said = if state.client.is_settled() {
        Said::Settled
    } else {
        let behind = state.next.wrapping_sub(sequence);
        if behind > i32::MAX as u32 {
            return Seen::Refused(Reason::TlsOrder);
        }
        if behind >= data {
            // Sent again: what it holds was read before, and is kept by the kernel.
            return Seen::Open;
        }
        state.next = sequence.wrapping_add(data);
        state.client.read(&Payload { skb, offset }, behind, data)
    };
    let settled = match said {
        Said::More => return Seen::Open,
        Said::Refused(fault) => return Seen::Refused(reason(fault)),
        Said::Name => false,
        Said::Settled => true,
    };
    match judge_name(bank, state, port) {
        Ok(rule) if settled => Seen::Named(rule),
        Ok(_) => Seen::Open,
        Err(reason) => Seen::Refused(reason),
    }
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
    state.addr = packet.dest;
    state.next = packet.sequence.wrapping_add(1);
    Seen::Open
}

/// The rule that allows the name that was said, for this address and port.
#[inline(always)]
fn judge_name(bank: u32, state: &Handshake, port: u16) -> Result<u32, Reason> {
    const { assert!(core::mem::offset_of!(NameKey, name) == core::mem::offset_of!(Handshake, client)) };
    let key: *const NameKey = (&raw const *state).cast();
    let names = NAMES.get(bank).ok_or(Reason::State)?;
    // SAFETY: the state begins with the address, and right behind it with the name and the
    // zeroes behind that, which is a key. The value is one aligned word.
    let set = unsafe { names.get(&*key) }.ok_or(Reason::TlsName)?;
    match judge::name(bank, *set, port) {
        Verdict::Allow { check, .. }
            if state.client.flags() & ENCRYPTED != 0 && check == Check::Name =>
        {
            Err(Reason::TlsEncrypted)
        }
        Verdict::Allow { rule, .. } => Ok(rule),
        Verdict::Deny { .. } => Err(Reason::TlsName),
    }
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

const _: () = assert!(hello::NAME_BYTES == 256);
