//! Joining a group makes the kernel send a report whose group number the program chose:
//! 28 bits (IPv4) or 112 bits (IPv6) out, and no socket of the program sent them.

use crate::context::{Context, Evidence, Outcome, Technique};
use crate::sys::{self, Address};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

const F: &str = "multicast";
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "ip-add-membership", membership).evidence(Evidence::Group),
    Technique::new(F, "ip-add-source-membership", source_membership).evidence(Evidence::Group),
    Technique::new(F, "mcast-join-group4", |c| {
        join_group(c, libc::AF_INET, libc::SOL_IP, c.group.into())
    })
    .evidence(Evidence::Group),
    Technique::new(F, "mcast-join-group6", |c| {
        join_group(c, libc::AF_INET6, libc::IPPROTO_IPV6, c.group6.into())
    })
    .evidence(Evidence::Group),
    Technique::new(F, "mcast-join-source-group6", join_source).evidence(Evidence::Group),
    Technique::new(F, "ipv6-join-group", ipv6_join).evidence(Evidence::Group),
    Technique::new(F, "ipv6-join-anycast", anycast)
        .root()
        .evidence(Evidence::Word),
];

/// The report leaves a few milliseconds after the join; a socket closed before that
/// takes it back. So the program stays a while, as an attacker would.
fn stay(fd: &OwnedFd) -> Outcome {
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;
    let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], 300u16);
    Ok("joined".into())
}

fn membership(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let mut request = Vec::from(c.group.octets());
    request.extend([0; 4]);
    request.extend(sys::interface()?.to_ne_bytes());
    sys::setsockopt_bytes(&fd, libc::SOL_IP, libc::IP_ADD_MEMBERSHIP, &request)?;
    stay(&fd)
}

/// The report also names the source, which is the program's to choose.
fn source_membership(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    let mut request = Vec::from(c.group.octets());
    request.extend([10, 99, 0, 2]);
    request.extend(c.target.octets());
    sys::setsockopt_bytes(&fd, libc::SOL_IP, libc::IP_ADD_SOURCE_MEMBERSHIP, &request)?;
    stay(&fd)
}

/// `struct group_req`: interface, then a sockaddr_storage at offset 8.
fn group_request(addresses: &[Address]) -> Result<Vec<u8>, crate::context::Fault> {
    let mut request = Vec::from(sys::interface()?.to_ne_bytes());
    request.resize(8, 0);
    for address in addresses {
        // SAFETY: an Address holds a whole sockaddr_storage.
        let storage = unsafe {
            std::slice::from_raw_parts(
                address.as_ptr().cast::<u8>(),
                size_of::<libc::sockaddr_storage>(),
            )
        };
        request.extend(storage);
    }
    Ok(request)
}

fn join_group(_: &Context, family: i32, level: i32, group: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    let request = group_request(&[Address::new(group, 0)])?;
    sys::setsockopt_bytes(&fd, level, MCAST_JOIN_GROUP, &request)?;
    stay(&fd)
}

fn join_source(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    let request = group_request(&[Address::new(c.group6, 0), Address::new(c.target6, 0)])?;
    sys::setsockopt_bytes(&fd, libc::IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, &request)?;
    stay(&fd)
}

/// `struct ipv6_mreq`: address, interface.
fn v6_request(address: std::net::Ipv6Addr) -> Result<Vec<u8>, crate::context::Fault> {
    let mut request = Vec::from(address.octets());
    request.extend(sys::interface()?.to_ne_bytes());
    Ok(request)
}

fn ipv6_join(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET6)?;
    sys::setsockopt_bytes(
        &fd,
        libc::IPPROTO_IPV6,
        libc::IPV6_ADD_MEMBERSHIP,
        &v6_request(c.group6)?,
    )?;
    stay(&fd)
}

fn anycast(_: &Context) -> Outcome {
    const IPV6_JOIN_ANYCAST: i32 = 27;
    let fd = sys::udp(libc::AF_INET6)?;
    let address = std::net::Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x7777);
    sys::setsockopt_bytes(
        &fd,
        libc::IPPROTO_IPV6,
        IPV6_JOIN_ANYCAST,
        &v6_request(address)?,
    )?;
    stay(&fd)
}
