//! Which sockets of local services an agent sees: paths below `/run`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The folder of the machine's services.
pub const RUN: &str = "/run";

/// What an agent sees of `/run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Services {
    /// Everything.
    All,
    /// The usual few without a service behind them ([`crate::launch::services`]), and these
    /// paths, absolute and in their shortest form.
    Only(BTreeSet<String>),
}

impl Default for Services {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

/// Files and folders behind which a service resolves names, or does what anybody asks.
const BROKERS: &[(&str, &str)] = &[
    (
        "/run/dbus",
        "resolves names, and starts programs outside the agent",
    ),
    (
        "/run/systemd",
        "resolves names, and starts programs outside the agent",
    ),
    ("/run/nscd", "resolves names"),
    ("/run/avahi-daemon", "resolves names"),
    ("/run/mdnsd", "resolves names"),
    ("/run/samba", "resolves names"),
    ("/run/exeat", "is Exeat's own"),
    ("/run/docker.sock", "starts programs outside the agent"),
    ("/run/docker", "starts programs outside the agent"),
    ("/run/containerd", "starts programs outside the agent"),
    ("/run/podman", "starts programs outside the agent"),
    ("/run/libvirt", "starts programs outside the agent"),
    ("/run/snapd.socket", "starts programs outside the agent"),
];

/// What a service behind this path does that no rule of a policy limits; `None` where nothing is known
/// of it.
pub fn broker(path: &str) -> Option<&'static str> {
    let below = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // A list of servers is a file, not a service.
    if path.ends_with("/resolv.conf") {
        return None;
    }
    BROKERS
        .iter()
        .find(|(known, _)| below(path, known) || below(known, path))
        .map(|(_, does)| *does)
}

/// The path in its shortest form.
///
/// # Errors
/// With what is wrong and what to write instead, where it is not a path below `/run`.
pub(crate) fn parse(text: &str) -> Result<String, (&'static str, String)> {
    const SHAPE: &str = "write a path below `/run`, as in `services: [/run/cups/cups.sock]`";
    let Some(rest) = text.strip_prefix("/run/") else {
        return Err(match text.strip_prefix("/var/run/") {
            Some(rest) => ("is not below `/run`", format!("write `/run/{rest}`")),
            None if text.trim_end_matches('/') == RUN => (
                "is all of it",
                "write `services: all`, or name the services that are needed".to_owned(),
            ),
            None => ("is not below `/run`", SHAPE.to_owned()),
        });
    };
    let mut parts = rest.split('/').filter(|part| !part.is_empty()).peekable();
    if text.contains(['\0', '*', '?', '[']) || parts.peek().is_none() {
        return Err(("is no path", SHAPE.to_owned()));
    }
    let mut path = RUN.to_owned();
    for part in parts {
        if part == ".." || part == "." {
            return Err((
                "has `.` or `..` in it",
                "write the path without it".to_owned(),
            ));
        }
        path.push('/');
        path.push_str(part);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_run_and_in_their_shortest_form() {
        assert_eq!(
            parse("/run/cups/cups.sock").as_deref(),
            Ok("/run/cups/cups.sock")
        );
        assert_eq!(parse("/run//cups/").as_deref(), Ok("/run/cups"));
        for (text, help) in [
            ("/var/run/cups", "write `/run/cups`"),
            ("/run", "services: all"),
            ("/run/", "path below"),
            ("cups", "path below"),
            ("/runx", "path below"),
            ("/run/../etc", "without it"),
            ("/run/./a", "without it"),
            ("/run/user/*", "path below"),
            ("/run/a\0b", "path below"),
        ] {
            let (_, said) = parse(text).expect_err(text);
            assert!(said.contains(help), "{text}: {said}");
        }
    }

    #[test]
    fn a_broker_is_known_by_what_holds_it_and_by_what_it_holds() {
        for path in [
            "/run/dbus",
            "/run/dbus/system_bus_socket",
            "/run/systemd/resolve",
        ] {
            assert!(broker(path).is_some(), "{path}");
        }
        for path in [
            "/run/cups",
            "/run/dbusx",
            "/run/systemd/resolve/resolv.conf",
        ] {
            assert_eq!(broker(path), None, "{path}");
        }
    }
}
