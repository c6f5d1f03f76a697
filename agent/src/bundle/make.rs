//! Keys, roots and bundles: what the people do who write policy for a fleet. None of it happens
//! on a laptop.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use chrono::{DateTime, Utc};
use jiff::{SignedDuration, Timestamp};
use tuf::crypto::{
    Ed25519PrivateKey, HashAlgorithm, KeyId, PrivateKey, PublicKey, SignatureScheme,
};
use tuf::metadata::{
    Metadata, MetadataDescription, MetadataPath, RawSignedMetadata, Role, RoleDefinition,
    RootMetadata, SignedMetadata, SignedMetadataBuilder, SnapshotMetadata, SnapshotMetadataBuilder,
    TargetDescription, TargetPath, TargetsMetadata, TargetsMetadataBuilder, TimestampMetadata,
    TimestampMetadataBuilder,
};
use tuf::pouf::Pouf1;

use super::archive::{Archive, MANIFEST};
use super::check::PUBLISHED;
use super::manifest::Manifest;
use super::{MAX_BYTES, Refusal};

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no key.
    #[error("{0} is no Ed25519 key (PEM); `exeat bundle key` makes one")]
    NoKey(String),
    /// The metadata could not be made.
    #[error(transparent)]
    Tuf(#[from] tuf::Error),
    /// The bundle could not be read.
    #[error(transparent)]
    Bundle(#[from] Refusal),
    /// In words.
    #[error("{0}")]
    Other(String),
}

/// A key that signs. It has no way to be shown.
pub struct SigningKey(Ed25519PrivateKey);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.0.public().key_id())
    }
}

impl SigningKey {
    /// A new one: the private half as PEM, and itself.
    pub fn generate() -> Result<(String, Self), MakeError> {
        let der = Ed25519PrivateKey::pkcs8()?;
        let key = Self(Ed25519PrivateKey::from_pkcs8(&der)?);
        Ok((pem::encode(&pem::Pem::new("PRIVATE KEY", der)), key))
    }

    /// Reads one from a file that nobody else can open.
    pub fn read(path: &Path) -> Result<Self, MakeError> {
        let shown = path.display().to_string();
        let bytes = crate::private::read(path).map_err(|source| MakeError::File {
            path: shown.clone(),
            source,
        })?;
        let pem = pem::parse(&bytes)
            .ok()
            .filter(|pem| pem.tag() == "PRIVATE KEY");
        let key = pem.and_then(|pem| Ed25519PrivateKey::from_pkcs8(pem.contents()).ok());
        key.map(Self).ok_or(MakeError::NoKey(shown))
    }

    /// Its public half, as PEM.
    pub fn public_pem(&self) -> Result<String, MakeError> {
        let der = self.0.public().as_spki()?;
        Ok(pem::encode(&pem::Pem::new("PUBLIC KEY", der)))
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        self.0.public()
    }

    /// Its id, as metadata has it.
    pub fn id(&self) -> String {
        self.0.public().key_id().to_string()
    }
}

/// Reads a public key: PEM, as [`SigningKey::public_pem`] writes it.
pub fn read_public(path: &Path) -> Result<PublicKey, MakeError> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| MakeError::File {
        path: shown.clone(),
        source,
    })?;
    let pem = pem::parse(&bytes)
        .ok()
        .filter(|pem| pem.tag() == "PUBLIC KEY");
    let key =
        pem.and_then(|pem| PublicKey::from_spki(pem.contents(), SignatureScheme::Ed25519).ok());
    key.ok_or(MakeError::NoKey(shown))
}

/// Who may sign what, from a root on.
#[derive(Debug, Clone)]
pub struct RootPlan {
    /// Keys that sign roots.
    pub root_keys: Vec<PublicKey>,
    /// How many of them have to.
    pub root_threshold: u32,
    /// Keys that sign bundles.
    pub keys: Vec<PublicKey>,
    /// How many of them have to.
    pub threshold: u32,
    /// For how long.
    pub lasts: SignedDuration,
}

