//! `exeat portal`.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use super::ask::seconds;
use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, print, print_json};
use super::term::printable;
use crate::control::protocol::PortalReport;
use crate::control::{Client, ClientError, Request, Response};

/// What follows the help.
pub const AFTER_HELP: &str = "Without --agent the daemon asks the network's own name servers \
    (resolv.conf) instead of those that are configured, for hotspots that let no other through; \
    what they say is believed for 30 seconds. With --agent that agent may reach the network's \
    gateways and each --host on ports 80 and 443. Deny rules hold all the while.\n\nExamples:\n  \
    sudo exeat portal --for 5m\n  sudo exeat portal --for 5m --agent browser --host \
    login.hotel.example\n  sudo exeat portal --off";

/// Open a network's portal for a short time, for one agent or for the daemon's resolver
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(id = "what", required = true, multiple = false, args = ["time", "off"])]
pub struct PortalArgs {
    /// For how long, such as 5m; at most an hour
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    pub time: Option<u64>,
    /// Close it
    #[arg(long, conflicts_with_all = ["agent", "host"])]
    pub off: bool,
    /// For this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// The portal's host; several times for several
    #[arg(long, value_name = "HOST", requires = "agent")]
    pub host: Vec<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Opens or closes it.
pub fn run(socket: &Path, args: &PortalArgs) -> Result<Exit, Failure> {
    let request = Request::Portal {
        agent: args.agent.clone(),
        seconds: args.time,
        hosts: args.host.clone(),
    };
    let Response::Portal(report) = Client::connect(socket)?.ask(&request)? else {
        return Err(ClientError::Protocol("it is no report of a portal".into()).into());
    };
    match args.output.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&told(&report))?,
    }
    Ok(Exit::Ok)
}

fn told(report: &PortalReport) -> String {
    let mut out = format!("{}\n", printable(&report.message));
    for warning in &report.warnings {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_and_what_the_daemon_says_is_shown() {
        assert_eq!(seconds("5m"), Ok(300));
        assert!(seconds("-5m").is_err() && seconds("soon").is_err());
        let report = PortalReport {
            agent: None,
            until: None,
            opened: Vec::new(),
            message: "closed\x07".into(),
            warnings: vec!["w".into()],
        };
        assert_eq!(told(&report), "closed\\u{7}\n  warning: w\n");
    }
}
