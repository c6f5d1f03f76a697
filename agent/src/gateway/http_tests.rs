//! Plain HTTP through the gateway, in raw bytes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::testing::*;
use super::*;

/// A server that reads heads, without a body, and answers each with `ok`; the heads come out.
async fn server() -> (u16, mpsc::UnboundedReceiver<String>) {
    let (port, listener) = plain().await;
    let (heads, got) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                while let Some(head) = head(&mut stream).await {
                    let _ = heads.send(head);
                    let answer = b"HTTP/1.1 200 OK\r\nX-Case: Kept\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, got)
}

/// Reads up to the empty line.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.ok()?);
    }
    Some(String::from_utf8(head).expect("text"))
}

/// Reads a head and a body of the length that it tells.
async fn answer(stream: &mut TcpStream) -> (String, String) {
    let head = head(stream).await.expect("an answer");
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().expect("number"));
    let mut body = vec![0; length];
    within(stream.read_exact(&mut body)).await.expect("body");
    (head, String::from_utf8(body).expect("text"))
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("write");
}

/// A port where nobody may come.
async fn nobody() -> (u16, TcpListener) {
    plain().await
}

#[tokio::test]
async fn an_allowed_request_passes_as_it_was_but_for_its_connection() {
    let (port, mut heads) = server().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Http);
    let mut stream = rig.steer(port).await;
    let host = format!("A.example:{port}");
    say(
        &mut stream,
        &format!(
            "GET /x?y=1 HTTP/1.1\r\nHost: {host}\r\nX-CamelCase: 1\r\nConnection: X-Own\r\n\
             X-Own: 2\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n"
        ),
    )
    .await;
    let (told, body) = answer(&mut stream).await;
    assert_eq!(
        told,
        "HTTP/1.1 200 OK\r\nX-Case: Kept\r\nContent-Length: 2\r\n\r\n"
    );
    assert_eq!(body, "ok");
    let got = within(heads.recv()).await.expect("a head");
    assert_eq!(
        got,
        format!("GET /x?y=1 HTTP/1.1\r\nHost: {host}\r\nX-CamelCase: 1\r\n\r\n")
    );
    // The next one of the same connection, and its server connection.
    say(
        &mut stream,
        &format!("GET /z HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    )
    .await;
    answer(&mut stream).await;
    assert!(
        within(heads.recv())
            .await
            .expect("a head")
            .starts_with("GET /z ")
    );
    // And one that nobody can read.
    say(&mut stream, "\0\r\n\r\n").await;
    let told = rest(&mut stream).await;
    assert!(told.starts_with(b"HTTP/1.1 400 "), "{told:?}");
    assert_eq!(rig.refusal().await.outcome, Outcome::BadRequest);
    let record = rig.flow().await;
    assert_eq!(record.outcome, Outcome::Closed, "{record:?}");
    assert_eq!((record.requests, record.kind), (2, Some(Kind::Http)));
    assert_eq!(record.name.as_deref(), Some("a.example"));
    assert!(record.sent > 0 && record.received > 0);
    assert_eq!(rig.backend.resolved().len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn every_request_of_a_connection_is_judged() {
    let (port, mut heads) = server().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Http);
    rig.backend.allow("b.example", Kind::Http);
    let mut stream = rig.steer(port).await;
    for host in ["a.example", "b.example"] {
        say(
            &mut stream,
            &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        )
        .await;
        answer(&mut stream).await;
        let got = within(heads.recv()).await.expect("a head");
        assert!(got.contains(&format!("Host: {host}\r\n")), "{got}");
    }
    let first = rig.flow().await;
    assert_eq!(first.name.as_deref(), Some("a.example"));
    assert_eq!((first.outcome, first.requests), (Outcome::Closed, 1));
    say(&mut stream, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    let (told, body) = answer(&mut stream).await;
    assert!(told.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{told}");
    assert_eq!(
        body,
        "Exeat: the policy test-policy does not allow evil.example\n"
    );
    assert_eq!(rest(&mut stream).await, b"", "and it ends");
    let second = rig.flow().await;
    assert_eq!(second.name.as_deref(), Some("b.example"));
    let refused = rig.refusal().await;
    assert_eq!(refused.outcome, Outcome::HostNotAllowed);
    assert_eq!(refused.name.as_deref(), Some("evil.example"));
    assert_eq!((refused.sent, refused.requests), (0, 0));
    assert!(heads.try_recv().is_err(), "nothing more left");
    rig.stop().await;
}

#[tokio::test]
async fn what_two_servers_could_read_in_two_ways_is_refused() {
    let cases = [
        ("no host", "GET / HTTP/1.1\r\n\r\n", Outcome::NoHost),
        ("no host of old", "GET / HTTP/1.0\r\n\r\n", Outcome::NoHost),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
            Outcome::HostMismatch,
        ),
        (
            "another in the line",
            "GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Outcome::HostMismatch,
        ),
        (
            "folded host",
            "GET / HTTP/1.1\r\nHost: a.example\r\n evil.example\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "folded header",
            "GET / HTTP/1.1\r\nX: a\r\n Host: evil.example\r\nHost: a.example\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "space before the colon",
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost : evil.example\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "a lone carriage return",
            "GET / HTTP/1.1\r\nX: a\rHost: evil.example\r\nHost: a.example\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx",
            Outcome::BadRequest,
        ),
        (
            "a length in two",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1, 9\r\n\r\nx",
            Outcome::BadRequest,
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +1\r\n\r\nx",
            Outcome::BadRequest,
        ),
        (
            "chunked, not last",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "chunked after another",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "chunked in disguise",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "chunked before its time",
            "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "its own host by connection",
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Host\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "a tunnel",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Outcome::Connect,
        ),
        (
            "an address",
            "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
            Outcome::IpLiteral,
        ),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Outcome::Http2),
        ("words", "HELLO\r\n\r\n", Outcome::BadRequest),
    ];
    for (what, request, outcome) in cases {
        let (port, listener) = nobody().await;
        let mut rig = Rig::new();
        rig.backend.allow("a.example", Kind::Http);
        let mut stream = rig.steer(port).await;
        say(&mut stream, request).await;
        let told = rest(&mut stream).await;
        assert!(!told.starts_with(b"HTTP/1.1 2"), "{what}");
        let record = rig.refusal().await;
        assert_eq!(record.outcome, outcome, "{what}: {record:?}");
        rig.stop().await;
        listener
            .into_std()
            .expect("std")
            .accept()
            .map(drop)
            .expect_err(what);
    }
}

#[tokio::test]
async fn a_request_inside_a_body_stays_in_the_body() {
    let evil = "GET /evil HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let chunked = format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len());
    let bodies = [
        format!("Content-Length: {}\r\n\r\n{evil}", evil.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{chunked}"),
        // hyper takes the length out of these: what leaves has one framing.
        format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{chunked}"),
    ];
    for body in bodies {
        let (port, listener) = plain().await;
        let mut rig = Rig::new();
        rig.backend.allow("a.example", Kind::Http);
        let mut stream = rig.steer(port).await;
        say(
            &mut stream,
            &format!("POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{body}"),
        )
        .await;
        let (mut server, _) = within(listener.accept()).await.expect("accept");
        let head = head(&mut server).await.expect("a head");
        let lower = head.to_ascii_lowercase();
        let lengths = lower.matches("content-length").count();
        let codings = lower.matches("transfer-encoding").count();
        assert_eq!(lengths + codings, 1, "{head}");
        let framed = match codings {
            1 => chunked.clone(),
            _ => evil.to_owned(),
        };
        let mut got = vec![0; framed.len()];
        within(server.read_exact(&mut got)).await.expect("body");
        assert_eq!(String::from_utf8(got).expect("text"), framed);
        say(&mut server, "HTTP/1.1 204 No Content\r\n\r\n").await;
        let told = String::from_utf8(rest(&mut stream).await).expect("text");
        assert!(told.starts_with("HTTP/1.1 204"), "{told}");
        assert_eq!(rig.flow().await.requests, 1);
        rig.stop().await;
    }
}

#[tokio::test]
async fn answers_stream_and_trailers_of_one_connection_do_not_travel() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Http);
    let mut stream = rig.steer(port).await;
    say(&mut stream, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    head(&mut server).await.expect("a head");
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\n\r\n3\r\none\r\n",
    )
    .await;
    let told = head(&mut stream).await.expect("an answer");
    assert_eq!(
        told.to_ascii_lowercase(),
        "http/1.1 200 ok\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut chunk = [0; 8];
    within(stream.read_exact(&mut chunk)).await.expect("chunk");
    assert_eq!(&chunk, b"3\r\none\r\n", "before the answer ends");
    rig.backend.forbid();
    rest(&mut stream).await;
    rest(&mut server).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::PolicyChanged);
    rig.stop().await;
}

#[tokio::test]
async fn messages_without_a_body_keep_their_length() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Http);
    let mut stream = rig.steer(port).await;
    let mut server = None;
    for (ask, length, said) in [
        ("HEAD / HTTP/1.1", "", "200 OK\r\nContent-Length: 7"),
        (
            "GET / HTTP/1.1",
            "",
            "304 Not Modified\r\nContent-Length: 7",
        ),
        ("GET / HTTP/1.1", "", "304 Not Modified\r\nETag: x"),
        (
            "POST / HTTP/1.1",
            "Content-Length: 0\r\n",
            "204 No Content\r\nX: y",
        ),
    ] {
        let rest = format!("Host: a.example\r\n{length}");
        say(&mut stream, &format!("{ask}\r\n{rest}\r\n")).await;
        let server = match &mut server {
            Some(server) => server,
            none => none.insert(within(listener.accept()).await.expect("accept").0),
        };
        let got = head(server).await.expect("a head");
        assert_eq!(got, format!("{ask}\r\n{rest}\r\n"));
        say(server, &format!("HTTP/1.1 {said}\r\n\r\n")).await;
        let told = head(&mut stream).await.expect("an answer");
        // hyper leaves the length out of a 304, as it may (RFC 9110 section 8.6).
        let expected = match said.strip_suffix("\r\nContent-Length: 7") {
            Some(short) if short.starts_with("304") => short,
            _ => said,
        };
        assert_eq!(told, format!("HTTP/1.1 {expected}\r\n\r\n"));
    }
    drop(stream);
    assert_eq!(rig.flow().await.requests, 4);
    rig.stop().await;
}

