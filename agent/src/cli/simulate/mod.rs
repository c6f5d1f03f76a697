//! `exeat simulate`: what another policy would have said to what was recorded.

mod replay;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, print, print_json};
use super::past::{moment, pages};
use crate::control::{Request, Response};
use crate::policy;
use replay::{Change, Replay};

/// Exit code where nothing would be different.
pub const EXIT_SAME: Exit = Exit::Ok;
/// Exit code where something would be.
pub const EXIT_CHANGES: Exit = Exit::Failed;

/// Replay the recorded flows against a changed policy, and list what would change
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SimulateArgs {
    /// The changed policy: a file, or a folder of `*.yaml` files; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    pub policy: Vec<PathBuf>,
    /// Only flows of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Flows from then on: how long ago, as in 12h or 7d, or a time
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "7d")]
    pub since: Timestamp,
    /// Flows until then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    since: Timestamp,
    /// Records that were judged.
    judged: u64,
    /// Records that no rule decides: budgets, walls, sockets of a kind that agents may not make.
    not_judged: u64,
    changes: &'a [Change],
    /// Agents of the policy that are in monitor mode: there nothing is refused.
    monitored: &'a BTreeSet<String>,
}

/// Replays and lists.
pub fn run(socket: &Path, args: &SimulateArgs) -> Result<Exit, Failure> {
    let set = policy::load(&args.policy)
        .map_err(|errors| Failure::new(Exit::Usage, errors.to_string()))?;
    if let Some(agent) = &args.agent
        && !set.agents.contains_key(agent.as_str())
    {
        eprintln!(
            "exeat: the changed policy has no agent `{}`",
            agent.escape_debug()
        );
    }
    let mut replay = Replay::new(&set)
        .map_err(|error| Failure::new(Exit::Usage, format!("{error}\n  help: {}", error.help())))?;
    let request = |limit, before| Request::History {
        agent: args.agent.clone(),
        since: Some(args.since),
        until: args.until,
        names: Vec::new(),
        verdict: None,
        incidents: false,
        limit: Some(limit),
        before,
    };
    pages(socket, request, u64::MAX, |page| {
        for record in &page {
            if let Response::Flow(flow) = record {
                replay.take(flow);
            }
        }
        Ok(())
    })?;
    let outcome = replay.finish();
    match args.output.output {
        Format::Json => print_json(&Report {
            since: args.since,
            judged: outcome.judged,
            not_judged: outcome.not_judged,
            changes: &outcome.changes,
            monitored: &outcome.monitored,
        })?,
        Format::Text => print(&text(&outcome, &TimeZone::system()))?,
    }
    Ok(match outcome.changes.is_empty() {
        true => EXIT_SAME,
        false => EXIT_CHANGES,
    })
}

fn text(outcome: &replay::Outcome, zone: &TimeZone) -> String {
    let mut out = String::new();
    for (refused, title) in [(true, "Newly refused"), (false, "Newly allowed")] {
        let mut columns = Columns::new(
            Style::stdout(),
            &["AGENT", "DESTINATION", "FLOWS", "LAST", "PROCESS", "WHY"],
        );
        let mut any = false;
        for change in outcome.changes.iter().filter(|c| c.is_refusal() == refused) {
            any = true;
            let last = change.last.to_zoned(zone.clone());
            let processes: Vec<&str> = change.processes.iter().map(String::as_str).collect();
            let tone = match refused {
                true => Tone::Bad,
                false => Tone::Warn,
            };
            columns.row(&[
                (&change.agent, Tone::Plain),
                (&change.destination(), tone),
                (&change.flows.to_string(), Tone::Plain),
                (&last.strftime("%Y-%m-%d %H:%M").to_string(), Tone::Plain),
                (&processes.join(", "), Tone::Plain),
                (&change.why, Tone::Plain),
            ]);
        }
        if any {
            out.push_str(&format!("{title}:\n{}\n", columns.text()));
        }
    }
    for agent in &outcome.monitored {
        out.push_str(&format!(
            "{} is in monitor mode there: its refusals would be reported, not made.\n",
            super::term::printable(agent)
        ));
    }
    let changes = match outcome.changes.len() {
        0 => "nothing would change".to_owned(),
        1 => "1 destination would change".to_owned(),
        n => format!("{n} destinations would change"),
    };
    out.push_str(&format!(
        "{} records replayed: {changes}.\n",
        outcome.judged
    ));
    if outcome.not_judged > 0 {
        out.push_str(&format!(
            "{} more are about what no rule decides, and were left out.\n",
            outcome.not_judged
        ));
    }
    out
}
