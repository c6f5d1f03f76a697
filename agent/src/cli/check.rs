//! `exeat check`: whether policy files are sound, and what they come to.

use super::Output;
use crate::policy::{
    self, Compiled, Diagnostic, DnsPolicy, HostPattern, Openings, Policy, PolicyErrors, PolicySet,
    Rule, Sandbox, Selector, Services, Via, mode_str,
};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

/// Exit code where something is wrong with the policy.
pub const EXIT_POLICY: u8 = 2;

/// Rules of one agent that are shown each with a line.
const MOST_SHOWN: usize = 20;

/// Checks policy files without loading them: every error at once, then exit code 2;
/// otherwise a summary, then exit code 0.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Policy files, or folders of `*.yaml` files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print for people, or JSON for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    digest: Option<&'a str>,
    agents: Vec<AgentReport<'a>>,
    errors: Vec<DiagnosticReport<'a>>,
    errors_omitted: usize,
    warnings: Vec<DiagnosticReport<'a>>,
}

#[derive(Serialize)]
struct AgentReport<'a> {
    name: &'a str,
    mode: &'static str,
    rules: usize,
    hosts: usize,
    /// Wildcards of allow and deny rules, each once.
    wildcards: Vec<String>,
    dns: DnsReport,
    services: ServicesReport<'a>,
    gateway: GatewayReport,
    sandbox: SandboxReport<'a>,
    addresses: usize,
    entries: usize,
}

/// `"all"`, or paths.
#[derive(Serialize)]
#[serde(untagged)]
enum ServicesReport<'a> {
    All(&'static str),
    Only(&'a BTreeSet<String>),
}

impl<'a> From<&'a Services> for ServicesReport<'a> {
    fn from(services: &'a Services) -> Self {
        match services {
            Services::All => Self::All("all"),
            Services::Only(paths) => Self::Only(paths),
        }
    }
}

/// `"none"`, or what it leaves open.
#[derive(Serialize)]
#[serde(untagged)]
enum SandboxReport<'a> {
    None(&'static str),
    Openings(&'a Openings),
}

impl<'a> From<&'a Sandbox> for SandboxReport<'a> {
    fn from(sandbox: &'a Sandbox) -> Self {
        match sandbox {
            Sandbox::None => Self::None("none"),
            Sandbox::Walls(openings) => Self::Openings(openings),
        }
    }
}

/// What the agent's gateway speaks to programs that ask for a proxy themselves.
#[derive(Serialize)]
struct GatewayReport {
    listen: Vec<&'static str>,
}

/// How the gate answers the agent.
#[derive(Serialize)]
struct DnsReport {
    refuse: &'static str,
    dnssec: Option<&'static str>,
    names_an_hour: u32,
    bytes_an_hour: u32,
    entropy_bits_an_hour: u32,
    repeat_bits_an_hour: u32,
    over_budget: &'static str,
}

impl From<&DnsPolicy> for DnsReport {
    fn from(dns: &DnsPolicy) -> Self {
        Self {
            refuse: dns.refuse.as_str(),
            dnssec: dns.validate.then_some("validate"),
            names_an_hour: dns.budget.names,
            bytes_an_hour: dns.budget.bytes,
            entropy_bits_an_hour: dns.budget.entropy_bits,
            repeat_bits_an_hour: dns.budget.repeat_bits,
            over_budget: dns.over_budget.as_str(),
        }
    }
}

#[derive(Serialize)]
struct DiagnosticReport<'a> {
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    message: &'a str,
    help: &'a str,
}

impl<'a> From<&'a Diagnostic> for DiagnosticReport<'a> {
    fn from(diagnostic: &'a Diagnostic) -> Self {
        Self {
            file: &diagnostic.file,
            line: diagnostic.at.map(|at| at.line),
            column: diagnostic.at.map(|at| at.column),
            message: &diagnostic.message,
            help: &diagnostic.help,
        }
    }
}

