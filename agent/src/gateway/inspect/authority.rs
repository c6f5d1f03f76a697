//! The machine's own certificate authority: what inspected programs must trust.
//!
//! Whoever has its key can show such a program any name. So the key never leaves its file
//! but into this process, and signs for a week at most.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::private;

/// The key with the certificate, for the daemon alone: in one file, so that they are never
/// of two authorities.
const KEY_FILE: &str = "inspection-ca.key";

/// The certificate alone, for programs to trust.
const CERTIFICATE_FILE: &str = "inspection-ca.pem";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long an authority lasts.
const AUTHORITY: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// When it is replaced: programs that run that long have their time to be started again.
const RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a certificate of a name lasts, and how long it is shown: a connection that begins
/// with the last moment of a kept one has days before it.
const LEAF: Duration = Duration::from_secs(7 * 24 * 3600);
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

/// Clocks differ: in a guest that was asleep by more than this, seldom.
const SKEW: Duration = DAY;

/// The most certificates that are kept. Each has about a kilobyte.
const MAX_KEPT: u64 = 1024;

/// The longest common name (RFC 5280, upper bounds). Nobody goes by it.
const MAX_COMMON_NAME: usize = 64;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("the inspection authority's {} cannot be used: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// What the file holds is no authority. It is not replaced: programs trust it.
    #[error(
        "{} is no inspection authority: {why}; restore it, or remove it to have a new \
         authority, which programs must then be told of", path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Make(String),
}

/// A certificate authority of this machine alone. It signs for the names of connections that
/// are inspected, and for nothing else.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    ends: SystemTime,
    leaves: Cache<String, (SystemTime, Arc<CertifiedKey>)>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// By certificate.
impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }
}

impl Eq for Authority {}

impl Authority {
    /// Loads the authority of a folder that only root (or this user) can write to; makes one
    /// where there is none, or where it ends within 30 days. It has two years and a key of its
    /// own (ECDSA P-256). The certificate alone is in `inspection-ca.pem`, for programs.
    ///
    /// # Errors
    /// When the files cannot be read or written, when others than their owner can open the
    /// key's, or when they hold something else.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        Self::open_at(folder, SystemTime::now())
    }

    fn open_at(folder: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let path = folder.join(KEY_FILE);
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { path, source }
        };
        let authority = match private::read(&path) {
            Ok(bytes) => Self::read(&bytes).map_err(|why| AuthorityError::Unusable {
                path: path.clone(),
                why,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(&path, now)?,
            Err(error) => return Err(file(&path)(error)),
        };
        let authority = match authority.ends > now + RENEWAL {
            true => authority,
            false => Self::make(&path, now)?,
        };
        let shown = folder.join(CERTIFICATE_FILE);
        if std::fs::read(&shown).ok().as_deref() != Some(authority.pem.as_bytes()) {
            private::write(&shown, 0o644, authority.pem.as_bytes()).map_err(file(&shown))?;
        }
        Ok(authority)
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let words = |error: rustls::pki_types::pem::Error| error.to_string();
        let key = PrivateKeyDer::from_pem_slice(bytes).map_err(words)?;
        let key = KeyPair::try_from(&key).map_err(|error| error.to_string())?;
        let certificate = CertificateDer::from_pem_slice(bytes).map_err(words)?;
        Self::of(key, certificate)
    }

    fn of(key: KeyPair, certificate: CertificateDer<'static>) -> Result<Self, String> {
        let (_, read) = X509Certificate::from_der(&certificate).map_err(|e| e.to_string())?;
        if read.public_key().raw != key.subject_public_key_info() {
            return Err("its key and its certificate do not go together".to_owned());
        }
        if !read.is_ca() {
            return Err("its certificate is not an authority's".to_owned());
        }
        let ends = u64::try_from(read.validity().not_after.timestamp())
            .map_err(|_| "its end is before 1970".to_owned())?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| e.to_string())?;
        Ok(Self {
            issuer,
            pem: pem(&certificate),
            ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
            certificate,
            leaves: Cache::builder()
                .max_capacity(MAX_KEPT)
                .time_to_live(KEPT)
                .build(),
        })
    }

    fn make(path: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let failed = |error: rcgen::Error| AuthorityError::Make(error.to_string());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now - SKEW).into();
        params.not_after = (now + AUTHORITY).into();
        params.serial_number = Some(serial());
        // One name for each: a program may trust the last one and this one.
        let number = Sha256::digest(key.subject_public_key_info());
        let number = data_encoding::HEXLOWER.encode(&number[..4]);
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::OrganizationName, "Exeat");
        name.push(
            DnType::CommonName,
            format!("Exeat inspection of this machine {number}"),
        );
        let made = params.self_signed(&key).map_err(failed)?;
        let both = format!("{}{}", key.serialize_pem(), made.pem());
        private::write(path, 0o600, both.as_bytes()).map_err(|source| AuthorityError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::of(key, made.der().clone()).map_err(AuthorityError::Make)
    }

    /// The certificate, for programs to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// When it ends; [`Authority::open`] makes another one in time.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// A certificate for a name, with its key: one that is kept, or a new one.
    pub(in crate::gateway) fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, AuthorityError> {
        self.leaf_at(name, SystemTime::now())
    }

    fn leaf_at(&self, name: &str, now: SystemTime) -> Result<Arc<CertifiedKey>, AuthorityError> {
        // By the calendar, which clients go by: it is set, and goes on while the machine sleeps.
        // One from the future is from before the clock was set back.
        let fits = |made: SystemTime| now.duration_since(made).is_ok_and(|age| age < KEPT);
        if let Some((made, kept)) = self.leaves.get(name)
            && fits(made)
        {
            return Ok(kept);
        }
        let made = Arc::new(self.issue(name, now)?);
        self.leaves
            .insert(name.to_owned(), (now, Arc::clone(&made)));
        Ok(made)
    }

    fn issue(&self, name: &str, now: SystemTime) -> Result<CertifiedKey, AuthorityError> {
        let failed = |error: rcgen::Error| AuthorityError::Make(error.to_string());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(failed)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LEAF).min(self.ends).into();
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let words = &mut params.distinguished_name;
        words.push(DnType::OrganizationName, "Exeat");
        if name.len() <= MAX_COMMON_NAME {
            words.push(DnType::CommonName, name);
        }
        let made = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key)
            .map_err(|error| AuthorityError::Make(error.to_string()))?;
        Ok(CertifiedKey::new(vec![made.der().clone()], key))
    }
}

