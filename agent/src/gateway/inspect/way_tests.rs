//! How inspected connections come, go out and end.

use std::sync::Arc;

use hyper::body::Frame;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::super::proxy_tests::{at, proxy, tunnels};
use super::super::testing::*;
use super::super::*;
use super::testing::*;
use crate::policy::Inspect;

#[tokio::test]
async fn by_a_door_and_through_a_proxy_it_is_inspected_the_same() {
    let pki = Pki::new();
    let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
    let (at_port, mut heads) = tunnels(None).await;
    let mut place = Place::new(&pki, lax());
    let inspect = Inspect {
        requests: requests(&["GET"], "/v1/**"),
        ..lax()
    };
    let through = Grant {
        inspect: Some(Arc::new(inspect)),
        ..proxy(at(at_port))
    };
    place.rig.backend.allow_as("a.example", Kind::Tls, through);
    *place.rig.backend.credentials.lock().expect("lock") = Some(Credentials {
        user: "agent".to_owned(),
        token: "token".to_owned(),
    });
    let mut stream = place.rig.connect(Listening::Http).await;
    let to = format!("a.example:{port}");
    let key = auth::header(b"agent:token");
    let ask = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nProxy-Authorization: {key}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("write");
    let mut told = [0; 19];
    within(stream.read_exact(&mut told)).await.expect("answer");
    let tls = place.tls_over(stream, &["h2"]).await.expect("handshake");
    let mut program = Program::new(tls).await;
    assert_eq!(program.get("/v2/a", &[]).await.0, 403);
    assert_eq!(program.get("/v1/a", &[]).await.0, 200);
    assert_eq!(within(got.recv()).await.expect("asked").uri.path(), "/v1/a");
    let asked = within(heads.recv()).await.expect("a tunnel");
    assert!(asked.starts_with(&format!("CONNECT {to} ")), "{asked}");
    let (record, _) = place.refusal().await;
    assert_eq!(record.door, Door::Http);
    let label = format!("proxy.corp:{at_port}");
    assert_eq!(record.proxy.as_deref(), Some(label.as_str()));
    place.request().await;
    drop(program);
    assert_eq!(place.rig.flow().await.requests, 1);
    place.rig.stop().await;
}

