//! A bundle as a file: a tar archive of a TUF repository. Reading believes nothing: bounds first,
//! then names, and nothing is written anywhere.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::{MAX_BYTES, MAX_FILES, MAX_METADATA, Refusal};

/// The file that says what else is in a bundle.
pub const MANIFEST: &str = "bundle.yaml";

/// What a bundle holds; none of it is believed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    /// Roots by version.
    pub roots: BTreeMap<u32, Vec<u8>>,
    /// `metadata/timestamp.json`.
    pub timestamp: Vec<u8>,
    /// `metadata/snapshot.json`.
    pub snapshot: Vec<u8>,
    /// `metadata/targets.json`.
    pub targets: Vec<u8>,
    /// Files below `targets/`.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads the archive.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Refusal::Oversize {
                what: "the bundle".into(),
                max: MAX_BYTES,
            });
        }
        let broken = |error: std::io::Error| Refusal::Malformed(format!("as an archive: {error}"));
        let mut found = Self::default();
        let mut archive = tar::Archive::new(bytes);
        for (index, entry) in archive.entries().map_err(broken)?.enumerate() {
            let entry = entry.map_err(broken)?;
            if index >= MAX_FILES {
                return Err(Refusal::Malformed(format!("more than {MAX_FILES} files")));
            }
            let path = entry.path_bytes().into_owned();
            let Ok(path) = String::from_utf8(path) else {
                return Err(Refusal::Malformed("a name is not UTF-8".into()));
            };
            match entry.header().entry_type() {
                tar::EntryType::Regular => {}
                tar::EntryType::Directory => continue,
                kind => {
                    let shown = path.escape_debug();
                    return Err(Refusal::Malformed(format!("{shown} is no file ({kind:?})")));
                }
            }
            let max = match path.starts_with("metadata/") {
                true => MAX_METADATA,
                false => MAX_BYTES,
            };
            let mut content = Vec::new();
            entry
                .take(max + 1)
                .read_to_end(&mut content)
                .map_err(broken)?;
            if content.len() as u64 > max {
                return Err(Refusal::Oversize { what: path, max });
            }
            found.put(&path, content)?;
        }
        for (name, part) in [
            ("timestamp", &found.timestamp),
            ("snapshot", &found.snapshot),
            ("targets", &found.targets),
        ] {
            if part.is_empty() {
                return Err(Refusal::Malformed(format!(
                    "there is no metadata/{name}.json"
                )));
            }
        }
        Ok(found)
    }

    fn put(&mut self, path: &str, content: Vec<u8>) -> Result<(), Refusal> {
        let shown = path.escape_debug();
        let twice = || Refusal::Malformed(format!("{shown} is in it twice"));
        let place = match path {
            "metadata/timestamp.json" => &mut self.timestamp,
            "metadata/snapshot.json" => &mut self.snapshot,
            "metadata/targets.json" => &mut self.targets,
            _ => {
                if let Some(name) = path.strip_prefix("targets/") {
                    return match self.files.insert(name.to_owned(), content) {
                        None => Ok(()),
                        Some(_) => Err(twice()),
                    };
                }
                let version = path
                    .strip_prefix("metadata/")
                    .and_then(|name| name.strip_suffix(".root.json"))
                    .filter(|number| !number.starts_with(['0', '+']))
                    .and_then(|number| number.parse().ok());
                return match version {
                    None => Err(Refusal::Malformed(format!(
                        "{shown} is nothing of a bundle"
                    ))),
                    Some(version) => match self.roots.insert(version, content) {
                        None => Ok(()),
                        Some(_) => Err(twice()),
                    },
                };
            }
        };
        if !place.is_empty() {
            return Err(twice());
        }
        *place = content;
        Ok(())
    }

    /// The archive as bytes: the same content gives the same bytes.
    pub fn write(&self) -> std::io::Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: String, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            builder.append_data(&mut header, path, content)
        };
        for (version, root) in &self.roots {
            add(format!("metadata/{version}.root.json"), root)?;
        }
        add("metadata/timestamp.json".into(), &self.timestamp)?;
        add("metadata/snapshot.json".into(), &self.snapshot)?;
        add("metadata/targets.json".into(), &self.targets)?;
        for (name, content) in &self.files {
            add(format!("targets/{name}"), content)?;
        }
        builder.into_inner()
    }
}
