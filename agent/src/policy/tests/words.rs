//! What a sound file comes to.

use crate::policy::{Policy, PolicySet, parse};
use agent_common::layout::Mode;

/// The shape that issue 2 fixes.
const SHAPE: &str = r#"
version: 1
agents:
  build-bot:
    mode: enforce            # or monitor
    allow:
      - host: api.example.com
        ports: [443]         # protocol: tcp when not said
        reason: model endpoint
      - cidr: 10.20.0.0/16
        protocol: udp
        ports: [53, "4000-4010"]
      - group: package-registries
    deny:
      - cidr: 169.254.169.254/32
groups:
  package-registries:
    - host: registry.example.org
      ports: [443]
"#;

fn sound(text: &str) -> PolicySet {
    parse("p.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn lines(policy: &Policy) -> Vec<String> {
    policy.rules.iter().map(ToString::to_string).collect()
}

#[test]
fn the_shape_of_the_issue_is_read() {
    let set = sound(SHAPE);
    let policy = &set.agents["build-bot"];
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(
        lines(policy),
        [
            "allow tcp api.example.com:443 (model endpoint)",
            "allow udp 10.20.0.0/16:53,4000-4010",
            "allow tcp registry.example.org:443",
            "deny any 169.254.169.254",
        ]
    );
    let numbers: Vec<u32> = policy.rules.iter().map(|rule| rule.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(policy.rules[0].origin.to_string(), "p.yaml:7");
    assert_eq!(policy.rules[2].origin.to_string(), "p.yaml:18");
    assert_eq!(policy.rules[2].group.as_deref(), Some("package-registries"));
    let hosts: Vec<String> = policy.hosts().iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["api.example.com", "registry.example.org"]);
}

#[test]
fn every_way_to_write_a_rule() {
    let set = sound(
        r#"
version: 1
agents:
  a:
    mode: monitor
    allow:
      - {host: A.Example.COM., ports: 443}
      - {host: a.example, ports: "8000-8010"}
      - {host: b.example, ports: [3, 1, 2, "2-5", 9]}
      - {cidr: "2001:db8::/32", protocol: udp, ports: all}
      - {cidr: "::ffff:10.0.0.0/104", protocol: icmp, reason: "  a \n b "}
      - {group: g, reason: from the reference}
      - {host: "*.E.example", ports: 443, private: false, types: [A, HTTPS]}
      - {host: "*.e.example", ports: 443, private: true, types: TXT, ech: keep, reason: lab}
      - {host: _sip.e.example, ports: 443, types: [MX, 65400, TXT, 16]}
    deny:
      - {host: c.example}
      - {cidr: 10.0.0.1, ports: [25]}
      - {cidr: 10.0.0.2, protocol: tcp}
      - {cidr: 10.0.0.3, ports: ["1-65535"]}
      - {group: g}
      - {host: "*.f.example", protocol: udp}
    listen:
      - {cidr: 127.0.0.0/8, ports: [8080], reason: preview}
  nothing:
  nothing-either: {}
  empty-lists: {allow: [], deny: }
groups:
  g:
    - {cidr: 192.0.2.0/24, ports: [1], reason: own}
    - {host: d.example, protocol: udp, ports: [2]}
"#,
    );
    assert_eq!(set.agents["a"].mode, Mode::Monitor);
    assert_eq!(
        lines(&set.agents["a"]),
        [
            "allow tcp a.example.com:443",
            "allow tcp a.example:8000-8010",
            "allow tcp b.example:1-5,9",
            "allow udp [2001:db8::/32]:all",
            "allow icmp 10.0.0.0/8 (a b)",
            "allow tcp 192.0.2.0/24:1 (own)",
            "allow udp d.example:2 (from the reference)",
            "allow tcp *.e.example:443",
            "allow tcp *.e.example:443, private, types TXT, ech kept (lab)",
            "allow tcp _sip.e.example:443, types MX TXT 65400",
            "deny any c.example",
            "deny any 10.0.0.1:25",
            "deny tcp 10.0.0.2:all",
            "deny any 10.0.0.3",
            "deny any 192.0.2.0/24:1 (own)",
            "deny udp d.example:2",
            "deny udp *.f.example:all",
            "listen tcp :8080 from 127.0.0.0/8 (preview)",
        ]
    );
    let allowed: Vec<String> = set.agents["a"]
        .allowed_hosts()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        allowed,
        [
            "_sip.e.example",
            "a.example",
            "a.example.com",
            "b.example",
            "d.example"
        ]
    );
    for name in ["nothing", "nothing-either", "empty-lists"] {
        assert!(set.agents[name].rules.is_empty());
        assert_eq!(set.agents[name].mode, Mode::Enforce);
    }
}

