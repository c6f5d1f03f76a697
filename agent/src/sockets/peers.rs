//! The sockets at the other end of our own connections, by their cookie.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_sock_diag::{SockDiagMessage, constants::SOCK_DIAG_BY_FAMILY};
use netlink_sys::Socket;

use super::diag::{self, ANY_COOKIE};

/// Asks for sockets of one network namespace, the one that the thread was in when this was
/// made.
#[derive(Debug)]
pub struct Peers(Mutex<Socket>);

impl Peers {
    /// Those of the network namespace that the thread is in.
    pub fn here() -> io::Result<Self> {
        diag::socket().map(|socket| Self(Mutex::new(socket)))
    }

    /// The cookie (`SO_COOKIE`) of the TCP socket whose own end is `from` and whose far end is
    /// `to`; it takes some microseconds. A v4-mapped end means the IPv4 one, as sock_diag has
    /// it.
    ///
    /// # Errors
    /// `NotFound` where there is no such socket, and whatever the kernel says.
    pub fn cookie(&self, from: SocketAddr, to: SocketAddr) -> io::Result<u64> {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let ends = (plain(from), plain(to));
        let request = diag::exact(ends, ANY_COOKIE);
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match diag::ask(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, request)? {
            // Where no connection is, the kernel finds who listens at that end.
            Some(SockDiagMessage::InetResponse(found)) => {
                let found = found.header.socket_id;
                match found.destination_port == to.port() {
                    true => Ok(u64::from_ne_bytes(found.cookie)),
                    false => Err(io::ErrorKind::NotFound.into()),
                }
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Whose a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Id of the cgroup that it was made in; none where the kernel does not tell (Linux 5.8).
    pub cgroup: Option<u64>,
    /// User who made it.
    pub uid: u32,
    /// Its inode, as `/proc/PID/fd` has it; 0 once its program closed it.
    pub inode: u32,
}

impl Peers {
    /// Whose the TCP socket is whose own end is `from` and whose far end is `to`.
    ///
    /// # Errors
    /// As [`Peers::cookie`].
    pub fn owner(&self, from: SocketAddr, to: SocketAddr) -> io::Result<Owner> {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let request = diag::exact((plain(from), plain(to)), ANY_COOKIE);
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match diag::ask(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, request)? {
            // Where no connection is, the kernel finds who listens at that end.
            Some(SockDiagMessage::InetResponse(found))
                if found.header.socket_id.destination_port == to.port() =>
            {
                Ok(Owner {
                    cgroup: diag::cgroup_of(&found),
                    uid: found.header.uid,
                    inode: found.header.inode,
                })
            }
            Some(SockDiagMessage::InetResponse(_)) => Err(io::ErrorKind::NotFound.into()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn cookie_of(stream: &TcpStream) -> u64 {
        let mut cookie = 0_u64;
        let mut size = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the option writes eight bytes, for which there is room.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut size,
            )
        };
        assert_eq!((result, size), (0, 8));
        cookie
    }

    #[test]
    fn it_is_the_socket_at_the_other_end() {
        let peers = Peers::here().expect("netlink");
        for (at, to) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
        ] {
            let listener = TcpListener::bind(at).expect("bind");
            let port = listener.local_addr().expect("address").port();
            let to = SocketAddr::new(to.parse().expect("an address"), port);
            let client = TcpStream::connect(to).expect("connect");
            let (server, from) = listener.accept().expect("accept");
            let local = server.local_addr().expect("address");
            assert_eq!(
                peers.cookie(from, local).expect("found"),
                cookie_of(&client),
                "{to}"
            );
            // Its program may have closed it already.
            drop(client);
            peers.cookie(from, local).expect("half closed");
            let other = SocketAddr::new(from.ip(), port);
            let missing = peers.cookie(other, local).expect_err("nobody");
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
    }
}
