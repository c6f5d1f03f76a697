//! What a laptop keeps of bundles, in `bundle/` of the state folder: the one in force, the one
//! before, one whose turn has not come, and what was seen, so that nothing older is taken again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::check::{Seen, Verified, check};
use super::{MAX_BYTES, MAX_METADATA, Refusal, sha256};
use crate::private;

const STATE: &str = "state.json";
/// Versions that were rolled back and are remembered.
const MAX_BAD: usize = 64;

/// One bundle that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// SHA-256 of the file, which is its name.
    pub sha256: String,
    /// When it was believed: it is checked again at that time, so that one that expired since is
    /// still the last good one.
    pub accepted: Timestamp,
    /// Where it came from.
    pub source: String,
}

/// Where a bundle stands on this laptop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In force.
    Current,
    /// Before that one.
    Previous,
    /// Not yet.
    Waiting,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The root that this laptop was given when all of this was believed.
    anchor: String,
    seen: Seen,
    /// The latest time at which something was believed: a clock that was put back makes nothing
    /// fresh again.
    latest: Option<Timestamp>,
    current: Option<Kept>,
    previous: Option<Kept>,
    waiting: Option<Kept>,
    /// Versions that were rolled back here.
    #[serde(default)]
    bad: BTreeSet<u32>,
}

/// The folder, and what it says.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    trust: PathBuf,
    state: State,
}

/// Reads a file of at most so many bytes, which is a plain file.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, Refusal> {
    let failed =
        |error: io::Error| Refusal::Storage(format!("cannot read {}: {error}", path.display()));
    let file = fs::File::options()
        .read(true)
        // A pipe would hang.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Refusal::Storage(format!("{} is no file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > max {
        false => Ok(bytes),
        true => Err(Refusal::Oversize {
            what: path.display().to_string(),
            max,
        }),
    }
}

impl Store {
    /// What is there; nothing where nothing is. What cannot be read is an error: that something
    /// was seen must not be forgotten for it.
    pub fn open(folder: &Path, trust: &Path) -> Result<Self, Refusal> {
        let path = folder.join(STATE);
        let state = match path.exists() {
            false => State::default(),
            true => {
                let bytes = read_bounded(&path, 4 * MAX_METADATA)?;
                serde_json::from_slice(&bytes).map_err(|error| {
                    Refusal::Storage(format!("cannot read {}: {error}", path.display()))
                })?
            }
        };
        Ok(Self {
            folder: folder.to_owned(),
            trust: trust.to_owned(),
            state,
        })
    }

