//! What is recorded of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_common::Reason;
use tokio::sync::mpsc;

use super::{Destination, Kind};
use crate::leases::Name;

/// How a connection came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Door {
    /// The kernel steered it here.
    Steered,
    /// The HTTP proxy.
    Http,
    /// The SOCKS5 proxy.
    Socks,
}

impl Door {
    /// The label in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::Http => "http_proxy",
            Self::Socks => "socks5",
        }
    }
}

macro_rules! outcomes {
    ($($(#[$meta:meta])* $variant:ident = $text:literal,)+) => {
        /// How a connection, or a request that was refused, ended.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Outcome { $($(#[$meta])* $variant,)+ }

        impl Outcome {
            /// Every outcome, in the order of [`Outcome::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label in events and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

outcomes! {
    /// Both sides had their say and ended.
    Closed = "closed",
    /// A side broke off.
    Reset = "reset",
    /// The program left before it said where it wants to go.
    Left = "left",

    /// The kernel did not steer it.
    NoOrigin = "no_origin",
    /// The policy does not have the server name.
    NameNotAllowed = "name_not_allowed",
    /// The policy does not have the host of a request.
    HostNotAllowed = "host_not_allowed",
    /// The policy does not have the address, or the name, for bytes unread.
    TunnelNotAllowed = "tunnel_not_allowed",
    /// A ClientHello without a server name.
    NoSni = "no_sni",
    /// An address where a name is needed.
    IpLiteral = "ip_literal",
    /// A name that no policy can mean.
    BadName = "bad_name",
    /// Neither TLS nor HTTP.
    NotTls = "not_tls",
    /// Broken TLS.
    Malformed = "malformed",
    /// A ClientHello that is too long.
    Oversize = "oversize",
    /// A second ClientHello that is not like the first.
    SecondHello = "second_hello",
    /// Encrypted ClientHello.
    Ech = "ech",
    /// The name inside is not the one that the door was asked for.
    NameMismatch = "name_mismatch",
    /// An HTTP request that cannot be read, or that two servers could read in two ways.
    BadRequest = "bad_request",
    /// An HTTP request without a host.
    NoHost = "no_host",
    /// An HTTP request that names two hosts, or another port than its connection's.
    HostMismatch = "host_mismatch",
    /// CONNECT where there is no proxy to ask.
    Connect = "connect",
    /// HTTP/2 without TLS.
    Http2 = "http2",
    /// A request that its rule's `inspect` does not have, or that is written so that its
    /// server might read another one.
    RequestNotAllowed = "request_not_allowed",
    /// A request's body is longer than may be.
    BodyTooLarge = "body_too_large",
    /// A request's body is compressed, and patterns are to be looked for in it.
    EncodedBody = "encoded_body",
    /// What must not leave is in a request.
    DataPattern = "data_pattern",
    /// Nothing in the server's chain has a key that the policy names.
    PinMismatch = "pin_mismatch",
    /// The server's certificate is not good for its name.
    ServerUnverified = "server_unverified",
    /// What is to be inspected cannot be: no HTTP, or this gateway has no authority.
    NotInspectable = "not_inspectable",
    /// The program does not take the certificate of this machine's authority.
    InspectionRefused = "inspection_refused",
    /// A wrong token, or none.
    Unauthenticated = "unauthenticated",
    /// A SOCKS command other than CONNECT, or broken SOCKS.
    BadSocks = "bad_socks",

    /// The name stands for addresses that it may not stand for, and for no other.
    Rebind = "rebind",
    /// The name could not be resolved.
    Unresolved = "unresolved",
    /// No address answered.
    Unreachable = "unreachable",
    /// The enterprise proxy refused.
    ProxyRefused = "proxy_refused",
    /// The enterprise proxy could not be used.
    ProxyFailed = "proxy_failed",
    /// The server broke off, or its answer could not be read.
    UpstreamFailed = "upstream_failed",

    /// Nothing came.
    FirstByteTimeout = "first_byte_timeout",
    /// The ClientHello or the head of a request did not come to an end.
    HandshakeTimeout = "handshake_timeout",
    /// No connection in time.
    ConnectTimeout = "connect_timeout",
    /// Silence.
    IdleTimeout = "idle_timeout",

    /// The policy no longer has it.
    PolicyChanged = "policy_changed",
    /// The agent has too many connections.
    Busy = "busy",
    /// The gateway stopped.
    Stopped = "stopped",
    /// The gateway itself broke off.
    Broken = "broken",
}

impl Outcome {
    /// Place in [`Outcome::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it was refused for what it is, and not for lack of luck.
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::NoOrigin
            | Self::NameNotAllowed
            | Self::HostNotAllowed
            | Self::TunnelNotAllowed
            | Self::NoSni
            | Self::IpLiteral
            | Self::BadName
            | Self::NotTls
            | Self::Malformed
            | Self::Oversize
            | Self::SecondHello
            | Self::Ech
            | Self::NameMismatch
            | Self::BadRequest
            | Self::NoHost
            | Self::HostMismatch
            | Self::Connect
            | Self::Http2
            | Self::RequestNotAllowed
            | Self::BodyTooLarge
            | Self::EncodedBody
            | Self::DataPattern
            | Self::PinMismatch
            | Self::ServerUnverified
            | Self::NotInspectable
            | Self::InspectionRefused
            | Self::Unauthenticated
            | Self::BadSocks
            | Self::Rebind
            | Self::PolicyChanged => true,
            Self::Closed
            | Self::Reset
            | Self::Left
            | Self::Unresolved
            | Self::Unreachable
            | Self::ProxyRefused
            | Self::ProxyFailed
            | Self::UpstreamFailed
            | Self::FirstByteTimeout
            | Self::HandshakeTimeout
            | Self::ConnectTimeout
            | Self::IdleTimeout
            | Self::Busy
            | Self::Stopped
            | Self::Broken => false,
        }
    }
}

/// The certificate that a server shows for a name. Of an inspected connection it is the one
/// that was verified. Of others it comes from a handshake of the gateway's own, not from the
/// agent's connection, and is not verified: the program does that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// SHA-256 of the certificate (DER).
    pub sha256: [u8; 32],
    /// Who issued it (RFC 4514); the server's word, at most 256 bytes.
    pub issuer: String,
}

/// What the gateway saw of one request inside TLS. Of headers, query and body it keeps
/// nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestRecord {
    /// The method; escaped, at most 32 bytes.
    pub method: String,
    /// The path without its query; escaped, at most 1024 bytes. `None` when a pattern is in
    /// it: what matched is never told.
    pub path: Option<String>,
    /// The status that the program got.
    pub status: Option<u16>,
    /// Bytes of the body that were passed on to the server.
    pub sent: u64,
    /// Bytes of the answer's body.
    pub received: u64,
    /// Names of the patterns that are in it, whether they stop it or not.
    pub patterns: Vec<String>,
}

/// What became of one connection to a server, or of one refusal. Over a kept-alive HTTP
/// connection there is one for each server connection and one for each refused request; over
/// an inspected one, one for each request and one for the whole.
///
/// `shown` and `alpn` are the agent's words, `certificate` the server's: bounded and not to
/// be trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayRecord {
    /// Index of the agent.
    pub agent: u32,
    /// How the connection came.
    pub door: Door,
    /// The local socket of the asking process, to find it by.
    pub peer: SocketAddr,
    /// Where the program wanted to go, if it said so by address.
    pub destination: Option<Destination>,
    /// What it was judged as.
    pub kind: Option<Kind>,
    /// The name that was judged.
    pub name: Option<Name>,
    /// The port.
    pub port: u16,
    /// The server name of the ClientHello.
    pub sni: Option<Name>,
    /// What the program said where no name could be made of it; escaped, at most 300 bytes.
    pub shown: Option<String>,
    /// The protocols that the ClientHello offers; at most 16, escaped.
    pub alpn: Vec<String>,
    /// The one that the server chooses of them, as the gateway's own handshake saw it.
    pub alpn_chosen: Option<String>,
    /// The server's certificate.
    pub certificate: Option<Certificate>,
    /// The number of the rule that allowed it.
    pub rule_number: Option<u32>,
    /// That rule.
    pub rule: Option<Arc<str>>,
    /// Why the policy refused it.
    pub denied: Option<Reason>,
    /// The address that the gateway connected to.
    pub connected: Option<SocketAddr>,
    /// The enterprise proxy, `host:port`.
    pub proxy: Option<Arc<str>>,
    /// The status of the enterprise proxy's refusal.
    pub proxy_status: Option<u16>,
    /// Bytes to the server: with plain HTTP also the heads, with TLS all of it.
    pub sent: u64,
    /// Bytes from the server.
    pub received: u64,
    /// HTTP requests that were passed on.
    pub requests: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// The request, where it is of one inside TLS. `sent` and `received` are zero then: they
    /// are its connection's.
    pub request: Option<RequestRecord>,
    /// How it ended.
    pub outcome: Outcome,
    /// More about it, for people.
    pub detail: Option<String>,
}

/// Where the records of one gateway go: refusals by a queue of their own, so that no amount
/// of allowed connections can crowd one out.
#[derive(Clone, Debug)]
pub struct Records {
    refusals: mpsc::Sender<GatewayRecord>,
    flows: mpsc::Sender<GatewayRecord>,
}

impl Records {
    /// Both queues, each with room for so many: where to put records, refusals, the rest.
    pub fn channel(
        room: usize,
    ) -> (
        Self,
        mpsc::Receiver<GatewayRecord>,
        mpsc::Receiver<GatewayRecord>,
    ) {
        let (refusals, refused) = mpsc::channel(room);
        let (flows, flowed) = mpsc::channel(room);
        (Self { refusals, flows }, refused, flowed)
    }

    /// Hands a record on without waiting; false if its queue had no room.
    pub(super) fn offer(&self, record: GatewayRecord) -> bool {
        let queue = match record.outcome.is_refusal() {
            true => &self.refusals,
            false => &self.flows,
        };
        queue.try_send(record).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_place_and_a_word_of_its_own() {
        let mut words = std::collections::BTreeSet::new();
        for (place, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), place);
            assert!(words.insert(outcome.as_str()), "{outcome:?}");
        }
    }
}
