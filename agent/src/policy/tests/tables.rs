//! The compiled tables: sharing, bounds, leases.

use super::verdicts::host;
use crate::policy::{CompileError, Compiled, Policy, Rule, Selector, parse};
use agent_common::verdict::{Check, MAX_SET, Query, SetRef, Tables, Verdict, judge};
use agent_common::{Addr, Protocol, Reason};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

fn agent(rules: &str) -> Policy {
    let text = format!("version: 1\nagents:\n  a:\n{rules}");
    let set = parse("p.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    set.agents["a"].clone()
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("address").into()
}

/// Let out by this rule, with nothing more to see.
pub(super) fn allowed(rule: u32) -> Verdict {
    Verdict::Allow {
        rule,
        check: Check::None,
    }
}

/// The same, once the name has been seen.
fn named(rule: u32) -> Verdict {
    Verdict::Allow {
        rule,
        check: Check::Name,
    }
}

fn tcp(compiled: &Compiled, dest: &str, port: u16) -> Verdict {
    judge(
        compiled,
        &Query {
            addr: addr(dest),
            port,
            protocol: Protocol::TCP,
        },
    )
}

#[test]
fn an_empty_policy_refuses_everything() {
    let compiled = Compiled::new(&agent("    allow: []\n")).expect("compiles");
    assert!(compiled.is_empty() && !compiled.icmp());
    assert_eq!(compiled.listeners(), SetRef::EMPTY);
    for dest in ["127.0.0.1", "::1", "8.8.8.8", "0.0.0.0"] {
        assert!(!tcp(&compiled, dest, 443).is_allow());
    }
}

#[test]
fn a_wide_v6_network_does_not_mean_v4() {
    let compiled = Compiled::new(&agent(
        "    allow:\n    - {cidr: \"::/0\", ports: all}\n    - {cidr: 10.0.0.1, ports: [80]}\n",
    ))
    .expect("compiles");
    assert!(tcp(&compiled, "2001:db8::1", 443).is_allow());
    assert!(tcp(&compiled, "::1", 443).is_allow());
    assert!(!tcp(&compiled, "8.8.8.8", 443).is_allow());
    assert!(!tcp(&compiled, "::ffff:8.8.8.8", 443).is_allow());
    assert!(!tcp(&compiled, "10.0.0.1", 443).is_allow());
    assert_eq!(tcp(&compiled, "::ffff:10.0.0.1", 80), allowed(1));
    let wall = compiled
        .prefixes()
        .find(|(_, bits, _)| *bits == 96)
        .expect("a wall");
    assert_eq!((wall.0, wall.2), (addr("0.0.0.0"), SetRef::EMPTY));
}

#[test]
fn what_is_denied_of_v4_is_denied_of_its_translated_form_wherever_that_is_allowed() {
    let policy = agent(
        "    allow:\n      - { cidr: '::/0', ports: [443] }\n      - { host: a.example, ports: [443], tls: none }\n    deny:\n      - { cidr: 198.51.100.0/24 }\n",
    );
    let (denied, free) = ("2001:db8:64::198.51.100.7", "2001:db8:64::203.0.113.7");
    let is_denied = |compiled: &Compiled, dest| {
        matches!(
            tcp(compiled, dest, 443),
            Verdict::Deny {
                reason: Reason::DenyRule,
                ..
            }
        )
    };
    let nowhere = Compiled::new(&policy).expect("compiles");
    assert!(is_denied(&nowhere, "64:ff9b::198.51.100.7"));
    assert!(!is_denied(&nowhere, denied));
    let found = ["2001:db8:64::192.0.0.170".parse().expect("address")];
    let nat64 = crate::nat64::Nat64::discovered(found);
    let mut here = Compiled::translated(&policy, nat64.clone()).expect("compiles");
    assert!(is_denied(&here, "64:ff9b::198.51.100.7"));
    assert!(is_denied(&here, denied));
    assert!(tcp(&here, free, 443).is_allow());
    // By a name too, also where no network reaches there.
    let hosts = BTreeSet::from(["a.example".parse().expect("a name")]);
    here.lease(addr(denied), &hosts).expect("lease");
    assert!(is_denied(&here, denied));
    let named = agent(
        "    allow:\n      - { host: a.example, ports: [443], tls: none }\n    deny:\n      - { cidr: 198.51.100.0/24 }\n",
    );
    let mut here = Compiled::translated(&named, nat64).expect("compiles");
    for (dest, refused) in [(denied, true), (free, false)] {
        here.lease(addr(dest), &hosts).expect("lease");
        assert_eq!(is_denied(&here, dest), refused, "{dest}");
    }
}

#[test]
fn v4_prefixes_are_held_in_the_mapped_space() {
    let compiled = Compiled::new(&agent("    allow:\n    - {cidr: 10.0.0.0/8, ports: [1]}\n    - {cidr: 0.0.0.0/0, ports: [2]}\n    - {cidr: 1.2.3.4, ports: [3]}\n")).expect("compiles");
    let prefixes: Vec<_> = compiled
        .prefixes()
        .map(|(addr, bits, _)| (addr, bits))
        .collect();
    assert_eq!(prefixes, [(addr("0.0.0.0"), 96), (addr("10.0.0.0"), 104)]);
    let exact: Vec<_> = compiled.exact().map(|(addr, _)| addr).collect();
    assert_eq!(exact, [addr("1.2.3.4")]);
    // The exact address repeats what its networks say.
    assert_eq!(tcp(&compiled, "1.2.3.4", 2), allowed(1));
    assert_eq!(tcp(&compiled, "10.1.1.1", 2), allowed(1));
}

#[test]
fn rules_that_differ_only_in_destination_share_their_entries() {
    let mut rules = String::from("    allow:\n");
    for i in 0..1000 {
        rules += &format!(
            "    - {{cidr: 10.0.{}.{}, ports: [80, 443]}}\n",
            i / 250,
            i % 250
        );
    }
    let compiled = Compiled::new(&agent(&rules)).expect("compiles");
    assert_eq!(compiled.entries().len(), 2);
    assert_eq!(tcp(&compiled, "10.0.1.7", 443), allowed(257));
}

#[test]
fn a_lease_adds_to_what_the_networks_say_and_goes_without_trace() {
    let policy = agent(
        "    allow:\n    - {host: a.example, ports: [443]}\n    - {host: b.example, ports: [443]}\n    - {cidr: 10.0.0.0/8, ports: [80]}\n    deny:\n    - {cidr: 10.0.0.9}\n",
    );
    let mut compiled = Compiled::new(&policy).expect("compiles");
    let (one, nine) = (addr("10.0.0.1"), addr("10.0.0.9"));
    let hosts: BTreeSet<_> = [host(0), host(1), host(3)].into();
    let change = compiled.lease(one, &hosts).expect("leases");
    assert!(change.set.is_some() && !change.appended.is_empty());
    assert_eq!(tcp(&compiled, "10.0.0.1", 443), named(0));
    assert_eq!(tcp(&compiled, "10.0.0.1", 80), allowed(2));
    assert_eq!(compiled.len(), 3);
    // Deny beats a leased allow.
    compiled.lease(nine, &hosts).expect("leases");
    assert_eq!(
        tcp(&compiled, "10.0.0.9", 443),
        Verdict::Deny {
            reason: Reason::DenyRule,
            rule: 3
        }
    );
    assert_eq!(compiled.len(), 3, "the address was there before");
    let entries = compiled.entries().len();
    let again = compiled.lease(one, &hosts).expect("leases");
    assert!(again.appended.is_empty() && again.set == change.set);
    // A host that the policy does not name is no lease.
    let gone = compiled.lease(one, &[host(3)].into()).expect("leases");
    assert_eq!(gone.set, None);
    assert!(!tcp(&compiled, "10.0.0.1", 443).is_allow());
    assert_eq!(tcp(&compiled, "10.0.0.1", 80), allowed(2));
    let gone = compiled.lease(nine, &BTreeSet::new()).expect("leases");
    assert_eq!(gone.set, Tables::exact(&compiled, &nine));
    assert!(gone.set.is_some(), "the deny rule of the address stays");
    assert_eq!(compiled.entries().len(), entries);
}

#[test]
fn many_hosts_behind_one_address_make_a_small_set() {
    let mut rules = String::from("    allow:\n");
    for i in 0..500 {
        rules += &format!("    - {{host: h{i}.example, ports: [443]}}\n");
    }
    let policy = agent(&rules);
    let mut compiled = Compiled::new(&policy).expect("compiles");
    let change = compiled
        .lease(addr("192.0.2.1"), &policy.hosts())
        .expect("leases");
    assert_eq!(change.set.map(SetRef::len), Some(1));
    // Addresses of different hosts share the entry, each with the number of its rule.
    for (index, host) in policy.hosts().into_iter().enumerate() {
        let dest = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + index as u32));
        let change = compiled.lease(dest.into(), &[host].into()).expect("leases");
        assert!(change.appended.is_empty() && change.set.is_some());
    }
    assert_eq!(compiled.entries().len(), 1);
    assert_eq!(tcp(&compiled, "192.0.2.1", 443), named(0));
}

