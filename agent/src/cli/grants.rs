//! `exeat grants`, `exeat grant`, `exeat revoke` and `exeat isolate`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::ask::{LastsArgs, said};
use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, duration, print, print_json};
use super::term::printable;
use crate::asking::{Grant, GrantSubject, Lasts, Ruling, grant_text, grants::as_policy, name_of};
use crate::control::protocol::RevokeReport;
use crate::control::{Client, ClientError, Request, Response};

/// What follows the help of `grant`.
pub const AFTER_GRANT: &str = "Examples:\n  sudo exeat grant --agent build-bot --host \
    ftp.example.com --port 21 --for 2h --why \"release 4.2\"\n  sudo exeat grant --agent build-bot \
    --host tracker.example --deny --always\n\nWithout a time it holds for an hour.";

/// What follows the help of `revoke`.
pub const AFTER_REVOKE: &str = "Examples:\n  exeat revoke k3x9pm\n  sudo exeat revoke --agent \
    build-bot";

/// What follows the help of `isolate`.
pub const AFTER_ISOLATE: &str = "Examples:\n  sudo exeat isolate --agent build-bot\n  sudo exeat \
    isolate --agent build-bot --off";

/// What follows the help of `grants`.
pub const AFTER_GRANTS: &str = "Examples:\n  exeat grants\n  exeat grants --agent build-bot \
    --as-policy > review.yaml && exeat check review.yaml";

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GrantsFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For programs that read YAML.
    Yaml,
}

/// Show the answers that hold
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct GrantsArgs {
    /// Only those of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Print for people, or JSON or YAML for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: GrantsFormat,
    /// Print them as a policy file, for review
    #[arg(long, conflicts_with = "output")]
    pub as_policy: bool,
}

/// Allow (or deny) something to an agent ahead, without a question
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(id = "what", required = true, multiple = false, args = ["host", "below", "address"])]
pub struct GrantArgs {
    /// The agent
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// A host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// A domain and every name below it
    #[arg(long, value_name = "DOMAIN")]
    pub below: Option<String>,
    /// An address
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Only this port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Deny it
    #[arg(long)]
    pub deny: bool,
    /// For how long.
    #[command(flatten)]
    pub lasts: LastsArgs,
    /// Why, for those who look at it later
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// End a grant, or everything that an agent was granted and has open
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(id = "which", required = true, multiple = false, args = ["grant", "agent"])]
pub struct RevokeArgs {
    /// The grant, as `exeat grants` shows it
    #[arg(value_name = "ID")]
    pub grant: Option<String>,
    /// Every grant and every connection of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Cut an agent off from the network at once and let it run on, or connect it again
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct IsolateArgs {
    /// The agent
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// Connect it again
    #[arg(long)]
    pub off: bool,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Shows the grants.
pub fn list(socket: &Path, args: &GrantsArgs) -> Result<Exit, Failure> {
    let request = Request::Grants {
        agent: args.agent.clone(),
    };
    let Response::Grants { grants } = Client::connect(socket)?.ask(&request)? else {
        return Err(ClientError::Protocol("these are no grants".into()).into());
    };
    if args.as_policy {
        print(&as_policy(&grants))?;
        return Ok(Exit::Ok);
    }
    match args.output {
        GrantsFormat::Json => print_json(&grants)?,
        GrantsFormat::Yaml => {
            let yaml = serde_saphyr::to_string(&grants).map_err(std::io::Error::other)?;
            print(&super::term::printable_lines(&yaml))?;
        }
        GrantsFormat::Text => print(&render(&grants, Timestamp::now(), Style::stdout()))?,
    }
    Ok(Exit::Ok)
}

/// Gives a grant.
pub fn grant(socket: &Path, args: &GrantArgs) -> Result<Exit, Failure> {
    let subject = match (&args.host, &args.below, args.address) {
        (Some(name), _, _) => GrantSubject::Name {
            name: name.to_ascii_lowercase(),
        },
        (_, Some(domain), _) => GrantSubject::Domain {
            domain: domain.to_ascii_lowercase(),
        },
        (_, _, Some(address)) => GrantSubject::Address {
            address: address.to_canonical(),
        },
        (None, None, None) => return Ok(Exit::Usage),
    };
    let request = Request::Grant {
        agent: args.agent.clone(),
        subject,
        port: args.port,
        ruling: match args.deny {
            true => Ruling::Deny,
            false => Ruling::Allow,
        },
        lasts: args.lasts.or(Lasts::For { seconds: 3600 }),
        via: "cli".to_owned(),
        why: args.why.clone(),
    };
    let Response::Granted(grant) = Client::connect(socket)?.ask(&request)? else {
        return Err(ClientError::Protocol("it is no grant".into()).into());
    };
    match args.output.output {
        Format::Json => print_json(&grant)?,
        Format::Text => print(&said(&grant))?,
    }
    Ok(Exit::Ok)
}

/// Ends grants.
pub fn revoke(socket: &Path, args: &RevokeArgs) -> Result<Exit, Failure> {
    let request = Request::Revoke {
        grant: args.grant.clone(),
        agent: args.agent.clone(),
    };
    report(socket, &request, args.output, None)
}

/// Cuts an agent off, or connects it again.
pub fn isolate(socket: &Path, args: &IsolateArgs) -> Result<Exit, Failure> {
    let request = Request::Isolate {
        agent: args.agent.clone(),
        on: !args.off,
    };
    let next = (!args.off).then(|| {
        format!(
            "connect it again with `sudo exeat isolate --agent {} --off`; until then it stays so, after a reboot too",
            args.agent
        )
    });
    report(socket, &request, args.output, next)
}

fn report(
    socket: &Path,
    request: &Request,
    output: OutputArgs,
    next: Option<String>,
) -> Result<Exit, Failure> {
    let Response::Revoked(report) = Client::connect(socket)?.ask(request)? else {
        return Err(ClientError::Protocol("it is no report of an agent".into()).into());
    };
    match output.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&told(&report, next.as_deref()))?,
    }
    Ok(Exit::Ok)
}