    fn kept(&self, place: Place) -> Option<&Kept> {
        match place {
            Place::Current => self.state.current.as_ref(),
            Place::Previous => self.state.previous.as_ref(),
            Place::Waiting => self.state.waiting.as_ref(),
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.state.seen
    }

    /// Whether there is a bundle in force.
    pub fn has(&self, place: Place) -> bool {
        self.kept(place).is_some()
    }

    /// The time that counts: what the clock says, but never before what was believed.
    fn time(&self, now: Timestamp) -> Timestamp {
        self.state.latest.map_or(now, |latest| latest.max(now))
    }

    /// Checks a bundle against the laptop's root and what was seen.
    pub fn check(&self, bytes: &[u8], now: Timestamp) -> Result<(Verified, Vec<u8>), Refusal> {
        let archive = Archive::read(bytes)?;
        let anchor = read_bounded(&self.trust, MAX_METADATA).map_err(|error| {
            Refusal::NoTrust(format!("{error}; put the root of your organisation there"))
        })?;
        // Another root was put there: whoever may do that begins anew.
        let same = self.state.anchor.as_bytes() == anchor;
        let seen = if same {
            self.state.seen.clone()
        } else {
            Seen::default()
        };
        let verified = check(&archive, &anchor, &seen, self.time(now))?;
        if same && self.state.bad.contains(&verified.version) {
            return Err(Refusal::RolledBack(verified.version));
        }
        Ok((verified, anchor))
    }

    /// A bundle that is kept, checked again at the time at which it was believed.
    pub fn load(&self, place: Place) -> Option<Result<(Verified, Kept), Refusal>> {
        let kept = self.kept(place)?.clone();
        let load = || {
            let bytes = read_bounded(&self.file(&kept), MAX_BYTES)?;
            if sha256(&bytes) != kept.sha256 {
                let path = self.file(&kept);
                return Err(Refusal::Storage(format!("{} was changed", path.display())));
            }
            let archive = Archive::read(&bytes)?;
            let nothing = Seen::default();
            let verified = check(
                &archive,
                self.state.anchor.as_bytes(),
                &nothing,
                kept.accepted,
            )?;
            Ok((verified, kept.clone()))
        };
        Some(load())
    }

    fn file(&self, kept: &Kept) -> PathBuf {
        self.folder.join(format!("{}.tar", kept.sha256))
    }

    /// Keeps one that was checked. In force from now on: the one before it is [`Place::Previous`].
    pub fn accept(
        &mut self,
        bytes: &[u8],
        (verified, anchor): (&Verified, &[u8]),
        source: &str,
        place: Place,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let kept = Kept {
            sha256: sha256(bytes),
            accepted: self.time(now),
            source: source.to_owned(),
        };
        let mut state = self.state.clone();
        if state.anchor.as_bytes() != anchor {
            state.anchor = String::from_utf8_lossy(anchor).into_owned();
            // Of another root, and so not to be checked against this one.
            (state.current, state.previous, state.waiting) = (None, None, None);
            state.bad.clear();
        }
        state.seen = verified.seen.clone();
        state.latest = Some(kept.accepted);
        match place {
            Place::Waiting => state.waiting = Some(kept.clone()),
            Place::Current | Place::Previous => {
                let same = state
                    .current
                    .as_ref()
                    .is_some_and(|c| c.sha256 == kept.sha256);
                if !same {
                    state.previous = state.current.take();
                }
                state.current = Some(kept.clone());
                state.waiting = None;
            }
        }
        self.keep(&kept, bytes)
            .and_then(|()| self.save(state))
            .map_err(|error| {
                Refusal::Storage(format!(
                    "cannot keep it in {}: {error}",
                    self.folder.display()
                ))
            })
    }

    /// The one before is in force again, and the version that was is not taken again.
    pub fn roll_back(&mut self, version: u32) -> Result<(), Refusal> {
        let mut state = self.state.clone();
        let Some(previous) = state.previous.take() else {
            return Err(Refusal::Storage(
                "there is no bundle before this one".into(),
            ));
        };
        state.current = Some(previous);
        state.bad.insert(version);
        while state.bad.len() > MAX_BAD {
            state.bad.pop_first();
        }
        self.save(state).map_err(|error| {
            Refusal::Storage(format!("cannot write {}: {error}", self.folder.display()))
        })
    }

    /// The bytes of one that is kept.
    pub fn bytes(&self, place: Place) -> Result<Vec<u8>, Refusal> {
        match self.kept(place) {
            Some(kept) => read_bounded(&self.file(kept), MAX_BYTES),
            None => Err(Refusal::Storage("there is no such bundle".into())),
        }
    }

    /// As if something had been believed at that time.
    #[cfg(test)]
    pub(super) fn state_latest(&mut self, at: Timestamp) {
        self.state.latest = Some(at);
    }

    fn keep(&self, kept: &Kept, bytes: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        private::write(&self.file(kept), 0o600, bytes)
    }

    /// First what it says, then what it no longer names.
    fn save(&mut self, state: State) -> io::Result<()> {
        private::write(
            &self.folder.join(STATE),
            0o600,
            &serde_json::to_vec(&state)?,
        )?;
        self.state = state;
        let state = &self.state;
        let named: BTreeSet<String> = [&state.current, &state.previous, &state.waiting]
            .into_iter()
            .flatten()
            .map(|kept| format!("{}.tar", kept.sha256))
            .collect();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".tar") && !named.contains(&name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
