//! A backend for tests, certificates, servers and clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_common::Reason;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::leases::{FailKind, Name};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must come.
pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it comes in time")
}

/// Where steered connections were meant to go: nobody is there.
pub(super) const CHOSEN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What is allowed is listed; every listed name is at 127.0.0.1.
pub(super) struct Fake {
    pub(super) origin: Mutex<Option<Destination>>,
    pub(super) allowed: Mutex<BTreeMap<(String, Kind), Grant>>,
    pub(super) resolved: Mutex<Vec<Name>>,
    pub(super) addresses: Mutex<Result<Vec<IpAddr>, FailKind>>,
    /// Addresses that no name may stand for.
    pub(super) walled: Mutex<Vec<IpAddr>>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) credentials: Mutex<Option<Credentials>>,
    pub(super) authority: Mutex<Option<Arc<Authority>>>,
}

pub(super) fn grant(route: Route) -> Grant {
    Grant {
        number: 1,
        rule: "rule 1".into(),
        route,
        ech: false,
        private: false,
        inspect: None,
    }
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Mutex::default(),
            allowed: Mutex::default(),
            resolved: Mutex::default(),
            addresses: Mutex::new(Ok(vec![Ipv4Addr::LOCALHOST.into()])),
            walled: Mutex::default(),
            changes: watch::Sender::new(0),
            credentials: Mutex::default(),
            authority: Mutex::default(),
        })
    }

    pub(super) fn allow(&self, name: &str, kind: Kind) {
        self.allow_as(name, kind, grant(Route::Direct));
    }

    pub(super) fn allow_as(&self, name: &str, kind: Kind, grant: Grant) {
        let mut allowed = self.allowed.lock().expect("lock");
        allowed.insert((name.to_owned(), kind), grant);
    }

    /// Takes everything away and says so.
    pub(super) fn forbid(&self) {
        self.allowed.lock().expect("lock").clear();
        self.changed();
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    pub(super) fn resolved(&self) -> Vec<Name> {
        self.resolved.lock().expect("lock").clone()
    }
}

impl Backend for Fake {
    fn origin(&self, _peer: SocketAddr, _local: SocketAddr) -> Option<Destination> {
        *self.origin.lock().expect("lock")
    }

    fn judge(&self, ask: &Ask) -> Judged {
        let named = ask.name.as_ref().map(ToString::to_string);
        let who = named.or_else(|| ask.addr.map(|addr| addr.to_string()));
        let who = who.expect("something is asked");
        assert_ne!(who, "panics.example", "as a table might");
        let allowed = self.allowed.lock().expect("lock");
        match allowed.get(&(who, ask.kind)) {
            Some(grant) => Judged::Allow(grant.clone()),
            None => Judged::Deny(Reason::NoRule),
        }
    }

    fn may_reach(&self, _name: &Name, addr: IpAddr, _port: u16, _grant: &Grant) -> bool {
        !self.walled.lock().expect("lock").contains(&addr)
    }

    async fn resolve(&self, name: &Name, _grant: &Grant) -> Result<Vec<IpAddr>, FailKind> {
        self.resolved.lock().expect("lock").push(name.clone());
        self.addresses.lock().expect("lock").clone()
    }

    async fn resolve_proxy(&self, _name: &Name) -> Result<Vec<IpAddr>, FailKind> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn policy(&self) -> Arc<str> {
        "test-policy".into()
    }

    fn credentials(&self) -> Option<Credentials> {
        self.credentials.lock().expect("lock").clone()
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.lock().expect("lock").clone()
    }
}

