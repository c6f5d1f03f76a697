//! The explicit doors.

use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::testing::*;
use super::*;

const TOKEN: &str = "correct-horse";

/// A gateway whose doors the agent may use.
fn rig() -> Rig {
    let rig = Rig::new();
    *rig.backend.credentials.lock().expect("lock") = Some(Credentials {
        user: "agent".to_owned(),
        token: TOKEN.to_owned(),
    });
    rig
}

/// The header that opens the HTTP door.
fn key() -> String {
    let pair = format!("agent:{TOKEN}");
    format!("Proxy-Authorization: {}\r\n", auth::header(pair.as_bytes()))
}

async fn said(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("write");
    String::from_utf8(rest(stream).await).expect("text")
}

async fn connected(rig: &Rig, to: &str) -> TcpStream {
    let mut stream = rig.connect(Listening::Http).await;
    let ask = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{}\r\n", key());
    stream.write_all(ask.as_bytes()).await.expect("write");
    let mut told = [0; 19];
    within(stream.read_exact(&mut told)).await.expect("answer");
    assert_eq!(&told, b"HTTP/1.1 200 OK\r\n\r\n");
    stream
}

async fn echoes(tls: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    tls.write_all(b"echo").await.expect("write");
    let mut back = [0; 4];
    within(tls.read_exact(&mut back)).await.expect("echo");
    assert_eq!(&back, b"echo");
}

#[tokio::test]
async fn a_tunnel_carries_the_name_that_it_was_asked_for() {
    let pki = Pki::new();
    let (port, _shown) = echo_tls(pki.server("a.example", &[&TLS13])).await;
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Tls);
    rig.backend.allow("b.example", Kind::Tls);
    for to in [format!("A.example:{port}"), format!("192.0.2.7:{port}")] {
        let stream = connected(&rig, &to).await;
        let client = pki.client(&[&TLS13]);
        let tls = within(client.connect(server_name("a.example"), stream)).await;
        let mut tls = tls.expect("handshake");
        echoes(&mut tls).await;
        drop(tls);
        let record = rig.flow().await;
        assert_eq!(record.door, Door::Http);
        assert_eq!(record.name.as_deref(), Some("a.example"));
        assert_eq!(record.connected.expect("connected").port(), port);
    }
    // Another allowed name is another name all the same.
    let mut stream = connected(&rig, &format!("a.example:{port}")).await;
    stream
        .write_all(&hello_bytes("b.example"))
        .await
        .expect("write");
    assert_eq!(rest(&mut stream).await[0], 21, "an alert");
    drop(stream);
    let record = rig.refusal().await;
    assert_eq!(record.outcome, Outcome::NameMismatch, "{record:?}");
    assert_eq!(record.sni.as_deref(), Some("b.example"));
    // To an address, a name that is not allowed.
    let mut stream = connected(&rig, &format!("192.0.2.7:{port}")).await;
    stream
        .write_all(&hello_bytes("evil.example"))
        .await
        .expect("write");
    assert_eq!(rest(&mut stream).await[0], 21, "an alert");
    drop(stream);
    assert_eq!(rig.refusal().await.outcome, Outcome::NameNotAllowed);
    // Neither TLS nor HTTP, where the rule wants one of them.
    let mut stream = connected(&rig, &format!("a.example:{port}")).await;
    stream.write_all(b"\0raw").await.expect("write");
    rest(&mut stream).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::NotTls);
    rig.stop().await;
}

#[tokio::test]
async fn a_tunnel_of_bytes_unread_is_a_rule_of_its_own_and_falls_with_it() {
    let (port, listener) = plain().await;
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Tunnel);
    let mut stream = connected(&rig, &format!("a.example:{port}")).await;
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    server.write_all(b"220 hi").await.expect("write");
    let mut greeting = [0; 6];
    within(stream.read_exact(&mut greeting))
        .await
        .expect("greeting");
    rig.backend.forbid();
    rest(&mut stream).await;
    rest(&mut server).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::PolicyChanged);
    rig.stop().await;
}

#[tokio::test]
async fn http_inside_a_tunnel_keeps_to_its_name() {
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Http);
    rig.backend.allow("b.example", Kind::Http);
    let mut stream = connected(&rig, "a.example:80").await;
    let told = said(&mut stream, "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    assert_eq!(rig.refusal().await.outcome, Outcome::NameMismatch);
    rig.stop().await;
}

