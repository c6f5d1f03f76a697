//! One address type for both families.

use core::cmp::Ordering;
use core::fmt;

/// An IP address as 16 bytes in network order; an IPv4 address is held in its
/// v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// One form for both families means that a v4-mapped connect on an IPv6 socket and a
/// plain IPv4 connect are the same key, so neither can be used to go around a rule
/// for the other.
// In words, because LLVM keeps each byte of an array of bytes in a variable of its own where
// two ways meet (IPv4 and IPv6), and there are 512 bytes of stack.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr([u32; 4]);

const _: () = assert!(size_of::<Addr>() == 16, "the key of the BPF address tables");

/// Number of leading bits that every IPv4 address shares in its mapped form.
pub const V4_PREFIX_BITS: u8 = 96;

impl Addr {
    /// `::1`.
    pub const V6_LOOPBACK: Self = Self([0, 0, 0, 1_u32.to_be()]);

    /// From the four bytes of an IPv4 address, network order.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, 0x0000_ffff_u32.to_be(), u32::from_ne_bytes(v4)])
    }

    /// From the sixteen bytes of an IPv6 address, network order.
    #[inline(always)]
    pub const fn from_v6(v6: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// The bytes in network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let [a, b, c, d] = [
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        ];
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// The four bytes of the IPv4 address, if this is one (v4-mapped).
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        let [a, b, c, d] = self.words();
        if a == 0 && b == 0 && c == 0x0000_ffff_u32.to_be() {
            Some(d.to_ne_bytes())
        } else {
            None
        }
    }

    /// From four words as the kernel's `user_ip6` holds them: the bytes in memory are in
    /// network order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The inverse of [`Addr::from_words`].
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Whether this is in the range of the gates' IPv4 addresses.
    #[inline(always)]
    pub const fn is_gate_v4(&self) -> bool {
        match self.as_v4() {
            Some([a, b, _, _]) => u16::from_be_bytes([a, b]) == crate::layout::GATE_V4_PREFIX,
            None => false,
        }
    }

    /// `0.0.0.0` and `::` as a destination mean this host (`ip_route_output_key`,
    /// `tcp_v6_connect`): the loopback address of the same family. Anything else is itself.
    #[inline(always)]
    pub const fn or_loopback(self) -> Self {
        match self.words() {
            [0, 0, 0, 0] => Self::V6_LOOPBACK,
            [0, 0, c, 0] if c == 0x0000_ffff_u32.to_be() => Self::from_v4([127, 0, 0, 1]),
            _ => self,
        }
    }

    /// Whether this is `::1`.
    #[inline(always)]
    pub const fn is_v6_loopback(&self) -> bool {
        matches!(self.words(), [0, 0, 0, d] if d == 1_u32.to_be())
    }

    /// Whether this is no address of the internet: this machine, the networks around it, groups,
    /// ranges that are kept for something else. Only a policy opens them; no person is asked.
    #[inline(always)]
    pub const fn is_special(&self) -> bool {
        match self.as_v4() {
            Some([a, b, c, _]) => match a {
                0 | 10 | 127 => true,
                100 => b & 0xc0 == 64,
                169 => b == 254,
                172 => b & 0xf0 == 16,
                192 => b == 168 || (b == 0 && c == 0),
                198 => b & 0xfe == 18,
                _ => a >= 224,
            },
            // Global unicast is 2000::/3, and nothing else.
            None => self.words()[0].to_ne_bytes()[0] & 0xe0 != 0x20,
        }
    }
}

impl Ord for Addr {
    /// As numbers: neighbours are next to each other.
    fn cmp(&self, other: &Self) -> Ordering {
        self.octets().cmp(&other.octets())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.octets(), f)
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use super::Addr;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::from_v4(v4.octets()),
                IpAddr::V6(v6) => Self::from_v6(v6.octets()),
            }
        }
    }

    impl From<Addr> for IpAddr {
        /// A v4-mapped address becomes the IPv4 address that it stands for.
        fn from(addr: Addr) -> Self {
            match addr.as_v4() {
                Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
                None => IpAddr::V6(Ipv6Addr::from(addr.octets())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn a_v4_address_and_its_mapped_form_are_one_key() {
        let plain: IpAddr = "10.1.2.3".parse().expect("address");
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().expect("address");
        assert_eq!(Addr::from(plain), Addr::from(mapped));
        assert_eq!(IpAddr::from(Addr::from(mapped)), plain);
    }

    #[test]
    fn what_is_not_of_the_internet_is_special() {
        let is = |s: &str| Addr::from(s.parse::<IpAddr>().expect("address")).is_special();
        for s in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "127.64.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.7.7",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.1.1.1",
            "64:ff9b::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(is(s), "{s}");
        }
        for s in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.113.1",
            "223.255.255.255",
            "2001:db8::1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ] {
            assert!(!is(s), "{s}");
        }
    }

    #[test]
    fn loopback_of_v6_is_told_from_its_neighbours() {
        let is = |s: &str| Addr::from(s.parse::<IpAddr>().expect("address")).is_v6_loopback();
        assert!(is("::1"));
        assert!(!is("::2"));
        assert!(!is("1::1"));
        assert!(!is("127.0.0.1"));
    }

    #[test]
    fn words_come_back_and_this_host_is_loopback() {
        let addr = |s: &str| Addr::from(s.parse::<IpAddr>().expect("address"));
        for s in ["2001:db8::1:2:3", "10.1.2.3", "::", "::1"] {
            assert_eq!(Addr::from_words(addr(s).words()), addr(s));
        }
        assert_eq!(addr("0.0.0.0").or_loopback(), addr("127.0.0.1"));
        assert_eq!(addr("::").or_loopback(), addr("::1"));
        assert_eq!(addr("10.0.0.0").or_loopback(), addr("10.0.0.0"));
        assert!(addr("127.64.9.1").is_gate_v4());
        assert!(!addr("127.65.0.1").is_gate_v4());
    }
}
