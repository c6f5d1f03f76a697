//! Whole flights of clients, as rustls sends them to a server of its own, and mutants of them:
//! what the connection is held to be for here is what the server goes on with.

use std::sync::{Arc, OnceLock};

use agent_common::hello::Said;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, SupportedProtocolVersion,
};

use super::client::{Heard, record};
use super::mutants::{Random, mutant};
use super::parts::Parts;
use super::reference::hex;

const NAMES: [&str; 3] = ["api.example.com", "evil.example.net", "a.b"];

/// A key of Ed25519 (RFC 8410 section 7): any 32 bytes are one.
const KEY: [u8; 48] = {
    let head = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    let mut key = [7; 48];
    let mut at = 0;
    while at < head.len() {
        key[at] = head[at];
        at += 1;
    }
    key
};

/// Whom a server may have to be, and who does not mind.
#[derive(Debug)]
struct Anyone(Arc<CertifiedKey>);

impl ResolvesServerCert for Anyone {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn anyone() -> Arc<Anyone> {
    static KNOWN: OnceLock<Arc<Anyone>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let key = PrivatePkcs8KeyDer::from(KEY.to_vec()).into();
        let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
        let certificate = CertificateDer::from(vec![0x30, 0]);
        Arc::new(Anyone(Arc::new(CertifiedKey::new(vec![certificate], key))))
    });
    known.clone()
}

/// A server; one that retries has no group in common with what clients offer at first.
fn server(retries: bool) -> ServerConnection {
    static KNOWN: OnceLock<[Arc<ServerConfig>; 2]> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        [false, true].map(|retries| {
            let mut provider = rustls::crypto::ring::default_provider();
            if retries {
                provider.kx_groups = vec![rustls::crypto::ring::kx_group::SECP384R1];
            }
            let config = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_cert_resolver(anyone());
            Arc::new(config)
        })
    });
    ServerConnection::new(known[usize::from(retries)].clone()).expect("a server")
}

fn client(name: &'static str, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(anyone())
        .with_no_client_auth();
    let name = name.try_into().expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// The records of a stream; what is no record is the last.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (one, rest) = bytes.split_at(5 + length.min(rest.len()));
        all.push(one.to_vec());
        bytes = rest;
    }
    if !bytes.is_empty() {
        all.push(bytes.to_vec());
    }
    all
}

fn is_hello(record: &[u8]) -> bool {
    matches!(record, [22, _, _, _, _, 1, ..])
}

/// All that a client says to a server, a piece for each time that it speaks.
fn converse(mut client: ClientConnection, mut server: ServerConnection) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    let mut sent = false;
    loop {
        let mut piece = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut piece).expect("client");
        }
        if piece.is_empty() {
            return said;
        }
        server.read_tls(&mut piece.as_slice()).expect("server");
        server.process_new_packets().expect("server");
        said.push(piece);
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).expect("server");
        }
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("client");
        }
        client.process_new_packets().expect("client");
        if !client.is_handshaking() && !sent {
            use std::io::Write;
            client.writer().write_all(b"secret").expect("write");
            sent = true;
        }
    }
}

struct Flight {
    retries: bool,
    name: &'static str,
    pieces: Vec<Vec<u8>>,
}

fn flights() -> Vec<Flight> {
    let mut all = Vec::new();
    let (old, new): (&[_], &[_]) = (&[&rustls::version::TLS12], &[&rustls::version::TLS13]);
    for versions in [old, new, rustls::ALL_VERSIONS] {
        for retries in [false, true] {
            for name in NAMES {
                all.push(Flight {
                    retries,
                    name,
                    pieces: converse(client(name, versions), server(retries)),
                });
            }
        }
    }
    all
}

#[test]
fn what_rustls_says_settles() {
    let mut second = 0;
    for flight in flights() {
        let mut heard = Heard::new();
        let all = flight.pieces.iter().flat_map(|piece| records(piece));
        second += usize::from(all.filter(|one| is_hello(one)).count() > 1);
        let (last, before) = flight.pieces.split_last().expect("pieces");
        for piece in before {
            assert!(!matches!(heard.hear(piece), Said::Refused(_)));
            assert_eq!(heard.name(), Some(flight.name));
        }
        assert_eq!(heard.hear(last), Said::Settled);
        assert_eq!(heard.name(), Some(flight.name));
        // And cut everywhere but in the head of a second hello.
        for (at, piece) in flight.pieces.iter().enumerate() {
            let allowed = (0..piece.len()).filter(|cut| {
                let mut begin = 0;
                !records(piece).iter().any(|r| {
                    let in_head = (begin + 1..begin + 6).contains(cut);
                    begin += r.len();
                    at > 0 && in_head && is_hello(r)
                })
            });
            for cut in allowed {
                let mut heard = Heard::new();
                for (n, piece) in flight.pieces.iter().enumerate() {
                    if n == at {
                        heard.hear(&piece[..cut]);
                        heard.hear(&piece[cut..]);
                    } else {
                        heard.hear(piece);
                    }
                }
                assert_eq!(heard.said, Said::Settled, "cut at {cut} of piece {at}");
                assert_eq!(heard.name(), Some(flight.name));
            }
        }
    }
    // Every TLS 1.3 client was told to retry once for each name.
    assert_eq!(second, 2 * NAMES.len());
}

