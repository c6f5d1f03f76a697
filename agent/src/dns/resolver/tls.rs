//! Whose certificates encrypted servers may show.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::{ResolverConfig, ResolverConfigError};

/// The settings of TLS when a server needs it. rustls checks the certificate's chain,
/// dates and name; there is no setting that turns it off.
///
/// # Errors
/// When no authority can be read.
pub(super) fn client(
    config: &ResolverConfig,
) -> Result<Option<Arc<ClientConfig>>, ResolverConfigError> {
    if !config.is_encrypted() {
        return Ok(None);
    }
    let roots = match &config.ca_file {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ResolverConfigError::NoRoots(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(Arc::new(client)))
}

fn from_file(path: &Path) -> Result<RootCertStore, ResolverConfigError> {
    let error = |why: String| ResolverConfigError::CaFile {
        path: path.to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|e| error(e.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|e| error(e.to_string()))?;
        roots.add(certificate).map_err(|e| error(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(error("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn from_system() -> Result<RootCertStore, ResolverConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Distributions carry a few certificates that webpki does not read.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none is installed".to_owned(), |error| error.to_string());
        return Err(ResolverConfigError::NoRoots(why));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn config(path: PathBuf) -> ResolverConfig {
        ResolverConfig {
            upstreams: vec!["tls://192.0.2.53#dns.example".parse().expect("server")],
            ca_file: Some(path),
            ..ResolverConfig::default()
        }
    }

    #[test]
    fn authorities_are_needed_only_for_encrypted_servers_and_must_be_there() {
        assert!(client(&ResolverConfig::default()).expect("plain").is_none());
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("ca.pem");
        assert!(client(&config(path.clone())).is_err(), "no file");
        std::fs::write(&path, "nothing\n").expect("write");
        let text = client(&config(path.clone()))
            .expect_err("empty")
            .to_string();
        assert!(
            text.contains("ca.pem cannot be used: it holds no certificate"),
            "{text}"
        );
        let key = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).expect("made");
        std::fs::write(&path, key.cert.pem()).expect("write");
        assert!(client(&config(path)).expect("good").is_some());
    }
}
