//! Through a proxy of the enterprise.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::testing::*;
use super::*;

fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("mode");
    path
}

pub(super) fn proxy(config: ProxyConfig) -> Grant {
    grant(Route::Proxy(Arc::new(Proxy::new(config).expect("proxy"))))
}

pub(super) fn at(port: u16) -> ProxyConfig {
    ProxyConfig {
        url: format!("http://proxy.corp:{port}"),
        ..ProxyConfig::default()
    }
}

async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

/// A proxy that tells the heads of CONNECT and passes on to the port in them.
pub(super) async fn tunnels(tls: Option<TlsAcceptor>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let (port, listener) = plain().await;
    let (heads, got) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (heads, tls) = (heads.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => pass(stream, heads).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            pass(stream, heads).await;
                        }
                    }
                }
            });
        }
    });
    (port, got)
}

async fn pass(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    heads: mpsc::UnboundedSender<String>,
) {
    let asked = head(&mut stream).await;
    let to = asked.split(' ').nth(1).expect("target");
    let port: u16 = to.rsplit(':').next().expect("port").parse().expect("port");
    let _ = heads.send(asked.clone());
    let mut server = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("server");
    stream
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .expect("write");
    let _ = copy_bidirectional(&mut stream, &mut server).await;
}

/// TLS to `a.example` through the gateway.
async fn echo(rig: &Rig, pki: &Pki, port: u16) -> std::io::Result<()> {
    let stream = rig.steer(port).await;
    let client = pki.client(&[&TLS13]);
    let mut tls = within(client.connect(server_name("a.example"), stream)).await?;
    tls.write_all(b"echo").await?;
    let mut back = [0; 4];
    within(tls.read_exact(&mut back)).await?;
    assert_eq!(&back, b"echo");
    Ok(())
}

