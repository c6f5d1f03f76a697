//! The key that signs, and those that check.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::private;

/// The name of the credential, see systemd-creds(1).
pub const CREDENTIAL: &str = "exeat-audit-key";
/// The private key where there is no credential, in the log's folder.
const FILE: &str = "key";
/// The public keys that ever signed in this folder, one a line.
const PUBLIC: &str = "key.pub";
/// What the text of a public key begins with.
const PREFIX: &str = "ed25519:";

/// There is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or written.
    #[error("the audit log's key {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is none.
    #[error("{path} is no Ed25519 key in PEM (PKCS#8); `exeat audit key --new` prints one", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// None could be made.
    #[error("the system gives no random numbers")]
    Random,
}

/// The key that signs.
pub struct Key {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public)
    }
}

impl Key {
    /// A new private key as PEM, for a file or for `systemd-creds encrypt`.
    pub fn generate() -> Result<String, KeyError> {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| KeyError::Random)?;
        Ok(pem::encode(&pem::Pem::new(
            "PRIVATE KEY",
            document.as_ref(),
        )))
    }

    /// From PEM.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let pem = pem::parse(text).ok()?;
        if pem.tag() != "PRIVATE KEY" {
            return None;
        }
        // OpenSSL leaves the public half out.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents()).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pair, public })
    }

    /// The credential if there is one, else the file in `folder`, which is made where there is
    /// none. Its public half is written down beside it.
    pub fn open(folder: &Path, credentials: Option<&Path>) -> Result<Self, KeyError> {
        let key = match credentials.map(|dir| dir.join(CREDENTIAL)) {
            Some(path) if path.exists() => {
                let text = std::fs::read(&path);
                let text = text.map_err(|source| KeyError::File {
                    path: path.clone(),
                    source,
                })?;
                Self::parse(&text).ok_or(KeyError::NoKey { path })?
            }
            _ => Self::of_folder(folder)?,
        };
        key.publish(folder).map_err(|source| KeyError::File {
            path: folder.join(PUBLIC),
            source,
        })?;
        Ok(key)
    }

    fn of_folder(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(FILE);
        let fail = |source| KeyError::File {
            path: path.clone(),
            source,
        };
        let text = match private::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = Self::generate()?.into_bytes();
                private::write(&path, 0o600, &text).map_err(fail)?;
                text
            }
            Err(error) => return Err(fail(error)),
        };
        Self::parse(&text).ok_or(KeyError::NoKey { path })
    }

    fn publish(&self, folder: &Path) -> io::Result<()> {
        let mut keys = known_keys(folder);
        if keys.contains(&self.public) {
            return Ok(());
        }
        keys.push(self.public);
        let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        private::write(&folder.join(PUBLIC), 0o644, text.as_bytes())
    }

    /// Its public half.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> String {
        BASE64.encode(self.pair.sign(bytes).as_ref())
    }
}

/// The public keys that a folder says it was signed with. Lines that are none are passed over:
/// what they signed does not verify then.
pub fn known_keys(folder: &Path) -> Vec<PublicKey> {
    std::fs::read_to_string(folder.join(PUBLIC))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

/// A key that checks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(super) fn verify(&self, bytes: &[u8], sig: &str) -> bool {
        let Ok(sig) = BASE64.decode(sig.as_bytes()) else {
            return false;
        };
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(bytes, &sig)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = BASE64
            .decode(text.strip_prefix(PREFIX).unwrap_or(text).as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            format!(
                "`{}` is no public key: `exeat audit key` prints it, as {PREFIX}…",
                text.escape_debug()
            )
        })
    }
}