/// A gateway that serves.
pub(super) struct Rig {
    pub(super) backend: Arc<Fake>,
    pub(super) stats: Arc<GatewayStats>,
    pub(super) addresses: BTreeMap<Listening, SocketAddr>,
    pub(super) cancel: CancellationToken,
    pub(super) served: JoinHandle<std::io::Result<()>>,
    refused: mpsc::Receiver<GatewayRecord>,
    flowed: mpsc::Receiver<GatewayRecord>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(GatewayConfig::default())
    }

    pub(super) fn with(config: GatewayConfig) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0x2800);
        let agent = NEXT.fetch_add(1, SeqCst);
        let sockets = GatewaySockets::bind(agent, &GatewayPorts::new()).expect("bind");
        let addresses = sockets.addresses().expect("addresses");
        let backend = Fake::new();
        let stats = Arc::new(GatewayStats::default());
        let cancel = CancellationToken::new();
        let (records, refused, flowed) = Records::channel(2048);
        let served = tokio::spawn(sockets.serve(
            Arc::clone(&backend),
            config,
            records,
            Arc::clone(&stats),
            cancel.clone(),
        ));
        Self {
            backend,
            stats,
            addresses,
            cancel,
            served,
            refused,
            flowed,
        }
    }

    /// A connection that the kernel steered, on its way to `port` somewhere.
    pub(super) async fn steer(&self, port: u16) -> TcpStream {
        *self.backend.origin.lock().expect("lock") = Some(Destination { addr: CHOSEN, port });
        self.connect(Listening::Steered4).await
    }

    pub(super) async fn connect(&self, door: Listening) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[&door]).await;
        let stream = stream.expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    /// The next record of a refusal.
    pub(super) async fn refusal(&mut self) -> GatewayRecord {
        within(self.refused.recv()).await.expect("a record")
    }

    /// The next record of something else.
    pub(super) async fn flow(&mut self) -> GatewayRecord {
        within(self.flowed.recv()).await.expect("a record")
    }

    /// Stops it; nothing was recorded that was not asked for.
    pub(super) async fn stop(mut self) {
        self.cancel.cancel();
        within(self.served).await.expect("joins").expect("serves");
        assert_eq!(self.refused.recv().await, None);
        assert_eq!(self.flowed.recv().await, None);
    }
}

/// Authorities and what they issue.
pub(super) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pub(super) authority: CertificateDer<'static>,
    pub(super) authority_pem: String,
}

impl Pki {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Exeat Test CA");
        let certificate = params.self_signed(&key).expect("signed");
        Self {
            authority: certificate.der().clone(),
            authority_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate and its key.
    pub(super) fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate, key)
    }

    pub(super) fn server(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerConfig {
        let (certificate, key) = self.issue(name);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    pub(super) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("root");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn server_name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("name")
}

/// A server that gives back what it is sent, and tells the names that it was shown.
pub(super) async fn echo_tls(config: ServerConfig) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("addr").port();
    let (names, shown) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, names) = (acceptor.clone(), names.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let name = stream.get_ref().1.server_name().unwrap_or_default();
                let _ = names.send(name.to_owned());
                let mut buffer = [0; 4096];
                loop {
                    match stream.read(&mut buffer).await? {
                        0 => return stream.shutdown().await,
                        read => stream.write_all(&buffer[..read]).await?,
                    }
                }
            });
        }
    });
    (port, shown)
}

/// A plain server whose connections the test holds itself.
pub(super) async fn plain() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    (listener.local_addr().expect("addr").port(), listener)
}

/// Everything until the end; a reset is an end, too.
pub(super) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // What came before a reset counts.
    let _ = within(stream.read_to_end(&mut all)).await;
    all
}

/// The bytes of a ClientHello for a name, as rustls writes it.
pub(super) fn hello_bytes(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), server_name(name)).expect("client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

/// The hello's one record cut into records of at most `size` bytes each.
pub(super) fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let records = hello[5..].chunks(size).map(|part| {
        let len = u16::try_from(part.len()).expect("short");
        [&[22, 3, 1], &len.to_be_bytes()[..], part].concat()
    });
    records.collect::<Vec<_>>().concat()
}

/// A hello with another extension at its end.
pub(super) fn with_extension(hello: &[u8], number: u16, body: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let added = 4 + body.len();
    hello.extend_from_slice(&number.to_be_bytes());
    hello.extend_from_slice(&u16::try_from(body.len()).expect("short").to_be_bytes());
    hello.extend_from_slice(body);
    let grow = |at: usize, hello: &mut Vec<u8>| {
        let old = u16::from_be_bytes([hello[at], hello[at + 1]]);
        let new = old + u16::try_from(added).expect("short");
        hello[at..at + 2].copy_from_slice(&new.to_be_bytes());
    };
    grow(3, &mut hello);
    grow(7, &mut hello);
    // Behind the record's and the message's header, version and random.
    let mut at = 5 + 4 + 34;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    grow(at, &mut hello);
    hello
}

/// An outer Encrypted ClientHello: suite, key and bytes of nobody's.
pub(super) fn encrypted() -> Vec<u8> {
    let mut body = vec![0, 0, 1, 0, 1, 7, 0, 32];
    body.extend([1; 32]);
    body.extend([0, 32]);
    body.extend([2; 32]);
    body
}