#[test]
fn a_name_has_the_rules_of_every_wildcard_above_it() {
    let policy = agent(
        "    allow:\n    - {host: \"*.example.com\", ports: [443]}\n    - {host: a.b.example.com, ports: [80]}\n    - {host: \"*.b.example.com\", ports: [22]}\n    deny:\n    - {host: \"*.bad.example.com\"}\n",
    );
    let hosts: Vec<String> = policy.hosts().iter().map(ToString::to_string).collect();
    assert_eq!(
        hosts,
        ["a.b.example.com"],
        "wildcards are learnt when asked"
    );
    let mut compiled = Compiled::new(&policy).expect("compiles");
    let mut ports = |names: &[&str]| {
        let names = names.iter().map(|name| name.parse().expect("name"));
        let dest = addr("192.0.2.1");
        compiled.lease(dest, &names.collect()).expect("leases");
        [443, 80, 22].map(|port| match tcp(&compiled, "192.0.2.1", port) {
            Verdict::Allow { rule, .. } => i64::from(rule),
            Verdict::Deny { .. } => -1,
        })
    };
    assert_eq!(ports(&["a.b.example.com"]), [0, 1, 2]);
    assert_eq!(ports(&["c.b.example.com"]), [0, -1, 2]);
    assert_eq!(ports(&["b.example.com"]), [0, -1, -1]);
    assert_eq!(
        ports(&["example.com"]),
        [-1, -1, -1],
        "the apex is not below"
    );
    assert_eq!(ports(&["notexample.com"]), [-1, -1, -1]);
    assert_eq!(ports(&["x.bad.example.com"]), [-1, -1, -1]);
    // Deny beats allow for what shares the address, too.
    assert_eq!(
        ports(&["x.bad.example.com", "c.b.example.com"]),
        [-1, -1, -1]
    );
    assert_eq!(ports(&[]), [-1, -1, -1]);
}

