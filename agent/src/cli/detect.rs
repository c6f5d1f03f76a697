//! `exeat detect`.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, print, print_json};
use crate::config::{Config, Detect};
use crate::detect::{self, Action, Engine, Rule, Seen, Severity};
use crate::flow::FlowRecord;
use crate::incident::Incident;
use crate::sink::Record;

pub(super) const EXAMPLES: &str = "\
Examples:
  exeat detect check                            which rules hold here
  exeat detect check my-rules.yaml              whether a file is sound, beside the starter set
  exeat events -n 1000 --output json | exeat detect test
                                                what the rules find in the last events
  exeat detect test --rules my-rules.yaml events.jsonl

`detect test` exits with 1 if a rule finds something.";

/// Check detection rules, and try them on recorded events
///
/// Rules are expressions of CEL (https://cel.dev) over one record, and over the records of a time
/// that count together; docs/detection.md has the variables.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DetectArgs {
    /// What is to be done.
    #[command(subcommand)]
    pub command: DetectCommand,
}

/// Which.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum DetectCommand {
    /// Say which rules hold, or what is wrong with them
    Check {
        /// Files and folders of rules, in place of the configured ones
        #[arg(value_name = "PATH")]
        rules: Vec<PathBuf>,
        /// Leave the starter set out
        #[arg(long)]
        no_starter: bool,
        /// Text or JSON.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Replay recorded events, and show what the rules find; nothing is done
    Test {
        /// Files and folders of rules, in place of the configured ones
        #[arg(long, value_name = "PATH")]
        rules: Vec<PathBuf>,
        /// Leave the starter set out
        #[arg(long)]
        no_starter: bool,
        /// Events, one JSON object a line, the oldest first [default: standard input]
        #[arg(value_name = "FILE")]
        events: Option<PathBuf>,
        /// Text or JSON.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Does it.
pub fn run(config: &Config, args: &DetectArgs) -> Result<Exit, Failure> {
    match &args.command {
        DetectCommand::Check {
            rules,
            no_starter,
            output,
        } => check(&load(config, rules, *no_starter)?, output.output),
        DetectCommand::Test {
            rules,
            no_starter,
            events,
            output,
        } => {
            let rules = load(config, rules, *no_starter)?;
            test(rules, events.as_deref(), output.output)
        }
    }
}

fn load(config: &Config, named: &[PathBuf], no_starter: bool) -> Result<Vec<Rule>, Failure> {
    let (paths, optional) = match named.is_empty() {
        true => (
            config.detect.rules.as_slice(),
            config.detect.rules == Detect::default().rules,
        ),
        false => (named, false),
    };
    detect::load(config.detect.starter && !no_starter, paths, optional)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    title: &'a str,
    severity: Severity,
    within_seconds: u64,
    quiet_seconds: u64,
    actions: Vec<Action>,
}

fn check(rules: &[Rule], format: Format) -> Result<Exit, Failure> {
    let shown: Vec<_> = (rules.iter())
        .map(|rule| Shown {
            id: &rule.id,
            title: &rule.title,
            severity: rule.severity,
            within_seconds: rule.within,
            quiet_seconds: rule.quiet,
            actions: rule.actions.iter().copied().collect(),
        })
        .collect();
    if format == Format::Json {
        print_json(&shown)?;
        return Ok(Exit::Ok);
    }
    let mut columns = Columns::new(Style::stdout(), &["RULE", "SEVERITY", "ACTIONS", "FINDS"]);
    for rule in &shown {
        let actions: Vec<_> = rule.actions.iter().map(|action| action.as_str()).collect();
        columns.row(&[
            (rule.id, Tone::Plain),
            (rule.severity.as_str(), tone(rule.severity)),
            (&actions.join(", "), Tone::Plain),
            (rule.title, Tone::Plain),
        ]);
    }
    print(&columns.text())?;
    Ok(Exit::Ok)
}

const fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Low => Tone::Plain,
        Severity::Medium => Tone::Warn,
        Severity::High | Severity::Critical => Tone::Bad,
    }
}

fn test(rules: Vec<Rule>, events: Option<&Path>, format: Format) -> Result<Exit, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("{what}: {error}"))
    };
    let input: Box<dyn Read> = match events {
        Some(path) => Box::new(
            std::fs::File::open(path).map_err(|e| failed(&path.display().to_string(), &e))?,
        ),
        None => Box::new(std::io::stdin()),
    };
    let mut engine = Engine::new(rules, Seen::default());
    let mut found = Vec::new();
    for (number, line) in BufReader::new(input).lines().enumerate() {
        let line = line.map_err(|e| failed("the events", &e))?;
        if line.trim().is_empty() {
            continue;
        }
        let record = read(&line).map_err(|error| {
            let text = format!(
                "line {} is no event: {error}\n  give what `exeat events --output json` prints, or the file of `events: file:`",
                number + 1
            );
            Failure::new(Exit::Usage, text)
        })?;
        found.extend(record.map(|r| engine.feed(&r)).unwrap_or_default());
    }
    for (rule, error) in engine.troubles() {
        eprintln!("exeat: rule `{rule}` fails for some records: {error}");
    }
    let incidents: Vec<Incident> = (found.iter())
        .map(|detection| Incident {
            time: detection.time,
            ..detection.incident()
        })
        .collect();
    if format == Format::Json {
        print_json(&incidents)?;
    } else {
        let zone = TimeZone::system();
        let mut text: String = (incidents.iter())
            .map(|incident| format!("{}  [{}]\n", incident.line(&zone), incident.facts["rule"]))
            .collect();
        let records = engine.counts().records;
        text.push_str(&format!("{records} events, {} findings\n", found.len()));
        print(&text)?;
    }
    Ok(match found.is_empty() {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

/// A line of events; none for one that is about the stream itself.
fn read(line: &str) -> serde_json::Result<Option<Record>> {
    let value: serde_json::Value = serde_json::from_str(line)?;
    Ok(
        match value.get("type").and_then(serde_json::Value::as_str) {
            Some("incident") => Some(Record::Incident(serde_json::from_value(value)?)),
            Some("lost" | "end") => None,
            _ => Some(Record::Flow(serde_json::from_value::<FlowRecord>(value)?)),
        },
    )
}
