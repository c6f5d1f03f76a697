//! `exeat explain`: what the policy says to one flow, and which rule says it. The verdict
//! comes from the same code that runs in the kernel.

mod flow;
mod name;
mod way;

use super::Output;
use super::check::EXIT_POLICY;
use crate::policy::{self, Compiled, HostName, Policy, Rule, action_str, mode_str};
use agent_common::layout::Mode;
use agent_common::verdict::{Check, NO_RULE, Query, Verdict, judge};
use agent_common::{Addr, Reason};
pub use flow::{Flow, FlowError, Target};
pub use name::NameAnswer;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Exit code where the flow is allowed.
pub const EXIT_ALLOWED: u8 = 0;
/// Exit code where the flow is refused.
pub const EXIT_REFUSED: u8 = 1;

/// The port that is steered to the gate before any rule is asked.
const DNS: u16 = 53;

/// Tells what the policy of an agent says to a flow: exit code 0 if it is allowed, 1 if
/// it is refused, 2 if the question or the policy is wrong. Asks no DNS: a host name is
/// judged by the rules that name it.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The agent whose policy is asked
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// Policy file or folder of `*.yaml` files, may be repeated [default: those of the
    /// configuration]
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    /// Print for people, or JSON for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
    /// The flow: tcp://host:443, udp://10.0.0.1:4000, tcp://[2001:db8::1]:22, icmp://host
    #[arg(value_name = "FLOW")]
    pub flow: String,
}

/// The answer to a question about a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// The deciding rule, if one decided.
    pub rule: Option<&'a Rule>,
    /// What the DNS gate says, where the flow names a host.
    pub name: Option<NameAnswer<'a>>,
    /// What else one should know.
    pub notes: Vec<String>,
}

/// Judges a flow by a policy.
pub fn explain<'a>(policy: &'a Policy, flow: &Flow) -> Result<Answer<'a>, policy::CompileError> {
    let mut compiled = Compiled::new(policy)?;
    let mut notes = Vec::new();
    let addr = match &flow.target {
        Target::Addr(addr) => Addr::from(*addr),
        Target::Host(host) => {
            let addr = imaginary(&compiled);
            let hosts: BTreeSet<HostName> = [host.clone()].into();
            compiled.lease(addr, &hosts)?;
            notes.push("DNS was not asked: rules with `cidr` may allow or deny the addresses that the name stands for".to_owned());
            addr
        }
    };
    let query = Query {
        addr,
        port: flow.port,
        protocol: flow.protocol,
    };
    let verdict = judge(&compiled, &query);
    let (Verdict::Allow { rule, .. } | Verdict::Deny { rule, .. }) = verdict;
    if let Verdict::Allow { check, rule } = verdict {
        notes.extend(way::notes(policy, &compiled, flow, addr, (check, rule)));
    }
    if let Verdict::Allow { check, .. } = verdict
        && matches!(check, Check::Name | Check::OuterName)
    {
        let name = match &flow.target {
            Target::Host(host) => format!("name `{host}`"),
            Target::Addr(_) => "name a host of the policy that stands for the address".to_owned(),
        };
        let ech = match check {
            Check::OuterName => ", and may hold an encrypted hello inside (ECH)",
            _ => "",
        };
        notes.push(format!(
            "the connection must begin with a TLS hello; it must {name}{ech}"
        ));
    }
    // A monitored agent's questions go where they would go without Exeat.
    if flow.port == DNS && policy.mode == Mode::Enforce {
        notes.push("port 53 is steered to Exeat's gate, which answers for the policy's own host names; no rule is asked".to_owned());
    }
    if policy.mode == Mode::Monitor && !verdict.is_allow() {
        notes.push("the agent is in monitor mode: the flow is reported and let through".to_owned());
    }
    Ok(Answer {
        verdict,
        rule: policy.rule(rule).filter(|_| rule != NO_RULE),
        name: match &flow.target {
            Target::Host(host) => Some(NameAnswer::new(policy, host)),
            Target::Addr(_) => None,
        },
        notes,
    })
}

/// An address that stands for nothing else in the policy: in the block that RFC 1112
/// reserves (240.0.0.0/4) or the discard prefix of RFC 6666, under as few networks as
/// can be found.
pub(super) fn imaginary(compiled: &Compiled) -> Addr {
    let reserved = (1..=254).map(|low| Addr::from(IpAddr::V4(Ipv4Addr::new(240, 0, 0, low))));
    let discard = Addr::from(IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1)));
    let holds = |addr: &Addr| {
        let key = u128::from_be_bytes(addr.octets());
        let exact = compiled.exact().filter(|(other, _)| other == addr).count();
        let networks = compiled.prefixes().filter(|(start, bits, set)| {
            let start = u128::from_be_bytes(start.octets());
            let inside = *bits == 0 || (start ^ key) >> (128 - u32::from(*bits)) == 0;
            inside && !set.is_empty()
        });
        exact + networks.count()
    };
    let mut candidates = vec![discard];
    candidates.extend(reserved.take(3));
    candidates.into_iter().min_by_key(holds).unwrap_or(discard)
}

