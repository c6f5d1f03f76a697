//! By which rule a connection at the gateway leaves, against a naive reference.

use super::errors::agent;
use super::verdicts::{Random, host, means, policy as random_policy};
use crate::policy::{Policy, RouteRule, Routes, Rule, Selector, Shown, Via, parse};
use agent_common::verdict::Action;
use agent_common::{Protocol, Reason};

const SHOWN: [Shown; 3] = [Shown::Tls, Shown::Http, Shown::Unread];

fn policy(body: &str) -> Policy {
    let set = parse("p.yaml", &agent(body)).unwrap_or_else(|errors| panic!("{errors}"));
    set.agents["a"].clone()
}

fn routes(rules: &str) -> Routes {
    Routes::new(&policy(rules))
}

/// The number of the rule.
fn number(found: Result<RouteRule, Reason>) -> Result<u32, Reason> {
    found.map(|rule| rule.rule)
}

#[test]
fn what_a_rule_lets_out_depends_on_what_is_shown() {
    use Reason::{HttpHost, HttpMalformed, NoRule, NotTls, Port, TlsName};
    let routes = routes(
        "    allow:\n    - {host: a.example, ports: [80, 443, 22]}\n    - {host: b.example, ports: [80, 443], tls: sni, http: host}\n    - {host: c.example, ports: [80, 443], tls: none, http: none}\n    - {host: d.example, ports: [80], tls: sni, http: none}\n    - {host: e.example, protocol: udp, ports: [53000]}\n",
    );
    for (name, port, found) in [
        ("a.example", 443, [Ok(0), Err(NotTls), Err(NotTls)]),
        ("A.Example.", 443, [Ok(0), Err(NotTls), Err(NotTls)]),
        ("a.example", 80, [Ok(0), Ok(0), Err(HttpMalformed)]),
        ("a.example", 22, [Ok(0); 3]),
        ("a.example", 23, [Err(Port); 3]),
        ("b.example", 443, [Ok(1), Ok(1), Err(NotTls)]),
        ("b.example", 80, [Ok(1), Ok(1), Err(NotTls)]),
        ("c.example", 443, [Ok(2); 3]),
        ("c.example", 80, [Ok(2); 3]),
        ("d.example", 80, [Ok(3), Err(NotTls), Err(NotTls)]),
        ("e.example", 53000, [Err(Port); 3]),
        ("z.example", 443, [Err(TlsName), Err(HttpHost), Err(NoRule)]),
        ("10.0.0.1", 443, [Err(TlsName), Err(HttpHost), Err(NoRule)]),
        ("", 443, [Err(TlsName), Err(HttpHost), Err(NoRule)]),
        (
            "a..example",
            443,
            [Err(TlsName), Err(HttpHost), Err(NoRule)],
        ),
    ] {
        let got = SHOWN.map(|shown| number(routes.find(name, port, shown)));
        assert_eq!(got, found, "{name}:{port}");
    }
}

#[test]
fn deny_rules_hold_for_their_ports() {
    let routes = routes(
        "    allow:\n    - {host: \"*.example\", ports: all}\n    deny:\n    - {host: a.example, ports: [25]}\n    - {host: \"*.b.example\", protocol: udp}\n    - {host: c.example}\n",
    );
    for (name, port, found) in [
        ("a.example", 25, Err(Reason::DenyRule)),
        ("a.example", 443, Ok(0)),
        ("x.a.example", 25, Ok(0)),
        ("x.b.example", 443, Ok(0)),
        ("c.example", 443, Err(Reason::DenyRule)),
    ] {
        assert_eq!(
            number(routes.find(name, port, Shown::Tls)),
            found,
            "{name}:{port}"
        );
    }
}

#[test]
fn the_nearest_rule_is_taken_and_then_the_one_that_asks_most() {
    let routes = routes(
        "    allow:\n    - {host: \"*.example\", ports: all, via: gateway}\n    - {host: \"*.b.example\", ports: [443]}\n    - {host: a.b.example, ports: [443]}\n    - {host: a.b.example, ports: [443, 444], via: {proxy: \"http://p.example:1\"}}\n    - {host: a.b.example, ports: [443, 444], via: gateway}\n",
    );
    for (name, port, rule) in [
        ("x.example", 443, 0),
        ("x.b.example", 443, 1),
        ("x.b.example", 444, 0),
        ("a.b.example", 443, 3),
        ("a.b.example", 444, 3),
        ("a.b.example", 445, 0),
    ] {
        let found = number(routes.find(name, port, Shown::Tls));
        assert_eq!(found, Ok(rule), "{name}:{port}");
    }
    let found = routes.find("a.b.example", 443, Shown::Tls).expect("found");
    assert_eq!(
        &*found.text,
        "allow tcp a.b.example:443-444, via http://p.example:1"
    );
    assert!(matches!(&found.via, Via::Proxy(proxy) if proxy.url == "http://p.example:1"));
}

