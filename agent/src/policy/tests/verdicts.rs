//! The compiled tables against a naive reference, written from the policy's words.

use super::tables::allowed;
use crate::policy::{
    ALL_PORTS, AgentName, Compiled, DnsPolicy, HostName, HostPattern, Http, Origin, Policy, Rule,
    RuleProtocol, Selector, Tls, Via,
};
use agent_common::layout::Mode;
use agent_common::verdict::{
    Action, Check, NO_RULE, Query, Verdict, judge, judge_bind, judge_reply, judge_set,
};
use agent_common::{Addr, Protocol, Reason};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// xorshift64*: fast, and the same on every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

const HOSTS: [&str; 4] = ["a.example", "b.example", "x.c.b.example", "d.example"];
const PATTERNS: [&str; 9] = [
    "a.example",
    "b.example",
    "x.c.b.example",
    "d.example",
    "*.example",
    "*.b.example",
    "*.c.b.example",
    "*.d.example",
    "*.xample",
];

pub(super) fn host(index: usize) -> HostName {
    HOSTS[index].parse().expect("host")
}

/// Addresses close together, so that rules meet.
fn addr(random: &mut Random) -> IpAddr {
    let low = [0, 1, 2, 3, 128, 255][random.below(6) as usize];
    let high = random.below(2) as u8;
    match random.below(4) {
        0 => IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0,
            u16::from(high),
            0,
            0,
            0,
            u16::from(low),
        )),
        1 => IpAddr::V6(Ipv6Addr::new(
            0,
            0,
            0,
            0,
            0,
            0xffff,
            0x0a00 + u16::from(high),
            u16::from(low),
        )),
        2 if random.below(8) == 0 => IpAddr::V6(Ipv6Addr::new(
            0,
            0,
            0,
            0,
            0,
            u16::from(high),
            0,
            u16::from(low),
        )),
        _ => IpAddr::V4(Ipv4Addr::new(10, high, 0, low)),
    }
}

fn net(random: &mut Random) -> IpNet {
    let addr = addr(random);
    let most: u8 = if addr.is_ipv4() { 32 } else { 128 };
    let bits = match random.below(8) {
        0 => 0,
        1 => most / 2,
        2 => most - 8,
        3 => most - 1,
        4 if most == 128 => [1, 80, 90, 95, 96, 97][random.below(6) as usize],
        5 => random.below(u32::from(most) + 1) as u8,
        _ => most,
    };
    IpNet::new(addr, bits).expect("net").trunc()
}

const PORTS: [u16; 8] = [0, 1, 22, 80, 443, 8080, 65534, 65535];

fn ports(random: &mut Random) -> Vec<(u16, u16)> {
    if random.below(4) == 0 {
        return vec![ALL_PORTS];
    }
    let port = |random: &mut Random| PORTS[1 + random.below(7) as usize];
    let ranges = (0..=random.below(3))
        .map(|_| {
            let (a, b) = (port(random), port(random));
            if random.below(2) == 0 {
                (a, a)
            } else {
                (a.min(b), a.max(b))
            }
        })
        .collect();
    crate::policy::ports::merge(ranges)
}

