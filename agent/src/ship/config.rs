//! The `ship` section of the configuration: receivers of records.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::Uri;
use serde::Deserialize;

use super::parcel::Class;

/// The most receivers.
const MAX_RECEIVERS: usize = 16;
/// The least room of a queue: several batches.
const MIN_QUEUE_BYTES: u64 = 1 << 20;
/// Names that other sinks have in metrics.
const TAKEN: [&str; 7] = [
    "memory", "file", "follower", "audit", "history", "store", "detect",
];
/// What `to` may be, for messages.
const FORMS: &str = "write one of journald, syslog+tls://HOST:PORT, syslog+tcp://HOST:PORT, \
    syslog+udp://HOST:PORT, syslog+unix:/PATH, otlp+https://HOST:PORT, splunk+https://HOST:PORT, \
    elastic+https://HOST:PORT/INDEX, file:/PATH";

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverConfig {
    /// Its name: of its queue's folder, in status and metrics. Letters, digits, `-` and `_`.
    pub name: String,
    /// What it is and where.
    pub to: Destination,
    /// Which records it gets. Default: `[deny, would_deny, incidents]`.
    #[serde(default = "usual")]
    pub only: BTreeSet<Class>,
    /// What a record looks like. Default: `ocsf`.
    #[serde(default)]
    pub format: Format,
    /// Room of its queue on the disk, bytes of records. What finds none pushes out the oldest.
    /// Default: 67108864 (64 MiB).
    #[serde(default = "usual_queue")]
    pub queue_bytes: u64,
    /// Certificates (PEM) of the authorities that may vouch for it. Default: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The certificate chain (PEM) that is shown to it. Default: none.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// The key (PEM) of that certificate; nobody but its owner may be able to read it.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// A file with the token; nobody but its owner may be able to read it. Read for every
    /// request, so it may be changed while the daemon runs.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The token as a credential of the service (`LoadCredential=` of systemd), by its name.
    #[serde(default)]
    pub credential: Option<String>,
    /// Of Elasticsearch and OTLP: the token is this user's password (Basic authentication).
    #[serde(default)]
    pub user: Option<String>,
    /// An HTTP proxy on the way: `http://HOST:PORT`. Default: none.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Of Splunk: a record leaves the queue only when the indexer has acknowledged it. Needs a
    /// token with acknowledgement. Default: `false`.
    #[serde(default)]
    pub ack: bool,
    /// Of files: size at which it is put aside (three old ones are kept). Default: 67108864.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// Allows what anybody on the way can read and change. Default: `false`.
    #[serde(default)]
    pub insecure: bool,
}

fn usual() -> BTreeSet<Class> {
    [Class::Deny, Class::WouldDeny, Class::Incidents].into()
}

const fn usual_queue() -> u64 {
    64 << 20
}

/// What a record looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// OCSF.
    #[default]
    Ocsf,
    /// As `exeat events --output json` has it.
    Native,
}

/// How lines of syslog travel over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// RFC 5425.
    Tls,
    /// RFC 6587, with counted octets.
    Tcp,
    /// RFC 5426.
    Udp,
}

