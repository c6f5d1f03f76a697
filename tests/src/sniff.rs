//! Everything that arrives at the internet's end of the wire.

use crate::ns::Ns;
use crate::service::{Service, Stop};
use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Packets kept in one capture; more are counted as lost.
const MAX_PACKETS: usize = 2_000_000;
/// Bytes kept of a packet: a whole frame of the veth, with offloads off.
const MAX_FRAME: usize = 65_536 + 64;

/// A packet that came from the laptop.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it was read.
    pub at: Instant,
    /// Ethernet type, host order.
    pub ether_type: u16,
    /// IP protocol after any IPv6 extension headers; 0 where there is no IP header.
    pub protocol: u8,
    /// Addresses of the outermost IP header.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// Source and destination port of TCP, UDP, UDP-Lite, SCTP or DCCP; not of later fragments.
    pub ports: Option<(u16, u16)>,
    /// The frame from its Ethernet header on.
    pub frame: Vec<u8>,
}

impl Packet {
    /// Reads a frame; whatever cannot be read stays `None`, the packet still counts.
    pub fn parse(frame: &[u8]) -> Self {
        let mut packet = Self {
            at: Instant::now(),
            ether_type: be16(frame, 12).unwrap_or(0),
            protocol: 0,
            ends: None,
            ports: None,
            frame: frame.to_vec(),
        };
        let ip = frame.get(14..).unwrap_or_default();
        let transport = match packet.ether_type {
            0x0800 => packet.read_v4(ip),
            0x86dd => packet.read_v6(ip),
            _ => None,
        };
        if let Some(body) = transport {
            packet.ports = match packet.protocol {
                6 | 17 | 136 | 132 | 33 => be16(body, 0).zip(be16(body, 2)),
                _ => None,
            };
        }
        packet
    }

    fn read_v4<'a>(&mut self, ip: &'a [u8]) -> Option<&'a [u8]> {
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes).into())
        };
        self.ends = address(12).zip(address(16));
        self.protocol = *ip.get(9)?;
        let first_fragment = be16(ip, 6)? & 0x1fff == 0;
        let header = usize::from(ip.first()? & 0x0f) * 4;
        first_fragment.then(|| ip.get(header..)).flatten()
    }

    fn read_v6<'a>(&mut self, ip: &'a [u8]) -> Option<&'a [u8]> {
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        };
        self.ends = address(8).zip(address(24));
        let mut next = *ip.get(6)?;
        let mut body = ip.get(40..)?;
        // Hop-by-hop, routing, fragment, destination options. A chain longer than this is
        // reported with the protocol number of the header that it stops at.
        for _ in 0..8 {
            let length = match next {
                0 | 43 | 60 => (usize::from(*body.get(1)?) + 1) * 8,
                44 if be16(body, 2)? & 0xfff8 == 0 => 8,
                _ => break,
            };
            next = *body.first()?;
            body = body.get(length..)?;
        }
        self.protocol = next;
        Some(body)
    }

    /// Whether it was sent to `address`.
    pub fn is_to(&self, address: IpAddr) -> bool {
        self.ends.is_some_and(|(_, to)| to == address)
    }

    /// Whether these bytes occur anywhere in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        !needle.is_empty() && self.frame.windows(needle.len()).any(|w| w == needle)
    }

    /// Whether it is what a Linux host sends by itself so as to talk to its neighbours:
    /// ARP, neighbour and router discovery, duplicate address detection.
    pub fn is_housekeeping(&self) -> bool {
        const NDP: [u8; 4] = [133, 134, 135, 136];
        match (self.ether_type, self.protocol) {
            (0x0806, _) => true,
            (0x86dd, 58) => self.frame.get(54).is_some_and(|kind| NDP.contains(kind)),
            _ => false,
        }
    }

    /// Whether it is the kernel's own answer to a TCP segment for a port where nobody
    /// listens: a bare reset with the sequence number 0, which no socket sends.
    pub fn is_closed_port(&self) -> bool {
        let at = match self.ether_type {
            0x0800 => 14 + self.frame.get(14).map_or(0, |b| usize::from(b & 15) * 4),
            _ => 54,
        };
        const RST_ACK: u8 = 0x14;
        self.protocol == 6
            && self.frame.get(at + 4..at + 8) == Some(&[0; 4])
            && self.frame.get(at + 13) == Some(&RST_ACK)
    }

    /// Whether it is a multicast listener report or query (IGMP, MLD).
    pub fn is_group_report(&self) -> bool {
        match (self.ether_type, self.protocol) {
            (0x0800, 2) => true,
            // MLD carries a hop-by-hop router alert of 8 bytes before the ICMPv6 header.
            (0x86dd, 58) => self
                .frame
                .get(62)
                .is_some_and(|kind| [130, 131, 132, 143].contains(kind)),
            _ => false,
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(pair))
}

/// Records packets until it is dropped.
pub struct Sniffer {
    packets: Arc<Mutex<Vec<Packet>>>,
    socket: Arc<OwnedFd>,
    _service: Service,
}

impl Sniffer {
    /// Starts on interface `eth0` of `ns`; packets that arrive after this returns are recorded.
    ///
    /// # Errors
    /// When the packet socket cannot be made.
    pub fn start(ns: &Ns) -> anyhow::Result<Self> {
        let socket = Arc::new(ns.run(open_packet_socket)?);
        let packets = Arc::new(Mutex::new(Vec::new()));
        let (their_socket, their_packets) = (socket.clone(), packets.clone());
        let service = Service::spawn("sniffer", move |stop| {
            capture(&stop, &their_socket, &their_packets)
        })?;
        Ok(Self {
            packets,
            socket,
            _service: service,
        })
    }

