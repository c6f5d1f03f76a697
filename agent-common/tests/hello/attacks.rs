//! How a confined program would have one name read here and another one by a server.

use agent_common::Hello;
use agent_common::hello::{EARLY_DATA, ENCRYPTED, Fault, MAX_EXTENSIONS, Progress, VERSIONS};

use super::mutants::corpus;
use super::parts::{Parts, host, in_records, names, plain};
use super::reference::{Theirs, ask_rustls, read, read_cut};

const GOOD: &str = "api.example.com";
const EVIL: &str = "evil.example.net";

/// Refused for this, in one piece and byte by byte.
fn refused(bytes: &[u8], fault: Fault) {
    let outcome = read(bytes);
    assert_eq!(outcome.progress, Progress::Refused(fault));
    let single: Vec<usize> = (1..=bytes.len()).collect();
    assert_eq!(read_cut(bytes, &single), outcome);
}

fn passes(bytes: &[u8], name: &str) {
    let outcome = read(bytes);
    assert_eq!(outcome.done(), Some(name), "{outcome:?}");
    let single: Vec<usize> = (1..=bytes.len()).collect();
    assert_eq!(read_cut(bytes, &single), outcome);
}

fn with(extensions: impl IntoIterator<Item = (u16, Vec<u8>)>) -> Vec<u8> {
    let mut all = plain();
    all.extend(extensions);
    Parts::new(all).bytes()
}

#[test]
fn real_clients_are_read() {
    let corpus = corpus();
    assert!(corpus.len() >= 13);
    for (client, hello) in &corpus {
        let outcome = read(hello);
        assert_eq!(outcome.done(), Some(GOOD), "{client}: {outcome:?}");
        assert_eq!(outcome.taken as usize, hello.len(), "{client}");
        for at in 0..hello.len() {
            assert_eq!(
                read_cut(hello, &[at, hello.len()]),
                outcome,
                "{client} cut at {at}"
            );
            // Whatever is missing, it is not whole.
            assert_eq!(
                read(&hello[..at]).progress,
                Progress::More,
                "{client} up to {at}"
            );
        }
    }
}

#[test]
fn a_fresh_hello_of_rustls_is_read() {
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;
    for versions in [&[&rustls::version::TLS12][..], rustls::ALL_VERSIONS] {
        let config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "Some.Name.Example".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a hello");
        passes(&hello, "some.name.example");
        assert_eq!(read(&hello).flags, VERSIONS);
    }
}

#[test]
fn a_hello_is_told_from_what_is_not_tls() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-x",
        // SSLv2: a length with its highest bit set, then the message's type.
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
        // An alert, a change of cipher, application data.
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x14\x03\x03\x00\x01\x01",
        b"\x17\x03\x03\x00\x01\x01",
        b"\x00",
        // A handshake record of something that is not TLS 1.
        b"\x16\xfe\xff\x00\x00",
        b"\x16\x02",
    ] {
        refused(bytes, Fault::NotTls);
        // The first bytes tell it: nothing more is waited for.
        refused(&bytes[..bytes.len().min(2)], Fault::NotTls);
    }
    let mut server = Parts::named(GOOD);
    server.message = 2;
    refused(&server.bytes(), Fault::NotTls);
}

#[test]
fn no_name() {
    refused(&with([]), Fault::NoName);
    refused(&Parts::new(Vec::new()).bytes(), Fault::NoName);
    let mut bare = Parts::named(GOOD);
    bare.extensions = None;
    refused(&bare.bytes(), Fault::NoName);
}

#[test]
fn a_name_that_is_an_address() {
    for name in [
        "192.0.2.1",
        "127.1",
        "1",
        "0x7f000001",
        "a.0X1",
        "2001:db8::1",
        "[::1]",
        "a.1",
    ] {
        refused(&Parts::named(name).bytes(), Fault::Address);
    }
    for name in ["1a", "3com.example", "192.0.2.1.example", "a.0y1", "a.00x1"] {
        passes(&Parts::named(name).bytes(), name);
    }
}

#[test]
fn a_name_of_no_length_or_too_much() {
    let long = |length: usize| -> String {
        (0..length)
            .map(|at| if at % 50 == 49 { '.' } else { 'a' })
            .collect()
    };
    refused(&Parts::named("").bytes(), Fault::NameLength);
    for length in [254, 255, 256, 257, 511, 513, 4000] {
        refused(&Parts::named(long(length)).bytes(), Fault::NameLength);
    }
    for length in [1, 8, 31, 32, 33, 64, 248, 252, 253] {
        passes(&Parts::named(long(length)).bytes(), &long(length));
    }
}