/// What a receiver is and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Destination {
    /// systemd-journald, at its socket.
    Journald(PathBuf),
    /// Syslog (RFC 5424) over a network.
    Syslog {
        /// How.
        transport: Transport,
        /// Name or address, an IPv6 address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Syslog at a Unix datagram socket.
    SyslogUnix(PathBuf),
    /// OTLP/HTTP with protobuf.
    Otlp(Uri),
    /// Splunk's HTTP event collector.
    Splunk(Uri),
    /// Elasticsearch's or OpenSearch's bulk interface.
    Elastic {
        /// Of `_bulk`.
        url: Uri,
        /// The index or data stream.
        index: String,
    },
    /// A file of JSON lines.
    File(PathBuf),
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "journald" {
            return Ok(Self::Journald("/run/systemd/journal/socket".into()));
        }
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("`{}` is no receiver: {FORMS}", text.escape_debug()));
        };
        match kind {
            "journald" => absolute(rest).map(Self::Journald),
            "file" => absolute(rest).map(Self::File),
            "syslog+unix" => absolute(rest).map(Self::SyslogUnix),
            "syslog+tls" => syslog(Transport::Tls, rest, Some(6514)),
            "syslog+tcp" => syslog(Transport::Tcp, rest, None),
            "syslog+udp" => syslog(Transport::Udp, rest, Some(514)),
            "otlp+https" | "otlp+http" => Ok(Self::Otlp(url(kind, rest, "/v1/logs")?)),
            "splunk+https" | "splunk+http" => {
                Ok(Self::Splunk(url(kind, rest, "/services/collector/event")?))
            }
            "elastic+https" | "elastic+http" => elastic(url(kind, rest, "")?),
            // Not shown: an address without its kind may hold a password.
            _ => Err(format!("that is no receiver: {FORMS}")),
        }
    }
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() && !path.components().any(|c| c.as_os_str() == "..") {
        return Ok(path);
    }
    Err(format!(
        "{} must be an absolute path without `..`",
        path.display()
    ))
}

/// Without user, query and fragment: a secret there would be shown by status and logs.
fn plain(rest: &str) -> Result<(), String> {
    match rest.contains(['@', '?', '#']) || rest.chars().any(char::is_whitespace) {
        true => Err(
            "an address has no user, query or fragment here: write HOST:PORT, and the token into \
             a file that `token_file` names"
                .to_owned(),
        ),
        false => Ok(()),
    }
}

fn syslog(transport: Transport, rest: &str, usual: Option<u16>) -> Result<Destination, String> {
    plain(rest)?;
    let text = rest.strip_prefix("//").unwrap_or(rest);
    let wrong = || "write HOST:PORT, such as syslog+tls://siem.example:6514".to_owned();
    let authority: http::uri::Authority = text.parse().map_err(|_| wrong())?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().or(usual).ok_or_else(wrong)?;
    if host.is_empty() || port == 0 {
        return Err(wrong());
    }
    Ok(Destination::Syslog {
        transport,
        host,
        port,
    })
}

fn url(kind: &str, rest: &str, usual_path: &str) -> Result<Uri, String> {
    plain(rest)?;
    let scheme = kind.split_once('+').map_or(kind, |(_, scheme)| scheme);
    let wrong = |_| format!("write HOST:PORT behind it, such as {kind}://siem.example:4318");
    let uri: Uri = format!("{scheme}:{rest}").parse().map_err(wrong)?;
    if uri.host().unwrap_or_default().is_empty() {
        return Err(format!(
            "write HOST:PORT behind it, such as {kind}://siem.example:4318"
        ));
    }
    match uri.path() {
        "" | "/" => with_path(uri, usual_path),
        _ => Ok(uri),
    }
}

fn with_path(uri: Uri, path: &str) -> Result<Uri, String> {
    let mut parts = uri.into_parts();
    let path = if path.is_empty() { "/" } else { path };
    parts.path_and_query = Some(path.parse().map_err(|_| format!("{path} is no path"))?);
    Uri::from_parts(parts).map_err(|_| format!("{path} is no path"))
}

fn elastic(url: Uri) -> Result<Destination, String> {
    let path = url.path().trim_end_matches('/').to_owned();
    let (prefix, index) = path.rsplit_once('/').unwrap_or(("", ""));
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if index.is_empty() || index.starts_with(['-', '_', '.']) || !index.chars().all(fits) {
        return Err(
            "the path's last part is the index or data stream, in lower-case letters: write \
             elastic+https://HOST:9200/exeat"
                .to_owned(),
        );
    }
    let bulk = format!("{prefix}/{index}/_bulk");
    let index = index.to_owned();
    Ok(Destination::Elastic {
        url: with_path(url, &bulk)?,
        index,
    })
}

impl Destination {
    /// Whether it is reached over HTTP.
    pub fn url(&self) -> Option<&Uri> {
        match self {
            Self::Otlp(url) | Self::Splunk(url) | Self::Elastic { url, .. } => Some(url),
            _ => None,
        }
    }

