//! CIDRs and addresses.

use agent_common::addr::V4_PREFIX_BITS;
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// Text that is no network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NetError {
    #[error("`{written}` has bits set beyond its prefix")]
    HostBits {
        written: String,
        net: IpNet,
        addr: IpAddr,
    },
    #[error("`{text}` is a prefix of more bits than the address has")]
    Bits { text: String, most: u8 },
    #[error("`{text}` is an address and a port")]
    Port {
        text: String,
        addr: String,
        port: String,
    },
    #[error("`{0}` is a name, not an address")]
    Name(String),
    #[error("`{0}` is not an address or network")]
    Invalid(String),
}

impl NetError {
    pub(crate) fn help(&self) -> String {
        match self {
            Self::HostBits { net, addr, .. } => {
                format!("write `{net}` for the network, or `{addr}` for the one address")
            }
            Self::Bits { most, .. } => format!("the prefix goes from /0 to /{most}"),
            Self::Port { addr, port, .. } => format!("write `cidr: {addr}` and `ports: [{port}]`"),
            Self::Name(text) => format!("write `host: {text}`"),
            Self::Invalid(_) => {
                "write a network as `10.20.0.0/16` or `2001:db8::/32`, or one address".to_owned()
            }
        }
    }
}

/// Reads a network or an address. A network inside `::ffff:0:0/96` becomes the IPv4
/// network that it stands for: both are one destination.
pub(crate) fn parse(written: &str) -> Result<IpNet, NetError> {
    let text = super::diagnostic::shown(written);
    if let Ok(addr) = written.parse::<IpAddr>() {
        return Ok(fold(IpNet::from(addr)));
    }
    if let Some((addr, bits)) = written.split_once('/') {
        let Ok(addr) = addr.parse::<IpAddr>() else {
            return Err(NetError::Invalid(text));
        };
        let most = if addr.is_ipv4() { 32 } else { 128 };
        if bits.is_empty() || bits.len() > 4 || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NetError::Invalid(text));
        }
        let net = bits
            .parse::<u8>()
            .ok()
            .and_then(|bits| IpNet::new(addr, bits).ok())
            .ok_or(NetError::Bits {
                text: text.clone(),
                most,
            })?;
        if net.trunc() != net {
            return Err(NetError::HostBits {
                written: text,
                net: net.trunc(),
                addr,
            });
        }
        return Ok(fold(net));
    }
    if let Ok(socket) = written.parse::<std::net::SocketAddr>() {
        return Err(NetError::Port {
            text,
            addr: socket.ip().to_string(),
            port: socket.port().to_string(),
        });
    }
    if written.parse::<super::host::HostName>().is_ok() {
        return Err(NetError::Name(text));
    }
    Err(NetError::Invalid(text))
}

/// The IPv4 form of a network inside `::ffff:0:0/96`; any other network as it is.
pub(crate) fn fold(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (
        v6.addr().to_ipv4_mapped(),
        v6.prefix_len().checked_sub(V4_PREFIX_BITS),
    ) {
        (Some(addr), Some(bits)) => Ipv4Net::new(addr, bits).map_or(net, IpNet::V4),
        _ => net,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses() {
        for (written, want) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:1.2.3.4", "1.2.3.4/32"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            let got = parse(written).or_else(|e| match e {
                NetError::HostBits { net, .. } => Ok(net),
                e => Err(e),
            });
            assert_eq!(got.expect(written).to_string(), want);
        }
    }

    #[test]
    fn what_is_no_network_says_what_to_write() {
        for (written, message, help) in [
            (
                "10.0.0.1/8",
                "bits set beyond its prefix",
                "`10.0.0.0/8` for the network, or `10.0.0.1`",
            ),
            ("10.0.0.0/33", "more bits than the address has", "/0 to /32"),
            ("::/129", "more bits than the address has", "/0 to /128"),
            (
                "10.0.0.1:443",
                "an address and a port",
                "`cidr: 10.0.0.1` and `ports: [443]`",
            ),
            (
                "[::1]:443",
                "an address and a port",
                "`cidr: ::1` and `ports: [443]`",
            ),
            ("api.example.com", "is a name", "host: api.example.com"),
            (
                "10.0.0.0/255.0.0.0",
                "is not an address or network",
                "10.20.0.0/16",
            ),
            ("10.0.0.0/", "is not an address or network", "10.20.0.0/16"),
            (
                "10.0.0.0/+8",
                "is not an address or network",
                "10.20.0.0/16",
            ),
            ("010.0.0.1", "is not an address or network", "10.20.0.0/16"),
            (
                "fe80::1%eth0",
                "is not an address or network",
                "10.20.0.0/16",
            ),
            ("", "is not an address or network", "10.20.0.0/16"),
            ("any", "is a name", "host: any"),
        ] {
            let error = parse(written).expect_err(written);
            assert!(error.to_string().contains(message), "{written}: {error}");
            assert!(error.help().contains(help), "{written}: {}", error.help());
        }
    }
}
