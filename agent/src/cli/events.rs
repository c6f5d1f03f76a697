//! `exeat events`.

use std::path::Path;

use clap::Args;
use jiff::tz::TimeZone;

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, Style, Tone, print, print_json_line};
use crate::control::protocol::{DEFAULT_LIMIT, LossCause};
use crate::control::{Client, ClientError, Request, Response};
use crate::flow::FlowRecord;

/// Show refused flows and incidents, the newest last
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only those of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only those after this number (`seq` in JSON)
    #[arg(long, value_name = "SEQ")]
    pub since_seq: Option<u64>,
    /// At most so many past ones
    #[arg(short = 'n', long, value_name = "N", default_value_t = DEFAULT_LIMIT)]
    pub limit: u32,
    /// Text or JSON lines.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Asks and shows until the daemon has no more.
pub fn run(socket: &Path, args: &EventsArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Events {
        follow: args.follow,
        since_seq: args.since_seq,
        agent: args.agent.clone(),
        limit: Some(args.limit),
    })?;
    if args.follow {
        client.wait_forever()?;
    }
    let (style, zone) = (Style::stdout(), TimeZone::system());
    let broken = |error| match error {
        // Killed: it had no time for a last word.
        ClientError::Closed(_) if args.follow => ended("the daemon has ended without a word"),
        error => Failure::from(error),
    };
    while let Some(answer) = client.next().map_err(broken)? {
        match (args.output.output, &answer) {
            // Losses and the last number are for programs too: see `type`.
            (Format::Json, _) => print_json_line(&answer)?,
            (Format::Text, Response::Lost { records, cause }) => {
                eprintln!("exeat: {}", loss(*records, *cause));
            }
            (Format::Text, record) => {
                if let Some(text) = shown(record, style, &zone) {
                    print(&text)?;
                }
            }
        }
        if matches!(answer, Response::End { .. }) {
            return match args.follow {
                false => Ok(Exit::Ok),
                true => Err(ended("the daemon has stopped")),
            };
        }
    }
    Err(broken(ClientError::Closed(socket.to_owned())))
}

/// A flow or an incident as a line.
pub(super) fn shown(record: &Response, style: Style, zone: &TimeZone) -> Option<String> {
    match record {
        Response::Flow(record) => Some(text(record, style, zone)),
        Response::Incident(incident) => Some(coloured(
            incident.line(zone),
            incident.kind.as_str(),
            style,
            Tone::Warn,
        )),
        _ => None,
    }
}

fn ended(how: &str) -> Failure {
    let text = format!("{how}; enforcement goes on without it");
    Failure::new(Exit::NotRunning, text)
}

fn text(record: &FlowRecord, style: Style, zone: &TimeZone) -> String {
    let tone = match record.verdict {
        crate::flow::FlowVerdict::Deny => Tone::Bad,
        crate::flow::FlowVerdict::WouldDeny => Tone::Warn,
        crate::flow::FlowVerdict::Allow => Tone::Good,
    };
    coloured(record.line(zone), record.verdict.as_str(), style, tone)
}

/// The line with its word in colour: it has two spaces on either side of it, and nowhere before.
fn coloured(line: String, word: &str, style: Style, tone: Tone) -> String {
    let coloured = format!("  {}  ", style.paint(tone, word));
    format!("{}\n", line.replacen(&format!("  {word}  "), &coloured, 1))
}

fn loss(records: u64, cause: LossCause) -> String {
    match cause {
        LossCause::Overwritten => format!(
            "{records} older flows are no longer in memory (`events: keep:` sets how many are)"
        ),
        LossCause::SlowReader => {
            format!("{records} flows are not shown: this reader was too slow")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::record;

    #[test]
    fn only_the_verdict_is_coloured() {
        let plain = text(&record(), Style::default(), &TimeZone::UTC);
        assert_eq!(plain, format!("{}\n", record().line(&TimeZone::UTC)));
        let coloured = text(&record(), Style { colour: true }, &TimeZone::UTC);
        assert_eq!(
            coloured,
            plain.replace("  deny  ", "  \x1b[31mdeny\x1b[0m  ")
        );
        assert_ne!(coloured, plain);
    }

    /// What a reader is told when the daemon takes the request and closes.
    fn cut_off(follow: bool) -> Failure {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let daemon = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accept");
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut line)
                .expect("a request");
        });
        let args = EventsArgs {
            follow,
            ..EventsArgs::default()
        };
        let failure = run(&path, &args).expect_err("no end was said");
        daemon.join().expect("daemon");
        failure
    }

    #[test]
    fn a_follower_of_a_killed_daemon_hears_that_enforcement_goes_on() {
        let failure = cut_off(true);
        assert_eq!(failure.exit, Exit::NotRunning);
        assert_eq!(
            failure.message,
            "the daemon has ended without a word; enforcement goes on without it"
        );
        assert_eq!(cut_off(false).exit, Exit::Failed);
    }

    #[test]
    fn losses_say_why() {
        assert!(loss(3, LossCause::Overwritten).starts_with("3 older flows"));
        assert!(loss(3, LossCause::SlowReader).contains("too slow"));
    }
}