#[tokio::test]
async fn the_http_door_opens_to_the_agents_token_alone() {
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Tls);
    rig.backend.allow("a.example", Kind::Http);
    let wrong = format!("Proxy-Authorization: {}\r\n", auth::header(b"agent:wrong"));
    for ask in [
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n",
    ] {
        for key in ["", &wrong] {
            let mut stream = rig.connect(Listening::Http).await;
            let told = said(&mut stream, &format!("{ask}{key}\r\n")).await;
            assert!(told.starts_with("HTTP/1.1 407 "), "{told}");
            assert!(told.contains("proxy-authenticate: Basic"), "{told}");
            assert_eq!(rig.refusal().await.outcome, Outcome::Unauthenticated);
        }
    }
    // Nobody has a token.
    *rig.backend.credentials.lock().expect("lock") = None;
    let mut stream = rig.connect(Listening::Http).await;
    let ask = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n";
    let told = said(&mut stream, &format!("{ask}{}\r\n", key())).await;
    assert!(told.starts_with("HTTP/1.1 407 "), "{told}");
    assert_eq!(rig.refusal().await.outcome, Outcome::Unauthenticated);
    assert!(rig.backend.resolved().is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn what_the_policy_does_not_have_is_refused_before_the_tunnel() {
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Http);
    let key = key();
    for (ask, status, outcome) in [
        (
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: a.example\r\n",
            "403",
            Outcome::NameNotAllowed,
        ),
        (
            "CONNECT localhost:443 HTTP/1.1\r\nHost: a.example\r\n",
            "400",
            Outcome::BadName,
        ),
        (
            "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n",
            "403",
            Outcome::HostNotAllowed,
        ),
        (
            "GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n",
            "400",
            Outcome::HostMismatch,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\n",
            "400",
            Outcome::BadRequest,
        ),
    ] {
        let mut stream = rig.connect(Listening::Http).await;
        let told = said(&mut stream, &format!("{ask}{key}\r\n")).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
        let record = rig.refusal().await;
        assert_eq!(record.outcome, outcome, "{ask}: {record:?}");
        assert!(!format!("{record:?}{told}").contains(TOKEN));
    }
    assert!(rig.backend.resolved().is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn a_whole_url_is_asked_for_without_the_key() {
    let (port, listener) = plain().await;
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Http);
    let mut stream = rig.connect(Listening::Http).await;
    let ask = format!(
        "GET http://a.example:{port}/x?y HTTP/1.1\r\nHost: a.example:{port}\r\n{}\r\n",
        key()
    );
    stream.write_all(ask.as_bytes()).await.expect("write");
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let expected = format!("GET /x?y HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n");
    let mut got = vec![0; expected.len()];
    within(server.read_exact(&mut got)).await.expect("head");
    assert_eq!(String::from_utf8(got).expect("text"), expected);
    server
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .expect("write");
    let mut told = [0; 27];
    within(stream.read_exact(&mut told)).await.expect("answer");
    drop(stream);
    assert_eq!(rig.flow().await.name.as_deref(), Some("a.example"));
    rig.stop().await;
}

/// Greeting, user and password of the SOCKS5 door.
fn opening(token: &str) -> Vec<u8> {
    let mut bytes = vec![5, 2, 0, 2, 1, 5];
    bytes.extend(b"agent");
    bytes.push(u8::try_from(token.len()).expect("short"));
    bytes.extend(token.as_bytes());
    bytes
}

/// A request: command, kind of address, address and port.
fn request(command: u8, kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    let mut bytes = vec![5, command, 0, kind];
    if kind == 3 {
        bytes.push(u8::try_from(address.len()).expect("short"));
    }
    bytes.extend(address);
    bytes.extend(port.to_be_bytes());
    bytes
}

/// What the door says to the opening.
const OPEN: [u8; 4] = [5, 2, 1, 0];

fn reply(code: u8) -> Vec<u8> {
    [&OPEN[..], &[5, code, 0, 1, 0, 0, 0, 0, 0, 0]].concat()
}

#[tokio::test]
async fn the_socks_door_passes_names_and_addresses_that_show_a_name() {
    let pki = Pki::new();
    let (port, _shown) = echo_tls(pki.server("a.example", &[&TLS13])).await;
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Tls);
    let mapped = "::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>();
    let mapped = mapped.expect("address").octets();
    for (kind, address) in [
        (3, &b"A.example"[..]),
        (3, b"192.0.2.7"),
        (1, &[192, 0, 2, 7]),
        (4, &mapped),
    ] {
        let mut stream = rig.connect(Listening::Socks).await;
        let talk = [opening(TOKEN), request(1, kind, address, port)].concat();
        for byte in talk {
            stream.write_all(&[byte]).await.expect("write");
        }
        let mut told = vec![0; reply(0).len()];
        within(stream.read_exact(&mut told)).await.expect("reply");
        assert_eq!(told, reply(0));
        let client = pki.client(&[&TLS13]);
        let tls = within(client.connect(server_name("a.example"), stream)).await;
        let mut tls = tls.expect("handshake");
        echoes(&mut tls).await;
        drop(tls);
        let record = rig.flow().await;
        assert_eq!(record.door, Door::Socks);
        assert_eq!(record.name.as_deref(), Some("a.example"));
        let address = record.destination.map(|to| to.addr.to_string());
        let expected = (address.is_some()).then(|| "192.0.2.7".to_owned());
        assert_eq!(address, expected);
    }
    rig.stop().await;
}

