//! On which ports of a rule the name in the TLS ClientHello counts.

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
    /// Whether the name counts on a port.
    pub const fn covers(self, port: u16) -> bool {
        match self {
            Self::Every => true,
            Self::None => false,
            Self::Https => port == HTTPS,
        }
    }
}