    /// Whether TLS is spoken to it.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Self::Syslog { transport, .. } => *transport == Transport::Tls,
            _ => self
                .url()
                .is_some_and(|url| url.scheme_str() == Some("https")),
        }
    }

    /// Where on the network it is; none if it is on this machine.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Syslog { host, .. } => Some(host),
            _ => self.url().and_then(Uri::host),
        }
    }
}

/// The address as status and `exeat ship` show it. It holds no secret: there is no room for one.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journald(path) => write!(f, "journald:{}", path.display()),
            Self::SyslogUnix(path) => write!(f, "syslog+unix:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Syslog {
                transport,
                host,
                port,
            } => {
                let word = match transport {
                    Transport::Tls => "tls",
                    Transport::Tcp => "tcp",
                    Transport::Udp => "udp",
                };
                match host.contains(':') {
                    true => write!(f, "syslog+{word}://[{host}]:{port}"),
                    false => write!(f, "syslog+{word}://{host}:{port}"),
                }
            }
            Self::Otlp(url) => write!(f, "otlp+{url}"),
            Self::Splunk(url) => write!(f, "splunk+{url}"),
            Self::Elastic { url, .. } => write!(f, "elastic+{url}"),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether the receivers fit each other and themselves; the message names receiver and key.
pub fn check(receivers: &[ReceiverConfig]) -> Result<(), String> {
    if receivers.len() > MAX_RECEIVERS {
        return Err(format!(
            "{} receivers, and there is room for {MAX_RECEIVERS}",
            receivers.len()
        ));
    }
    for (n, receiver) in receivers.iter().enumerate() {
        let name = &receiver.name;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(fits) || name.starts_with('-') {
            return Err(format!(
                "name: `{}` cannot be a name: write up to 32 letters, digits, `-` and `_`",
                name.escape_debug()
            ));
        }
        if TAKEN.contains(&name.as_str()) {
            return Err(format!(
                "name: `{name}` is what metrics call a place of Exeat's own; write another"
            ));
        }
        if receivers[..n].iter().any(|other| other.name == *name) {
            return Err(format!("name: there are two receivers `{name}`"));
        }
        receiver
            .check()
            .map_err(|(key, message)| format!("receiver `{name}`, {key}: {message}"))?;
    }
    Ok(())
}

