//! IP protocols other than TCP and UDP.

use crate::context::{Context, Evidence, Outcome, Technique};
use crate::packets;
use crate::sys::{self, Address};
use std::net::IpAddr;

const F: &str = "protocol";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "udplite4-sendto", |c| udplite(c, libc::AF_INET, c.v4())),
    Technique::new(F, "udplite6-sendto", |c| udplite(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "udplite-connect-send", udplite_connected),
    Technique::new(F, "ping4", |c| {
        ping(c, libc::AF_INET, libc::IPPROTO_ICMP, 8, c.v4())
    }),
    Technique::new(F, "ping6", |c| {
        ping(c, libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, c.v6())
    }),
    Technique::new(F, "raw-icmp4", |c| {
        raw(
            c,
            libc::AF_INET,
            libc::IPPROTO_ICMP,
            c.v4(),
            &packets::echo(8, c.bytes()),
        )
    })
    .root(),
    Technique::new(F, "raw-icmp6", |c| {
        raw(
            c,
            libc::AF_INET6,
            libc::IPPROTO_ICMPV6,
            c.v6(),
            &packets::echo(128, c.bytes()),
        )
    })
    .root(),
    Technique::new(F, "raw-udp4", |c| {
        raw(
            c,
            libc::AF_INET,
            libc::IPPROTO_UDP,
            c.v4(),
            &packets::udp(c.port, c.bytes()),
        )
    })
    .root(),
    Technique::new(F, "raw-udp6", |c| {
        raw(
            c,
            libc::AF_INET6,
            libc::IPPROTO_UDP,
            c.v6(),
            &packets::udp(c.port, c.bytes()),
        )
    })
    .root(),
    Technique::new(F, "raw-gre", |c| {
        raw(c, libc::AF_INET, libc::IPPROTO_GRE, c.v4(), c.bytes())
    })
    .root(),
    Technique::new(F, "raw-protocol-253", |c| {
        raw(c, libc::AF_INET, 253, c.v4(), c.bytes())
    })
    .root(),
    Technique::new(F, "raw-connected", raw_connected).root(),
    Technique::new(F, "raw-hdrincl", hdrincl).root(),
    Technique::new(F, "raw-hdrincl-other-destination", hdrincl_decoy).root(),
    Technique::new(F, "raw-hdrincl-ipip", hdrincl_ipip).root(),
    Technique::new(F, "sctp", |c| {
        connected(c, libc::SOCK_STREAM, libc::IPPROTO_SCTP)
    })
    .evidence(Evidence::Protocol(132)),
    Technique::new(F, "dccp", |c| {
        connected(c, libc::SOCK_DCCP, libc::IPPROTO_DCCP)
    })
    .evidence(Evidence::Protocol(33)),
    Technique::new(F, "l2tp-ip", |c| {
        raw(c, libc::AF_INET, L2TP, c.v4(), c.bytes())
    })
    .root(),
];

const L2TP: i32 = 115;

fn udplite(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::socket(family, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(to, c.port))?;
    Ok("UDP-Lite sendto".into())
}

/// UDP-Lite has no hook before connect, and none at send once connected.
fn udplite_connected(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    sys::send(&fd, c.bytes())?;
    Ok("UDP-Lite connect, send".into())
}

/// An unprivileged ICMP socket.
fn ping(c: &Context, family: i32, protocol: i32, kind: u8, to: IpAddr) -> Outcome {
    let fd = sys::socket(family, libc::SOCK_DGRAM, protocol)?;
    sys::sendto(
        &fd,
        &packets::echo(kind, c.bytes()),
        0,
        &Address::new(to, 0),
    )?;
    Ok("an echo request".into())
}

fn raw(_: &Context, family: i32, protocol: i32, to: IpAddr, packet: &[u8]) -> Outcome {
    let fd = sys::socket(family, libc::SOCK_RAW, protocol)?;
    sys::sendto(&fd, packet, 0, &Address::new(to, 0))?;
    Ok("a raw packet".into())
}

fn raw_connected(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    sys::connect(&fd, &Address::new(c.v4(), 0))?;
    sys::send(&fd, &packets::udp(c.port, c.bytes()))?;
    Ok("a raw packet on a connected socket".into())
}

fn hdrincl(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let packet = packets::ipv4(
        packets::SOURCE,
        c.target,
        17,
        &packets::udp(c.port, c.bytes()),
    );
    sys::sendto(&fd, &packet, 0, &Address::new(c.v4(), 0))?;
    Ok("a packet with its own header".into())
}

/// The header names the target while the call names the decoy.
fn hdrincl_decoy(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let packet = packets::ipv4(
        packets::SOURCE,
        c.target,
        17,
        &packets::udp(c.port, c.bytes()),
    );
    sys::sendto(&fd, &packet, 0, &Address::new(c.decoy, 0))?;
    Ok("a header that differs from the call".into())
}

/// The outer packet goes to the decoy, the inner one to the target.
fn hdrincl_ipip(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let inner = packets::ipv4(
        packets::SOURCE,
        c.target,
        17,
        &packets::udp(c.port, c.bytes()),
    );
    let packet = packets::ipv4(packets::SOURCE, c.decoy, 4, &inner);
    sys::sendto(&fd, &packet, 0, &Address::new(c.decoy, 0))?;
    Ok("a packet in a packet".into())
}

fn connected(c: &Context, kind: i32, protocol: i32) -> Outcome {
    let fd = sys::socket(libc::AF_INET, kind, protocol)?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    sys::send(&fd, c.bytes())?;
    Ok("connected and sent".into())
}