/// A mutant of a flight: hellos changed or another's, records in between, behind, twice, away.
fn mutate(random: &mut Random, flights: &[Flight]) -> (bool, Vec<Vec<u8>>) {
    let flight = random.pick(flights);
    let of = |flight: &Flight| -> Vec<Vec<u8>> {
        flight.pieces.iter().flat_map(|p| records(p)).collect()
    };
    let originals = of(flight);
    let mut all = originals.clone();
    for _ in 0..1 + random.below(3) {
        let at = random.below(all.len());
        match random.below(11) {
            0 | 1 => {
                // A hello of its own kind, so that a server may go on with it.
                if is_hello(&all[at]) && originals.contains(&all[at]) {
                    all[at] = mutant(random, &[Parts::of(&all[at])]);
                }
            }
            2 => {
                let other = of(random.pick(flights));
                all[at] = random.pick(&other).clone();
            }
            3 => {
                let other = of(random.pick(flights));
                let new = random.pick(&other).clone();
                all.insert(at, new);
            }
            4 => {
                let other = Parts::of(&random.pick(flights).pieces[0]);
                all.insert(at, mutant(random, &[other]));
            }
            5 => all.insert(at, record(20, &[1])),
            6 => all.insert(at, record(21, &[1, 90])),
            7 => {
                let (kind, length) = (*random.pick(&[20, 21, 22, 23, 24]), random.below(40));
                let body = random.bytes(length);
                all.insert(at, record(kind, &body));
            }
            8 => {
                let other = random.below(all.len());
                all.swap(at, other);
            }
            9 if all.len() > 1 => {
                all.remove(at);
            }
            _ => {
                // A record as two.
                let one = all[at].clone();
                if one.len() > 7 && one[0] == 22 {
                    let cut = 6 + random.below(one.len() - 6);
                    all[at] = record(22, &one[5..cut]);
                    all.insert(at + 1, record(22, &one[cut..]));
                }
            }
        }
    }
    (flight.retries, all)
}

/// How often what happened.
#[derive(Default, Debug)]
struct Tally {
    settled: usize,
    settled_by_second: usize,
    refused: usize,
    open: usize,
}

/// One mutant, heard in pieces by the reader and as records by a server.
fn step(random: &mut Random, flights: &[Flight], tally: &mut Tally) {
    let (retries, all) = mutate(random, flights);
    let mut server = server(retries);
    let mut heard = Heard::new();
    let mut failed = false;
    let mut hellos = 0;
    for one in &all {
        // The server has it only if all of it was let go.
        let mut refused = false;
        let was_settled = heard.client.is_settled();
        let ends = match random.chance(50) {
            true => vec![one.len()],
            false => random.cuts(one.len()),
        };
        let mut begin = 0;
        for end in ends {
            let before = heard.client;
            let said = heard.hear(&one[begin..end]);
            if before.is_settled() {
                assert_eq!((said, heard.client), (Said::Settled, before));
            }
            if before.fault().is_some() {
                assert_eq!(heard.client.fault(), before.fault());
            }
            refused |= matches!(said, Said::Refused(_));
            begin = end;
        }
        if refused {
            tally.refused += 1;
            return;
        }
        if !failed {
            let mut rest = one.as_slice();
            while !rest.is_empty() && !failed {
                failed = server.read_tls(&mut rest).is_err();
                failed |= server.process_new_packets().is_err();
            }
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer).expect("server");
            }
        }
        hellos += usize::from(!was_settled && is_hello(one));
        // It goes on with a name: that is the one that was heard, while there is one.
        if let (false, Some(theirs)) = (failed, server.server_name()) {
            let ours = heard.name();
            assert!(
                ours == Some(theirs) || heard.said == Said::More,
                "{ours:?} here, {theirs:?} there, {:?}: {:#?}",
                heard.said,
                all.iter().map(|one| hex(one)).collect::<Vec<_>>()
            );
        }
        if heard.said == Said::Settled && !failed {
            assert!(heard.name().is_some());
        }
    }
    match heard.said {
        Said::Settled if hellos > 1 => tally.settled_by_second += 1,
        Said::Settled => tally.settled += 1,
        Said::Name | Said::More => tally.open += 1,
        Said::Refused(_) => unreachable!("told above"),
    }
}

#[test]
fn ten_thousand_mutants_are_for_whom_rustls_goes_on_with() {
    let (mut random, flights, mut tally) = (Random(5), flights(), Tally::default());
    for _ in 0..10_000 {
        step(&mut random, &flights, &mut tally);
    }
    println!("{tally:#?}");
    assert!(tally.settled > 1_000, "{tally:#?}");
    assert!(tally.settled_by_second > 300, "{tally:#?}");
    assert!(tally.refused > 1_000, "{tally:#?}");
}
