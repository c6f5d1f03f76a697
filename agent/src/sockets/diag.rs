//! The sockets of the network namespace that the thread is in, by `NETLINK_SOCK_DIAG`.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

/// `INET_DIAG_CGROUP_ID` of `include/uapi/linux/inet_diag.h` (Linux 5.8): eight bytes in the
/// machine's order.
const CGROUP_ID: u16 = 21;
/// The kernel fills at most 32 KiB of a dump at once (`netlink_dump`).
const BUFFER: usize = 64 << 10;
/// The kernel answers at once or not at all.
const SILENCE: Duration = Duration::from_secs(1);

/// A socket to ask with, in the network namespace that the thread is in.
pub(super) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let silence = TimeVal::new(SILENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket, ReceiveTimeout, &silence)?;
    Ok(socket)
}

/// `INET_DIAG_NOCOOKIE`, twice: any socket.
pub(super) const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// A question about one TCP socket, by its own end and the far one, neither v4-mapped.
pub(super) fn exact(
    (from, to): (std::net::SocketAddr, std::net::SocketAddr),
    cookie: [u8; 8],
) -> InetRequest {
    let (family, any) = match to {
        std::net::SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        std::net::SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: from.port(),
            source_address: from.ip(),
            destination_port: to.port(),
            destination_address: to.ip(),
            cookie,
            ..any
        },
    }
}

/// Asks for one thing: the kernel's answer, or `None` where it only says that it is done.
pub(super) fn ask(
    socket: &Socket,
    kind: u16,
    flags: u16,
    request: InetRequest,
) -> io::Result<Option<SockDiagMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut question = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    question.finalize();
    question.header.message_type = kind;
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut &mut buffer[..], 0)?;
    let answer = buffer.get(..length).unwrap_or_default();
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(answer)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(answer) => Ok(Some(answer)),
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(None),
    }
}

/// Tells of every TCP socket that has a peer, and of every connected UDP socket: the id of
/// its cgroup and its peer's address, never a v4-mapped one.
///
/// # Errors
/// `TimedOut` when it is not done at `until`, and whatever the kernel says: `ENOENT` where
/// it has no `tcp_diag` or `udp_diag`.
pub(super) fn each_connected(until: Instant, mut tell: impl FnMut(u64, IpAddr)) -> io::Result<()> {
    let with_peer = StateFlags::ESTABLISHED
        | StateFlags::SYN_SENT
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    let kinds = [
        (IPPROTO_TCP, with_peer),
        // A UDP socket is "established" when it is connected.
        (IPPROTO_UDP, StateFlags::ESTABLISHED),
    ];
    let mut tell = |_, found: &InetResponse| {
        if let Some(cgroup) = cgroup_of(found) {
            tell(
                cgroup,
                found.header.socket_id.destination_address.to_canonical(),
            );
        }
    };
    each(&kinds, until, &mut tell)
}

/// Tells of every TCP and UDP socket of the namespace, whatever its state, with the protocol.
pub(super) fn each_socket(
    until: Instant,
    mut tell: impl FnMut(u8, &InetResponse),
) -> io::Result<()> {
    let kinds = [
        (IPPROTO_TCP, StateFlags::all()),
        (IPPROTO_UDP, StateFlags::all()),
    ];
    each(&kinds, until, &mut tell)
}

fn each(
    kinds: &[(u8, StateFlags)],
    until: Instant,
    tell: &mut impl FnMut(u8, &InetResponse),
) -> io::Result<()> {
    let socket = socket()?;
    for (protocol, states) in kinds {
        let protocol = *protocol;
        for family in [AF_INET, AF_INET6] {
            let request = InetRequest {
                family,
                protocol,
                extensions: ExtensionFlags::empty(),
                states: states.clone(),
                socket_id: match family {
                    AF_INET => SocketId::new_v4(),
                    _ => SocketId::new_v6(),
                },
            };
            dump(&socket, request, until, &mut |found| tell(protocol, found))?;
        }
    }
    Ok(())
}

fn dump(
    socket: &Socket,
    request: InetRequest,
    until: Instant,
    tell: &mut impl FnMut(&InetResponse),
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut question = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut buffer = vec![0; BUFFER];
    loop {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    tell(&socket);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four.
            let taken = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(taken.max(4)..).unwrap_or_default();
        }
    }
}

pub(super) fn cgroup_of(socket: &InetResponse) -> Option<u64> {
    use netlink_packet_core::Nla as _;
    socket.nlas.iter().find_map(|attribute| match attribute {
        Nla::Other(other) if other.kind() == CGROUP_ID => {
            let mut value = [0; 8];
            if other.value_len() != value.len() {
                return None;
            }
            other.emit_value(&mut value);
            Some(u64::from_ne_bytes(value))
        }
        _ => None,
    })
}