#[test]
fn the_digest_is_of_what_is_enforced() {
    let set = sound(SHAPE);
    let digest = set.digest.clone();
    assert_eq!(digest.len(), 64);
    assert!(
        digest
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    );
    let commented = SHAPE.replace("# or monitor", "# another comment");
    let moved = format!("\n\n# moved\n{}", SHAPE.trim_start());
    let renamed = SHAPE.replace("package-registries", "registries");
    for same in [commented, moved, renamed] {
        assert_eq!(sound(&same).digest, digest);
    }
    let mut seen = std::collections::BTreeSet::from([digest.clone()]);
    for (from, to) in [
        ("api.example.com", "api.example.net"),
        ("[443]         #", "[444]         #"),
        ("mode: enforce", "mode: monitor"),
        ("build-bot", "build-cat"),
        ("protocol: udp", "protocol: tcp"),
        ("model endpoint", "model"),
        ("169.254.169.254/32", "169.254.169.253/32"),
        ("api.example.com", "\"*.api.example.com\""),
        (
            "reason: model endpoint",
            "reason: model endpoint\n        private: true",
        ),
        (
            "reason: model endpoint",
            "reason: model endpoint\n        types: [TXT]",
        ),
        (
            "reason: model endpoint",
            "reason: model endpoint\n        types: [MX]",
        ),
        (
            "reason: model endpoint",
            "reason: model endpoint\n        ech: keep",
        ),
        (
            "reason: model endpoint",
            "reason: model endpoint\n        tls: none",
        ),
        ("    allow:", "    dns: {refuse: nxdomain}\n    allow:"),
        ("    allow:", "    dns: {dnssec: validate}\n    allow:"),
        ("    allow:", "    dns: {over_budget: report}\n    allow:"),
        ("    allow:", "    dns: {budget: {names: 7}}\n    allow:"),
        ("    allow:", "    dns: {budget: {bytes: 7}}\n    allow:"),
        (
            "    allow:",
            "    dns: {budget: {entropy_bits: 7}}\n    allow:",
        ),
        (
            "    allow:",
            "    dns: {budget: {repeat_bits: 7}}\n    allow:",
        ),
    ] {
        let other = SHAPE.replacen(from, to, 1);
        assert_ne!(other, SHAPE);
        assert!(seen.insert(sound(&other).digest), "{from} -> {to}");
    }
    // What only says the default says nothing.
    for (from, to) in [
        (
            "    allow:",
            "    dns: {refuse: refused, over_budget: block, budget: {names: 300, bytes: 8KiB}}\n    allow:",
        ),
        ("    allow:", "    dns:\n    allow:"),
        (
            "reason: model endpoint",
            "reason: model endpoint\n        private: false\n        types: [A, AAAA]",
        ),
    ] {
        let other = SHAPE.replacen(from, to, 1);
        assert_eq!(sound(&other).digest, digest, "{to}");
    }
}

fn warnings(agent: &str) -> Vec<String> {
    let set = sound(&format!("version: 1\nagents:\n  a:\n{agent}"));
    set.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn probable_mistakes_are_warned_of() {
    for (agent, place, message) in [
        (
            "    allow:\n    - {cidr: 10.0.0.0/8, protocol: udp, ports: [53, 80]}\n",
            "p.yaml:5:7: ",
            "port 53 is served by Exeat's gate, this rule never matches",
        ),
        (
            "    allow:\n    - {host: a.example, ports: [1, 2]}\n    - {host: A.example, ports: [\"1-2\"]}\n",
            "p.yaml:6:7: ",
            "the rule `allow tcp a.example:1-2` of agent `a` is also in p.yaml:5",
        ),
        (
            "    allow:\n    - {cidr: 10.1.2.0/24, ports: [80]}\n    deny:\n    - {cidr: 10.0.0.0/8}\n",
            "p.yaml:5:7: ",
            "never matches: `deny any 10.0.0.0/8` in p.yaml:7 denies all of it",
        ),
        (
            "    allow:\n    - {host: a.example, ports: [80]}\n    deny:\n    - {host: a.example, ports: [\"1-100\"]}\n",
            "p.yaml:5:7: ",
            "never matches",
        ),
        (
            "    allow:\n    - {cidr: 0.0.0.0/0, ports: [80]}\n",
            "p.yaml:5:7: ",
            "`0.0.0.0/0` holds this machine",
        ),
        (
            "    allow:\n    - {host: \"*.github.io\", ports: [443]}\n",
            "p.yaml:5:7: ",
            "`*.github.io` allows strangers: anybody may register a name below `github.io`",
        ),
        (
            "    allow:\n    - {host: \"*.amazonaws.com\", ports: [443]}\n",
            "p.yaml:5:7: ",
            "`amazonaws.com` has public suffixes below it, where anybody may get a name",
        ),
        (
            "    allow:\n    - {host: a.example, ports: [443], tls: none}\n    - {host: b.example, ports: [80], tls: none}\n",
            "p.yaml:5:7: ",
            "`allow tcp a.example:443, tls none` goes by the address alone",
        ),
        (
            "    allow:\n    - {host: a.example, ports: [\"70-90\"], http: none}\n    - {host: b.example, ports: [443], http: none}\n    - {host: c.example, ports: [80], tls: sni, http: none}\n",
            "p.yaml:5:7: ",
            "`allow tcp a.example:70-90, http none` goes by the address alone",
        ),
        (
            "    allow:\n    - {host: a.example, ports: all, tls: none, http: none}\n",
            "p.yaml:5:7: ",
            "remove `tls: none` and `http: none` if",
        ),
        (
            "    mode: monitor\n    allow:\n    - {host: a.example, ports: [80]}\n    - {host: b.example, ports: [443], inspect: {}}\n",
            "p.yaml:7:7: ",
            "`allow tcp b.example:443, via gateway, inspected` leaves without the gateway: agent `a` is in monitor mode",
        ),
        (
            "    allow:\n    - {cidr: 10.0.0.1, ports: [1], via: {proxy: \"http://p.example:3128\", credentials: /c}}\n    - {cidr: 10.0.0.2, ports: [1], via: {proxy: \"https://p.example:3128\", credentials: /c}}\n",
            "p.yaml:5:7: ",
            "user and password go to http://p.example:3128 in clear",
        ),
        (
            "    allow:\n    - {host: a.example, ports: [80]}\n    deny:\n    - {host: a.example, ports: [25]}\n",
            "p.yaml:5:7: ",
            "`deny any a.example:25` in p.yaml:7 refuses the name, whatever the port",
        ),
        (
            "    allow:\n    - {cidr: 10.0.0.0/8, ports: [80]}\n    deny:\n    - {host: \"*.a.example\"}\n    - {host: \"*.b.example\"}\n",
            "p.yaml:7:7: ",
            "`deny any *.a.example` (and 1 more like it) refuses names; the addresses behind them are not known",
        ),
    ] {
        let warnings = warnings(agent);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with(place), "{}", warnings[0]);
        assert!(warnings[0].contains(message), "{}", warnings[0]);
        assert!(warnings[0].contains("  help: "), "{}", warnings[0]);
    }
}