#[derive(Serialize)]
struct Report<'a> {
    agent: &'a str,
    flow: &'a str,
    mode: &'static str,
    verdict: &'static str,
    reason: Option<&'static str>,
    rule: Option<RuleReport<'a>>,
    name: Option<name::NameReport>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct RuleReport<'a> {
    number: u32,
    action: &'static str,
    text: String,
    file: &'a str,
    line: u32,
    group: Option<&'a str>,
    reason: Option<&'a str>,
}

/// Answers the question; returns the exit code: [`EXIT_ALLOWED`], [`EXIT_REFUSED`], or
/// [`EXIT_POLICY`] where the question or the policy is wrong.
pub fn run(args: &ExplainArgs, configured: &[PathBuf], out: &mut impl Write) -> anyhow::Result<u8> {
    let flow = match args.flow.parse::<Flow>() {
        Ok(flow) => flow,
        Err(error) => return trouble(args, out, &error.to_string()),
    };
    let paths = if args.policy.is_empty() {
        configured
    } else {
        &args.policy
    };
    let set = match policy::load(paths) {
        Ok(set) => set,
        Err(errors) => return trouble(args, out, &errors.to_string()),
    };
    let Some(policy) = set.agents.get(args.agent.as_str()) else {
        let names: Vec<&str> = set.agents.keys().map(|name| name.as_str()).collect();
        let known = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        let text = format!(
            "there is no agent `{}`; the policy has: {known}",
            args.agent
        );
        return trouble(args, out, &text);
    };
    let answer = match explain(policy, &flow) {
        Ok(answer) => answer,
        Err(error) => return trouble(args, out, &format!("{error}\n  help: {}", error.help())),
    };
    match args.output {
        Output::Json => json(args, policy, &answer, out)?,
        Output::Text => text(args, policy, &answer, out)?,
    }
    Ok(if answer.verdict.is_allow() {
        EXIT_ALLOWED
    } else {
        EXIT_REFUSED
    })
}

fn trouble(args: &ExplainArgs, out: &mut impl Write, text: &str) -> anyhow::Result<u8> {
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::json!({ "error": text }))?,
        Output::Text => writeln!(out, "{text}")?,
    }
    Ok(EXIT_POLICY)
}

fn reason(verdict: &Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { reason, .. } => Some(*reason),
    }
}

fn verdict_str(verdict: &Verdict) -> &'static str {
    if verdict.is_allow() { "allow" } else { "deny" }
}

fn json(
    args: &ExplainArgs,
    policy: &Policy,
    answer: &Answer<'_>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let report = Report {
        agent: policy.name.as_str(),
        flow: &args.flow,
        mode: mode_str(policy.mode),
        verdict: verdict_str(&answer.verdict),
        reason: reason(&answer.verdict).map(Reason::as_str),
        rule: answer.rule.map(|rule| RuleReport {
            number: rule.number,
            action: action_str(rule.action),
            text: rule.to_string(),
            file: &rule.origin.file,
            line: rule.origin.line,
            group: rule.group.as_deref(),
            reason: rule.reason.as_deref(),
        }),
        name: answer.name.as_ref().map(NameAnswer::report),
        notes: &answer.notes,
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)?;
    Ok(())
}

