//! Every raw read of a context or a packet, and every write to one.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_common::{Addr, Protocol, Reason};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    programs::{SkBuffContext, SockAddrContext, SockContext, SockoptContext},
};

/// Family of the address that a socket-address hook was called with.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The address that a socket-address hook is about.
#[inline(always)]
pub(crate) fn user_addr(ctx: &SockAddrContext, family: Family) -> Addr {
    let sa = ctx.sock_addr;
    // SAFETY: `sa` is the program's context; the verifier checks each 4-byte access.
    // Volatile, because LLVM merges neighbouring loads into 8-byte ones, which the
    // verifier rejects for context fields (6.18: "invalid bpf_context access").
    unsafe {
        match family {
            Family::V4 => Addr::from_v4(read_volatile(addr_of!((*sa).user_ip4)).to_ne_bytes()),
            Family::V6 => Addr::from_words([
                read_volatile(addr_of!((*sa).user_ip6[0])),
                read_volatile(addr_of!((*sa).user_ip6[1])),
                read_volatile(addr_of!((*sa).user_ip6[2])),
                read_volatile(addr_of!((*sa).user_ip6[3])),
            ]),
        }
    }
}

/// Its port, host order.
#[inline(always)]
pub(crate) fn user_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: as in `user_addr`. The port sits in the low 16 bits in network order.
    u16::from_be(unsafe { read_volatile(addr_of!((*ctx.sock_addr).user_port)) } as u16)
}

/// The socket's protocol number.
#[inline(always)]
pub(crate) fn sock_addr_protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: as in `user_addr`.
    unsafe { read_volatile(addr_of!((*ctx.sock_addr).protocol)) as u8 }
}

/// Rewrites the address and port (host order) that the kernel goes on with. An IPv4
/// hook takes only IPv4 addresses: anything else leaves the context as it was and
/// answers false.
#[inline(always)]
pub(crate) fn set_user_addr(ctx: &SockAddrContext, family: Family, addr: &Addr, port: u16) -> bool {
    let sa = ctx.sock_addr;
    // SAFETY: as in `user_addr`; stores are volatile for the same reason.
    unsafe {
        match family {
            Family::V4 => match addr.as_v4() {
                Some(v4) => {
                    write_volatile(addr_of_mut!((*sa).user_ip4), u32::from_ne_bytes(v4));
                }
                None => return false,
            },
            Family::V6 => {
                let words = addr.words();
                write_volatile(addr_of_mut!((*sa).user_ip6[0]), words[0]);
                write_volatile(addr_of_mut!((*sa).user_ip6[1]), words[1]);
                write_volatile(addr_of_mut!((*sa).user_ip6[2]), words[2]);
                write_volatile(addr_of_mut!((*sa).user_ip6[3]), words[3]);
            }
        }
        write_volatile(addr_of_mut!((*sa).user_port), u32::from(port.to_be()));
    }
    true
}

/// Family, type and protocol of a socket that is being made.
#[inline(always)]
pub(crate) fn sock_kind(ctx: &SockContext) -> (u32, u32, u32) {
    let sk = ctx.sock;
    // SAFETY: `sk` is the program's context.
    unsafe {
        (
            read_volatile(addr_of!((*sk).family)),
            read_volatile(addr_of!((*sk).type_)),
            read_volatile(addr_of!((*sk).protocol)),
        )
    }
}

/// Level and name of a socket option that is being set.
#[inline(always)]
pub(crate) fn sockopt(ctx: &SockoptContext) -> (i32, i32) {
    let so = ctx.sockopt;
    // SAFETY: `so` is the program's context.
    unsafe {
        (
            read_volatile(addr_of!((*so).level)),
            read_volatile(addr_of!((*so).optname)),
        )
    }
}

/// The socket of a packet; may be null, and may be a request or time-wait socket.
#[inline(always)]
pub(crate) fn packet_socket(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: `skb` is the program's context.
    unsafe { (*skb).__bindgen_anon_2.sk }
}

/// Length of a packet from the IP header on, bytes.
#[inline(always)]
pub(crate) fn packet_len(skb: *mut __sk_buff) -> u32 {
    // SAFETY: `skb` is the program's context.
    unsafe { read_volatile(addr_of!((*skb).len)) }
}

/// `IPPROTO_TCP` and `BPF_TCP_LISTEN` (`include/uapi/linux/bpf.h`).
const TCP: u32 = 6;
const LISTEN: u32 = 10;

/// Whether a socket is a TCP socket that listens. `socket` came from `bpf_sk_fullsock`.
#[inline(always)]
pub(crate) fn is_tcp_listener(socket: *mut bpf_sock) -> bool {
    // SAFETY: the caller's promise; the verifier tracks the type.
    unsafe {
        read_volatile(addr_of!((*socket).protocol)) == TCP
            && read_volatile(addr_of!((*socket).state)) == LISTEN
    }
}

/// What a packet's own header says.
pub(crate) struct Packet {
    pub(crate) source: Addr,
    pub(crate) dest: Addr,
    /// Protocol number, not folded.
    pub(crate) number: u8,
    pub(crate) protocol: Protocol,
    /// Host order; 0 for ICMP.
    pub(crate) source_port: u16,
    /// Host order; 0 for ICMP.
    pub(crate) dest_port: u16,
    /// TCP: SYN without ACK, the packet that opens a connection.
    pub(crate) opens: bool,
    /// Length from the IP header on, bytes.
    pub(crate) len: u32,
    /// TCP: the sequence number of the packet.
    pub(crate) sequence: u32,
    /// TCP: where its data begins, from the IP header on.
    pub(crate) payload: u32,
    /// TCP: bytes of data.
    pub(crate) data: u32,
    /// TCP: some of the data is marked urgent.
    pub(crate) urgent: bool,
    /// Why it is refused for what it is; the other fields are then as far as they could be
    /// read.
    pub(crate) fault: Option<Reason>,
}

