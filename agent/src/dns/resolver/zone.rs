//! Names that have servers of their own: split DNS.

use std::fmt;

use hickory_proto::rr::Name as DnsName;
use serde::{Deserialize, Serialize};

use super::Upstream;

/// A zone's servers. Names in it are asked of them and of nobody else, whatever they
/// answer: a private name does not leak to the general servers when the VPN is down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// The name at its top; the zone is this name and everything below. Where zones lie
    /// in each other the longest holds.
    pub zone: ZoneName,
    /// Its servers, in the order to ask them.
    pub upstreams: Vec<Upstream>,
    /// The zone has no signatures although those above it say so, as private zones under
    /// a public name often have not: its answers are not validated for agents whose
    /// policy asks for that. Default false.
    #[serde(default)]
    pub insecure: bool,
}

/// The name of a zone: lower-case A-labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName(DnsName);

impl ZoneName {
    /// Whether a name is the zone's or below.
    pub fn holds(&self, name: &DnsName) -> bool {
        self.0.zone_of(name)
    }

    /// Labels: the more, the narrower the zone.
    pub fn depth(&self) -> u8 {
        self.0.num_labels()
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_ascii();
        f.write_str(text.trim_end_matches('.'))
    }
}

impl From<ZoneName> for String {
    fn from(zone: ZoneName) -> Self {
        zone.to_string()
    }
}

impl TryFrom<String> for ZoneName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || {
            format!(
                "`{}` is not a zone: write a name such as corp.example, without `*`; servers for \
                 every name belong into resolver.upstreams",
                text.escape_debug()
            )
        };
        let bare = text.strip_suffix('.').unwrap_or(&text);
        let ascii = idna::domain_to_ascii(bare).map_err(|_| error())?;
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if ascii.is_empty() || !ascii.bytes().all(good) {
            return Err(error());
        }
        let name = DnsName::from_ascii(format!("{ascii}.")).map_err(|_| error())?;
        Ok(Self(name.to_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(text: &str) -> Result<ZoneName, String> {
        ZoneName::try_from(text.to_owned())
    }

    #[test]
    fn a_zone_is_its_name_and_all_below() {
        let corp = zone("Corp.Example.").expect("a zone");
        assert_eq!(corp.to_string(), "corp.example");
        assert_eq!(corp.depth(), 2);
        for (name, holds) in [
            ("corp.example.", true),
            ("a.b.CORP.example.", true),
            ("notcorp.example.", false),
            ("example.", false),
        ] {
            let name = DnsName::from_ascii(name).expect("name");
            assert_eq!(corp.holds(&name), holds, "{name}");
        }
        assert_eq!(
            zone("bücher.example").expect("idn").to_string(),
            "xn--bcher-kva.example"
        );
        for bad in ["", ".", "*.corp.example", "a..b", "a b"] {
            assert!(zone(bad).is_err(), "{bad}");
        }
    }
}