#[test]
fn private_is_said_together_and_ech_alone() {
    let routes = routes(
        "    allow:\n    - {host: a.example, ports: [443], reason: why}\n    - {host: a.example, ports: [22], private: true, ech: keep}\n    - {host: b.example, ports: [443], ech: keep}\n",
    );
    let of = |name: &str, port| {
        let found = routes.find(name, port, Shown::Tls).expect(name);
        (found.private, found.ech, found.text.to_string())
    };
    assert_eq!(
        of("a.example", 443),
        (true, false, "allow tcp a.example:443".to_owned())
    );
    let text = "allow tcp a.example:22, private, ech kept".to_owned();
    assert_eq!(of("a.example", 22), (true, true, text));
    let text = "allow tcp b.example:443, ech kept".to_owned();
    assert_eq!(of("b.example", 443), (false, true, text));
}

/// Every rule is looked at for every name.
fn naive(policy: &Policy, name: &str, port: u16, shown: Shown) -> Result<u32, Reason> {
    let meant =
        |rule: &&Rule| matches!(&rule.selector, Selector::Host(pattern) if means(pattern, name));
    let covers = |rule: &&Rule| {
        rule.protocol
            .protocols(&rule.ports)
            .contains(&Protocol::TCP)
            && rule
                .ports
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&port))
    };
    let rules = || policy.rules.iter().filter(meant);
    if rules()
        .filter(|rule| rule.action == Action::Deny)
        .any(|rule| covers(&rule))
    {
        return Err(Reason::DenyRule);
    }
    let allows: Vec<&Rule> = rules()
        .filter(|rule| rule.action == Action::Allow)
        .collect();
    if allows.is_empty() {
        return Err(match shown {
            Shown::Tls => Reason::TlsName,
            Shown::Http => Reason::HttpHost,
            Shown::Unread => Reason::NoRule,
        });
    }
    let on_port: Vec<&Rule> = allows.into_iter().filter(covers).collect();
    let mut fit: Vec<&Rule> = on_port
        .iter()
        .copied()
        .filter(|rule| {
            let (tls, http) = (rule.tls.covers(port), rule.http.covers(port));
            match shown {
                Shown::Tls => true,
                Shown::Http => http || !tls,
                Shown::Unread => !http && !tls,
            }
        })
        .collect();
    fit.sort_by_key(|rule| {
        let Selector::Host(pattern) = &rule.selector else {
            unreachable!("filtered")
        };
        let length = pattern.base().as_str().len();
        (
            pattern.is_wildcard(),
            usize::MAX - length,
            rule.via == Via::Direct,
            rule.number,
        )
    });
    match (fit.first(), on_port.first()) {
        (Some(rule), _) => Ok(rule.number),
        (None, None) => Err(Reason::Port),
        (None, Some(_)) if on_port.iter().any(|rule| rule.tls.covers(port)) => Err(Reason::NotTls),
        (None, Some(_)) => Err(Reason::HttpMalformed),
    }
}

#[test]
fn many_names_are_judged_as_the_words_say() {
    let mut random = Random::new(5);
    let (mut found, mut asked) = (0, 0);
    for _ in 0..3_000 {
        let policy = random_policy(&mut random);
        let routes = Routes::new(&policy);
        for index in 0..4 {
            let name = host(index);
            for (port, shown) in [22, 80, 443, 8080]
                .into_iter()
                .flat_map(|port| SHOWN.map(|shown| (port, shown)))
            {
                let got = number(routes.find(name.as_str(), port, shown));
                let expected = naive(&policy, name.as_str(), port, shown);
                assert_eq!(got, expected, "{policy:#?}\n{name}:{port} {shown:?}");
                found += u32::from(got.is_ok());
                asked += 1;
            }
        }
    }
    assert!(
        found > asked / 30 && found < asked / 2,
        "{found} of {asked}"
    );
}