impl ReceiverConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let wrong = |key, message: &str| Err((key, message.to_owned()));
        let over_http = self.to.url().is_some();
        if self.only.is_empty() {
            return wrong(
                "only",
                "names nothing; write at least one of deny, would_deny, allow, incidents",
            );
        }
        if !(MIN_QUEUE_BYTES..=1 << 40).contains(&self.queue_bytes) {
            let message = format!(
                "{} is not between {MIN_QUEUE_BYTES} and {}",
                self.queue_bytes,
                1_u64 << 40
            );
            return Err(("queue_bytes", message));
        }
        for (key, path) in [
            ("ca_file", &self.ca_file),
            ("certificate_file", &self.certificate_file),
            ("key_file", &self.key_file),
            ("token_file", &self.token_file),
        ] {
            if let Some(path) = path {
                absolute(&path.to_string_lossy()).map_err(|message| (key, message))?;
            }
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return wrong(
                "certificate_file",
                "a certificate and its key go together: write both `certificate_file` and `key_file`",
            );
        }
        if !self.to.is_encrypted() {
            if self.ca_file.is_some() || self.certificate_file.is_some() {
                return wrong(
                    "ca_file",
                    "no TLS is spoken to this receiver, so certificates mean nothing; write an \
                     address with https or tls, or leave the key out",
                );
            }
            if let Some(host) = self.to.host()
                && !is_loopback(host)
                && !self.insecure
            {
                let message = format!(
                    "{} sends records in plain text over the network; write https or syslog+tls, \
                     or say insecure: true",
                    self.to
                );
                return Err(("to", message));
            }
        }
        match (&self.token_file, &self.credential) {
            (Some(_), Some(_)) => {
                return wrong("token_file", "write `token_file` or `credential`, not both");
            }
            (None, None) if matches!(self.to, Destination::Splunk(_)) => {
                return wrong(
                    "token_file",
                    "Splunk takes nothing without a token; write the path of a file that holds it",
                );
            }
            (None, None) if self.user.is_some() => {
                return wrong("user", "a user needs a password; write `token_file`");
            }
            (Some(_), None) | (None, Some(_)) if !over_http => {
                return wrong("token_file", "only receivers over HTTP take a token");
            }
            _ => {}
        }
        if let Some(name) = &self.credential
            && (name.is_empty() || name.contains('/') || name.starts_with('.'))
        {
            return wrong("credential", "write the name of a credential, not a path");
        }
        if self.user.is_some() && matches!(self.to, Destination::Splunk(_)) {
            return wrong("user", "Splunk takes a token alone; leave the key out");
        }
        if self.user.as_ref().is_some_and(|user| user.contains(':')) {
            return wrong("user", "the name of a user has no colon");
        }
        if self.user.is_some() && !over_http {
            return wrong("user", "only receivers over HTTP take a user");
        }
        if let Some(proxy) = &self.proxy {
            if !self.to.is_encrypted() || !over_http {
                return wrong("proxy", "only receivers over HTTPS are reached by a proxy");
            }
            proxy_uri(proxy).map_err(|message| ("proxy", message))?;
        }
        if self.ack && !matches!(self.to, Destination::Splunk(_)) {
            return wrong("ack", "only Splunk has it; leave the key out");
        }
        match (self.max_bytes, &self.to) {
            (Some(_), to) if !matches!(to, Destination::File(_)) => {
                wrong("max_bytes", "only files have it; leave the key out")
            }
            (Some(bytes), _) if !(65_536..=1 << 40).contains(&bytes) => {
                let message = format!("{bytes} is not between 65536 and {}", 1_u64 << 40);
                Err(("max_bytes", message))
            }
            _ => Ok(()),
        }
    }
}

/// The proxy's address.
pub(super) fn proxy_uri(text: &str) -> Result<Uri, String> {
    let wrong = || "write http://HOST:PORT without a user".to_owned();
    let rest = text.strip_prefix("http:").ok_or_else(wrong)?;
    plain(rest).map_err(|_| wrong())?;
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    match (uri.host(), uri.port_u16()) {
        (Some(host), Some(_)) if !host.is_empty() => Ok(uri),
        _ => Err(wrong()),
    }
}