/// Checks the files; returns the exit code: 0, or [`EXIT_POLICY`].
pub fn run(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<u8> {
    match load_and_compile(&args.files) {
        Ok((set, compiled)) => {
            match args.output {
                Output::Json => json(out, &success(&set, &compiled))?,
                Output::Text => text(out, &set, &compiled)?,
            }
            Ok(0)
        }
        Err(errors) => {
            match args.output {
                Output::Json => json(out, &failure(&errors))?,
                Output::Text => {
                    writeln!(out, "{errors}\n")?;
                    warnings(out, &errors.warnings)?;
                    let count = errors.errors.len() + errors.omitted;
                    writeln!(out, "{}; nothing was loaded", counted(count, "error"))?;
                }
            }
            Ok(EXIT_POLICY)
        }
    }
}

/// The policies with their tables; what does not fit the kernel is an error with a
/// place, too.
fn load_and_compile(files: &[PathBuf]) -> Result<(PolicySet, Vec<Compiled>), PolicyErrors> {
    let set = policy::load(files)?;
    let mut compiled = Vec::with_capacity(set.agents.len());
    let mut errors = Vec::new();
    for policy in set.agents.values() {
        match Compiled::new(policy) {
            Ok(tables) => compiled.push(tables),
            Err(error) => errors.push(misfit(policy, &error)),
        }
    }
    if errors.is_empty() {
        return Ok((set, compiled));
    }
    Err(PolicyErrors {
        errors,
        omitted: 0,
        warnings: set.warnings,
    })
}

fn misfit(policy: &Policy, error: &policy::CompileError) -> Diagnostic {
    let origin = policy.rule(error.rule()).map(|rule| &rule.origin);
    let file = origin.map_or_else(|| "".into(), |origin| origin.file.clone());
    let mut diagnostic = Diagnostic::about_file(file, error.to_string(), error.help());
    diagnostic.at = origin.map(|origin| policy::Pos {
        line: origin.line,
        column: 1,
    });
    diagnostic
}

fn success<'a>(set: &'a PolicySet, compiled: &[Compiled]) -> Report<'a> {
    let agents = set.agents.values().zip(compiled);
    Report {
        ok: true,
        digest: Some(&set.digest),
        agents: agents
            .map(|(policy, compiled)| AgentReport {
                name: policy.name.as_str(),
                mode: mode_str(policy.mode),
                rules: policy.rules.len(),
                hosts: policy.hosts().len(),
                wildcards: wildcards(policy).iter().map(ToString::to_string).collect(),
                dns: DnsReport::from(&policy.dns),
                services: ServicesReport::from(&policy.services),
                gateway: GatewayReport {
                    listen: policy.gateway.words().collect(),
                },
                sandbox: SandboxReport::from(&policy.sandbox),
                addresses: compiled.len(),
                entries: compiled.entries().len(),
            })
            .collect(),
        errors: Vec::new(),
        errors_omitted: 0,
        warnings: set.warnings.iter().map(Into::into).collect(),
    }
}

fn failure(errors: &PolicyErrors) -> Report<'_> {
    Report {
        ok: false,
        digest: None,
        agents: Vec::new(),
        errors: errors.errors.iter().map(Into::into).collect(),
        errors_omitted: errors.omitted,
        warnings: errors.warnings.iter().map(Into::into).collect(),
    }
}

fn json(out: &mut impl Write, report: &Report<'_>) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)?;
    Ok(())
}

fn text(out: &mut impl Write, set: &PolicySet, compiled: &[Compiled]) -> anyhow::Result<()> {
    warnings(out, &set.warnings)?;
    for (policy, compiled) in set.agents.values().zip(compiled) {
        let wildcards = match wildcards(policy).len() {
            0 => String::new(),
            count => format!("{}, ", counted(count, "wildcard")),
        };
        writeln!(
            out,
            "{}: {}, {}, {}, {wildcards}{}",
            policy.name,
            mode_str(policy.mode),
            counted(policy.rules.len(), "rule"),
            counted(policy.hosts().len(), "host"),
            counted(compiled.len(), "address or network"),
        )?;
        if policy.rules.is_empty() {
            writeln!(out, "  it has no rules, so it reaches nothing")?;
        }
        names(out, policy)?;
    }
    let (agents, warnings) = (set.agents.len(), set.warnings.len());
    writeln!(
        out,
        "sound: {}, {}, digest {}",
        counted(agents, "agent"),
        counted(warnings, "warning"),
        set.digest.get(..12).unwrap_or(&set.digest),
    )?;
    Ok(())
}

/// The wildcards of a policy, each once.
fn wildcards(policy: &Policy) -> BTreeSet<&HostPattern> {
    let patterns = policy.rules.iter().filter_map(|rule| match &rule.selector {
        Selector::Host(pattern) => Some(pattern),
        Selector::Net(_) => None,
    });
    patterns.filter(|pattern| pattern.is_wildcard()).collect()
}

