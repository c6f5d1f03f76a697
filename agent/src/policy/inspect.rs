//! What an allow rule says of requests inside TLS, where the gateway is to look into them.

use regex::bytes::Regex;
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
