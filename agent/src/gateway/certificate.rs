//! A look at a server's certificate.
//!
//! In TLS 1.3 the certificate is encrypted: nobody on the way sees it. So the gateway makes a
//! handshake of its own, with the same name, the same address and the same protocols, takes
//! the certificate, and hangs up. That is another connection than the agent's: a server that
//! wants to can show another certificate there. It is a record, never a reason to refuse.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::flow::Flow;
use super::hello::Hello;
use super::name::{Target, shown};
use super::session::Session;
use super::{Backend, Certificate, Grant, Route};
use crate::leases::Name;

/// How long what was seen is taken for what would be seen.
const KEPT: Duration = Duration::from_secs(3600);

/// The most servers that are remembered.
const MAX_KEPT: u64 = 1024;

/// The most handshakes under way at once; beyond that none is begun.
const MAX_LOOKS: usize = 8;

/// How long one may take.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// The most bytes of protocols that are asked with.
const MAX_ALPN: usize = 128;

/// The longest issuer that is recorded.
const MAX_ISSUER: usize = 256;

/// What a look found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    pub(super) certificate: Option<Certificate>,
    pub(super) alpn: Option<String>,
}

/// A look that was begun, or a memory of one.
pub(super) enum Look {
    Known(Seen),
    Begun(AbortOnDropHandle<Seen>),
}

impl Look {
    /// What it found; nothing, if it took too long.
    pub(super) async fn seen(self) -> Seen {
        match self {
            Self::Known(seen) => seen,
            Self::Begun(task) => task.await.unwrap_or_default(),
        }
    }
}

type Server = (Name, IpAddr, u16, Vec<Vec<u8>>);

/// The looks of one gateway.
pub(super) struct Looks {
    kept: Cache<Server, Seen>,
    under_way: Arc<Semaphore>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            kept: Cache::builder()
                .max_capacity(MAX_KEPT)
                .time_to_live(KEPT)
                .build(),
            under_way: Arc::new(Semaphore::new(MAX_LOOKS)),
        }
    }
}

impl<B: Backend> Session<B> {
    /// Begins a look at the server that the connection goes to. Nothing waits for it but
    /// the record.
    pub(super) fn look(&self, to: &Target, grant: &Grant, hello: &Hello) {
        // Behind a proxy of the enterprise the address is the proxy's secret, and a
        // handshake more is a tunnel more there.
        let (Target::Name(name, port), Route::Direct) = (to, &grant.route) else {
            return;
        };
        let Some(addr) = self.connected().filter(|_| self.gateway.config.probe) else {
            return;
        };
        // The list is the agent's and is kept: one that no client would send is not asked with.
        if hello.alpn.iter().map(Vec::len).sum::<usize>() > MAX_ALPN {
            return;
        }
        let server = (name.clone(), addr.ip(), *port, hello.alpn.clone());
        let looks = &self.gateway.looks;
        if let Some(seen) = looks.kept.get(&server) {
            return self.note_look(Look::Known(seen));
        }
        let stats = &self.gateway.stats;
        let Ok(permit) = Arc::clone(&looks.under_way).try_acquire_owned() else {
            stats.probes_skipped.fetch_add(1, Relaxed);
            return;
        };
        stats.probes.fetch_add(1, Relaxed);
        let kept = looks.kept.clone();
        let task = tokio::spawn(async move {
            let seen = timeout(LOOK_TIME, handshake(&server)).await;
            drop(permit);
            let seen = seen.unwrap_or_default();
            if seen.certificate.is_some() {
                kept.insert(server, seen.clone());
            }
            seen
        });
        self.note_look(Look::Begun(AbortOnDropHandle::new(task)));
    }
}

async fn handshake((name, addr, port, alpn): &Server) -> Seen {
    let shown_by = Arc::new(Taker::new());
    let Some(config) = client(&shown_by, alpn) else {
        return Seen::default();
    };
    let Ok(server) = ServerName::try_from(name.to_string()) else {
        return Seen::default();
    };
    let flow = Flow::new();
    let Ok((socket, _)) = super::dial::connect(vec![*addr], *port, &flow).await else {
        return Seen::default();
    };
    let done = TlsConnector::from(Arc::new(config))
        .connect(server, socket)
        .await;
    // A server that asks for a client's certificate breaks off after it has shown its own.
    let chosen = done
        .ok()
        .and_then(|stream| stream.get_ref().1.alpn_protocol().map(shown));
    Seen {
        certificate: shown_by.take(),
        alpn: chosen,
    }
}

fn client(taker: &Arc<Taker>, alpn: &[Vec<u8>]) -> Option<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(taker) as _)
        .with_no_client_auth();
    config.alpn_protocols = alpn.to_vec();
    Some(config)
}

/// Takes the certificate whoever it is from: nothing is sent or believed on its word.
#[derive(Debug)]
struct Taker {
    algorithms: WebPkiSupportedAlgorithms,
    taken: Mutex<Option<Certificate>>,
}

impl Taker {
    fn new() -> Self {
        Self {
            algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms,
            taken: Mutex::default(),
        }
    }

    fn take(&self) -> Option<Certificate> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.take()
    }
}

impl ServerCertVerifier for Taker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = Some(read(end_entity));
        Ok(ServerCertVerified::assertion())
    }

    // That the server has the certificate's key is checked: anybody can show another's.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms);
        if valid.is_err() {
            self.take();
        }
        valid
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms);
        if valid.is_err() {
            self.take();
        }
        valid
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

pub(super) fn read(der: &CertificateDer<'_>) -> Certificate {
    let issuer = match X509Certificate::from_der(der) {
        Ok((_, certificate)) => {
            let mut issuer = certificate.issuer().to_string();
            let mut end = issuer.len().min(MAX_ISSUER);
            while !issuer.is_char_boundary(end) {
                end -= 1;
            }
            issuer.truncate(end);
            issuer.replace(char::is_control, "\u{fffd}")
        }
        Err(_) => String::new(),
    };
    Certificate {
        sha256: Sha256::digest(der).into(),
        issuer,
    }
}