/// The rules that mean more than one name, say something about answers or have a way out of
/// their own, and how the gate answers the agent where that is not the default or there is a budget to know of.
fn names(out: &mut impl Write, policy: &Policy) -> anyhow::Result<()> {
    let special = |rule: &&Rule| {
        let wildcard = matches!(&rule.selector, Selector::Host(pattern) if pattern.is_wildcard());
        wildcard || rule.answers.is_some() || rule.via != Via::Direct
    };
    for rule in policy.rules.iter().filter(special).take(MOST_SHOWN) {
        writeln!(out, "  {}", rule.without_reason())?;
    }
    let count = policy.rules.iter().filter(special).count();
    if count > MOST_SHOWN {
        writeln!(out, "  and {} more like these", count - MOST_SHOWN)?;
    }
    if policy.has_wildcards() || policy.dns != DnsPolicy::default() {
        let DnsPolicy {
            refuse,
            validate,
            budget,
            over_budget,
        } = policy.dns;
        let validate = if validate { "validated, " } else { "" };
        writeln!(
            out,
            "  dns: {validate}other names are {}; below wildcards {budget} an hour and domain, then {}",
            refuse.as_str(),
            over_budget.as_str(),
        )?;
    }
    if policy.gateway.is_open() {
        let doors: Vec<&str> = policy.gateway.words().collect();
        writeln!(
            out,
            "  gateway: programs may ask it as a proxy over {}",
            doors.join(" and ")
        )?;
    }
    match &policy.services {
        Services::All => writeln!(out, "  sees every local service")?,
        Services::Only(paths) if paths.is_empty() => {}
        Services::Only(paths) => {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            writeln!(out, "  sees the local services at {}", paths.join(", "))?;
        }
    }
    match &policy.sandbox {
        Sandbox::None => writeln!(out, "  runs without a sandbox")?,
        Sandbox::Walls(openings) if **openings == Openings::default() => {}
        Sandbox::Walls(openings) => writeln!(out, "  sandbox: {openings}")?,
    }
    Ok(())
}

