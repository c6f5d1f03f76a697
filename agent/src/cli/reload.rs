//! `exeat reload`.

use std::fmt::Write as _;
use std::path::Path;

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, print, print_json};
use super::term::printable;
use crate::control::{Client, ClientError, ReloadReport, Request, Response};

/// Has the daemon compile the policy anew and swap it in. A policy with an error changes
/// nothing, and is exit code 2.
pub fn run(socket: &Path, args: OutputArgs) -> Result<Exit, Failure> {
    let answer = Client::connect(socket)?.ask(&Request::Reload {})?;
    let Response::Reload(report) = answer else {
        return Err(ClientError::Protocol("it is no report of a reload".into()).into());
    };
    match args.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&render(&report))?,
    }
    Ok(Exit::Ok)
}

fn render(r: &ReloadReport) -> String {
    let mut out = String::new();
    let sources: Vec<_> = r.sources.iter().map(|f| f.display().to_string()).collect();
    let digest: String = r.digest.chars().take(16).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "in force: generation {}, {}, {}, digest {}, from {}",
        r.generation,
        counted(r.agents, "agent"),
        counted(r.rules, "rule"),
        printable(&digest),
        match sources.is_empty() {
            true => "no file".into(),
            false => printable(&sources.join(" ")).into_owned(),
        },
    );
    for change in &r.changes {
        let _ = writeln!(out, "  {}", printable(change));
    }
    for warning in &r.warnings {
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}

fn counted(n: u32, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_is_in_force_and_what_changed() {
        let report = ReloadReport {
            generation: 3,
            digest: "0123456789abcdef01".into(),
            agents: 1,
            rules: 9,
            sources: vec!["/etc/exeat/policy.d/a.yaml".into()],
            changes: vec!["build-bot: 2 rules added".into()],
            warnings: vec!["rule 3 can never decide\x07".into()],
        };
        assert_eq!(
            render(&report),
            "in force: generation 3, 1 agent, 9 rules, digest 0123456789abcdef, from \
             /etc/exeat/policy.d/a.yaml\n  build-bot: 2 rules added\n  warning: rule 3 can \
             never decide\\u{7}\n"
        );
    }
}
