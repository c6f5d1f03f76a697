//! TLS through the gateway, by friends and by foes.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::testing::*;
use super::*;
use crate::leases::FailKind;

/// The alert "access denied", in clear.
const DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[tokio::test]
async fn an_allowed_name_passes_under_both_versions_and_is_recorded() {
    for version in [&TLS12, &TLS13] {
        let pki = Pki::new();
        let server = pki.server("a.example", &[version]);
        let (port, mut shown) = echo_tls(server).await;
        let mut rig = Rig::new();
        rig.backend.allow("a.example", Kind::Tls);
        let stream = rig.steer(port).await;
        let client = pki.client(&[version]);
        let mut tls = within(client.connect(server_name("a.example"), stream))
            .await
            .expect("handshake");
        tls.write_all(b"hello there").await.expect("write");
        let mut back = [0; 11];
        within(tls.read_exact(&mut back)).await.expect("echo");
        assert_eq!(&back, b"hello there");
        let peer = &tls.get_ref().1.peer_certificates().expect("shown")[0];
        let sha256: [u8; 32] = Sha256::digest(peer).into();
        tls.shutdown().await.expect("end");
        let mut end = Vec::new();
        within(tls.read_to_end(&mut end)).await.expect("its end");
        let record = rig.flow().await;
        assert_eq!(record.outcome, Outcome::Closed, "{record:?}");
        assert_eq!(record.name.as_deref(), Some("a.example"));
        assert_eq!(record.sni.as_deref(), Some("a.example"));
        assert_eq!(record.kind, Some(Kind::Tls));
        assert_eq!(record.rule.as_deref(), Some("rule 1"));
        assert_eq!(record.alpn, ["http/1.1"]);
        assert_eq!(record.alpn_chosen.as_deref(), Some("http/1.1"));
        assert_eq!(record.destination, Some(Destination { addr: CHOSEN, port }));
        let connected = record.connected.expect("connected");
        assert_eq!(connected, (Ipv4Addr::LOCALHOST, port).into());
        let certificate = record.certificate.clone().expect("looked at");
        assert_eq!(certificate.sha256, sha256);
        assert_eq!(certificate.issuer, "CN=Exeat Test CA");
        assert!(record.sent > 200 && record.received > 200, "{record:?}");
        assert_eq!(within(shown.recv()).await.as_deref(), Some("a.example"));
        rig.stop().await;
    }
}

#[tokio::test]
async fn the_certificate_of_a_server_is_looked_at_once_and_not_at_all_when_off() {
    for (probe, expected) in [(true, 1), (false, 0)] {
        let pki = Pki::new();
        let (port, _shown) = echo_tls(pki.server("a.example", &[&TLS13])).await;
        let mut rig = Rig::with(GatewayConfig {
            probe,
            ..GatewayConfig::default()
        });
        rig.backend.allow("a.example", Kind::Tls);
        for _ in 0..3 {
            let stream = rig.steer(port).await;
            let client = pki.client(&[&TLS13]);
            let tls = within(client.connect(server_name("a.example"), stream)).await;
            drop(tls.expect("handshake"));
            let record = rig.flow().await;
            assert_eq!(record.certificate.is_some(), probe, "{record:?}");
        }
        let probes = rig.stats.probes.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(probes, expected);
        rig.stop().await;
    }
}