#[tokio::test]
async fn tls_leaves_by_connect_with_the_name_and_the_credentials_of_now() {
    let dir = tempfile::tempdir().expect("folder");
    let pki = Pki::new();
    let (port, _shown) = echo_tls(pki.server("a.example", &[&TLS13])).await;
    let (at_port, mut heads) = tunnels(None).await;
    let mut rig = Rig::new();
    let config = ProxyConfig {
        credentials: Some(secret(dir.path(), "auth", "user:pass\n")),
        ..at(at_port)
    };
    rig.backend.allow_as("a.example", Kind::Tls, proxy(config));
    for pair in ["user:pass", "user:newer"] {
        secret(dir.path(), "auth", pair);
        echo(&rig, &pki, port).await.expect("echo");
        let asked = within(heads.recv()).await.expect("a head");
        let key = auth::header(pair.as_bytes());
        assert_eq!(
            asked,
            format!(
                "CONNECT a.example:{port} HTTP/1.1\r\nhost: a.example:{port}\r\n\
                 proxy-authorization: {key}\r\n\r\n"
            )
        );
        let record = rig.flow().await;
        let label = format!("proxy.corp:{at_port}");
        assert_eq!(record.proxy.as_deref(), Some(label.as_str()));
        assert_eq!(record.connected.expect("connected").port(), at_port);
        assert!(!format!("{record:?}").contains("pass"));
    }
    assert!(rig.backend.resolved().is_empty(), "the proxy resolves");
    // What nobody can read any more is not sent.
    fs::set_permissions(dir.path().join("auth"), Permissions::from_mode(0o640)).expect("mode");
    echo(&rig, &pki, port).await.expect_err("closed");
    let record = rig.flow().await;
    assert_eq!(record.outcome, Outcome::ProxyFailed, "{record:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_proxy_is_asked_by_tls_with_a_certificate_of_our_own() {
    let dir = tempfile::tempdir().expect("folder");
    let pki = Pki::new();
    let (port, _shown) = echo_tls(pki.server("a.example", &[&TLS13])).await;
    let mut roots = RootCertStore::empty();
    roots.add(pki.authority.clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("verifier");
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(pki.server("proxy.corp", &[&TLS13]).cert_resolver);
    let (at_port, _heads) = tunnels(Some(TlsAcceptor::from(Arc::new(server)))).await;
    let (certificate, key) = pki.issue("client.corp");
    let config = ProxyConfig {
        url: format!("https://proxy.corp:{at_port}"),
        ca: Some(secret(dir.path(), "ca", &pki.authority_pem)),
        identity: Some((
            secret(dir.path(), "cert", &certificate.pem()),
            secret(dir.path(), "key", &key.serialize_pem()),
        )),
        credentials: None,
    };
    let mut rig = Rig::new();
    rig.backend
        .allow_as("a.example", Kind::Tls, proxy(config.clone()));
    echo(&rig, &pki, port).await.expect("echo");
    assert_eq!(rig.flow().await.outcome, Outcome::Closed);
    let anonymous = ProxyConfig {
        identity: None,
        ..config.clone()
    };
    let other = ProxyConfig {
        ca: Some(secret(dir.path(), "other", &Pki::new().authority_pem)),
        ..config
    };
    for config in [anonymous, other] {
        rig.backend.allow_as("a.example", Kind::Tls, proxy(config));
        echo(&rig, &pki, port).await.expect_err("refused");
        let record = rig.flow().await;
        assert_eq!(record.outcome, Outcome::ProxyFailed, "{record:?}");
    }
    rig.stop().await;
}

/// One connection through a proxy that says this to CONNECT.
async fn told(answer: &[u8]) -> GatewayRecord {
    let (port, listener) = plain().await;
    let mut rig = Rig::with(GatewayConfig {
        connect: Duration::from_secs(2),
        ..GatewayConfig::default()
    });
    rig.backend
        .allow_as("a.example", Kind::Tls, proxy(at(port)));
    let mut stream = rig.steer(443).await;
    stream
        .write_all(&hello_bytes("a.example"))
        .await
        .expect("write");
    let (mut corp, _) = within(listener.accept()).await.expect("accept");
    head(&mut corp).await;
    corp.write_all(answer).await.expect("write");
    if !answer.is_empty() {
        corp.shutdown().await.expect("end");
    }
    assert_eq!(rest(&mut stream).await, b"");
    let record = rig.flow().await;
    assert_eq!((record.sent, record.received), (0, 0));
    rig.stop().await;
    record
}

#[tokio::test]
async fn what_a_proxy_refuses_is_recorded_with_its_status() {
    let refusal = "Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nno!";
    for status in [407, 403, 502] {
        let record = told(format!("HTTP/1.1 {status} {refusal}").as_bytes()).await;
        assert_eq!(record.outcome, Outcome::ProxyRefused, "{record:?}");
        assert_eq!(record.proxy_status, Some(status));
    }
    for odd in [&b"nonsense\r\n\r\n"[..], b"HTTP/1.1 200"] {
        let record = told(odd).await;
        assert_eq!(record.outcome, Outcome::ProxyFailed, "{record:?}");
    }
    assert_eq!(told(b"").await.outcome, Outcome::ConnectTimeout);
}

#[tokio::test]
async fn what_comes_with_the_proxys_yes_belongs_to_the_tunnel() {
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    let who = CHOSEN.to_string();
    rig.backend.allow_as(&who, Kind::Tunnel, proxy(at(port)));
    let mut stream = rig.steer(25).await;
    let (mut corp, _) = within(listener.accept()).await.expect("accept");
    let asked = head(&mut corp).await;
    assert!(
        asked.starts_with("CONNECT 192.0.2.1:25 HTTP/1.1\r\n"),
        "{asked}"
    );
    corp.write_all(b"HTTP/1.1 200 OK\r\n\r\n220 hi")
        .await
        .expect("write");
    let mut greeting = [0; 6];
    within(stream.read_exact(&mut greeting))
        .await
        .expect("greeting");
    assert_eq!(&greeting, b"220 hi");
    // Another way out is another connection.
    rig.backend.allow(&who, Kind::Tunnel);
    rig.backend.changed();
    rest(&mut stream).await;
    rest(&mut corp).await;
    assert_eq!(rig.refusal().await.outcome, Outcome::PolicyChanged);
    rig.stop().await;
}

/// One request in clear, and what the proxy is asked.
async fn asked_in_clear(rig: &Rig, listener: &TcpListener) -> (TcpStream, TcpStream, String) {
    let mut stream = rig.steer(8080).await;
    stream
        .write_all(b"GET /x?y HTTP/1.1\r\nHost: a.example:8080\r\nProxy-Authorization: own\r\n\r\n")
        .await
        .expect("write");
    let (mut corp, _) = within(listener.accept()).await.expect("accept");
    let asked = head(&mut corp).await;
    (stream, corp, asked)
}

#[tokio::test]
async fn requests_in_clear_are_asked_by_their_whole_url() {
    let dir = tempfile::tempdir().expect("folder");
    let (port, listener) = plain().await;
    let mut rig = Rig::new();
    let config = ProxyConfig {
        credentials: Some(secret(dir.path(), "auth", "user:pass\n")),
        ..at(port)
    };
    rig.backend.allow_as("a.example", Kind::Http, proxy(config));
    let (mut stream, mut corp, asked) = asked_in_clear(&rig, &listener).await;
    let key = auth::header(b"user:pass");
    assert_eq!(
        asked,
        format!(
            "GET http://a.example:8080/x?y HTTP/1.1\r\nHost: a.example:8080\r\n\
             Proxy-Authorization: {key}\r\n\r\n"
        )
    );
    corp.write_all(b"HTTP/1.1 204 No Content\r\nProxy-Authenticate: Basic\r\n\r\n")
        .await
        .expect("write");
    let told = head(&mut stream).await;
    assert_eq!(told, "HTTP/1.1 204 No Content\r\n\r\n");
    drop(stream);
    assert_eq!(rig.flow().await.outcome, Outcome::Closed);
    // The program is not asked for the enterprise's password.
    let (mut stream, mut corp, _) = asked_in_clear(&rig, &listener).await;
    corp.write_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
        .await
        .expect("write");
    let told = String::from_utf8(rest(&mut stream).await).expect("text");
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    let record = rig.flow().await;
    assert_eq!(record.outcome, Outcome::ProxyRefused, "{record:?}");
    assert_eq!(record.proxy_status, Some(407));
    rig.stop().await;
}

#[test]
fn a_proxy_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().expect("folder");
    let error = |config: ProxyConfig| Proxy::new(config).expect_err("refused").to_string();
    for (url, why) in [
        ("", "no URL"),
        ("proxy.corp:3128", "neither http:// nor https://"),
        ("socks5://proxy.corp:1080", "neither http:// nor https://"),
        ("http://proxy.corp", "no port"),
        ("http://proxy.corp:0", "no port"),
        ("http://proxy.corp:3128/path", "a path"),
        ("http://proxy.corp:3128/?q", "a path"),
        ("http://localhost:3128", "its host is no name"),
        ("http://user:hunter2@proxy.corp:3128", "belong in a file"),
    ] {
        let text = error(ProxyConfig {
            url: url.to_owned(),
            ..ProxyConfig::default()
        });
        assert!(text.contains(why), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let with = |path: &Path| ProxyConfig {
        credentials: Some(path.to_owned()),
        ..at(3128)
    };
    assert!(error(with(&dir.path().join("none"))).contains("none"));
    assert!(error(with(dir.path())).contains("cannot be used"));
    for text in ["", "user", "user:a\nuser:b\n", "user:\0"] {
        let path = secret(dir.path(), "odd", text);
        let error = error(with(&path));
        assert!(error.contains("user:password"), "{error}");
    }
    let path = secret(dir.path(), "open", "user:pass");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("mode");
    assert!(error(with(&path)).contains("chmod 600"));
    let clear = ProxyConfig {
        ca: Some(path),
        ..at(3128)
    };
    assert!(error(clear).contains("https://"));
}
