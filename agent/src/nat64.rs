//! Which IPv4 address an IPv6 one stands for where a network translates (NAT64).
//!
//! On a network without IPv4 its name servers answer with IPv6 addresses that hold an IPv4 one
//! (DNS64, RFC 6147), and a translator sends what goes there to that. What a policy says of the
//! IPv4 address must hold for its translated form too, so it has to be known where in an
//! address the other one lies: behind `64:ff9b::/96`, and behind the prefixes of the network
//! that one is in, which are found by the addresses that its servers give `ipv4only.arpa`
//! (RFC 7050). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The name whose IPv4 addresses everybody knows, and that has no others but where somebody
/// synthesizes them.
pub const PROBE: &str = "ipv4only.arpa";

/// Its addresses (RFC 7050, section 8.2).
const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// Prefixes that are kept of one network.
const MOST: usize = 8;

/// A prefix of a translator (RFC 6052): its first bytes, of which `bytes` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    start: [u8; 12],
    bytes: usize,
}

/// Where each length of prefix has the IPv4 address: 32 to 64 bits leave out the byte behind
/// the 64th bit, which is zero.
const LENGTHS: [(usize, [usize; 4]); 6] = [
    (4, [4, 5, 6, 7]),
    (5, [5, 6, 7, 9]),
    (6, [6, 7, 9, 10]),
    (7, [7, 9, 10, 11]),
    (8, [9, 10, 11, 12]),
    (12, [12, 13, 14, 15]),
];

impl Prefix {
    const WELL_KNOWN: Self = Self {
        start: [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        bytes: 12,
    };

    fn places(self) -> Option<[usize; 4]> {
        let found = LENGTHS.iter().find(|(bytes, _)| *bytes == self.bytes);
        found.map(|(_, places)| *places)
    }

    /// Where the addresses of an IPv4 network are behind this prefix.
    fn around(self, net: Ipv4Net) -> Option<Ipv6Net> {
        let mut octets = [0; 16];
        octets[..self.bytes].copy_from_slice(&self.start[..self.bytes]);
        let places = self.places()?;
        for (place, octet) in places.into_iter().zip(net.network().octets()) {
            octets[place] = octet;
        }
        let bits = net.prefix_len();
        // As many bits as lie before the last one that counts; the byte that is left out, too.
        let length = match bits.checked_sub(1) {
            None => self.bytes * 8,
            Some(last) => places[usize::from(last / 8)] * 8 + usize::from(last % 8) + 1,
        };
        Ipv6Net::new(octets.into(), u8::try_from(length).ok()?).ok()
    }

    fn embedded(self, addr: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = addr.octets();
        if octets[..self.bytes] != self.start[..self.bytes] {
            return None;
        }
        Some(self.places()?.map(|place| octets[place]).into())
    }
}

/// The prefixes that translate here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat64(Vec<Prefix>);

impl Default for Nat64 {
    /// Those of no network in particular.
    fn default() -> Self {
        Self(vec![Prefix::WELL_KNOWN])
    }
}

impl Nat64 {
    /// From the addresses that a network's servers give [`PROBE`].
    pub fn discovered(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut all = Self::default();
        for addr in addresses {
            let IpAddr::V6(addr) = addr else { continue };
            let octets = addr.octets();
            for (bytes, places) in LENGTHS {
                let held: Ipv4Addr = places.map(|place| octets[place]).into();
                // The byte that no prefix up to 64 bits fills.
                let skipped = bytes > 8 || octets[8] == 0;
                if !KNOWN.contains(&held) || !skipped {
                    continue;
                }
                let mut prefix = Prefix {
                    start: [0; 12],
                    bytes,
                };
                prefix.start[..bytes].copy_from_slice(&octets[..bytes]);
                if !all.0.contains(&prefix) && all.0.len() < MOST {
                    all.0.push(prefix);
                }
            }
        }
        all.0.sort_unstable();
        all
    }

    /// The IPv4 addresses that a packet to this one may be sent on to. Of several prefixes that
    /// hold it each counts: what one of them makes of it decides for the worse.
    pub fn embedded(&self, addr: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
        let v6 = match addr {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        };
        let found = self.0.iter().filter_map(move |prefix| prefix.embedded(v6?));
        found.collect::<Vec<_>>().into_iter()
    }