pub(super) fn policy(random: &mut Random) -> Policy {
    let rules = (0..random.below(9))
        .map(|number| {
            let action = [Action::Allow, Action::Allow, Action::Deny, Action::Listen]
                [random.below(4) as usize];
            let selector = match random.below(3) {
                0 if action != Action::Listen => {
                    let pattern = PATTERNS[random.below(9) as usize];
                    Selector::Host(pattern.parse().expect("pattern"))
                }
                _ => Selector::Net(net(random)),
            };
            let protocol = match (action, random.below(6)) {
                (Action::Listen, _) | (_, 0 | 1) => RuleProtocol::Tcp,
                (_, 2) => RuleProtocol::Udp,
                (_, 3) => RuleProtocol::Icmp,
                (Action::Deny, _) => RuleProtocol::Any,
                _ => RuleProtocol::Tcp,
            };
            let ports = if protocol == RuleProtocol::Icmp {
                vec![ALL_PORTS]
            } else {
                ports(random)
            };
            let names = action == Action::Allow
                && protocol == RuleProtocol::Tcp
                && matches!(selector, Selector::Host(_));
            let tls = match random.below(4) {
                _ if !names => Tls::None,
                0 => Tls::None,
                1 => Tls::Every,
                _ => Tls::Https,
            };
            let http = match random.below(4) {
                _ if !names => Http::None,
                0 => Http::Port80,
                1 => Http::Every,
                _ => Http::None,
            };
            let goes_out = action == Action::Allow && protocol == RuleProtocol::Tcp;
            let via = match random.below(5) {
                0 if goes_out => Via::Gateway,
                _ => Via::Direct,
            };
            Rule {
                number,
                action,
                selector,
                protocol,
                ports,
                answers: None,
                tls,
                http,
                via,
                inspect: None,
                reason: None,
                group: None,
                origin: Origin {
                    file: "random".into(),
                    line: number + 1,
                },
            }
        })
        .collect();
    Policy {
        name: "random".parse::<AgentName>().expect("name"),
        mode: Mode::Enforce,
        rules,
        services: Default::default(),
        limits: Default::default(),
        require: Default::default(),
        gateway: Default::default(),
        sandbox: Default::default(),
        identity: Default::default(),
        matching: Default::default(),
        ask: Default::default(),
        dns: DnsPolicy::default(),
    }
}

type Leases = BTreeMap<IpAddr, BTreeSet<HostName>>;

/// The reference: every rule is looked at for every flow.
struct Words<'a> {
    policy: &'a Policy,
    leases: &'a Leases,
}

/// Label by label, from the end.
pub(super) fn means(pattern: &HostPattern, name: &str) -> bool {
    let name: Vec<&str> = name.split('.').rev().collect();
    let base: Vec<&str> = pattern.base().as_str().split('.').rev().collect();
    match pattern {
        HostPattern::Exact(_) => name == base,
        HostPattern::Below(_) => name.len() > base.len() && name[..base.len()] == base,
    }
}

