//! Words that are not known here: what to write instead.

use super::{ANSWER_KEYS, LISTEN_KEYS, PROXY_KEYS, SANDBOX_KEYS, WAY_KEYS, near, shown};

/// Words that people bring from other tools, and what they are called here.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("port", "ports"),
    ("hosts", "host"),
    ("hostname", "host"),
    ("domain", "host"),
    ("name", "host"),
    ("ip", "cidr"),
    ("address", "cidr"),
    ("addr", "cidr"),
    ("network", "cidr"),
    ("cidrs", "cidr"),
    ("groups", "group"),
    ("proto", "protocol"),
    ("comment", "reason"),
    ("description", "reason"),
    ("rules", "allow"),
    ("egress", "allow"),
    ("block", "deny"),
    ("ingress", "listen"),
    ("type", "types"),
    ("rrtypes", "types"),
    ("records", "types"),
    ("rebind", "private"),
    ("allow_private", "private"),
    ("entropy", "entropy_bits"),
    ("repeats", "repeat_bits"),
    ("validate", "dnssec"),
    ("route", "via"),
    ("url", "proxy"),
    ("cert", "certificate"),
    ("cacert", "ca"),
    ("mitm", "inspect"),
    ("headers", "strip"),
    ("max_size", "max_body"),
    ("dlp", "patterns"),
    ("digest", "sha256"),
    ("hash", "sha256"),
    ("packages", "package"),
    ("signature", "minisign"),
    ("keys", "minisign"),
];

/// What to write for a key instead of a word that is none of its words.
pub(super) fn value_help<'a>(
    key: &str,
    text: &str,
    words: impl Iterator<Item = &'a str> + Clone,
    list: &str,
) -> String {
    let lower = text.to_ascii_lowercase();
    match (key, lower.as_str()) {
        ("protocol", "any" | "all" | "*") => {
            "write a rule for each of `tcp`, `udp` and `icmp`; in a deny rule leave `protocol` out"
                .to_owned()
        }
        ("protocol", "icmpv6" | "icmp6" | "ping") => {
            "write `icmp`, which is also ICMPv6".to_owned()
        }
        ("protocol", "http" | "https" | "tls" | "ssh" | "quic" | "dns") => {
            "name the transport, `tcp` or `udp`, and the `ports`".to_owned()
        }
        ("ech", "strip" | "remove" | "drop") => {
            "leave `ech` out: keys are stripped then".to_owned()
        }
        ("dnssec", "off" | "none" | "pass" | "passthrough") => {
            "leave `dnssec` out: what the agent asks for is passed on then".to_owned()
        }
        ("mode", "audit" | "observe" | "permissive" | "log" | "dry-run") => {
            "write `monitor`, which reports and lets through".to_owned()
        }
        ("project", "copy" | "overlay") => {
            "this version makes no copies: write `read`, or start the command in a copy of the folder".to_owned()
        }
        _ => match near(&lower, words.clone()) {
            Some(word) if words.clone().count() > 1 => {
                format!("did you mean `{word}`? It may be one of {list}")
            }
            Some(word) => format!("did you mean `{word}`?"),
            None => one_of(list, words.clone().count()),
        },
    }
}

/// What to write where the words are these.
pub(super) fn one_of(list: &str, count: usize) -> String {
    match count {
        1 => format!("write {list}, or leave the key out"),
        _ => format!("write one of {list}"),
    }
}

pub(super) fn unknown_key(key: &str, what: &str, known: &[&str]) -> (String, String) {
    let message = format!("unknown key `{}` in {what}", shown(key));
    let list = known
        .iter()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let lower = key.to_ascii_lowercase();
    let translated = OTHER_WORDS
        .iter()
        .find(|(word, here)| *word == lower && known.contains(here))
        .map(|(_, here)| *here);
    let help = if key == "<<" {
        "merge keys are not supported; put the shared rules into a group and name it with `group:`"
            .to_owned()
    } else if known == LISTEN_KEYS && matches!(key, "protocol" | "host" | "group") {
        "a listen rule is for TCP and names peers by address: `cidr:` and `ports:`".to_owned()
    } else if known == LISTEN_KEYS && ANSWER_KEYS.contains(&key) {
        format!("`{key}` is for allow rules with `host`")
    } else if known == LISTEN_KEYS && WAY_KEYS.contains(&key) {
        format!("`{key}` is for allow rules: it is a way out")
    } else if known == PROXY_KEYS && matches!(&*lower, "user" | "username" | "password") {
        "write `credentials:` with the path of a file that holds `user:password`".to_owned()
    } else if known == SANDBOX_KEYS && key == "dbus" {
        "this version does not filter D-Bus, and shows no bus in a sandbox: leave `dbus` out, or name the bus in `services:`, and everything behind it is open".to_owned()
    } else if let Some(word) = translated.or_else(|| near(&lower, known.iter().copied())) {
        format!("did you mean `{word}`?")
    } else {
        format!("the keys are {list}")
    };
    (message, help)
}
