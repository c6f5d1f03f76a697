//! The transport protocols that a policy can name.

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers"), with ICMPv6
/// folded into ICMP so that one rule speaks of both.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(u8);

impl Protocol {
    /// ICMP and ICMPv6.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Number of ICMPv6, which [`Protocol::new`] folds into [`Protocol::ICMP`].
    pub const ICMPV6_NUMBER: u8 = 58;

    /// From the number in a packet or a socket.
    #[inline(always)]
    pub const fn new(number: u8) -> Self {
        match number {
            Self::ICMPV6_NUMBER => Self::ICMP,
            n => Self(n),
        }
    }

    /// The number; ICMPv6 reads as 1.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Index of the counter that this protocol belongs to.
    #[inline(always)]
    pub const fn class(self) -> ProtocolClass {
        match self {
            Self::TCP => ProtocolClass::Tcp,
            Self::UDP => ProtocolClass::Udp,
            Self::ICMP => ProtocolClass::Icmp,
            _ => ProtocolClass::Other,
        }
    }
}

/// The closed set of protocol labels in metrics.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolClass {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// ICMP and ICMPv6.
    Icmp = 2,
    /// Everything else.
    Other = 3,
}

impl ProtocolClass {
    /// Every class, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Icmp, Self::Other];

    /// The label in metrics, events and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }
}
