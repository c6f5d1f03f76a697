//! What rules saw before: which values of which agent, since when. It outlives the daemon, or
//! every start would find everything new.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Values that are remembered of one rule and agent. Beyond, none is new any more: what is not
/// remembered cannot be told from what is, and a rule that fires for everything is switched off.
const MAX_VALUES: usize = 10_000;
/// Pairs of rule and agent.
const MAX_PAIRS: usize = 4096;
/// The largest file that is read back.
const MAX_BYTES: u64 = 256 << 20;

/// The memory of all rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seen {
    /// By rule and agent.
    by: BTreeMap<String, BTreeMap<String, Known>>,
    #[serde(skip)]
    dirty: bool,
}

/// What one rule knows of one agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    /// When the agent was first seen, seconds since the epoch.
    since: i64,
    /// The values, and when each was first seen.
    values: BTreeMap<String, i64>,
}

impl Seen {
    /// Notes a value. Whether it is new, and for how many seconds the agent has been known.
    pub(super) fn note(&mut self, rule: &str, agent: &str, value: &str, now: i64) -> (bool, u64) {
        let pairs: usize = self.by.values().map(BTreeMap::len).sum();
        let agents = self.by.entry(rule.to_owned()).or_default();
        if pairs >= MAX_PAIRS && !agents.contains_key(agent) {
            return (false, 0);
        }
        let known = agents.entry(agent.to_owned()).or_insert_with(|| Known {
            since: now,
            values: BTreeMap::new(),
        });
        let known_for = u64::try_from(now.saturating_sub(known.since)).unwrap_or(0);
        if known.values.contains_key(value) || known.values.len() >= MAX_VALUES {
            return (false, known_for);
        }
        known.values.insert(value.to_owned(), now);
        self.dirty = true;
        (true, known_for)
    }

    /// Reads what was saved; nothing where there is no file.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file?,
        };
        let seen = serde_json::from_reader(io::Read::take(io::BufReader::new(file), MAX_BYTES))?;
        Ok(seen)
    }

    /// Whether something changed since the last [`Seen::save`].
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Saves it: the old file or the new one is there, never half of one.
    pub fn save(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        crate::private::write(path, 0o600, &serde_json::to_vec(self)?)?;
        self.dirty = false;
        Ok(())
    }
}
