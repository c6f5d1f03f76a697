//! The sockets of a gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use agent_common::layout::gate_v4;
use nix::sys::socket::{Backlog, getsockopt, sockopt};

use super::Door;

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// One of a gateway's listening sockets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Listening {
    /// Steered connections over IPv4, at the agent's own loopback address.
    Steered4,
    /// Steered connections over IPv6, at `::1`.
    Steered6,
    /// The HTTP proxy, at the agent's own loopback address.
    Http,
    /// The SOCKS5 proxy, there too.
    Socks,
}

impl Listening {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Steered4, Self::Steered6, Self::Http, Self::Socks];

    fn word(self) -> &'static str {
        match self {
            Self::Steered4 => "steered4",
            Self::Steered6 => "steered6",
            Self::Http => "http",
            Self::Socks => "socks",
        }
    }

    fn door(self) -> Door {
        match self {
            Self::Steered4 | Self::Steered6 => Door::Steered,
            Self::Http => Door::Http,
            Self::Socks => Door::Socks,
        }
    }

    fn addr(self, agent: u32) -> IpAddr {
        match self {
            Self::Steered6 => Ipv6Addr::LOCALHOST.into(),
            Self::Steered4 | Self::Http | Self::Socks => Ipv4Addr::from(gate_v4(agent)).into(),
        }
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Listening {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == word);
        found.ok_or(())
    }
}

/// The ports of a gateway, host order; what is not there has none.
pub type GatewayPorts = BTreeMap<Listening, u16>;

/// One agent's gateway: listening sockets on ports of their own, non-blocking and closed on
/// exec. None shares its port (`SO_REUSEPORT` is off), so no other program can take over a
/// part of the connections.
#[derive(Debug)]
pub struct GatewaySockets {
    agent: u32,
    listeners: BTreeMap<Listening, TcpListener>,
}

impl GatewaySockets {
    /// Binds the sockets of an agent's gateway. A port of `preferred` that is taken, or not
    /// there, gives one that the kernel chooses; the caller must write the ports that it
    /// got into the agent's bank.
    ///
    /// # Errors
    /// When a socket cannot be had, but for the IPv6 one on a host without IPv6 loopback.
    pub fn bind(agent: u32, preferred: &GatewayPorts) -> io::Result<Self> {
        Self::with(agent, |kind| {
            let port = preferred.get(&kind).copied().unwrap_or(0);
            let addr = SocketAddr::new(kind.addr(agent), port);
            match listen(addr) {
                Err(error) if port != 0 && error.kind() == io::ErrorKind::AddrInUse => {
                    listen(SocketAddr::new(addr.ip(), 0))
                }
                result => result,
            }
        })
    }

