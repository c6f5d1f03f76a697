//! `bundle.yaml`: what the files of a bundle are for, and how they come into force.

use std::time::Duration;

use globset::Glob;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::machine::Machine;
use super::{MAX_MANIFEST, Refusal};

/// The manifest, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of the format: 1.
    pub version: u32,
    /// The bundle's name: one of another name never takes its place.
    pub name: String,
    /// Which laptops it is for. Default: all.
    #[serde(default, rename = "for")]
    pub only: Select,
    /// What policy files of the laptop may say beside it. Default: `tighten`.
    #[serde(default)]
    pub local: Local,
    /// Its policy files.
    pub files: Vec<FileEntry>,
    /// When it comes into force, and where first. Default: at once, everywhere.
    #[serde(default)]
    pub rollout: Vec<Stage>,
    /// When the bundle before it comes back.
    #[serde(default)]
    pub roll_back: RollBack,
}

/// One policy file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name in the bundle.
    pub file: String,
    /// Its layer.
    pub layer: Layer,
    /// Which laptops it is for. Default: all.
    #[serde(default, rename = "for")]
    pub only: Select,
    /// Whether it may only make narrower what the layers before it say. Default: `false`.
    #[serde(default)]
    pub only_tighten: bool,
}

/// Whose word a file is; a later layer is joined to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Who made the program.
    Vendor,
    /// The organisation.
    Org,
    /// A role in it.
    Role,
    /// One machine, or some.
    Machine,
    /// One person.
    User,
}

/// What policy files of the laptop may say beside a bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Local {
    /// Nothing: they are left out.
    Ignore,
    /// Only what makes the bundle's policies narrower, and agents that it does not know.
    #[default]
    Tighten,
    /// More rules, and other settings; what the bundle denies stays denied.
    Allow,
}

/// Laptops: every key that is there must fit, by one of its globs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// Names of the host.
    pub host: Vec<String>,
    /// Names of people who use it.
    pub user: Vec<String>,
    /// Groups that they are in.
    pub group: Vec<String>,
    /// Roles that its configuration gives it.
    pub role: Vec<String>,
}

/// One step of a roll-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// How long after the bundle was built it begins. Default: at once.
    #[serde(default, deserialize_with = "time")]
    pub after: Duration,
    /// On how many of a hundred laptops: the same ones each time, and those of the step before
    /// among them.
    pub percent: u8,
    /// What it is there.
    #[serde(default)]
    pub mode: StageMode,
}

/// What a bundle does where a step of its roll-out has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageMode {
    /// What it says.
    #[default]
    Enforce,
    /// Agents that nothing governs yet are monitored; those that are governed stay as they are.
    Monitor,
}

/// When the bundle before comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RollBack {
    /// How long health is compared with what it was. 0: never. Default: `15m`.
    #[serde(deserialize_with = "time")]
    pub within: Duration,
    /// How long it must have been worse. Default: `1m`.
    #[serde(deserialize_with = "time")]
    pub worse_for: Duration,
}

impl Default for RollBack {
    fn default() -> Self {
        Self {
            within: Duration::from_secs(900),
            worse_for: Duration::from_secs(60),
        }
    }
}

/// What becomes of a bundle on a laptop at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// Not yet.
    Wait,
    /// [`StageMode::Monitor`].
    Monitor,
    /// [`StageMode::Enforce`].
    Enforce,
}

impl Turn {
    /// The word in status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Monitor => "monitor",
            Self::Enforce => "enforce",
        }
    }
}

fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let seconds = crate::policy::limits::parse_time(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "`{}` is no time: write one with its unit, such as 24h or 15m",
            text.escape_debug()
        ))
    })?;
    Ok(Duration::from_secs(seconds))
}

impl Manifest {
    /// Reads it and looks whether it makes sense.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() as u64 > MAX_MANIFEST {
            return Err(Refusal::Oversize {
                what: super::archive::MANIFEST.into(),
                max: MAX_MANIFEST,
            });
        }
        let wrong = |why: String| Refusal::Malformed(format!("bundle.yaml: {why}"));
        let manifest: Self =
            serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if manifest.version != 1 {
            let version = manifest.version;
            return Err(wrong(format!("version {version} is not known; this is 1")));
        }
        let name = &manifest.name;
        if name.parse::<crate::policy::AgentName>().is_err() {
            let shown = name.escape_debug();
            return Err(wrong(format!("`{shown}` is no name: write a-z 0-9 . _ -")));
        }
        let selects = manifest.files.iter().map(|file| &file.only);
        for select in selects.chain([&manifest.only]) {
            select.check().map_err(wrong)?;
        }
        let mut before = 0;
        for stage in &manifest.rollout {
            if stage.percent > 100 || stage.percent < before {
                return Err(wrong(
                    "the percents of `rollout` rise, and end at 100 at most".into(),
                ));
            }
            before = stage.percent;
        }
        let in_order = manifest.rollout.is_sorted_by_key(|stage| stage.after);
        if !in_order {
            return Err(wrong(
                "the steps of `rollout` are in the order of `after`".into(),
            ));
        }
        Ok(manifest)
    }

    /// What becomes of the bundle on a laptop.
    pub fn turn(&self, machine: &Machine, published: Timestamp, now: Timestamp) -> Turn {
        if self.rollout.is_empty() {
            return Turn::Enforce;
        }
        let age = Duration::try_from(now.duration_since(published)).unwrap_or_default();
        let place = machine.place(&self.name);
        self.rollout
            .iter()
            .filter(|stage| stage.after <= age && place < u32::from(stage.percent) * 100)
            .map(|stage| match stage.mode {
                StageMode::Enforce => Turn::Enforce,
                StageMode::Monitor => Turn::Monitor,
            })
            .next_back()
            .unwrap_or(Turn::Wait)
    }
}

impl Select {
    fn check(&self) -> Result<(), String> {
        for glob in [&self.host, &self.user, &self.group, &self.role]
            .into_iter()
            .flatten()
        {
            Glob::new(glob).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whether it is for this laptop; where not, which key does not fit.
    pub fn fits(&self, machine: &Machine) -> Result<(), &'static str> {
        let any = |globs: &[String], values: &[String]| {
            globs.is_empty()
                || globs
                    .iter()
                    .filter_map(|glob| Glob::new(glob).ok())
                    .any(|glob| {
                        let glob = glob.compile_matcher();
                        values.iter().any(|value| glob.is_match(value))
                    })
        };
        let host = std::slice::from_ref(&machine.host);
        for (key, globs, values) in [
            ("host", &self.host, host),
            ("user", &self.user, &machine.users),
            ("group", &self.group, &machine.groups),
            ("role", &self.role, &machine.roles),
        ] {
            if !any(globs, values) {
                return Err(key);
            }
        }
        Ok(())
    }
}
