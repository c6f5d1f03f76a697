//! Whose certificates receivers may show, and what is shown to them.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::config::ReceiverConfig;
use crate::private;

/// The settings of TLS. rustls checks the certificate's chain, dates and name; there is no
/// setting that turns it off. Errors are in words.
pub(super) fn client(config: &ReceiverConfig) -> Result<ClientConfig, String> {
    let identity = config.certificate_file.as_deref();
    let identity = identity.zip(config.key_file.as_deref());
    client_of(config.ca_file.as_deref(), identity)
}

/// The same of an authority's file, and of a certificate and its key.
pub(crate) fn client_of(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, String> {
    let roots = match ca_file {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((chain, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let wrong = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(chain, &error))?;
    let bytes = private::read(key).map_err(|error| wrong(key, &error))?;
    // Without its own words, which might show of the key.
    let key_der = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| wrong(key, &"it holds no private key (PEM)"))?;
    builder
        .with_client_auth_cert(certificates, key_der)
        .map_err(|error| wrong(chain, &error))
}

fn from_file(path: &Path) -> Result<RootCertStore, String> {
    let error = |why: String| format!("ca_file {}: {why}", path.display());
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|e| error(e.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|e| error(e.to_string()))?;
        roots.add(certificate).map_err(|e| error(e.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(error("it holds no certificate".to_owned())),
        false => Ok(roots),
    }
}

fn from_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Distributions carry a few certificates that webpki does not read.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err("the system has no certificates of authorities; write ca_file".to_owned()),
        false => Ok(roots),
    }
}