#[tokio::test]
async fn a_server_that_goes_takes_the_program_along_in_peace() {
    for alpn in BOTH {
        let pki = Pki::new();
        let stop = CancellationToken::new();
        let server = pki.server("a.example", &[&TLS13]);
        let (port, _got) = site_until(server, stop.clone()).await;
        let mut place = Place::new(&pki, lax());
        let mut program = place.program(port, &[alpn]).await;
        assert_eq!(program.get("/", &[]).await.0, 200);
        place.request().await;
        stop.cancel();
        program.ended().await;
        let record = place.rig.flow().await;
        assert_eq!(record.outcome, Outcome::Closed, "{:?}", record.detail);
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_goes_ends_what_it_has_begun_and_the_rest_may_be_asked_elsewhere() {
    let pki = Pki::new();
    let stop = CancellationToken::new();
    let (port, mut got) = site_until(pki.server("a.example", &[&TLS13]), stop.clone()).await;
    let place = Place::new(&pki, lax());
    let mut program = place.program(port, &["h2"]).await;
    let (pieces, request) = program.pieces("/echo");
    let piece = |text: &'static str| Frame::data(bytes::Bytes::from_static(text.as_bytes()));
    pieces.send(piece("one")).expect("sent");
    let response = program.send(request).await.expect("begun");
    stop.cancel();
    let error = loop {
        let request = program.request("GET", "/", &[]);
        match program.send(request.map(|()| none())).await {
            // It was asked before the server's word came.
            Ok(_) => drop(within(got.recv()).await),
            Err(error) => break error,
        }
    };
    let inner = std::error::Error::source(&error).and_then(|it| it.downcast_ref::<h2::Error>());
    let reason = inner.and_then(h2::Error::reason);
    assert_eq!(reason, Some(h2::Reason::REFUSED_STREAM), "{error:?}");
    pieces.send(piece("two")).expect("sent");
    drop(pieces);
    let body = http_body_util::BodyExt::collect(response.into_body());
    let body = within(body).await.expect("to its end").to_bytes();
    assert_eq!(&body[..], b"onetwo");
    program.ended().await;
}

#[tokio::test]
async fn a_server_that_ends_ends_the_program_without_an_error() {
    let pki = Pki::new();
    let (port, _got) = site(pki.server("a.example", &[&TLS13])).await;
    let mut place = Place::new(&pki, lax());
    let mut tls = place.tls(port, &["http/1.1"]).await.expect("handshake");
    tls.write_all(b"GET /last HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await
        .expect("write");
    let mut told = Vec::new();
    within(tls.read_to_end(&mut told))
        .await
        .expect("with its last word");
    let told = String::from_utf8(told).expect("text");
    assert!(
        told.contains("connection: close\r\n") && told.ends_with("ok"),
        "{told}"
    );
    let (record, _) = place.request().await;
    assert_eq!(record.outcome, Outcome::Closed);
    let record = place.rig.flow().await;
    assert_eq!((record.outcome, record.requests), (Outcome::Closed, 1));
    place.rig.stop().await;
}

#[tokio::test]
async fn a_rule_that_inspects_otherwise_resets_what_is_open_and_the_same_does_not() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
        let mut place = Place::new(&pki, lax());
        let mut program = place.program(port, &[alpn]).await;
        assert_eq!(program.get("/a", &[]).await.0, 200);
        place.request().await;
        // The same, made anew.
        let again = inspecting(lax());
        place.rig.backend.allow_as("a.example", Kind::Tls, again);
        place.rig.backend.changed();
        assert_eq!(program.get("/b", &[]).await.0, 200);
        place.request().await;
        let stricter = Inspect {
            max_body: Some(1),
            ..lax()
        };
        // With a request under way.
        let (pieces, request) = program.pieces("/echo");
        let piece = hyper::body::Frame::data(bytes::Bytes::from_static(b"piece"));
        pieces.send(piece).expect("sent");
        let response = program.send(request).await.expect("begun");
        let stricter = inspecting(stricter);
        place.rig.backend.allow_as("a.example", Kind::Tls, stricter);
        place.rig.backend.changed();
        let body = http_body_util::BodyExt::collect(response.into_body());
        within(body).await.map(drop).expect_err("broken off");
        let record = place.rig.refusal().await;
        assert_eq!(record.outcome, Outcome::PolicyChanged);
        assert_eq!((record.request, record.requests), (None, 3));
        let (record, _) = place.request().await;
        assert_eq!(record.outcome, Outcome::Reset);
        got.close();
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn without_an_authority_nothing_passes() {
    let mut rig = Rig::new();
    rig.backend
        .allow_as("a.example", Kind::Tls, inspecting(lax()));
    let mut stream = rig.steer(443).await;
    let hello = hello_bytes("a.example");
    stream.write_all(&hello).await.expect("write");
    assert_eq!(rest(&mut stream).await, [21, 3, 3, 0, 2, 2, 49]);
    assert_eq!(rig.refusal().await.outcome, Outcome::NotInspectable);
    assert!(rig.backend.resolved().is_empty(), "nothing leaves");
    rig.stop().await;
}

#[tokio::test]
async fn nothing_of_an_inspected_rule_passes_in_clear_or_unread() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    for kind in [Kind::Http, Kind::Tunnel] {
        rig.backend.allow_as("a.example", kind, inspecting(lax()));
        rig.backend.allow_as("192.0.2.1", kind, inspecting(lax()));
    }
    let mut stream = rig.steer(port).await;
    let head = format!("GET / HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("write");
    let told = rest(&mut stream).await;
    assert!(told.starts_with(b"HTTP/1.1 403"), "{told:?}");
    assert_eq!(rig.refusal().await.outcome, Outcome::RequestNotAllowed);
    let mut stream = rig.steer(port).await;
    stream.write_all(b"\0unread").await.expect("write");
    rest(&mut stream).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::NotTls);
    drop(listener);
    rig.stop().await;
}

#[tokio::test]
async fn a_hello_with_an_encrypted_name_ends_here_for_the_name_outside() {
    let pki = Pki::new();
    let (port, _got) = site(pki.server("a.example", &[&TLS13])).await;
    let mut place = Place::new(&pki, lax());
    let mut stream = place.rig.steer(port).await;
    let hello = with_extension(&hello_bytes("a.example"), 0xfe0d, &encrypted());
    stream.write_all(&hello).await.expect("write");
    let mut answer = [0; 6];
    within(stream.read_exact(&mut answer))
        .await
        .expect("answer");
    assert_eq!((answer[0], answer[5]), (22, 2), "a ServerHello");
    // With bytes left unread.
    drop(stream);
    assert_eq!(place.rig.flow().await.outcome, Outcome::Reset);
    place.rig.stop().await;
}
