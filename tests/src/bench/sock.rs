//! Sockets by bare system calls, because what is around a call would be measured too.

use anyhow::{Context, bail};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

/// The one port that the measured policies allow.
pub(crate) const PORT: u16 = 443;

/// An IPv4 socket of a kind.
pub(crate) struct Socket(OwnedFd);

fn address(to: Ipv4Addr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: PORT.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(to).to_be(),
        },
        sin_zero: [0; 8],
    }
}

const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

fn errno(result: isize) -> i32 {
    if result < 0 {
        io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    } else {
        0
    }
}

impl Socket {
    fn new(kind: i32) -> anyhow::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("make a socket");
        }
        // SAFETY: the kernel has just given it to us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A UDP socket.
    pub(crate) fn udp() -> anyhow::Result<Self> {
        Self::new(libc::SOCK_DGRAM)
    }

    /// A TCP socket whose close sends a reset: nothing is left in TIME_WAIT, so ports do
    /// not run out.
    pub(crate) fn tcp() -> anyhow::Result<Self> {
        let socket = Self::new(libc::SOCK_STREAM)?;
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        socket.option(libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
        Ok(socket)
    }

    fn option<T>(&self, level: i32, name: i32, value: &T) -> anyhow::Result<()> {
        // SAFETY: `value` is a whole T of the length that is given.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        match errno(result as isize) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)).context("set a socket option"),
        }
    }

    /// Connects; 0 or the error's number.
    #[inline]
    pub(crate) fn connect(&self, to: Ipv4Addr) -> i32 {
        let to = address(to);
        // SAFETY: `to` is a whole address of the length that is given.
        errno(unsafe {
            libc::connect(
                self.0.as_raw_fd(),
                std::ptr::from_ref(&to).cast(),
                ADDRESS_BYTES,
            ) as isize
        })
    }

    /// Sends 64 bytes on a connected socket; 0 or the error's number.
    #[inline]
    pub(crate) fn send(&self) -> i32 {
        let bytes = [0_u8; 64];
        // SAFETY: `bytes` is as long as is said.
        errno(unsafe {
            libc::send(
                self.0.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
            )
        })
    }

    /// Sends 64 bytes to an address; 0 or the error's number.
    #[inline]
    pub(crate) fn send_to(&self, to: Ipv4Addr) -> i32 {
        let bytes = [0_u8; 64];
        let to = address(to);
        // SAFETY: `bytes` and `to` are as long as is said.
        errno(unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                std::ptr::from_ref(&to).cast(),
                ADDRESS_BYTES,
            )
        })
    }

    fn bind(&self) -> anyhow::Result<()> {
        let to = address(Ipv4Addr::UNSPECIFIED);
        // SAFETY: as in `connect`.
        let result = unsafe {
            libc::bind(
                self.0.as_raw_fd(),
                std::ptr::from_ref(&to).cast(),
                ADDRESS_BYTES,
            )
        };
        match errno(result as isize) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)).context("bind to port 443"),
        }
    }

    /// A UDP socket that swallows what comes to any address: its buffer is soon full, and
    /// then packets are dropped at its door, the shortest way that ends without an answer.
    pub(crate) fn swallower() -> anyhow::Result<Self> {
        let socket = Self::udp()?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUF, &1_i32)?;
        socket.bind()?;
        Ok(socket)
    }

    /// A TCP listener at any address.
    pub(crate) fn listener() -> anyhow::Result<Self> {
        let socket = Self::new(libc::SOCK_STREAM)?;
        socket.option(libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
        socket.bind()?;
        // SAFETY: no pointers.
        match errno(unsafe { libc::listen(socket.0.as_raw_fd(), 4096) } as isize) {
            0 => Ok(socket),
            number => Err(io::Error::from_raw_os_error(number)).context("listen"),
        }
    }

    /// Takes the next connection.
    pub(crate) fn accept(&self) -> anyhow::Result<Self> {
        // SAFETY: null asks for no address.
        let fd = unsafe {
            libc::accept4(
                self.0.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("accept");
        }
        // SAFETY: the kernel has just given it to us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// As a stream of the standard library.
    pub(crate) fn into_stream(self) -> std::net::TcpStream {
        self.0.into()
    }
}

/// Nanoseconds a call of `call`, which says 0 or an error's number. Every call must say
/// `expected`: a benchmark of the wrong thing is worse than none.
pub(crate) fn time(
    calls: usize,
    expected: i32,
    mut call: impl FnMut(usize) -> i32,
) -> anyhow::Result<f64> {
    let mut wrong = None;
    let start = Instant::now();
    for index in 0..calls {
        let said = call(index);
        if said != expected {
            wrong = Some(said);
        }
    }
    let took = start.elapsed();
    if let Some(said) = wrong {
        bail!(
            "a call that was to end with {} ended with {}",
            io::Error::from_raw_os_error(expected),
            io::Error::from_raw_os_error(said)
        );
    }
    Ok(took.as_nanos() as f64 / calls as f64)
}
