//! What a client sends until its name is certain: a hello, perhaps a second one, and what is
//! between and behind them.

use agent_common::hello::{Client, EARLY_DATA, Fault, Said};
use proptest::prelude::*;

use super::parts::{Parts, host, in_records};

const GOOD: &str = "api.example.com";
const OTHER: &str = "other.example.com";

/// As in `client.rs`: bytes of early data after which no second hello is waited for.
const MAX_EARLY: usize = 1 << 20;

/// The same: records in a piece.
const RECORDS: usize = 16;

pub(crate) fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a record");
    let mut bytes = vec![kind, 3, 3];
    bytes.extend(length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn hello(name: &str) -> Vec<u8> {
    Parts::named(name).bytes()
}

fn early(name: &str) -> Vec<u8> {
    let mut parts = Parts::named(name);
    parts.extensions().push((42, Vec::new()));
    parts.bytes()
}

fn nameless() -> Vec<u8> {
    Parts::new(super::parts::plain()).bytes()
}

fn change_cipher() -> Vec<u8> {
    record(20, &[1])
}

fn data(length: usize) -> Vec<u8> {
    record(23, &vec![0xaa; length])
}

/// A warning, in the clear.
fn alert() -> Vec<u8> {
    record(21, &[1, 90])
}

/// A ClientKeyExchange of TLS 1.2.
fn key_exchange() -> Vec<u8> {
    let mut body = vec![16, 0, 0, 33, 32];
    body.extend([7; 32]);
    record(22, &body)
}

/// A client, and what it has said so far.
pub(crate) struct Heard {
    pub(crate) client: Client,
    pub(crate) said: Said,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self {
            client: Client::new(),
            said: Said::More,
        }
    }

    /// The next piece, which does not begin where its buffer does.
    pub(crate) fn hear(&mut self, piece: &[u8]) -> Said {
        let mut bytes = b"xyz".to_vec();
        bytes.extend_from_slice(piece);
        self.said = self.client.read(&bytes[..], 3, bytes.len() as u32);
        self.said
    }

    pub(crate) fn name(&self) -> Option<&str> {
        if !self.client.is_named() {
            return None;
        }
        let bytes = self.client.name_bytes();
        let end = bytes.iter().position(|byte| *byte == 0).expect("an end");
        assert!(bytes[end..].iter().all(|byte| *byte == 0));
        Some(std::str::from_utf8(&bytes[..end]).expect("a host name"))
    }

    /// It is settled, on this name, and nothing changes that.
    fn is(&mut self, name: &str) {
        assert_eq!(self.said, Said::Settled);
        assert!(self.client.is_settled());
        assert_eq!(self.name(), Some(name));
        let before = self.client;
        assert_eq!(self.hear(&hello("late.example")), Said::Settled);
        assert_eq!(self.client, before);
    }
}

/// What becomes of pieces, each a packet of its own.
fn heard<P: AsRef<[u8]>>(pieces: &[P]) -> Heard {
    let mut heard = Heard::new();
    for piece in pieces {
        heard.hear(piece.as_ref());
    }
    heard
}

/// Refused for this, and nothing that follows is anything else.
fn refused<P: AsRef<[u8]>>(pieces: &[P], fault: Fault) {
    let mut heard = heard(pieces);
    assert_eq!(heard.said, Said::Refused(fault));
    for later in [
        change_cipher(),
        data(40),
        key_exchange(),
        hello(GOOD),
        Vec::new(),
        vec![0; 300],
        data(40),
    ] {
        assert_eq!(heard.hear(&later), Said::Refused(fault), "{later:?}");
        assert!(!heard.client.is_settled());
    }
}

