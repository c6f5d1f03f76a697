//! Whether a bundle is to be believed. The signatures, their thresholds, the chain of roots and
//! expiry are `tuf`'s; what it leaves to whoever downloads (digests of metadata and files, the
//! versions that were seen) is here.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tuf::Database;
use tuf::crypto::{HashAlgorithm, HashValue, KeyId, PublicKey};
use tuf::metadata::{
    Metadata, MetadataPath, RawSignedMetadata, RootMetadata, SnapshotMetadata, TargetPath,
    TargetsMetadata, TimestampMetadata,
};
use tuf::pouf::Pouf1;

use super::archive::{Archive, MANIFEST};
use super::manifest::Manifest;
use super::{Refusal, sha256};

/// In `custom` of the manifest's target: when the bundle was built.
pub(super) const PUBLISHED: &str = "published";
/// Roots that one bundle may bring at once.
const MAX_ROOTS: u32 = 256;

/// What was seen of earlier bundles: never older again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The newest trusted root, as it was signed; the anchor where there is none.
    pub root: Option<String>,
    /// Version of the newest timestamp.
    pub timestamp: u32,
    /// Version of the newest snapshot.
    pub snapshot: u32,
    /// Version of the newest targets.
    pub targets: u32,
    /// [`Verified::digest`] of it.
    pub digest: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

/// A bundle that is to be believed.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What to remember.
    pub seen: Seen,
    /// Version of the trusted root.
    pub root_version: u32,
    /// Its version: that of the targets.
    pub version: u32,
    /// Until when it is to be believed: the first end among its parts.
    pub expires: Timestamp,
    /// When it was built.
    pub published: Timestamp,
    /// What its files are for.
    pub manifest: Manifest,
    /// Its policy files.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of what is signed of the targets: same digest, same content.
    pub digest: String,
    /// Ids of the keys that its root names, by part.
    pub keys: BTreeMap<&'static str, Vec<String>>,
}

