//! Packets built by hand.

use std::net::Ipv4Addr;

/// Source address in hand-made packets.
pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// The only neighbour.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A UDP header and its payload; the checksum is left out, as IPv4 allows.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(40_000u16.to_be_bytes());
    out.extend(port.to_be_bytes());
    out.extend((8 + payload.len() as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

/// An IPv4 packet.
pub(crate) fn ipv4(source: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x45, 0];
    out.extend((20 + body.len() as u16).to_be_bytes());
    out.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
    out.extend(source.octets());
    out.extend(to.octets());
    let sum = checksum(&out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(body);
    out
}

/// An ICMP or ICMPv6 echo request; `kind` is 8 or 128. For ICMPv6 the kernel fills the
/// checksum.
pub(crate) fn echo(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0x77, 0x77, 0, 1];
    out.extend(payload);
    let sum = checksum(&out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    out
}
