//! What a policy says of the gateway of its agent.

use serde::Serialize;

/// At which doors the gateway waits for programs that ask for a proxy themselves, where a
/// connection cannot be steered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct GatewayPolicy {
    /// HTTP: CONNECT, and requests for a whole URL.
    pub http: bool,
    /// SOCKS5.
    pub socks5: bool,
}

impl GatewayPolicy {
    /// Whether there is a door at all.
    pub const fn is_open(self) -> bool {
        self.http || self.socks5
    }

    /// The words in policies, in their order.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [(self.http, "http"), (self.socks5, "socks5")];
        words
            .into_iter()
            .filter_map(|(open, word)| open.then_some(word))
    }
}
