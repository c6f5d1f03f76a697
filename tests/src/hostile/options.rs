//! IP options and extension headers: the packet goes elsewhere than the call says, or
//! carries data in its header.

use crate::cmsg;
use crate::context::{Context, Outcome, Technique};
use crate::sys::{self, Address};
use std::net::Ipv6Addr;

const F: &str = "options";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "source-route", |c| source_route(c, 0x83)).root(),
    Technique::new(F, "strict-source-route", |c| source_route(c, 0x89)).root(),
    Technique::new(F, "source-route-retopts", retopts).root(),
    Technique::new(F, "ip-options-timestamp", timestamp),
    Technique::new(F, "segment-routing", srh),
    Technique::new(F, "segment-routing-cmsg", srh_cmsg),
    Technique::new(F, "segment-routing-2292", srh_2292),
    Technique::new(F, "destination-options-2292", options_2292).root(),
    Technique::new(F, "segment-routing-tcp", srh_tcp),
    Technique::new(F, "hop-by-hop", |c| header_option(c, libc::IPV6_HOPOPTS)).root(),
    Technique::new(F, "destination-options", |c| {
        header_option(c, libc::IPV6_DSTOPTS)
    })
    .root(),
    Technique::new(F, "destination-options-cmsg", |c| {
        header_option_cmsg(c, libc::IPV6_DSTOPTS)
    })
    .root(),
    Technique::new(F, "hop-by-hop-cmsg", |c| {
        header_option_cmsg(c, libc::IPV6_HOPOPTS)
    })
    .root(),
];

/// An IPv4 source route (0x83 loose, 0x89 strict): the call names the decoy, the packet
/// goes elsewhere first: to the target, or, because the first hop of a strict route must
/// be a neighbour, to the router.
fn route(c: &Context, kind: u8) -> Vec<u8> {
    let hop = if kind == 0x89 {
        crate::packets::ROUTER
    } else {
        c.target
    };
    // Type, length, pointer to the next hop (the kernel takes the first hop from here
    // and puts the call's destination at the end), hop, end of list.
    let mut option = vec![kind, 7, 4];
    option.extend(hop.octets());
    option.push(0);
    option
}

fn source_route(c: &Context, kind: u8) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::setsockopt_bytes(&fd, libc::SOL_IP, libc::IP_OPTIONS, &route(c, kind))?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.decoy, c.port))?;
    Ok("IP_OPTIONS".into())
}

/// The same option in a control message: no setsockopt is made.
fn retopts(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let option = route(c, 0x83);
    let control = (libc::SOL_IP, libc::IP_RETOPTS, option.as_slice());
    cmsg::sendmsg(
        &fd,
        c.bytes(),
        Some(&Address::new(c.decoy, c.port)),
        &[control],
    )?;
    Ok("IP_RETOPTS".into())
}

/// An option that any user may set; the packet still goes to the target.
fn timestamp(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::setsockopt_bytes(
        &fd,
        libc::SOL_IP,
        libc::IP_OPTIONS,
        &[68, 8, 5, 0, 0, 0, 0, 0],
    )?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v4(), c.port))?;
    Ok("IP_OPTIONS timestamp".into())
}

/// An IPv6 segment routing header (RFC 8754) with two segments: the first stop is the
/// target, the last, which the kernel fills in, the address of the call.
fn segments(c: &Context) -> Vec<u8> {
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend(Ipv6Addr::UNSPECIFIED.octets());
    header.extend(c.target6.octets());
    header
}

fn srh(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    sys::setsockopt_bytes(&fd, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &segments(c))?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.decoy6, c.port))?;
    Ok("IPV6_RTHDR type 4".into())
}

fn srh_cmsg(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    let header = segments(c);
    let control = (libc::IPPROTO_IPV6, libc::IPV6_RTHDR, header.as_slice());
    cmsg::sendmsg(
        &fd,
        c.bytes(),
        Some(&Address::new(c.decoy6, c.port)),
        &[control],
    )?;
    Ok("IPV6_RTHDR type 4 as a control message".into())
}

/// The old interface: a control message given by setsockopt.
fn srh_2292(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    let header = segments(c);
    let control = cmsg::layout(&[(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, header.as_slice())]);
    sys::setsockopt_bytes(&fd, libc::IPPROTO_IPV6, libc::IPV6_2292PKTOPTIONS, &control)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.decoy6, c.port))?;
    Ok("IPV6_2292PKTOPTIONS with a routing header".into())
}

/// The old interface once more, with an option header.
fn options_2292(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    let header = padded(c);
    let control = cmsg::layout(&[(
        libc::IPPROTO_IPV6,
        libc::IPV6_2292DSTOPTS,
        header.as_slice(),
    )]);
    sys::setsockopt_bytes(&fd, libc::IPPROTO_IPV6, libc::IPV6_2292PKTOPTIONS, &control)?;
    sys::sendto(&fd, b"", 0, &Address::new(c.v6(), c.port))?;
    Ok("IPV6_2292PKTOPTIONS with destination options".into())
}

/// The SYN to the decoy goes to the target, with the payload in it.
fn srh_tcp(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET6)?;
    sys::setsockopt_bytes(&fd, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &segments(c))?;
    sys::setsockopt(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, &1i32)?;
    let flags = libc::MSG_FASTOPEN | libc::MSG_DONTWAIT;
    match sys::sendto(&fd, c.bytes(), flags, &Address::new(c.decoy6, c.port)) {
        Err(fault) if fault.errno != libc::EINPROGRESS => Err(fault),
        _ => Ok("a SYN with a routing header".into()),
    }
}

/// A header with one unknown option (to be skipped) that holds the payload.
fn padded(c: &Context) -> Vec<u8> {
    let mut header = vec![0, 0, 0x1e, c.bytes().len() as u8];
    header.extend(c.bytes());
    while !header.len().is_multiple_of(8) {
        // Pad1.
        header.push(0);
    }
    header[1] = (header.len() / 8 - 1) as u8;
    header
}

/// The payload is only in the header; the datagram is empty.
fn header_option(c: &Context, option: i32) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    sys::setsockopt_bytes(&fd, libc::IPPROTO_IPV6, option, &padded(c))?;
    sys::sendto(&fd, b"", 0, &Address::new(c.v6(), c.port))?;
    Ok("payload in an extension header".into())
}

fn header_option_cmsg(c: &Context, option: i32) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    let header = padded(c);
    let control = (libc::IPPROTO_IPV6, option, header.as_slice());
    cmsg::sendmsg(&fd, b"", Some(&Address::new(c.v6(), c.port)), &[control])?;
    Ok("payload in an extension header".into())
}
