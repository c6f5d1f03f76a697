//! Addresses that a name from the DNS may not stand for.
//!
//! Whoever runs a name's zone picks its addresses. Without this guard an allowed name
//! could be pointed at the machine's own services, the cloud's metadata server or a
//! printer in the next room (DNS rebinding), and the policy would follow.
//!
//! | class | what | may a name stand for it |
//! |---|---|---|
//! | public | everything else | yes |
//! | private | RFC 1918, carrier NAT `100.64/10`, `192.0.0/24`, benchmarks `198.18/15`, reserved `240/4`; `fc00::/7`, `fec0::/10`, local NAT64 `64:ff9b:1::/48` | where the rule says `private: true` |
//! | never | this network, loopback, link-local, multicast, broadcast, unspecified, metadata servers | no; a rule by address can allow it |
//!
//! An IPv6 address that a translator or a tunnel turns into an IPv4 one is of the stricter
//! class of both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Public,
    Private,
    Never,
}

/// The form of an address that leases hold: IPv4 where it is IPv4 in a disguise that the
/// kernel treats as such (v4-mapped). `None` when a name may not stand for it; `private`
/// is whether the name's rule lets it stand for private addresses.
pub fn canonical(addr: IpAddr, private: bool) -> Option<IpAddr> {
    let addr = addr.to_canonical();
    let class = match addr {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    };
    let allowed = match class {
        Class::Public => true,
        Class::Private => private,
        Class::Never => false,
    };
    allowed.then_some(addr)
}

/// Metadata servers that are not link-local: Alibaba's (in carrier NAT space), Oracle's,
/// and Azure's host agent, which has a public address on every machine there.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Those of Amazon and Google.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

fn class_v4(addr: Ipv4Addr) -> Class {
    // All of 0.0.0.0/8 is "this network"; Linux takes 0.0.0.0 for the machine itself.
    if addr.octets()[0] == 0
        || addr.is_loopback()
        || addr.is_link_local()
        || addr.is_multicast()
        || addr.is_broadcast()
        || METADATA_V4.contains(&addr)
    {
        return Class::Never;
    }
    let private = addr.is_private()
        || match addr.octets() {
            [100, b, ..] => b & 0xc0 == 64,
            [192, 0, 0, _] => true,
            [198, b, ..] => b & 0xfe == 18,
            [a, ..] => a >= 240,
        };
    if private {
        Class::Private
    } else {
        Class::Public
    }
}

fn class_v6(addr: Ipv6Addr) -> Class {
    if addr.is_loopback()
        || addr.is_unspecified()
        || addr.is_multicast()
        || addr.is_unicast_link_local()
        || METADATA_V6.contains(&addr)
    {
        return Class::Never;
    }
    let [first, second, third, ..] = addr.segments();
    let private = addr.is_unique_local()
        || first & 0xffc0 == 0xfec0
        || (first, second, third) == (0x64, 0xff9b, 1);
    let own = if private {
        Class::Private
    } else {
        Class::Public
    };
    embedded_v4(addr)
        .into_iter()
        .flatten()
        .map(class_v4)
        .fold(own, Class::max)
}

/// The IPv4 addresses inside an IPv6 one, that a translator or a tunnel would send to.
fn embedded_v4(addr: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match addr.segments() {
        // v4-compatible `::a.b.c.d`, translated `::ffff:0:a.b.c.d` (SIIT), and NAT64
        // `64:ff9b::a.b.c.d` (RFC 6052) and `64:ff9b:1:…` (RFC 8215).
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, .., high, low] => [v4(high, low), None],
        // 6to4.
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo: the server, and the client with its bits turned over.
        [0x2001, 0, server_high, server_low, .., high, low] => {
            [v4(server_high, server_low), v4(!high, !low)]
        }
        // ISATAP, in any prefix; the bit is that of a global address.
        [.., 0x0000 | 0x0200, 0x5efe, high, low] => [v4(high, low), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str, private: bool) -> Option<String> {
        canonical(text.parse().expect("address"), private).map(|addr| addr.to_string())
    }

    #[test]
    fn addresses_that_no_name_may_stand_for() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.64.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.251",
            "239.255.255.255",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::ffff:255.255.255.255",
            "::ffff:0:127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::127.0.0.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "2001:0:7f00:1::1",
            "2001:0:cb00:7101::5601:5601",
            "fe80::1",
            "febf::1",
            "ff02::fb",
            "fd00:ec2::254",
            "fd20:ce::254",
            "2001:db8::5efe:127.0.0.1",
            "fd00::200:5efe:169.254.1.1",
        ] {
            assert_eq!(held(refused, false), None, "{refused}");
            assert_eq!(held(refused, true), None, "{refused}");
        }
    }

    #[test]
    fn addresses_that_pass_where_the_rule_says_private() {
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.170",
            "198.18.0.1",
            "198.19.255.255",
            "240.0.0.1",
            "fc00::1",
            "fd00::1",
            "fec0::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::192.0.2.1",
            "2002:a00:1::1",
            "2001:0:cb00:7101::f5ff:fffe",
            "2001:db8::200:5efe:10.0.0.1",
        ] {
            assert_eq!(held(private, false), None, "{private}");
            let addr: IpAddr = private.parse().expect("address");
            assert_eq!(canonical(addr, true), Some(addr), "{private}");
        }
        assert_eq!(held("::ffff:10.0.0.1", true).as_deref(), Some("10.0.0.1"));
        assert_eq!(held("::ffff:10.0.0.1", false), None);
    }

    #[test]
    fn addresses_that_pass() {
        for (given, as_held) in [
            ("192.0.2.1", "192.0.2.1"),
            ("169.253.255.255", "169.253.255.255"),
            ("128.0.0.1", "128.0.0.1"),
            ("100.63.255.255", "100.63.255.255"),
            ("100.128.0.0", "100.128.0.0"),
            ("172.32.0.1", "172.32.0.1"),
            ("198.20.0.1", "198.20.0.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
            ("2002:c000:201::1", "2002:c000:201::1"),
        ] {
            for private in [false, true] {
                assert_eq!(held(given, private).as_deref(), Some(as_held), "{given}");
            }
        }
    }
}
