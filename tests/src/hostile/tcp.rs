//! TCP, by every way to begin it.

use crate::context::{Context, Fault, Outcome, Technique};
use crate::sys::{self, Address};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

const F: &str = "tcp";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "tcp4", |c| plain(c, libc::AF_INET, c.v4())),
    Technique::new(F, "tcp6", |c| plain(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "tcp-mapped", |c| plain(c, libc::AF_INET6, c.mapped())),
    Technique::new(F, "tcp4-nonblocking", |c| {
        nonblocking(c, libc::AF_INET, c.v4())
    }),
    Technique::new(F, "tcp6-nonblocking", |c| {
        nonblocking(c, libc::AF_INET6, c.v6())
    }),
    Technique::new(F, "tcp-fastopen-sendto", fastopen_sendto),
    Technique::new(F, "tcp-fastopen-mapped", fastopen_mapped),
    Technique::new(F, "tcp-fastopen-connect", fastopen_connect),
    Technique::new(F, "tcp-fastopen-sendmsg-unconnected", fastopen_no_cookie),
    Technique::new(F, "mptcp4", |c| mptcp(c, libc::AF_INET, c.v4())),
    Technique::new(F, "mptcp6", |c| mptcp(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "tcp-unspec-reconnect", unspec_reconnect),
    Technique::new(F, "tcp-bound-first", bound_first),
    Technique::new(F, "tcp-bindtodevice", bind_to_device),
    Technique::new(F, "tcp-transparent", transparent).root(),
    Technique::new(F, "tcp-foreign-source", foreign_source).root(),
    Technique::new(F, "tcp-repair", repair).root(),
    Technique::new(F, "tcp-to-v6-as-v4", v4_socket_changed),
];

fn plain(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::tcp(family)?;
    sys::connect(&fd, &Address::new(to, c.port))?;
    speak(c, &fd)
}

/// Writes the payload on a connection, and ends it.
pub(crate) fn speak(c: &Context, fd: &impl AsRawFd) -> Outcome {
    sys::send(fd, c.bytes())?;
    sys::finish(fd)?;
    Ok("connected and wrote".into())
}

fn nonblocking(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match sys::connect(&fd, &Address::new(to, c.port)) {
        Err(fault) if fault.errno != libc::EINPROGRESS => return Err(fault),
        _ => {}
    }
    wait_writable(&fd)?;
    speak(c, &fd)
}

/// Waits for the end of a connect that is in progress.
pub(crate) fn wait_writable(fd: &impl AsFd) -> Result<(), Fault> {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polled, 1500u16) {
        Ok(0) => return Err(Fault::new("poll", libc::ETIMEDOUT)),
        Ok(_) => {}
        Err(errno) => return Err(Fault::new("poll", errno as i32)),
    }
    match nix::sys::socket::getsockopt(fd, nix::sys::socket::sockopt::SocketError) {
        Ok(0) => Ok(()),
        Ok(errno) => Err(Fault::new("connect", errno)),
        Err(errno) => Err(Fault::new("SO_ERROR", errno as i32)),
    }
}

/// One call that connects and sends; asks the connect hook only in newer kernels.
fn fastopen_sendto(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::sendto(
        &fd,
        c.bytes(),
        libc::MSG_FASTOPEN,
        &Address::new(c.v4(), c.port),
    )?;
    sys::finish(&fd)?;
    Ok("sendto(MSG_FASTOPEN)".into())
}

fn fastopen_mapped(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET6)?;
    sys::sendto(
        &fd,
        c.bytes(),
        libc::MSG_FASTOPEN,
        &Address::new(c.mapped(), c.port),
    )?;
    sys::finish(&fd)?;
    Ok("sendto(MSG_FASTOPEN) to a v4-mapped address".into())
}

/// connect() returns at once and the SYN goes out with the first write.
fn fastopen_connect(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::setsockopt(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1i32)?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    speak(c, &fd)
}

/// Data in the very first SYN, without a cookie.
fn fastopen_no_cookie(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET6)?;
    sys::setsockopt(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, &1i32)?;
    sys::sendto(
        &fd,
        c.bytes(),
        libc::MSG_FASTOPEN,
        &Address::new(c.v6(), c.port),
    )?;
    sys::finish(&fd)?;
    Ok("data in the SYN".into())
}

fn mptcp(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let fd = sys::socket(family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sys::connect(&fd, &Address::new(to, c.port))?;
    speak(c, &fd)
}

/// A cached verdict for the first peer must not serve the second. A refusal of the first
/// is passed over: only the second matters.
fn unspec_reconnect(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    let _ = sys::connect(&fd, &Address::new(c.decoy, c.port));
    let _ = sys::connect(&fd, &Address::unspec());
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    speak(c, &fd)
}

fn bound_first(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::bind(&fd, &Address::new(std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    speak(c, &fd)
}

fn bind_to_device(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::setsockopt_bytes(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0\0")?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    speak(c, &fd)
}

fn transparent(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::setsockopt(&fd, libc::SOL_IP, libc::IP_TRANSPARENT, &1i32)?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    speak(c, &fd)
}

/// A SYN from an address that is not the laptop's. The answer never comes back, so the
/// SYN itself carries the payload.
fn foreign_source(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::setsockopt(&fd, libc::SOL_IP, libc::IP_TRANSPARENT, &1i32)?;
    sys::setsockopt(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, &1i32)?;
    sys::bind(
        &fd,
        &Address::new(std::net::Ipv4Addr::new(10, 99, 0, 77), 0),
    )?;
    let flags = libc::MSG_FASTOPEN | libc::MSG_DONTWAIT;
    match sys::sendto(&fd, c.bytes(), flags, &Address::new(c.v4(), c.port)) {
        Err(fault) if fault.errno != libc::EINPROGRESS => Err(fault),
        _ => Ok("a SYN from a foreign address".into()),
    }
}

/// In repair mode a connection is made without a handshake; then data are sent on it.
fn repair(c: &Context) -> Outcome {
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_WINDOW: i32 = 29;
    // Leaves repair mode without the probe that the far end would answer with a reset.
    const OFF_NO_PROBE: i32 = -1;
    let fd = sys::tcp(libc::AF_INET)?;
    sys::setsockopt(&fd, libc::IPPROTO_TCP, TCP_REPAIR, &1i32)?;
    sys::bind(&fd, &Address::new(crate::packets::SOURCE, 0))?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    // struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
    let window = [0u32, 65_535, 65_535, 65_535, 0];
    sys::setsockopt(&fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window)?;
    sys::setsockopt(&fd, libc::IPPROTO_TCP, TCP_REPAIR, &OFF_NO_PROBE)?;
    sys::send(&fd, c.bytes())?;
    Ok("sent on a connection made in repair mode".into())
}

/// IPV6_ADDRFORM turns a connected v4-mapped socket into an IPv4 one.
fn v4_socket_changed(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET6)?;
    sys::connect(&fd, &Address::new(c.mapped(), c.port))?;
    sys::setsockopt(&fd, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, &libc::AF_INET)?;
    speak(c, &fd)
}
