//! A flow as people write it: `tcp://host:443`.

use crate::policy::{HostError, HostName};
use agent_common::Protocol;
use agent_common::protocol::ProtocolClass;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A flow to ask about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The protocol.
    pub protocol: Protocol,
    /// The far end.
    pub target: Target,
    /// The far port; 0 for ICMP.
    pub port: u16,
}

/// The far end of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// By name.
    Host(HostName),
    /// By address.
    Addr(IpAddr),
}

/// Text that is no flow; says what to write.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FlowError(String);

impl FromStr for Flow {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let wrong = |what: &str| {
            FlowError(format!(
                "`{text}`: {what}; write the flow as tcp://api.example.com:443, udp://10.0.0.1:4000, tcp://[2001:db8::1]:22 or icmp://host"
            ))
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("it names no protocol"))?;
        let protocol = match scheme {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            "icmp" => Protocol::ICMP,
            "http" | "https" | "ssh" | "wss" | "ws" => {
                return Err(wrong("it is a URL, not a flow"));
            }
            _ => return Err(wrong("the protocol is none of tcp, udp and icmp")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (target, port) = split_port(rest);
        let port = match (port, protocol) {
            (None, Protocol::ICMP) => 0,
            (Some(_), Protocol::ICMP) => return Err(wrong("icmp has no ports")),
            (None, _) => return Err(wrong("it names no port")),
            (Some(port), _) => match port.parse::<u16>() {
                Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
                _ => return Err(wrong("the port is no number from 1 to 65535")),
            },
        };
        let target = match target.parse::<IpAddr>() {
            Ok(addr) => Target::Addr(addr.to_canonical()),
            Err(_) => Target::Host(
                target
                    .parse()
                    .map_err(|error: HostError| wrong(&error.to_string()))?,
            ),
        };
        Ok(Self {
            protocol,
            target,
            port,
        })
    }
}

/// The host or address without its brackets, and what follows the colon.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some((addr, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => (addr, Some(port)),
            None if rest.is_empty() => (addr, None),
            // Not an address any more, so that it is refused.
            None => (text, None),
        };
    }
    match text.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address.
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.class();
        write!(f, "{}://", protocol.as_str())?;
        match &self.target {
            Target::Host(host) => write!(f, "{host}")?,
            Target::Addr(IpAddr::V6(addr)) => write!(f, "[{addr}]")?,
            Target::Addr(addr) => write!(f, "{addr}")?,
        }
        match protocol {
            ProtocolClass::Icmp => Ok(()),
            _ => write!(f, ":{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_shown_as_it_is_asked() {
        for flow in [
            "tcp://a.example:443",
            "udp://[2001:db8::1]:1",
            "icmp://10.0.0.1",
        ] {
            assert_eq!(flow.parse::<Flow>().expect(flow).to_string(), flow);
        }
    }
}