impl Words<'_> {
    fn names(&self, rule: &Rule, dest: IpAddr) -> bool {
        match &rule.selector {
            Selector::Host(pattern) => self
                .leases
                .get(&dest)
                .is_some_and(|hosts| hosts.iter().any(|host| means(pattern, host.as_str()))),
            // A v4-mapped destination is its IPv4 address, and nothing else.
            Selector::Net(IpNet::V4(net)) => matches!(dest, IpAddr::V4(v4) if net.contains(&v4)),
            Selector::Net(IpNet::V6(net)) => match dest {
                IpAddr::V6(v6) => net.contains(&v6),
                // Unless the rule itself is written in mapped form.
                IpAddr::V4(v4) => net.prefix_len() >= 96 && net.contains(&v4.to_ipv6_mapped()),
            },
        }
    }

    fn speaks_of(rule: &Rule, protocol: Protocol, port: u16) -> bool {
        let all_ports = rule.ports == [ALL_PORTS];
        let named = match rule.protocol {
            RuleProtocol::Tcp => protocol == Protocol::TCP,
            RuleProtocol::Udp => protocol == Protocol::UDP,
            RuleProtocol::Icmp => return protocol == Protocol::ICMP,
            RuleProtocol::Any if all_ports => {
                return [Protocol::TCP, Protocol::UDP, Protocol::ICMP].contains(&protocol);
            }
            RuleProtocol::Any => [Protocol::TCP, Protocol::UDP].contains(&protocol),
        };
        named
            && rule
                .ports
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&port))
    }

    fn first(&self, action: Action, matches: impl Fn(&Rule) -> bool) -> Option<u32> {
        let mut rules = self.policy.rules.iter();
        rules
            .find(|rule| rule.action == action && matches(rule))
            .map(|rule| rule.number)
    }

    fn judge(&self, dest: IpAddr, protocol: Protocol, port: u16) -> Verdict {
        let hit = |rule: &Rule| self.names(rule, dest) && Self::speaks_of(rule, protocol, port);
        if let Some(rule) = self.first(Action::Deny, hit) {
            return Verdict::Deny {
                reason: Reason::DenyRule,
                rule,
            };
        }
        if let Some(verdict) = self.allowed(port, hit) {
            return verdict;
        }
        let named = self
            .first(Action::Allow, |rule| self.names(rule, dest))
            .is_some();
        let reason = if named { Reason::Port } else { Reason::NoRule };
        Verdict::Deny {
            reason,
            rule: NO_RULE,
        }
    }

    /// The first rule whose way out is the gateway, by a name rather than without; then the
    /// first that asks for no name, or else the first.
    fn allowed(&self, port: u16, hit: impl Fn(&Rule) -> bool) -> Option<Verdict> {
        let named = |rule: &Rule| Self::named(rule, port);
        let steered = |rule: &Rule| rule.via != Via::Direct || rule.http.covers(port);
        let first = |wanted: &dyn Fn(&Rule) -> bool, check| {
            let rule = self.first(Action::Allow, |rule| hit(rule) && wanted(rule))?;
            Some(Verdict::Allow { rule, check })
        };
        first(&|rule| steered(rule) && named(rule), Check::Gateway)
            .or_else(|| first(&steered, Check::Relay))
            .or_else(|| first(&|rule| !named(rule), Check::None))
            .or_else(|| first(&|_| true, Check::Name))
    }

    fn named(rule: &Rule, port: u16) -> bool {
        rule.tls.covers(port) || rule.http.covers(port)
    }

    /// The first rule by which bytes may pass unread: without the gateway only where there is
    /// none with it.
    fn unread(&self, dest: IpAddr, port: u16) -> Option<u32> {
        let hit =
            |rule: &Rule| self.names(rule, dest) && Self::speaks_of(rule, Protocol::TCP, port);
        let free = |rule: &Rule| hit(rule) && !Self::named(rule, port);
        if self.first(Action::Deny, hit).is_some() {
            return None;
        }
        self.first(Action::Allow, |rule| free(rule) && rule.via != Via::Direct)
            .or_else(|| self.first(Action::Allow, free))
    }

    /// What a connection to a port of any address that the host stands for may do once it
    /// has said the name.
    fn judge_name(&self, host: &HostName, protocol: Protocol, port: u16) -> bool {
        let hit = |rule: &Rule| Self::of_host(rule, host) && Self::speaks_of(rule, protocol, port);
        self.first(Action::Deny, hit).is_none() && self.first(Action::Allow, hit).is_some()
    }

    /// Whether a connection to the host's port is only allowed with a name.
    fn counts(&self, host: &HostName, port: u16) -> bool {
        let hit =
            |rule: &Rule| Self::of_host(rule, host) && Self::speaks_of(rule, Protocol::TCP, port);
        let free = |rule: &Rule| hit(rule) && !Self::named(rule, port);
        self.first(Action::Allow, free).is_none() && self.judge_name(host, Protocol::TCP, port)
    }

    fn of_host(rule: &Rule, host: &HostName) -> bool {
        match &rule.selector {
            Selector::Host(pattern) => means(pattern, host.as_str()),
            Selector::Net(_) => false,
        }
    }

    fn judge_reply(&self, peer: IpAddr, protocol: Protocol, local: u16) -> Verdict {
        let whole = |rule: &Rule| {
            rule.ports == [ALL_PORTS]
                && self.names(rule, peer)
                && Self::speaks_of(rule, protocol, local)
        };
        if let Some(rule) = self.first(Action::Deny, whole) {
            return Verdict::Deny {
                reason: Reason::DenyRule,
                rule,
            };
        }
        let hit = |rule: &Rule| self.names(rule, peer) && Self::speaks_of(rule, protocol, local);
        match self.first(Action::Listen, hit) {
            Some(rule) => allowed(rule),
            None => Verdict::Deny {
                reason: Reason::Listen,
                rule: NO_RULE,
            },
        }
    }

    fn judge_bind(&self, protocol: Protocol, port: u16) -> Verdict {
        match self.first(Action::Listen, |rule| Self::speaks_of(rule, protocol, port)) {
            Some(rule) => allowed(rule),
            None => Verdict::Deny {
                reason: Reason::Listen,
                rule: NO_RULE,
            },
        }
    }
}

