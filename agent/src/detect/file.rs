//! Rule files as written: read, checked and compiled together, so that they hold all or not at
//! all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use crate::policy::limits::parse_time;

/// The largest rule file.
const MAX_BYTES: u64 = 1 << 20;
/// Rules at once: each costs the daemon time for every record.
const MAX_RULES: usize = 200;

/// How grave what a rule finds is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// To know of.
    Low,
    /// To look at.
    #[default]
    Medium,
    /// To look at now.
    High,
    /// To act on now.
    Critical,
}

impl Severity {
    /// The word in files and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What is done beside the event, which there always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing more.
    Event,
    /// People's desktops show it.
    Notify,
    /// The agent is cut off from the network; its processes go on.
    Isolate,
    /// The agent is cut off from the network, then stopped.
    Freeze,
}

impl Action {
    /// The word in files and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Notify => "notify",
            Self::Isolate => "isolate",
            Self::Freeze => "freeze",
        }
    }
}

/// A rule file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    version: u32,
    rules: Vec<RuleText>,
}

/// A rule as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleText {
    pub(super) id: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) severity: Severity,
    /// Over one record.
    pub(super) when: String,
    /// What records are counted together by.
    #[serde(default = "by_agent")]
    pub(super) by: Vec<String>,
    /// What is counted, summed or remembered of a record.
    #[serde(default)]
    pub(super) value: Option<String>,
    /// How far back records count.
    #[serde(default)]
    within: Option<String>,
    /// Over the records that count.
    #[serde(default)]
    pub(super) having: Option<String>,
    #[serde(default = "event_only")]
    then: Vec<Action>,
    /// How long the same finding is not told again.
    #[serde(default)]
    quiet: Option<String>,
    /// Names for the expressions.
    #[serde(default)]
    pub(super) lists: BTreeMap<String, Vec<String>>,
    /// Off without being deleted.
    #[serde(default = "yes")]
    enabled: bool,
}

fn by_agent() -> Vec<String> {
    vec!["agent".into()]
}

fn event_only() -> Vec<Action> {
    vec![Action::Event]
}

const fn yes() -> bool {
    true
}

impl RuleText {
    pub(super) fn within(&self) -> Result<u64, String> {
        seconds("within", self.within.as_deref(), 60, 30 * 86_400)
    }

    pub(super) fn quiet(&self) -> Result<u64, String> {
        seconds("quiet", self.quiet.as_deref(), 600, 30 * 86_400)
    }

    pub(super) fn actions(&self) -> BTreeSet<Action> {
        self.then.iter().copied().collect()
    }
}

fn seconds(key: &str, text: Option<&str>, default: u64, most: u64) -> Result<u64, String> {
    let Some(text) = text else {
        return Ok(default);
    };
    parse_time(text)
        .filter(|seconds| (1..=most).contains(seconds))
        .ok_or_else(|| {
            format!("`{key}: {text}` is no time of 1s to 30d: write as in `90s`, `10m` or `1h30m`")
        })
}

/// Why rules do not load; nothing of them is in force then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text does not fit.
    #[error("{path}: {message}", path = path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, where.
        message: String,
    },
    /// A rule is not sound.
    #[error("{path}: rule `{rule}`: {message}", path = path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule's id.
        rule: String,
        /// What is wrong, and what to write.
        message: String,
    },
}

/// Reads rules: first `starter` (its text, if it is wanted), then each file, and each `.yaml` of
/// each folder in order of names. A rule replaces one of the same id from before, so that the
/// starter set can be changed one rule at a time; one with `enabled: false` takes it away. A path
/// that is not there is no error only if it is `optional`.
pub fn load(starter: bool, paths: &[PathBuf], optional: bool) -> Result<Vec<Rule>, LoadError> {
    let mut rules: Vec<Rule> = Vec::new();
    if starter {
        add(&mut rules, Path::new("(starter set)"), super::STARTER)?;
    }
    for path in paths {
        for file in files(path, optional)? {
            let text = read(&file)?;
            add(&mut rules, &file, &text)?;
        }
    }
    rules.retain(|rule| rule.enabled);
    Ok(rules)
}

fn files(path: &Path, optional: bool) -> Result<Vec<PathBuf>, LoadError> {
    let fail = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let meta = match std::fs::metadata(path) {
        Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        meta => meta.map_err(fail)?,
    };
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        if file.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, LoadError> {
    let fail = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut text = String::new();
    let mut limited = std::io::Read::take(file, MAX_BYTES + 1);
    std::io::Read::read_to_string(&mut limited, &mut text).map_err(fail)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(LoadError::Text {
            path: path.to_owned(),
            message: format!("is larger than {MAX_BYTES} bytes; is it the right file?"),
        });
    }
    Ok(text)
}

pub(super) fn add(rules: &mut Vec<Rule>, path: &Path, text: &str) -> Result<(), LoadError> {
    let bad = |message: String| LoadError::Text {
        path: path.to_owned(),
        message,
    };
    let file: RuleFile = serde_saphyr::from_str(text).map_err(|e| bad(e.to_string()))?;
    if file.version != 1 {
        return Err(bad(format!(
            "version {} is not known: write 1",
            file.version
        )));
    }
    let mut ids = BTreeSet::new();
    for text in file.rules {
        let id = text.id.clone();
        let wrong = |message: String| LoadError::Rule {
            path: path.to_owned(),
            rule: id.clone(),
            message,
        };
        if !ids.insert(id.clone()) {
            return Err(wrong("is there twice: give one another id".into()));
        }
        let enabled = text.enabled;
        let rule = Rule::compile(text, enabled).map_err(wrong)?;
        match rules.iter_mut().find(|before| before.id == rule.id) {
            Some(before) => *before = rule,
            None => rules.push(rule),
        }
    }
    if rules.len() > MAX_RULES {
        return Err(bad(format!("more than {MAX_RULES} rules: leave some out")));
    }
    Ok(())
}