fn told(report: &RevokeReport, next: Option<&str>) -> String {
    let millis = report.took_us as f64 / 1000.0;
    let mut out = format!("{} ({millis:.1} ms)\n", printable(&report.message));
    // Writing to a String cannot fail.
    for grant in &report.grants {
        let text = grant_text(grant);
        let _ = writeln!(out, "  {}  {}", printable(&grant.id), printable(&text));
    }
    if let Some(next) = next {
        let _ = writeln!(out, "  {}", printable(next));
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}

fn render(grants: &[Grant], now: Timestamp, style: Style) -> String {
    if grants.is_empty() {
        return "no grants: agents reach what their policies say\n".to_owned();
    }
    let heads = ["ID", "AGENT", "", "DESTINATION", "HOLDS", "BY", "WHY"];
    let mut columns = Columns::new(style, &heads);
    for grant in grants {
        let holds = match (grant.lasts, grant.until, &grant.run) {
            (Lasts::Run, _, Some(run)) => format!("for {run}"),
            (Lasts::Run, _, None) => "while it runs".to_owned(),
            (_, Some(until), _) => {
                let left = until.duration_since(now).as_secs();
                format!("{} more", duration(u64::try_from(left).unwrap_or(0)))
            }
            (_, None, _) => "always".to_owned(),
        };
        let (verb, tone) = match grant.ruling {
            Ruling::Allow => ("allow", Tone::Good),
            Ruling::Deny => ("deny", Tone::Bad),
        };
        columns.row(&[
            (&grant.id, Tone::Plain),
            (&grant.agent, Tone::Plain),
            (verb, tone),
            (&grant_text(grant), Tone::Plain),
            (&holds, Tone::Plain),
            (&name_of(&grant.by), Tone::Plain),
            (grant.why.as_deref().unwrap_or("-"), Tone::Plain),
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asking::Who;

    #[test]
    fn grants_are_shown_with_how_long_they_hold() {
        let given: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
        let grant = Grant {
            id: "k3x9pm".into(),
            agent: "bot".into(),
            run: None,
            ruling: Ruling::Allow,
            subject: GrantSubject::Name {
                name: "x.example.com".into(),
            },
            port: Some(443),
            lasts: Lasts::For { seconds: 3600 },
            by: Who {
                uid: 1000,
                name: Some("ann".into()),
                via: "cli".into(),
            },
            why: Some("\x1b[2Jbuild".into()),
            question: None,
            program: None,
            given,
            until: Some(given + jiff::SignedDuration::from_hours(1)),
        };
        let text = render(std::slice::from_ref(&grant), given, Style::default());
        assert!(text.contains("x.example.com port 443"), "{text}");
        assert!(text.contains("1h"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(render(&[], given, Style::default()).contains("no grants"));
        let report = RevokeReport {
            agent: "bot".into(),
            grants: vec![grant],
            connections: 2,
            isolated: false,
            took_us: 12_345,
            message: "done".into(),
            warnings: vec!["w".into()],
        };
        assert_eq!(
            told(&report, Some("next")),
            "done (12.3 ms)\n  k3x9pm  x.example.com port 443\n  next\n  warning: w\n"
        );
    }
}
