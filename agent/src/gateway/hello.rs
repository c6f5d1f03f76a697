//! Reading a ClientHello.
//!
//! rustls reads it: it refuses two server names, the same extension twice, lengths that do
//! not add up, and messages that follow the hello in its last record. What rustls does not
//! tell is which extensions there were, so those are listed from the same bytes after it has
//! accepted them.

use std::sync::Arc;

use rustls::server::{Accepted, Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InvalidMessage, ServerConfig};

use super::Outcome;
use super::name::{Host, shown};
use super::session::Ended;
use crate::leases::Name;

/// The longest ClientHello. Those with post-quantum key shares have two thousand bytes;
/// servers take 16 KiB of one handshake message.
pub(super) const MAX_HELLO: usize = 16 * 1024;

/// The most records that one comes in: clients use one, and those that split it to be
/// unreadable on the way use two or three.
const MAX_RECORDS: usize = 64;

/// The most bytes that are buffered until a hello is whole.
pub(super) const MAX_BYTES: usize = MAX_HELLO + MAX_RECORDS * HEADER;

/// Bytes of a record's header.
pub(super) const HEADER: usize = 5;

/// The most bytes of a record before encryption (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// The most protocols that are recorded.
const MAX_ALPN: usize = 16;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// The first byte of a ClientHello in its message.
pub(super) const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const EARLY_DATA: u16 = 42;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Its forerunner, encrypted SNI: an extension that hides a name just as well.
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

/// A ClientHello that was read whole.
pub(super) struct Hello {
    /// The one server name.
    pub(super) name: Result<Name, Ended>,
    /// Protocols that are offered, as bytes.
    pub(super) alpn: Vec<Vec<u8>>,
    /// Whether it carries an encrypted name.
    pub(super) ech: bool,
    /// Whether it offers early data (0-RTT).
    pub(super) early: bool,
    /// How many bytes of the stream it took.
    pub(super) length: usize,
    accepted: Accepted,
}

impl Hello {
    /// The protocols, as they are recorded.
    pub(super) fn shown_alpn(&self) -> Vec<String> {
        self.alpn
            .iter()
            .take(MAX_ALPN)
            .map(|it| shown(it))
            .collect()
    }

    /// The hello, to answer it.
    pub(super) fn accepted(self) -> Accepted {
        self.accepted
    }

    /// The alert that tells the program at once, in the words of TLS, that it may not.
    pub(super) fn refusal(self, config: &Arc<ServerConfig>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err((_, mut alert)) = self.accepted.into_connection(Arc::clone(config)) {
            // Writing to memory does not fail.
            let _ = alert.write_all(&mut bytes);
        }
        bytes
    }
}

/// A hello that cannot be read, and what to tell the program.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) ended: Ended,
    pub(super) alert: Vec<u8>,
}

/// The settings of a server that has no certificate for anybody: rustls tells the program
/// "access denied" for it.
pub(super) fn refusing() -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// A ClientHello as far as it has come.
#[derive(Default)]
pub(super) struct Reader {
    acceptor: Acceptor,
    /// Bytes of the stream that were read.
    read: usize,
    records: usize,
    /// The handshake message, without the records' headers.
    message: Vec<u8>,
}

impl Reader {
    /// Reads on in the bytes of the stream from its beginning, record by record, so that
    /// nothing after the hello is taken for a part of it.
    pub(super) fn read(&mut self, stream: &[u8]) -> Result<Option<Hello>, Bad> {
        while let Some(record) = next_record(&stream[self.read..])? {
            let body = &record[HEADER..];
            self.records += 1;
            self.message.extend_from_slice(body);
            if self.records > MAX_RECORDS || announced(&self.message) > MAX_HELLO {
                return Err(bad(Outcome::Oversize, "the ClientHello is too long"));
            }
            let mut rest = record;
            while !rest.is_empty() {
                // Nothing read of something offered: its buffer is full.
                match self.acceptor.read_tls(&mut rest) {
                    Ok(0) | Err(_) => {
                        return Err(bad(Outcome::Oversize, "the ClientHello is too long"));
                    }
                    Ok(_) => {}
                }
            }
            self.read += record.len();
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return self.whole(accepted).map(Some),
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    // Writing to memory does not fail.
                    let _ = alert.write_all(&mut bytes);
                    let outcome = match error {
                        rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
                            Outcome::Oversize
                        }
                        _ => Outcome::Malformed,
                    };
                    return Err(Bad {
                        ended: Ended::new(outcome).because(error),
                        alert: bytes,
                    });
                }
            }
        }
        match stream.len() > MAX_BYTES {
            true => Err(bad(Outcome::Oversize, "the ClientHello is too long")),
            false => Ok(None),
        }
    }

    fn whole(&self, accepted: Accepted) -> Result<Hello, Bad> {
        let extensions = extensions(&self.message)
            .ok_or_else(|| bad(Outcome::Malformed, "its extensions do not add up"))?;
        let has = |number| extensions.contains(&number);
        let hello = accepted.client_hello();
        let name = match hello.server_name() {
            Some(name) => match Host::read(name) {
                Some(Host::Name(name)) => Ok(name),
                Some(Host::Addr(_)) => Err(Ended::new(Outcome::IpLiteral)),
                None => Err(Ended::new(Outcome::BadName).because(shown(name.as_bytes()))),
            },
            // rustls reads an address there, and nothing else, as no name.
            None if has(SERVER_NAME) => Err(Ended::new(Outcome::IpLiteral)),
            None => Err(Ended::new(Outcome::NoSni)),
        };
        let alpn = hello.alpn().into_iter().flatten();
        Ok(Hello {
            name,
            alpn: alpn.map(<[u8]>::to_vec).collect(),
            ech: has(ENCRYPTED_CLIENT_HELLO) || has(ENCRYPTED_SERVER_NAME),
            early: has(EARLY_DATA),
            length: self.read,
            accepted,
        })
    }
}

