//! Providers whose addresses many strangers share, by what they publish of themselves.
//!
//! For warnings alone: no verdict rests on it, and what is not here may be shared as well.
//! Networks as of 2025, from <https://www.cloudflare.com/ips/>,
//! <https://api.fastly.com/public-ip-list> and the ranges of service `CLOUDFRONT` in
//! <https://ip-ranges.amazonaws.com/ip-ranges.json> (the large ones).

use super::pattern::HostPattern;
use ipnet::IpNet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A provider: its name, the ends of names that it gives its customers' sites, its networks.
struct Provider {
    name: &'static str,
    names: &'static [&'static str],
    v4: &'static [(Ipv4Addr, u8)],
    v6: &'static [(Ipv6Addr, u8)],
}

const fn v4(a: u8, b: u8, c: u8, bits: u8) -> (Ipv4Addr, u8) {
    (Ipv4Addr::new(a, b, c, 0), bits)
}

const fn v6(a: u16, b: u16, bits: u8) -> (Ipv6Addr, u8) {
    (Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

const PROVIDERS: &[Provider] = &[
    Provider {
        name: "Cloudflare",
        names: &["cloudflare.net", "pages.dev", "workers.dev"],
        v4: &[
            v4(103, 21, 244, 22),
            v4(103, 22, 200, 22),
            v4(103, 31, 4, 22),
            v4(104, 16, 0, 13),
            v4(104, 24, 0, 14),
            v4(108, 162, 192, 18),
            v4(131, 0, 72, 22),
            v4(141, 101, 64, 18),
            v4(162, 158, 0, 15),
            v4(172, 64, 0, 13),
            v4(173, 245, 48, 20),
            v4(188, 114, 96, 20),
            v4(190, 93, 240, 20),
            v4(197, 234, 240, 22),
            v4(198, 41, 128, 17),
        ],
        v6: &[
            v6(0x2400, 0xcb00, 32),
            v6(0x2405, 0x8100, 32),
            v6(0x2405, 0xb500, 32),
            v6(0x2606, 0x4700, 32),
            v6(0x2803, 0xf800, 32),
            v6(0x2a06, 0x98c0, 29),
            v6(0x2c0f, 0xf248, 32),
        ],
    },
    Provider {
        name: "Fastly",
        names: &["fastly.net", "fastlylb.net"],
        v4: &[
            v4(23, 235, 32, 20),
            v4(43, 249, 72, 22),
            v4(103, 244, 50, 24),
            v4(103, 245, 222, 23),
            v4(103, 245, 224, 24),
            v4(104, 156, 80, 20),
            v4(140, 248, 64, 18),
            v4(140, 248, 128, 17),
            v4(146, 75, 0, 17),
            v4(151, 101, 0, 16),
            v4(157, 52, 64, 18),
            v4(167, 82, 0, 17),
            v4(172, 111, 64, 18),
            v4(185, 31, 16, 22),
            v4(199, 27, 72, 21),
            v4(199, 232, 0, 16),
        ],
        v6: &[v6(0x2a04, 0x4e40, 32), v6(0x2a04, 0x4e42, 32)],
    },
    Provider {
        name: "Amazon CloudFront",
        names: &["cloudfront.net"],
        v4: &[
            v4(13, 32, 0, 15),
            v4(13, 35, 0, 16),
            v4(13, 224, 0, 14),
            v4(13, 249, 0, 16),
            v4(18, 64, 0, 14),
            v4(52, 84, 0, 15),
            v4(52, 222, 128, 17),
            v4(54, 182, 0, 16),
            v4(54, 192, 0, 16),
            v4(54, 230, 0, 16),
            v4(99, 84, 0, 16),
            v4(99, 86, 0, 16),
            v4(108, 138, 0, 15),
            v4(108, 156, 0, 14),
            v4(143, 204, 0, 16),
        ],
        v6: &[],
    },
    Provider {
        name: "Akamai",
        names: &[
            "akamaiedge.net",
            "akamaized.net",
            "edgekey.net",
            "edgesuite.net",
        ],
        v4: &[],
        v6: &[],
    },
    Provider {
        name: "Azure Front Door",
        names: &["azureedge.net", "azurefd.net"],
        v4: &[],
        v6: &[],
    },
    Provider {
        name: "GitHub Pages",
        names: &["github.io"],
        v4: &[],
        v6: &[],
    },
    Provider {
        name: "Netlify",
        names: &["netlify.app"],
        v4: &[],
        v6: &[],
    },
    Provider {
        name: "Vercel",
        names: &["vercel.app"],
        v4: &[],
        v6: &[],
    },
];

/// Who serves the hosts of a pattern, where the name says so.
pub(super) fn of_host(pattern: &HostPattern) -> Option<&'static str> {
    let name = pattern.base().as_str();
    let below = |end: &&str| {
        let head = name.strip_suffix(*end);
        head.is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    let found = |provider: &&Provider| provider.names.iter().any(below);
    PROVIDERS.iter().find(found).map(|provider| provider.name)
}

/// Whose network a network lies in.
pub(super) fn of_net(net: &IpNet) -> Option<&'static str> {
    let holds = |provider: &&Provider| match net {
        IpNet::V4(net) => provider.v4.iter().any(|(addr, bits)| {
            let own = ipnet::Ipv4Net::new(*addr, *bits);
            own.is_ok_and(|own| own.contains(net))
        }),
        IpNet::V6(net) => provider.v6.iter().any(|(addr, bits)| {
            let own = ipnet::Ipv6Net::new(*addr, *bits);
            own.is_ok_and(|own| own.contains(net))
        }),
    };
    PROVIDERS.iter().find(holds).map(|provider| provider.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_begin_where_they_say() {
        for provider in PROVIDERS {
            for (addr, bits) in provider.v4 {
                let net = ipnet::Ipv4Net::new(*addr, *bits).expect("a network");
                assert_eq!(net.network(), *addr, "{}", provider.name);
            }
            for (addr, bits) in provider.v6 {
                let net = ipnet::Ipv6Net::new(*addr, *bits).expect("a network");
                assert_eq!(net.network(), *addr, "{}", provider.name);
            }
        }
    }

    #[test]
    fn by_name_and_by_network() {
        let host = |name: &str| of_host(&name.parse().expect("a pattern"));
        assert_eq!(host("d1.cloudfront.net"), Some("Amazon CloudFront"));
        assert_eq!(host("*.pages.dev"), Some("Cloudflare"));
        assert_eq!(host("notcloudfront.net"), None);
        let net = |net: &str| of_net(&net.parse().expect("a network"));
        assert_eq!(net("104.18.3.0/24"), Some("Cloudflare"));
        assert_eq!(net("151.101.1.1/32"), Some("Fastly"));
        assert_eq!(net("2606:4700::6810:1/128"), Some("Cloudflare"));
        assert_eq!(net("0.0.0.0/0"), None);
        assert_eq!(net("10.0.0.0/8"), None);
    }
}