const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Version 4, five words: a header without options. Options (source route, RR, timestamp)
/// change where a packet goes or carry data, so a longer header is refused.
const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
/// "More fragments" and the offset. Egress runs before the kernel fragments
/// (`ip_finish_output`), so a fragment here was made by hand.
const IPV4_FRAGMENT: u16 = 0x3fff;
const TCP_FLAGS_OFFSET: usize = 13;
const TCP_LENGTH_OFFSET: usize = 12;
const TCP_SEQUENCE_OFFSET: usize = 4;
/// Without options.
const TCP_BYTES: usize = 20;
const TCP_URG: u8 = 0x20;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const ICMP_ECHO: u8 = 8;
const ICMPV6_ECHO: u8 = 128;

#[inline(always)]
unsafe fn word(at: usize) -> u32 {
    // SAFETY: the caller has compared `at + 4` with the end of the packet.
    unsafe { *(at as *const u32) }
}

#[inline(always)]
unsafe fn half(at: usize) -> u16 {
    // SAFETY: the caller has compared `at + 2` with the end of the packet.
    u16::from_be(unsafe { *(at as *const u16) })
}

#[inline(always)]
unsafe fn byte(at: usize) -> u8 {
    // SAFETY: the caller has compared `at + 1` with the end of the packet.
    unsafe { *(at as *const u8) }
}

#[inline(always)]
unsafe fn addr6(at: usize) -> Addr {
    // SAFETY: the caller has compared `at + 16` with the end of the packet.
    unsafe { Addr::from_words([word(at), word(at + 4), word(at + 8), word(at + 12)]) }
}

/// Reads the headers. The network and transport headers of a locally made packet are
/// in the linear part; one whose are not is refused.
#[inline(always)]
pub(crate) fn parse(ctx: &SkBuffContext) -> Packet {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let (data, end, len) = unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len) };
    let mut packet = Packet {
        source: Addr::default(),
        dest: Addr::default(),
        number: 0,
        protocol: Protocol::new(0),
        source_port: 0,
        dest_port: 0,
        opens: false,
        len,
        sequence: 0,
        payload: 0,
        data: 0,
        urgent: false,
        fault: Some(Reason::Header),
    };
    if data + IPV4_BYTES > end {
        return packet;
    }
    // SAFETY: the first 20 bytes are there.
    let first = unsafe { byte(data) };
    let at = if first >> 4 == 6 {
        if data + IPV6_BYTES > end {
            return packet;
        }
        // SAFETY: the first 40 bytes are there.
        unsafe {
            packet.number = byte(data + 6);
            packet.source = addr6(data + 8);
            packet.dest = addr6(data + 24);
        }
        data + IPV6_BYTES
    } else {
        // SAFETY: the first 20 bytes are there.
        let fragment = unsafe {
            packet.number = byte(data + 9);
            packet.source = Addr::from_v4(word(data + 12).to_ne_bytes());
            packet.dest = Addr::from_v4(word(data + 16).to_ne_bytes());
            half(data + 6)
        };
        if first != IPV4_WITHOUT_OPTIONS || fragment & IPV4_FRAGMENT != 0 {
            return packet;
        }
        data + IPV4_BYTES
    };
    packet.protocol = Protocol::new(packet.number);
    // Eight bytes: the shortest of the three transport headers.
    if at + 8 > end {
        return packet;
    }
    // An IPv6 extension header is a protocol that is none of the three, so routing headers,
    // hop-by-hop options and fragments end here too.
    packet.fault = match packet.protocol {
        Protocol::TCP | Protocol::UDP => None,
        Protocol::ICMP => {
            let echo = match packet.number {
                Protocol::ICMPV6_NUMBER => ICMPV6_ECHO,
                _ => ICMP_ECHO,
            };
            // SAFETY: eight bytes are there.
            if unsafe { byte(at) } == echo {
                return Packet {
                    fault: None,
                    ..packet
                };
            }
            Some(Reason::Protocol)
        }
        _ => Some(Reason::Protocol),
    };
    if packet.fault.is_some() {
        return packet;
    }
    // SAFETY: eight bytes are there.
    unsafe {
        packet.source_port = half(at);
        packet.dest_port = half(at + 2);
    }
    if packet.protocol == Protocol::TCP {
        packet.fault = Some(Reason::Header);
        if at + TCP_BYTES > end {
            return packet;
        }
        // SAFETY: compared above.
        let (flags, words, sequence) = unsafe {
            (
                byte(at + TCP_FLAGS_OFFSET),
                byte(at + TCP_LENGTH_OFFSET) >> 4,
                u32::from_be(word(at + TCP_SEQUENCE_OFFSET)),
            )
        };
        let payload = (at - data) as u32 + u32::from(words) * 4;
        if payload > len {
            return packet;
        }
        packet.fault = None;
        packet.opens = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        packet.urgent = flags & TCP_URG != 0;
        packet.sequence = sequence;
        packet.payload = payload;
        packet.data = len - payload;
    }
    packet
}
