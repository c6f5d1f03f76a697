//! Sockets that were made elsewhere: before joining the cgroup, by the parent, by a friend.

use crate::context::{Context, Fault, Needs, Outcome, Technique, ready, wait_for_go};
use crate::sys::{self, Address};
use crate::{stream, tcp};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const F: &str = "inherit";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "prejoin-tcp4", |c| prejoin_tcp(c, libc::AF_INET, c.v4())).needs(Needs::Go),
    Technique::new(F, "prejoin-tcp6", |c| {
        prejoin_tcp(c, libc::AF_INET6, c.v6())
    })
    .needs(Needs::Go),
    Technique::new(F, "prejoin-tcp-mapped", |c| {
        prejoin_tcp(c, libc::AF_INET6, c.mapped())
    })
    .needs(Needs::Go),
    Technique::new(F, "prejoin-udp4-sendto", |c| {
        prejoin_udp(c, libc::AF_INET, c.v4())
    })
    .needs(Needs::Go),
    Technique::new(F, "prejoin-udp6-sendto", |c| {
        prejoin_udp(c, libc::AF_INET6, c.v6())
    })
    .needs(Needs::Go),
    Technique::new(F, "prejoin-udp4-connect", prejoin_udp_connect).needs(Needs::Go),
    Technique::new(F, "fd3-write", |c| tcp::speak(c, &descriptor(3))).needs(Needs::Fd3),
    Technique::new(F, "fd3-sendfile", |c| stream::sendfile(c, &descriptor(3))).needs(Needs::Fd3),
    Technique::new(F, "fd3-splice", |c| stream::splice(c, &descriptor(3))).needs(Needs::Fd3),
    Technique::new(F, "fd3-reconnect", fd3_reconnect).needs(Needs::Fd3),
    Technique::new(F, "stdin-write", |c| tcp::speak(c, &descriptor(0))).needs(Needs::Stdin),
    Technique::new(F, "scm-rights-connect", scm_connect).needs(Needs::Scm),
];

/// A descriptor that the caller left open, or so one hopes.
fn descriptor(number: i32) -> BorrowedFd<'static> {
    // SAFETY: nothing closes it while the program runs; if it is not open, every call on
    // it fails with EBADF, which is what the technique reports.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn joined() -> Result<(), Fault> {
    ready(std::process::id());
    wait_for_go()
}

fn prejoin_tcp(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::tcp(family)?;
    joined()?;
    sys::connect(&fd, &Address::new(to, c.port))?;
    tcp::speak(c, &fd)
}

fn prejoin_udp(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::udp(family)?;
    joined()?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(to, c.port))?;
    Ok("sendto on an older socket".into())
}

fn prejoin_udp_connect(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    joined()?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    sys::send(&fd, c.bytes())?;
    Ok("connect, send on an older socket".into())
}

/// Dissolves the inherited connection and makes another with the same socket.
fn fd3_reconnect(c: &Context) -> Outcome {
    let fd = descriptor(3);
    sys::connect(&fd, &Address::unspec())?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    tcp::speak(c, &fd)
}

fn scm_connect(c: &Context) -> Outcome {
    let fd = receive_descriptor()?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    tcp::speak(c, &fd)
}

fn receive_descriptor() -> Result<OwnedFd, Fault> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    let mut byte = [0u8; 1];
    let mut pieces = [std::io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<UnixAddr>(
        descriptor(0).as_raw_fd(),
        &mut pieces,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(|errno| Fault::new("recvmsg", errno as i32))?;
    let messages = message
        .cmsgs()
        .map_err(|errno| Fault::new("recvmsg", errno as i32))?;
    for control in messages {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(raw) = fds.first()
        {
            // SAFETY: the kernel has just made it for us; nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(*raw) });
        }
    }
    Err(Fault::new("recvmsg: no descriptor came", libc::EBADF))
}
