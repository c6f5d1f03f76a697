//! Connections that someone outside opens, and answers on them: connect is never called.

use crate::context::{Context, Evidence, Needs, Outcome, Technique, ready};
use crate::sys::{self, Address};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const F: &str = "listen";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "accept-bound4", |c| {
        accept(c, libc::AF_INET, Some(Ipv4Addr::UNSPECIFIED.into()))
    })
    .needs(Needs::InboundTcp),
    Technique::new(F, "accept-bound6", |c| {
        accept(c, libc::AF_INET6, Some(Ipv6Addr::UNSPECIFIED.into()))
    })
    .needs(Needs::InboundTcp),
    Technique::new(F, "accept-unbound4", |c| accept(c, libc::AF_INET, None))
        .needs(Needs::InboundTcp),
    Technique::new(F, "accept-unbound6", |c| accept(c, libc::AF_INET6, None))
        .needs(Needs::InboundTcp),
    Technique::new(F, "accept-mptcp", accept_mptcp).needs(Needs::InboundTcp),
    Technique::new(F, "udp-reply-bound", udp_reply).needs(Needs::InboundUdp),
    Technique::new(F, "udp-reply-autobound", udp_autobound).needs(Needs::InboundUdp),
    Technique::new(F, "bind-tcp", |_| bind(sys::tcp(libc::AF_INET)?)).evidence(Evidence::Word),
    Technique::new(F, "bind-udp", |_| bind(sys::udp(libc::AF_INET)?)).evidence(Evidence::Word),
];

fn accept(c: &Context, family: i32, bind: Option<IpAddr>) -> Outcome {
    let fd = sys::tcp(family)?;
    if let Some(address) = bind {
        sys::bind(&fd, &Address::new(address, 0))?;
    }
    answer(c, &fd)
}

fn answer(c: &Context, fd: &std::os::fd::OwnedFd) -> Outcome {
    sys::listen(fd)?;
    ready(sys::local_port(fd)?.into());
    let connection = sys::accept(fd)?;
    sys::send(&connection, c.bytes())?;
    sys::finish(&connection)?;
    Ok("accepted and answered".into())
}

fn accept_mptcp(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    answer(c, &fd)
}

fn udp_reply(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::bind(&fd, &Address::new(Ipv4Addr::UNSPECIFIED, 0))?;
    ready(sys::local_port(&fd)?.into());
    let from = sys::recvfrom(&fd, &mut [0; 64])?;
    sys::sendto(&fd, c.bytes(), 0, &from)?;
    Ok("answered a datagram".into())
}

/// An empty datagram to oneself gives the socket a port without bind.
fn udp_autobound(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::sendto(&fd, b"", 0, &Address::new(Ipv4Addr::LOCALHOST, 9))?;
    ready(sys::local_port(&fd)?.into());
    // The first thing to read may be the refusal of the datagram to port 9.
    let from = sys::recvfrom(&fd, &mut [0; 64]).or_else(|_| sys::recvfrom(&fd, &mut [0; 64]))?;
    sys::sendto(&fd, c.bytes(), 0, &from)?;
    Ok("answered a datagram on a port that the kernel chose".into())
}

fn bind(fd: std::os::fd::OwnedFd) -> Outcome {
    sys::bind(&fd, &Address::new(Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(format!("bound to port {}", sys::local_port(&fd)?))
}