fn all(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn application_data_settles_tls_1_3() {
    let mut client = Heard::new();
    assert_eq!(client.hear(&hello(GOOD)), Said::Name);
    assert_eq!(client.name(), Some(GOOD));
    assert!(!client.client.is_settled());
    assert_eq!(client.hear(&change_cipher()), Said::Name);
    assert_eq!(client.hear(&data(58)), Said::Settled);
    client.is(GOOD);
    heard(&[hello(GOOD), all(&[change_cipher(), data(58)])]).is(GOOD);
    heard(&[all(&[hello(GOOD), change_cipher(), data(58)])]).is(GOOD);
    heard(&[hello(GOOD), data(1)]).is(GOOD);
}

#[test]
fn a_key_exchange_settles_tls_1_2() {
    heard(&[hello(GOOD), key_exchange()]).is(GOOD);
    let second = all(&[key_exchange(), change_cipher(), record(22, &[9; 40])]);
    heard(&[hello(GOOD), second]).is(GOOD);
    // A client with a certificate sends that first.
    heard(&[hello(GOOD), record(22, &[11, 0, 0, 3, 0, 0, 0])]).is(GOOD);
}

/// What an encrypted message begins with is chance, or a number that begins at any: one of
/// 256 looks like a ClientHello.
#[test]
fn a_resumed_tls_1_2_goes_on_with_an_encrypted_message() {
    let old = {
        let mut parts = Parts::named(GOOD);
        parts.extensions().retain(|(kind, _)| *kind != 43);
        parts.bytes()
    };
    for first in 0..=255 {
        for second in [0, 3, 4, 0x10, 255] {
            let mut finished = vec![0x5f; 40];
            (finished[0], finished[1]) = (first, second);
            let pieces = |hello: &[u8]| [hello.to_vec(), change_cipher(), record(22, &finished)];
            // Nobody asks for a second hello of a client that does not offer TLS 1.3.
            heard(&pieces(&old)).is(GOOD);
            // No server takes a hello of 256 KiB or more.
            match (first, second) {
                (1, 0..4) => refused(&pieces(&hello(GOOD)), Fault::Split),
                _ => heard(&pieces(&hello(GOOD))).is(GOOD),
            }
        }
    }
    // In the clear it is what it says.
    refused(&[old, record(22, &[1, 0x5f, 0, 0, 3, 3])], Fault::Split);
    refused(
        &[hello(GOOD), record(22, &[1, 0x5f, 0, 0, 3, 3])],
        Fault::Split,
    );
}

#[test]
fn a_second_hello_counts_as_much_as_the_first() {
    for between in [vec![], change_cipher()] {
        let second = |hello: Vec<u8>| all(&[between.clone(), hello]);
        heard(&[hello(GOOD), second(hello(GOOD))]).is(GOOD);
        // Which of them are allowed, the caller judges.
        heard(&[hello(GOOD), second(hello(OTHER))]).is(OTHER);
        heard(&[hello(OTHER), second(hello("a.b"))]).is("a.b");
        refused(&[hello(GOOD), second(nameless())], Fault::NoName);
        let twice = Parts::new(vec![host(GOOD), host(OTHER)]).bytes();
        refused(&[hello(GOOD), second(twice)], Fault::Names);
        refused(
            &[hello(GOOD), second(in_records(&hello(OTHER), &[40]))],
            Fault::Split,
        );
    }
}

#[test]
fn no_name_is_there_while_the_second_hello_is_read() {
    let second = hello(OTHER);
    let mut client = heard(&[hello(GOOD)]);
    assert_eq!(client.hear(&second[..60]), Said::More);
    assert_eq!(client.name(), None);
    assert_eq!(client.hear(&second[60..]), Said::Settled);
    client.is(OTHER);
}

#[test]
fn a_second_hello_that_nobody_asked_for() {
    for name in [GOOD, OTHER] {
        refused(&[all(&[hello(GOOD), hello(name)])], Fault::Trailing);
        let with_more = all(&[hello(GOOD), change_cipher(), hello(name)]);
        refused(&[with_more], Fault::Trailing);
        // Its first bytes came with the first one.
        let both = all(&[hello(GOOD), hello(name)]);
        let at = hello(GOOD).len();
        refused(&[&both[..at + 6], &both[at + 6..]], Fault::Trailing);
    }
}

#[test]
fn a_second_hello_whose_head_is_cut() {
    let (first, second) = (hello(GOOD), hello(OTHER));
    for at in 1..6 {
        let (head, rest) = second.split_at(at);
        refused(&[&first, head, rest], Fault::Split);
        let with_head = all(&[first.clone(), head.to_vec()]);
        refused(&[&with_head[..], rest], Fault::Split);
    }
    let (head, rest) = second.split_at(6);
    heard(&[&first, head, rest]).is(OTHER);
}

#[test]
fn alerts_between() {
    let mut client = heard(&[hello(GOOD), alert(), alert()]);
    assert_eq!(client.said, Said::Name);
    assert_eq!(client.hear(&hello(OTHER)), Said::Settled);
    client.is(OTHER);
    heard(&[all(&[hello(GOOD), alert(), data(9)])]).is(GOOD);
}

#[test]
fn early_data_and_a_second_hello() {
    let mut client = heard(&[all(&[early(GOOD), change_cipher(), data(900)])]);
    assert_eq!(client.said, Said::Name);
    assert_eq!(client.client.flags() & EARLY_DATA, EARLY_DATA);
    assert_eq!(client.hear(&data(900)), Said::Name);
    assert_eq!(client.name(), Some(GOOD));
    // The second one offers no early data (RFC 8446 section 4.2.10).
    assert_eq!(client.hear(&hello(OTHER)), Said::Settled);
    client.is(OTHER);
}

#[test]
fn early_data_without_end() {
    let mut client = heard(&[early(GOOD)]);
    let piece = data(16_000);
    let mut sent = 0;
    while client.hear(&piece) == Said::Name {
        sent += 16_000;
        assert!(sent <= MAX_EARLY, "{sent}");
    }
    assert!(sent + 16_000 > MAX_EARLY, "{sent}");
    client.is(GOOD);
}

#[test]
fn a_handshake_message_ends_early_data() {
    // The end of early data is encrypted like it; in the clear comes only what has a key.
    heard(&[early(GOOD), data(100), key_exchange()]).is(GOOD);
}

#[test]
fn what_is_no_record() {
    let first = hello(GOOD);
    for kind in [20, 21, 22, 23] {
        // It is told by what follows: no record is shorter than six bytes.
        let empty = all(&[record(kind, &[]), hello(OTHER)]);
        refused(&[first.clone(), empty], Fault::RecordLength);
    }
    let most = (1 << 14) + 2048;
    heard(&[first.clone(), data(most)]).is(GOOD);
    refused(&[first.clone(), data(most + 1)], Fault::RecordLength);
    for kind in [0, 19, 24, 25, 255] {
        refused(&[first.clone(), record(kind, &[1])], Fault::NotTls);
    }
    for major in [0, 2, 4, 255] {
        let mut other = data(10);
        other[1] = major;
        refused(&[first.clone(), other.clone()], Fault::NotTls);
        refused(&[all(&[first.clone(), other])], Fault::NotTls);
    }
    refused(&[first.as_slice(), b"GET / HTTP/1.1\r\n"], Fault::NotTls);
    refused(&[b"GET / HTTP/1.1\r\n"], Fault::NotTls);
    refused(&[nameless()], Fault::NoName);
}

#[test]
fn as_many_records_as_a_piece_may_hold_and_one_more() {
    let some = |count: usize| change_cipher().repeat(count);
    let mut client = heard(&[hello(GOOD), some(RECORDS)]);
    assert_eq!(client.said, Said::Name);
    assert_eq!(client.hear(&data(5)), Said::Settled);
    client.is(GOOD);
    refused(&[hello(GOOD), some(RECORDS + 1)], Fault::Trailing);
    let mut client = heard(&[early(GOOD), data(1).repeat(RECORDS)]);
    assert_eq!(client.said, Said::Name);
    assert_eq!(client.hear(&hello(OTHER)), Said::Settled);
    client.is(OTHER);
}

#[test]
fn reset_makes_it_new() {
    let second = hello(OTHER);
    for pieces in [
        vec![hello(GOOD)],
        vec![hello(GOOD), data(3)],
        vec![
            early("a.very.long.name.that.leaves.traces.example"),
            data(700),
        ],
        vec![hello(GOOD), second[..100].to_vec()],
        vec![hello(GOOD), data(3)[..4].to_vec()],
        vec![b"GET".to_vec()],
        vec![all(&[hello(GOOD), hello(GOOD)])],
        vec![hello(GOOD), record(99, &[1])],
    ] {
        let mut client = heard(&pieces);
        client.client.reset();
        assert_eq!(client.client, Client::new());
        client.said = Said::More;
        assert_eq!(client.hear(&second), Said::Name);
        assert_eq!(client.name(), Some(OTHER));
    }
}

/// What a client may send, and where in it the first hello ends and the second one begins.
#[derive(Clone, Debug)]
struct Stream {
    bytes: Vec<u8>,
    end: usize,
    second: Option<usize>,
    name: &'static str,
}

fn streams() -> impl Strategy<Value = Stream> {
    let between = prop::collection::vec(0..3_usize, 0..4);
    let last = 0..3_usize;
    (any::<bool>(), between, any::<Option<bool>>(), last).prop_map(
        |(is_early, between, second, last)| {
            let mut bytes = if is_early { early(GOOD) } else { hello(GOOD) };
            let end = bytes.len();
            for kind in between {
                bytes.extend(match kind {
                    0 => change_cipher(),
                    1 => alert(),
                    _ if is_early => data(300),
                    _ => Vec::new(),
                });
            }
            let mut at = None;
            let mut name = GOOD;
            if let Some(same) = second {
                at = Some(bytes.len());
                name = if same { GOOD } else { OTHER };
                bytes.extend(hello(name));
            }
            // With early data it stays open unless something else settles it.
            bytes.extend(match last {
                _ if is_early || last == 0 => key_exchange(),
                1 => data(200),
                _ => all(&[change_cipher(), data(1)]),
            });
            Stream {
                bytes,
                end,
                second: at,
                name,
            }
        },
    )
}

proptest! {
    /// The outcome hangs on the bytes, but for the second hello: it must not begin in the
    /// piece in which the first one ends, and its head must not be cut.
    #[test]
    fn any_cut_settles_on_the_same_name(
        stream in streams(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        near in prop::collection::vec(-8..12_isize, 0..6),
    ) {
        let length = stream.bytes.len();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
        // Where the hellos meet is where it matters.
        for by in near {
            let around = stream.second.unwrap_or(stream.end);
            ends.push(around.saturating_add_signed(by).min(length));
        }
        ends.push(length);
        ends.sort_unstable();
        let mut client = Heard::new();
        let mut begin = 0;
        let mut settled = false;
        for end in &ends {
            let said = client.hear(&stream.bytes[begin..*end]);
            prop_assert!(!settled || said == Said::Settled);
            settled = said == Said::Settled;
            begin = *end;
        }
        let asked_for = |second| ends.iter().any(|end| (stream.end..=second).contains(end));
        let expected = match stream.second {
            Some(second) if ends.iter().any(|end| (second + 1..second + 6).contains(end)) => {
                Said::Refused(Fault::Split)
            }
            Some(second) if !asked_for(second) => Said::Refused(Fault::Trailing),
            _ => Said::Settled,
        };
        prop_assert_eq!(client.said, expected, "{:?}", ends);
        if expected == Said::Settled {
            prop_assert_eq!(client.name(), Some(stream.name));
        }
    }

    /// Whatever follows a refusal, nothing is settled.
    #[test]
    fn a_refusal_is_for_good(
        first in prop::collection::vec(any::<u8>(), 1..40),
        stream in streams(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut client = heard(&[hello(GOOD)]);
        let Said::Refused(fault) = client.hear(&first) else {
            return Ok(());
        };
        let (a, b) = stream.bytes.split_at(cut.index(stream.bytes.len()));
        for piece in [a, b, &data(30), &key_exchange()] {
            prop_assert_eq!(client.hear(piece), Said::Refused(fault));
        }
    }
}
