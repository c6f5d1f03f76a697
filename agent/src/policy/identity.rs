//! `identity:` of an agent: which programs may be started as it.
//!
//! What is judged, and what by, is in [`crate::identity`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::identity::Sha256;

/// What a program must be. Nothing said: any will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Its digest is one of these.
    pub sha256: BTreeSet<Sha256>,
    /// It is an unchanged file of a package that one of these names, or means with a `*`.
    pub package: BTreeSet<String>,
    /// One of these keys of minisign (base64) has signed it.
    pub minisign: BTreeSet<String>,
    /// Each of those that are said must hold; else one of them is enough.
    pub all: bool,
}

impl Identity {
    /// Whether anything is asked of programs.
    pub fn says_something(&self) -> bool {
        !(self.sha256.is_empty() && self.package.is_empty() && self.minisign.is_empty())
    }

    /// Whether a package of this name is one of those that are meant.
    pub fn means_package(&self, name: &str) -> bool {
        self.package.iter().any(|pattern| matches(pattern, name))
    }
}

/// Whether a pattern, in which `*` stands for any characters, means a name. No part of it is
/// tried twice, so it takes no longer than both are long together, each time.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(inner) = name
        .strip_prefix(first)
        .and_then(|name| name.strip_suffix(last))
    else {
        return false;
    };
    middle
        .split('*')
        .try_fold(inner, |inner, part| {
            inner.find(part).map(|at| &inner[at + part.len()..])
        })
        .is_some()
}

/// What is wrong with the name of a package, as dpkg and rpm have names, or with a pattern.
pub(crate) fn check_package(text: &str) -> Result<(), &'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || "+-._~*".contains(c);
    match text {
        "" => Err("is empty"),
        text if text.len() > 128 => Err("is longer than 128 characters"),
        text if !text.chars().all(known) => Err("is no name of a package"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("nodejs", "nodejs", true),
            ("nodejs", "nodejs2", false),
            ("*", "anything", true),
            ("python3*", "python3.11-minimal", true),
            ("python3*", "libpython3", false),
            ("*-minimal", "python3.11-minimal", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("a*bc*c", "abcc", true),
            ("a*bc*c", "abc", false),
            ("a**c", "abc", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|at| plainly(rest, &name[at..])),
            [first, rest @ ..] => name.first() == Some(first) && plainly(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_what_the_plain_definition_says(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            let expected = plainly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(matches(&pattern, &name), expected);
        }
    }

    #[test]
    fn nothing_said_is_nothing_asked() {
        assert!(!Identity::default().says_something());
        let all = Identity {
            all: true,
            ..Identity::default()
        };
        assert!(!all.says_something());
    }
}