#[test]
fn a_nul_in_a_name() {
    refused(
        &Parts::named(format!("{GOOD}\0.{EVIL}")).bytes(),
        Fault::NameBytes,
    );
    refused(&Parts::named(format!("{GOOD}\0")).bytes(), Fault::NameBytes);
}

#[test]
fn a_dot_at_the_end() {
    // Servers differ in whether it is the same name.
    refused(&Parts::named(format!("{GOOD}.")).bytes(), Fault::NameBytes);
    refused(&Parts::named(".").bytes(), Fault::NameBytes);
}

#[test]
fn upper_case() {
    passes(&Parts::named("API.eXample.COM").bytes(), GOOD);
}

#[test]
fn bytes_that_are_no_host_name() {
    for name in [
        "a..b",
        ".a",
        "-a.b",
        "a-.b",
        "a.b-",
        "*.b",
        "a b",
        "a/b",
        "a@b",
        "bücher.b",
        "a\n",
    ] {
        refused(&Parts::named(name).bytes(), Fault::NameBytes);
    }
    passes(
        &Parts::named("under_score.xn--bcher-kva.b-c").bytes(),
        "under_score.xn--bcher-kva.b-c",
    );
}

#[test]
fn two_server_name_extensions() {
    refused(&with([host(GOOD), host(EVIL)]), Fault::Names);
    refused(&with([host(GOOD), host(GOOD)]), Fault::Names);
    refused(&with([host(GOOD), (0, Vec::new())]), Fault::Names);
    refused(
        &with([host(GOOD), (5, Vec::new()), host(EVIL)]),
        Fault::Names,
    );
}

#[test]
fn two_names_in_one_list() {
    let (good, evil) = (GOOD.as_bytes(), EVIL.as_bytes());
    refused(&with([names(&[(0, good), (0, evil)])]), Fault::Names);
    refused(&with([names(&[(0, good), (1, evil)])]), Fault::Names);
    refused(&with([names(&[(0, good), (0, b"")])]), Fault::Names);
}

#[test]
fn a_name_of_another_type() {
    let (good, evil) = (GOOD.as_bytes(), EVIL.as_bytes());
    refused(&with([names(&[(1, good)])]), Fault::Names);
    refused(&with([names(&[(255, evil), (0, good)])]), Fault::Names);
}

#[test]
fn an_extension_of_no_names() {
    refused(&with([(0, Vec::new())]), Fault::Malformed);
    refused(&with([names(&[])]), Fault::Malformed);
    refused(&with([(0, vec![0, 1, 0])]), Fault::Malformed);
}

#[test]
fn lengths_of_the_name_that_do_not_add_up() {
    // As in `parts`: the extension's is the one before the list's and the name's.
    let encoded = Parts::new(vec![host(GOOD), (21, vec![0; 40])]).encode();
    let at = encoded.lengths.len() - 4;
    for which in [at, at + 1, at + 2] {
        for by in [
            -300, -20, -5, -3, -2, -1, 1, 2, 3, 5, 20, 300, 0x7fff, -0x8000,
        ] {
            let mut lies = encoded.clone();
            lies.lie(which, by);
            let outcome = read(&lies.bytes);
            assert!(
                outcome.fault().is_some(),
                "length {which} off by {by}: {outcome:?}"
            );
        }
    }
}

#[test]
fn a_name_that_overlaps_its_neighbour() {
    // The list and the extension end where the next extension's name would be read.
    let (kind, mut body) = host(GOOD);
    let inner = host(EVIL).1;
    body.extend([0, 0]);
    body.extend((inner.len() as u16).to_be_bytes());
    body.extend(inner);
    refused(&with([(kind, body.clone())]), Fault::Malformed);
    // The list is as long as the extension: what follows the first name is a second one.
    let list = body.len() as u16 - 2;
    body[..2].copy_from_slice(&list.to_be_bytes());
    refused(&with([(kind, body)]), Fault::Names);
}

