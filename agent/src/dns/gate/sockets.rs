//! The sockets of a gate.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use agent_common::layout::gate_v4;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// How often another port is tried when TCP cannot have the port that UDP was given.
const PORT_ATTEMPTS: u32 = 64;

/// The ports of a gate, host order; 0 means none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GatePorts {
    /// UDP and TCP port at the agent's IPv4 gate address.
    pub v4: u16,
    /// UDP and TCP port at `::1`; 0 on a host without IPv6.
    pub v6: u16,
}

/// One of a gate's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketKind {
    /// UDP at the agent's IPv4 gate address.
    Udp4,
    /// TCP there.
    Tcp4,
    /// UDP at `::1`.
    Udp6,
    /// TCP there.
    Tcp6,
}

impl SocketKind {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Udp4, Self::Tcp4, Self::Udp6, Self::Tcp6];

    fn word(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Tcp4 => "tcp4",
            Self::Udp6 => "udp6",
            Self::Tcp6 => "tcp6",
        }
    }
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for SocketKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == word);
        found.ok_or(())
    }
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    port: u16,
}

/// One agent's gate: a UDP and a TCP socket on one port at `127.64.x.y`, and the same at
/// `::1`. Non-blocking and closed on exec. None shares its port (`SO_REUSEPORT` is off),
/// so no other program can take over a part of the queries.
#[derive(Debug)]
pub struct GateSockets {
    pub(super) agent: u32,
    pub(super) v4: Pair,
    pub(super) v6: Option<Pair>,
}

impl GateSockets {
    /// Binds the sockets of an agent's gate. `preferred` are the ports of the daemon
    /// before this one: sockets that agents hold open are connected to them. A preferred
    /// port that is taken, or 0, gives one that the kernel chooses; the caller must write
    /// the ports that it got into the agent's bank.
    ///
    /// # Errors
    /// When the IPv4 sockets cannot be had, or the IPv6 ones for another reason than a
    /// host without IPv6 loopback.
    pub fn bind(agent: u32, preferred: GatePorts) -> io::Result<Self> {
        let v4 = bind_either(address4(agent), preferred.v4)?;
        let v6 = bind_v6(preferred.v6)?;
        Ok(Self { agent, v4, v6 })
    }

    /// Binds the sockets of an agent's gate at these ports and no others: those at which the
    /// kernel steers the agent's questions, whatever network namespace it is in. The calling
    /// thread's namespace is where they are.
    ///
    /// # Errors
    /// When the IPv4 sockets cannot be had: `AddrNotAvailable` where loopback is down,
    /// `AddrInUse` where somebody has the port.
    pub fn bind_at(agent: u32, ports: GatePorts) -> io::Result<Self> {
        let at = |addr, port| match port {
            0 => Err(io::ErrorKind::AddrNotAvailable.into()),
            port => bind_pair(addr, port),
        };
        if !loopback_is_up()? {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let v4 = at(address4(agent), ports.v4)?;
        // IPv4 alone is better than nothing: clients ask either.
        let v6 = at(Ipv6Addr::LOCALHOST.into(), ports.v6).ok();
        Ok(Self { agent, v4, v6 })
    }

    /// The gate of an agent as it was kept over the daemon's end, with the queries that wait
    /// in it. `ports` are those that it had. Without its IPv6 sockets it gets new ones, as
    /// [`GateSockets::bind`] gives them.
    ///
    /// # Errors
    /// When a socket is missing, or is not what its name says: of another address, port or
    /// protocol, or not listening.
    pub fn kept(
        agent: u32,
        ports: GatePorts,
        mut sockets: BTreeMap<SocketKind, OwnedFd>,
    ) -> io::Result<Self> {
        let mut pair = |udp, tcp, addr, port| {
            let udp = sockets.remove(&udp)?;
            let tcp = sockets.remove(&tcp)?;
            Some(Pair::kept(udp, tcp, SocketAddr::new(addr, port)))
        };
        let missing = || io::Error::new(io::ErrorKind::NotFound, "a socket of it is missing");
        let v4 = pair(
            SocketKind::Udp4,
            SocketKind::Tcp4,
            address4(agent),
            ports.v4,
        )
        .ok_or_else(missing)??;
        let v6 = match pair(
            SocketKind::Udp6,
            SocketKind::Tcp6,
            Ipv6Addr::LOCALHOST.into(),
            ports.v6,
        ) {
            Some(pair) => Some(pair?),
            None => bind_v6(ports.v6)?,
        };
        Ok(Self { agent, v4, v6 })
    }

    /// Each of its sockets.
    pub fn each(&self) -> impl Iterator<Item = (SocketKind, BorrowedFd<'_>)> {
        let v4 = [
            (SocketKind::Udp4, self.v4.udp.as_fd()),
            (SocketKind::Tcp4, self.v4.tcp.as_fd()),
        ];
        let v6 = self.v6.iter().flat_map(|pair| {
            [
                (SocketKind::Udp6, pair.udp.as_fd()),
                (SocketKind::Tcp6, pair.tcp.as_fd()),
            ]
        });
        v4.into_iter().chain(v6)
    }

    /// The agent that these sockets serve.
    pub fn agent(&self) -> u32 {
        self.agent
    }

    /// The port at the agent's IPv4 gate address.
    pub fn port4(&self) -> u16 {
        self.v4.port
    }

    /// The port at `::1`; 0 when the host has no IPv6.
    pub fn port6(&self) -> u16 {
        self.v6.as_ref().map_or(0, |pair| pair.port)
    }

    /// Both ports, as [`GateSockets::bind`] takes them.
    pub fn ports(&self) -> GatePorts {
        GatePorts {
            v4: self.port4(),
            v6: self.port6(),
        }
    }
}

impl Pair {
    fn kept(udp: OwnedFd, tcp: OwnedFd, addr: SocketAddr) -> io::Result<Self> {
        let other = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if getsockopt(&udp, sockopt::SockType)? != SockType::Datagram {
            return other("its UDP socket is none");
        }
        if !getsockopt(&tcp, sockopt::AcceptConn)? {
            return other("its TCP socket does not listen");
        }
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        if addr.port() == 0 || udp.local_addr()? != addr || tcp.local_addr()? != addr {
            return other("its sockets are not at its address");
        }
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self {
            udp,
            tcp,
            port: addr.port(),
        })
    }
}