const PROTOCOLS: [u8; 6] = [6, 6, 17, 1, 58, 132];

/// Compares `flows` random flows; returns how many were allowed.
fn compare(
    policy: &Policy,
    compiled: &Compiled,
    leases: &Leases,
    random: &mut Random,
    flows: u32,
) -> u32 {
    let words = Words { policy, leases };
    let mut allowed = 0;
    for _ in 0..flows {
        let dest = addr(random);
        let protocol = Protocol::new(PROTOCOLS[random.below(6) as usize]);
        let port = if protocol == Protocol::ICMP {
            0
        } else {
            PORTS[random.below(8) as usize]
        };
        let query = Query {
            addr: dest.into(),
            port,
            protocol,
        };
        let canonical = dest.to_canonical();
        let context = || format!("{policy:#?}\n{leases:?}\n{dest} {protocol:?} {port}");
        let verdict = judge(compiled, &query);
        assert_eq!(
            verdict,
            words.judge(canonical, protocol, port),
            "{}",
            context()
        );
        allowed += u32::from(verdict.is_allow());
        let tcp = |words: &Words<'_>| {
            let hit = |rule: &Rule| {
                words.names(rule, canonical) && Words::speaks_of(rule, Protocol::TCP, port)
            };
            words.first(Action::Deny, hit).is_some()
        };
        let addr = Addr::from(dest);
        assert_eq!(
            (compiled.unread(addr, port), compiled.denies(addr, port)),
            (words.unread(canonical, port), tcp(&words)),
            "unread {}",
            context()
        );
        assert_eq!(
            judge_reply(compiled, &query),
            words.judge_reply(canonical, protocol, port),
            "reply {}",
            context()
        );
        assert_eq!(
            judge_bind(compiled, compiled.listeners(), protocol, port),
            words.judge_bind(protocol, port),
            "bind {}",
            context()
        );
    }
    allowed
}

/// Compares every name of every leased address at every port; returns how many may be said
/// where one counts.
fn compare_names(policy: &Policy, compiled: &Compiled, leases: &Leases) -> u32 {
    let words = Words { policy, leases };
    let sets: BTreeMap<_, _> = compiled
        .named()
        .map(|(addr, host, set)| ((addr, host.clone()), set))
        .collect();
    let mut allowed = 0;
    for (addr, hosts) in leases {
        for (host, port) in hosts.iter().flat_map(|host| PORTS.map(|port| (host, port))) {
            let expected = words.judge_name(host, Protocol::TCP, port);
            match sets.get(&(Addr::from(*addr), host.clone())) {
                Some(set) => {
                    let verdict = judge_set(compiled, *set, Protocol::TCP, port);
                    assert_eq!(verdict.is_allow(), expected, "{policy:#?}\n{host}:{port}");
                    allowed += u32::from(expected);
                }
                // Then no connection to it is ever asked for this name.
                None => assert!(!words.counts(host, port), "{policy:#?}\n{host}:{port}"),
            }
        }
    }
    allowed
}