/// Some programs refuse two certificates of one issuer and one number, so it is random.
fn serial() -> rcgen::SerialNumber {
    let mut bytes: [u8; 16] = rand::rng().random();
    // Positive and never short.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    rcgen::SerialNumber::from_slice(&bytes)
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII.
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("folder")
    }

    /// Verifies as a program that trusts the authority does.
    fn verifies(authority: &Authority, shown: &CertifiedKey, name: &str, now: SystemTime) -> bool {
        use rustls::client::danger::ServerCertVerifier;
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes());
        roots.add(root.expect("certificate")).expect("root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("name");
        verifier
            .build()
            .expect("verifier")
            .verify_server_cert(
                shown.end_entity_cert().expect("certificate"),
                &[],
                &name,
                &[],
                rustls::pki_types::UnixTime::since_unix_epoch(now),
            )
            .is_ok()
    }

    #[test]
    fn it_lasts_and_its_certificates_are_for_their_name_and_week_alone() {
        let folder = folder();
        let authority = Authority::open(folder.path()).expect("made");
        let again = Authority::open(folder.path()).expect("read");
        assert_eq!(authority, again);
        let shown = std::fs::read_to_string(folder.path().join(CERTIFICATE_FILE)).expect("shown");
        assert_eq!(shown, authority.certificate_pem());
        let now = SystemTime::now();
        let leaf = again.leaf("a.example").expect("leaf");
        assert!(verifies(&authority, &leaf, "a.example", now));
        assert!(verifies(&authority, &leaf, "a.example", now + 6 * DAY));
        assert!(!verifies(&authority, &leaf, "a.example", now + 8 * DAY));
        assert!(!verifies(&authority, &leaf, "b.example", now));
        assert!(!verifies(&authority, &leaf, "x.a.example", now));
        assert!(Arc::ptr_eq(&leaf, &again.leaf("a.example").expect("kept")));
        let long = format!("{}.example", ["a".repeat(60).as_str(); 3].join("."));
        let leaf = again.leaf(&long).expect("leaf");
        assert!(verifies(&authority, &leaf, &long, now));
        // Nobody else's authority says it.
        let other = Authority::open(self::folder().path()).expect("made");
        assert!(!verifies(&other, &leaf, &long, now));
    }

    #[test]
    fn a_kept_certificate_is_shown_for_as_long_as_the_calendar_says() {
        let folder = folder();
        let authority = Authority::open(folder.path()).expect("made");
        let now = SystemTime::now();
        let first = authority.leaf_at("a.example", now).expect("leaf");
        let same = authority.leaf_at("a.example", now + 2 * DAY);
        assert!(Arc::ptr_eq(&first, &same.expect("kept")));
        // The machine slept for eight days, or its clock was set; and then set back.
        for later in [now + 8 * DAY, now - 2 * DAY] {
            let leaf = authority.leaf_at("a.example", later).expect("leaf");
            assert!(!verifies(&authority, &first, "a.example", later));
            assert!(!Arc::ptr_eq(&first, &leaf));
            let shown = leaf.end_entity_cert().expect("certificate").clone();
            let (_, read) = X509Certificate::from_der(&shown).expect("X.509");
            let at = later
                .duration_since(SystemTime::UNIX_EPOCH)
                .expect("after 1970");
            let at =
                x509_parser::time::ASN1Time::from_timestamp(at.as_secs() as i64).expect("time");
            assert!(read.validity().is_valid_at(at));
        }
    }

    #[test]
    fn the_key_is_for_its_owner_alone_and_never_shown() {
        let folder = folder();
        let authority = Authority::open(folder.path()).expect("made");
        let key = folder.path().join(KEY_FILE);
        let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(&key), 0o600);
        assert_eq!(mode(&folder.path().join(CERTIFICATE_FILE)), 0o644);
        assert!(!authority.certificate_pem().contains("PRIVATE"));
        assert!(!format!("{authority:?}").contains("key"));
        let left = std::fs::read_dir(folder.path()).expect("list").count();
        assert_eq!(left, 2, "nothing half-written");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = Authority::open(folder.path()).expect_err("open to others");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn thirty_days_before_its_end_another_takes_its_place() {
        let folder = folder();
        let now = SystemTime::now();
        let first = Authority::open_at(folder.path(), now).expect("made");
        let later = now + AUTHORITY - RENEWAL - DAY;
        let same = Authority::open_at(folder.path(), later).expect("read");
        assert_eq!(first, same);
        // No certificate outlives it.
        let last = same.issue("a.example", same.ends() - DAY).expect("leaf");
        assert!(!verifies(&same, &last, "a.example", same.ends() + DAY));
        let second = Authority::open_at(folder.path(), later + 2 * DAY).expect("made");
        assert_ne!(first, second);
        let third = Authority::open_at(folder.path(), later + 2 * DAY).expect("read");
        assert_eq!(second, third);
        let shown = std::fs::read_to_string(folder.path().join(CERTIFICATE_FILE)).expect("shown");
        assert_eq!(shown, second.certificate_pem());
    }

    #[test]
    fn what_is_no_authority_is_refused_and_left_as_it_is() {
        let folder = folder();
        let path = folder.path().join(KEY_FILE);
        Authority::open(folder.path()).expect("made");
        let good = std::fs::read_to_string(&path).expect("file");
        let other = self::folder();
        Authority::open(other.path()).expect("made");
        let others = std::fs::read_to_string(other.path().join(KEY_FILE)).expect("file");
        let at = "-----BEGIN CERTIFICATE-----";
        let (key, certificate) = good.split_at(good.find(at).expect("certificate"));
        let theirs = &others[others.find(at).expect("certificate")..];
        let leaf = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("leaf");
        let leaf = format!("{}{}", leaf.signing_key.serialize_pem(), leaf.cert.pem());
        for bad in [
            String::new(),
            "no PEM".to_owned(),
            key.to_owned(),
            certificate.to_owned(),
            format!("{key}{theirs}"),
            leaf,
        ] {
            std::fs::write(&path, &bad).expect("write");
            let error = Authority::open(folder.path()).expect_err("no authority");
            assert!(error.to_string().contains("remove it"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("file"), bad);
        }
    }
}
