//! Inspected connections, and the heads of their requests.

use std::collections::BTreeSet;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::TLS13;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::testing::*;
use super::super::*;
use super::testing::*;
use crate::policy::Inspect;

#[tokio::test]
async fn a_request_passes_in_the_protocol_of_its_server_and_is_recorded() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
        let mut place = Place::new(
            &pki,
            Inspect {
                requests: requests(&["GET", "POST"], "/v1/**"),
                strip: BTreeSet::from(["cookie".to_owned()]),
                ..lax()
            },
        );
        let mut program = place.program(port, &[alpn]).await;
        let secret = [("cookie", "s3cret"), ("x-kept", "s3cret")];
        let told = program.get("/v1/a%20b?q=s3cret", &secret).await;
        assert_eq!(told, (200, "ok".to_owned()));
        let seen = within(got.recv()).await.expect("asked");
        assert_eq!(
            seen.uri.path_and_query().expect("path"),
            "/v1/a%20b?q=s3cret"
        );
        assert_eq!(seen.version == ::http::Version::HTTP_2, alpn == "h2");
        assert_eq!(seen.headers.get("cookie"), None);
        assert_eq!(seen.headers["x-kept"], "s3cret");
        let authority = format!("a.example:{port}");
        match alpn {
            "h2" => assert_eq!(seen.uri.authority().expect("authority"), &authority),
            _ => assert_eq!(seen.headers["host"], authority),
        }
        assert_eq!(program.post("/v1/b", "12345").await.0, 200);
        let seen = within(got.recv()).await.expect("asked");
        assert_eq!(
            (seen.method.as_str(), &seen.body[..]),
            ("POST", &b"12345"[..])
        );
        let (record, request) = place.request().await;
        assert_eq!(record.outcome, Outcome::Closed);
        assert_eq!(record.name.as_deref(), Some("a.example"));
        assert_eq!(record.rule.as_deref(), Some("rule 1"));
        let expected = RequestRecord {
            method: "GET".to_owned(),
            path: Some("/v1/a%20b".to_owned()),
            status: Some(200),
            sent: 0,
            received: 2,
            patterns: Vec::new(),
        };
        assert_eq!(request, expected);
        assert!(!format!("{record:?}").contains("s3cret"));
        let (_, second) = place.request().await;
        assert_eq!((second.method.as_str(), second.sent), ("POST", 5));
        drop(program);
        let record = place.rig.flow().await;
        assert_eq!((record.requests, record.request), (2, None));
        assert_eq!(record.alpn_chosen.as_deref(), Some(alpn));
        assert_eq!(record.outcome, Outcome::Closed, "{:?}", record.detail);
        assert!(record.sent > 0 && record.received > 0);
        let certificate = record.certificate.expect("verified");
        assert_eq!(certificate.issuer, "CN=Exeat Test CA");
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_whole() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, _got) = site(pki.server("a.example", &[&TLS13])).await;
        let mut place = Place::new(&pki, lax());
        let mut program = place.program(port, &[alpn]).await;
        let request = program.request("HEAD", "/", &[]).map(|()| none());
        let response = program.send(request).await.expect("an answer");
        assert_eq!(response.headers()["content-length"], "2");
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = within(body).await.expect("nothing").to_bytes();
        assert!(body.is_empty());
        let (record, request) = place.request().await;
        assert_eq!(record.outcome, Outcome::Closed);
        assert_eq!((request.status, request.received), (Some(200), 0));
        assert_eq!(
            program.get("/", &[]).await.0,
            200,
            "and the connection goes on"
        );
    }
}