fn warnings(out: &mut impl Write, warnings: &[Diagnostic]) -> anyhow::Result<()> {
    for warning in warnings {
        writeln!(out, "warning: {warning}\n")?;
    }
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "address or network") => format!("{count} addresses and networks"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn check(text: &str, output: Output) -> (u8, String) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("p.yaml");
        std::fs::write(&path, text).expect("file");
        let mut out = Vec::new();
        let args = CheckArgs {
            files: vec![path],
            output,
        };
        let code = run(&args, &mut out).expect("run");
        (code, String::from_utf8(out).expect("text"))
    }

    const GOOD: &str = "version: 1\nagents:\n  a:\n    allow:\n    - {host: a.example, ports: [443]}\n    - {cidr: 10.0.0.0/8, protocol: udp, ports: [53]}\n  none:\n";
    const BAD: &str = "version: 1\nagents:\n  a:\n    alow: []\n    mode: off\n";

    #[test]
    fn a_sound_policy_is_summed_up() {
        let (code, text) = check(GOOD, Output::Text);
        assert_eq!(code, 0);
        assert!(
            text.contains("a: enforce, 2 rules, 1 host, 1 address or network\n"),
            "{text}"
        );
        assert!(text.contains("none: enforce, 0 rules, 0 hosts, 0 addresses and networks\n  it has no rules, so it reaches nothing"), "{text}");
        assert!(
            text.contains("p.yaml:6:7: port 53 is served by Exeat's gate"),
            "{text}"
        );
        assert!(
            text.contains("sound: 2 agents, 1 warning, digest "),
            "{text}"
        );
    }

    #[test]
    fn errors_come_at_once_with_exit_code_2() {
        let (code, text) = check(BAD, Output::Text);
        assert_eq!(code, EXIT_POLICY);
        assert!(text.contains("p.yaml:4:5: unknown key `alow`"), "{text}");
        assert!(text.contains("p.yaml:5:11: "), "{text}");
        assert!(text.ends_with("2 errors; nothing was loaded\n"), "{text}");
    }

    #[test]
    fn json_says_the_same() {
        let (code, text) = check(GOOD, Output::Json);
        let report: Value = serde_json::from_str(&text).expect("json");
        assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)));
        assert_eq!(report["agents"][0]["rules"], 2);
        assert_eq!(report["warnings"][0]["line"], 6);
        let (code, text) = check(BAD, Output::Json);
        let report: Value = serde_json::from_str(&text).expect("json");
        assert_eq!((code, &report["ok"]), (EXIT_POLICY, &Value::Bool(false)));
        let errors = report["errors"].as_array().expect("errors");
        assert_eq!(errors.len(), 2);
        assert_eq!(
            (&errors[0]["line"], &errors[0]["column"]),
            (&4.into(), &5.into())
        );
        assert_eq!(errors[0]["help"], "did you mean `allow`?");
    }

    #[test]
    fn what_does_not_fit_the_kernel_is_an_error_with_a_place() {
        let ports: Vec<String> = (0..65).map(|i| (2 * i + 1).to_string()).collect();
        let text = format!(
            "version: 1\nagents:\n  a:\n    allow:\n    - {{host: a.example, ports: [{}]}}\n",
            ports.join(",")
        );
        let (code, text) = check(&text, Output::Text);
        assert_eq!(code, EXIT_POLICY);
        assert!(
            text.contains("p.yaml:5:1: agent `a`: 65 different port ranges"),
            "{text}"
        );
        assert!(text.contains("help: join ports into ranges"), "{text}");
    }

    #[test]
    fn wildcards_and_what_is_answered_are_shown() {
        let text = "version: 1\nagents:\n  a:\n    allow:\n    - {host: a.example, ports: [443], types: [TXT], reason: r}\n    - {host: \"*.b.example\", ports: [443]}\n    deny:\n    - {host: \"*.c.b.example\"}\n    dns: {refuse: nxdomain, dnssec: validate, over_budget: report, budget: {names: 7}}\n    services: [/run/b, /run/a]\n  plain:\n    allow:\n    - {host: a.example, ports: [443]}\n";
        let (code, shown) = check(text, Output::Text);
        assert_eq!(code, 0);
        let want = "a: enforce, 3 rules, 1 host, 2 wildcards, 0 addresses and networks
  allow tcp a.example:443, types TXT
  allow tcp *.b.example:443
  deny any *.c.b.example
  dns: validated, other names are NXDOMAIN; below wildcards 7 names, 8192 bytes, 24000 bits of entropy, 24000 bits of repeats an hour and domain, then report
  sees the local services at /run/a, /run/b
plain: enforce, 1 rule, 1 host, 0 addresses and networks
sound: ";
        assert!(shown.contains(want), "{shown}");
        let (_, json) = check(text, Output::Json);
        let report: Value = serde_json::from_str(&json).expect("json");
        let agent = &report["agents"][0];
        assert_eq!(agent["wildcards"][1], "*.c.b.example");
        assert_eq!(agent["hosts"], 1);
        assert_eq!(agent["services"], serde_json::json!(["/run/a", "/run/b"]));
        assert_eq!(report["agents"][1]["services"], serde_json::json!([]));
        assert_eq!(agent["dns"]["refuse"], "NXDOMAIN");
        assert_eq!(agent["dns"]["dnssec"], "validate");
        assert_eq!(agent["dns"]["names_an_hour"], 7);
        assert_eq!(agent["dns"]["over_budget"], "report");
    }

    #[test]
    fn ways_out_are_shown() {
        let text = "version: 1\nagents:\n  a:\n    allow:\n    - {host: a.example, ports: [443], via: gateway, reason: r}\n    - {cidr: 10.0.0.1, ports: [22], via: {proxy: \"http://p.example:1\"}}\n    - {host: b.example, ports: [443], inspect: {}}\n    - {host: c.example, ports: [443]}\n    gateway: {listen: [socks5, http]}\n";
        let (code, shown) = check(text, Output::Text);
        assert_eq!(code, 0, "{shown}");
        let want = "a: enforce, 4 rules, 3 hosts, 1 address or network
  allow tcp a.example:443, via gateway
  allow tcp 10.0.0.1:22, via http://p.example:1
  allow tcp b.example:443, via gateway, inspected
  gateway: programs may ask it as a proxy over http and socks5
sound: ";
        assert!(shown.contains(want), "{shown}");
        let (_, json) = check(text, Output::Json);
        let report: Value = serde_json::from_str(&json).expect("json");
        let listen = &report["agents"][0]["gateway"]["listen"];
        assert_eq!(*listen, serde_json::json!(["http", "socks5"]));
    }

    #[test]
    fn many_wildcards_are_counted() {
        let mut text = String::from("version: 1\nagents:\n  a:\n    allow:\n");
        for i in 0..25 {
            text += &format!("    - {{host: \"*.h{i}.example\", ports: [443]}}\n");
        }
        let (_, shown) = check(&text, Output::Text);
        assert!(shown.contains("  and 5 more like these\n"), "{shown}");
    }
}
