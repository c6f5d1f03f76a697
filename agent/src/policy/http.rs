//! On which ports of a rule the host of a plain HTTP request counts.

use serde::Serialize;

/// The port of plain HTTP.
pub(super) const HTTP: u16 = 80;

/// On which TCP ports of an allow rule for a host each plain HTTP request must be for a host
/// that the policy allows. Requests can be told apart only where they are read whole, so such
/// connections go through the gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Http {
    /// On port 80.
    #[default]
    Port80,
    /// On all of them.
    Every,
    /// On none: the address is enough.
    None,
}

impl Http {
    /// Whether the host counts on a port.
    pub const fn covers(self, port: u16) -> bool {
        match self {
            Self::Every => true,
            Self::None => false,
            Self::Port80 => port == HTTP,
        }
    }
}
