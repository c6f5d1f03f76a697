//! What happens at the gateway to a connection that is steered there.

use super::{Flow, Target};
use crate::policy::{Compiled, Policy, RouteRule, Routes, Shown, Via};
use agent_common::Addr;
use agent_common::layout::Mode;
use agent_common::verdict::Check;

/// Notes about a connection to `addr` that a rule lets out with this check, for people.
pub(super) fn notes(
    policy: &Policy,
    compiled: &Compiled,
    flow: &Flow,
    addr: Addr,
    (check, rule): (Check, u32),
) -> Vec<String> {
    if !check.is_steered() {
        return Vec::new();
    }
    if policy.mode == Mode::Monitor {
        let note = "the agent is in monitor mode: nothing is steered to its gateway, so what the connection shows is not judged";
        return vec![note.to_owned()];
    }
    let steered = "the connection is steered to the agent's gateway".to_owned();
    let mut notes = vec![steered];
    match (&flow.target, check) {
        (Target::Host(host), Check::Gateway) => {
            named(&Routes::new(policy), host.as_str(), flow.port, &mut notes);
        }
        (Target::Addr(_), Check::Gateway) => {
            notes.push(
                "there it must name a host of the policy, in a TLS hello or in each plain HTTP request"
                    .to_owned(),
            );
            if let Some(free) = compiled.unread(addr, flow.port) {
                notes.push(format!("what names none passes unread (rule {free})"));
            }
        }
        _ => {
            notes.push("there it passes unread".to_owned());
            let via = policy.rule(rule).map(|rule| &rule.via);
            notes.extend(via.and_then(proxy));
        }
    }
    notes
}

/// What the name may be shown in, and what comes of it.
fn named(routes: &Routes, host: &str, port: u16, notes: &mut Vec<String>) {
    let kinds = [
        (Shown::Tls, "in a TLS hello"),
        (Shown::Http, "in each plain HTTP request"),
    ];
    let mut ways: Vec<RouteRule> = Vec::new();
    let mut places = Vec::new();
    for (shown, place) in kinds {
        if let Ok(found) = routes.find(host, port, shown) {
            places.push(format!("{place} (rule {})", found.rule));
            if !ways.iter().any(|way| way.rule == found.rule) {
                ways.push(found);
            }
        }
    }
    match places.is_empty() {
        true => notes.push(format!("nothing for `{host}` leaves there")),
        false => notes.push(format!(
            "there it must name `{host}` {}",
            places.join(" or ")
        )),
    }
    if let Ok(free) = routes.find(host, port, Shown::Unread) {
        notes.push(format!(
            "what names none passes unread (rule {})",
            free.rule
        ));
    }
    for way in ways {
        if way.inspect.is_some() {
            notes.push(format!(
                "TLS ends there: each request is judged (rule {}), and the program must trust the machine's own authority",
                way.rule
            ));
        }
        notes.extend(proxy(&way.via));
    }
}

fn proxy(via: &Via) -> Option<String> {
    match via {
        Via::Direct | Via::Gateway => None,
        Via::Proxy(proxy) => Some(format!("the gateway asks {} to connect", proxy.url)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, explain};
    use super::*;
    use crate::policy::parse;

    const POLICY: &str = r#"version: 1
agents:
  a:
    allow:
      - {host: "*.example", ports: all}
      - {host: a.example, ports: [443], via: gateway}
      - {host: b.example, ports: [443, 22], via: {proxy: "https://proxy.corp:3128"}}
      - {host: c.example, ports: [443], inspect: {}}
      - {cidr: 10.0.0.0/8, ports: [22], via: {proxy: "http://proxy.corp:80"}}
      - {cidr: 10.0.0.0/8, ports: [80]}
  m:
    mode: monitor
    allow:
      - {host: a.example, ports: [80]}
"#;

    fn ask(agent: &str, flow: &str) -> Vec<String> {
        let set = parse("p.yaml", POLICY).unwrap_or_else(|errors| panic!("{errors}"));
        let flow = flow.parse::<Flow>().expect("flow");
        let Answer { verdict, notes, .. } = explain(&set.agents[agent], &flow).expect("compiles");
        assert!(verdict.is_allow(), "{notes:?}");
        let about_dns = |note: &String| !note.starts_with("DNS was not asked");
        notes.into_iter().filter(about_dns).collect()
    }

    #[test]
    fn what_the_gateway_does_is_told() {
        const STEERED: &str = "the connection is steered to the agent's gateway";
        for (flow, notes) in [
            (
                "tcp://x.example:80",
                &[
                    STEERED,
                    "there it must name `x.example` in a TLS hello (rule 0) or in each plain HTTP request (rule 0)",
                ][..],
            ),
            (
                "tcp://a.example:443",
                &[
                    STEERED,
                    "there it must name `a.example` in a TLS hello (rule 1)",
                ],
            ),
            (
                "tcp://b.example:443",
                &[
                    STEERED,
                    "there it must name `b.example` in a TLS hello (rule 2)",
                    "the gateway asks https://proxy.corp:3128 to connect",
                ],
            ),
            (
                "tcp://c.example:443",
                &[
                    STEERED,
                    "there it must name `c.example` in a TLS hello (rule 3)",
                    "TLS ends there: each request is judged (rule 3), and the program must trust the machine's own authority",
                ],
            ),
            (
                "tcp://b.example:22",
                &[
                    STEERED,
                    "there it passes unread",
                    "the gateway asks https://proxy.corp:3128 to connect",
                ],
            ),
            (
                "tcp://10.0.0.1:22",
                &[
                    STEERED,
                    "there it passes unread",
                    "the gateway asks http://proxy.corp:80 to connect",
                ],
            ),
            ("tcp://10.0.0.1:80", &[]),
            ("tcp://x.example:22", &[]),
        ] {
            assert_eq!(ask("a", flow), notes, "{flow}");
        }
        let monitored = ask("m", "tcp://a.example:80");
        assert_eq!(monitored.len(), 1);
        assert!(monitored[0].contains("nothing is steered"), "{monitored:?}");
    }

    #[test]
    fn an_address_is_asked_for_any_name_of_the_policy() {
        let set = parse("p.yaml", POLICY).unwrap_or_else(|errors| panic!("{errors}"));
        let policy = &set.agents["a"];
        let mut compiled = Compiled::new(policy).expect("compiles");
        let flow = "tcp://10.0.0.1:80".parse::<Flow>().expect("flow");
        let addr = Addr::from("10.0.0.1".parse::<std::net::IpAddr>().expect("address"));
        let hosts = ["x.example".parse().expect("name")].into();
        compiled.lease(addr, &hosts).expect("leases");
        let notes = notes(policy, &compiled, &flow, addr, (Check::Gateway, 0));
        assert!(notes[1].contains("a host of the policy"), "{notes:?}");
        assert_eq!(notes[2], "what names none passes unread (rule 5)");
    }
}
