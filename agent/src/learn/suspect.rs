//! What a person should look at before allowing it. Hints, no verdicts: what is not flagged is
//! not thereby good.

use std::net::IpAddr;

use super::lesson::{Seen, Target};
use crate::dns::budget::entropy_bits;
use crate::leases::guard;
use crate::policy::registered_domain;

/// Where anybody can leave data or be reached without a host of their own. Reviewed by hand, from
/// what public reports of exfiltration name: MITRE ATT&CK T1567 (Exfiltration Over Web Service:
/// code repositories, cloud storage, text storage sites, webhooks) and T1572 (Protocol
/// Tunneling), and the services' own front pages (November 2026).
const DROPS: [(&str, &str); 46] = [
    ("0x0.st", "file drop"),
    ("anonfiles.com", "file drop"),
    ("bashupload.com", "file drop"),
    ("catbox.moe", "file drop"),
    ("dropmefiles.com", "file drop"),
    ("file.io", "file drop"),
    ("filebin.net", "file drop"),
    ("gofile.io", "file drop"),
    ("litterbox.catbox.moe", "file drop"),
    ("mega.nz", "file drop"),
    ("oshi.at", "file drop"),
    ("pixeldrain.com", "file drop"),
    ("sendspace.com", "file drop"),
    ("temp.sh", "file drop"),
    ("tmpfiles.org", "file drop"),
    ("transfer.sh", "file drop"),
    ("uguu.se", "file drop"),
    ("wetransfer.com", "file drop"),
    ("controlc.com", "paste site"),
    ("dpaste.com", "paste site"),
    ("dpaste.org", "paste site"),
    ("gist.github.com", "paste site"),
    ("gist.githubusercontent.com", "paste site"),
    ("hastebin.com", "paste site"),
    ("ix.io", "paste site"),
    ("paste.ee", "paste site"),
    ("paste.rs", "paste site"),
    ("pastebin.com", "paste site"),
    ("privatebin.net", "paste site"),
    ("rentry.co", "paste site"),
    ("sprunge.us", "paste site"),
    ("termbin.com", "paste site"),
    ("api.telegram.org", "messages to anybody"),
    ("discord.com", "messages to anybody"),
    ("discordapp.com", "messages to anybody"),
    ("beeceptor.com", "catches requests"),
    ("burpcollaborator.net", "catches requests"),
    ("interact.sh", "catches requests"),
    ("oast.fun", "catches requests"),
    ("oast.pro", "catches requests"),
    ("pipedream.net", "catches requests"),
    ("requestbin.com", "catches requests"),
    ("webhook.site", "catches requests"),
    ("localhost.run", "tunnel"),
    ("ngrok.io", "tunnel"),
    ("trycloudflare.com", "tunnel"),
];

/// Ports that need no word.
const USUAL: [u16; 3] = [443, 80, 53];

/// Why a destination should be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspicion {
    /// A public address for which no name was seen.
    RawAddress,
    /// A metadata server, this machine, or a link: no name may stand for it.
    SpecialAddress,
    /// A label that reads as random.
    Random(String),
    /// Anybody can leave data there.
    Drop(&'static str),
    /// Letters beyond ASCII; how the name reads, and whether they are of several scripts.
    Punycode {
        /// As a person sees it, with what is not of ASCII written out.
        shown: String,
        /// Whether one label has letters of ASCII and others.
        mixed: bool,
    },
    /// A port that is none of 443, 80 and 53.
    Port(u16),
    /// No answer of the DNS has the name: only the program says it.
    OnlySaid,
    /// QUIC, in which names are not read.
    Quic,
    /// The history of this machine has nothing of it.
    New,
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RawAddress => f.write_str("an address without a name"),
            Self::SpecialAddress => f.write_str(
                "this machine, its link or a metadata server: what lives there trusts the machine",
            ),
            Self::Random(label) => write!(f, "`{label}` reads as random: data may be in it"),
            Self::Drop(kind) => write!(f, "{kind}: anybody can be at the other end"),
            Self::Punycode { shown, mixed: true } => {
                write!(
                    f,
                    "letters of more than one script in a label, reads `{shown}`"
                )
            }
            Self::Punycode { shown, .. } => write!(f, "letters beyond ASCII, reads `{shown}`"),
            Self::Port(port) => write!(f, "port {port} is not 443, 80 or 53"),
            Self::OnlySaid => {
                f.write_str("no answer of the DNS has this name: only the program's hello says it")
            }
            Self::Quic => f.write_str("QUIC: names in it are not read, the address is enough"),
            Self::New => f.write_str("new: the history of this machine has no flow to it before"),
        }
    }
}

