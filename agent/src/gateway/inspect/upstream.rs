//! The server of an inspected connection: verified before the program gets anything.

use std::collections::BTreeSet;
use std::iter::once;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, spki_for_anchor};

use super::super::certificate;
use super::super::flow::Upstream;
use super::super::name::{Target, shown};
use super::super::proxy::{ProxyError, from_file, from_system};
use super::super::session::{Ended, Session};
use super::super::{Backend, Grant, Outcome};
use crate::policy::Inspect;

type Pins = BTreeSet<[u8; 32]>;

/// How servers are verified: by the authorities of the system, and others that the
/// configuration names.
pub(in crate::gateway) struct Servers {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl Servers {
    fn load(more: Option<&Path>) -> Result<Self, String> {
        let words = |error: ProxyError| error.to_string();
        let mut roots = match (from_system(), more) {
            (Err(error), None) => return Err(words(error)),
            (Err(_), Some(_)) => RootCertStore::empty(),
            (Ok(roots), _) => roots,
        };
        if let Some(path) = more {
            roots.extend(from_file(path).map_err(words)?.roots);
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        Ok(Self {
            webpki: webpki.build().map_err(|error| error.to_string())?,
            provider,
            roots,
        })
    }

    fn client(&self, pins: &Pins, alpn: Vec<Vec<u8>>) -> Result<ClientConfig, rustls::Error> {
        let verifier = Verifier {
            webpki: Arc::clone(&self.webpki),
            roots: Arc::clone(&self.roots),
            algorithms: self.provider.signature_verification_algorithms,
            pins: pins.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = alpn;
        // A resumed session verifies nothing.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// rustls' own verifier, and pins after it.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    pins: Pins,
}

#[derive(Debug, thiserror::Error)]
#[error("no key of the server's chain is one of the pinned ones")]
struct Unpinned;

impl Verifier {
    /// Whether a chain that can be verified has a pinned key. What the server sends along
    /// counts only as a part of such a chain: anybody can add a certificate.
    fn pinned(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        let has = |path: &VerifiedPath<'_>| {
            let mut keys = once(path.end_entity().subject_public_key_info())
                .chain(
                    path.intermediate_certificates()
                        .map(|it| it.subject_public_key_info()),
                )
                .chain(once(spki_for_anchor(path.anchor())));
            match keys.any(|key| self.pins.contains::<[u8; 32]>(&Sha256::digest(&key).into())) {
                true => Ok(()),
                false => Err(webpki::Error::UnknownIssuer),
            }
        };
        EndEntityCert::try_from(end_entity).is_ok_and(|certificate| {
            certificate
                .verify_for_usage(
                    self.algorithms.all,
                    &self.roots.roots,
                    intermediates,
                    now,
                    KeyUsage::server_auth(),
                    None,
                    Some(&has),
                )
                .is_ok()
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        match self.pins.is_empty() || self.pinned(end_entity, intermediates, now) {
            true => Ok(verified),
            false => Err(CertificateError::Other(OtherError(Arc::new(Unpinned))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl<B: Backend> Session<B> {
    async fn servers(&self) -> Result<&Servers, Ended> {
        let broken = |why: String| Ended::new(Outcome::ServerUnverified).because(why);
        let load = || async {
            let more = self.gateway.config.roots.clone();
            spawn_blocking(move || Servers::load(more.as_deref()))
                .await
                .map_err(|error| broken(error.to_string()))?
                .map_err(broken)
        };
        // An error is not kept: the next connection may find what is missing.
        self.gateway.servers.get_or_try_init(load).await
    }

    /// A connection to the server, by the way that the policy says, verified. It speaks one
    /// of the protocols that are offered, or does not say which.
    pub(super) async fn verified(
        &self,
        to: &Target,
        grant: &Grant,
        inspect: &Inspect,
        alpn: Vec<Vec<u8>>,
    ) -> Result<TlsStream<Upstream>, Ended> {
        let unfit =
            |error: &dyn std::fmt::Display| Ended::new(Outcome::ServerUnverified).because(error);
        let name = to.name().map(ToString::to_string).unwrap_or_default();
        let name = ServerName::try_from(name).map_err(|error| unfit(&error))?;
        let config = self.servers().await?.client(&inspect.pins, alpn);
        let config = config.map_err(|error| unfit(&error))?;
        let upstream = self.dial(to, grant).await?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, upstream);
        let stream = timeout(self.gateway.config.connect, handshake)
            .await
            .map_err(|_| Ended::new(Outcome::ConnectTimeout))?
            .map_err(|error| refused(&error))?;
        let (_, tls) = stream.get_ref();
        let shown_by = tls.peer_certificates().and_then(<[_]>::first);
        self.note(|record| {
            record.certificate = shown_by.map(certificate::read);
            record.alpn_chosen = tls.alpn_protocol().map(shown);
        });
        Ok(stream)
    }
}

/// Why a handshake with a server came to nothing.
fn refused(error: &std::io::Error) -> Ended {
    let inner = error.get_ref().and_then(|it| it.downcast_ref());
    let outcome = match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))))
            if why.is::<Unpinned>() =>
        {
            return Ended::new(Outcome::PinMismatch).because(why);
        }
        Some(rustls::Error::InvalidCertificate(_)) => Outcome::ServerUnverified,
        _ => Outcome::UpstreamFailed,
    };
    Ended::new(outcome).because(error)
}
