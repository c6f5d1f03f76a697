//! Names of agents and groups.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The most characters of a name.
pub(crate) const MAX_NAME: usize = 63;

/// The name of an agent, which is also the name of its cgroup folder: a lower-case
/// letter or digit, then at most 62 of `a-z 0-9 . _ -`. So it is never `.` or `..`,
/// and holds no slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AgentName(String);

/// Text that is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a name is 1 to {MAX_NAME} of `a-z 0-9 . _ -` and begins with a letter or digit")]
pub struct NameError;

/// Whether the text may name an agent or a group.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// The nearest text that is a name, for the help of an error.
pub(crate) fn nearest_name(text: &str) -> String {
    let name: String = text
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '-',
        })
        .collect();
    let name = name.trim_matches(['.', '_', '-']);
    let name: String = name.chars().take(MAX_NAME).collect();
    if is_name(&name) {
        name
    } else {
        "my-agent".to_owned()
    }
}

impl AgentName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        is_name(text)
            .then(|| Self(text.to_owned()))
            .ok_or(NameError)
    }
}

impl Borrow<str> for AgentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name_and_what_is_not() {
        for good in ["a", "build-bot", "0.x_y-z", &"a".repeat(63)] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "_a",
            "a/b",
            "A",
            "a b",
            "é",
            "a\n",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_name_is_a_name() {
        assert_eq!(nearest_name("Build Bot"), "build-bot");
        for odd in ["", "..", "../..", "ÄÖ", &"X".repeat(200)] {
            assert!(is_name(&nearest_name(odd)), "{odd}");
        }
    }
}