    /// The networks that lead to an IPv4 network.
    pub fn translated(&self, net: Ipv4Net) -> impl Iterator<Item = Ipv6Net> {
        self.0.iter().filter_map(move |prefix| prefix.around(net))
    }

    /// The prefixes as people write them.
    pub fn prefixes(&self) -> Vec<String> {
        let text = |prefix: &Prefix| {
            let mut octets = [0; 16];
            octets[..prefix.bytes].copy_from_slice(&prefix.start[..prefix.bytes]);
            format!("{}/{}", Ipv6Addr::from(octets), prefix.bytes * 8)
        };
        self.0.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(nat64: &Nat64, addr: &str) -> Vec<String> {
        let addr = addr.parse().expect("address");
        nat64.embedded(addr).map(|v4| v4.to_string()).collect()
    }

    fn discovered(addresses: &[&str]) -> Nat64 {
        Nat64::discovered(addresses.iter().map(|a| a.parse().expect("address")))
    }

    #[test]
    fn the_well_known_prefix_needs_no_network() {
        let none = Nat64::default();
        assert_eq!(embedded(&none, "64:ff9b::192.0.2.33"), ["192.0.2.33"]);
        assert!(embedded(&none, "64:ff9b:1::192.0.2.33").is_empty());
        assert!(embedded(&none, "2001:db8::192.0.2.33").is_empty());
        assert!(embedded(&none, "192.0.2.33").is_empty());
    }

    /// The table of RFC 6052, section 2.4, with the known address first.
    #[test]
    fn each_length_of_prefix_is_found_by_the_known_addresses() {
        for (known, prefix, other) in [
            ("2001:db8:c000:aa::", "2001:db8::/32", "2001:db8:c000:221::"),
            (
                "2001:db8:1c0:0:aa::",
                "2001:db8:100::/40",
                "2001:db8:1c0:2:21::",
            ),
            (
                "2001:db8:122:c000:0:aa00::",
                "2001:db8:122::/48",
                "2001:db8:122:c000:2:2100::",
            ),
            (
                "2001:db8:122:3c0:0:aa::",
                "2001:db8:122:300::/56",
                "2001:db8:122:3c0:0:221::",
            ),
            (
                "2001:db8:122:344:c0:0:aa00:0",
                "2001:db8:122:344::/64",
                "2001:db8:122:344:c0:2:2100:0",
            ),
            (
                "2001:db8:122:344::192.0.0.171",
                "2001:db8:122:344::/96",
                "2001:db8:122:344::192.0.2.33",
            ),
        ] {
            let found = discovered(&[known]);
            assert!(
                found.prefixes().contains(&prefix.to_owned()),
                "{known}: {found:?}"
            );
            assert_eq!(embedded(&found, other), ["192.0.2.33"], "{prefix}");
        }
    }

    #[test]
    fn a_network_is_translated_where_its_addresses_are() {
        let translated = |known: &str, net: &str| -> Vec<String> {
            let net = net.parse().expect("network");
            let found = discovered(&[known]);
            found.translated(net).map(|one| one.to_string()).collect()
        };
        let well_known = "64:ff9b::192.0.0.170";
        assert_eq!(translated(well_known, "10.0.0.0/8"), ["64:ff9b::a00:0/104"]);
        assert_eq!(translated(well_known, "0.0.0.0/0"), ["64:ff9b::/96"]);
        assert_eq!(
            translated(well_known, "192.0.2.33/32"),
            ["64:ff9b::c000:221/128"]
        );
        // Around the byte that is left out.
        let found = translated("2001:db8:122:c000:0:aa00::", "192.0.2.0/24");
        assert!(
            found.contains(&"2001:db8:122:c000:2::/80".to_owned()),
            "{found:?}"
        );
        let found = translated("2001:db8:122:c000:0:aa00::", "192.0.0.0/16");
        assert!(
            found.contains(&"2001:db8:122:c000::/64".to_owned()),
            "{found:?}"
        );
    }

    #[test]
    fn what_a_server_makes_up_is_no_prefix_and_many_are_not_all_kept() {
        assert_eq!(
            discovered(&["2001:db8::1", "192.0.0.170"]),
            Nat64::default()
        );
        let many: Vec<String> = (0..100)
            .map(|n| format!("2001:db8:{n:x}::192.0.0.170"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(discovered(&many).prefixes().len(), MOST);
        assert_eq!(
            embedded(&discovered(&many), "64:ff9b::1.2.3.4"),
            ["1.2.3.4"]
        );
    }
}
