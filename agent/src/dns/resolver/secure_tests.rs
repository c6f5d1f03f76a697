//! DNS over TLS and HTTPS, and whose certificates are believed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::rr::RecordType;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::ask::plain;
use super::*;
use crate::dns::stats::{DnsStats, Transport};
use crate::dns::testing::{Says, Shared, Stub, address};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("signed")
}

/// A certificate of a server, for a name, that has ended in 2001 or not.
fn server(authority: &Authority, name: &str, ended: bool, alpn: &[u8]) -> TlsAcceptor {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    if ended {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, authority).expect("signed");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("certificate");
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    TlsAcceptor::from(Arc::new(config))
}

struct Secure {
    addr: SocketAddr,
    stub: Stub,
    _tasks: JoinSet<()>,
}

async fn serve(acceptor: TlsAcceptor, https: bool) -> Secure {
    let stub = Stub::start().await;
    let records = vec![address("a.example.", 60, "192.0.2.1")];
    stub.set("a.example.", RecordType::A, Says::Records(records));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("address");
    let shared = stub.shared.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            connections.spawn(connection(tcp, acceptor.clone(), shared.clone(), https));
        }
    });
    Secure {
        addr,
        stub,
        _tasks: tasks,
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, shared: Shared, https: bool) {
    // Clients that do not believe the certificate leave here.
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    if !https {
        return shared.serve(tls).await;
    }
    let Ok(mut http) = h2::server::handshake(tls).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = http.accept().await {
        assert_eq!(request.uri().path(), "/q/dns");
        assert_eq!(request.uri().host(), Some("dns.example"));
        let mut body = request.into_body();
        let mut query = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            query.extend(&data);
        }
        let replies = shared.replies(&query, true).await;
        let (reply, _) = replies.into_iter().next().expect("a reply");
        let response = http::Response::builder()
            .header("content-type", "application/dns-message")
            .header("content-length", reply.len())
            .body(())
            .expect("response");
        let mut stream = respond.send_response(response, false).expect("sent");
        stream.send_data(Bytes::from(reply), true).expect("sent");
    }
}

struct Trust {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

fn trust(authority: &Authority) -> Trust {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).expect("write");
    Trust {
        _folder: folder,
        file,
    }
}

fn resolver(upstream: &str, trust: &Trust) -> (Resolver, Arc<DnsStats>) {
    let stats = Arc::new(DnsStats::default());
    let config = ResolverConfig {
        upstreams: vec![upstream.parse().expect("server")],
        ca_file: Some(trust.file.clone()),
        timeout: Duration::from_secs(5),
        ..ResolverConfig::default()
    };
    (Resolver::new(config, stats.clone()).expect("valid"), stats)
}

fn question() -> Question {
    plain(&"a.example".into(), RecordType::A)
}

fn written(https: bool, addr: SocketAddr) -> String {
    match https {
        true => format!("https://{addr}/q/dns#dns.example"),
        false => format!("tls://{addr}#dns.example"),
    }
}

#[tokio::test]
async fn the_right_name_of_a_trusted_authority_is_believed() {
    for (https, alpn, transport) in [
        (false, &b""[..], Transport::Tls),
        (true, b"h2", Transport::Https),
    ] {
        let authority = authority();
        let secure = serve(server(&authority, "dns.example", false, alpn), https).await;
        let text = written(https, secure.addr);
        let (resolver, stats) = resolver(&text, &trust(&authority));
        for _ in 0..2 {
            let answer = resolver.refresh(&question()).await.expect("an answer");
            assert_eq!(answer.records.len(), 1);
            assert_eq!(*answer.upstream, text);
        }
        // What a path tells is nobody's who reads the metrics.
        let label = text.replace("/q/dns", "");
        assert_eq!(stats.upstream(&label).1.durations(transport).count(), 2);
        assert_eq!(secure.stub.asked().len(), 2);
    }
}

#[tokio::test]
async fn a_wrong_name_a_stranger_and_an_old_certificate_are_not() {
    for (https, alpn) in [(false, &b""[..]), (true, b"h2")] {
        let (ours, other) = (authority(), authority());
        for (what, acceptor) in [
            ("wrong name", server(&ours, "other.example", false, alpn)),
            ("untrusted", server(&other, "dns.example", false, alpn)),
            ("expired", server(&ours, "dns.example", true, alpn)),
        ] {
            let secure = serve(acceptor, https).await;
            let (resolver, stats) = resolver(&written(https, secure.addr), &trust(&ours));
            let failed = resolver.ask(&question()).await.expect_err(what);
            assert_eq!(failed.kind, FailKind::Network, "{what}");
            assert!(
                secure.stub.asked().is_empty(),
                "{what}: no question was shown"
            );
            let (_, upstream) = stats.upstreams().remove(0);
            assert_eq!(upstream.requests(), 1);
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_made_again() {
    let authority = authority();
    let acceptor = server(&authority, "dns.example", false, b"");
    let secure = serve(acceptor.clone(), false).await;
    let (addr, stub) = (secure.addr, secure.stub);
    let (resolver, _) = resolver(&written(false, addr), &trust(&authority));
    resolver.refresh(&question()).await.expect("an answer");
    // The server starts anew at the same address.
    let mut tasks = secure._tasks;
    tasks.shutdown().await;
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.set_reuseaddr(true).expect("reuse");
    socket.bind(addr).expect("the same port");
    let listener = socket.listen(8).expect("listen");
    let shared = stub.shared.clone();
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            connection(tcp, acceptor.clone(), shared.clone(), false).await;
        }
    });
    resolver
        .refresh(&question())
        .await
        .expect("an answer again");
    assert_eq!(stub.asked().len(), 2);
}
