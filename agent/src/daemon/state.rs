//! What a daemon leaves for the next one on the same boot: which index each agent has, the
//! gates' ports, the last generation, the leases.
//!
//! It lies in the runtime folder, so a reboot forgets it, as the kernel forgets the maps.
//! Losing it costs nothing but fresh look-ups: what is enforced is in the pinned maps. Only
//! the last good policy is kept over a reboot, in the state folder.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::limits::Ledger;
use crate::policy::PolicyText;

/// Name of the file in the runtime folder.
const FILE: &str = "state.json";
/// Name of the leases' file in the runtime folder.
const LEASES: &str = "leases.json";
/// Names of the files in the runtime folder with the leases since then: the one that is being
/// written, and the one before while the leases' file is being made anew.
const JOURNAL: &str = "leases.log";
const OLD_JOURNAL: &str = "leases.log.old";
/// Name of the last good policy's file in the state folder.
const LAST_GOOD: &str = "last-good-policy.json";

/// Name of the file in the runtime folder that says when runs began, and which limits that were
/// hit were told of.
const LEDGER: &str = "limits.json";
/// Name of the file in the state folder that says who is frozen, and since when.
const HELD: &str = "frozen.json";
/// Name of the file in the state folder that says who is isolated, and since when.
const ISOLATED: &str = "isolated.json";
/// Name of the file in the state folder with what people granted and denied.
const GRANTS: &str = "grants.json";
/// Name of the file in the state folder that says for whom a portal is open.
const PORTAL: &str = "portal.json";

/// The last policy that was in force, as it was kept in the state folder.
pub fn last_good_policy(state_dir: &Path) -> Option<crate::policy::PolicySet> {
    let texts = Keeper::new(Path::new(""), state_dir).load_policy()?;
    crate::policy::parse_all(&texts).ok()
}

/// One agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgentState {
    /// Index in the maps.
    pub(super) index: u32,
    /// Port of its gate at 127.64.x.y.
    pub(super) gate4: u16,
    /// Port of its gate at `::1`.
    pub(super) gate6: u16,
    /// Its gateway, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<GatewayState>,
}

/// An agent's gateway.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GatewayState {
    /// Ports, by the words for what listens there.
    pub(super) ports: BTreeMap<String, u16>,
    /// What opens its proxy listeners: programs that run have it in their environment.
    pub(super) token: String,
}

impl fmt::Debug for GatewayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayState")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

/// The agents that are frozen, and since when.
pub(super) type Held = BTreeMap<String, jiff::Timestamp>;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The last generation that was put in force.
    pub(super) generation: u32,
    /// Agents by name.
    pub(super) agents: BTreeMap<String, AgentState>,
    /// Agents of cgroups outside the slice, by the cgroup's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) adopted: BTreeMap<u64, String>,
}

/// The folders that things are kept in.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    lasting: PathBuf,
}

