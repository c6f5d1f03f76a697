//! One line of the log.

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::key::{Key, PublicKey};

/// No line is longer: an event has at most 7680 bytes, and what is around it a few hundred.
pub const MAX_LINE: usize = 16 * 1024;

/// What the first record of a log has for the hash of the one before.
pub(super) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a line is. All but events are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An OCSF event.
    Event,
    /// The first line of a file.
    Head,
    /// The log was opened: by a daemon that started, or after trouble.
    Opened,
    /// The log so far, signed.
    Checkpoint,
    /// Records were lost before this one.
    Lost,
    /// Old files were deleted, as the configuration says.
    Anchor,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Event,
        Self::Head,
        Self::Opened,
        Self::Checkpoint,
        Self::Lost,
        Self::Anchor,
    ];

    /// The word in the line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Head => "head",
            Self::Opened => "opened",
            Self::Checkpoint => "checkpoint",
            Self::Lost => "lost",
            Self::Anchor => "anchor",
        }
    }

    pub(super) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A place in the chain: the number and the hash of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl Link {
    /// Before the first record.
    pub(super) fn start() -> Self {
        Self {
            seq: 0,
            hash: NOTHING.to_owned(),
        }
    }
}

/// A line that is ready, and the link that the next one hangs on.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) line: Vec<u8>,
    pub(super) link: Link,
    pub(super) kind: Kind,
}

/// Puts `fields` behind `before` in the chain; `key` signs what is no event.
pub(super) fn seal(
    kind: Kind,
    mut fields: Map<String, Value>,
    before: &Link,
    key: &Key,
) -> serde_json::Result<Sealed> {
    let seq = before.seq + 1;
    fields.insert("kind".into(), kind.as_str().into());
    fields.insert("seq".into(), seq.into());
    fields.insert("prev".into(), before.hash.as_str().into());
    if kind != Kind::Event {
        fields.insert("key".into(), key.public().to_string().into());
        let bytes = canonical(&fields)?;
        fields.insert("sig".into(), key.sign(&bytes).into());
    }
    let bytes = canonical(&fields)?;
    let hash = hash(&bytes);
    fields.insert("hash".into(), hash.as_str().into());
    let mut line = match kind {
        Kind::Event => splice(&bytes, &hash),
        _ => None,
    }
    .map_or_else(|| canonical(&fields), Ok)?;
    line.push(b'\n');
    let link = Link { seq, hash };
    Ok(Sealed { line, link, kind })
}

/// The canonical text of an event's record with `hash` in its place, without writing the
/// whole anew: between `event` and `kind`. What follows `kind` is ours, so the last one that
/// there is is the record's own.
fn splice(bytes: &[u8], hash: &str) -> Option<Vec<u8>> {
    let word = b"\"kind\":\"event\",\"prev\":\"";
    let at = bytes.windows(word.len()).rposition(|part| part == word)?;
    let mut line = Vec::with_capacity(bytes.len() + 80);
    line.extend_from_slice(&bytes[..at]);
    line.extend_from_slice(b"\"hash\":\"");
    line.extend_from_slice(hash.as_bytes());
    line.extend_from_slice(b"\",");
    line.extend_from_slice(&bytes[at..]);
    Some(line)
}

/// A canonical line without its hash, which is canonical too. Were there the same text in the
/// event, and that taken out instead, what is left would have another hash.
fn without(line: &[u8], hash: &str) -> Option<Vec<u8>> {
    let word = format!("\"hash\":\"{hash}\",");
    let at = line
        .windows(word.len())
        .rposition(|part| part == word.as_bytes())?;
    Some([&line[..at], &line[at + word.len()..]].concat())
}

pub(super) fn canonical(fields: &Map<String, Value>) -> serde_json::Result<Vec<u8>> {
    serde_json_canonicalizer::to_vec(fields)
}

pub(super) fn hash(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// Why a line is none of the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// No JSON object with the members of a record.
    Malformed,
    /// It is written in another way than the log writes.
    NotCanonical,
    /// Its content is not what its hash says.
    WrongHash,
}

/// A line as it was read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) kind: Kind,
    pub(super) seq: u64,
    pub(super) prev: String,
    pub(super) hash: String,
    /// All but `hash` and `sig`.
    pub(super) fields: Map<String, Value>,
    sig: Option<String>,
}

impl Parsed {
    /// Reads a line without its end. What is wrong with it comes beside what could be read.
    pub(super) fn read(line: &[u8]) -> (Option<Self>, Option<Unreadable>) {
        let malformed = (None, Some(Unreadable::Malformed));
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else {
            return malformed;
        };
        let same = canonical(&fields).is_ok_and(|text| text == line);
        let word = |fields: &Map<String, Value>, key: &str| {
            fields.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let Some(hash) = word(&fields, "hash").filter(|hash| is_hash(hash)) else {
            return malformed;
        };
        fields.remove("hash");
        let right = without(line, &hash).is_some_and(|text| self::hash(&text) == hash);
        let Some(kind) = word(&fields, "kind").and_then(|kind| Kind::of(&kind)) else {
            return malformed;
        };
        let seq = fields.get("seq").and_then(Value::as_u64);
        let (Some(seq), Some(prev)) = (seq, word(&fields, "prev").filter(|prev| is_hash(prev)))
        else {
            return malformed;
        };
        let sig = word(&fields, "sig");
        fields.remove("sig");
        let wrong = match (same, right) {
            (false, _) => Some(Unreadable::NotCanonical),
            (true, false) => Some(Unreadable::WrongHash),
            (true, true) => None,
        };
        let parsed = Self {
            kind,
            seq,
            prev,
            hash,
            fields,
            sig,
        };
        (Some(parsed), wrong)
    }

    pub(super) fn link(&self) -> Link {
        Link {
            seq: self.seq,
            hash: self.hash.clone(),
        }
    }

    /// The key that it says it is signed by.
    pub(super) fn key(&self) -> Option<PublicKey> {
        self.word("key")?.parse().ok()
    }

    /// Whether the key that it names signed it.
    pub(super) fn is_signed(&self) -> bool {
        let (Some(key), Some(sig)) = (self.key(), &self.sig) else {
            return false;
        };
        canonical(&self.fields).is_ok_and(|bytes| key.verify(&bytes, sig))
    }

    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name).and_then(Value::as_u64)
    }
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == NOTHING.len()
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}
