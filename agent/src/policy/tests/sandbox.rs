//! `sandbox` of an agent.

use super::errors::{agent, one};
use crate::policy::sandbox::{Dbus, Home, Network, Project};
use crate::policy::{Openings, PolicySet, Sandbox, parse};

fn read(body: &str) -> PolicySet {
    parse("p.yaml", &agent(body)).expect(body)
}

fn sandbox(body: &str) -> (Sandbox, Vec<String>) {
    let set = read(body);
    let policy = set.agents.values().next().expect("agent");
    let warnings = set.warnings.iter().map(ToString::to_string).collect();
    (policy.sandbox.clone(), warnings)
}

fn openings(body: &str) -> (Openings, Vec<String>) {
    match sandbox(body) {
        (Sandbox::Walls(openings), warnings) => (*openings, warnings),
        (Sandbox::None, _) => panic!("{body}: no sandbox"),
    }
}

#[test]
fn without_a_word_it_is_whole() {
    for body in [
        "",
        "    mode: enforce\n",
        "    sandbox:\n",
        "    sandbox: {}\n",
    ] {
        assert_eq!(openings(body), (Openings::default(), vec![]), "{body}");
    }
    let all_said = "    sandbox: {home: hidden, project: write, read: [], network: host, autorun: false, debug: false}\n";
    assert_eq!(openings(all_said), (Openings::default(), vec![]));
}

#[test]
fn every_key_is_read() {
    let (found, _) = openings(
        "    sandbox:
      home: read
      project: read
      read: [/srv/data//, ~/notes]
      write: ~/out
      hide: [/opt/x]
      environment: [EDITOR, MY_*]
      network: own
      autorun: true
      display: true
      audio: true
      gpu: true
      ssh_agent: true
      io_uring: true
      debug: true
      user_namespaces: true
      dbus: {session: [org.a.B], system: [org.c.*]}
",
    );
    let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    let expected = Openings {
        home: Home::Read,
        project: Project::Read,
        read: set(&["/srv/data", "~/notes"]),
        write: set(&["~/out"]),
        hide: set(&["/opt/x"]),
        environment: set(&["EDITOR", "MY_*"]),
        network: Network::Own,
        autorun: true,
        display: true,
        audio: true,
        gpu: true,
        ssh_agent: true,
        io_uring: true,
        debug: true,
        user_namespaces: true,
        dbus: Dbus {
            session: set(&["org.a.B"]),
            system: set(&["org.c.*"]),
        },
    };
    assert_eq!(found, expected);
    assert_eq!(
        found.to_string(),
        "home read, project read, network own, reads /srv/data ~/notes, writes ~/out, hides /opt/x, variables EDITOR MY_*, speaks on the session bus to org.a.B, speaks on the system bus to org.c.*, autorun, display, audio, gpu, ssh_agent, io_uring, debug, user_namespaces"
    );
}

#[test]
fn what_weakens_it_is_warned_of_and_nothing_else() {
    let (found, warnings) = sandbox("    sandbox: none\n");
    assert_eq!(found, Sandbox::None);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("p.yaml:4:14: "), "{warnings:?}");
    assert!(warnings[0].contains("without a sandbox"), "{warnings:?}");
    for (said, word) in [
        ("home: read", "all of the home"),
        ("home: write", "changes all of the home"),
        ("read: ~/.ssh", "SSH keys"),
        ("read: ~/.ssh/id_ed25519", "SSH keys"),
        ("write: ~/.aws", "keys of AWS"),
        ("read: /etc/exeat", "Exeat's own"),
        ("write: ~/.bashrc", "runs outside"),
        ("write: ~/.config/fish/conf.d", "runs outside"),
        ("environment: \"*\"", "tokens"),
        ("autorun: true", "hooks"),
        ("display: true", "every key"),
        ("audio: true", "microphone"),
        ("gpu: true", "kernel"),
        ("ssh_agent: true", "signs"),
        ("io_uring: true", "system calls"),
        ("debug: true", "takes over"),
        ("user_namespaces: true", "namespace"),
        ("dbus: {session: [org.a.B]}", "acts outside"),
        ("dbus: {system: org.a.*}", "acts outside"),
    ] {
        let (_, warnings) = openings(&format!("    sandbox:\n      {said}\n"));
        assert_eq!(warnings.len(), 1, "{said}: {warnings:?}");
        assert!(warnings[0].starts_with("p.yaml:5:"), "{warnings:?}");
        assert!(warnings[0].contains(word), "{said}: {warnings:?}");
    }
    for said in [
        "project: read",
        "project: copy",
        "network: own",
        "read: [~/notes, /srv]",
        "write: [~/notes]",
        "hide: [~/notes]",
        "environment: [EDITOR, \"MY_*\"]",
        "debug: false",
    ] {
        let (_, warnings) = openings(&format!("    sandbox:\n      {said}\n"));
        assert!(warnings.is_empty(), "{said}: {warnings:?}");
    }
    let (_, warnings) = openings("    sandbox: {read: [~/a], hide: [~/a]}\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("stays hidden"), "{warnings:?}");
    // What is secret in a folder stays hidden unless it is named itself.
    let (_, warnings) = openings("    sandbox: {read: [~/.config], write: [~/.local]}\n");
    assert!(warnings.is_empty(), "{warnings:?}");
    let (_, warnings) = openings("    mode: monitor\n    sandbox: {debug: true}\n");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("monitor mode"), "{warnings:?}");
}

#[test]
fn what_it_is_not_is_an_error() {
    for (value, column, message, help) in [
        (
            "7",
            14,
            "`sandbox` of agent `a` is a number",
            "sandbox: none",
        ),
        ("off", 14, "is a true/false value", "sandbox: none"),
        ("{home: all}", 21, "`all` is no value of `home`", "`hidden`"),
        ("{project: overlay}", 24, "`overlay`", "write `copy`"),
        (
            "{dbus: {session: [a]}}",
            32,
            "`a` is no name on D-Bus",
            "org.",
        ),
        (
            "{dbus: {user: [a.b]}}",
            22,
            "unknown key `user`",
            "the keys are",
        ),
        ("{dbus: yes please}", 21, "is text", "dbus: {session"),
        ("{network: none}", 24, "`none`", "`own`"),
        ("{read: notes}", 21, "is not absolute", "~/notes"),
        ("{read: [/a, '~']}", 26, "is all of the home", "home: read"),
        ("{write: /}", 22, "is all of it", "sandbox: none"),
        ("{hide: ~/a/../b}", 21, "`..` in it", "without it"),
        ("{read: '/a/*'}", 21, "is no path", "absolute path"),
        ("{read: [7]}", 22, "holds a number", "write text"),
        ("{environment: 'A=b'}", 28, "a value", "environment: ["),
        ("{environment: '1A'}", 28, "is no name", "environment: ["),
        ("{debug: 1}", 22, "`debug` is a number", "debug: true"),
        ("{ports: 1}", 15, "unknown key `ports`", "the keys are"),
    ] {
        one(
            &agent(&format!("    sandbox: {value}\n")),
            4,
            column,
            message,
            help,
        );
    }
}

#[test]
fn the_digest_tells_sandboxes_apart() {
    let digest = |body: &str| read(body).digest;
    let digests = [
        digest("    mode: enforce\n"),
        digest("    sandbox: none\n"),
        digest("    sandbox: {debug: true}\n"),
        digest("    sandbox: {read: [/a]}\n"),
    ];
    for (index, one) in digests.iter().enumerate() {
        assert!(!digests[..index].contains(one), "{index}");
    }
    assert_eq!(digests[0], digest("    sandbox: {}\n"));
}
