//! A plugin's permission manifest as a policy.
//!
//! ```json
//! {"name": "notes", "version": "1.2.0",
//!  "permissions": {
//!    "filesystem": ["~/notes", {"path": "./", "mode": "write"}],
//!    "network": ["https://api.example.com/v1/*", "*.cdn.example.com", "10.0.0.0/8:8080"],
//!    "cloud": []},
//!  "signature": "untrusted comment: …\n…"}
//! ```
//!
//! What is not understood is an error: a permission that is dropped would be a policy that nobody
//! asked for. The signature is one of minisign, over the manifest without its `signature` in the
//! canonical form of RFC 8785.

mod network;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use crate::flow::printable;
use crate::policy::{self, AgentName};

/// Bytes of the largest manifest.
pub const MAX_BYTES: u64 = 1 << 20;

/// Why there is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportError(String);

impl ImportError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// How a manifest is taken.
#[derive(Debug, Clone, Default)]
pub struct How<'a> {
    /// The agent; the plugin's name if it is not said.
    pub agent: Option<&'a str>,
    /// Whether permission for every destination is taken.
    pub allow_any: bool,
    /// Whether cloud permissions may be left out, with a comment.
    pub without_cloud: bool,
    /// The publisher's key: then the manifest must be signed by it.
    pub public_key: Option<&'a str>,
}