#[test]
fn a_million_flows_are_judged_as_the_words_say() {
    const POLICIES: u32 = 5_000;
    const ROUNDS: u32 = 4;
    const FLOWS: u32 = 50;
    let mut random = Random::new(1);
    let (mut allowed, mut named) = (0, 0);
    for _ in 0..POLICIES {
        let policy = policy(&mut random);
        let mut compiled = Compiled::new(&policy).expect("small policies fit");
        let mut leases = Leases::new();
        let mut told = BTreeMap::new();
        for round in 0..ROUNDS {
            // The first round is without leases; then they come and go.
            for _ in 0..round * 2 {
                let addr = addr(&mut random).to_canonical();
                let hosts: BTreeSet<HostName> = (0..random.below(3))
                    .map(|_| host(random.below(4) as usize))
                    .collect();
                let before = compiled.entries().to_vec();
                let change = compiled
                    .lease(addr.into(), &hosts)
                    .expect("small policies fit");
                assert_eq!(
                    compiled.entries()[..before.len()],
                    before,
                    "entries in force stay"
                );
                assert_eq!(usize::from(change.appended.start), before.len());
                assert_eq!(usize::from(change.appended.end), compiled.entries().len());
                let exact = agent_common::verdict::Tables::exact(&compiled, &Addr::from(addr));
                assert_eq!(change.set, exact);
                for (host, set) in change.names {
                    let key = (Addr::from(addr), host);
                    let before = match set {
                        Some(set) => told.insert(key, set),
                        None => told.remove(&key),
                    };
                    assert_ne!(before, set, "a change changes something");
                }
                leases.insert(addr, hosts);
            }
            allowed += compare(&policy, &compiled, &leases, &mut random, FLOWS);
            let held = compiled.named();
            let held = held.map(|(addr, host, set)| ((addr, host.clone()), set));
            assert_eq!(held.collect::<BTreeMap<_, _>>(), told);
            named += compare_names(&policy, &compiled, &leases);
        }
        for addr in leases.keys() {
            compiled
                .lease((*addr).into(), &BTreeSet::new())
                .expect("giving up never fails");
        }
        allowed += compare(&policy, &compiled, &Leases::new(), &mut random, 10);
    }
    assert!(named > 10_000, "{named} names were judged");
    // The comparison means little if nearly all flows go one way.
    let flows = POLICIES * ROUNDS * FLOWS;
    assert!(
        allowed > flows / 20 && allowed < flows / 2,
        "{allowed} of {flows}"
    );
}

#[test]
fn the_maps_hold_what_the_look_ups_say() {
    use agent_common::verdict::Tables;
    let mut random = Random::new(3);
    for _ in 0..500 {
        let policy = policy(&mut random);
        let mut compiled = Compiled::new(&policy).expect("small policies fit");
        for _ in 0..4 {
            let hosts = [host(random.below(4) as usize)].into();
            let addr = addr(&mut random);
            compiled
                .lease(addr.into(), &hosts)
                .expect("small policies fit");
        }
        let exact: BTreeMap<Addr, _> = compiled.exact().collect();
        let prefixes: Vec<_> = compiled.prefixes().collect();
        assert_eq!(compiled.len(), exact.len() + prefixes.len());
        for _ in 0..50 {
            let addr = Addr::from(addr(&mut random));
            assert_eq!(Tables::exact(&compiled, &addr), exact.get(&addr).copied());
            // The kernel's longest-prefix match over the listed prefixes.
            let key = u128::from_be_bytes(addr.octets());
            let longest = prefixes
                .iter()
                .filter(|(start, bits, _)| {
                    let start = u128::from_be_bytes(start.octets());
                    *bits == 0 || (start ^ key) >> (128 - u32::from(*bits)) == 0
                })
                .max_by_key(|(_, bits, _)| *bits);
            assert_eq!(compiled.prefix(&addr), longest.map(|(_, _, set)| *set));
        }
    }
}

mod any {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn seed_is_judged_as_the_words_say(seed: u64) {
            let mut random = Random::new(seed);
            let policy = policy(&mut random);
            let mut compiled = Compiled::new(&policy).expect("small policies fit");
            let mut leases = Leases::new();
            for _ in 0..4 {
                let addr = addr(&mut random).to_canonical();
                let hosts: BTreeSet<HostName> = [host(random.below(4) as usize)].into();
                compiled.lease(addr.into(), &hosts).expect("small policies fit");
                leases.insert(addr, hosts);
            }
            compare(&policy, &compiled, &leases, &mut random, 50);
        }
    }
}
