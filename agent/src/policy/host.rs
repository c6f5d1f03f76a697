//! Host names.

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Characters of the longest name, without the trailing dot.
pub(super) const MAX_NAME: usize = 253;
/// Characters of the longest label.
const MAX_LABEL: usize = 63;
/// The top-level name that always means this machine (RFC 6761).
const LOCALHOST: &str = "localhost";

/// An exact host name as it is asked of the DNS: A-labels (punycode) in lower case, of
/// letters, digits, hyphens and underscores (services and ACME have them), at most 253
/// characters, without the trailing dot. It is never an address and never a pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostName(String);

/// Text that is no host name. `Display` says what it is, [`HostError::help`] what to
/// write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    /// No text.
    #[error("the host name is empty")]
    Empty,
    /// `*` and nothing else.
    #[error("`{0}` would be every name there is")]
    Everything(String),
    /// A star where a pattern may have none.
    #[error("in `{0}` the `*` is not the whole first label")]
    Star(String),
    /// A pattern where one name is asked for.
    #[error("`{0}` is a wildcard, not one host name")]
    Wildcard(String),
    /// An address or prefix.
    #[error("`{0}` is an address, not a host name")]
    Address(String),
    /// A URL, or a name with a path or user.
    #[error("`{text}` is a URL, not a host name")]
    Url {
        /// As written.
        text: String,
        /// The host in it.
        host: String,
    },
    /// A name with a port.
    #[error("`{host}:{port}` is a host and a port")]
    Port {
        /// The host.
        host: String,
        /// What follows the colon.
        port: String,
    },
    /// The name of this machine.
    #[error("`{0}` means this machine and is not asked of the DNS")]
    Localhost(String),
    /// A name that resolvers read as a number.
    #[error("`{0}` ends in a number, so programs read it as an address")]
    Numeric(String),
    /// More than 253 characters, or a label of more than 63.
    #[error("the host name is too long: `{0}`")]
    TooLong(String),
    /// Anything else.
    #[error("`{0}` is not a host name")]
    Invalid(String),
}

/// As YAML wants it: a star at the beginning would be an alias.
fn quoted(host: &str) -> Cow<'_, str> {
    if host.starts_with('*') {
        Cow::Owned(format!("\"{host}\""))
    } else {
        Cow::Borrowed(host)
    }
}

impl HostError {
    /// What to write instead.
    pub fn help(&self) -> String {
        match self {
            Self::Empty => "write the name, as in `host: api.example.com`".to_owned(),
            Self::Everything(_) => {
                "name the domains, as in `host: \"*.example.com\"`; what leaves to any name is not confined".to_owned()
            }
            Self::Star(text) => {
                let base = text.rsplit('*').next().unwrap_or_default();
                let base = base.split_once('.').map_or("", |(_, base)| base);
                let base = if base.is_empty() { "example.com" } else { base };
                format!(
                    "write `host: \"*.{base}\"`, which is every name below `{base}` at any depth, or a rule for each name"
                )
            }
            Self::Wildcard(_) => "name one host, as in `api.example.com`".to_owned(),
            Self::Address(text) => format!("write `cidr: {text}`"),
            Self::Url { host, .. } => format!("write only the name: `host: {}`", quoted(host)),
            Self::Port { host, port } => {
                format!("write `host: {}` and `ports: [{port}]`", quoted(host))
            }
            Self::Localhost(_) => {
                "write two rules, `cidr: 127.0.0.1` and `cidr: \"::1\"`".to_owned()
            }
            Self::Numeric(_) => "write an address with `cidr:`, or the whole host name".to_owned(),
            Self::TooLong(_) => {
                "a host name has at most 253 characters, and 63 between two dots".to_owned()
            }
            Self::Invalid(_) => {
                "a host name is labels of letters, digits, hyphens and underscores with dots between them, as in `host: api.example.com`".to_owned()
            }
        }
    }
}

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that a DNS message asks for, in its presentation form. `None` for a name
    /// that no policy can mean: one with other characters than those of a host name
    /// (escaped ones, too), one that is too long, and this machine's own names and numbers
    /// that programs read as addresses.
    ///
    /// Looser than what a policy may write: a label may begin or end with a hyphen, and
    /// punycode is not decoded. Names like that exist below wildcards, and they are only
    /// ever compared, byte by byte.
    pub fn asked(name: &str) -> Option<Self> {
        folded(name).map(|name| Self(name.into_owned()))
    }
}

/// A name from a DNS message in the form of [`HostName`]; see [`HostName::asked`].
pub(super) fn folded(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_NAME {
        return None;
    }
    let mut upper = false;
    let mut label = 0;
    for byte in name.bytes() {
        match byte {
            b'.' if label == 0 => return None,
            b'.' => label = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'A'..=b'Z' => (upper, label) = (true, label + 1),
            // An escaped dot would make one label look like two.
            _ => return None,
        }
        if label > MAX_LABEL {
            return None;
        }
    }
    let name = if upper {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    (label > 0 && last != LOCALHOST && !is_number(last)).then_some(name)
}

impl FromStr for HostName {
    type Err = HostError;

    fn from_str(written: &str) -> Result<Self, HostError> {
        let text = super::diagnostic::shown(written);
        if written.trim().is_empty() {
            return Err(HostError::Empty);
        }
        if is_address(written) {
            return Err(HostError::Address(text));
        }
        if let Some(host) = host_of_url(written) {
            return Err(HostError::Url {
                text,
                host: super::diagnostic::shown(host),
            });
        }
        if written.contains('*') {
            return Err(HostError::Wildcard(text));
        }
        if let Some((host, port)) = written.rsplit_once(':') {
            if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() && !host.contains(':') {
                return Err(HostError::Port {
                    host: super::diagnostic::shown(host),
                    port: port.to_owned(),
                });
            }
            return Err(HostError::Invalid(text));
        }
        let name = written.strip_suffix('.').unwrap_or(written);
        let ascii = Uts46::new()
            .to_ascii(
                name.as_bytes(),
                // STD3 would refuse the underscore; the result is looked at below.
                AsciiDenyList::URL,
                Hyphens::CheckFirstLast,
                DnsLength::Ignore,
            )
            .map_err(|_| HostError::Invalid(text.clone()))?;
        let labels = || ascii.split('.');
        if ascii.len() > MAX_NAME || labels().any(|label| label.len() > MAX_LABEL) {
            return Err(HostError::TooLong(text));
        }
        // The mapping of UTS 46 may make dots and drop characters, so its result is
        // looked at and not what was written.
        let ldh = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        };
        if !labels().all(ldh) {
            return Err(HostError::Invalid(text));
        }
        if labels().next_back() == Some(LOCALHOST) {
            return Err(HostError::Localhost(text));
        }
        if labels().next_back().is_some_and(is_number) {
            return Err(HostError::Numeric(text));
        }
        Ok(Self(ascii.into_owned()))
    }
}