#[test]
fn many_names_below_a_wildcard_make_a_small_set() {
    let policy = agent("    allow:\n    - {host: \"*.example.com\", ports: [443]}\n");
    let mut compiled = Compiled::new(&policy).expect("compiles");
    let names: BTreeSet<_> = (0..500)
        .map(|i| format!("h{i}.example.com").parse().expect("name"))
        .collect();
    let change = compiled.lease(addr("192.0.2.1"), &names).expect("leases");
    assert_eq!(change.set.map(SetRef::len), Some(1));
    for i in 0..2_000_u32 {
        let dest = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + i));
        let name = format!("n{i}.example.com").parse().expect("name");
        let change = compiled.lease(dest.into(), &[name].into()).expect("leases");
        assert!(change.appended.is_empty() && change.set.is_some());
    }
    assert_eq!(compiled.entries().len(), 1);
}

#[test]
fn what_wildcards_add_is_counted_before_it_resolves() {
    let rules = |host: &str, from: u32| {
        let ports: Vec<String> = (0..40).map(|i| (from + 2 * i).to_string()).collect();
        format!("    - {{host: \"{host}\", ports: [{}]}}\n", ports.join(","))
    };
    for (inner, shown) in [
        ("a.b.example", "a.b.example"),
        ("*.a.b.example", "*.a.b.example"),
    ] {
        let text = format!(
            "    allow:\n{}{}",
            rules("*.example", 1),
            rules(inner, 1001)
        );
        let error = Compiled::new(&agent(&text)).err().expect("too large");
        let CompileError::SetTooLarge {
            destination,
            entries: 80,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(destination, shown);
    }
    // Two wildcards that hold no name in common fit each; a shared address does not.
    let text = format!(
        "    allow:\n{}{}",
        rules("*.a.example", 1),
        rules("*.b.example", 1001)
    );
    let mut compiled = Compiled::new(&agent(&text)).expect("fits");
    let names = ["x.a.example", "x.b.example"].map(|name| name.parse().expect("name"));
    let error = compiled
        .lease(addr("192.0.2.1"), &names.into())
        .expect_err("80 ranges");
    assert!(
        matches!(error, CompileError::SetTooLarge { entries: 80, .. }),
        "{error}"
    );
    assert!(!tcp(&compiled, "192.0.2.1", 1).is_allow());
}

fn single_ports(selector: &str, count: u32) -> String {
    let ports: Vec<String> = (0..count).map(|i| (2 * i + 1).to_string()).collect();
    format!("    - {{{selector}, ports: [{}]}}\n", ports.join(","))
}

#[test]
fn a_set_that_the_kernel_could_not_walk_is_refused() {
    let most = u32::from(MAX_SET);
    for selector in ["host: a.example", "cidr: 10.0.0.0/8", "cidr: 10.0.0.1"] {
        let fits = format!("    allow:\n{}", single_ports(selector, most));
        assert!(Compiled::new(&agent(&fits)).is_ok(), "{selector}");
        let more = format!("    allow:\n{}", single_ports(selector, most + 1));
        let error = Compiled::new(&agent(&more)).err().expect(selector);
        assert!(
            matches!(
                error,
                CompileError::SetTooLarge {
                    entries: 65,
                    rule: 0,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("65 different port ranges"),
            "{error}"
        );
    }
    let listen = format!("    listen:\n{}", single_ports("cidr: 10.0.0.1", 33));
    let listen = format!(
        "{listen}    - {{cidr: 10.0.0.2, ports: [{}]}}\n",
        (0..32)
            .map(|i| (1000 + 2 * i).to_string())
            .collect::<Vec<_>>()
            .join(",")
    );
    let error = Compiled::new(&agent(&listen)).err().expect("too many");
    assert!(
        matches!(error, CompileError::TooManyListeners { entries: 65, .. }),
        "{error}"
    );
}

#[test]
fn full_tables_refuse_and_change_nothing() {
    // Networks of many ports each: 4096 entries hold 64 of them.
    let mut rules = String::from(
        "    allow:\n    - {host: a.example, ports: [7]}\n    deny:\n    - {cidr: 10.0.0.1, ports: [1]}\n    - {cidr: 192.0.2.0/24, ports: [9]}\n",
    );
    rules = rules.replace("    deny:\n", "");
    for i in 0..68 {
        let ports: Vec<String> = (0..60)
            .map(|p| (1000 * (i % 60) + 2 * p + i + 10).to_string())
            .collect();
        rules += &format!(
            "    - {{cidr: 10.1.{i}.0/24, ports: [{}]}}\n",
            ports.join(",")
        );
    }
    let policy = agent(&rules);
    let mut compiled = Compiled::new(&policy).expect("68 * 60 + a few entries fit");
    assert!(compiled.entries().len() > 4080);
    let hosts: BTreeSet<_> = [host(0)].into();
    let mut failed = 0;
    for i in 0..68 {
        let dest = Addr::from(IpAddr::from([10, 1, i, 1]));
        let entries = compiled.entries().len();
        if let Err(error) = compiled.lease(dest, &hosts) {
            failed += 1;
            assert!(matches!(error, CompileError::Full { .. }), "{error}");
            assert_eq!(Tables::exact(&compiled, &dest), None);
            assert_eq!(compiled.entries().len(), entries);
            compiled
                .lease(dest, &BTreeSet::new())
                .expect("giving up never fails");
        }
    }
    assert_eq!(failed, 68);
    assert!(compiled.entries().len() <= 4096);
    let more = rules + &single_ports("cidr: 10.2.0.0/24", 40);
    let error = Compiled::new(&agent(&more)).err().expect("full");
    assert!(matches!(error, CompileError::Full { .. }), "{error}");
    assert!(error.to_string().contains("10.2.0.0/24"), "{error}");
}

#[test]
fn icmp_is_told_apart() {
    assert!(
        Compiled::new(&agent(
            "    allow:\n    - {host: a.example, protocol: icmp}\n"
        ))
        .expect("compiles")
        .icmp()
    );
    assert!(
        !Compiled::new(&agent(
            "    deny:\n    - {host: a.example, protocol: icmp}\n"
        ))
        .expect("compiles")
        .icmp()
    );
}

/// A policy of this many single addresses, without YAML.
fn addresses(count: u32) -> Policy {
    let mut policy = agent("    allow:\n    - {cidr: 10.0.0.0/32, ports: [443]}\n");
    let pattern = policy.rules[0].clone();
    policy.rules = (0..count)
        .map(|number| Rule {
            number,
            selector: Selector::Net(IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number * 7)).into()),
            ..pattern.clone()
        })
        .collect();
    policy
}

#[test]
fn a_hundred_thousand_addresses_share_one_entry() {
    let policy = addresses(100_000);
    let compiled = Compiled::new(&policy).expect("compiles");
    assert_eq!(compiled.entries().len(), 1);
    assert_eq!(compiled.len(), 100_000);
    let dest = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + 77_777 * 7));
    assert_eq!(tcp(&compiled, &dest.to_string(), 443), allowed(77_777));
}

/// `cargo test --release -p exeat -- --ignored --nocapture a_million`: the time that a
/// million addresses take. Without --release the number means nothing.
#[test]
#[ignore = "a measurement"]
fn a_million_addresses_compile_in_about_a_second() {
    let policy = addresses(1_000_000);
    let start = std::time::Instant::now();
    let compiled = Compiled::new(&policy).expect("compiles");
    let took = start.elapsed();
    println!("compiled {} addresses in {took:?}", compiled.len());
    assert!(took.as_secs() < 5, "{took:?}");
}

/// As above, for the whole way from YAML.
#[test]
#[ignore = "a measurement"]
fn a_million_rules_of_yaml_load() {
    let mut text = String::from("version: 1\nagents:\n  a:\n    allow:\n");
    for i in 0..1_000_000_u32 {
        let dest = Ipv4Addr::from(0x0b00_0000 + i * 7);
        text += &format!("      - cidr: {dest}\n        ports: [443]\n        reason: r{i}\n");
    }
    let start = std::time::Instant::now();
    let set = parse("p.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    println!(
        "loaded {} rules in {:?}",
        set.agents["a"].rules.len(),
        start.elapsed()
    );
    assert_eq!(set.agents["a"].rules.len(), 1_000_000);
}
