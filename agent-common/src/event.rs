//! The record that the kernel sends for a refused flow, or one whose name is certain.

use crate::{Addr, Hook, Protocol, Reason, hello::NAME_BYTES, layout::Counted, verdict::NO_RULE};

/// Bytes of a task's name, NUL-padded (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

/// The flow was let through because the agent is in monitor mode.
pub const FLAG_MONITOR: u8 = 1;
/// `pid` and `tgid` are those of the process that owns the socket. Without it the packet
/// left in another context (a timer, a softirq), or this kernel does not tell the hook who
/// runs, and the task fields are zero.
pub const FLAG_TASK: u8 = 2;
/// `uid`, `gid` and `comm` are filled too. Kernels from 6.10 on tell every hook the process,
/// but only later ones tell the packet hook the rest.
pub const FLAG_USER: u8 = 4;

/// The flow was let out: its name is certain. It has no reason.
pub const FLAG_ALLOWED: u8 = 8;

/// One refused (or, in monitor mode, would-be refused) flow, or a TLS connection that is let
/// out by its name, as written by the BPF programs into the ring. Native byte order except for addresses; no padding.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEvent {
    /// `CLOCK_BOOTTIME`, nanoseconds (`bpf_ktime_get_boot_ns`).
    pub boot_ns: u64,
    /// Id of the cgroup of the task, or of the socket where there is no task.
    pub cgroup: u64,
    /// `SO_COOKIE` of the socket; 0 where the hook has none.
    pub socket_cookie: u64,
    /// Cookie of the network namespace; 0 where the hook cannot tell.
    pub netns_cookie: u64,
    /// Events of the same agent and reason that the throttle kept back before this one.
    pub suppressed: u64,
    /// Events that this CPU has tried to send, this one included.
    pub sequence: u64,
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// User id, in the initial user namespace.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Index of the agent.
    pub agent: u32,
    /// Generation of the policy that decided.
    pub generation: u32,
    /// Deciding rule, or [`NO_RULE`].
    pub rule: u32,
    /// CPU that `sequence` belongs to.
    pub cpu: u32,
    /// Local port, host order; 0 if not bound yet.
    pub source_port: u16,
    /// Remote port, host order (for a bind: the local port).
    pub dest_port: u16,
    /// [`Reason`].
    pub reason: u8,
    /// [`Hook`].
    pub hook: u8,
    /// IP protocol number as seen, not folded.
    pub protocol: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// For a socket that may not be made: its family, and its type in the low 8 bits with
    /// its protocol above (MPTCP's number, 262, does not fit `protocol`). For a socket
    /// option: level and name.
    pub detail: [u32; 2],
    /// Local address; all zero if not known.
    pub source: Addr,
    /// Remote address (for a bind: the local address).
    pub dest: Addr,
    /// Name of the task.
    pub comm: [u8; COMM_BYTES],
}

/// Bytes of a [`FlowEvent`] in the ring.
pub const EVENT_BYTES: usize = size_of::<FlowEvent>();

const _: () = assert!(
    EVENT_BYTES == 144,
    "no padding, and the size that the reader checks"
);

/// The record of a TLS connection: with the name that it said.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedEvent {
    /// What was refused.
    pub flow: FlowEvent,
    /// What the ClientHello says, as far as it was read: a host name in lower case where it is
    /// one, else as it came. Zeroes behind it, or nothing but zeroes.
    pub name: [u8; NAME_BYTES],
}

/// Bytes of a [`NamedEvent`] in the ring.
pub const NAMED_EVENT_BYTES: usize = size_of::<NamedEvent>();

const _: () = assert!(NAMED_EVENT_BYTES == 400, "no padding");

impl NamedEvent {
    /// Reads a record from the ring, with a name or without.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let length = DecodeError::Length(bytes.len());
        let (flow, rest) = bytes.split_at_checked(EVENT_BYTES).ok_or(length)?;
        let name = match rest {
            [] => &[0; NAME_BYTES],
            rest => rest.try_into().map_err(|_| length)?,
        };
        Ok(Self {
            flow: FlowEvent::decode(flow)?,
            name: *name,
        })
    }

    /// The name; `None` where nothing was said, or not yet.
    pub fn name(&self) -> Option<&[u8]> {
        let end = self.name.iter().position(|byte| *byte == 0);
        let name = self.name.get(..end.unwrap_or(NAME_BYTES))?;
        (!name.is_empty()).then_some(name)
    }
}

/// The record of a flow that has ended.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndedEvent {
    /// Which flow.
    pub flow: FlowEvent,
    /// What went over it.
    pub counted: Counted,
    /// As in [`NamedEvent::name`]. Not there in a record of [`ENDED_EVENT_BYTES`].
    pub name: [u8; NAME_BYTES],
}

/// Bytes of an [`EndedEvent`] without its name, and with it.
pub const ENDED_EVENT_BYTES: usize = EVENT_BYTES + size_of::<Counted>();
/// See [`ENDED_EVENT_BYTES`].
pub const NAMED_ENDED_EVENT_BYTES: usize = size_of::<EndedEvent>();

const _: () = assert!(
    ENDED_EVENT_BYTES == 184 && NAMED_ENDED_EVENT_BYTES == 440,
    "no padding"
);

