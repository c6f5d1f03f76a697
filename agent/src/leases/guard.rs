//! Addresses that a name from the DNS may not stand for.
//!
//! Whoever runs a name's zone picks its addresses. Without this guard an allowed name
//! could be pointed at the machine's own services, the cloud's metadata server or a
//! multicast group (DNS rebinding), and the policy would follow. Private addresses pass:
//! names inside a company stand for them by right, and a deny rule can close them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The form of an address that leases hold: IPv4 where it is IPv4 in any disguise that
/// the kernel treats as such (v4-mapped). `None` when no name may stand for it.
pub fn canonical(addr: IpAddr) -> Option<IpAddr> {
    let addr = addr.to_canonical();
    let usable = match addr {
        IpAddr::V4(v4) => usable_v4(v4),
        IpAddr::V6(v6) => usable_v6(v6),
    };
    usable.then_some(addr)
}

fn usable_v4(addr: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 is "this network"; Linux takes 0.0.0.0 for the machine itself.
    !(addr.octets()[0] == 0
        || addr.is_loopback()
        || addr.is_link_local()
        || addr.is_multicast()
        || addr.is_broadcast())
}

fn usable_v6(addr: Ipv6Addr) -> bool {
    if addr.is_loopback()
        || addr.is_unspecified()
        || addr.is_multicast()
        || addr.is_unicast_link_local()
    {
        return false;
    }
    embedded_v4(addr).is_none_or(usable_v4)
}

/// The IPv4 address inside a v4-compatible (`::a.b.c.d`) or a well-known NAT64
/// (`64:ff9b::a.b.c.d`, RFC 6052) address: a translator would send to it.
fn embedded_v4(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    match addr.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_name_may_stand_for() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.64.0.1",
            "169.254.169.254",
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
            "64:ff9b::169.254.169.254",
            "fe80::1",
            "febf::1",
            "ff02::fb",
        ] {
            let addr: IpAddr = refused.parse().expect("address");
            assert_eq!(canonical(addr), None, "{refused}");
        }
    }

    #[test]
    fn addresses_that_pass() {
        for (given, held) in [
            ("192.0.2.1", "192.0.2.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("169.253.255.255", "169.253.255.255"),
            ("128.0.0.1", "128.0.0.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fd00::1", "fd00::1"),
            ("fec0::1", "fec0::1"),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1"),
        ] {
            let addr: IpAddr = given.parse().expect("address");
            let held: IpAddr = held.parse().expect("address");
            assert_eq!(canonical(addr), Some(held), "{given}");
        }
    }
}