#[tokio::test]
async fn what_leaves_is_what_came_byte_for_byte_however_it_was_split() {
    let hello = hello_bytes("a.example");
    let split = in_records(&hello, hello.len() / 3);
    for (sent, pieces) in [(&hello, 1), (&hello, hello.len()), (&split, 1)] {
        let (port, listener) = plain().await;
        let mut rig = Rig::with(GatewayConfig {
            probe: false,
            ..GatewayConfig::default()
        });
        rig.backend.allow("a.example", Kind::Tls);
        let mut stream = rig.steer(port).await;
        for piece in sent.chunks(sent.len().div_ceil(pieces)) {
            stream.write_all(piece).await.expect("write");
            tokio::task::yield_now().await;
        }
        let (mut server, _) = within(listener.accept()).await.expect("accept");
        // Early data and the like: what follows the hello follows it to the server.
        stream
            .write_all(b"\x17\x03\x03\x00\x01x")
            .await
            .expect("write");
        stream.shutdown().await.expect("half-close");
        let mut got = Vec::new();
        within(server.read_to_end(&mut got)).await.expect("end");
        assert_eq!(got, [sent, &b"\x17\x03\x03\x00\x01x"[..]].concat());
        // Half-closed: the server may still answer.
        server.write_all(b"answer").await.expect("write");
        drop(server);
        assert_eq!(rest(&mut stream).await, b"answer");
        let record = rig.flow().await;
        assert_eq!(record.outcome, Outcome::Closed, "{record:?}");
        assert_eq!(record.sent, got.len() as u64);
        assert_eq!(record.received, 6);
        rig.stop().await;
    }
}

/// Sends bytes, and takes the record and what the program is told.
async fn refused_bytes(bytes: &[u8]) -> (GatewayRecord, Vec<u8>) {
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let mut stream = rig.steer(443).await;
    // It may be closed before all of it is written.
    let _ = stream.write_all(bytes).await;
    let told = rest(&mut stream).await;
    drop(stream);
    let record = rig.refusal().await;
    assert!(rig.backend.resolved().is_empty(), "nothing leaves");
    assert_eq!((record.sent, record.received), (0, 0));
    rig.stop().await;
    (record, told)
}