    /// Binds them at these ports and no others, in the network namespace of the calling
    /// thread: there the kernel steers to the same ports. What has no port is left out.
    ///
    /// # Errors
    /// When a socket cannot be had at its port, but for the IPv6 one on a host without
    /// IPv6 loopback.
    pub fn bind_at(agent: u32, ports: &GatewayPorts) -> io::Result<Self> {
        let mut listeners = BTreeMap::new();
        for (&kind, &port) in ports {
            if port == 0 {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            match listen(SocketAddr::new(kind.addr(agent), port)) {
                Ok(listener) => drop(listeners.insert(kind, listener)),
                Err(error) if kind == Listening::Steered6 && no_ipv6(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { agent, listeners })
    }

    /// The gateway of an agent as it was kept over the daemon's end, with the connections
    /// that wait to be taken. `ports` are those that it had.
    ///
    /// # Errors
    /// When a socket is missing, or is not what its name says: at another address or port,
    /// or not listening.
    pub fn kept(
        agent: u32,
        ports: &GatewayPorts,
        mut sockets: BTreeMap<Listening, OwnedFd>,
    ) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut listeners = BTreeMap::new();
        for (&kind, &port) in ports {
            let socket = sockets.remove(&kind).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "a socket of it is missing")
            })?;
            if !getsockopt(&socket, sockopt::AcceptConn)? {
                return Err(wrong("one of its sockets does not listen"));
            }
            let listener = TcpListener::from(socket);
            let addr = SocketAddr::new(kind.addr(agent), port);
            if port == 0 || listener.local_addr()? != addr {
                return Err(wrong("its sockets are not at its address"));
            }
            listener.set_nonblocking(true)?;
            listeners.insert(kind, listener);
        }
        Ok(Self { agent, listeners })
    }

    fn with(
        agent: u32,
        mut open: impl FnMut(Listening) -> io::Result<TcpListener>,
    ) -> io::Result<Self> {
        let mut listeners = BTreeMap::new();
        for kind in Listening::ALL {
            match open(kind) {
                Ok(listener) => drop(listeners.insert(kind, listener)),
                Err(error) if kind == Listening::Steered6 && no_ipv6(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { agent, listeners })
    }

    /// Each of its sockets.
    pub fn each(&self) -> impl Iterator<Item = (Listening, BorrowedFd<'_>)> {
        self.listeners
            .iter()
            .map(|(kind, listener)| (*kind, listener.as_fd()))
    }

    /// The agent that these sockets serve.
    pub fn agent(&self) -> u32 {
        self.agent
    }

    /// Where they listen.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn addresses(&self) -> io::Result<BTreeMap<Listening, SocketAddr>> {
        self.listeners
            .iter()
            .map(|(kind, listener)| Ok((*kind, listener.local_addr()?)))
            .collect()
    }

    /// Their ports, as [`GatewaySockets::bind`] takes them.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ports(&self) -> io::Result<GatewayPorts> {
        let addresses = self.addresses()?;
        Ok(addresses
            .into_iter()
            .map(|(kind, addr)| (kind, addr.port()))
            .collect())
    }

    pub(super) fn into_listeners(self) -> impl Iterator<Item = (Door, TcpListener)> {
        let listeners = self.listeners.into_iter();
        listeners.map(|(kind, listener)| (kind.door(), listener))
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    // The standard library's 128 overflows when a program opens hundreds at once, and then
    // the kernel lets them wait for seconds.
    nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(gateway: &GatewaySockets) -> BTreeMap<Listening, OwnedFd> {
        gateway
            .each()
            .map(|(kind, fd)| (kind, fd.try_clone_to_owned().expect("dup")))
            .collect()
    }

    #[test]
    fn the_old_ports_come_back_when_they_are_free_and_only_then() {
        let first = GatewaySockets::bind(0x2301, &GatewayPorts::new()).expect("bind");
        let ports = first.ports().expect("ports");
        assert!(ports.values().all(|port| *port != 0));
        let addresses = first.addresses().expect("addresses");
        let agents_own = IpAddr::from([127, 64, 0x23, 0x02]);
        assert_eq!(addresses[&Listening::Steered4].ip(), agents_own);
        assert_eq!(addresses[&Listening::Socks].ip(), agents_own);
        let beside = GatewaySockets::bind(0x2301, &ports).expect("bind beside the first");
        assert_ne!(beside.ports().expect("ports"), ports, "no port is shared");
        let taken = GatewaySockets::bind_at(0x2301, &ports).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let again = GatewaySockets::bind_at(0x2301, &ports).expect("free again");
        assert_eq!(again.ports().expect("ports"), ports);
    }

    #[test]
    fn a_kept_gateway_is_refused_when_it_is_another_one() {
        let gateway = GatewaySockets::bind(0x2302, &GatewayPorts::new()).expect("bind");
        let ports = gateway.ports().expect("ports");
        let kept = GatewaySockets::kept(0x2302, &ports, copies(&gateway)).expect("kept");
        assert_eq!(kept.ports().expect("ports"), ports);
        let refused = |agent, ports: &GatewayPorts, sockets| {
            GatewaySockets::kept(agent, ports, sockets)
                .map(drop)
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(0x2303, &ports, copies(&gateway)).contains("address"));
        let mut other = ports.clone();
        other.insert(Listening::Http, ports[&Listening::Http] ^ 1);
        assert!(refused(0x2302, &other, copies(&gateway)).contains("address"));
        let mut half = copies(&gateway);
        half.remove(&Listening::Steered4);
        assert!(refused(0x2302, &ports, half).contains("missing"));
        let mut udp = copies(&gateway);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("udp");
        udp.insert(Listening::Steered4, socket.into());
        assert!(refused(0x2302, &ports, udp).contains("listen"));
    }
}
