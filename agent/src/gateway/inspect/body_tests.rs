//! Bodies of inspected requests.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use rustls::version::TLS13;

use super::super::testing::*;
use super::super::*;
use super::testing::*;
use crate::policy::Inspect;

fn data(bytes: &[u8]) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(bytes))
}

#[tokio::test]
async fn a_body_that_is_too_long_is_never_whole_at_its_server() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
        let inspect = Inspect {
            max_body: Some(10),
            ..lax()
        };
        let mut place = Place::new(&pki, inspect);
        let mut program = place.program(port, &[alpn]).await;
        assert_eq!(program.post("/", "0123456789").await.0, 200);
        assert!(within(got.recv()).await.expect("asked").whole);
        place.request().await;
        // Its length says so.
        let (status, words) = program.post("/", "0123456789x").await;
        assert_eq!(status, 413, "{words}");
        let (record, request) = place.refusal().await;
        assert_eq!(record.outcome, Outcome::BodyTooLarge);
        assert_eq!(request.sent, 0);
        assert!(got.try_recv().is_err(), "the server was not asked");
        drop(program);
        assert_eq!(place.rig.flow().await.requests, 1);
        // It comes without a length.
        let mut program = place.program(port, &[alpn]).await;
        let (pieces, request) = program.pieces("/");
        for _ in 0..3 {
            pieces.send(data(b"0123")).expect("sent");
        }
        drop(pieces);
        let (status, words) = program.ask(request).await;
        assert_eq!(status, 413, "{words}");
        assert!(words.contains("10 bytes"), "{words}");
        let (record, request) = place.refusal().await;
        assert_eq!(record.outcome, Outcome::BodyTooLarge);
        assert!(request.sent <= 10);
        if let Some(seen) = within(got.recv()).await {
            assert!(!seen.whole && seen.body.len() <= 10, "{seen:?}");
        }
        drop(program);
        place.rig.flow().await;
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn a_pattern_over_a_border_stops_the_body_before_it_leaves() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
        let inspect = Inspect {
            patterns: vec![pattern("a-key", "KEY[0-9]{4}", false)],
            ..lax()
        };
        let mut place = Place::new(&pki, inspect);
        for (begins, ends) in [(&b"...KE"[..], &b"Y1234..."[..]), (b"KEY1234", b"")] {
            let mut program = place.program(port, &[alpn]).await;
            let (pieces, request) = program.pieces("/");
            pieces.send(data(&[b'x'; 30_000])).expect("sent");
            pieces.send(data(begins)).expect("sent");
            pieces.send(data(ends)).expect("sent");
            drop(pieces);
            let (status, words) = program.ask(request).await;
            assert_eq!(status, 403, "{words}");
            assert!(
                words.contains("the pattern a-key is in its body"),
                "{words}"
            );
            assert!(!words.contains("1234"));
            let (record, request) = place.refusal().await;
            assert_eq!(record.outcome, Outcome::DataPattern);
            assert_eq!(request.patterns, ["a-key"]);
            let seen = within(got.recv()).await.expect("it was asked");
            assert!(!seen.whole);
            assert!(!seen.body.windows(2).any(|it| it == b"KE"));
            drop(program);
            place.rig.flow().await;
        }
        // What has nothing of it passes whole.
        let mut program = place.program(port, &[alpn]).await;
        let long = "KEY-".repeat(50_000);
        assert_eq!(program.post("/", &long).await.0, 200);
        assert_eq!(
            within(got.recv()).await.expect("asked").body,
            long.as_bytes()
        );
        let (_, request) = place.request().await;
        assert_eq!(request.sent, 200_000);
        drop(program);
        place.rig.flow().await;
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn what_is_only_reported_passes_and_is_named() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
        let patterns = [
            ("body", "KEY[0-9]{4}"),
            ("url", "TOKEN"),
            ("never", "NEVER"),
        ];
        let inspect = Inspect {
            patterns: patterns
                .map(|(name, regex)| pattern(name, regex, true))
                .into(),
            ..lax()
        };
        let mut place = Place::new(&pki, inspect);
        let mut program = place.program(port, &[alpn]).await;
        let (status, _) = program.post("/TOKEN/x", "KEY1234").await;
        assert_eq!(status, 200);
        assert_eq!(within(got.recv()).await.expect("asked").body, b"KEY1234");
        let (record, request) = place.request().await;
        assert_eq!(record.outcome, Outcome::Closed);
        assert_eq!(request.patterns, ["url", "body"]);
        assert_eq!(request.path, None, "what matched is never told");
        drop(program);
        place.rig.flow().await;
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn both_sides_may_talk_at_once_while_patterns_are_looked_for() {
    let pki = Pki::new();
    let (port, _got) = site(pki.server("a.example", &[&TLS13])).await;
    let inspect = Inspect {
        patterns: vec![pattern("a-key", "KEY[0-9]{4}", false)],
        ..lax()
    };
    let mut place = Place::new(&pki, inspect);
    let mut program = place.program(port, &["h2"]).await;
    let (pieces, request) = program.pieces("/echo");
    pieces.send(data(b"one")).expect("sent");
    let mut response = program.send(request).await.expect("begun").into_body();
    for next in [&b"two"[..], b"three"] {
        let frame = within(response.frame()).await.expect("echo").expect("echo");
        assert!(!frame.into_data().expect("data").is_empty());
        pieces.send(data(next)).expect("sent");
    }
    // It is found however late, and both directions break off.
    pieces.send(data(b"KEY1234")).expect("sent");
    let broken = within(async {
        while let Some(frame) = response.frame().await {
            match frame {
                Ok(frame) => assert!(!frame.into_data().expect("data").starts_with(b"K")),
                Err(_) => return true,
            }
        }
        false
    });
    assert!(broken.await);
    let (record, _) = place.refusal().await;
    assert_eq!(record.outcome, Outcome::DataPattern);
}

#[tokio::test]
async fn trailers_stay_behind() {
    let pki = Pki::new();
    let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
    let place = Place::new(&pki, lax());
    let mut program = place.program(port, &["h2"]).await;
    let (pieces, request) = program.pieces("/");
    pieces.send(data(b"body")).expect("sent");
    let mut trailers = ::http::HeaderMap::new();
    trailers.insert("x-sum", ::http::HeaderValue::from_static("KEY1234"));
    pieces.send(Frame::trailers(trailers)).expect("sent");
    drop(pieces);
    assert_eq!(program.ask(request).await.0, 200);
    let seen = within(got.recv()).await.expect("asked");
    assert!(seen.whole && !seen.trailers);
    assert_eq!(seen.body, b"body");
}
