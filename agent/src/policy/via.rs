//! By which way an allowed connection leaves.

use super::host::HostName;
use http::Uri;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The way out of what an allow rule lets go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// From the agent's own socket, checked in the kernel.
    #[default]
    Direct,
    /// Through the gateway of the agent, which connects itself.
    Gateway,
    /// Through the gateway and from there through a proxy of the enterprise.
    Proxy(Arc<ProxyRule>),
}

/// An enterprise proxy, as a rule names it. Nothing of it is read before the policy is put in
/// force.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct ProxyRule {
    /// `http://host:port` or `https://host:port`: no user, no path.
    pub url: String,
    /// A file of authorities (PEM) that the proxy's certificate must come from; those of the
    /// system where it is not said.
    pub ca: Option<PathBuf>,
    /// The file of the client certificate with its chain (PEM).
    pub certificate: Option<PathBuf>,
    /// The file of its key (PEM).
    pub key: Option<PathBuf>,
    /// A file with `user:password`.
    pub credentials: Option<PathBuf>,
}

impl fmt::Display for Via {
    /// What follows a rule: `, via gateway`, `, via https://proxy.corp:3128`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => Ok(()),
            Self::Gateway => f.write_str(", via gateway"),
            Self::Proxy(proxy) => write!(f, ", via {}", proxy.url),
        }
    }
}

/// What is wrong with the URL of a proxy, and what to write instead.
pub(super) type Wrong = (&'static str, &'static str);

/// The URL of a proxy in the form of [`ProxyRule::url`], and whether it is asked over TLS.
pub(super) fn proxy_url(text: &str) -> Result<(String, bool), Wrong> {
    const WRITE: &str =
        "write scheme, host and port, as in `proxy: \"https://proxy.example:3128\"`";
    let wrong = |what| Err((what, WRITE));
    // `Uri` drops what follows a `#`.
    let uri = match text.parse::<Uri>() {
        Ok(uri) if !text.contains('#') => uri,
        _ => return wrong("is no URL"),
    };
    let (scheme, secure) = match uri.scheme_str() {
        Some("https") => ("https", true),
        Some("http") => ("http", false),
        _ => return wrong("begins with neither https:// nor http://"),
    };
    let Some(authority) = uri.authority() else {
        return wrong("names no host");
    };
    if authority.as_str().contains('@') {
        return Err((
            "holds a user, which everybody who reads the policy would see",
            "write `credentials:` with the path of a file that holds `user:password`",
        ));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return wrong("has a path");
    }
    let Some(port) = authority.port_u16().filter(|port| *port > 0) else {
        return wrong("names no port");
    };
    let bare = authority.host();
    let inner = bare
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match inner.unwrap_or(bare).parse::<IpAddr>() {
        Ok(IpAddr::V6(addr)) if inner.is_some() => format!("[{addr}]"),
        Ok(IpAddr::V4(addr)) if inner.is_none() => addr.to_string(),
        Ok(_) => return wrong("names no host"),
        Err(_) => match bare.parse::<HostName>() {
            Ok(name) => name.as_str().to_owned(),
            Err(_) => return wrong("names no host"),
        },
    };
    Ok((format!("{scheme}://{host}:{port}"), secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_scheme_host_and_port() {
        for (written, url, secure) in [
            ("https://Proxy.Corp:3128/", "https://proxy.corp:3128", true),
            ("http://10.0.0.1:80", "http://10.0.0.1:80", false),
            (
                "http://[2001:DB8::1]:8080",
                "http://[2001:db8::1]:8080",
                false,
            ),
            ("HTTPS://p.example:443", "https://p.example:443", true),
        ] {
            assert_eq!(
                proxy_url(written),
                Ok((url.to_owned(), secure)),
                "{written}"
            );
        }
        for (written, what) in [
            ("", "is no URL"),
            ("https://p.example:1#x", "is no URL"),
            ("https://a b:1", "is no URL"),
            ("proxy.corp:3128", "begins with neither"),
            ("socks5://p.example:1080", "begins with neither"),
            ("/etc/proxy", "begins with neither"),
            ("https://u:p@p.example:1", "holds a user"),
            ("https://p.example:1/x", "has a path"),
            ("https://p.example:1?x", "has a path"),
            ("https://p.example", "names no port"),
            ("https://p.example:", "names no port"),
            ("https://p.example:0", "names no port"),
            ("https://p.example:65536", "names no port"),
            ("https://localhost:1", "names no host"),
            ("https://*.example:1", "names no host"),
        ] {
            let (wrong, help) = proxy_url(written).expect_err(written);
            assert!(wrong.contains(what), "{written}: {wrong}");
            assert!(
                help.contains("write `") || help.contains("`proxy:"),
                "{help}"
            );
        }
    }
}
