//! Answers of the DNS, as they come in: which name an address was.
//!
//! A packet socket of this network namespace, which needs CAP_NET_RAW. Only answers of the
//! machine's own servers count: what a program sends itself from another place names nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RData;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

/// A name and the addresses that an answer has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The name that was asked for.
    pub name: String,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// The socket.
#[derive(Debug)]
pub struct Wire {
    fd: OwnedFd,
    servers: BTreeSet<IpAddr>,
    buffer: Vec<u8>,
}

impl Wire {
    /// Listens from now on to answers of these servers.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open(servers: BTreeSet<IpAddr>) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        // Room for what comes while nobody reads: bounded by the kernel's own limit.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &(4 << 20));
        Ok(Self {
            fd,
            servers,
            buffer: vec![0; 65_536],
        })
    }

    /// The next answer that has come within this time.
    pub fn next(&mut self, patience: Duration) -> Option<Told> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let until = std::time::Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let ready = poll(
                &mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)],
                timeout,
            );
            if !matches!(ready, Ok(1..)) {
                return None;
            }
            let flags = MsgFlags::MSG_DONTWAIT;
            let Ok(length) = recv(self.fd.as_raw_fd(), &mut self.buffer, flags) else {
                continue;
            };
            if let Some(told) = read(&self.buffer[..length], &self.servers) {
                return Some(told);
            }
        }
    }
}

/// The servers of `/etc/resolv.conf`.
pub fn system_servers() -> BTreeSet<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    servers_in(&text)
}

fn servers_in(text: &str) -> BTreeSet<IpAddr> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let address = |rest: &str| rest.trim().split('%').next()?.parse::<IpAddr>().ok();
    lines.filter_map(address).collect()
}

/// An IP packet that is an answer of one of the servers over UDP.
fn read(packet: &[u8], servers: &BTreeSet<IpAddr>) -> Option<Told> {
    let (source, body) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let whole = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff == 0;
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let udp = *packet.get(9)? == 17 && whole;
            (
                IpAddr::from(Ipv4Addr::from(source)),
                udp.then(|| packet.get(header..))??,
            )
        }
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let udp = *packet.get(6)? == 17;
            (
                IpAddr::from(Ipv6Addr::from(source)),
                udp.then(|| packet.get(40..))??,
            )
        }
        _ => return None,
    };
    let port = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
    if port != 53 || !servers.contains(&source.to_canonical()) {
        return None;
    }
    let message = Message::from_vec(body.get(8..)?).ok()?;
    let about = &message.metadata;
    if about.message_type != MessageType::Response || about.response_code != ResponseCode::NoError {
        return None;
    }
    let asked = message.queries.first()?.name().to_ascii();
    let addresses = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::from(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0)),
            _ => None,
        });
    Some(Told {
        name: asked.trim_end_matches('.').to_ascii_lowercase(),
        addresses: addresses.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::{Name, Record, RecordType, rdata};

    fn packet(source: [u8; 4], port: u16, answer: bool) -> Vec<u8> {
        let name = Name::from_ascii("API.example.com.").expect("name");
        let kind = if answer {
            MessageType::Response
        } else {
            MessageType::Query
        };
        let mut message = Message::new(7, kind, OpCode::Query);
        message.add_query(Query::query(name, RecordType::A));
        // The alias' target is whose address it is; the name is what was asked.
        let target = Name::from_ascii("edge.cdn.example.").expect("name");
        message.add_answer(Record::from_rdata(
            target,
            5,
            RData::A(rdata::A::new(192, 0, 2, 7)),
        ));
        let message = message.to_vec().expect("message");
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source);
        packet.extend([10, 0, 0, 1]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 99, 0, 0, 0, 0]);
        packet.extend(message);
        packet
    }

    #[test]
    fn answers_of_the_own_servers_count_and_nothing_else() {
        let servers = servers_in("# x\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch a\n");
        assert_eq!(servers.len(), 2);
        let told = read(&packet([192, 0, 2, 53], 53, true), &servers).expect("an answer");
        assert_eq!(told.name, "api.example.com");
        assert_eq!(
            told.addresses,
            ["192.0.2.7".parse::<IpAddr>().expect("address")]
        );
        for other in [
            packet([192, 0, 2, 54], 53, true),
            packet([192, 0, 2, 53], 5353, true),
            packet([192, 0, 2, 53], 53, false),
        ] {
            assert_eq!(read(&other, &servers), None);
        }
        let whole = packet([192, 0, 2, 53], 53, true);
        for length in 0..whole.len() {
            let _ = read(&whole[..length], &servers);
        }
    }
}