#[tokio::test]
async fn a_program_is_given_only_what_its_server_speaks() {
    for (speaks, offers, chosen) in [
        (&["h2", "http/1.1"][..], &["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], &["h2", "http/1.1"], Some("http/1.1")),
        (&["h2", "http/1.1"], &["http/1.1"], Some("http/1.1")),
        (&[], &["h2", "http/1.1"], None),
        (&["h2", "http/1.1"], &[], None),
    ] {
        let pki = Pki::new();
        let mut config = pki.server("a.example", &[&TLS13]);
        config.alpn_protocols = speaks.iter().map(|it| it.as_bytes().to_vec()).collect();
        let (port, _got) = site(config).await;
        let place = Place::new(&pki, lax());
        let tls = place.tls(port, offers).await.expect("handshake");
        let given = tls.get_ref().1.alpn_protocol();
        assert_eq!(given, chosen.map(str::as_bytes), "{speaks:?} {offers:?}");
        drop(tls);
        let mut program = place.program(port, offers).await;
        assert_eq!(program.get("/", &[]).await.0, 200);
    }
    let pki = Pki::new();
    let mut place = Place::new(&pki, lax());
    let refused = place.tls(443, &["acme-tls/1"]).await.expect_err("no HTTP");
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    assert_eq!(place.rig.refusal().await.outcome, Outcome::NotInspectable);
}

#[tokio::test]
async fn what_the_rule_does_not_have_never_reaches_the_server() {
    for alpn in BOTH {
        let pki = Pki::new();
        let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
        let mut place = Place::new(
            &pki,
            Inspect {
                requests: requests(&["GET"], "/v1/**"),
                patterns: vec![pattern("key", "KEY[0-9]{4}", false)],
                ..lax()
            },
        );
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        let mut cases = vec![
            ("POST", "/v1/a", vec![], 403, Outcome::RequestNotAllowed),
            ("GET", "/v2/a", vec![], 403, Outcome::RequestNotAllowed),
            (
                "GET",
                "/v1/%2e%2e/x",
                vec![],
                403,
                Outcome::RequestNotAllowed,
            ),
            ("GET", "/v1/KEY1234", vec![], 403, Outcome::DataPattern),
            ("GET", "/v1/?k=KEY1234", vec![], 403, Outcome::DataPattern),
            (
                "GET",
                "/v1/a",
                vec![("x", "KEY1234")],
                403,
                Outcome::DataPattern,
            ),
            (
                "GET",
                "/v1/a",
                vec![("content-encoding", "br")],
                415,
                Outcome::EncodedBody,
            ),
        ];
        if alpn == "http/1.1" {
            cases.push((
                "GET",
                "/v1/a",
                upgrade.to_vec(),
                403,
                Outcome::RequestNotAllowed,
            ));
        }
        for (method, path, headers, status, outcome) in cases {
            let mut program = place.program(port, &[alpn]).await;
            let request = program.request(method, path, &headers);
            let (told, words) = program.ask(request.map(|()| none())).await;
            assert_eq!(told, status, "{path} {headers:?}: {words}");
            assert!(words.starts_with("Exeat: "), "{words}");
            assert!(
                words.contains("rule 1") && !words.contains("1234"),
                "{words}"
            );
            let (record, request) = place.refusal().await;
            assert_eq!(record.outcome, outcome, "{path}: {words}");
            assert_eq!(request.status, Some(status));
            let found = outcome == Outcome::DataPattern;
            assert_eq!(request.patterns.len(), usize::from(found));
            assert!(!format!("{record:?}").contains("KEY1234"), "{record:?}");
            // In HTTP/2 the connection goes on with its other requests.
            if alpn == "h2" {
                assert_eq!(program.get("/v1/good", &[]).await.0, 200);
                assert_eq!(
                    within(got.recv()).await.expect("asked").uri.path(),
                    "/v1/good"
                );
                place.request().await;
            }
            drop(program);
            let record = place.rig.flow().await;
            assert_eq!(record.requests, u64::from(alpn == "h2"));
        }
        assert!(got.try_recv().is_err());
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn every_stream_must_be_for_the_name_of_its_connection() {
    let pki = Pki::new();
    let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
    let mut place = Place::new(&pki, lax());
    let mut program = place.program(port, &["h2"]).await;
    for (uri, host, status, outcome) in [
        ("https://evil.example/", None, 421, Outcome::NameMismatch),
        (
            "https://evil.example/",
            Some("a.example"),
            421,
            Outcome::NameMismatch,
        ),
        (
            "https://a.example/",
            Some("evil.example"),
            421,
            Outcome::NameMismatch,
        ),
        ("https://192.0.2.1/", None, 403, Outcome::IpLiteral),
        ("https://a.example:1/", None, 400, Outcome::HostMismatch),
        ("http://a.example/", None, 400, Outcome::BadRequest),
    ] {
        let mut request = ::http::Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(none()).expect("request");
        let (told, words) = program.ask(request).await;
        assert_eq!(told, status, "{uri} {host:?}: {words}");
        assert_eq!(place.refusal().await.0.outcome, outcome, "{uri} {host:?}");
    }
    let own =
        ::http::Request::get(format!("https://A.example:{port}/")).header("host", "a.example");
    let (told, _) = program.ask(own.body(none()).expect("request")).await;
    assert_eq!(told, 200);
    assert_eq!(
        within(got.recv()).await.expect("asked").headers.get("host"),
        None
    );
    assert!(got.try_recv().is_err());
}

#[tokio::test]
async fn what_two_servers_could_read_in_two_ways_is_refused() {
    let pki = Pki::new();
    let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
    let mut place = Place::new(&pki, lax());
    for (what, head, outcome) in [
        (
            "another host",
            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            Outcome::NameMismatch,
        ),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
            Outcome::HostMismatch,
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n", Outcome::NoHost),
        (
            "no name",
            "GET / HTTP/1.1\r\nHost: user@a.example\r\n\r\n",
            Outcome::BadName,
        ),
        (
            "another in the line",
            "GET https://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Outcome::NameMismatch,
        ),
        (
            "another scheme in the line",
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "a tunnel",
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
            Outcome::Connect,
        ),
        (
            "a star",
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "another coding",
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Outcome::BadRequest,
        ),
        (
            "a length of its own connection",
            "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: content-length\r\n\
             Content-Length: 1\r\n\r\nx",
            Outcome::BadRequest,
        ),
    ] {
        let mut tls = place.tls(port, &["http/1.1"]).await.expect("handshake");
        tls.write_all(head.as_bytes()).await.expect("write");
        let mut told = Vec::new();
        let _ = within(tls.read_to_end(&mut told)).await;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with("HTTP/1.1 4"), "{what}: {told}");
        assert_eq!(place.refusal().await.0.outcome, outcome, "{what}: {told}");
        drop(tls);
        place.rig.flow().await;
    }
    // What cannot be read at all has no request to record.
    let mut tls = place.tls(port, &["http/1.1"]).await.expect("handshake");
    let odd = b"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n";
    tls.write_all(odd).await.expect("write");
    let mut told = Vec::new();
    let _ = within(tls.read_to_end(&mut told)).await;
    assert!(told.starts_with(b"HTTP/1.1 400"), "{told:?}");
    let record = place.rig.refusal().await;
    assert_eq!(
        (record.outcome, record.request),
        (Outcome::BadRequest, None)
    );
    assert!(got.try_recv().is_err(), "nothing left");
    place.rig.stop().await;
}

#[tokio::test]
async fn two_lengths_leave_as_one_and_end_the_connection() {
    let pki = Pki::new();
    let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
    let place = Place::new(&pki, lax());
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let mut tls = place.tls(port, &["http/1.1"]).await.expect("handshake");
        let both = format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\n{lengths}\r\n\r\n0\r\n\r\n\
             GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n"
        );
        tls.write_all(both.as_bytes()).await.expect("write");
        let mut told = Vec::new();
        let _ = within(tls.read_to_end(&mut told)).await;
        let seen = within(got.recv()).await.expect("asked");
        assert_eq!(seen.headers.get("content-length"), None, "{lengths}");
        assert_eq!((seen.uri.path(), seen.body.len()), ("/", 0));
    }
    place.rig.cancel.cancel();
    assert!(got.try_recv().is_err(), "nothing hides behind them");
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_sent_nothing() {
    let sites = Pki::new();
    for config in [
        // Of an authority that nobody trusts, and of another name.
        Pki::new().server("a.example", &[&TLS13]),
        sites.server("b.example", &[&TLS13]),
    ] {
        let (port, mut got) = site(config).await;
        let mut place = Place::new(&sites, lax());
        let refused = place
            .tls(port, &["http/1.1"])
            .await
            .expect_err("unverified");
        assert!(refused.to_string().contains("AccessDenied"), "{refused}");
        let record = place.rig.refusal().await;
        assert_eq!(record.outcome, Outcome::ServerUnverified, "{record:?}");
        assert!(got.try_recv().is_err());
        place.rig.stop().await;
    }
}

#[tokio::test]
async fn pins_hold_for_the_chain_that_verifies_and_for_nothing_beside_it() {
    let pki = Pki::new();
    let pin = |key: &rcgen::KeyPair| -> [u8; 32] {
        Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(key)).into()
    };
    let (certificate, key) = pki.issue("a.example");
    let (other, other_key) = pki.issue("other.example");
    let server = |chain: Vec<_>| {
        let mut config = pki.server("a.example", &[&TLS13]);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key.into()).expect("key");
        let certified = rustls::sign::CertifiedKey::new(chain, key);
        config.cert_resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        config
    };
    let root = {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, root) = X509Certificate::from_der(&pki.authority).expect("root");
        <[u8; 32]>::from(Sha256::digest(root.public_key().raw))
    };
    for (what, chain, pins, good) in [
        (
            "its key",
            vec![certificate.der()],
            vec![pin(&key), [0; 32]],
            true,
        ),
        ("its root", vec![certificate.der()], vec![root], true),
        (
            "none",
            vec![certificate.der()],
            vec![pin(&other_key)],
            false,
        ),
        (
            "one beside it",
            vec![certificate.der(), other.der()],
            vec![pin(&other_key)],
            false,
        ),
    ] {
        let chain = chain.into_iter().cloned().collect();
        let (port, _got) = site(server(chain)).await;
        let inspect = Inspect {
            pins: pins.into_iter().collect(),
            ..lax()
        };
        let mut place = Place::new(&pki, inspect);
        let tls = place.tls(port, &["http/1.1"]).await;
        assert_eq!(tls.is_ok(), good, "{what}: {tls:?}");
        if !good {
            assert_eq!(place.rig.refusal().await.outcome, Outcome::PinMismatch);
        }
    }
}

#[tokio::test]
async fn a_program_that_does_not_trust_the_authority_is_told_apart() {
    let pki = Pki::new();
    let (port, mut got) = site(pki.server("a.example", &[&TLS13])).await;
    let mut place = Place::new(&pki, lax());
    let stream = place.rig.steer(port).await;
    let connector = trusting(pki.authority.clone(), &["http/1.1"]);
    let error = within(connector.connect(server_name("a.example"), stream)).await;
    error.map(drop).expect_err("it does not trust it");
    let record = place.rig.refusal().await;
    assert_eq!(record.outcome, Outcome::InspectionRefused, "{record:?}");
    assert!(record.detail.expect("why").contains("inspection-ca.pem"));
    assert!(got.try_recv().is_err());
    place.rig.stop().await;
}