#[tokio::test]
async fn what_shows_no_allowed_name_is_refused_at_once() {
    let own = hello_bytes("a.example");
    let no_name = {
        let config = rustls::ClientConfig::builder_with_provider(
            rustls::crypto::ring::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        // For an address rustls sends no server name.
        let mut client =
            rustls::ClientConnection::new(config.into(), server_name("192.0.2.1")).expect("client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory");
        bytes
    };
    let sni = |host: &[u8]| {
        let len = u16::try_from(host.len()).expect("short");
        let entry = [&[0][..], &len.to_be_bytes(), host].concat();
        let list = u16::try_from(entry.len()).expect("short").to_be_bytes();
        [&list[..], &entry].concat()
    };
    let literal = with_extension(&no_name, 0, &sni(b"192.0.2.1"));
    let own_machine = with_extension(&no_name, 0, &sni(b"localhost"));
    let two_names = with_extension(&own, 0, &sni(b"evil.example"));
    let two_in_one = {
        let both = [&sni(b"a.example")[2..], &sni(b"evil.example")[2..]].concat();
        let list = u16::try_from(both.len()).expect("short").to_be_bytes();
        with_extension(&no_name, 0, &[&list[..], &both].concat())
    };
    let mut two_hellos = own.clone();
    two_hellos.extend_from_slice(&hello_bytes("evil.example")[5..]);
    let len = u16::try_from(two_hellos.len() - 5).expect("short");
    two_hellos[3..5].copy_from_slice(&len.to_be_bytes());
    let mut lying = own.clone();
    // The session's: one byte more than may be.
    lying[5 + 4 + 34] = 33;
    let mut server_hello = own.clone();
    server_hello[5] = 2;
    let cases: [(&str, Vec<u8>, Outcome, bool); 15] = [
        (
            "name of another tenant",
            hello_bytes("evil.example"),
            Outcome::NameNotAllowed,
            true,
        ),
        (
            "a name below it",
            hello_bytes("x.a.example"),
            Outcome::NameNotAllowed,
            true,
        ),
        ("no name", no_name.clone(), Outcome::NoSni, true),
        ("address as name", literal, Outcome::IpLiteral, true),
        ("this machine's name", own_machine, Outcome::BadName, true),
        ("two server names", two_names, Outcome::Malformed, true),
        ("two names in one", two_in_one, Outcome::Malformed, true),
        (
            "encrypted hello",
            with_extension(&own, 0xfe0d, &encrypted()),
            Outcome::Ech,
            true,
        ),
        (
            "encrypted name of old",
            with_extension(&own, 0xffce, &[0; 64]),
            Outcome::Ech,
            true,
        ),
        (
            "two hellos in one record",
            two_hellos,
            Outcome::Malformed,
            true,
        ),
        ("lengths that lie", lying, Outcome::Malformed, true),
        ("another message", server_hello, Outcome::Malformed, true),
        (
            "an empty record",
            b"\x16\x03\x01\x00\x00".to_vec(),
            Outcome::Malformed,
            false,
        ),
        (
            "a record too long",
            b"\x16\x03\x01\x40\x01".to_vec(),
            Outcome::Malformed,
            false,
        ),
        ("no TLS", b"\x00\x01\x02".to_vec(), Outcome::NotTls, false),
    ];
    for (what, bytes, outcome, alert) in cases {
        let (record, told) = refused_bytes(&bytes).await;
        assert_eq!(record.outcome, outcome, "{what}: {record:?}");
        assert_eq!(!told.is_empty(), alert, "{what}: {told:?}");
        if matches!(outcome, Outcome::NameNotAllowed | Outcome::Ech) {
            assert_eq!(told, DENIED, "{what}");
        }
    }
}

#[tokio::test]
async fn a_hello_that_never_ends_is_bounded_in_bytes_and_records() {
    let body = vec![0; 16 * 1024];
    let long = [&b"\x16\x03\x01\x40\x00\x01\x00\x80\x00"[..], &body].concat();
    let (record, _) = refused_bytes(&long).await;
    assert_eq!(record.outcome, Outcome::Oversize, "{record:?}");
    let crumbs = in_records(&hello_bytes("a.example"), 1);
    let (record, _) = refused_bytes(&crumbs).await;
    assert_eq!(record.outcome, Outcome::Oversize, "{record:?}");
}

#[tokio::test]
async fn a_second_hello_with_another_name_never_leaves() {
    let first = hello_bytes("a.example");
    let evil = hello_bytes("evil.example");
    let change = b"\x14\x03\x03\x00\x01\x01".to_vec();
    let warning = b"\x15\x03\x03\x00\x02\x01\x70".to_vec();
    let cases = [
        ("at once", evil.clone()),
        ("after a change of cipher", [change, evil.clone()].concat()),
        ("after a warning", [warning, evil.clone()].concat()),
        ("in pieces", in_records(&evil, 20)),
        ("after a good one", [first.clone(), evil.clone()].concat()),
        (
            "hiding in an alert",
            [b"\x15\x03\x03\x01\x00".to_vec(), evil].concat(),
        ),
    ];
    for (what, second) in cases {
        let (port, listener) = plain().await;
        let mut rig = Rig::with(GatewayConfig {
            probe: false,
            ..GatewayConfig::default()
        });
        rig.backend.allow("a.example", Kind::Tls);
        let mut stream = rig.steer(port).await;
        stream.write_all(&first).await.expect("write");
        let (mut server, _) = within(listener.accept()).await.expect("accept");
        let mut got = vec![0; first.len()];
        within(server.read_exact(&mut got))
            .await
            .expect("the first");
        stream.write_all(&second).await.expect("write");
        let left = rest(&mut server).await;
        let evil = b"evil.example";
        assert!(!left.windows(evil.len()).any(|at| at == evil), "{what}");
        let record = rig.refusal().await;
        let expected = match what {
            "hiding in an alert" => Outcome::Malformed,
            _ => Outcome::SecondHello,
        };
        assert_eq!(record.outcome, expected, "{what}: {record:?}");
        rig.stop().await;
    }
    // Early data stands between the hellos, in pieces and whole.
    let offering = with_extension(&first, 42, b"");
    let early = [&[23, 3, 3, 0x40, 0][..], &[0x16; 0x4000]].concat();
    let evil = [&early[..], &early, &hello_bytes("evil.example")].concat();
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let mut stream = rig.steer(port).await;
    stream.write_all(&offering).await.expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let mut got = vec![0; offering.len()];
    within(server.read_exact(&mut got))
        .await
        .expect("the first");
    let all = tokio::spawn(async move {
        // It is reset before or after all of it is written.
        let _ = stream.write_all(&evil).await;
        rest(&mut stream).await
    });
    let left = rest(&mut server).await;
    assert!(left.len() <= 2 * early.len());
    let name = b"evil.example";
    assert!(!left.windows(name.len()).any(|at| at == name));
    within(all).await.expect("ends");
    assert_eq!(rig.refusal().await.outcome, Outcome::SecondHello);
    // The honest one: the same name again, as after a HelloRetryRequest.
    let (port, listener) = plain().await;
    let rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let mut stream = rig.steer(port).await;
    let both = [&first[..], &first].concat();
    stream.write_all(&both).await.expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let mut got = vec![0; both.len()];
    within(server.read_exact(&mut got)).await.expect("both");
    assert_eq!(got, both);
}

#[tokio::test]
async fn a_retry_request_is_lived_through() {
    let pki = Pki::new();
    let mut server = pki.server("a.example", &[&TLS13]);
    let mut provider = rustls::crypto::ring::default_provider();
    provider.kx_groups = vec![rustls::crypto::ring::kx_group::SECP384R1];
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(server.cert_resolver.clone());
    server = config;
    let (port, mut shown) = echo_tls(server).await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let stream = rig.steer(port).await;
    let client = pki.client(&[&TLS13]);
    let tls = within(client.connect(server_name("a.example"), stream)).await;
    let tls = tls.expect("handshake");
    let kind = tls.get_ref().1.handshake_kind();
    assert_eq!(kind, Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
    drop(tls);
    rig.flow().await;
    assert_eq!(within(shown.recv()).await.as_deref(), Some("a.example"));
}

#[tokio::test]
async fn an_encrypted_hello_passes_where_the_rule_says_so_until_it_no_longer_does() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    let hello = with_extension(&hello_bytes("a.example"), 0xfe0d, &encrypted());
    let ech = Grant {
        ech: true,
        ..grant(Route::Direct)
    };
    rig.backend.allow_as("a.example", Kind::Tls, ech);
    let mut stream = rig.steer(port).await;
    stream.write_all(&hello).await.expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let mut got = vec![0; hello.len()];
    within(server.read_exact(&mut got))
        .await
        .expect("all of it");
    assert_eq!(got, hello);
    rig.backend.allow("a.example", Kind::Tls);
    rig.backend.changed();
    rest(&mut stream).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::PolicyChanged);
}