#[test]
fn two_warnings_of_one_rule() {
    let found = warnings("    allow:\n    - {host: \"*.co.uk\", ports: [443], private: true}\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("`*.co.uk` allows strangers"),
        "{}",
        found[0]
    );
    assert!(
        found[1].contains("`private: true` on `*.co.uk` lets strangers name hosts of your network"),
        "{}",
        found[1]
    );
    // A wildcard under deny above what is allowed.
    let found = warnings(
        "    allow:\n    - {host: \"*.b.a.example\", ports: [443]}\n    - {host: c.a.example, ports: [443]}\n    deny:\n    - {host: \"*.a.example\", ports: [443]}\n",
    );
    assert_eq!(found.len(), 3, "{found:?}");
    for (warning, message) in found
        .iter()
        .zip(["never matches", "never matches", "refuses names"])
    {
        assert!(warning.contains(message), "{warning}");
    }
}

#[test]
fn what_is_no_mistake_is_not_warned_of() {
    for agent in [
        "    allow:\n    - {cidr: 10.0.0.0/8, protocol: udp, ports: [\"1-100\"]}\n",
        "    allow:\n    - {cidr: 10.0.0.0/8, ports: [80, 443]}\n    deny:\n    - {cidr: 10.0.0.0/8, ports: [80]}\n",
        "    allow:\n    - {cidr: 10.0.0.0/8, ports: [80]}\n    deny:\n    - {cidr: 10.1.0.0/16}\n",
        "    allow:\n    - {cidr: 10.1.0.0/16, protocol: udp, ports: [80]}\n    deny:\n    - {cidr: 10.0.0.0/8, protocol: tcp}\n",
        "    allow:\n    - {host: a.example, protocol: icmp}\n    - {host: a.example, ports: [80]}\n",
        // An exact rule that a wildcard makes needless: it is kept resolved.
        "    allow:\n    - {host: \"*.a.example\", ports: [80]}\n    - {host: b.a.example, ports: [80]}\n",
        "    allow:\n    - {host: \"*.corp\", ports: [80], private: true}\n    - {host: \"*.me.github.io\", ports: [80]}\n",
        "    allow:\n    - {host: \"*.a.example\", ports: [80]}\n    deny:\n    - {host: b.a.example, ports: [80]}\n    - {host: a.example}\n",
        // The same but for what is answered: both count.
        "    allow:\n    - {host: a.example, ports: [80]}\n    - {host: a.example, ports: [80], types: [TXT]}\n",
        "    deny:\n    - {host: \"*.a.example\"}\n    - {host: \"*.com\"}\n",
    ] {
        assert_eq!(warnings(agent), [""; 0]);
    }
    let set = sound("version: 1\ngroups:\n  g: []\n");
    assert!(set.warnings[0].message.contains("group `g` has no rules"));
}