/// While it is down, Linux lets a socket be bound to 127.64.0.1 and then answers from 127.0.0.1
/// (6.18: no local route says yet what kind of address it is).
fn loopback_is_up() -> io::Result<bool> {
    let up = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_UP;
    let mut interfaces = getifaddrs()?;
    Ok(interfaces.any(|interface| {
        let v4 = interface
            .address
            .is_some_and(|addr| addr.as_sockaddr_in().is_some());
        v4 && interface.flags.contains(up)
    }))
}

fn address4(agent: u32) -> IpAddr {
    Ipv4Addr::from(gate_v4(agent)).into()
}

fn bind_v6(preferred: u16) -> io::Result<Option<Pair>> {
    match bind_either(Ipv6Addr::LOCALHOST.into(), preferred) {
        Ok(pair) => Ok(Some(pair)),
        Err(error) if no_ipv6(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn bind_either(addr: IpAddr, preferred: u16) -> io::Result<Pair> {
    if preferred != 0 {
        match bind_pair(addr, preferred) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    let mut attempt = 1;
    loop {
        match bind_pair(addr, 0) {
            // TCP may hold the port that the kernel found free for UDP.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < PORT_ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn bind_pair(addr: IpAddr, port: u16) -> io::Result<Pair> {
    let udp = UdpSocket::bind(SocketAddr::new(addr, port))?;
    let port = udp.local_addr()?.port();
    // The standard library sets SO_REUSEADDR here: for TCP on Linux it lets a new daemon
    // listen while connections of the old one linger, and still no two may listen.
    let tcp = TcpListener::bind(SocketAddr::new(addr, port))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(Pair { udp, tcp, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(gate: &GateSockets) -> BTreeMap<SocketKind, OwnedFd> {
        gate.each()
            .map(|(kind, fd)| (kind, fd.try_clone_to_owned().expect("dup")))
            .collect()
    }

    #[test]
    fn at_a_port_or_not_at_all() {
        let gate = GateSockets::bind(0x1307, GatePorts::default()).expect("bind");
        let ports = gate.ports();
        let taken = GateSockets::bind_at(0x1307, ports).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(gate);
        let again = GateSockets::bind_at(0x1307, ports).expect("free again");
        assert_eq!(again.ports(), ports);
        let none = GateSockets::bind_at(0x1308, GatePorts::default()).expect_err("no port");
        assert_eq!(none.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn a_kept_gate_has_the_queries_that_came_meanwhile() {
        let gate = GateSockets::bind(0x1304, GatePorts::default()).expect("bind");
        let (ports, sockets) = (gate.ports(), copies(&gate));
        drop(gate);
        let client = UdpSocket::bind("127.0.0.1:0").expect("client");
        let addr = SocketAddr::new(address4(0x1304), ports.v4);
        client.send_to(b"asked", addr).expect("send");
        let again = GateSockets::kept(0x1304, ports, sockets).expect("kept");
        let mut buffer = [0; 16];
        let (length, from) = again.v4.udp.recv_from(&mut buffer).expect("waits there");
        assert_eq!(&buffer[..length], b"asked");
        assert_eq!(from, client.local_addr().expect("addr"));
        assert_eq!(again.ports(), ports);
    }

    #[test]
    fn a_kept_gate_is_refused_when_it_is_another_one() {
        let gate = GateSockets::bind(0x1305, GatePorts::default()).expect("bind");
        let ports = gate.ports();
        let refused = |agent, ports, sockets| {
            GateSockets::kept(agent, ports, sockets)
                .map(drop)
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(0x1306, ports, copies(&gate)).contains("address"));
        let other = GatePorts {
            v4: ports.v4 ^ 1,
            ..ports
        };
        assert!(refused(0x1305, other, copies(&gate)).contains("address"));
        let mut swapped = copies(&gate);
        let udp = swapped.remove(&SocketKind::Udp4).expect("udp");
        let tcp = swapped.insert(
            SocketKind::Udp4,
            swapped[&SocketKind::Tcp4].try_clone().expect("dup"),
        );
        assert!(tcp.is_none());
        swapped.insert(SocketKind::Tcp4, udp);
        assert!(refused(0x1305, ports, swapped).contains("none"));
        let mut half = copies(&gate);
        half.remove(&SocketKind::Tcp4);
        assert!(refused(0x1305, ports, half).contains("missing"));
    }

    #[test]
    fn both_protocols_have_one_port_at_the_agents_address() {
        let gate = GateSockets::bind(0x1234, GatePorts::default()).expect("bind");
        let addr = SocketAddr::new(IpAddr::from([127, 64, 0x12, 0x35]), gate.port4());
        assert_eq!(gate.v4.udp.local_addr().expect("udp"), addr);
        assert_eq!(gate.v4.tcp.local_addr().expect("tcp"), addr);
        if let Some(v6) = &gate.v6 {
            let addr = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), gate.port6());
            assert_eq!(v6.udp.local_addr().expect("udp"), addr);
            assert_eq!(v6.tcp.local_addr().expect("tcp"), addr);
        }
    }

    #[test]
    fn the_old_ports_come_back_when_they_are_free_and_only_then() {
        let first = GateSockets::bind(0x1301, GatePorts::default()).expect("bind");
        let ports = first.ports();
        let beside = GateSockets::bind(0x1301, ports).expect("bind beside the first");
        assert_ne!(beside.port4(), ports.v4, "no port is shared");
        drop(beside);
        drop(first);
        let again = GateSockets::bind(0x1301, ports).expect("bind again");
        assert_eq!(again.port4(), ports.v4);
    }

    #[test]
    fn a_port_that_only_tcp_lacks_is_not_taken_by_udp_alone() {
        let addr = Ipv4Addr::from(gate_v4(0x1302));
        let blocker = TcpListener::bind((addr, 0)).expect("blocker");
        let taken = blocker.local_addr().expect("addr").port();
        let gate = GateSockets::bind(0x1302, GatePorts { v4: taken, v6: 0 }).expect("bind");
        assert_ne!(gate.port4(), taken);
        let both = gate.v4.tcp.local_addr().expect("tcp").port();
        assert_eq!(gate.port4(), both);
    }

    #[test]
    fn the_sockets_are_closed_on_exec() {
        let gate = GateSockets::bind(0x1303, GatePorts::default()).expect("bind");
        for fd in [gate.v4.udp.as_fd(), gate.v4.tcp.as_fd()] {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).expect("F_GETFD");
            assert_ne!(flags & libc::FD_CLOEXEC, 0);
        }
    }
}
