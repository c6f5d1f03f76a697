//! By which way an allowed connection leaves.

use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// The way out of what an allow rule lets go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// From the agent's own socket, checked in the kernel.
    #[default]
    Direct,
    /// Through the gateway of the agent, which connects itself.
    Gateway,
    /// Through the gateway and from there through a proxy of the enterprise.
    Proxy(Arc<ProxyRule>),
}

/// An enterprise proxy, as a rule names it. Nothing of it is read before the policy is put in
/// force.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct ProxyRule {
    /// `http://host:port` or `https://host:port`: no user, no path.
    pub url: String,
    /// A file of authorities (PEM) that the proxy's certificate must come from; those of the
    /// system where it is not said.
    pub ca: Option<PathBuf>,
    /// The file of the client certificate with its chain (PEM).
    pub certificate: Option<PathBuf>,
    /// The file of its key (PEM).
    pub key: Option<PathBuf>,
    /// A file with `user:password`.
    pub credentials: Option<PathBuf>,
}
