//! System calls as plain functions. Sockets give up after a second or so, because an
//! enforcement that only drops packets would otherwise leave a technique hanging.

use crate::context::Fault;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How long a blocking call may take.
const PATIENCE: libc::timeval = libc::timeval {
    tv_sec: 1,
    tv_usec: 500_000,
};

/// A socket address of either family.
pub(crate) struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Address {
    pub(crate) fn new(ip: impl Into<IpAddr>, port: u16) -> Self {
        // SAFETY: all bytes zero is a value of sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let length = match ip.into() {
            IpAddr::V4(v4) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: port.to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large enough and aligned for every family.
                unsafe {
                    (&raw mut storage)
                        .cast::<libc::sockaddr_in>()
                        .write(address)
                };
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(v6) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: port.to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.octets(),
                    },
                    sin6_scope_id: 0,
                };
                // SAFETY: as above.
                unsafe {
                    (&raw mut storage)
                        .cast::<libc::sockaddr_in6>()
                        .write(address)
                };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self {
            storage,
            length: length as libc::socklen_t,
        }
    }

    /// Family AF_UNSPEC: connecting to it dissolves a connection.
    pub(crate) fn unspec() -> Self {
        let mut address = Self::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
        address.storage.ss_family = libc::AF_UNSPEC as u16;
        address
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.length
    }
}

fn owned(call: &'static str, raw: RawFd) -> Result<OwnedFd, Fault> {
    if raw < 0 {
        return Err(Fault::last(call));
    }
    // SAFETY: the kernel has just made `raw`; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn done(call: &'static str, code: i64) -> Result<usize, Fault> {
    usize::try_from(code).map_err(|_| Fault::last(call))
}

/// Waits until there is something to read or accept, as long as a blocking call would.
pub(crate) fn readable(fd: &impl AsRawFd) -> Result<(), Fault> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let patience = PATIENCE.tv_sec * 1000 + PATIENCE.tv_usec / 1000;
    // SAFETY: one pollfd, which outlives the call.
    match unsafe { libc::poll(&mut poll, 1, patience as i32) } {
        1 => Ok(()),
        0 => Err(Fault::new("poll", libc::EAGAIN)),
        _ => Err(Fault::last("poll")),
    }
}

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Fault> {
    // SAFETY: plain system call.
    let fd = owned("socket", unsafe {
        libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol)
    })?;
    // Families without these options keep their own manners.
    let _ = setsockopt(&fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &PATIENCE);
    let _ = setsockopt(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &PATIENCE);
    Ok(fd)
}

/// For what must succeed, however busy the machine is: a minute.
pub(crate) fn be_patient(fd: &OwnedFd) -> Result<(), Fault> {
    let minute = libc::timeval {
        tv_sec: 60,
        tv_usec: 0,
    };
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &minute)?;
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &minute)
}

pub(crate) fn tcp(family: i32) -> Result<OwnedFd, Fault> {
    socket(family, libc::SOCK_STREAM, 0)
}

pub(crate) fn udp(family: i32) -> Result<OwnedFd, Fault> {
    socket(family, libc::SOCK_DGRAM, 0)
}

pub(crate) fn connect(fd: &impl AsRawFd, to: &Address) -> Result<(), Fault> {
    // SAFETY: the pointer and the length describe `to`.
    done(
        "connect",
        unsafe { libc::connect(fd.as_raw_fd(), to.as_ptr(), to.len()) }.into(),
    )
    .map(drop)
}

pub(crate) fn bind(fd: &impl AsRawFd, to: &Address) -> Result<(), Fault> {
    // SAFETY: the pointer and the length describe `to`.
    done(
        "bind",
        unsafe { libc::bind(fd.as_raw_fd(), to.as_ptr(), to.len()) }.into(),
    )
    .map(drop)
}

pub(crate) fn listen(fd: &impl AsRawFd) -> Result<(), Fault> {
    // SAFETY: plain system call.
    done("listen", unsafe { libc::listen(fd.as_raw_fd(), 8) }.into()).map(drop)
}

pub(crate) fn accept(fd: &impl AsRawFd) -> Result<OwnedFd, Fault> {
    // SAFETY: null is allowed for an address that is not wanted.
    let raw = unsafe {
        libc::accept4(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    };
    owned("accept", raw)
}

/// The local port, host order.
pub(crate) fn local_port(fd: &impl AsRawFd) -> Result<u16, Fault> {
    let mut address = Address::unspec();
    address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the pointers describe `address`.
    let code = unsafe {
        libc::getsockname(
            fd.as_raw_fd(),
            (&raw mut address.storage).cast(),
            &mut address.length,
        )
    };
    done("getsockname", code.into())?;
    // SAFETY: the port lies at the same place in sockaddr_in and sockaddr_in6, and the
    // storage is aligned for both.
    Ok(u16::from_be(unsafe {
        (*address.as_ptr().cast::<libc::sockaddr_in>()).sin_port
    }))
}

pub(crate) fn send(fd: &impl AsRawFd, bytes: &[u8]) -> Result<(), Fault> {
    // SAFETY: the pointer and the length describe `bytes`.
    let code = unsafe {
        libc::send(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    };
    done("send", code as i64).map(drop)
}

pub(crate) fn sendto(
    fd: &impl AsRawFd,
    bytes: &[u8],
    flags: i32,
    to: &Address,
) -> Result<(), Fault> {
    // SAFETY: the pointers and lengths describe `bytes` and `to`.
    let code = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags | libc::MSG_NOSIGNAL,
            to.as_ptr(),
            to.len(),
        )
    };
    done("sendto", code as i64).map(drop)
}

pub(crate) fn recv(fd: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, Fault> {
    // SAFETY: the pointer and the length describe `buffer`.
    let code = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    done("recv", code as i64)
}

/// Receives a datagram and tells who sent it.
pub(crate) fn recvfrom(fd: &impl AsRawFd, buffer: &mut [u8]) -> Result<Address, Fault> {
    let mut from = Address::unspec();
    from.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the pointers and lengths describe `buffer` and `from`.
    let code = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from.storage).cast(),
            &mut from.length,
        )
    };
    done("recvfrom", code as i64)?;
    Ok(from)
}

/// Ends the sending side, so that what was written goes out before the end.
pub(crate) fn finish(fd: &impl AsRawFd) -> Result<(), Fault> {
    // SAFETY: plain system call.
    done(
        "shutdown",
        unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) }.into(),
    )
    .map(drop)
}

pub(crate) fn setsockopt<T>(
    fd: &impl AsRawFd,
    level: i32,
    name: i32,
    value: &T,
) -> Result<(), Fault> {
    // SAFETY: the pointer and the length describe `value`; the kernel only reads it.
    let code = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    done("setsockopt", code.into()).map(drop)
}

pub(crate) fn setsockopt_bytes(
    fd: &impl AsRawFd,
    level: i32,
    name: i32,
    value: &[u8],
) -> Result<(), Fault> {
    // SAFETY: the pointer and the length describe `value`; the kernel only reads it.
    let code = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    done("setsockopt", code.into()).map(drop)
}

/// A call that gives a negative number and errno on failure.
pub(crate) fn check(call: &'static str, code: i64) -> Result<usize, Fault> {
    done(call, code)
}

/// Index of the interface `eth0`, the only one that leads out of the test's laptop.
pub(crate) fn interface() -> Result<i32, Fault> {
    // SAFETY: a string with its NUL.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    if index == 0 {
        Err(Fault::last("if_nametoindex"))
    } else {
        Ok(index as i32)
    }
}
