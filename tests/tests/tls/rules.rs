//! Which names, ports and addresses a rule is about.

use super::{SHARED, Said, Tls};
use exeat_tests::wait;

const ELSEWHERE: &str = "203.0.113.31";

fn policy(rules: &[&str]) -> String {
    let mut text = "version: 1\nagents:\n  worker:\n    allow:\n".to_owned();
    for rule in rules {
        text += &format!("      - {{ {rule} }}\n");
    }
    text
}

fn at(tls: &mut Tls, parts: &str, host: &str, port: u16) -> (Said, usize) {
    let said = tls.say(&format!("say({parts}, {port}, {host:?})"));
    (said, tls.length(&format!("b''.join({parts})")))
}

fn passes(tls: &mut Tls, parts: &str, host: &str, port: u16) {
    let (said, length) = at(tls, parts, host, port);
    tls.arrives(&said, length);
}

fn refused(tls: &mut Tls, parts: &str, host: &str, port: u16, reason: &str) {
    let (said, _) = at(tls, parts, host, port);
    tls.refused(&format!("{parts} to {host}:{port}"), &said, reason, 0);
}

const TEXT: &str = "[b'GET / HTTP/1.1\\r\\n\\r\\n']";

#[test]
fn a_name_is_good_for_its_own_addresses_and_ports() {
    let mut tls = Tls::new(
        &policy(&[
            "host: good.example, ports: [443]",
            "host: far.example, ports: [443]",
            "host: port.example, ports: [8443], tls: sni",
            "host: late.example, ports: [443]",
        ]),
        &[
            ("good.example", &[SHARED]),
            ("far.example", &[ELSEWHERE]),
            ("port.example", &[SHARED]),
        ],
        &["203.0.113.30:443", "203.0.113.31:443", "203.0.113.30:8443"],
    );
    passes(&mut tls, "[hello('good.example')]", SHARED, 443);
    passes(&mut tls, "[hello('GOOD.Example')]", SHARED, 443);
    passes(&mut tls, "[hello('far.example')]", ELSEWHERE, 443);
    passes(&mut tls, "[hello('port.example')]", SHARED, 8443);
    for (name, host, port) in [
        ("far.example", SHARED, 443),
        ("good.example", ELSEWHERE, 443),
        ("port.example", SHARED, 443),
        ("good.example", SHARED, 8443),
        ("late.example", SHARED, 443),
    ] {
        let parts = format!("[hello({name:?})]");
        refused(&mut tls, &parts, host, port, "tls_name");
    }
    refused(&mut tls, TEXT, SHARED, 8443, "not_tls");
    // Nobody had asked for it so far.
    tls.stage.dns.set("late.example", &[SHARED], 60);
    tls.resolve("late.example");
    passes(&mut tls, "[hello('late.example')]", SHARED, 443);
}

#[test]
fn a_wildcard_is_a_name_for_each_that_was_resolved() {
    let mut tls = Tls::new(
        &policy(&["host: '*.wild.example', ports: [443]"]),
        &[("a.wild.example", &[SHARED])],
        &["203.0.113.30:443"],
    );
    passes(&mut tls, "[hello('a.wild.example')]", SHARED, 443);
    for name in ["wild.example", "b.wild.example", "b.a.wild.example"] {
        let parts = format!("[hello({name:?})]");
        refused(&mut tls, &parts, SHARED, 443, "tls_name");
    }
}

#[test]
fn where_no_name_is_asked_for_anything_goes() {
    let other = "203.0.113.32";
    let mut tls = Tls::new(
        &policy(&[
            "host: open.example, ports: [443], tls: none",
            "host: default.example, ports: [443, 8443]",
            "host: both.example, ports: [443]",
            "cidr: 203.0.113.32/31, ports: [443]",
        ]),
        &[
            ("open.example", &[SHARED]),
            ("default.example", &[ELSEWHERE]),
            ("both.example", &[other]),
        ],
        &[
            "203.0.113.30:443",
            "203.0.113.31:443",
            "203.0.113.31:8443",
            "203.0.113.32:443",
        ],
    );
    for parts in [TEXT, "[hello('evil.example')]", "[hello(None)]"] {
        passes(&mut tls, parts, SHARED, 443);
        passes(&mut tls, parts, ELSEWHERE, 8443);
        passes(&mut tls, parts, other, 443);
    }
    passes(&mut tls, "[hello('default.example')]", ELSEWHERE, 443);
    refused(&mut tls, TEXT, ELSEWHERE, 443, "not_tls");
}

#[test]
fn an_encrypted_hello_passes_where_the_rule_keeps_them() {
    let mut tls = Tls::new(
        &policy(&[
            "host: ech.example, ports: [443], ech: keep",
            "host: good.example, ports: [443]",
        ]),
        &[("ech.example", &[SHARED]), ("good.example", &[SHARED])],
        &["203.0.113.30:443"],
    );
    passes(&mut tls, "[encrypted('ech.example')]", SHARED, 443);
    passes(&mut tls, "[hello('ech.example')]", SHARED, 443);
    passes(&mut tls, "[hello('good.example')]", SHARED, 443);
    for (name, reason) in [
        ("good.example", "tls_encrypted"),
        ("evil.example", "tls_name"),
    ] {
        let parts = format!("[encrypted({name:?})]");
        refused(&mut tls, &parts, SHARED, 443, reason);
    }
}

#[test]
fn a_name_that_is_denied() {
    let text = policy(&["host: '*.wild.example', ports: [443]"])
        + "    deny:\n      - { host: no.wild.example }\n";
    let mut tls = Tls::new(
        &text,
        &[("yes.wild.example", &[SHARED])],
        &["203.0.113.30:443"],
    );
    passes(&mut tls, "[hello('yes.wild.example')]", SHARED, 443);
    refused(
        &mut tls,
        "[hello('no.wild.example')]",
        SHARED,
        443,
        "tls_name",
    );
}

/// A deny rule for a name denies its addresses, whoever else is there.
#[test]
fn a_name_that_is_denied_where_others_are() {
    let text = policy(&["host: '*.wild.example', ports: [443]"])
        + "    deny:\n      - { host: no.wild.example }\n";
    let mut tls = Tls::new(
        &text,
        &[("yes.wild.example", &[SHARED])],
        &["203.0.113.30:443"],
    );
    // Until the daemon knows where it is, the name is refused as one without a lease.
    refused(
        &mut tls,
        "[hello('no.wild.example')]",
        SHARED,
        443,
        "tls_name",
    );
    tls.stage.dns.set("no.wild.example", &[SHARED], 60);
    tls.stage.daemon.restart().expect("restart");
    for name in ["no.wild.example", "yes.wild.example"] {
        let code = format!("say([hello({name:?})])");
        wait::until("the address to be denied", wait::patience(), || {
            let errno = tls.agent.errno(&code).expect("ask");
            (errno == libc::EPERM).then_some(())
        })
        .expect(name);
    }
    let denied = |e: &serde_json::Value| e["reason"] == "deny_rule" && e["hook"] == "connect4";
    tls.stage.daemon.event(denied).expect("event");
    assert!(!tls.sinks[0].holds("no.wild.example"));
}
