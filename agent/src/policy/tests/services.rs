//! `services` of an agent.

use super::errors::{agent, one};
use crate::policy::{PolicySet, Services, parse};

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn services(body: &str) -> (Services, Vec<String>) {
    let set = read(body);
    let policy = set.agents.values().next().expect("agent");
    let warnings = set.warnings.iter().map(ToString::to_string).collect();
    (policy.services.clone(), warnings)
}

fn only(paths: &[&str]) -> Services {
    Services::Only(paths.iter().map(|path| (*path).to_owned()).collect())
}

#[test]
fn none_is_seen_unless_it_is_named() {
    for body in ["", "    mode: enforce\n", "    services: []\n"] {
        assert_eq!(services(body), (only(&[]), vec![]), "{body}");
    }
    let (found, warnings) = services("    services: [/run/cups//cups.sock, /run/a]\n");
    assert_eq!(found, only(&["/run/cups/cups.sock", "/run/a"]));
    assert!(warnings.is_empty(), "{warnings:?}");
    let (found, _) = services("    services: /run/a\n");
    assert_eq!(found, only(&["/run/a"]));
}

#[test]
fn what_opens_more_than_it_says_is_warned_of() {
    let (found, warnings) = services("    services: all\n");
    assert_eq!(found, Services::All);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("p.yaml:4:15: "), "{warnings:?}");
    let (_, warnings) =
        services("    services: [/run/cups, /run/dbus/system_bus_socket, /run/docker.sock]\n");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("resolves names"), "{warnings:?}");
    assert!(warnings[1].contains("starts programs"), "{warnings:?}");
}

#[test]
fn what_is_no_path_below_run_is_an_error() {
    for (value, column, message, help) in [
        ("7", 15, "a service is a number", "services: [/run/"),
        (
            "/tmp/a",
            15,
            "`/tmp/a` is not below `/run`",
            "services: [/run/",
        ),
        ("[/run/a, /var/run/b]", 24, "is not below", "write `/run/b`"),
        ("[all, /run/a]", 16, "`all` is in a list", "services: all"),
        ("/run/a/../b", 15, "`..` in it", "without it"),
    ] {
        one(
            &agent(&format!("    services: {value}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn the_digest_tells_services_apart() {
    let digest = |body: &str| read(body).digest;
    let none = digest("    mode: enforce\n");
    let all = digest("    services: all\n");
    let some = digest("    services: [/run/a]\n");
    assert!(none != all && none != some && all != some);
}
