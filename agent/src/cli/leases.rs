//! `exeat leases`.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, duration, print, print_json};
use crate::control::{Client, ClientError, Lease, Request, Response};

/// Show which addresses names stand for now, and for how long
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct LeasesArgs {
    /// Only leases of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Asks and shows.
pub fn run(socket: &Path, args: &LeasesArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Leases {
        agent: args.agent.clone(),
    })?;
    let mut leases = Vec::new();
    loop {
        match client.next()? {
            Some(Response::Leases { leases: more }) => leases.extend(more),
            Some(Response::End { .. }) => break,
            Some(_) => return Err(ClientError::Protocol("it is no lease".into()).into()),
            None => return Err(ClientError::Closed(socket.to_owned()).into()),
        }
    }
    match args.output.output {
        Format::Json => print_json(&leases)?,
        Format::Text => print(&render(&leases, Timestamp::now(), Style::stdout()))?,
    }
    Ok(Exit::Ok)
}

fn render(leases: &[Lease], now: Timestamp, style: Style) -> String {
    if leases.is_empty() {
        return "no leases: no name of the policy has an address now\n".to_owned();
    }
    let mut columns = Columns::new(
        style,
        &["AGENT", "NAME", "ADDRESS", "LEFT", "UNTIL", "STATE"],
    );
    for l in leases {
        let left = l.expires.duration_since(now).as_secs();
        let until = l.expires.strftime("%FT%TZ").to_string();
        let (state, tone) = match (l.in_use, l.grace) {
            (true, _) => ("in use", Tone::Good),
            (false, true) => ("grace", Tone::Warn),
            (false, false) => ("current", Tone::Good),
        };
        columns.row(&[
            (&l.agent, Tone::Plain),
            (&l.name, Tone::Plain),
            (&l.address.to_string(), Tone::Plain),
            (&duration(u64::try_from(left).unwrap_or(0)), Tone::Plain),
            (&until, Tone::Plain),
            (state, tone),
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_show_how_long_they_live() {
        let now: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
        let lease = |expires: &str, grace, in_use| Lease {
            agent: "a".into(),
            name: "n.example\x1b".into(),
            address: "2001:db8::1".parse().expect("address"),
            expires: expires.parse().expect("time"),
            grace,
            in_use,
        };
        let leases = [
            lease("2026-03-04T12:01:01Z", false, false),
            lease("2026-03-04T11:00:00Z", true, false),
            lease("2026-03-04T12:00:09Z", true, true),
        ];
        assert_eq!(
            render(&leases, now, Style::default()),
            "AGENT  NAME             ADDRESS      LEFT   UNTIL                 STATE\n\
             a      n.example\\u{1b}  2001:db8::1  1m 1s  2026-03-04T12:01:01Z  current\n\
             a      n.example\\u{1b}  2001:db8::1  0s     2026-03-04T11:00:00Z  grace\n\
             a      n.example\\u{1b}  2001:db8::1  9s     2026-03-04T12:00:09Z  in use\n"
        );
        assert!(render(&[], now, Style::default()).contains("no leases"));
    }
}
