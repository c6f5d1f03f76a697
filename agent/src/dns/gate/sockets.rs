//! The sockets of a gate.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use agent_common::layout::gate_v4;

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
        let v4 = Ipv4Addr::from(gate_v4(agent));
        let v4 = bind_either(v4.into(), preferred.v4)?;
        let v6 = match bind_either(Ipv6Addr::LOCALHOST.into(), preferred.v6) {
            Ok(pair) => Some(pair),
            Err(error) if no_ipv6(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { agent, v4, v6 })
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
    use std::os::fd::AsFd;

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
