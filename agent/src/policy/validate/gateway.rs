//! What is said about the gateway: the way out of a rule, and the doors of an agent.

use super::super::diagnostic::shown;
use super::super::file::{At, DoorFile, GatewayFile, ProtocolFile, ProxyFile, RuleFile, ViaFile};
use super::super::gateway::GatewayPolicy;
use super::super::via::{ProxyRule, Via, proxy_url};
use super::{Place, Validator};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// With the default for what is not said: no door.
pub(super) fn gateway_policy(file: &GatewayFile) -> GatewayPolicy {
    let doors = file.listen.as_ref().map(|listen| &listen.value.0);
    let open = |door| doors.is_some_and(|doors| doors.contains(&door));
    GatewayPolicy {
        http: open(DoorFile::Http),
        socks5: open(DoorFile::Socks5),
    }
}

impl Validator<'_> {
    /// An error where the rule says a way out.
    pub(super) fn no_way(&mut self, file: usize, rule: &RuleFile, what: &str, help: &str) {
        if let Some(via) = &rule.via {
            let place = Place { file, at: via.at };
            self.error(place, format!("{what} has `via`"), help);
        }
    }

    /// Whether a rule for another protocol says what is of TCP alone; an error for each.
    pub(super) fn of_tcp_alone(&mut self, file: usize, rule: &RuleFile) -> bool {
        let other = match rule.protocol.as_ref().map(|protocol| protocol.value) {
            Some(ProtocolFile::Udp) => "udp",
            Some(ProtocolFile::Icmp) => "icmp",
            Some(ProtocolFile::Tcp) | None => return false,
        };
        let said = [
            (
                rule.tls.as_ref().map(|tls| tls.at),
                "tls",
                "remove it: the name is read of TLS over tcp",
            ),
            (
                rule.http.as_ref().map(|http| http.at),
                "http",
                "remove it: the host is read of requests over tcp",
            ),
            (
                rule.via.as_ref().map(|via| via.at),
                "via",
                "remove it: the gateway carries tcp alone",
            ),
            (
                rule.inspect.as_ref().map(|inspect| inspect.at),
                "inspect",
                "remove it: requests are read inside TLS over tcp",
            ),
        ];
        let mut found = false;
        for (at, key, help) in said {
            if let Some(at) = at {
                found = true;
                let message = format!("a rule for {other} has `{key}`");
                self.error(Place { file, at }, message, help);
            }
        }
        found
    }

    /// The way out; `None` where it is not sound, and then there is an error.
    pub(super) fn via(&mut self, file: usize, via: &At<ViaFile>) -> Option<Via> {
        match &via.value {
            ViaFile::Gateway => Some(Via::Gateway),
            ViaFile::Proxy(proxy) => self.proxy(file, proxy),
        }
    }

    fn proxy(&mut self, file: usize, written: &ProxyFile) -> Option<Via> {
        let place = |at| Place { file, at };
        let before = self.report.count();
        let ca = self.path(file, "ca", written.ca.as_ref());
        let certificate = self.path(file, "certificate", written.certificate.as_ref());
        let key = self.path(file, "key", written.key.as_ref());
        let credentials = self.path(file, "credentials", written.credentials.as_ref());
        for (one, other, key, missing) in [
            (&written.certificate, &written.key, "certificate", "key"),
            (&written.key, &written.certificate, "key", "certificate"),
        ] {
            if let (Some(one), None) = (one, other) {
                self.error(
                    place(one.at),
                    format!("the proxy has a `{key}` and no `{missing}`"),
                    format!("write `{missing}:` too: each is of use with the other"),
                );
            }
        }
        let url = match proxy_url(&written.proxy.value) {
            Ok((url, secure)) => {
                let of_tls = [("ca", &written.ca), ("certificate", &written.certificate)];
                for (key, said) in of_tls.into_iter().filter(|_| !secure) {
                    let Some(said) = said else { continue };
                    self.error(
                        place(said.at),
                        format!("the proxy has a `{key}` and is asked without TLS"),
                        "write `https://` in `proxy:`, or remove it",
                    );
                }
                url
            }
            Err((what, help)) => {
                // It may hold a password.
                let text = written.proxy.value.rsplit('@').next().unwrap_or_default();
                let message = format!("`{}` {what}", shown(text));
                self.error(place(written.proxy.at), message, help);
                return None;
            }
        };
        (self.report.count() == before).then(|| {
            Via::Proxy(Arc::new(ProxyRule {
                url,
                ca,
                certificate,
                key,
                credentials,
            }))
        })
    }

    fn path(&mut self, file: usize, key: &str, path: Option<&At<String>>) -> Option<PathBuf> {
        let path = path?;
        let text = path.value.as_str();
        let wrong = if !Path::new(text).is_absolute() {
            "is no absolute path"
        } else if text.ends_with('/') {
            "is a folder"
        } else if text.chars().any(char::is_control) {
            "holds control characters"
        } else {
            return Some(text.into());
        };
        self.error(
            Place { file, at: path.at },
            format!("`{}` {wrong}", shown(text)),
            format!("write the whole path of a file, as in `{key}: /etc/exeat/proxy.pem`"),
        );
        None
    }
}