#[tokio::test]
async fn a_changed_policy_resets_what_it_no_longer_has_and_nothing_else() {
    let pki = Pki::new();
    let (port, _shown) = echo_tls(pki.server("a.example", &[&TLS13])).await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let stream = rig.steer(port).await;
    let client = pki.client(&[&TLS13]);
    let mut tls = within(client.connect(server_name("a.example"), stream))
        .await
        .expect("handshake");
    rig.backend.changed();
    let mut back = [0; 2];
    tls.write_all(b"on").await.expect("write");
    within(tls.read_exact(&mut back))
        .await
        .expect("still there");
    rig.backend.forbid();
    let error = within(tls.read(&mut back)).await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let record = rig.refusal().await;
    assert_eq!(record.outcome, Outcome::PolicyChanged);
    assert_eq!(record.denied, Some(agent_common::Reason::NoRule));
    assert!(record.sent > 0);
    rig.stop().await;
}

#[tokio::test]
async fn an_address_that_the_name_may_not_stand_for_is_neither_reached_nor_kept() {
    let (port, listener) = plain().await;
    let mut rig = Rig::with(GatewayConfig {
        probe: false,
        ..GatewayConfig::default()
    });
    rig.backend.allow("a.example", Kind::Tls);
    let hello = hello_bytes("a.example");
    let home = Ipv4Addr::LOCALHOST;
    let here = [home.into(), home.to_ipv6_mapped().into()];
    *rig.backend.addresses.lock().expect("lock") = Ok(here.into());
    let mut open = rig.steer(port).await;
    open.write_all(&hello).await.expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let mut byte = [0];
    within(server.read_exact(&mut byte)).await.expect("relays");
    rig.backend.walled.lock().expect("lock").push(home.into());
    rig.backend.changed();
    rest(&mut open).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::PolicyChanged);
    let mut late = rig.steer(port).await;
    late.write_all(&hello).await.expect("write");
    assert_eq!(rest(&mut late).await, b"");
    let record = rig.refusal().await;
    assert_eq!(record.outcome, Outcome::Rebind, "{record:?}");
    assert_eq!(record.connected, None);
    rig.stop().await;
}

