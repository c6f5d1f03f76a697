//! What may be inherited.

use std::{
    fmt, fs,
    ops::Range,
    os::{fd::RawFd, unix::ffi::OsStrExt as _},
};

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};

/// A descriptor that leads out of the agent by a way that no hook sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forbidden {
    /// Its number.
    pub descriptor: RawFd,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "descriptor {} is {}, made outside of the agent, and what is sent through it cannot be judged: redirect it from or to a file, a pipe or a terminal",
            self.descriptor, self.what
        )
    }
}

impl std::error::Error for Forbidden {}

/// Refuses sockets of other families than AF_UNIX, and kernel objects without a name
/// (io_uring, BPF, pidfd, …). Files, devices, pipes, terminals and unix sockets (a
/// program's journal) may be inherited.
pub(super) fn check(descriptors: Range<RawFd>) -> Result<(), Forbidden> {
    for descriptor in descriptors {
        let Ok(target) = fs::read_link(format!("/proc/self/fd/{descriptor}")) else {
            // Closed: nothing leads anywhere.
            continue;
        };
        let target = target.as_os_str().as_bytes();
        if target.starts_with(b"anon_inode:") {
            return Err(Forbidden {
                descriptor,
                what: format!("a kernel object ({})", String::from_utf8_lossy(target)),
            });
        }
        if target.starts_with(b"socket:")
            && let Some(what) = network_socket(descriptor)
        {
            return Err(Forbidden { descriptor, what });
        }
    }
    Ok(())
}

/// What kind of socket it is, unless it is a unix socket.
fn network_socket(descriptor: RawFd) -> Option<String> {
    match domain(descriptor) {
        Some(libc::AF_UNIX) => None,
        Some(libc::AF_INET | libc::AF_INET6) => {
            let address = getsockname::<SockaddrStorage>(descriptor)
                .ok()
                .filter(|address| address.family() != Some(AddressFamily::Unix))
                .map(|address| format!(" (local address {address})"))
                .unwrap_or_default();
            Some(format!("a network socket{address}"))
        }
        Some(other) => Some(format!("a socket of address family {other}")),
        None => Some("a socket of an unknown family".to_owned()),
    }
}

/// `SO_DOMAIN`: the address family of a socket (socket(7)).
fn domain(descriptor: RawFd) -> Option<libc::c_int> {
    let mut family: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to values of the sizes that are given.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            std::ptr::from_mut(&mut family).cast(),
            &mut size,
        )
    };
    (result == 0).then_some(family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    fn verdict(object: &impl std::os::fd::AsRawFd) -> Result<(), Forbidden> {
        let number = object.as_raw_fd();
        check(number..number + 1)
    }

    #[test]
    fn files_pipes_and_unix_sockets_may_be_inherited() {
        let file = std::fs::File::open("/dev/null").expect("file");
        assert_eq!(verdict(&file), Ok(()));
        let (reader, writer) = std::io::pipe().expect("pipe");
        assert_eq!(verdict(&reader), Ok(()));
        assert_eq!(verdict(&writer), Ok(()));
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        assert_eq!(verdict(&one), Ok(()));
    }

    #[test]
    fn sockets_of_the_network_may_not() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        let refused = verdict(&udp).expect_err("a network socket");
        assert_eq!(refused.descriptor, udp.as_raw_fd());
        assert!(refused.to_string().contains("network socket"));
        let netlink = nix::sys::socket::socket(
            AddressFamily::Netlink,
            nix::sys::socket::SockType::Raw,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .expect("netlink");
        assert!(verdict(&netlink).is_err());
    }

    #[test]
    fn kernel_objects_may_not() {
        let epoll =
            nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).expect("epoll");
        assert!(verdict(&epoll.0).is_err());
    }
}
