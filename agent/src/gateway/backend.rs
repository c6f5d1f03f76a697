//! What a gateway needs of the rest of the daemon.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;

use super::{Authority, Proxy};
use crate::leases::{FailKind, Name};
use crate::policy::Inspect;
use agent_common::Reason;

/// Where a program wanted to go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Destination {
    /// The address; never a v4-mapped one once the gateway has it.
    pub addr: IpAddr,
    /// The TCP port, host order.
    pub port: u16,
}

impl From<Destination> for SocketAddr {
    fn from(to: Destination) -> Self {
        Self::new(to.addr, to.port)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// What a connection is judged as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// TLS that names its server.
    Tls,
    /// A plain HTTP request that names its host.
    Http,
    /// Bytes that nobody looks at.
    Tunnel,
}

impl Kind {
    /// The label in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What the policy is asked. At least one of `name` and `addr` is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The name that the connection shows (canonical), or that a door was asked for.
    pub name: Option<Name>,
    /// The address that the program chose. It is the agent's word: where there is a name,
    /// nothing goes there.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// What is to pass.
    pub kind: Kind,
}

/// How an allowed connection leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// By the gateway's own sockets.
    Direct,
    /// Through a proxy of the enterprise.
    Proxy(Arc<Proxy>),
}

/// A connection that the policy allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The number of the rule.
    pub number: u32,
    /// The rule, in words for people and records.
    pub rule: Arc<str>,
    /// The way out.
    pub route: Route,
    /// Whether a ClientHello may carry an Encrypted ClientHello, whose inner name nobody on
    /// the way can read. Browsers also send one that means nothing (GREASE); it looks the
    /// same.
    pub ech: bool,
    /// Whether the name may stand for private addresses. The gateway only hands it back
    /// to [`Backend::may_reach`].
    pub private: bool,
    /// What requests may be, where the gateway is to look into TLS. With it nothing passes
    /// that the gateway cannot look into.
    pub inspect: Option<Arc<Inspect>>,
}

/// What the policy says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judged {
    /// It may pass.
    Allow(Grant),
    /// It may not.
    Deny(Reason),
}

/// What a program shows at the explicit doors. Neither part is ever logged.
#[derive(Clone)]
pub struct Credentials {
    /// The agent's name.
    pub user: String,
    /// The agent's token.
    pub token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The policy, the kernel and the resolver, as one agent's gateway sees them.
///
/// The plain functions are called for every connection (`judge` for every HTTP request and
/// again for every open connection when the policy changes) and must not wait. None may
/// have an effect of its own.
pub trait Backend: Send + Sync + 'static {
    /// Where the connection from `peer` to the steered listener at `local` was meant to go.
    /// `None`: the kernel did not steer it, and it is closed.
    fn origin(&self, peer: SocketAddr, local: SocketAddr) -> Option<Destination>;

    /// Whether a connection may pass.
    ///
    /// For a steered connection [`Kind::Tunnel`] is asked first, with the address alone:
    /// allowed, the bytes pass unread to that address; refused, the connection must show a
    /// name and is asked for again as [`Kind::Tls`] or [`Kind::Http`].
    fn judge(&self, ask: &Ask) -> Judged;

    /// Whether a name that was allowed under `grant` may stand for an address: it is none
    /// of this machine's or the network's own (see [`crate::leases::canonical`]), and no
    /// deny rule names it. Asked for every address before the gateway connects, and again
    /// when the policy changes.
    fn may_reach(&self, name: &Name, addr: IpAddr, port: u16, grant: &Grant) -> bool;

    /// The addresses of a name that was allowed under `grant`.
    fn resolve(
        &self,
        name: &Name,
        grant: &Grant,
    ) -> impl Future<Output = Result<Vec<IpAddr>, FailKind>> + Send;

    /// The addresses of an enterprise proxy. No policy of an agent has its name.
    fn resolve_proxy(
        &self,
        name: &Name,
    ) -> impl Future<Output = Result<Vec<IpAddr>, FailKind>> + Send;

    /// A number that changes after each change of the policy: send to it when `judge`
    /// follows the new policy, never before. When its sender is gone everything is closed.
    fn changed(&self) -> watch::Receiver<u64>;

    /// The policy in force, in words: a refused program is told it.
    fn policy(&self) -> Arc<str>;

    /// Who may use the explicit doors. `None`: nobody.
    fn credentials(&self) -> Option<Credentials>;

    /// What signs for the servers of connections that are inspected. `None`: those are
    /// refused.
    fn authority(&self) -> Option<Arc<Authority>>;
}