fn end(now: Timestamp, lasts: SignedDuration) -> DateTime<Utc> {
    let end = now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
    DateTime::from_timestamp(end.as_second(), 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn role<M: Metadata>(keys: &[PublicKey], threshold: u32) -> Result<RoleDefinition<M>, MakeError> {
    let ids: HashSet<KeyId> = keys.iter().map(|key| key.key_id().clone()).collect();
    if ids.len() < threshold as usize {
        let have = ids.len();
        return Err(MakeError::Other(format!(
            "{have} keys cannot give {threshold} signatures"
        )));
    }
    Ok(RoleDefinition::new(threshold, ids)?)
}

/// The next root: version 1, or the one after `before`. It counts when as many have signed it as
/// the one before it, and it itself, ask for.
pub fn root(
    before: Option<&[u8]>,
    plan: &RootPlan,
    keys: &[SigningKey],
    now: Timestamp,
) -> Result<(u32, Vec<u8>), MakeError> {
    let version = match before {
        None => 1,
        Some(bytes) => {
            let raw = RawSignedMetadata::<Pouf1, RootMetadata>::new(bytes.to_vec());
            raw.parse_untrusted()?
                .assume_valid()?
                .version()
                .saturating_add(1)
        }
    };
    let all: HashMap<KeyId, PublicKey> = plan
        .root_keys
        .iter()
        .chain(&plan.keys)
        .map(|key| (key.key_id().clone(), key.clone()))
        .collect();
    let metadata = RootMetadata::new(
        version,
        end(now, plan.lasts),
        false,
        all,
        role(&plan.root_keys, plan.root_threshold)?,
        role::<SnapshotMetadata>(&plan.keys, plan.threshold)?,
        role::<TargetsMetadata>(&plan.keys, plan.threshold)?,
        role::<TimestampMetadata>(&plan.keys, plan.threshold)?,
        HashMap::new(),
    )?;
    Ok((version, signed(&metadata, keys)?))
}

fn signed<M: Metadata>(metadata: &M, keys: &[SigningKey]) -> Result<Vec<u8>, MakeError> {
    let mut builder = SignedMetadataBuilder::<Pouf1, M>::from_metadata(metadata)?;
    for key in keys {
        builder = builder.sign(&key.0)?;
    }
    Ok(builder.build().to_raw()?.as_bytes().to_vec())
}

/// What a bundle is made of.
#[derive(Debug, Clone)]
pub struct BundlePlan {
    /// Its version: above that of every bundle before.
    pub version: u32,
    /// For how long it is to be believed.
    pub lasts: SignedDuration,
    /// When it was built; roll-outs count from here.
    pub now: Timestamp,
}

/// Makes a bundle of files (`bundle.yaml` among them) and the roots, and signs it as far as the
/// keys go. Its policies are read, so that one that no laptop would take is not made.
pub fn bundle(
    files: BTreeMap<String, Vec<u8>>,
    roots: BTreeMap<u32, Vec<u8>>,
    plan: &BundlePlan,
    keys: &[SigningKey],
) -> Result<Archive, MakeError> {
    let text = files
        .get(MANIFEST)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| MakeError::Other("the folder has no bundle.yaml".into()))?;
    let manifest = Manifest::parse(text)?;
    for entry in &manifest.files {
        let bytes = files.get(&entry.file);
        let text = bytes
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .ok_or_else(|| {
                MakeError::Other(format!(
                    "bundle.yaml names {}, which is not there",
                    entry.file
                ))
            })?;
        // Alone only as far as that goes: groups may be in another file of the layer.
        if text.len() as u64 > MAX_BYTES {
            return Err(MakeError::Other(format!("{} is too large", entry.file)));
        }
    }
    let expires = end(plan.now, plan.lasts);
    let listed: HashSet<&str> = manifest
        .files
        .iter()
        .map(|entry| entry.file.as_str())
        .chain([MANIFEST])
        .collect();
    if let Some(extra) = files.keys().find(|name| !listed.contains(name.as_str())) {
        return Err(MakeError::Other(format!(
            "bundle.yaml does not name {extra}"
        )));
    }
    let mut targets = TargetsMetadataBuilder::new()
        .version(plan.version)
        .expires(expires);
    for (name, bytes) in &files {
        let custom = match name == MANIFEST {
            true => {
                let seconds = Timestamp::from_second(plan.now.as_second()).unwrap_or(plan.now);
                HashMap::from([(PUBLISHED.to_owned(), seconds.to_string().into())])
            }
            false => HashMap::new(),
        };
        let described =
            TargetDescription::from_slice_with_custom(bytes, &[HashAlgorithm::Sha256], custom)?;
        targets = targets.insert_target_description(TargetPath::new(name.as_str())?, described);
    }
    // No digests of metadata: signatures are added later, and versions tell releases apart.
    let bare = || HashMap::new();
    let snapshot = SnapshotMetadataBuilder::new()
        .version(plan.version)
        .expires(expires)
        .insert_metadata_description(
            MetadataPath::targets(),
            MetadataDescription::new(plan.version, None, bare())?,
        );
    let described = MetadataDescription::new(plan.version, None, bare())?;
    let timestamp = TimestampMetadataBuilder::from_metadata_description(described)
        .version(plan.version)
        .expires(expires);
    Ok(Archive {
        roots,
        timestamp: signed(&timestamp.build()?, keys)?,
        snapshot: signed(&snapshot.build()?, keys)?,
        targets: signed(&targets.build()?, keys)?,
        files,
    })
}

/// Adds a signature to a root.
pub fn sign_root(bytes: &[u8], key: &SigningKey) -> Result<Vec<u8>, MakeError> {
    add::<RootMetadata>(bytes, key)
}

/// Adds a signature to every part of a bundle.
pub fn sign(archive: &mut Archive, key: &SigningKey) -> Result<(), MakeError> {
    archive.timestamp = add::<TimestampMetadata>(&archive.timestamp, key)?;
    archive.snapshot = add::<SnapshotMetadata>(&archive.snapshot, key)?;
    archive.targets = add::<TargetsMetadata>(&archive.targets, key)?;
    Ok(())
}

fn add<M: Metadata>(bytes: &[u8], key: &SigningKey) -> Result<Vec<u8>, MakeError> {
    let raw = RawSignedMetadata::<Pouf1, M>::new(bytes.to_vec());
    let mut metadata: SignedMetadata<Pouf1, M> = raw.parse_untrusted()?;
    metadata.assume_valid()?;
    metadata.add_signature(&key.0)?;
    Ok(metadata.to_raw()?.as_bytes().to_vec())
}

/// Whether bytes are a root rather than a bundle.
pub fn is_root(bytes: &[u8]) -> bool {
    let raw = RawSignedMetadata::<Pouf1, RootMetadata>::new(bytes.to_vec());
    raw.parse_untrusted()
        .and_then(|root| root.assume_valid())
        .is_ok_and(|_| Role::Root.name() == "root")
}