fn bad(outcome: Outcome, why: &str) -> Bad {
    Bad {
        ended: Ended::new(outcome).because(why),
        alert: Vec::new(),
    }
}

/// The first record, when all of it is there.
fn next_record(stream: &[u8]) -> Result<Option<&[u8]>, Bad> {
    let Some(&kind) = stream.first() else {
        return Ok(None);
    };
    // The version of a record says nothing, but its first byte has been 3 for ever.
    if kind != HANDSHAKE || stream.get(1).is_some_and(|&major| major != 3) {
        return Err(bad(Outcome::NotTls, "this is no TLS handshake"));
    }
    let Some(length) = record_length(stream) else {
        return Ok(None);
    };
    if length == 0 || length > MAX_RECORD {
        return Err(bad(Outcome::Malformed, "a record of impossible length"));
    }
    Ok(stream.get(..HEADER + length))
}

/// The length that a record's header tells, without the header.
pub(super) fn record_length(stream: &[u8]) -> Option<usize> {
    let &[high, low] = stream.get(3..HEADER)? else {
        return None;
    };
    Some(usize::from(u16::from_be_bytes([high, low])))
}

/// The length of a handshake message with its header, as far as it is known.
fn announced(message: &[u8]) -> usize {
    match message {
        [_, a, b, c, ..] => u32::from_be_bytes([0, *a, *b, *c]) as usize + 4,
        _ => message.len(),
    }
}

/// The numbers of the extensions of a ClientHello.
fn extensions(message: &[u8]) -> Option<Vec<u16>> {
    let mut rest = message;
    let mut take = |len: usize| {
        let (taken, left) = rest.split_at_checked(len)?;
        rest = left;
        Some(taken)
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &b| sum << 8 | usize::from(b));
    // Type and length, version, random; then session, ciphers, compressions.
    take(4 + 2 + 32)?;
    for prefix in [1, 2, 1] {
        let len = number(take(prefix)?);
        take(len)?;
    }
    let mut found = Vec::new();
    let mut left = match take(2) {
        Some(len) => number(len),
        None => return Some(found),
    };
    while left > 0 {
        let id = take(2)?;
        found.push(u16::from_be_bytes([id[0], id[1]]));
        let len = number(take(2)?);
        take(len)?;
        left = left.checked_sub(4 + len)?;
    }
    take(1).is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hello_bytes, in_records};
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// Name, length and outcome of what is read of a stream that comes in pieces.
    fn read(stream: &[u8], pieces: &mut dyn Iterator<Item = usize>) -> Option<(String, usize)> {
        let mut reader = Reader::default();
        let mut end = 0;
        while end < stream.len() {
            end = (end + pieces.next().expect("endless")).min(stream.len());
            match reader.read(&stream[..end]) {
                Ok(Some(hello)) => {
                    let name = match &hello.name {
                        Ok(name) => name.to_string(),
                        Err(ended) => ended.outcome.as_str().to_owned(),
                    };
                    return Some((name, hello.length));
                }
                Ok(None) => {}
                Err(bad) => return Some((bad.ended.outcome.as_str().to_owned(), 0)),
            }
        }
        None
    }

    #[test]
    fn however_it_is_split_it_is_read_the_same_and_never_beyond_its_end() {
        let hello = hello_bytes("a.example");
        let good = Some(("a.example".to_owned(), hello.len()));
        assert_eq!(read(&hello, &mut std::iter::repeat(1)), good);
        let followed = [&hello[..], &hello_bytes("evil.example")].concat();
        assert_eq!(read(&followed, &mut std::iter::repeat(7)), good);
        assert_eq!(read(&followed, &mut std::iter::once(followed.len())), good);
        for size in [20, 100, 1000] {
            let split = in_records(&hello, size);
            let good = Some(("a.example".to_owned(), split.len()));
            assert_eq!(read(&split, &mut std::iter::repeat(3)), good);
        }
    }

    #[test]
    fn ten_thousand_spoilt_hellos_show_no_other_name_and_break_nothing() {
        let mut random = StdRng::seed_from_u64(5);
        let hello = hello_bytes("a.example");
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            let mut spoilt = match random.random_range(0..4) {
                0 => in_records(&hello, random.random_range(10..200)),
                _ => hello.clone(),
            };
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..spoilt.len());
                match random.random_range(0..3) {
                    0 => spoilt[at] = random.random(),
                    1 => spoilt.insert(at, random.random()),
                    _ => drop(spoilt.remove(at)),
                }
            }
            let whole = read(&spoilt, &mut std::iter::once(spoilt.len()));
            let mut pieces = std::iter::from_fn(|| Some(random.random_range(1..300)));
            assert_eq!(read(&spoilt, &mut pieces), whole, "{spoilt:?}");
            if let Some((name, length)) = whole {
                assert!(length <= spoilt.len());
                names.insert(name);
            }
        }
        // It finds its way into the reader, and the reader finds what is wrong.
        for expected in ["a.example", "malformed", "not_tls", "no_sni"] {
            assert!(names.contains(expected), "{names:?}");
        }
    }
}
