//! What programs trust whose TLS is inspected: this machine's own authority, beside those of
//! the system.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use pem::Pem;

use crate::{
    config::Config,
    gateway::{Authority, AuthorityError},
    private,
};

/// Folder of the authority in the state folder.
const FOLDER: &str = "inspection";
/// The bundle's file in the runtime folder.
const BUNDLE: &str = "inspection-bundle.pem";

/// Why there is no authority that programs can trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The file of all authorities.
    #[error("{} cannot be written", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where it is kept. Nothing is there until a policy asks for inspection.
#[derive(Debug)]
pub(super) struct Trust {
    folder: PathBuf,
    bundle: PathBuf,
}

impl Trust {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            folder: config.state_dir.join(FOLDER),
            bundle: config.runtime_dir.join(BUNDLE),
        }
    }

    /// The machine's authority, made where there is none, and the bundle with it.
    pub(super) fn open(&self) -> Result<Arc<Authority>, TrustError> {
        private_folder(&self.folder).map_err(|source| TrustError::Bundle {
            path: self.folder.clone(),
            source,
        })?;
        let authority = Authority::open(&self.folder)?;
        let mut text = String::new();
        // What of the system's cannot be read is not trusted, and the rest is.
        for certificate in rustls_native_certs::load_native_certs().certs {
            text.push_str(&pem::encode(&Pem::new("CERTIFICATE", certificate.to_vec())));
        }
        text.push_str(authority.certificate_pem());
        private::write(&self.bundle, 0o644, text.as_bytes()).map_err(|source| {
            TrustError::Bundle {
                path: self.bundle.clone(),
                source,
            }
        })?;
        Ok(Arc::new(authority))
    }

    /// A file of every authority that such programs are to trust (PEM), for all to read.
    pub(super) fn bundle(&self) -> &Path {
        &self.bundle
    }
}

fn private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}
