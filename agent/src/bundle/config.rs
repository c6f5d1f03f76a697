//! `bundle:` of the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Deserializer};

/// Where the trusted root is when nothing else is said.
pub const TRUST: &str = "/etc/exeat/bundle/root.json";

/// The `bundle` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BundleConfig {
    /// The root of trust: the first root file of whoever may write policy for this laptop.
    /// Default: `/etc/exeat/bundle/root.json`, which need not be there while no bundle is used.
    pub trust: PathBuf,
    /// A bundle that somebody else puts there, such as MDM: taken whenever it changes. Default:
    /// none.
    pub file: Option<PathBuf>,
    /// Where bundles are pulled from: `https://HOST/PATH`. Default: nowhere.
    #[serde(deserialize_with = "url")]
    pub url: Option<Uri>,
    /// How often, 1m to 30d; up to a tenth is added by chance. Default: `1h`.
    #[serde(deserialize_with = "time")]
    pub every: Duration,
    /// Certificates (PEM) of the authorities that may vouch for the server. Default: the
    /// system's.
    pub ca_file: Option<PathBuf>,
    /// The laptop's own certificate (PEM), with its chain. Default: none.
    pub certificate_file: Option<PathBuf>,
    /// Its key (PEM), which nobody but root can read.
    pub key_file: Option<PathBuf>,
    /// Roles of this laptop, for the selectors of bundles. Default: none.
    pub roles: Vec<String>,
    /// People of this laptop, for the selectors of bundles. Default: the accounts of
    /// `/etc/passwd` from 1000 to 59999.
    pub users: Option<Vec<String>>,
}

impl Default for BundleConfig {
    fn default() -> Self {
        Self {
            trust: TRUST.into(),
            file: None,
            url: None,
            every: Duration::from_secs(3600),
            ca_file: None,
            certificate_file: None,
            key_file: None,
            roles: Vec::new(),
            users: None,
        }
    }
}

fn url<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Uri>, D::Error> {
    let Some(text) = Option::<String>::deserialize(d)? else {
        return Ok(None);
    };
    let wrong = || {
        let shown = text.escape_debug();
        serde::de::Error::custom(format!("`{shown}` is no address: write https://HOST/PATH"))
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let plain = uri
        .authority()
        .is_some_and(|host| !host.as_str().contains('@'));
    match uri.scheme_str() == Some("https") && plain {
        true => Ok(Some(uri)),
        false => Err(wrong()),
    }
}

fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    let seconds = crate::policy::limits::parse_time(&text);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let shown = text.escape_debug();
        serde::de::Error::custom(format!("`{shown}` is no time: write one such as 1h"))
    })
}

impl BundleConfig {
    /// The folder of what was taken.
    pub fn folder(state_dir: &Path) -> PathBuf {
        state_dir.join("bundle")
    }

    /// Whether bundles come to this laptop by themselves.
    pub fn expects(&self) -> bool {
        self.file.is_some() || self.url.is_some()
    }

    /// Looks at what serde cannot; the key and what is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let paths = [
            ("bundle.trust", Some(&self.trust)),
            ("bundle.file", self.file.as_ref()),
            ("bundle.ca_file", self.ca_file.as_ref()),
            ("bundle.certificate_file", self.certificate_file.as_ref()),
            ("bundle.key_file", self.key_file.as_ref()),
        ];
        for (key, path) in paths {
            if let Some(path) = path
                && !path.is_absolute()
            {
                return Err((key, format!("{} must be an absolute path", path.display())));
            }
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            let text = "certificate_file and key_file go together".to_owned();
            return Err(("bundle.key_file", text));
        }
        let seconds = self.every.as_secs();
        if !(60..=30 * 86_400).contains(&seconds) {
            return Err((
                "bundle.every",
                format!("{seconds} s is not between 1m and 30d"),
            ));
        }
        Ok(())
    }
}