#[tokio::test]
async fn bytes_unread_pass_only_to_an_address_that_the_policy_gives_for_them() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("127.0.0.1", Kind::Tunnel);
    let mapped = Destination {
        addr: "::ffff:127.0.0.1".parse().expect("address"),
        port,
    };
    *rig.backend.origin.lock().expect("lock") = Some(mapped);
    let mut stream = rig.connect(Listening::Steered4).await;
    // The server speaks first.
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    server.write_all(b"220 hello\r\n").await.expect("write");
    let mut greeting = [0; 11];
    within(stream.read_exact(&mut greeting))
        .await
        .expect("greeting");
    rig.backend.forbid();
    rest(&mut stream).await;
    rest(&mut server).await;
    let record = rig.refusal().await;
    assert_eq!(record.outcome, Outcome::PolicyChanged);
    assert_eq!(record.kind, Some(Kind::Tunnel));
    assert_eq!(record.received, 11);
    rig.stop().await;
}

#[tokio::test]
async fn a_connection_that_nobody_steered_is_closed() {
    let mut rig = Rig::new();
    for listening in [Listening::Steered4, Listening::Steered6] {
        if rig.addresses.contains_key(&listening) {
            let mut stream = rig.connect(listening).await;
            assert_eq!(rest(&mut stream).await, b"");
            assert_eq!(rig.refusal().await.outcome, Outcome::NoOrigin);
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn silence_is_bounded_at_every_step() {
    let hello = hello_bytes("a.example");
    let short = Duration::from_millis(60);
    let mut rig = Rig::with(GatewayConfig {
        first_byte: short,
        ..GatewayConfig::default()
    });
    let mut silent = rig.steer(443).await;
    assert_eq!(rest(&mut silent).await, b"");
    assert_eq!(rig.flow().await.outcome, Outcome::FirstByteTimeout);
    rig.stop().await;

    let mut rig = Rig::with(GatewayConfig {
        handshake: short,
        ..GatewayConfig::default()
    });
    let mut slow = rig.steer(443).await;
    slow.write_all(&hello[..20]).await.expect("write");
    assert_eq!(rest(&mut slow).await, b"");
    assert_eq!(rig.flow().await.outcome, Outcome::HandshakeTimeout);
    rig.stop().await;

    let mut rig = Rig::with(GatewayConfig {
        idle: Duration::from_millis(500),
        ..GatewayConfig::default()
    });
    rig.backend.allow("a.example", Kind::Tls);
    let (port, listener) = plain().await;
    let mut idle = rig.steer(port).await;
    idle.write_all(&hello).await.expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    rest(&mut idle).await;
    rest(&mut server).await;
    assert_eq!(rig.flow().await.outcome, Outcome::IdleTimeout);
    rig.stop().await;
}

#[tokio::test]
async fn a_trickle_does_not_prolong_the_handshake() {
    let hello = hello_bytes("a.example");
    let mut rig = Rig::with(GatewayConfig {
        handshake: Duration::from_millis(60),
        ..GatewayConfig::default()
    });
    rig.backend.allow("a.example", Kind::Tls);
    let stream = rig.steer(443).await;
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        for byte in hello.iter().cycle() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    let mut all = Vec::new();
    let _ = within(reader.read_to_end(&mut all)).await;
    assert_eq!(rig.flow().await.outcome, Outcome::HandshakeTimeout);
    within(trickle).await.expect("it ends");
}

#[tokio::test]
async fn a_server_that_cannot_be_had_is_named_in_the_record() {
    let hello = hello_bytes("a.example");
    let (port, listener) = plain().await;
    drop(listener);
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let mut refused = rig.steer(port).await;
    refused.write_all(&hello).await.expect("write");
    assert_eq!(rest(&mut refused).await, b"");
    let record = rig.flow().await;
    assert_eq!(record.outcome, Outcome::Unreachable, "{record:?}");
    assert!(record.detail.expect("why").contains(&port.to_string()));

    *rig.backend.addresses.lock().expect("lock") = Err(FailKind::NxDomain);
    let mut unknown = rig.steer(port).await;
    unknown.write_all(&hello).await.expect("write");
    assert_eq!(rest(&mut unknown).await, b"");
    let record = rig.flow().await;
    assert_eq!(record.outcome, Outcome::Unresolved, "{record:?}");
    assert_eq!(record.detail.as_deref(), Some("nxdomain"));
    rig.stop().await;
}

#[tokio::test]
async fn a_panic_closes_one_connection_and_no_other() {
    let mut rig = Rig::new();
    let mut stream = rig.steer(443).await;
    let hello = hello_bytes("panics.example");
    stream.write_all(&hello).await.expect("write");
    rest(&mut stream).await;
    assert_eq!(rig.flow().await.outcome, Outcome::Broken);
    let mut stream = rig.steer(443).await;
    stream.write_all(&[0]).await.expect("write");
    rest(&mut stream).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::NotTls);
    rig.stop().await;
}

#[tokio::test]
async fn a_thousand_connections_stay_within_the_bound_and_all_are_told() {
    const ROOM: usize = 32;
    let mut rig = Rig::with(GatewayConfig {
        connections: ROOM,
        ..GatewayConfig::default()
    });
    *rig.backend.origin.lock().expect("lock") = Some(Destination {
        addr: CHOSEN,
        port: 443,
    });
    let addr = rig.addresses[&Listening::Steered4];
    // One that is refused may know before it is connected.
    let open = join_all((0..1000).map(|_| TcpStream::connect(addr))).await;
    let busy = 1000 - ROOM;
    for _ in 0..busy {
        assert_eq!(rig.flow().await.outcome, Outcome::Busy);
    }
    let held = rig.stats.open.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(held, ROOM as u64);
    // Room comes back.
    drop(open);
    for _ in 0..ROOM {
        assert_eq!(rig.flow().await.outcome, Outcome::Left);
    }
    let mut stream = rig.steer(443).await;
    stream.write_all(&[0]).await.expect("write");
    rest(&mut stream).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::NotTls);
    rig.stop().await;
}

#[tokio::test]
async fn stopping_closes_what_is_open() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Tls);
    let mut stream = rig.steer(port).await;
    stream
        .write_all(&hello_bytes("a.example"))
        .await
        .expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let mut byte = [0];
    within(server.read_exact(&mut byte)).await.expect("relays");
    rig.cancel.cancel();
    rest(&mut stream).await;
    assert_eq!(rig.flow().await.outcome, Outcome::Stopped);
    rig.stop().await;
}
