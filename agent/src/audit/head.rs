//! `head`: where the log ends, signed. Cutting whole lines off the end of a chain leaves a
//! chain; this says that there were more.

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::key::{Key, PublicKey};
use super::record::{Link, canonical, is_hash};
use crate::private;

/// Its name in the folder.
pub(super) const FILE: &str = "head";
/// More than it ever has.
const MAX_BYTES: u64 = 4096;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) link: Link,
    /// Number of the file that the record is in.
    pub(super) file: u64,
    /// The daemon that wrote it ended as it should: nothing follows.
    pub(super) closed: bool,
    pub(super) key: PublicKey,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A head, signed by the key that it names.
    Head(Head),
    /// No file.
    None,
    /// A file that is no head, or is not signed by the key that it names.
    Broken,
}

impl Head {
    pub(super) fn write(
        folder: &Path,
        link: &Link,
        file: u64,
        closed: bool,
        key: &Key,
    ) -> io::Result<()> {
        let mut fields = Map::new();
        fields.insert("seq".into(), link.seq.into());
        fields.insert("hash".into(), link.hash.as_str().into());
        fields.insert("file".into(), file.into());
        fields.insert("closed".into(), closed.into());
        fields.insert("time".into(), json!(jiff::Timestamp::now()));
        fields.insert("key".into(), key.public().to_string().into());
        let bytes = canonical(&fields)?;
        fields.insert("sig".into(), key.sign(&bytes).into());
        let mut line = canonical(&fields)?;
        line.push(b'\n');
        private::write(&folder.join(FILE), 0o640, &line)
    }

    pub(super) fn read(folder: &Path) -> io::Result<Found> {
        use std::io::Read as _;
        let file = match super::files::open_to_read(&folder.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes).map_or(Found::Broken, Found::Head))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = bytes.strip_suffix(b"\n")?;
        let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
        if canonical(&fields).ok()? != line {
            return None;
        }
        let sig = fields.remove("sig")?;
        let key: PublicKey = fields.get("key")?.as_str()?.parse().ok()?;
        if !key.verify(&canonical(&fields).ok()?, sig.as_str()?) {
            return None;
        }
        let hash = fields.get("hash")?.as_str()?.to_owned();
        let link = Link {
            seq: fields.get("seq")?.as_u64()?,
            hash: is_hash(&hash).then_some(hash)?,
        };
        Some(Self {
            link,
            file: fields.get("file")?.as_u64()?,
            closed: fields.get("closed")?.as_bool()?,
            key,
        })
    }
}