#[test]
fn every_single_lie_in_a_length_is_refused_or_incomplete() {
    for (client, hello) in corpus() {
        let encoded = Parts::of(&hello).encode();
        assert_eq!(encoded.bytes, hello, "{client}");
        let lengths = &encoded.lengths;
        let named = lengths
            .array_windows()
            .position(|[a, b, c]| b.0 == a.0 + 2 && c.0 == b.0 + 3)
            .expect("the name");
        for which in 0..lengths.len() {
            for by in [-256, -9, -4, -1, 1, 4, 9, 256] {
                let mut lies = encoded.clone();
                lies.lie(which, by);
                if lies.bytes == hello {
                    // In one byte 256 is nothing.
                    continue;
                }
                let outcome = read(&lies.bytes);
                let what = format!("{client}: length {which} off by {by}: {outcome:?}");
                // Another extension may swallow whole neighbours; if it swallows the name,
                // there is none.
                if which < 6 || (named..named + 3).contains(&which) {
                    assert_eq!(outcome.done(), None, "{what}");
                }
                assert!(matches!(outcome.done(), None | Some(GOOD)), "{what}");
            }
        }
    }
}

#[test]
fn sums_that_would_wrap() {
    let mut extensions = plain();
    extensions.push(host(GOOD));
    let encoded = Parts::new(extensions).encode();
    for (at, width) in &encoded.lengths {
        let mut bytes = encoded.bytes.clone();
        bytes[*at..at + width].fill(0xff);
        assert!(read(&bytes).fault().is_some(), "{width} bytes at {at}");
    }
}

#[test]
fn a_hello_over_several_records() {
    let hello = Parts::named(GOOD).bytes();
    for first in [1, 3, 4, 5, 6, 40, 60, hello.len() - 6] {
        refused(&in_records(&hello, &[first]), Fault::Split);
    }
}

#[test]
fn a_first_record_of_no_length() {
    let hello = Parts::named(GOOD).bytes();
    refused(&in_records(&hello, &[0]), Fault::Malformed);
}

#[test]
fn a_message_shorter_than_its_record() {
    // A second hello in the same record: whose name would a server take?
    let (good, evil) = (Parts::named(GOOD).bytes(), Parts::named(EVIL).bytes());
    let mut both = good.clone();
    both.extend_from_slice(&evil[5..]);
    let length = (both.len() - 5) as u16;
    both[3..5].copy_from_slice(&length.to_be_bytes());
    refused(&both, Fault::Trailing);

    let mut short = Parts::named(GOOD).encode();
    short.lie(1, -1);
    refused(&short.bytes, Fault::Trailing);
}

#[test]
fn bytes_behind_the_extensions() {
    let mut parts = Parts::named(GOOD).encode();
    // Record and message hold three bytes that the extensions do not.
    parts.bytes.extend([0, 0, 0]);
    parts.lie(0, 3);
    parts.lie(1, 3);
    refused(&parts.bytes, Fault::Malformed);
}

#[test]
fn later_records_are_the_callers() {
    let hello = Parts::named(GOOD).bytes();
    let mut more = hello.clone();
    more.extend([20, 3, 3, 0, 1, 1]);
    more.extend([23, 3, 3, 0, 2, 0xaa, 0xbb]);
    let mut reader = Hello::new();
    let end = more.len() as u32;
    assert_eq!(reader.read(more.as_slice(), 0, end), Progress::Done);
    assert_eq!(reader.at() as usize, hello.len());
    // It stays done, and takes nothing more.
    assert_eq!(
        reader.read(b"\x16\x03\x01".as_slice(), 0, 3),
        Progress::Done
    );
    assert_eq!((reader.at(), reader.taken() as usize), (0, hello.len()));
}

#[test]
fn what_is_refused_stays_refused() {
    let mut reader = Hello::new();
    assert_eq!(
        reader.read(b"GET".as_slice(), 0, 3),
        Progress::Refused(Fault::NotTls)
    );
    let hello = Parts::named(GOOD).bytes();
    let end = hello.len() as u32;
    assert_eq!(
        reader.read(hello.as_slice(), 0, end),
        Progress::Refused(Fault::NotTls)
    );
}

