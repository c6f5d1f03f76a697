//! `exeat freeze`, `exeat thaw` and `exeat kill`.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, print, print_json};
use super::term::printable;
use crate::control::protocol::{HoldReport, Holding};
use crate::control::{Client, ClientError, Request, Response};

/// Which agent.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct HoldArgs {
    /// The agent
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Asks the daemon, and says what was done and what to do next. What the kernel does not
/// confirm is a failure.
pub fn run(socket: &Path, args: &HoldArgs, how: Holding) -> Result<Exit, Failure> {
    let agent = args.agent.clone();
    let request = match how {
        Holding::Frozen => Request::Freeze { agent },
        Holding::Thawed => Request::Thaw { agent },
        Holding::Killed => Request::Kill { agent },
    };
    let Response::Held(report) = Client::connect(socket)?.ask(&request)? else {
        return Err(ClientError::Protocol("it is no report of an agent".into()).into());
    };
    match args.output.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&render(&report))?,
    }
    Ok(match report.confirmed {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

fn render(report: &HoldReport) -> String {
    let mut out = format!("{}\n", printable(&report.message));
    // Writing to a String cannot fail.
    if !report.next.is_empty() {
        let _ = writeln!(out, "  {}", printable(&report.next));
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_was_done_and_what_to_do_next() {
        let report = HoldReport {
            agent: "a".into(),
            did: Holding::Frozen,
            changed: true,
            confirmed: true,
            frozen: true,
            processes: 2,
            message: "agent a is frozen".into(),
            next: "thaw it".into(),
            warnings: vec!["no\x07".into()],
        };
        assert_eq!(
            render(&report),
            "agent a is frozen\n  thaw it\n  warning: no\\u{7}\n"
        );
    }
}