fn utc(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp(at.as_second(), 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

pub(super) fn timestamp(at: &DateTime<Utc>) -> Timestamp {
    Timestamp::from_second(at.timestamp()).unwrap_or(Timestamp::MAX)
}

/// Checks everything but whether it is for this laptop. `anchor` is the root that the laptop was
/// given; with none the bundle is refused.
pub fn check(
    archive: &Archive,
    anchor: &[u8],
    seen: &Seen,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let (database, newest, reset) = roots(archive, anchor, seen)?;
    verify(
        archive,
        database,
        newest,
        &if reset { forget(seen) } else { seen.clone() },
        now,
    )
}

/// Recovery from a key that was used to count versions up (TUF 5.3.11): the root took it away, so
/// what it signed counts no more.
fn forget(seen: &Seen) -> Seen {
    Seen {
        root: seen.root.clone(),
        name: seen.name.clone(),
        ..Seen::default()
    }
}

type Trusted = (Database<Pouf1>, Vec<u8>, bool);

/// Follows the chain of roots from the newest trusted one; says whether keys of the parts changed.
fn roots(archive: &Archive, anchor: &[u8], seen: &Seen) -> Result<Trusted, Refusal> {
    let mut newest = seen
        .root
        .as_ref()
        .map_or(anchor.to_vec(), |root| root.clone().into_bytes());
    let first = RawSignedMetadata::<Pouf1, RootMetadata>::new(newest.clone());
    let mut database = Database::from_trusted_root(&first)
        .map_err(|error| Refusal::NoTrust(format!("the root on this laptop: {error}")))?;
    let mut reset = false;
    for _ in 0..MAX_ROOTS {
        let version = database.trusted_root().version();
        let Some(raw) = version
            .checked_add(1)
            .and_then(|next| archive.roots.get(&next))
        else {
            break;
        };
        let next = RawSignedMetadata::<Pouf1, RootMetadata>::new(raw.clone());
        let before = part_keys(database.trusted_root());
        let old = database.trusted_root().root().key_ids().clone();
        database
            .update_root(&next)
            .map_err(|error| refusal("root", error, &next, &old))?;
        reset |= before != part_keys(database.trusted_root());
        newest = raw.clone();
    }
    let root = database.trusted_root();
    for (role, keys) in role_keys(root) {
        // One key under two ids would count twice.
        let distinct: BTreeSet<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        if distinct.len() != keys.len() {
            return Err(Refusal::NoTrust(format!(
                "the root names a key of its {role} twice"
            )));
        }
    }
    Ok((database, newest, reset))
}

fn role_keys(root: &RootMetadata) -> [(&'static str, Vec<&PublicKey>); 4] {
    [
        ("root", root.root_keys().collect()),
        ("timestamp", root.timestamp_keys().collect()),
        ("snapshot", root.snapshot_keys().collect()),
        ("targets", root.targets_keys().collect()),
    ]
}

fn part_keys(root: &RootMetadata) -> [BTreeSet<KeyId>; 3] {
    let sorted = |ids: &std::collections::HashSet<KeyId>| ids.iter().cloned().collect();
    [
        sorted(root.timestamp().key_ids()),
        sorted(root.snapshot().key_ids()),
        sorted(root.targets().key_ids()),
    ]
}

fn verify(
    archive: &Archive,
    mut database: Database<Pouf1>,
    newest: Vec<u8>,
    seen: &Seen,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let at = utc(now);
    let root = database.trusted_root();
    let root_version = root.version();
    let keys = role_keys(root)
        .map(|(role, keys)| {
            (
                role,
                keys.iter().map(|key| key.key_id().to_string()).collect(),
            )
        })
        .into();
    let mut expires = timestamp(root.expires());
    if *root.expires() <= at {
        return Err(Refusal::Expired {
            role: "root".into(),
            at: expires,
        });
    }
    let of = [
        root.timestamp().key_ids(),
        root.snapshot().key_ids(),
        root.targets().key_ids(),
    ]
    .map(Clone::clone);

    let raw = RawSignedMetadata::<Pouf1, TimestampMetadata>::new(archive.timestamp.clone());
    database
        .update_timestamp(&at, &raw)
        .map_err(|error| refusal("timestamp", error, &raw, &of[0]))?;
    let part = database
        .trusted_timestamp()
        .ok_or_else(|| Refusal::Mixed("timestamp".into()))?;
    let timestamp_version = newer("timestamp", part.version(), seen.timestamp)?;
    expires = expires.min(timestamp(part.expires()));
    let snapshot = part.snapshot();
    described(
        "snapshot",
        &archive.snapshot,
        snapshot.length(),
        snapshot.hashes(),
    )?;

    let raw = RawSignedMetadata::<Pouf1, SnapshotMetadata>::new(archive.snapshot.clone());
    database
        .update_snapshot(&at, &raw)
        .map_err(|error| refusal("snapshot", error, &raw, &of[1]))?;
    let part = database
        .trusted_snapshot()
        .ok_or_else(|| Refusal::Mixed("snapshot".into()))?;
    let snapshot_version = newer("snapshot", part.version(), seen.snapshot)?;
    let ends = timestamp(part.expires());
    if *part.expires() <= at {
        return Err(Refusal::Expired {
            role: "snapshot".into(),
            at: ends,
        });
    }
    expires = expires.min(ends);
    if let Some(targets) = part.meta().get(&MetadataPath::targets()) {
        described(
            "targets",
            &archive.targets,
            targets.length(),
            targets.hashes(),
        )?;
        newer("targets", targets.version(), seen.targets)?;
    }

    let raw = RawSignedMetadata::<Pouf1, TargetsMetadata>::new(archive.targets.clone());
    database
        .update_targets(&at, &raw)
        .map_err(|error| refusal("targets", error, &raw, &of[2]))?;
    let part = database
        .trusted_targets()
        .ok_or_else(|| Refusal::Mixed("targets".into()))?;
    let version = newer("targets", part.version(), seen.targets)?;
    let ends = timestamp(part.expires());
    if *part.expires() <= at {
        return Err(Refusal::Expired {
            role: "targets".into(),
            at: ends,
        });
    }
    expires = expires.min(ends);
    if !part.delegations().is_empty() {
        return Err(Refusal::Malformed(
            "it delegates to others, which bundles do not".into(),
        ));
    }
    let (manifest, published, files) = contents(archive, part)?;
    let digest = content_digest(part)?;
    let same_version = timestamp_version == seen.timestamp;
    if same_version && seen.digest.as_ref().is_some_and(|before| *before != digest) {
        return Err(Refusal::Mixed(format!(
            "another bundle of version {version} was seen before"
        )));
    }
    if let Some(name) = seen.name.as_ref().filter(|name| **name != manifest.name) {
        return Err(Refusal::WrongTarget(format!(
            "it is `{}`, and this laptop follows `{name}`",
            manifest.name
        )));
    }
    let root =
        String::from_utf8(newest).map_err(|_| Refusal::Malformed("a root is not UTF-8".into()))?;
    Ok(Verified {
        seen: Seen {
            root: Some(root),
            timestamp: timestamp_version,
            snapshot: snapshot_version,
            targets: version,
            digest: Some(digest.clone()),
            name: Some(manifest.name.clone()),
        },
        root_version,
        version,
        expires,
        published,
        manifest,
        files,
        digest,
        keys,
    })
}

/// Of what the signatures are for, and not of the file, which may hold more signatures later.
fn content_digest(targets: &TargetsMetadata) -> Result<String, Refusal> {
    let content = serde_json::to_value(targets)
        .and_then(|value| serde_json::to_vec(&value))
        .map_err(|error| Refusal::Malformed(error.to_string()))?;
    Ok(sha256(&content))
}

fn newer(role: &str, version: u32, seen: u32) -> Result<u32, Refusal> {
    match version < seen {
        false => Ok(version),
        true => Err(Refusal::OldVersion {
            role: role.into(),
            version,
            seen,
        }),
    }
}

type Hashes = std::collections::HashMap<HashAlgorithm, HashValue>;

fn described(
    what: &str,
    bytes: &[u8],
    length: Option<usize>,
    hashes: &Hashes,
) -> Result<(), Refusal> {
    let other = length.is_some_and(|length| length != bytes.len()) || !matches(bytes, hashes);
    match other {
        false => Ok(()),
        true => Err(Refusal::Mixed(format!(
            "its {what} is not the one that was signed for"
        ))),
    }
}

/// Every digest that we know; one that we do not know alone proves nothing, and is refused.
fn matches(bytes: &[u8], hashes: &Hashes) -> bool {
    let known: Vec<_> = hashes
        .iter()
        .filter_map(|(algorithm, value)| {
            let found = match algorithm {
                HashAlgorithm::Sha256 => ring::digest::digest(&ring::digest::SHA256, bytes),
                HashAlgorithm::Sha512 => ring::digest::digest(&ring::digest::SHA512, bytes),
                _ => return None,
            };
            Some(found.as_ref() == value.value())
        })
        .collect();
    hashes.is_empty() || (!known.is_empty() && known.iter().all(|same| *same))
}

type Contents = (Manifest, Timestamp, BTreeMap<String, String>);

/// The files that were signed for, and no others.
fn contents(archive: &Archive, targets: &TargetsMetadata) -> Result<Contents, Refusal> {
    let mut texts = BTreeMap::new();
    for (path, described) in targets.targets() {
        let name = path.as_str();
        let shown = name.escape_debug();
        let Some(bytes) = archive.files.get(name) else {
            return Err(Refusal::Mixed(format!(
                "{shown} was signed for and is not in it"
            )));
        };
        // A target without a digest would be a file that anybody may replace.
        if described.length() != bytes.len() as u64
            || described.hashes().is_empty()
            || !matches(bytes, described.hashes())
        {
            return Err(Refusal::Mixed(format!(
                "{shown} is not the file that was signed for"
            )));
        }
        let text = String::from_utf8(bytes.clone())
            .map_err(|_| Refusal::Malformed(format!("{shown} is not UTF-8")))?;
        texts.insert(name.to_owned(), text);
    }
    if let Some(extra) = archive.files.keys().find(|name| !texts.contains_key(*name)) {
        let shown = extra.escape_debug();
        return Err(Refusal::Mixed(format!(
            "{shown} is in it and was not signed for"
        )));
    }
    let Some(text) = texts.remove(MANIFEST) else {
        return Err(Refusal::Malformed("it has no bundle.yaml".into()));
    };
    let manifest = Manifest::parse(&text)?;
    let path = TargetPath::new(MANIFEST).map_err(|error| Refusal::Malformed(error.to_string()))?;
    let published = targets
        .targets()
        .get(&path)
        .and_then(|target| target.custom().get(PUBLISHED)?.as_str()?.parse().ok())
        .ok_or_else(|| Refusal::Malformed("it does not say when it was built".into()))?;
    let listed: BTreeSet<&str> = manifest
        .files
        .iter()
        .map(|entry| entry.file.as_str())
        .collect();
    if listed.len() != manifest.files.len() {
        return Err(Refusal::Malformed("bundle.yaml names a file twice".into()));
    }
    for name in &listed {
        if !texts.contains_key(*name) {
            let shown = name.escape_debug();
            return Err(Refusal::Malformed(format!(
                "bundle.yaml names {shown}, which is not in it"
            )));
        }
    }
    if let Some(extra) = texts.keys().find(|name| !listed.contains(name.as_str())) {
        let shown = extra.escape_debug();
        return Err(Refusal::Malformed(format!(
            "bundle.yaml does not name {shown}"
        )));
    }
    Ok((manifest, published, texts))
}

/// tuf's error in our words. It counts good signatures only; whether the others were of strangers
/// or wrong is seen by their ids.
fn refusal<M: Metadata>(
    role: &str,
    error: tuf::Error,
    raw: &RawSignedMetadata<Pouf1, M>,
    authorised: &std::collections::HashSet<KeyId>,
) -> Refusal {
    let role = role.to_owned();
    match error {
        tuf::Error::MetadataMissingSignatures {
            number_of_valid_signatures: have,
            threshold: need,
            ..
        } => {
            let signatures = raw.parse_untrusted();
            let named = signatures.as_ref().map_or(0, |signed| {
                let ids: BTreeSet<_> = signed.signatures().iter().map(|s| s.key_id()).collect();
                ids.iter().filter(|id| authorised.contains(**id)).count()
            });
            match named {
                0 => Refusal::UnknownKeys { role },
                _ if have < need && named as u32 > have => Refusal::BadSignature { role },
                _ => Refusal::TooFewSignatures { role, have, need },
            }
        }
        tuf::Error::ExpiredMetadata {
            path, expiration, ..
        } => Refusal::Expired {
            role: path.to_string(),
            at: timestamp(&expiration),
        },
        tuf::Error::AttemptedMetadataRollBack {
            trusted_version,
            new_version,
            ..
        } => Refusal::OldVersion {
            role,
            version: new_version,
            seen: trusted_version,
        },
        tuf::Error::WrongMetadataVersion {
            child_role,
            expected_version,
            new_version,
            ..
        } => Refusal::Mixed(format!(
            "its {child_role} has version {new_version} where {expected_version} was signed for"
        )),
        error => Refusal::Malformed(format!("its {role}: {error}")),
    }
}