#[test]
fn a_second_hello_after_a_reset() {
    let (long, short) = ("a.very.long.name.that.leaves.traces.example", "b.example");
    let mut reader = Hello::new();
    for name in [long, short] {
        reader.reset();
        let hello = Parts::named(name).bytes();
        assert_eq!(
            reader.read(hello.as_slice(), 0, hello.len() as u32),
            Progress::Done
        );
        assert_eq!(reader.name(), name.as_bytes());
        let padded = reader.name_bytes();
        assert!(padded[name.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn versions() {
    for minor in [0, 1, 3, 4, 255] {
        let mut parts = Parts::named(GOOD);
        (parts.record_version[1], parts.version[1]) = (minor, minor);
        passes(&parts.bytes(), GOOD);
    }
    let mut record = Parts::named(GOOD);
    record.record_version = [2, 0];
    refused(&record.bytes(), Fault::NotTls);
    let mut message = Parts::named(GOOD);
    message.version = [0xfe, 0xfd];
    refused(&message.bytes(), Fault::Malformed);
}

#[test]
fn fields_before_the_extensions() {
    type Change = fn(&mut Parts);
    let bad: [Change; 5] = [
        |parts| parts.session = vec![0; 33],
        |parts| parts.session = vec![0; 255],
        |parts| parts.ciphers = Vec::new(),
        |parts| parts.ciphers = vec![0; 3],
        |parts| parts.compression = Vec::new(),
    ];
    for change in bad {
        let mut parts = Parts::named(GOOD);
        change(&mut parts);
        refused(&parts.bytes(), Fault::Malformed);
    }
    let good: [Change; 4] = [
        |parts| parts.session = Vec::new(),
        |parts| parts.session = vec![0; 31],
        |parts| parts.ciphers = vec![0; 4000],
        // Compression of the handshake is the server's affair: the name does not hang on it.
        |parts| parts.compression = vec![1, 0, 64],
    ];
    for change in good {
        let mut parts = Parts::named(GOOD);
        change(&mut parts);
        passes(&parts.bytes(), GOOD);
        assert!(matches!(ask_rustls(&parts.bytes()), Theirs::Name(name) if name == GOOD));
    }
}

#[test]
fn as_many_extensions_as_are_read_and_one_more() {
    let fill = |count: usize| {
        let mut all: Vec<_> = (1..count)
            .map(|kind| (0x6000 + kind as u16, vec![]))
            .collect();
        // A name that takes the most steps, at the end.
        let label = "a".repeat(62);
        all.push(host([label.as_str(); 4].join(".")));
        Parts::new(all).bytes()
    };
    let most = usize::from(MAX_EXTENSIONS);
    let outcome = read(&fill(most));
    assert_eq!(outcome.done().map(str::len), Some(251));
    assert_eq!(outcome.extensions, MAX_EXTENSIONS);
    refused(&fill(most + 1), Fault::Extensions);
    refused(&fill(most + 30), Fault::Extensions);
}

#[test]
fn other_extensions_twice() {
    refused(&with([host(GOOD), (43, vec![2, 3, 4])]), Fault::Repeated);
    refused(
        &with([host(GOOD), (0xfe0d, vec![]), (0xfe0d, vec![])]),
        Fault::Repeated,
    );
}

#[test]
fn a_record_of_more_than_it_may_be() {
    let filled = |length: usize| {
        let mut parts = Parts::named(GOOD);
        let short = parts.bytes().len() - 5;
        parts.extensions().push((21, vec![0; length - short - 4]));
        parts.bytes()
    };
    passes(&filled(1 << 14), GOOD);
    refused(&filled((1 << 14) + 1), Fault::RecordLength);
    refused(b"\x16\x03\x01\xff\xff", Fault::RecordLength);
}

#[test]
fn flags_tell_what_the_client_offers() {
    let flags = |extensions: &[u16]| {
        let mut all = vec![host(GOOD)];
        all.extend(extensions.iter().map(|kind| (*kind, vec![])));
        read(&Parts::new(all).bytes()).flags
    };
    assert_eq!(flags(&[]), 0);
    assert_eq!(flags(&[42]), EARLY_DATA);
    assert_eq!(flags(&[0xfe0d]), ENCRYPTED);
    assert_eq!(flags(&[43]), VERSIONS);
    assert_eq!(
        flags(&[16, 42, 10, 0xfe0d, 43]),
        EARLY_DATA | ENCRYPTED | VERSIONS
    );
}

#[test]
fn a_piece_that_lies_about_its_length_is_refused() {
    let hello = Parts::named(GOOD).bytes();
    let mut reader = Hello::new();
    let progress = reader.read(&hello[..20], 0, hello.len() as u32);
    assert_eq!(progress, Progress::Refused(Fault::Unreadable));
}

#[test]
fn progress_crosses_the_boundary() {
    let refused = Fault::ALL.iter().map(|fault| Progress::Refused(*fault));
    for progress in [Progress::More, Progress::Done].into_iter().chain(refused) {
        assert_eq!(Progress::from_number(progress.number()), progress);
    }
    assert_eq!(
        Progress::from_number(255),
        Progress::Refused(Fault::Unreadable)
    );
}