/// The folder of a receiver's queue.
pub(super) fn folder(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("ship").join(name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn receiver(text: &str) -> ReceiverConfig {
        serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn refused(text: &str) -> String {
        match serde_saphyr::from_str::<ReceiverConfig>(text) {
            Ok(receiver) => check(&[receiver]).expect_err(text),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_kind_of_receiver_is_read_and_shown() {
        for (text, shown) in [
            ("journald", "journald:/run/systemd/journal/socket"),
            ("journald:/run/j/socket", "journald:/run/j/socket"),
            (
                "syslog+tls://siem.example",
                "syslog+tls://siem.example:6514",
            ),
            ("syslog+tcp://127.0.0.1:601", "syslog+tcp://127.0.0.1:601"),
            ("'syslog+udp://[::1]'", "syslog+udp://[::1]:514"),
            ("syslog+unix:/dev/log", "syslog+unix:/dev/log"),
            (
                "otlp+https://o.example:4318",
                "otlp+https://o.example:4318/v1/logs",
            ),
            (
                "otlp+https://o.example/own/way",
                "otlp+https://o.example/own/way",
            ),
            (
                "splunk+https://s.example:8088",
                "splunk+https://s.example:8088/services/collector/event",
            ),
            (
                "elastic+https://e.example:9200/exeat",
                "elastic+https://e.example:9200/exeat/_bulk",
            ),
            (
                "elastic+http://localhost:9200/way/exeat/",
                "elastic+http://localhost:9200/way/exeat/_bulk",
            ),
            ("file:/var/log/exeat.json", "file:/var/log/exeat.json"),
        ] {
            let read = receiver(&format!("{{name: a, to: {text}, token_file: /t}}"));
            assert_eq!(read.to.to_string(), shown);
            assert_eq!(read.only, usual());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_key_and_what_to_write() {
        for (text, part) in [
            (
                "{name: a, to: kafka}",
                "`kafka` is no receiver: write one of journald",
            ),
            (
                "{name: a, to: 'https://u:geheim@x/'}",
                "that is no receiver: write one of",
            ),
            (
                "{name: a, to: 'otlp+https://u:geheim@x/'}",
                "no user, query or fragment",
            ),
            (
                "{name: a, to: 'splunk+https://x/?token=geheim'}",
                "token_file",
            ),
            (
                "{name: a, to: 'elastic+https://x:9200'}",
                "elastic+https://HOST:9200/exeat",
            ),
            (
                "{name: a, to: 'elastic+https://x:9200/Exeat'}",
                "lower-case",
            ),
            ("{name: a, to: 'syslog+tcp://x'}", "write HOST:PORT"),
            ("{name: a, to: 'file:log'}", "absolute path"),
            (
                "{name: a, to: 'otlp+http://o.example'}",
                "say insecure: true",
            ),
            (
                "{name: a, to: 'syslog+udp://192.0.2.1'}",
                "say insecure: true",
            ),
            (
                "{name: a, to: 'splunk+https://s.example'}",
                "takes nothing without a token",
            ),
            (
                "{name: a, to: journald, token_file: /t}",
                "only receivers over HTTP",
            ),
            (
                "{name: a, to: journald, only: []}",
                "receiver `a`, only: names nothing",
            ),
            ("{name: a, to: journald, only: [drop]}", "drop"),
            (
                "{name: a, to: journald, queue_bytes: 5}",
                "5 is not between 1048576",
            ),
            (
                "{name: a, to: journald, max_bytes: 70000}",
                "only files have it",
            ),
            (
                "{name: a, to: 'file:/f', max_bytes: 1}",
                "1 is not between 65536",
            ),
            ("{name: a, to: journald, ack: true}", "only Splunk has it"),
            ("{name: a, to: journald, ca_file: /c}", "no TLS is spoken"),
            (
                "{name: a, to: 'otlp+https://o', key_file: /k}",
                "write both",
            ),
            (
                "{name: a, to: 'otlp+https://o', user: u}",
                "a user needs a password",
            ),
            (
                "{name: a, to: 'otlp+https://o', token_file: t}",
                "absolute path",
            ),
            (
                "{name: a, to: 'otlp+https://o', token_file: /t, credential: c}",
                "not both",
            ),
            (
                "{name: a, to: 'otlp+https://o', credential: ../c}",
                "not a path",
            ),
            (
                "{name: a, to: 'otlp+https://o', proxy: 'p:3128'}",
                "http://HOST:PORT",
            ),
            ("{name: file, to: journald}", "a place of Exeat's own"),
            ("{name: 'a b', to: journald}", "up to 32 letters"),
            ("{name: a, to: journald, tokn: x}", "tokn"),
        ] {
            let error = refused(text);
            assert!(error.contains(part), "{text}: {error}");
            assert!(
                !error.lines().next().unwrap_or("").contains("geheim"),
                "{error}"
            );
        }
    }

    #[test]
    fn plain_text_to_this_machine_or_by_consent_is_fine_and_names_are_unique() {
        let one = |text: &str| receiver(&format!("{{name: a, {text}}}"));
        for text in [
            "to: 'otlp+http://127.0.0.1:4318'",
            "to: 'syslog+udp://localhost:514'",
            "to: 'syslog+tcp://192.0.2.1:514', insecure: true",
        ] {
            check(&[one(text)]).expect(text);
        }
        let twice = [one("to: journald"), one("to: journald")];
        assert!(check(&twice).expect_err("twice").contains("two receivers"));
        let many: Vec<_> = (0..17)
            .map(|n| receiver(&format!("{{name: r{n}, to: journald}}")))
            .collect();
        assert!(check(&many).is_err());
    }
}