/// What is suspicious of a destination, with the ports of its rule.
pub fn suspicions(target: &Target, protocol: &str, ports: &[u16], seen: &Seen) -> Vec<Suspicion> {
    let mut found = match target {
        Target::Address(address) => of_address(*address),
        Target::Name(name) => of_name(name.as_str()),
    };
    if seen.only_said {
        found.push(Suspicion::OnlySaid);
    }
    if protocol == "udp" && ports.contains(&443) {
        found.push(Suspicion::Quic);
    }
    let odd = ports
        .iter()
        .filter(|port| **port != 0 && !USUAL.contains(port));
    found.extend(odd.map(|port| Suspicion::Port(*port)));
    found
}

fn of_address(address: IpAddr) -> Vec<Suspicion> {
    match (
        guard::canonical(address, false),
        guard::canonical(address, true),
    ) {
        (Some(_), _) => vec![Suspicion::RawAddress],
        (None, None) => vec![Suspicion::SpecialAddress],
        // A host of the own network often has no name.
        (None, Some(_)) => Vec::new(),
    }
}

/// What is suspicious of a name by itself.
pub(super) fn of_name(name: &str) -> Vec<Suspicion> {
    let mut found = Vec::new();
    let drop = DROPS.iter().find(|(site, _)| {
        name == *site
            || name
                .strip_suffix(site)
                .is_some_and(|rest| rest.ends_with('.'))
    });
    found.extend(drop.map(|(_, kind)| Suspicion::Drop(kind)));
    let suffix = registered_domain(name)
        .split_once('.')
        .map_or("", |(_, suffix)| suffix);
    let own = name.strip_suffix(suffix).unwrap_or(name);
    let random = own.split('.').find(|label| reads_as_random(label));
    found.extend(random.map(|label| Suspicion::Random(label.to_owned())));
    if name.split('.').any(|label| label.starts_with("xn--")) {
        let (unicode, _) = idna::domain_to_unicode(name);
        let mixed = unicode.split('.').any(|label| {
            label.chars().any(|c| c.is_ascii_alphabetic())
                && label.chars().any(|c| !c.is_ascii() && !is_latin(c))
        });
        let shown = crate::flow::printable(&unicode).into_owned();
        found.push(Suspicion::Punycode { shown, mixed });
    }
    found
}

/// Letters of European languages that stand among those of ASCII.
const fn is_latin(c: char) -> bool {
    matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
}

/// Long, with digits among letters, and with almost as many different characters as can be: the
/// measure is that of the budgets for names below wildcards.
fn reads_as_random(label: &str) -> bool {
    let digits = label.bytes().filter(u8::is_ascii_digit).count();
    let changes = label
        .as_bytes()
        .windows(2)
        .filter(|w| w[0].is_ascii_digit() != w[1].is_ascii_digit())
        .count();
    label.len() >= 16
        && !label.starts_with("xn--")
        && (label.len() >= 40 || (digits >= 3 && changes >= 4))
        && entropy_bits(label) >= 3 * label.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_should_be_looked_at() {
        for (name, what) in [
            ("pastebin.com", "paste site"),
            ("a.b.ngrok.io", "tunnel"),
            ("4f3c9a7be21d08565aa1.example.com", "reads as random"),
            (
                "mfrggzdfmztwq2lknnwg23tpobyxe43u.t.example.com",
                "reads as random",
            ),
            ("xn--80ak6aa92e.com", "letters beyond ASCII"),
            ("xn--pypal-4ve.com", "more than one script"),
        ] {
            let said: Vec<String> = of_name(name).iter().map(ToString::to_string).collect();
            assert!(
                said.iter().any(|text| text.contains(what)),
                "{name}: {said:?}"
            );
        }
    }

    #[test]
    fn names_that_are_in_every_policy_are_not_flagged() {
        for name in [
            "api.anthropic.com",
            "registry.npmjs.org",
            "static.crates.io",
            "objects.githubusercontent.com",
            "files.pythonhosted.org",
            "eu-west-1.console.aws.amazon.com",
            "notpastebin.com",
            "production-cloudflare-service-2.example.co.uk",
            "dl-cdn.alpinelinux.org",
        ] {
            assert_eq!(of_name(name), [], "{name}");
        }
    }

    #[test]
    fn the_list_is_in_order_of_its_kinds_and_has_host_names() {
        for (site, _) in DROPS {
            assert!(site.parse::<crate::policy::HostName>().is_ok(), "{site}");
            assert_eq!(DROPS.iter().filter(|(other, _)| *other == site).count(), 1);
        }
    }
}
