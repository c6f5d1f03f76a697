//! `match:` of an agent: which programs and cgroups are the agent's, however they were started.

use globset::{Glob, GlobBuilder};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One way to tell what is the agent's. In this order they come before each other where two
/// agents want the same thing; among equals the agent comes first whose name does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchBy {
    /// A container of podman or docker: a glob of its name, or a label as `key=value`.
    Container(String),
    /// The id of a flatpak.
    Flatpak(String),
    /// The name of a snap.
    Snap(String),
    /// A glob of the name of a systemd unit.
    Unit(String),
    /// A glob of the path of a cgroup below the cgroup2 root, without a slash before it.
    Cgroup(String),
    /// SHA-256 of a program, in lower case.
    Sha256(String),
    /// A glob of a program's path.
    Executable(String),
    /// A folder, or a glob of folders: every program below it that nothing else here matches.
    ProgramsUnder(String),
}

impl MatchBy {
    /// The keys of a selector.
    pub const KEYS: &'static [&'static str] = &[
        "unit",
        "cgroup",
        "container",
        "flatpak",
        "snap",
        "executable",
        "sha256",
        "programs_under",
    ];

    /// The key that it is written with.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Container(_) => "container",
            Self::Flatpak(_) => "flatpak",
            Self::Snap(_) => "snap",
            Self::Unit(_) => "unit",
            Self::Cgroup(_) => "cgroup",
            Self::Sha256(_) => "sha256",
            Self::Executable(_) => "executable",
            Self::ProgramsUnder(_) => "programs_under",
        }
    }

    /// Its value.
    pub fn value(&self) -> &str {
        match self {
            Self::Container(value)
            | Self::Flatpak(value)
            | Self::Snap(value)
            | Self::Unit(value)
            | Self::Cgroup(value)
            | Self::Sha256(value)
            | Self::Executable(value)
            | Self::ProgramsUnder(value) => value,
        }
    }

    /// Whether it tells programs, and not cgroups.
    pub const fn is_of_programs(&self) -> bool {
        matches!(
            self,
            Self::Sha256(_) | Self::Executable(_) | Self::ProgramsUnder(_)
        )
    }

    /// Where it stands among selectors that match the same thing: the smallest comes first.
    pub fn rank(&self) -> (u8, usize) {
        match self {
            Self::Container(_) => (0, 0),
            Self::Flatpak(_) => (1, 0),
            Self::Snap(_) => (2, 0),
            Self::Unit(_) => (3, 0),
            Self::Cgroup(_) => (4, 0),
            Self::Sha256(_) => (5, 0),
            Self::Executable(_) => (6, 0),
            // The folder that lies deeper says more.
            Self::ProgramsUnder(folder) => (7, usize::MAX - folder.matches('/').count()),
        }
    }

    /// The glob of its value, where it is one.
    ///
    /// # Errors
    /// Where the text is no glob; that of a policy that was loaded is one.
    pub fn glob(&self) -> Result<Option<Glob>, globset::Error> {
        match self {
            Self::Flatpak(_) | Self::Snap(_) | Self::Sha256(_) => Ok(None),
            Self::Container(label) if label.contains('=') => Ok(None),
            Self::ProgramsUnder(folder) => glob(&format!("{folder}/**")).map(Some),
            Self::Container(text)
            | Self::Unit(text)
            | Self::Cgroup(text)
            | Self::Executable(text) => glob(text).map(Some),
        }
    }

    /// Whether everything that `other` matches is matched by this one too, as far as the two
    /// texts tell: they are the same, or a glob meets a text without wildcards.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        let plain = !other.value().contains(['*', '?']);
        self.key() == other.key()
            && !matches!(self, Self::ProgramsUnder(_))
            && plain
            && matches!(self.glob(), Ok(Some(glob)) if glob.compile_matcher().is_match(other.value()))
    }

    /// From a key and its text.
    ///
    /// # Errors
    /// With what is wrong and what to write instead.
    pub(crate) fn parse(key: &str, text: &str) -> Result<Self, (&'static str, String)> {
        let wrong = |what, help: &str| Err((what, help.to_owned()));
        if text.is_empty() || text.chars().any(char::is_control) {
            return wrong("is no text to match", "write what is to be matched");
        }
        let globs = !matches!(key, "flatpak" | "snap" | "sha256");
        if globs && text.contains(['[', ']', '{', '}']) {
            return wrong(
                "holds a character that globs elsewhere use",
                "only `*`, `**` and `?` are known here: write a selector for each",
            );
        }
        match key {
            "unit" => unit(text),
            "cgroup" => cgroup(text),
            "container" => container(text),
            "flatpak" => {
                let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                match text.chars().all(fine) && text.matches('.').count() >= 2 {
                    true => Ok(Self::Flatpak(text.to_owned())),
                    false => wrong(
                        "is no flatpak id",
                        "write the id as `flatpak list` shows it, as in `flatpak: com.example.Agent`",
                    ),
                }
            }
            "snap" => {
                let fine =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
                match text.chars().all(fine) {
                    true => Ok(Self::Snap(text.to_owned())),
                    false => wrong(
                        "is no name of a snap",
                        "write the name as `snap list` shows it, as in `snap: agent`",
                    ),
                }
            }
            "executable" => path(text)
                .map(Self::Executable)
                .map_err(|(what, help)| (what, help.replace("KEY", "executable"))),
            "sha256" => {
                let digits = text.strip_prefix("sha256:").unwrap_or(text);
                let fine = digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit());
                match fine {
                    true => Ok(Self::Sha256(digits.to_ascii_lowercase())),
                    false => wrong(
                        "is no SHA-256",
                        "write the 64 hexadecimal digits that `sha256sum` prints",
                    ),
                }
            }
            _ => folder(text),
        }
    }
}

