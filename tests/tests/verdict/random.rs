//! Policies that nobody would write, the same on every machine.

use std::net::IpAddr;

/// SplitMix64: a seed gives the same policies on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Addresses close to each other, so that rules and flows meet often.
pub(crate) const ADDRESSES: &[&str] = &[
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.127",
    "10.0.0.128",
    "10.0.1.1",
    "10.1.0.1",
    "10.255.255.254",
    "127.0.0.1",
    "127.0.0.2",
    "169.254.169.254",
    "203.0.113.10",
    "203.0.113.11",
    "8.8.8.8",
    "fd00::1",
    "fd00::2",
    "fd00:0:0:1::1",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::1",
    "2001:db8:8000::1",
    "2600::1",
    "::1",
];

const BITS4: &[u8] = &[0, 1, 8, 9, 15, 16, 24, 25, 31, 32];
const BITS6: &[u8] = &[0, 3, 16, 32, 33, 48, 63, 64, 127, 128];
pub(crate) const PORTS: &[u16] = &[
    1, 79, 80, 81, 443, 1023, 1024, 4000, 4005, 8080, 65534, 65535,
];
pub(crate) const HOSTS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// A port rule as YAML.
fn ports(random: &mut Random) -> String {
    match random.below(5) {
        0 => "all".into(),
        1 => format!("[{}]", random.pick(PORTS)),
        2 => format!("[{}, \"79-81\"]", random.pick(&[22, 4000, 8080])),
        3 => "[\"1-1023\", \"4000-4010\"]".into(),
        _ => format!("[\"{}-65535\"]", random.pick(&[1024, 8080, 65535])),
    }
}

fn network(random: &mut Random) -> String {
    let address: IpAddr = random.pick(ADDRESSES).parse().expect("address");
    // The policy demands networks without host bits.
    match address {
        IpAddr::V4(v4) => {
            let bits = *random.pick(BITS4);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let mask = if bits == 0 { 0 } else { mask };
            format!("{}/{bits}", std::net::Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let bits = *random.pick(BITS6);
            let mask = if bits == 0 {
                0
            } else {
                u128::MAX << (128 - u32::from(bits))
            };
            format!("{}/{bits}", std::net::Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

pub(crate) fn random_policy(random: &mut Random) -> String {
    let mut text = String::from("version: 1\nagents:\n  a:\n    mode: enforce\n");
    // Some of each, some without: an empty list denies, and is no rare case.
    for (key, least, most) in [("allow", 4, 14), ("deny", 0, 2), ("listen", 0, 2)] {
        let count = least + random.below(most - least + 1);
        if count == 0 || random.chance(5) {
            continue;
        }
        text += &format!("    {key}:\n");
        for _ in 0..count {
            let selector = if key != "listen" && random.chance(30) {
                format!("host: {}", random.pick(&HOSTS))
            } else {
                format!("cidr: '{}'", network(random))
            };
            let (ports, protocol) = (ports(random), *random.pick(&["tcp", "udp"]));
            text += &match key {
                "listen" => format!("      - {{ {selector}, ports: {ports} }}\n"),
                "deny" if random.chance(30) => format!("      - {{ {selector} }}\n"),
                "deny" if random.chance(30) => {
                    format!("      - {{ {selector}, ports: {ports} }}\n")
                }
                _ => {
                    let holds_https = ["all", "[443]", "[\"1-1023\", \"4000-4010\"]"];
                    let to_quic = key == "allow"
                        && protocol == "udp"
                        && selector.starts_with("host")
                        && holds_https.contains(&ports.as_str());
                    let quic = if to_quic { ", quic: unchecked" } else { "" };
                    let via = match key == "allow" && protocol == "tcp" && random.chance(10) {
                        true => ", via: gateway",
                        false => "",
                    };
                    format!(
                        "      - {{ {selector}, protocol: {protocol}, ports: {ports}{quic}{via} }}\n"
                    )
                }
            };
        }
    }
    text
}
