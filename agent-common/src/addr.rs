//! One address type for both families.

/// An IP address as 16 bytes in network order; an IPv4 address is held in its
/// v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// One form for both families means that a v4-mapped connect on an IPv6 socket and a
/// plain IPv4 connect are the same key, so neither can be used to go around a rule
/// for the other.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr([u8; 16]);

const _: () = assert!(size_of::<Addr>() == 16, "the key of the BPF address tables");

/// Number of leading bits that every IPv4 address shares in its mapped form.
pub const V4_PREFIX_BITS: u8 = 96;

impl Addr {
    /// From the four bytes of an IPv4 address, network order.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
        ])
    }

    /// From the sixteen bytes of an IPv6 address, network order.
    #[inline(always)]
    pub const fn from_v6(v6: [u8; 16]) -> Self {
        Self(v6)
    }

    /// The bytes in network order.
    #[inline(always)]
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// The four bytes of the IPv4 address, if this is one (v4-mapped).
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// Whether this is `::1`.
    #[inline(always)]
    pub const fn is_v6_loopback(&self) -> bool {
        u128::from_be_bytes(self.0) == 1
    }
}

#[cfg(any(test, not(target_arch = "bpf")))]
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
                None => IpAddr::V6(Ipv6Addr::from(*addr.octets())),
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
    fn loopback_of_v6_is_told_from_its_neighbours() {
        let is = |s: &str| Addr::from(s.parse::<IpAddr>().expect("address")).is_v6_loopback();
        assert!(is("::1"));
        assert!(!is("::2"));
        assert!(!is("1::1"));
        assert!(!is("127.0.0.1"));
    }
}