    /// A copy of those packets so far for which `wanted` holds.
    pub fn packets(&self, mut wanted: impl FnMut(&Packet) -> bool) -> Vec<Packet> {
        let packets = self.packets.lock().expect("sniffer lock");
        packets.iter().filter(|p| wanted(p)).cloned().collect()
    }

    /// Number of packets so far for which `wanted` holds.
    pub fn count(&self, mut wanted: impl FnMut(&Packet) -> bool) -> usize {
        let packets = self.packets.lock().expect("sniffer lock");
        packets.iter().filter(|p| wanted(p)).count()
    }

    /// Makes room: packets that are `known` to be in order are not kept.
    ///
    /// # Errors
    /// When there was no room any more, so that some were lost.
    pub fn forget(&self, mut known: impl FnMut(&Packet) -> bool) -> anyhow::Result<()> {
        let mut packets = self.packets.lock().expect("sniffer lock");
        anyhow::ensure!(packets.len() < MAX_PACKETS, "packets were lost");
        packets.retain(|packet| !known(packet));
        Ok(())
    }

    /// Packets that the kernel or this fixture had no room for since the last call. A
    /// test that says "none arrived" must also see 0 here.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn lost(&self) -> anyhow::Result<usize> {
        // struct tpacket_stats: packets, drops.
        let mut stats = [0u32; 2];
        let mut length = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the pointer and the length describe `stats`.
        let code = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if code != 0 {
            return Err(std::io::Error::last_os_error()).context("PACKET_STATISTICS");
        }
        let held = self.packets.lock().expect("sniffer lock").len();
        Ok(stats[1] as usize + usize::from(held >= MAX_PACKETS))
    }
}

fn open_packet_socket() -> anyhow::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain system call.
    let raw = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            // Protocol 0: nothing is received before the bind below names an interface.
            0,
        )
    };
    if raw < 0 {
        return Err(std::io::Error::last_os_error()).context("socket(AF_PACKET)");
    }
    // SAFETY: `raw` is a descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::RcvBufForce,
        &(256 << 20),
    )
    .context("SO_RCVBUFFORCE")?;
    // SAFETY: all bytes zero is a value of sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex =
        nix::net::if_::if_nametoindex("eth0").context("no eth0 in the namespace")? as i32;
    // SAFETY: the pointer and the length describe `address`.
    let code = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if code != 0 {
        return Err(std::io::Error::last_os_error()).context("bind the packet socket");
    }
    Ok(socket)
}

fn capture(stop: &Stop, socket: &OwnedFd, packets: &Mutex<Vec<Packet>>) {
    let mut frame = vec![0u8; MAX_FRAME];
    while stop.readable(&[socket.as_fd()]).is_some() {
        while let Some((length, outgoing)) = receive(socket, &mut frame) {
            if outgoing {
                continue;
            }
            let mut packets = packets.lock().expect("sniffer lock");
            if packets.len() < MAX_PACKETS {
                packets.push(Packet::parse(&frame[..length]));
            }
        }
    }
}

/// One frame: its length, and whether the internet side sent it.
fn receive(socket: &OwnedFd, frame: &mut [u8]) -> Option<(usize, bool)> {
    // SAFETY: all bytes zero is a value of sockaddr_ll.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&from) as libc::socklen_t;
    // SAFETY: the pointers and lengths describe `frame` and `from`.
    let got = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            0,
            (&raw mut from).cast(),
            &mut length,
        )
    };
    let got = usize::try_from(got).ok()?;
    Some((got, from.sll_pkttype == libc::PACKET_OUTGOING))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: u16, ip: &[u8]) -> Vec<u8> {
        let mut frame = vec![0u8; 12];
        frame.extend(ether_type.to_be_bytes());
        frame.extend(ip);
        frame
    }

    #[test]
    fn a_later_v4_fragment_has_addresses_but_no_ports() {
        let mut ip = vec![
            0x45, 0, 0, 28, 0, 0, 0, 1, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        ip.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        let packet = Packet::parse(&frame(0x0800, &ip));
        assert!(packet.is_to("10.0.0.2".parse().expect("address")));
        assert_eq!((packet.protocol, packet.ports), (17, None));
        ip[7] = 0;
        assert_eq!(Packet::parse(&frame(0x0800, &ip)).ports, Some((7, 9)));
    }

    #[test]
    fn ports_are_found_behind_a_v6_routing_header() {
        let mut ip = vec![0x60, 0, 0, 0, 0, 32, 43, 64];
        ip.extend([0x20; 16]);
        ip.extend([0x30; 16]);
        ip.extend([17, 2, 4, 0, 0, 0, 0, 0]);
        ip.extend([0x40; 16]);
        ip.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        let packet = Packet::parse(&frame(0x86dd, &ip));
        assert_eq!((packet.protocol, packet.ports), (17, Some((7, 9))));
    }

    #[test]
    fn a_truncated_frame_still_counts() {
        for length in 0..20 {
            let packet = Packet::parse(&vec![0x08; length]);
            assert_eq!(packet.frame.len(), length);
        }
    }
}
