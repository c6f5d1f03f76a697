//! Signed policy bundles: one file that holds the policies of a fleet, and the proof of who wrote
//! them, when, and for how long they are to be believed.
//!
//! ```text
//! bytes ─archive─► files ─check─► Verified ─layers─► PolicySet      make: the way there
//! ```
//!
//! A bundle is a repository of The Update Framework (TUF 1.0) in a tar archive: `metadata/` with
//! every root, the timestamp, the snapshot and the targets, and `targets/` with `bundle.yaml` and
//! the policy files. Nothing of it is used before its signatures are checked, and the checks need
//! no network: what is trusted is a root file on the laptop, what was seen before is in the state
//! folder ([`keep`]). `archive`, `check`, `manifest` and `layers` touch no file and no clock.

pub mod archive;
pub mod check;
pub mod config;
pub mod keep;
pub mod layers;
pub mod machine;
pub mod make;
pub mod manifest;
pub mod pull;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

use crate::metrics::labels;

/// The most bytes of a bundle.
pub const MAX_BYTES: u64 = 16 << 20;
/// The most bytes of one file of metadata.
pub const MAX_METADATA: u64 = 1 << 20;
/// The most files in a bundle.
pub const MAX_FILES: usize = 2000;
/// The most bytes of `bundle.yaml`.
pub const MAX_MANIFEST: u64 = 256 << 10;

labels! {
    /// The kinds of [`Refusal`], for programs.
    #[derive(PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    RefusalKind {
        /// It is no bundle, or broken.
        Malformed = "malformed",
        /// It is larger than any bundle may be.
        Oversize = "oversize",
        /// This laptop trusts no root.
        NoTrust = "no_trust",
        /// Nobody signed it whom the root names.
        UnknownKeys = "unknown_keys",
        /// A signature is not of what it stands under.
        BadSignature = "bad_signature",
        /// Fewer signed it than have to.
        TooFewSignatures = "too_few_signatures",
        /// It was to be believed until a time that is past.
        Expired = "expired",
        /// A newer one was seen before.
        OldVersion = "old_version",
        /// Its parts are not of one release.
        Mixed = "mixed",
        /// It is not for this laptop.
        WrongTarget = "wrong_target",
        /// This version was rolled back on this laptop.
        RolledBack = "rolled_back",
        /// Its policies are not sound, or could not be put in force.
        Policy = "policy",
        /// It could not be read or kept.
        Storage = "storage",
    }
}

/// Why a bundle is not taken. What was in force before still is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// [`RefusalKind::Malformed`].
    #[error("it is no sound bundle: {0}")]
    Malformed(String),
    /// [`RefusalKind::Oversize`].
    #[error("{what} is larger than the {max} bytes that it may have")]
    Oversize {
        /// What of it.
        what: String,
        /// The bound.
        max: u64,
    },
    /// [`RefusalKind::NoTrust`].
    #[error("no trusted root: {0}")]
    NoTrust(String),
    /// [`RefusalKind::UnknownKeys`].
    #[error("its {role} is signed by nobody whom the trusted root names")]
    UnknownKeys {
        /// The part.
        role: String,
    },
    /// [`RefusalKind::BadSignature`].
    #[error("a signature of its {role} is not of what stands there")]
    BadSignature {
        /// The part.
        role: String,
    },
    /// [`RefusalKind::TooFewSignatures`].
    #[error("its {role} has {have} good signatures and needs {need}")]
    TooFewSignatures {
        /// The part.
        role: String,
        /// Good ones.
        have: u32,
        /// Needed ones.
        need: u32,
    },
    /// [`RefusalKind::Expired`].
    #[error("its {role} expired at {at}")]
    Expired {
        /// The part.
        role: String,
        /// When.
        at: Timestamp,
    },
    /// [`RefusalKind::OldVersion`].
    #[error("its {role} has version {version}, and version {seen} was seen before")]
    OldVersion {
        /// The part.
        role: String,
        /// Its version.
        version: u32,
        /// The newest that was seen.
        seen: u32,
    },
    /// [`RefusalKind::Mixed`].
    #[error("its parts are not of one release: {0}")]
    Mixed(String),
    /// [`RefusalKind::WrongTarget`].
    #[error("it is not for this laptop: {0}")]
    WrongTarget(String),
    /// [`RefusalKind::RolledBack`].
    #[error("version {0} was rolled back on this laptop; a newer one is needed")]
    RolledBack(u32),
    /// [`RefusalKind::Policy`].
    #[error("its policies cannot be in force: {0}")]
    Policy(String),
    /// [`RefusalKind::Storage`].
    #[error("{0}")]
    Storage(String),
}

impl Refusal {
    /// Its kind.
    pub const fn kind(&self) -> RefusalKind {
        match self {
            Self::Malformed(_) => RefusalKind::Malformed,
            Self::Oversize { .. } => RefusalKind::Oversize,
            Self::NoTrust(_) => RefusalKind::NoTrust,
            Self::UnknownKeys { .. } => RefusalKind::UnknownKeys,
            Self::BadSignature { .. } => RefusalKind::BadSignature,
            Self::TooFewSignatures { .. } => RefusalKind::TooFewSignatures,
            Self::Expired { .. } => RefusalKind::Expired,
            Self::OldVersion { .. } => RefusalKind::OldVersion,
            Self::Mixed(_) => RefusalKind::Mixed,
            Self::WrongTarget(_) => RefusalKind::WrongTarget,
            Self::RolledBack(_) => RefusalKind::RolledBack,
            Self::Policy(_) => RefusalKind::Policy,
            Self::Storage(_) => RefusalKind::Storage,
        }
    }
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}
