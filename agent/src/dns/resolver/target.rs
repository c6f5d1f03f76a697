//! A DNS server as it is written in the configuration.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dns::stats::Transport;

const PLAIN_PORT: u16 = 53;
const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;

/// A DNS server and the way to it.
///
/// Written `192.0.2.53` or `192.0.2.53:53` (UDP, and TCP for long answers),
/// `tls://192.0.2.53:853#dns.example` (DNS over TLS) or
/// `https://192.0.2.53/dns-query#dns.example` (DNS over HTTPS); the port may be left out.
/// The name after `#` is the one that the server's certificate must be for. The address
/// is a number: a name would have to be resolved first, by whom?
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Upstream {
    /// UDP, and TCP when the answer is too long for it.
    Plain(SocketAddr),
    /// DNS over TLS (RFC 7858).
    Tls {
        /// Where.
        addr: SocketAddr,
        /// Whose certificate it must show.
        name: Arc<str>,
    },
    /// DNS over HTTPS (RFC 8484), by HTTP/2.
    Https {
        /// Where.
        addr: SocketAddr,
        /// Whose certificate it must show.
        name: Arc<str>,
        /// The path of the queries, from its slash.
        path: Arc<str>,
    },
}

impl Upstream {
    /// Where it is.
    pub const fn addr(&self) -> SocketAddr {
        match self {
            Self::Plain(addr) | Self::Tls { addr, .. } | Self::Https { addr, .. } => *addr,
        }
    }

    /// Its label in metrics: as in the configuration, without the path of an HTTPS server,
    /// which with some providers is who the customer is.
    pub fn without_path(&self) -> String {
        match self {
            Self::Plain(_) | Self::Tls { .. } => self.to_string(),
            Self::Https { addr, name, .. } => format!("https://{addr}#{name}"),
        }
    }

    /// How requests travel to it.
    pub const fn transports(&self) -> &'static [Transport] {
        match self {
            Self::Plain(_) => &[Transport::Udp, Transport::Tcp],
            Self::Tls { .. } => &[Transport::Tls],
            Self::Https { .. } => &[Transport::Https],
        }
    }

    /// Whether a certificate is checked on the way to it.
    pub const fn is_encrypted(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls { .. } | Self::Https { .. } => true,
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(addr) => addr.fmt(f),
            Self::Tls { addr, name } => write!(f, "tls://{addr}#{name}"),
            Self::Https { addr, name, path } => write!(f, "https://{addr}{path}#{name}"),
        }
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.to_string()
    }
}

impl TryFrom<String> for Upstream {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|why| {
            format!(
                "`{}` is not a DNS server: {why}; write IP or IP:PORT, such as 192.0.2.53 or \
                 [2001:db8::53]:53, tls://192.0.2.53#dns.example, or \
                 https://192.0.2.53/dns-query#dns.example",
                text.escape_debug()
            )
        })
    }
}

fn parse(text: &str) -> Result<Upstream, &'static str> {
    if let Some(rest) = text.strip_prefix("tls://") {
        let (place, name) = named(rest)?;
        let addr = place_of(place, TLS_PORT)?;
        return Ok(Upstream::Tls { addr, name });
    }
    if let Some(rest) = text.strip_prefix("https://") {
        let (rest, name) = named(rest)?;
        let slash = rest.find('/').ok_or("the path of its queries is missing")?;
        let (place, path) = rest.split_at(slash);
        let printable = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'"' | b'<' | b'>');
        if path.len() < 2 || !path.bytes().all(printable) {
            return Err("its path cannot be asked for");
        }
        return Ok(Upstream::Https {
            addr: place_of(place, HTTPS_PORT)?,
            name,
            path: path.into(),
        });
    }
    if text.contains("://") {
        return Err("only tls:// and https:// are known");
    }
    place_of(text, PLAIN_PORT).map(Upstream::Plain)
}

/// What is before `#`, and the name after it.
fn named(text: &str) -> Result<(&str, Arc<str>), &'static str> {
    let (rest, name) = text
        .split_once('#')
        .ok_or("the name of its certificate is missing")?;
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_host = rustls::pki_types::DnsName::try_from(name.as_str()).is_ok();
    // `1.2.3.4` would be taken for a name.
    if !is_host || name.parse::<IpAddr>().is_ok() {
        return Err("the name of its certificate is not a host name");
    }
    Ok((rest, name.into()))
}

fn place_of(text: &str, port: u16) -> Result<SocketAddr, &'static str> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let addr = text
        .parse()
        .or_else(|_| bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, port)))
        .map_err(|_| "its address is not an IP address")?;
    let ip = addr.ip();
    if addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err("nothing can be sent there");
    }
    Ok(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_written_in_full() {
        for (text, full) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            (
                "tls://192.0.2.53#DNS.example.",
                "tls://192.0.2.53:853#dns.example",
            ),
            (
                "tls://[2001:db8::53]:1#d.example",
                "tls://[2001:db8::53]:1#d.example",
            ),
            (
                "https://192.0.2.53/dns-query#dns.example",
                "https://192.0.2.53:443/dns-query#dns.example",
            ),
            (
                "https://[2001:db8::53]:444/q/a#dns.example",
                "https://[2001:db8::53]:444/q/a#dns.example",
            ),
        ] {
            let upstream: Upstream = text.parse().expect(text);
            assert_eq!(upstream.to_string(), full);
            assert_eq!(full.parse::<Upstream>().as_ref(), Ok(&upstream));
        }
    }

    #[test]
    fn what_is_no_server_says_why() {
        for (text, why) in [
            ("dns.example", "not an IP address"),
            ("192.0.2.1:0", "nothing can be sent there"),
            ("0.0.0.0", "nothing can be sent there"),
            ("224.0.0.251:5353", "nothing can be sent there"),
            ("udp://192.0.2.1", "only tls:// and https://"),
            ("tls://192.0.2.1", "name of its certificate is missing"),
            ("tls://192.0.2.1#", "not a host name"),
            ("tls://192.0.2.1#192.0.2.1", "not a host name"),
            ("tls://dns.example#dns.example", "not an IP address"),
            (
                "https://192.0.2.1#dns.example",
                "path of its queries is missing",
            ),
            ("https://192.0.2.1/#dns.example", "path cannot be asked"),
            ("https://192.0.2.1/a b#dns.example", "path cannot be asked"),
        ] {
            let message = text.parse::<Upstream>().expect_err(text);
            assert!(message.contains(why), "{text}: {message}");
            assert!(message.contains("tls://192.0.2.53#dns.example"));
        }
    }
}