impl Keeper {
    /// `folder` is forgotten with the boot, `lasting` is not.
    pub(super) fn new(folder: &Path, lasting: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            lasting: lasting.to_owned(),
        }
    }

    /// Keeps the texts of a policy that is in force, for a start at which the files are not
    /// a policy. Synced, because the next start may be after a power cut.
    pub(super) fn save_policy(&self, texts: &[PolicyText]) -> io::Result<()> {
        self.keep_for_good(LAST_GOOD, &serde_json::to_vec(texts)?)?;
        Ok(())
    }

    fn keep_for_good(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.lasting)?;
        let beside = self.lasting.join(format!(".{name}.new"));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.lasting.join(name))
    }

    /// Keeps which agents are frozen, also over a power cut.
    pub(super) fn save_held(&self, held: &Held) -> io::Result<()> {
        self.keep_for_good(HELD, &serde_json::to_vec(held)?)?;
        File::open(&self.lasting)?.sync_all()
    }

    /// Which agents are frozen.
    ///
    /// # Errors
    /// Where it is written down and cannot be read: who is frozen must not run for that.
    pub(super) fn load_held(&self) -> io::Result<Held> {
        match fs::read(self.lasting.join(HELD)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Held::new()),
            Err(error) => Err(error),
        }
    }

    /// Keeps which agents are isolated, as [`Keeper::save_held`].
    pub(super) fn save_isolated(&self, isolated: &Held) -> io::Result<()> {
        self.keep_for_good(ISOLATED, &serde_json::to_vec(isolated)?)?;
        File::open(&self.lasting)?.sync_all()
    }

    /// Keeps for whom a portal is open, so that a daemon that is killed leaves word of it.
    pub(super) fn save_portal(&self, open: Option<&str>) -> io::Result<()> {
        match open {
            Some(name) => self.keep_for_good(PORTAL, &serde_json::to_vec(name)?)?,
            None => match fs::remove_file(self.lasting.join(PORTAL)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(()),
            },
        }
        File::open(&self.lasting)?.sync_all()
    }

    /// For whom the daemon before had opened a portal. What cannot be read was one, too.
    pub(super) fn load_portal(&self) -> Option<String> {
        let bytes = fs::read(self.lasting.join(PORTAL)).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| crate::incident::DAEMON.to_owned()))
    }

    /// Which agents are isolated.
    ///
    /// # Errors
    /// Where it is written down and cannot be read: who is isolated must not be connected for
    /// that.
    pub(super) fn load_isolated(&self) -> io::Result<Held> {
        match fs::read(self.lasting.join(ISOLATED)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Held::new()),
            Err(error) => Err(error),
        }
    }

    /// Keeps the grants, also over a power cut. `aside`: what is there could not be read, and
    /// is kept beside it.
    pub(super) fn save_grants(&self, bytes: &[u8], aside: bool) -> io::Result<()> {
        if aside {
            let unreadable = self.lasting.join(format!("{GRANTS}.unreadable"));
            fs::rename(self.lasting.join(GRANTS), unreadable)?;
        }
        self.keep_for_good(GRANTS, bytes)?;
        File::open(&self.lasting)?.sync_all()
    }

    /// The grants as they were written down; none where none ever were.
    pub(super) fn load_grants(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.lasting.join(GRANTS)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The texts of the last policy that was in force; none if there is none that can be read.
    pub(super) fn load_policy(&self) -> Option<Vec<PolicyText>> {
        let bytes = fs::read(self.lasting.join(LAST_GOOD)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What the last daemon left; empty if there was none, or if it cannot be read.
    pub(super) fn load(&self) -> State {
        match fs::read(self.folder.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the last daemon's state cannot be read; starting without it");
                State::default()
            }),
            Err(_) => State::default(),
        }
    }

    pub(super) fn save(&self, state: &State) -> io::Result<()> {
        self.replace(FILE, &serde_json::to_vec(state)?)
    }

    /// The last daemon's leases, as [`crate::leases::Leases::snapshot`] wrote them.
    pub(super) fn load_leases(&self) -> Option<String> {
        fs::read_to_string(self.folder.join(LEASES)).ok()
    }

    /// When runs began; nothing where that cannot be read.
    pub(super) fn load_ledger(&self) -> Ledger {
        let bytes = fs::read(self.folder.join(LEDGER)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub(super) fn save_ledger(&self, ledger: &Ledger) -> io::Result<()> {
        self.replace(LEDGER, &serde_json::to_vec(ledger)?)
    }

    pub(super) fn save_leases(&self, json: &str) -> io::Result<()> {
        self.replace(LEASES, json.as_bytes())
    }

    /// The journals since then, the older first.
    pub(super) fn load_journals(&self) -> Vec<String> {
        [OLD_JOURNAL, JOURNAL]
            .iter()
            .filter_map(|name| fs::read_to_string(self.folder.join(name)).ok())
            .collect()
    }

    /// Begins a journal, with `head` as its first line; the one before is kept until
    /// [`Keeper::drop_old_journal`]. Call it when a snapshot is taken.
    pub(super) fn turn_journal(&self, head: &str) -> io::Result<File> {
        let journal = self.folder.join(JOURNAL);
        let old = self.folder.join(OLD_JOURNAL);
        // One that could not be dropped, because its snapshot was not saved, is still needed.
        match fs::read_to_string(&journal) {
            Ok(text) if old.exists() => {
                let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
                File::options()
                    .append(true)
                    .open(&old)?
                    .write_all(rest.as_bytes())?;
                fs::remove_file(&journal)?;
            }
            Ok(_) => fs::rename(&journal, &old)?,
            Err(_) => {}
        }
        let mut file = File::options().create(true).append(true).open(&journal)?;
        file.write_all(head.as_bytes())?;
        Ok(file)
    }

    /// The leases of the journal before are in a snapshot that has been saved.
    pub(super) fn drop_old_journal(&self) -> io::Result<()> {
        match fs::remove_file(self.folder.join(OLD_JOURNAL)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Whole or not at all: written beside and moved over. Not synced: the folder is on a
    /// tmpfs, and a power cut ends the boot that it is about.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.folder.join(format!(".{name}.new"));
        // A file that is there keeps its mode.
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // It may hold tokens.
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        fs::rename(&beside, self.folder.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn comes_back_and_rubbish_is_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let keeper = Keeper::new(folder.path(), &folder.path().join("state"));
        assert_eq!(keeper.load(), State::default());
        let state = State {
            generation: 7,
            agents: [(
                "a".to_owned(),
                AgentState {
                    index: 3,
                    gate4: 1000,
                    gate6: 2000,
                    gateway: Some(GatewayState {
                        ports: [("http".to_owned(), 3000)].into(),
                        token: "secret".to_owned(),
                    }),
                },
            )]
            .into(),
            adopted: [(9, "a".to_owned())].into(),
        };
        keeper.save(&state).expect("save");
        assert_eq!(keeper.load(), state);
        assert!(!format!("{state:?}").contains("secret"));
        let kept = fs::metadata(folder.path().join(FILE)).expect("kept");
        assert_eq!(kept.permissions().mode() & 0o777, 0o600, "it holds tokens");
        fs::write(folder.path().join(FILE), b"{").expect("write");
        assert_eq!(keeper.load(), State::default());
    }

    #[test]
    fn a_journal_is_dropped_only_after_its_leases_are_saved() {
        let folder = tempfile::tempdir().expect("folder");
        let keeper = Keeper::new(folder.path(), &folder.path().join("state"));
        assert!(keeper.load_journals().is_empty());
        for text in ["one\n", "two\n", "three\n"] {
            let mut journal = keeper.turn_journal("head\n").expect("journal");
            journal.write_all(text.as_bytes()).expect("write");
        }
        assert_eq!(
            keeper.load_journals(),
            ["head\none\ntwo\n", "head\nthree\n"]
        );
        keeper.turn_journal("head\n").expect("journal");
        keeper.drop_old_journal().expect("drop");
        assert_eq!(keeper.load_journals(), ["head\n"]);
        keeper.drop_old_journal().expect("nothing to drop");
    }

    #[test]
    fn who_is_frozen_comes_back_and_rubbish_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("state");
        let keeper = Keeper::new(folder.path(), &state);
        assert_eq!(keeper.load_held().expect("none"), Held::new());
        let since = "2026-03-04T12:00:00Z".parse().expect("time");
        let held = Held::from([("a".to_owned(), since)]);
        keeper.save_held(&held).expect("save");
        assert_eq!(keeper.load_held().expect("held"), held);
        fs::write(state.join(HELD), b"{").expect("write");
        keeper.load_held().expect_err("rubbish");
    }

    #[test]
    fn a_portal_that_was_open_is_remembered_until_it_is_closed() {
        let folder = tempfile::tempdir().expect("folder");
        let keeper = Keeper::new(folder.path(), &folder.path().join("state"));
        assert_eq!(keeper.load_portal(), None);
        keeper.save_portal(None).expect("nothing to forget");
        keeper.save_portal(Some("browser")).expect("save");
        assert_eq!(keeper.load_portal().as_deref(), Some("browser"));
        fs::write(folder.path().join("state").join(PORTAL), b"{").expect("write");
        assert!(keeper.load_portal().is_some());
        keeper.save_portal(None).expect("forget");
        assert_eq!(keeper.load_portal(), None);
    }

    #[test]
    fn the_last_good_policy_comes_back() {
        let folder = tempfile::tempdir().expect("folder");
        let keeper = Keeper::new(folder.path(), &folder.path().join("state"));
        assert_eq!(keeper.load_policy(), None);
        let texts = vec![PolicyText {
            name: "/etc/a.yaml".to_owned(),
            text: "version: 1\n".to_owned(),
        }];
        keeper.save_policy(&texts).expect("save");
        assert_eq!(keeper.load_policy(), Some(texts));
    }
}
