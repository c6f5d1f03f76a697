//! Patterns: a host name, or every name below one.

use super::host::{HostError, HostName, MAX_NAME, host_of_url};
use std::fmt;
use std::str::FromStr;

/// Which names a rule means.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostPattern {
    /// `example.com`: this name and no other.
    Exact(HostName),
    /// `*.example.com`: every name below `example.com`, at any depth, but not
    /// `example.com` itself.
    Below(HostName),
}

impl HostPattern {
    /// The name, or the one that the wildcard stands above.
    pub fn base(&self) -> &HostName {
        let (Self::Exact(name) | Self::Below(name)) = self;
        name
    }

    /// Whether this is a wildcard.
    pub const fn is_wildcard(&self) -> bool {
        matches!(self, Self::Below(_))
    }

    /// Whether every name that `other` means is meant by this, too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), Self::Exact(other)) => name == other,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(base), Self::Exact(other)) => is_below(other, base),
            (Self::Below(base), Self::Below(other)) => base == other || is_below(other, base),
        }
    }
}

fn is_below(name: &HostName, base: &HostName) -> bool {
    name.as_str()
        .strip_suffix(base.as_str())
        .is_some_and(|rest| rest.ends_with('.'))
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(written: &str) -> Result<Self, HostError> {
        if !written.contains('*') {
            return written.parse().map(Self::Exact);
        }
        let text = || super::diagnostic::shown(written);
        if let Some(host) = host_of_url(written) {
            return Err(HostError::Url {
                text: text(),
                host: super::diagnostic::shown(host),
            });
        }
        let base = match written.strip_prefix("*.") {
            Some(base) if !base.contains('*') && !base.is_empty() => base,
            _ if written.trim_matches(['*', '.', ' ']).is_empty() => {
                return Err(HostError::Everything(text()));
            }
            _ => return Err(HostError::Star(text())),
        };
        let base: HostName = base.parse().map_err(|error| match error {
            HostError::Port { host, port } => HostError::Port {
                host: format!("*.{host}"),
                port,
            },
            HostError::Invalid(_) => HostError::Invalid(text()),
            other => other,
        })?;
        // Below a longer one there is no name.
        if base.as_str().len() > MAX_NAME - 2 {
            return Err(HostError::TooLong(text()));
        }
        Ok(Self::Below(base))
    }
}

impl fmt::Display for HostPattern {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(base) => write!(f, "*.{base}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().expect(text)
    }

    #[test]
    fn patterns_are_brought_to_the_form_of_the_dns() {
        for (written, want) in [
            ("example.com", "example.com"),
            ("*.Example.COM.", "*.example.com"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
            ("*._tcp.example.com", "*._tcp.example.com"),
            ("*.com", "*.com"),
            ("*.local", "*.local"),
        ] {
            let pattern = pattern(written);
            assert_eq!(pattern.to_string(), want);
            assert_eq!(pattern.is_wildcard(), want.starts_with('*'));
            assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern), "stable");
        }
    }

    #[test]
    fn what_is_no_pattern_says_what_to_write() {
        let long = format!("*.{}aaaaaaaaaaaaa", "abcdefg.".repeat(30));
        for (written, message, help) in [
            ("*", "would be every name", "\"*.example.com\""),
            ("*.", "would be every name", "\"*.example.com\""),
            ("**", "would be every name", "\"*.example.com\""),
            ("*.*", "would be every name", "\"*.example.com\""),
            (
                "a.*.b.example",
                "not the whole first label",
                "\"*.b.example\"",
            ),
            (
                "*foo.b.example",
                "not the whole first label",
                "\"*.b.example\"",
            ),
            (
                "foo*.b.example",
                "not the whole first label",
                "\"*.b.example\"",
            ),
            (
                "*.*.b.example",
                "not the whole first label",
                "\"*.b.example\"",
            ),
            (
                "**.b.example",
                "not the whole first label",
                "\"*.b.example\"",
            ),
            ("b.*", "not the whole first label", "\"*.example.com\""),
            ("*..b", "`*..b` is not a host name", "labels of letters"),
            ("*.a b", "`*.a b` is not a host name", "labels of letters"),
            ("*.localhost", "means this machine", "cidr: 127.0.0.1"),
            ("*.10.0.0.1", "is an address", "cidr: 10.0.0.1"),
            ("*.0.1", "ends in a number", "cidr:"),
            (
                "*.example.com:443",
                "a host and a port",
                "`host: \"*.example.com\"` and `ports: [443]`",
            ),
            (
                "https://*.example.com/x",
                "is a URL",
                "`host: \"*.example.com\"`",
            ),
            (long.as_str(), "too long", "253"),
        ] {
            let error = written.parse::<HostPattern>().expect_err(written);
            assert!(error.to_string().contains(message), "{written}: {error}");
            assert!(error.help().contains(help), "{written}: {}", error.help());
        }
    }

    #[test]
    fn a_wildcard_is_any_depth_below_and_not_the_apex() {
        for (outer, inner, want) in [
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "b.a.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "notexample.com", false),
            ("*.example.com", "a.notexample.com", false),
            ("*.example.com", "example.com.evil.example", false),
            ("*.example.com", "*.example.com", true),
            ("*.example.com", "*.a.example.com", true),
            ("*.a.example.com", "*.example.com", false),
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", false),
            ("a.example.com", "*.a.example.com", false),
        ] {
            assert_eq!(
                pattern(outer).covers(&pattern(inner)),
                want,
                "{outer} {inner}"
            );
        }
    }
}