#[tokio::test]
async fn a_websocket_passes_and_falls_with_the_policy() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Http);
    let mut stream = rig.steer(port).await;
    say(
        &mut stream,
        "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: x\r\n\r\n",
    )
    .await;
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    let got = head(&mut server)
        .await
        .expect("a head")
        .to_ascii_lowercase();
    assert!(got.contains("upgrade: websocket\r\n"), "{got}");
    say(
        &mut server,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
    )
    .await;
    let told = head(&mut stream).await.expect("an answer");
    assert!(told.starts_with("HTTP/1.1 101 "), "{told}");
    let mut hi = [0; 2];
    within(stream.read_exact(&mut hi))
        .await
        .expect("early bytes");
    say(&mut stream, "ho").await;
    within(server.read_exact(&mut hi)).await.expect("bytes");
    assert_eq!(&hi, b"ho");
    rig.backend.forbid();
    rest(&mut stream).await;
    rest(&mut server).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::PolicyChanged);
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_fails_is_a_502_and_one_that_closed_is_asked_anew() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    rig.backend.allow("a.example", Kind::Http);
    let mut stream = rig.steer(port).await;
    let ask = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    say(&mut stream, ask).await;
    let (mut server, _) = within(listener.accept()).await.expect("accept");
    head(&mut server).await.expect("a head");
    say(&mut server, "HTTP/1.1 204 No Content\r\n\r\n").await;
    answer(&mut stream).await;
    // Kept alive by the program, closed by the server.
    server.shutdown().await.expect("shutdown");
    assert_eq!(rest(&mut server).await, b"");
    say(&mut stream, ask).await;
    let (mut server, _) = within(listener.accept()).await.expect("again");
    head(&mut server).await.expect("a head");
    say(&mut server, "nonsense\r\n\r\n").await;
    let (told, body) = answer(&mut stream).await;
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    assert!(body.contains("a.example: upstream_failed"), "{body}");
    assert_eq!(rig.flow().await.outcome, Outcome::UpstreamFailed);
    drop(listener);
    let mut stream = rig.steer(port).await;
    say(&mut stream, ask).await;
    let (told, body) = answer(&mut stream).await;
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    assert!(body.contains("a.example: unreachable"), "{body}");
    assert_eq!(rig.flow().await.outcome, Outcome::Unreachable);
    rig.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_bounded_in_time_and_length() {
    let mut rig = Rig::with(GatewayConfig {
        first_byte: Duration::from_millis(60),
        ..GatewayConfig::default()
    });
    let mut slow = rig.steer(80).await;
    say(&mut slow, "GET / HTTP/1.1\r\nHost: a.exam").await;
    rest(&mut slow).await;
    assert_eq!(rig.flow().await.outcome, Outcome::HandshakeTimeout);
    rig.stop().await;
    let mut rig = Rig::new();
    let mut long = rig.steer(80).await;
    let line = format!("X-Long: {}\r\n", "x".repeat(1000));
    let request = format!("GET / HTTP/1.1\r\n{}", line.repeat(100));
    // It is told before it has written everything.
    let _ = long.write_all(request.as_bytes()).await;
    rest(&mut long).await;
    let record = rig.refusal().await;
    assert_eq!(record.outcome, Outcome::BadRequest, "{record:?}");
    rig.stop().await;
}
