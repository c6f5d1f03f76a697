//! A URL or pattern of a manifest as rules.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::ImportError;
use crate::flow::printable;

/// One entry's rules.
pub(super) struct Rule {
    /// Items of `allow:`.
    pub(super) text: String,
    /// Whether they are about every destination.
    pub(super) any: bool,
}

/// Reads `https://host:port/path`, `host`, `*.host`, `host:port`, an address or network with or
/// without a port, and patterns of browsers such as `*://*.host/*`.
pub(super) fn rule(entry: &str, allow_any: bool) -> Result<Rule, ImportError> {
    let shown = printable(entry);
    let wrong = |what: &str| {
        ImportError::new(format!(
            "network permission `{shown}`: {what}; write it as https://api.example.com/, \
             api.example.com, *.example.com:8443 or 10.0.0.0/8:5432"
        ))
    };
    if entry.is_empty() || entry.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong("it is no destination"));
    }
    let (ports, rest) = match entry.split_once("://") {
        None => (vec![443], entry),
        Some(("https" | "wss", rest)) => (vec![443], rest),
        Some(("http" | "ws", rest)) => (vec![80], rest),
        Some(("*", rest)) => (vec![443, 80], rest),
        Some(_) => return Err(wrong("only https, http, wss and ws are understood")),
    };
    if matches!(entry, "*" | "<all_urls>") || is_every_host(rest) {
        return match allow_any {
            true => Ok(everything(&shown)),
            false => Err(ImportError::new(format!(
                "network permission `{shown}` is every destination, and what leaves to any is not \
                 confined: ask for the hosts, or say --allow-any"
            ))),
        };
    }
    let is_url = entry.contains("://");
    // A network has a slash of its own.
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) if is_url => rest.split_at(at),
        _ => (rest, ""),
    };
    if authority.contains('@') {
        return Err(wrong("a user or password in it is not taken"));
    }
    let (host, port) = split_port(authority).ok_or_else(|| wrong("its port is none"))?;
    let ports = port.map_or(ports, |port| vec![port]);
    let mut text = String::new();
    // Of a path only where it is: a query may hold a secret.
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if !matches!(path, "" | "/" | "/*") {
        let _ = writeln!(
            text,
            "      # the manifest has only the path {} of it: this rule allows every path, `inspect` \
             could judge requests",
            printable(path)
        );
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || host.parse::<IpNet>().is_ok() {
        let _ = writeln!(text, "      - cidr: {}", Value::from(bare));
    } else {
        let _ = writeln!(text, "      - host: {}", Value::from(host));
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let _ = writeln!(text, "        ports: [{}]", ports.join(", "));
    text.push_str("        reason: of the plugin's manifest\n");
    Ok(Rule { text, any: false })
}

fn is_every_host(rest: &str) -> bool {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    matches!(host, "*" | "*.*" | "**") || matches!(rest, "0.0.0.0/0" | "::/0" | "[::/0]")
}

/// The host, and the port if there is one; none where the port is no number.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        // Colons of an IPv6 address are no port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => return Some((authority, None)),
    };
    let fine = port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| fine && *port > 0)?;
    Some((host, Some(port)))
}

fn everything(shown: &str) -> Rule {
    let mut text = format!(
        "      # {shown}: every address. Names are answered only where a rule has them, so the \
         plugin needs rules for hosts besides\n"
    );
    for net in ["0.0.0.0/0", "::/0"] {
        let _ = writeln!(text, "      - cidr: \"{net}\"\n        ports: [443, 80]");
        text.push_str("        reason: of the plugin's manifest\n");
    }
    Rule { text, any: true }
}