impl fmt::Display for MatchBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key(), self.value())
    }
}

/// A glob in which `*` stays within one part of a path.
fn glob(text: &str) -> Result<Glob, globset::Error> {
    let mut glob = GlobBuilder::new(text);
    glob.literal_separator(true).backslash_escape(false).build()
}

fn unit(text: &str) -> Result<MatchBy, (&'static str, String)> {
    let ends = [".service", ".scope", ".slice", "*"];
    if text.contains('/') || !ends.iter().any(|end| text.ends_with(end)) {
        return Err((
            "is no unit",
            "write its name as `systemctl` shows it, with its ending, as in `unit: agent@*.service`"
                .to_owned(),
        ));
    }
    if text.trim_matches('*').is_empty() {
        return Err(everything());
    }
    Ok(MatchBy::Unit(text.to_owned()))
}

fn everything() -> (&'static str, String) {
    (
        "matches everything",
        "name what is to be the agent's".to_owned(),
    )
}

fn cgroup(text: &str) -> Result<MatchBy, (&'static str, String)> {
    let path = text.trim_matches('/');
    let whole = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    if !whole {
        return Err((
            "is no path of a cgroup",
            "write the path below the cgroup2 root, as in `cgroup: agents.slice/*`".to_owned(),
        ));
    }
    if path
        .split('/')
        .all(|part| part.trim_matches('*').is_empty())
    {
        return Err(everything());
    }
    Ok(MatchBy::Cgroup(path.to_owned()))
}

fn container(text: &str) -> Result<MatchBy, (&'static str, String)> {
    const HELP: &str = "write the container's name, as in `container: agent-*`, or a label, as in `container: \"role=agent\"`";
    if let Some((key, _)) = text.split_once('=') {
        return match key.is_empty() || key.contains(char::is_whitespace) {
            true => Err(("is no label", HELP.to_owned())),
            false => Ok(MatchBy::Container(text.to_owned())),
        };
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.-*?".contains(c);
    if !text.chars().all(fine) {
        return Err(("is no name of a container", HELP.to_owned()));
    }
    if text.trim_matches('*').is_empty() {
        return Err(everything());
    }
    Ok(MatchBy::Container(text.to_owned()))
}

/// A glob of an absolute path, in its shortest form.
fn path(text: &str) -> Result<String, (&'static str, String)> {
    if !text.starts_with('/') {
        return Err((
            "is no absolute path",
            "write the whole path, as in `KEY: /home/*/.local/bin/agent`".to_owned(),
        ));
    }
    let mut path = String::new();
    for part in text.split('/').filter(|part| !part.is_empty()) {
        if part == "." || part == ".." {
            return Err((
                "has `.` or `..` in it",
                "write the path without it".to_owned(),
            ));
        }
        path.push('/');
        path.push_str(part);
    }
    if path
        .split('/')
        .all(|part| part.trim_matches('*').is_empty())
    {
        return Err(everything());
    }
    Ok(path)
}

fn folder(text: &str) -> Result<MatchBy, (&'static str, String)> {
    let folder =
        path(text).map_err(|(what, help)| (what, help.replace("KEY", "programs_under")))?;
    Ok(MatchBy::ProgramsUnder(folder))
}