/// A record of the ring, whichever it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// What is told, with its name if it has one.
    pub said: NamedEvent,
    /// What went over it, where it is the end of a flow.
    pub counted: Option<Counted>,
}

impl Told {
    /// Reads a record from the ring: its length says which it is.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != ENDED_EVENT_BYTES && bytes.len() != NAMED_ENDED_EVENT_BYTES {
            let said = NamedEvent::decode(bytes)?;
            return Ok(Self {
                said,
                counted: None,
            });
        }
        let length = DecodeError::Length(bytes.len());
        let (flow, rest) = bytes.split_at_checked(EVENT_BYTES).ok_or(length)?;
        let (counted, name) = rest.split_at_checked(size_of::<Counted>()).ok_or(length)?;
        let name = match name {
            [] => &[0; NAME_BYTES],
            name => name.try_into().map_err(|_| length)?,
        };
        // SAFETY: the slice has the size of it; it is made of integers, for which any bytes are
        // a value, and read_unaligned asks for no alignment.
        let counted = unsafe { counted.as_ptr().cast::<Counted>().read_unaligned() };
        Ok(Self {
            said: NamedEvent {
                flow: FlowEvent::decode(flow)?,
                name: *name,
            },
            counted: Some(counted),
        })
    }
}

/// A record that is not a [`FlowEvent`] of this layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Wrong number of bytes.
    Length(usize),
    /// A number that is no [`Reason`].
    Reason(u8),
    /// A number that is no [`Hook`].
    Hook(u8),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length(n) => write!(f, "an event of {n} bytes instead of {EVENT_BYTES}"),
            Self::Reason(n) => write!(f, "an event with the unknown reason {n}"),
            Self::Hook(n) => write!(f, "an event with the unknown hook {n}"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl FlowEvent {
    /// Reads a record from the ring. Checks the length and the closed enums, so that
    /// [`FlowEvent::reason`] and [`FlowEvent::hook`] cannot fail afterwards.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != EVENT_BYTES {
            return Err(DecodeError::Length(bytes.len()));
        }
        // SAFETY: the length is checked, every field is an integer or an array of
        // integers, for which any bytes are a value, and read_unaligned asks for no
        // alignment.
        let event = unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() };
        Reason::from_number(event.reason).ok_or(DecodeError::Reason(event.reason))?;
        Hook::from_number(event.hook).ok_or(DecodeError::Hook(event.hook))?;
        Ok(event)
    }

    /// Why it was refused.
    pub fn reason(&self) -> Reason {
        Reason::from_number(self.reason).unwrap_or(Reason::State)
    }

    /// Where it was seen.
    pub fn hook(&self) -> Hook {
        Hook::from_number(self.hook).unwrap_or(Hook::Egress)
    }

    /// The protocol, ICMPv6 folded into ICMP.
    pub fn protocol(&self) -> Protocol {
        Protocol::new(self.protocol)
    }

    /// The deciding rule, if one decided.
    pub fn rule(&self) -> Option<u32> {
        (self.rule != NO_RULE).then_some(self.rule)
    }

    /// Whether it was let through because the agent is only monitored.
    pub fn monitored(&self) -> bool {
        self.flags & FLAG_MONITOR != 0
    }

    /// Whether it was let out, and no rule was in the way: there is no reason.
    pub fn allowed(&self) -> bool {
        self.flags & FLAG_ALLOWED != 0
    }

    /// Whether `pid` and `tgid` are filled.
    pub fn has_task(&self) -> bool {
        self.flags & FLAG_TASK != 0
    }

    /// Whether `uid`, `gid` and `comm` are filled.
    pub fn has_user(&self) -> bool {
        self.flags & FLAG_USER != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_tells_which_record_it_is() {
        for (bytes, ended) in [
            (EVENT_BYTES, false),
            (NAMED_EVENT_BYTES, false),
            (ENDED_EVENT_BYTES, true),
            (NAMED_ENDED_EVENT_BYTES, true),
        ] {
            let mut record = [0u8; NAMED_ENDED_EVENT_BYTES];
            record[bytes - 1] = 1;
            let told = Told::decode(&record[..bytes]).expect("a record");
            assert_eq!(told.counted.is_some(), ended, "{bytes}");
            assert!(Told::decode(&record[..bytes - 1]).is_err(), "{bytes}");
        }
    }

    #[test]
    fn truncated_and_unknown_records_are_refused() {
        let zero = [0u8; EVENT_BYTES];
        assert!(FlowEvent::decode(&zero).is_ok());
        for len in [0, 1, EVENT_BYTES - 1] {
            assert_eq!(
                FlowEvent::decode(&zero[..len]),
                Err(DecodeError::Length(len))
            );
        }
        let reason = core::mem::offset_of!(FlowEvent, reason);
        let mut bad = zero;
        bad[reason] = 99;
        assert_eq!(FlowEvent::decode(&bad), Err(DecodeError::Reason(99)));
        let hook = core::mem::offset_of!(FlowEvent, hook);
        let mut bad = zero;
        bad[hook] = 77;
        assert_eq!(FlowEvent::decode(&bad), Err(DecodeError::Hook(77)));
    }
}
