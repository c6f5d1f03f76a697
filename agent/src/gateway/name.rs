//! Names out of what a program says.

use std::net::IpAddr;

use super::{Ask, Destination, Kind};
use crate::leases::Name;
use crate::policy::HostName;

/// The most bytes that are kept of what is no name.
const MAX_SHOWN: usize = 300;

/// Where a connection is to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// To a name, which the gateway resolves.
    Name(Name, u16),
    /// To an address.
    Addr(Destination),
}

impl Target {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Name(_, port) => *port,
            Self::Addr(to) => to.port,
        }
    }

    /// The name, where there is one.
    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name, _) => Some(name),
            Self::Addr(_) => None,
        }
    }

    /// What to ask the policy of it as it is.
    pub(super) fn ask(&self, kind: Kind) -> Ask {
        self.ask_named(self.name().cloned(), kind)
    }

    /// What to ask the policy when a connection there shows a name.
    pub(super) fn ask_named(&self, name: Option<Name>, kind: Kind) -> Ask {
        Ask {
            name,
            addr: self.addr(),
            port: self.port(),
            kind,
        }
    }

    /// The address, where there is one.
    pub(super) fn addr(&self) -> Option<IpAddr> {
        match self {
            Self::Name(..) => None,
            Self::Addr(to) => Some(to.addr),
        }
    }
}

/// A host as it is written where a name or an address may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Host {
    Name(Name),
    Addr(IpAddr),
}

impl Host {
    /// `None` for what is neither. IPv6 comes in brackets or without.
    pub(super) fn read(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .map_or(Some(text), |rest| rest.strip_suffix(']'))?;
        if let Ok(addr) = bare.parse::<IpAddr>() {
            return Some(Self::Addr(addr.to_canonical()));
        }
        let name = HostName::asked(text)?;
        Some(Self::Name(Name::from(name.as_str())))
    }
}

/// What a program said, fit for a record.
pub(super) fn shown(text: &[u8]) -> String {
    shown_within(text, MAX_SHOWN)
}

/// The same, with a bound of its own.
pub(super) fn shown_within(text: &[u8], most: usize) -> String {
    let mut shown = String::new();
    for part in text.iter().map(|&byte| std::ascii::escape_default(byte)) {
        if shown.len() + part.len() > most {
            break;
        }
        shown.extend(part.map(char::from));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_an_address_or_nothing() {
        let name = |name: &str| Some(Host::Name(name.into()));
        let addr = |addr: &str| Some(Host::Addr(addr.parse().expect("address")));
        for (text, expected) in [
            ("a.example", name("a.example")),
            ("A.Example.", name("a.example")),
            ("_x.a.example", name("_x.a.example")),
            ("192.0.2.1", addr("192.0.2.1")),
            ("::ffff:192.0.2.1", addr("192.0.2.1")),
            ("[2001:db8::1]", addr("2001:db8::1")),
            ("[2001:db8::1", None),
            ("2001:db8::1]", None),
            ("127.1", None),
            ("0x7f.1", None),
            ("2130706433", None),
            ("localhost", None),
            ("a.example:80", None),
            ("user@a.example", None),
            ("a.example/", None),
            ("a..example", None),
            ("*.example", None),
            ("a.example\0", None),
            ("b\u{fc}cher.example", None),
            (" a.example", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(Host::read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_is_bounded_and_plain() {
        assert_eq!(shown(b"a\n\xff"), "a\\n\\xff");
        assert!(shown(&[0; 4096]).len() <= MAX_SHOWN);
    }
}