/// The policy, and what a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// YAML.
    pub policy: String,
    /// Sentences.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    version: String,
    permissions: Permissions,
    #[serde(default)]
    signature: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permissions {
    #[serde(default)]
    filesystem: Vec<Place>,
    #[serde(default)]
    network: Vec<String>,
    #[serde(default)]
    cloud: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Place {
    Path(String),
    Moded(Moded),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Moded {
    path: String,
    mode: String,
}

/// What the sandbox leaves open.
#[derive(Default)]
struct Openings {
    home: Option<&'static str>,
    project: Option<&'static str>,
    read: Vec<String>,
    write: Vec<String>,
}

/// Makes a policy of a manifest.
///
/// # Errors
/// Where something of it is not understood, wants everything, or is not signed as it should be.
pub fn import(text: &str, how: &How<'_>) -> Result<Imported, ImportError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ImportError::new(format!("it is not JSON: {error}")))?;
    let manifest: Manifest = serde_json::from_value(value.clone()).map_err(|error| {
        ImportError::new(format!(
            "it is no manifest that is understood: {error}\n  a manifest has name, version, \
             permissions {{filesystem, network, cloud}} and signature; what is not understood is \
             not left out silently"
        ))
    })?;
    let mut warnings = Vec::new();
    let signed = match (how.public_key, &manifest.signature) {
        (Some(key), Some(signature)) => {
            signature::verify(value, signature, key)?;
            "signed by the key that was given"
        }
        (Some(_), None) => {
            return Err(ImportError::new(
                "it is not signed, and a key was given: ask the publisher, or import it without \
                 --public-key",
            ));
        }
        (None, Some(_)) => {
            warnings.push("the signature was not checked: give --public-key".to_owned());
            "its signature was NOT checked"
        }
        (None, None) => {
            warnings.push("the manifest is not signed: anybody may have written it".to_owned());
            "NOT signed"
        }
    };
    let agent = agent(&manifest, how)?;
    let mut rules = String::new();
    for entry in &manifest.permissions.network {
        let rule = network::rule(entry, how.allow_any)?;
        if rule.any {
            warnings.push(format!("`{}` is every destination", printable(entry)));
        }
        rules.push_str(&rule.text);
    }
    let mut openings = Openings::default();
    for place in &manifest.permissions.filesystem {
        openings.take(place)?;
    }
    let cloud = cloud(&manifest.permissions.cloud, how, &mut warnings)?;
    let mut policy = String::from("version: 1\nagents:\n");
    // Both are text of the manifest: on one line, and in a comment.
    let _ = writeln!(
        policy,
        "  # imported from the manifest of {} {}, {signed}",
        printable(&manifest.name),
        printable(&manifest.version)
    );
    let _ = writeln!(policy, "  \"{agent}\":");
    policy.push_str("    mode: enforce\n");
    policy.push_str(&cloud);
    if !rules.is_empty() {
        policy.push_str("    allow:\n");
        policy.push_str(&rules);
    }
    policy.push_str(&openings.text());
    // What policies forbid (a wildcard over everything, a path that is none) is said by them.
    match policy::parse("the policy that it would be", &policy) {
        Ok(_) => Ok(Imported { policy, warnings }),
        Err(errors) => Err(ImportError::new(errors.to_string())),
    }
}

fn agent(manifest: &Manifest, how: &How<'_>) -> Result<AgentName, ImportError> {
    let name = how.agent.unwrap_or(&manifest.name);
    name.parse().map_err(|error| {
        ImportError::new(format!(
            "`{}` cannot be the name of an agent: {error}; say another one with --agent",
            printable(name)
        ))
    })
}

/// The policy language has destinations and no providers: which hosts a cloud permission means
/// the manifest does not say.
fn cloud(
    entries: &[Value],
    how: &How<'_>,
    warnings: &mut Vec<String>,
) -> Result<String, ImportError> {
    if entries.is_empty() {
        return Ok(String::new());
    }
    let named: Vec<String> = entries.iter().map(ToString::to_string).collect();
    let named = printable(&named.join(", ")).into_owned();
    if !how.without_cloud {
        return Err(ImportError::new(format!(
            "cloud permissions ({named}) name no hosts, and a policy has none for a provider as a \
             whole: its addresses are those of all its customers. Import it with --without-cloud, \
             and write a rule for each endpoint that the plugin uses, such as `host: \
             BUCKET.s3.eu-central-1.amazonaws.com`"
        )));
    }
    warnings.push(format!("cloud permissions are left out: {named}"));
    Ok(format!(
        "    # LEFT OUT: cloud permissions {named}: write a rule for each endpoint\n"
    ))
}

impl Openings {
    fn take(&mut self, place: &Place) -> Result<(), ImportError> {
        let (path, mode) = match place {
            Place::Path(path) => (path, "read"),
            Place::Moded(moded) => (&moded.path, moded.mode.as_str()),
        };
        let shown = printable(path).into_owned();
        let write = match mode {
            "read" | "r" | "ro" => false,
            "write" | "w" | "rw" | "readwrite" | "read-write" => true,
            other => {
                return Err(ImportError::new(format!(
                    "`{}` is no mode of `{shown}`: read or write",
                    printable(other)
                )));
            }
        };
        let home = ["$HOME", "${HOME}", "~"]
            .iter()
            .find_map(|home| path.strip_prefix(home));
        let path = match home {
            Some("" | "/") => {
                let word = if write { "write" } else { "read" };
                if self.home != Some("write") {
                    self.home = Some(word);
                }
                return Ok(());
            }
            Some(rest) if rest.starts_with('/') => format!("~{rest}"),
            _ => path.clone(),
        };
        if matches!(path.as_str(), "." | "./") {
            let word = if write { "write" } else { "read" };
            if self.project != Some("write") {
                self.project = Some(word);
            }
            return Ok(());
        }
        if path.contains(['*', '?', '[', '$', '%', '\\']) || path.chars().any(char::is_control) {
            return Err(ImportError::new(format!(
                "`{shown}` has wildcards or variables: a sandbox opens files and folders (a folder \
                 with everything in it)"
            )));
        }
        let whole = path.trim_end_matches('/').is_empty();
        if whole || !(path.starts_with('/') || path.starts_with("~/")) {
            return Err(ImportError::new(format!(
                "`{shown}` cannot be opened: write an absolute path below `/`, one below `~/`, or \
                 `./` for the project"
            )));
        }
        match write {
            true => self.write.push(path),
            false => self.read.push(path),
        }
        Ok(())
    }

    /// Without a word a sandbox lets the project be changed; a manifest that does not ask for
    /// that may read it.
    fn text(&self) -> String {
        let list = |paths: &[String]| {
            let quoted: Vec<String> = paths
                .iter()
                .map(|path| Value::from(path.as_str()).to_string())
                .collect();
            quoted.join(", ")
        };
        let mut text = String::from("    sandbox:\n");
        if let Some(home) = self.home {
            let _ = writeln!(text, "      home: {home}");
        }
        let project = self.project.unwrap_or("read");
        let _ = writeln!(text, "      project: {project}");
        if !self.read.is_empty() {
            let _ = writeln!(text, "      read: [{}]", list(&self.read));
        }
        if !self.write.is_empty() {
            let _ = writeln!(text, "      write: [{}]", list(&self.write));
        }
        text
    }
}
