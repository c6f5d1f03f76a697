//! The server behind everyone: it has an address for every name, at once. Its messages are
//! made by hand, so that what is measured is not its own work.

use anyhow::Context;
use exeat_tests::ns::Ns;
use exeat_tests::service::{Service, Stop};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

const HEADER: usize = 12;
const A: [u8; 2] = [0, 1];
/// Seconds: longer than any run.
const TTL: u32 = 3600;
/// An EDNS record without options that takes 1232 bytes.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// Serves UDP at `address` until it is dropped.
pub(super) fn start(ns: &Ns, address: SocketAddr) -> anyhow::Result<Service> {
    let socket = ns
        .run(|| Ok(UdpSocket::bind(address)?))
        .with_context(|| format!("bind udp {address}"))?;
    socket.set_nonblocking(true)?;
    Service::spawn("authority", move |stop| serve(&stop, &socket))
}

fn serve(stop: &Stop, socket: &UdpSocket) {
    let mut buffer = [0; 1024];
    let mut reply = Vec::with_capacity(1024);
    while stop.readable(&[socket.as_fd()]).is_some() {
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            reply.clear();
            if answer(&buffer[..length], &mut reply).is_some() {
                // Who asks is told of a loss by its own time-out.
                let _ = socket.send_to(&reply, from);
            }
        }
    }
}

/// `None` for what is no query with one question.
fn answer(query: &[u8], reply: &mut Vec<u8>) -> Option<()> {
    let head = query.get(..HEADER)?;
    if head[2] & 0x80 != 0 || head[4..6] != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        let length = usize::from(*query.get(end)?);
        end += 1 + length;
        if length == 0 {
            break;
        }
    }
    let name = &query[HEADER..end];
    let question = query.get(HEADER..end + 4)?;
    let is_a = question[question.len() - 4..][..2] == A;
    let edns = u8::from(head[10..12] != [0, 0]);
    reply.extend_from_slice(&head[..2]);
    // An answer, with authority, recursion available.
    reply.extend_from_slice(&[0x84 | head[2] & 1, 0x80]);
    reply.extend_from_slice(&[0, 1, 0, u8::from(is_a), 0, 0, 0, edns]);
    reply.extend_from_slice(question);
    if is_a {
        reply.extend_from_slice(&[0xc0, HEADER as u8, 0, 1, 0, 1]);
        reply.extend_from_slice(&TTL.to_be_bytes());
        reply.extend_from_slice(&[0, 4]);
        reply.extend_from_slice(&address(name));
    }
    if edns == 1 {
        reply.extend_from_slice(&OPT);
    }
    Some(())
}

/// One of sixteen million public addresses, the same for a name whatever its case.
fn address(name: &[u8]) -> [u8; 4] {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    });
    let [_, b, c, d] = (hash ^ hash >> 24).to_be_bytes();
    [20, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::super::client;
    use super::*;
    use hickory_proto::op::Message;
    use hickory_proto::rr::RData;

    #[test]
    fn it_answers_what_the_client_asks() {
        let mut seen = Vec::new();
        for name in ["n1.wild.bench.example", "N2.wild.bench.example"] {
            let query = client::query(7, name);
            let mut reply = Vec::new();
            answer(&query, &mut reply).expect("a reply");
            let reply = Message::from_vec(&reply).expect("a message");
            assert_eq!(reply.metadata.id, 7);
            let [record] = reply.answers.as_slice() else {
                panic!("{reply:?}");
            };
            assert_eq!(record.name.to_string(), format!("{name}."));
            let RData::A(a) = record.data else {
                panic!("{record:?}");
            };
            seen.push(a.0);
        }
        assert_ne!(seen[0], seen[1]);
        assert_eq!(answer(&[0; 5], &mut Vec::new()), None);
        let mut query = client::query(7, "a.example");
        query[2] |= 0x80;
        assert_eq!(answer(&query, &mut Vec::new()), None);
    }
}
