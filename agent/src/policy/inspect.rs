//! What an allow rule says of requests inside TLS, where the gateway is to look into them.

use globset::{Glob, GlobBuilder};
use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;
use std::collections::BTreeSet;

/// TLS to the rule's hosts ends at the gateway, which shows the program a certificate of the
/// machine's own authority, judges each request, and asks the server itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Inspect {
    /// Requests that may pass; none said: every request.
    pub requests: Vec<RequestRule>,
    /// Names of request headers, in lower case, that do not leave: they are taken out.
    pub strip: BTreeSet<String>,
    /// The most bytes of a request's body; `None`: no bound.
    pub max_body: Option<u64>,
    /// What must not leave in a request's path, headers or body.
    pub patterns: Vec<DataPattern>,
    /// SHA-256 of public keys (SubjectPublicKeyInfo, DER), of which one must be in the server's
    /// chain (as in RFC 7469); none said: the authorities of the system are enough.
    pub pins: BTreeSet<[u8; 32]>,
}

/// The most bytes that one regular expression may take, compiled, and as much again while it
/// runs.
const MAX_REGEX: usize = 1024 * 1024;

/// Which requests may pass: those that match both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct RequestRule {
    /// Methods in upper case; none said: all.
    pub methods: BTreeSet<String>,
    /// A glob for the path without the query: `*` within one segment, `**` over several.
    /// `None`: every path.
    pub path: Option<String>,
}

/// Data that must not leave.
#[derive(Clone, Debug, Serialize)]
pub struct DataPattern {
    /// Its name, for events: what matched is never told.
    pub name: String,
    /// What to look for, in bytes.
    #[serde(serialize_with = "as_text")]
    pub regex: Regex,
    /// Whether it is only reported.
    pub report_only: bool,
}

impl PartialEq for DataPattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.regex.as_str(), self.report_only)
            == (&other.name, other.regex.as_str(), other.report_only)
    }
}

impl Eq for DataPattern {}

fn as_text<S: serde::Serializer>(regex: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(regex.as_str())
}

/// A glob of [`RequestRule::path`], ready to be matched with decoded paths: `*` stays within one
/// segment.
///
/// # Errors
/// Where the text is no glob; that of a policy that was loaded is one.
pub fn path_glob(path: &str) -> Result<Glob, globset::Error> {
    let mut glob = GlobBuilder::new(path);
    glob.literal_separator(true).backslash_escape(false).build()
}

/// A regular expression over bytes, of bounded size.
pub(super) fn regex(text: &str) -> Result<Regex, regex::Error> {
    let mut regex = RegexBuilder::new(text);
    regex
        .size_limit(MAX_REGEX)
        .dfa_size_limit(MAX_REGEX)
        .build()
}

/// What is wrong with the path of a request, and what to write instead.
pub(super) fn path_wrong(path: &str) -> Option<(&'static str, &'static str)> {
    const WRITE: &str = "write the path as it begins behind the host, as in `path: /v1/**`";
    const DECODED: &str = "paths are compared without escapes: write the character itself";
    if !path.starts_with('/') {
        return Some(("does not begin with `/`", WRITE));
    }
    for c in path.chars() {
        let wrong = match c {
            '?' | '#' => (
                "holds more than a path",
                "leave the query out: the path is compared without it",
            ),
            '%' => ("holds an escape", DECODED),
            '[' | ']' | '{' | '}' | '\\' => (
                "holds a character that patterns elsewhere use",
                "only `*` and `**` are known here: write a request for each path",
            ),
            c if c.is_control() => ("holds control characters", WRITE),
            _ => continue,
        };
        return Some(wrong);
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Some(("holds `.` or `..`", WRITE)),
            "" if segments.peek().is_some() => return Some(("holds an empty segment", WRITE)),
            "**" => {}
            part if part.contains("**") => {
                return Some((
                    "holds `**` inside a segment",
                    "`**` stands alone for whole segments, as in `/v1/**`; within one write `*`",
                ));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_its_segment_and_two_do_not() {
        for (path, matches, others) in [
            ("/", &["/"][..], &["", "/a", "//"][..]),
            (
                "/v1/models",
                &["/v1/models"],
                &["/v1/models/", "/v1/Models", "/v1"],
            ),
            ("/v1/*", &["/v1/a", "/v1/"], &["/v1", "/v1/a/b", "/v2/a"]),
            (
                "/v1/**",
                &["/v1/", "/v1/a", "/v1/a/b/c"],
                &["/v1", "/v10/a", "/v2/"],
            ),
            ("/**", &["/", "/a", "/a/b"], &["", "a"]),
            (
                "/**/x",
                &["/x", "/a/x", "/a/b/x"],
                &["/xx", "/x/a", "/a/xx"],
            ),
            ("/a/**/b", &["/a/b", "/a/c/d/b"], &["/a/bb", "/ab", "/a/c"]),
            (
                "/a-*.json",
                &["/a-.json", "/a-b.json"],
                &["/a-b/c.json", "/a-bxjson"],
            ),
        ] {
            assert_eq!(path_wrong(path), None, "{path}");
            let glob = path_glob(path).expect(path).compile_matcher();
            for name in matches {
                assert!(glob.is_match(name), "{path} {name}");
            }
            for name in others {
                assert!(!glob.is_match(name), "{path} {name}");
            }
        }
    }
}
