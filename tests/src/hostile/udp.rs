//! UDP, by every way to name the destination.

use crate::cmsg;
use crate::context::{Context, Outcome, Technique};
use crate::sys::{self, Address};
use std::net::IpAddr;

const F: &str = "udp";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "udp4-connect-send", |c| {
        connected(c, libc::AF_INET, c.v4())
    }),
    Technique::new(F, "udp6-connect-send", |c| {
        connected(c, libc::AF_INET6, c.v6())
    }),
    Technique::new(F, "udp-mapped-connect-send", |c| {
        connected(c, libc::AF_INET6, c.mapped())
    }),
    Technique::new(F, "udp4-sendto", |c| sendto(c, libc::AF_INET, c.v4())),
    Technique::new(F, "udp6-sendto", |c| sendto(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "udp-mapped-sendto", |c| {
        sendto(c, libc::AF_INET6, c.mapped())
    }),
    Technique::new(F, "udp4-sendmsg", |c| sendmsg(c, libc::AF_INET, c.v4())),
    Technique::new(F, "udp6-sendmsg", |c| sendmsg(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "udp-mapped-sendmsg", |c| {
        sendmsg(c, libc::AF_INET6, c.mapped())
    }),
    Technique::new(F, "udp4-sendmmsg", |c| sendmmsg(c, libc::AF_INET, c.v4())),
    Technique::new(F, "udp6-sendmmsg", |c| sendmmsg(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "udp-decoy-then-sendto", decoy_then_sendto),
    Technique::new(F, "udp-decoy-then-connect", decoy_then_connect),
    Technique::new(F, "udp-unspec-then-sendto", unspec_then_sendto),
    Technique::new(F, "udp-sendmmsg-behind-decoy", behind_decoy),
    Technique::new(F, "udp-cork", cork),
    Technique::new(F, "udp-segments", segments),
    Technique::new(F, "udp4-fragments", |c| fragments(c, libc::AF_INET, c.v4())),
    Technique::new(F, "udp6-fragments", |c| {
        fragments(c, libc::AF_INET6, c.v6())
    }),
    Technique::new(F, "udp-pktinfo-source", pktinfo),
    Technique::new(F, "udp-multicast", multicast),
    Technique::new(F, "udp6-multicast", multicast6),
    Technique::new(F, "udp-broadcast", broadcast),
    Technique::new(F, "udp-addrform", addrform),
];

fn connected(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    sys::connect(&fd, &Address::new(to, c.port))?;
    sys::send(&fd, c.bytes())?;
    Ok("connect, send".into())
}

fn sendto(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(to, c.port))?;
    Ok("sendto".into())
}

fn sendmsg(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    cmsg::sendmsg(&fd, c.bytes(), Some(&Address::new(to, c.port)), &[])?;
    Ok("sendmsg".into())
}

fn sendmmsg(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    let to = Address::new(to, c.port);
    cmsg::sendmmsg(&fd, &[(c.bytes(), &to), (c.bytes(), &to)])?;
    Ok("sendmmsg".into())
}

/// A socket connected to an allowed place still takes another address per datagram.
fn decoy_then_sendto(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let _ = sys::connect(&fd, &Address::new(c.decoy, c.port));
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v4(), c.port))?;
    Ok("connected elsewhere, sendto".into())
}

fn decoy_then_connect(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    if sys::connect(&fd, &Address::new(c.decoy, c.port)).is_ok() {
        let _ = sys::send(&fd, b"first");
    }
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    sys::send(&fd, c.bytes())?;
    Ok("connected twice".into())
}

fn unspec_then_sendto(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    let _ = sys::connect(&fd, &Address::new(c.decoy6, c.port));
    let _ = sys::connect(&fd, &Address::unspec());
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v6(), c.port))?;
    Ok("disconnected, sendto".into())
}

/// The second message of a batch, after one to an allowed place.
fn behind_decoy(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let (decoy, target) = (Address::new(c.decoy, c.port), Address::new(c.v4(), c.port));
    // Only the second carries what must not arrive.
    cmsg::sendmmsg(&fd, &[(b"first", &decoy), (c.bytes(), &target)])?;
    Ok("sendmmsg".into())
}

/// MSG_MORE collects pieces: the second call is judged with the first one's destination.
fn cork(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let target = Address::new(c.v4(), c.port);
    sys::sendto(&fd, b"piece ", libc::MSG_MORE, &target)?;
    sys::sendto(&fd, c.bytes(), 0, &target)?;
    Ok("MSG_MORE, then sendto".into())
}

/// One send that the kernel cuts into many datagrams.
fn segments(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let length = c.bytes().len() as u16;
    sys::setsockopt(&fd, libc::SOL_UDP, libc::UDP_SEGMENT, &i32::from(length))?;
    sys::sendto(&fd, &c.bytes().repeat(4), 0, &Address::new(c.v4(), c.port))?;
    Ok("UDP_SEGMENT".into())
}

/// Later fragments have no ports; the payload repeats, so that every one holds it.
fn fragments(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    let many = c.bytes().repeat(4000 / c.bytes().len().max(1) + 1);
    sys::sendto(&fd, &many, 0, &Address::new(to, c.port))?;
    Ok(format!("a datagram of {} bytes", many.len()))
}

/// A control message that chooses source address and interface.
fn pktinfo(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let mut info = Vec::from(sys::interface()?.to_ne_bytes());
    info.extend([10, 99, 0, 2]);
    info.extend([0; 4]);
    let control = (libc::SOL_IP, libc::IP_PKTINFO, info.as_slice());
    cmsg::sendmsg(
        &fd,
        c.bytes(),
        Some(&Address::new(c.v4(), c.port)),
        &[control],
    )?;
    Ok("IP_PKTINFO".into())
}

fn multicast(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.group, c.port))?;
    Ok("sendto a group".into())
}

fn multicast6(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    sys::setsockopt(
        &fd,
        libc::IPPROTO_IPV6,
        libc::IPV6_MULTICAST_IF,
        &sys::interface()?,
    )?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.group6, c.port))?;
    Ok("sendto a group".into())
}

fn broadcast(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::setsockopt(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &1i32)?;
    sys::sendto(
        &fd,
        c.bytes(),
        0,
        &Address::new(std::net::Ipv4Addr::new(10, 99, 0, 255), c.port),
    )?;
    Ok("sendto the network's broadcast address".into())
}

/// IPV6_ADDRFORM turns a connected v4-mapped socket into an IPv4 one.
fn addrform(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    sys::connect(&fd, &Address::new(c.decoy.to_ipv6_mapped(), c.port))?;
    sys::setsockopt(&fd, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, &libc::AF_INET)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v4(), c.port))?;
    Ok("IPV6_ADDRFORM, then sendto".into())
}
