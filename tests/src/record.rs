//! What became of each technique, for whoever asks with `EXEAT_REPORT`: the folder where
//! `attacks.json` grows. One object a technique, one key a column:
//!
//! ```json
//! {"tcp4": {"family": "tcp", "nothing": "refused", "one_host": "refused", "free": "out"}}
//! ```
//!
//! `nothing` and `one_host` are the two policies of the test program `attacks`, `free` is the
//! absence of enforcement in `control`, and `later` stands, instead of the first two, where
//! the wall that stops a technique is not built yet.

use crate::attack::{Effect, Report};
use crate::technique::Technique;
use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

impl Effect {
    /// Its word in `attacks.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Refused(_) => "refused",
            Self::Dropped => "dropped",
            Self::NotStarted => "not_started",
            Self::Unsupported(_) => "unsupported",
        }
    }
}

/// Enters the effects of `reports` in `column`, if anybody asked.
///
/// # Errors
/// When the file cannot be read or written.
pub fn effects(
    column: &str,
    techniques: &[Technique],
    reports: &BTreeMap<String, Report>,
) -> anyhow::Result<()> {
    let effect = |technique: &Technique| Some(reports.get(&technique.name)?.effect.word());
    let words = techniques.iter().filter_map(|t| Some((t, effect(t)?)));
    in_report(column, words)
}

/// Enters, in the column `later`, which wall is still to be built.
///
/// # Errors
/// As [`effects`].
pub fn later<'a>(walls: impl Iterator<Item = (&'a Technique, &'static str)>) -> anyhow::Result<()> {
    in_report("later", walls)
}

fn in_report<'a>(
    column: &str,
    words: impl Iterator<Item = (&'a Technique, &'static str)>,
) -> anyhow::Result<()> {
    match std::env::var_os("EXEAT_REPORT").map(PathBuf::from) {
        Some(folder) => enter(&folder, column, words),
        None => Ok(()),
    }
}

/// Tests of one program run at the same time, so the file is locked while it is changed.
fn enter<'a>(
    folder: &Path,
    column: &str,
    words: impl Iterator<Item = (&'a Technique, &'static str)>,
) -> anyhow::Result<()> {
    let path = folder.join("attacks.json");
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}; EXEAT_REPORT names a folder", path.display()))?;
    let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut table: Map<String, Value> = match text.is_empty() {
        true => Map::new(),
        false => serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?,
    };
    for (technique, word) in words {
        let row = table
            .entry(&technique.name)
            .or_insert_with(|| Value::Object(Map::new()));
        row["family"] = technique.family.as_str().into();
        row[column] = word.into();
    }
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec_pretty(&table)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::technique::list;

    #[test]
    fn columns_meet_in_one_file() {
        let folder = tempfile::tempdir().expect("folder");
        let all = list().expect("list");
        let some = |n: usize| all.iter().take(n);
        enter(folder.path(), "free", some(2).map(|t| (t, "out"))).expect("enter");
        enter(folder.path(), "nothing", some(3).map(|t| (t, "refused"))).expect("enter");
        enter(folder.path(), "free", some(1).map(|t| (t, "dropped"))).expect("enter");
        let text = std::fs::read(folder.path().join("attacks.json")).expect("read");
        let table: Value = serde_json::from_slice(&text).expect("JSON");
        let family = &all[0].family;
        assert_eq!(
            table[&all[0].name],
            serde_json::json!({ "family": family, "free": "dropped", "nothing": "refused" })
        );
        assert_eq!(table[&all[1].name]["free"], "out");
        assert_eq!(table[&all[2].name]["free"], Value::Null);
        assert_eq!(table.as_object().map(Map::len), Some(3));
    }
}