#[tokio::test]
async fn the_socks_door_says_no_in_its_own_words() {
    let mut rig = rig();
    rig.backend.allow("a.example", Kind::Tls);
    let long = vec![b'a'; 255];
    let open = |rest: Vec<u8>| [opening(TOKEN), rest].concat();
    let unauthenticated = Outcome::Unauthenticated;
    let cases: [(&str, Vec<u8>, Vec<u8>, Outcome); 13] = [
        ("no method", vec![5, 0], vec![5, 255], unauthenticated),
        ("no password", vec![5, 1, 0], vec![5, 255], unauthenticated),
        ("SOCKS4", vec![4, 1, 0, 80], vec![], Outcome::BadSocks),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![],
            Outcome::BadSocks,
        ),
        (
            "wrong token",
            opening("wrong"),
            vec![5, 2, 1, 1],
            unauthenticated,
        ),
        (
            "empty token",
            opening(""),
            vec![5, 2, 1, 1],
            unauthenticated,
        ),
        (
            "another tenant",
            open(request(1, 3, b"evil.example", 443)),
            reply(2),
            Outcome::NameNotAllowed,
        ),
        (
            "this machine",
            open(request(1, 3, b"localhost", 443)),
            reply(2),
            Outcome::BadName,
        ),
        (
            "a long name",
            open(request(1, 3, &long, 443)),
            reply(2),
            Outcome::BadName,
        ),
        (
            "bind",
            open(request(2, 3, b"a.example", 443)),
            reply(7),
            Outcome::BadSocks,
        ),
        (
            "udp",
            open(request(3, 1, &[0; 4], 0)),
            reply(7),
            Outcome::BadSocks,
        ),
        (
            "no address",
            open(request(1, 2, b"", 443)),
            reply(8),
            Outcome::BadSocks,
        ),
        (
            "no port",
            open(request(1, 3, b"a.example", 0)),
            reply(2),
            Outcome::BadSocks,
        ),
    ];
    for (what, talk, expected, outcome) in cases {
        let mut stream = rig.connect(Listening::Socks).await;
        stream.write_all(&talk).await.expect("write");
        stream.shutdown().await.expect("end");
        let told = rest(&mut stream).await;
        assert!(expected.starts_with(&told), "{what}: {told:?}");
        let record = rig.refusal().await;
        assert_eq!(record.outcome, outcome, "{what}: {record:?}");
        if outcome != Outcome::BadSocks || expected.len() > OPEN.len() {
            assert_eq!(told, expected, "{what}");
        }
    }
    assert!(rig.backend.resolved().is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn no_changed_byte_opens_the_socks_door_wider() {
    let rig = rig();
    rig.backend.allow("a.example", Kind::Tls);
    let good = [opening(TOKEN), request(1, 3, b"a.example", 443)].concat();
    let opened = reply(0);
    let key = 6..opening(TOKEN).len();
    for at in 0..good.len() {
        for value in [0, 1, 2, 3, 5, 0x7f, 0xff, good[at] ^ 1] {
            let mut talk = good.clone();
            talk[at] = value;
            let mut stream = rig.connect(Listening::Socks).await;
            // It may be closed before all of it is written.
            let _ = stream.write_all(&talk).await;
            let _ = stream.shutdown().await;
            let told = rest(&mut stream).await;
            let open = told.starts_with(&opened);
            if open && value != good[at] {
                // Other methods beside the one, another port, and an address for the name:
                // those must show the name, as a tunnel to it must.
                assert!(!key.contains(&at), "byte {at} as {value}: {told:?}");
            }
            assert!(rig.backend.resolved().is_empty(), "byte {at} as {value}");
        }
        let mut stream = rig.connect(Listening::Socks).await;
        stream.write_all(&good[..at]).await.expect("write");
        stream.shutdown().await.expect("end");
        let told = rest(&mut stream).await;
        assert!(!told.starts_with(&opened), "cut at {at}");
    }
}