fn text(
    args: &ExplainArgs,
    policy: &Policy,
    answer: &Answer<'_>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let reason = reason(&answer.verdict);
    let word = reason.map_or_else(String::new, |reason| format!(" ({})", reason.as_str()));
    writeln!(
        out,
        "{}{word}: {} to {}",
        verdict_str(&answer.verdict),
        policy.name,
        args.flow
    )?;
    match (answer.rule, reason) {
        (Some(rule), _) => {
            writeln!(out, "  rule {}: {rule}", rule.number)?;
            let group = rule
                .group
                .as_deref()
                .map_or_else(String::new, |group| format!(", group `{group}`"));
            writeln!(out, "  written in {}{group}", rule.origin)?;
        }
        (None, Some(Reason::Port)) => writeln!(
            out,
            "  a rule allows this destination, but not this port or protocol"
        )?,
        (None, Some(_)) => writeln!(
            out,
            "  no rule names this destination, and what no rule allows is refused"
        )?,
        (None, None) => {}
    }
    if let Some(name) = &answer.name {
        for line in name.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    for note in &answer.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"version: 1
agents:
  a:
    allow:
      - {host: api.example.com, ports: [443], reason: model endpoint}
      - {cidr: 10.0.0.0/8, ports: all}
      - {cidr: "2001:db8::/32", protocol: udp, ports: [4000]}
      - {host: ping.example, protocol: icmp}
      - {host: "*.wild.example", ports: [443], private: true, types: [TXT]}
      - {host: one.wild.example, ports: [443], ech: keep}
      - {group: g}
    deny:
      - {cidr: 10.0.0.9, reason: not this one}
      - {host: bad.example}
      - {host: "*.bad.wild.example"}
  m:
    mode: monitor
groups:
  g:
    - {host: g.example, ports: [80]}
"#;

    fn ask(agent: &str, flow: &str, output: Output) -> (u8, String) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("p.yaml");
        std::fs::write(&path, POLICY).expect("file");
        let args = ExplainArgs {
            agent: agent.to_owned(),
            policy: vec![path],
            output,
            flow: flow.to_owned(),
        };
        let mut out = Vec::new();
        let code = run(&args, &[], &mut out).expect("run");
        let text = String::from_utf8(out).expect("text");
        let folder = format!("{}/", folder.path().display());
        (code, text.replace(&folder, ""))
    }

    #[test]
    fn flows_and_the_rules_that_decide_them() {
        for (flow, code, start, also) in [
            (
                "tcp://api.example.com:443",
                0,
                "allow: a to",
                "rule 0: allow tcp api.example.com:443 (model endpoint)",
            ),
            ("tcp://API.example.com.:443", 0, "allow: a to", "p.yaml:5"),
            (
                "tcp://api.example.com:80",
                1,
                "deny (port): a to",
                "not this port or protocol",
            ),
            (
                "udp://api.example.com:443",
                1,
                "deny (port): a to",
                "not this port or protocol",
            ),
            (
                "tcp://other.example:443",
                1,
                "deny (no_rule): a to",
                "no rule names this destination",
            ),
            (
                "tcp://bad.example:443",
                1,
                "deny (deny_rule): a to",
                "deny any bad.example",
            ),
            (
                "tcp://10.1.2.3:1",
                0,
                "allow: a to",
                "rule 1: allow tcp 10.0.0.0/8:all",
            ),
            ("tcp://[::ffff:10.1.2.3]:1", 0, "allow: a to", "rule 1"),
            (
                "tcp://10.0.0.9:1",
                1,
                "deny (deny_rule): a to",
                "(not this one)",
            ),
            ("icmp://10.0.0.9", 1, "deny (deny_rule): a to", "p.yaml:13"),
            (
                "udp://[2001:db8::1]:4000",
                0,
                "allow: a to",
                "allow udp [2001:db8::/32]:4000",
            ),
            (
                "icmp://ping.example",
                0,
                "allow: a to",
                "allow icmp ping.example",
            ),
            (
                "tcp://g.example:80",
                0,
                "allow: a to",
                "p.yaml:20, group `g`",
            ),
            (
                "udp://10.0.0.1:53",
                1,
                "deny (port): a to",
                "port 53 is steered to Exeat's gate",
            ),
        ] {
            let (got, text) = ask("a", flow, Output::Text);
            assert_eq!(got, code, "{flow}: {text}");
            assert!(text.starts_with(start), "{flow}: {text}");
            assert!(text.contains(also), "{flow}: {text}");
        }
        let (code, text) = ask("m", "tcp://10.0.0.1:1", Output::Text);
        assert_eq!(code, EXIT_REFUSED);
        assert!(text.contains("monitor mode"), "{text}");
    }

    #[test]
    fn json_names_the_rule() {
        let (code, text) = ask("a", "tcp://api.example.com:443", Output::Json);
        let report: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!((code, report["verdict"].as_str()), (0, Some("allow")));
        assert_eq!(report["rule"]["line"], 5);
        assert_eq!(report["rule"]["reason"], "model endpoint");
        let (code, text) = ask("a", "tcp://1.1.1.1:443", Output::Json);
        let report: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!((code, report["reason"].as_str()), (1, Some("no_rule")));
        assert!(report["rule"].is_null());
    }

    #[test]
    fn wrong_questions_end_with_2() {
        for (agent, flow, text) in [
            (
                "b",
                "tcp://10.0.0.1:1",
                "there is no agent `b`; the policy has: a, m",
            ),
            ("a", "https://api.example.com/", "it is a URL, not a flow"),
            ("a", "api.example.com:443", "it names no protocol"),
            ("a", "sctp://10.0.0.1:1", "none of tcp, udp and icmp"),
            ("a", "tcp://10.0.0.1", "it names no port"),
            ("a", "tcp://[::1]", "it names no port"),
            ("a", "tcp://[::1]x:1", "it names no port"),
            ("a", "tcp://10.0.0.1:0", "no number from 1 to 65535"),
            ("a", "tcp://10.0.0.1:+1", "no number from 1 to 65535"),
            ("a", "icmp://10.0.0.1:1", "icmp has no ports"),
            (
                "a",
                "tcp://*.example.com:443",
                "is a wildcard, not one host name",
            ),
        ] {
            let (code, out) = ask(agent, flow, Output::Text);
            assert_eq!(code, EXIT_POLICY, "{flow}: {out}");
            assert!(out.contains(text), "{flow}: {out}");
        }
    }

    #[test]
    fn a_host_is_shown_with_what_the_gate_says() {
        for (flow, code, lines) in [
            (
                "tcp://x.y.wild.example:443",
                0,
                "  rule 4: allow tcp *.wild.example:443, private, types TXT
  written in p.yaml:9
  named by `*.wild.example` (rule 4, p.yaml:9)
  dns: answers A CNAME TXT AAAA SVCB HTTPS; private addresses pass, ECH keys are removed
  dns: below a wildcard the name uses the budget of `wild.example`: 300 names, 8192 bytes, 24000 bits of entropy, 24000 bits of repeats an hour, then block
",
            ),
            (
                "tcp://one.wild.example:443",
                0,
                "  named by `one.wild.example` (rule 5, p.yaml:10)
  named by `*.wild.example` (rule 4, p.yaml:9)
  dns: answers A CNAME TXT AAAA SVCB HTTPS; private addresses pass, ECH keys stay
",
            ),
            (
                "tcp://api.example.com:443",
                0,
                "  named by `api.example.com` (rule 0, p.yaml:5)
  dns: answers A CNAME AAAA SVCB HTTPS; private addresses are removed, ECH keys are removed
",
            ),
            (
                "tcp://wild.example:443",
                1,
                "  dns: no rule names it, so the answer is REFUSED and nothing is asked\n",
            ),
            (
                "tcp://x.bad.wild.example:443",
                1,
                "  named by `*.wild.example` (rule 4, p.yaml:9)
  dns: `deny any *.bad.wild.example` (rule 9, p.yaml:15) refuses the name, so the answer is REFUSED and nothing is asked
",
            ),
        ] {
            let (got, text) = ask("a", flow, Output::Text);
            assert_eq!(got, code, "{flow}: {text}");
            assert!(text.contains(lines), "{flow}:\n{text}");
        }
        let (_, text) = ask("m", "tcp://a.example:443", Output::Text);
        assert!(
            text.contains("dns: the agent is monitored, so its questions do not come to the gate"),
            "{text}"
        );
        let (_, text) = ask("a", "tcp://10.0.0.1:1", Output::Text);
        assert!(!text.contains("dns:"), "{text}");
    }

    #[test]
    fn json_says_what_the_gate_says() {
        let name = |flow| {
            let (_, text) = ask("a", flow, Output::Json);
            let report: serde_json::Value = serde_json::from_str(&text).expect("json");
            report["name"].clone()
        };
        assert_eq!(
            name("tcp://x.wild.example:443"),
            serde_json::json!({
                "rules": [4],
                "denied_by": null,
                "steered": true,
                "answered": true,
                "rcode": null,
                "wildcard": "*.wild.example",
                "types": ["A", "CNAME", "TXT", "AAAA", "SVCB", "HTTPS"],
                "private": true,
                "ech_kept": false,
                "budget_domain": "wild.example",
            })
        );
        let refused = name("tcp://bad.example:443");
        assert_eq!(refused["answered"], false);
        assert_eq!(refused["rcode"], "REFUSED");
        assert_eq!(refused["denied_by"], 8);
        assert!(name("tcp://10.0.0.1:1").is_null());
    }

    #[test]
    fn a_host_is_not_judged_by_rules_for_reserved_networks() {
        let text = "version: 1\nagents:\n  a:\n    allow:\n    - {cidr: \"100::/64\", ports: all}\n    - {cidr: 240.0.0.1, ports: all}\n";
        let set = policy::parse("p.yaml", text).expect("policy");
        let flow = "tcp://x.example:443".parse::<Flow>().expect("flow");
        let answer = explain(&set.agents["a"], &flow).expect("compiles");
        assert!(!answer.verdict.is_allow());
    }
}
