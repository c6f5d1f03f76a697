//! On which ports of a rule the name in the TLS ClientHello counts.

use super::ports::PortRange;
use serde::Serialize;

/// The port of HTTPS, over TCP and QUIC.
pub(super) const HTTPS: u16 = 443;

/// On which TCP ports of an allow rule for a host a connection must name, in its TLS
/// ClientHello, a host that the policy allows and that the address is leased for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// On port 443.
    #[default]
    Https,
    /// On all of them.
    Every,
    /// On none: the address is enough.
    None,
}

impl Tls {
    /// Ranges of ports in order, each with whether the name counts there.
    pub fn split(self, ports: &[PortRange]) -> Vec<(PortRange, bool)> {
        ports
            .iter()
            .flat_map(|range| self.split_one(*range))
            .flatten()
            .collect()
    }

    fn split_one(self, (low, high): PortRange) -> [Option<(PortRange, bool)>; 3] {
        let whole = |checked| [Some(((low, high), checked)), None, None];
        match self {
            Self::Every => whole(true),
            Self::None => whole(false),
            Self::Https if !(low..=high).contains(&HTTPS) => whole(false),
            Self::Https => [
                (low < HTTPS).then_some(((low, HTTPS - 1), false)),
                Some(((HTTPS, HTTPS), true)),
                (high > HTTPS).then_some(((HTTPS + 1, high), false)),
            ],
        }
    }

    /// Whether the name counts on a port.
    pub const fn covers(self, port: u16) -> bool {
        match self {
            Self::Every => true,
            Self::None => false,
            Self::Https => port == HTTPS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_443_is_cut_out_of_a_range() {
        let split = |tls: Tls, range| tls.split(&[range]);
        assert_eq!(split(Tls::Https, (80, 80)), [((80, 80), false)]);
        assert_eq!(split(Tls::Https, (443, 443)), [((443, 443), true)]);
        assert_eq!(
            split(Tls::Https, (0, u16::MAX)),
            [
                ((0, 442), false),
                ((443, 443), true),
                ((444, u16::MAX), false)
            ]
        );
        assert_eq!(
            split(Tls::Https, (443, 444)),
            [((443, 443), true), ((444, 444), false)]
        );
        assert_eq!(split(Tls::Every, (80, 90)), [((80, 90), true)]);
        assert_eq!(split(Tls::None, (443, 443)), [((443, 443), false)]);
    }
}