/// `inet_aton` reads decimal, octal and hexadecimal last labels as part of an address.
fn is_number(label: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    digits(label)
        || label
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_address(text: &str) -> bool {
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    bare.parse::<IpAddr>().is_ok()
}

pub(super) fn host_of_url(text: &str) -> Option<&str> {
    let rest = match text.split_once("://") {
        Some((_, rest)) => rest,
        None if text.contains(['/', '@', '?', '#']) => text,
        None => return None,
    };
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit('@').next().unwrap_or_default();
    Some(rest.split(':').next().unwrap_or_default())
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_to_the_form_of_the_dns() {
        for (written, want) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.COM.", "api.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("r3---sn-abc.example.com", "r3---sn-abc.example.com"),
            ("registry", "registry"),
            ("_dmarc.Example.com", "_dmarc.example.com"),
            ("_443._tcp.a_b.example", "_443._tcp.a_b.example"),
            ("1password.com", "1password.com"),
            ("ｅxample。com", "example.com"),
        ] {
            let host: HostName = written.parse().expect(written);
            assert_eq!(host.as_str(), want);
            assert_eq!(
                host.as_str().parse::<HostName>().as_ref(),
                Ok(&host),
                "stable"
            );
        }
    }

    #[test]
    fn what_is_no_host_name_says_what_to_write() {
        let long = format!("{}.example", "a".repeat(64));
        let longer = format!("{}example", "abcdefg.".repeat(40));
        for (written, message, help) in [
            ("", "is empty", "api.example.com"),
            ("  ", "is empty", "api.example.com"),
            ("*.example.com", "is a wildcard", "name one host"),
            ("*", "is a wildcard", "name one host"),
            ("10.0.0.1", "is an address", "cidr: 10.0.0.1"),
            ("10.0.0.0/8", "is an address", "cidr: 10.0.0.0/8"),
            ("::1", "is an address", "cidr: ::1"),
            ("[2001:db8::1]", "is an address", "cidr:"),
            (
                "https://api.example.com/v1",
                "is a URL",
                "host: api.example.com",
            ),
            (
                "https://u:p@api.example.com:8443/v1",
                "is a URL",
                "host: api.example.com",
            ),
            ("api.example.com/v1", "is a URL", "host: api.example.com"),
            (
                "api.example.com:443",
                "a host and a port",
                "`host: api.example.com` and `ports: [443]`",
            ),
            ("a:b", "is not a host name", "letters, digits, hyphens"),
            ("localhost", "means this machine", "cidr: 127.0.0.1"),
            ("x.localhost.", "means this machine", "cidr: 127.0.0.1"),
            ("1.2.3", "ends in a number", "cidr:"),
            ("127.1", "ends in a number", "cidr:"),
            ("0x7f.0x1", "ends in a number", "cidr:"),
            ("a..b", "is not a host name", "letters, digits, hyphens"),
            (".a", "is not a host name", "letters, digits, hyphens"),
            ("a b", "is not a host name", "letters, digits, hyphens"),
            (
                "-a.example",
                "is not a host name",
                "letters, digits, hyphens",
            ),
            (
                "a-.example",
                "is not a host name",
                "letters, digits, hyphens",
            ),
            (
                "xn--a.example",
                "is not a host name",
                "letters, digits, hyphens",
            ),
            ("a\u{0}b", "is not a host name", "letters, digits, hyphens"),
            (long.as_str(), "too long", "63"),
            (longer.as_str(), "too long", "253"),
        ] {
            let error = written.parse::<HostName>().expect_err(written);
            assert!(error.to_string().contains(message), "{written}: {error}");
            assert!(error.help().contains(help), "{written}: {}", error.help());
        }
    }

    #[test]
    fn names_of_questions() {
        for (asked, want) in [
            ("Api.EXAMPLE.com.", "api.example.com"),
            ("_sip._tcp.example.com", "_sip._tcp.example.com"),
            ("-odd-.example.com", "-odd-.example.com"),
            ("xn--a.example.com", "xn--a.example.com"),
            ("printer", "printer"),
        ] {
            assert_eq!(HostName::asked(asked).expect(asked).as_str(), want);
        }
        let long = "abcdefg.".repeat(32);
        let label = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a.b..",
            "*.example.com",
            r"a\.example.com",
            r"\032a.example.com",
            "bücher.example",
            "a b.example",
            "localhost",
            "x.LOCALHOST.",
            "10.0.0.1",
            "0x7f",
            &long,
            &label,
        ] {
            assert_eq!(HostName::asked(bad), None, "{bad}");
        }
    }
}
