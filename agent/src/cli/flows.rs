//! `exeat flows`: what went where, out of the history.

use std::io;
use std::path::Path;

use clap::{Args, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};

use super::events;
use super::exit::{Exit, Failure};
use super::output::{Columns, Style, Tone, bytes, print, print_json, print_json_line};
use super::past::{moment, pages};
use crate::control::{Client, ClientError, Request, Response};
use crate::flow::{FlowRecord, FlowVerdict, printable};
use crate::store::{SummaryBy, SummaryRow};

/// For people, for programs, or for spreadsheets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object a line, as in `exeat events`.
    Json,
    /// For spreadsheets.
    Csv,
}

/// Show what went where, out of the history: the newest last
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FlowsArgs {
    /// From then on: how long ago, as in 90m or 7d, or a time
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "1h")]
    pub since: Timestamp,
    /// Until then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
    /// Only of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only to this host: a name, an address, or `*.NAME` for what is below it; may be repeated
    #[arg(long, value_name = "HOST")]
    pub name: Vec<String>,
    /// Only with this outcome
    #[arg(long, value_name = "VERDICT", value_enum)]
    pub verdict: Option<Word>,
    /// At most so many, the newest; of a summary: rows
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,
    /// Incidents too
    #[arg(long)]
    pub incidents: bool,
    /// Add them up instead: who talked to what, with bytes
    #[arg(long, value_name = "BY", value_enum, conflicts_with_all = ["name", "verdict", "incidents"])]
    pub summary: Option<SummaryBy>,
    /// Print for people, for programs, or for spreadsheets
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Word {
    /// Let out.
    Allow,
    /// Refused.
    Deny,
    /// Let out by monitor mode alone.
    WouldDeny,
}

impl From<Word> for FlowVerdict {
    fn from(word: Word) -> Self {
        match word {
            Word::Allow => Self::Allow,
            Word::Deny => Self::Deny,
            Word::WouldDeny => Self::WouldDeny,
        }
    }
}

/// Asks and shows.
pub fn run(socket: &Path, args: &FlowsArgs) -> Result<Exit, Failure> {
    if args.until.is_some_and(|until| until <= args.since) {
        let text = "--until lies before --since: nothing can be between them";
        return Err(Failure::new(Exit::Usage, text));
    }
    match args.summary {
        Some(by) => summary(socket, args, by),
        None => flows(socket, args),
    }
}

fn flows(socket: &Path, args: &FlowsArgs) -> Result<Exit, Failure> {
    let request = |limit, before| Request::History {
        agent: args.agent.clone(),
        since: Some(args.since),
        until: args.until,
        names: args.name.clone(),
        verdict: args.verdict.map(Into::into),
        incidents: args.incidents,
        limit: Some(limit),
        before,
    };
    // Pages come from the newest, and are shown from the oldest.
    let mut all = Vec::new();
    pages(socket, request, args.limit.into(), |page| {
        all.push(page);
        Ok(())
    })?;
    let records = all.into_iter().rev().flatten();
    let (style, zone) = (Style::stdout(), TimeZone::system());
    let mut sheet = Sheet::default();
    for record in records {
        match (args.output, &record) {
            (Format::Json, _) => print_json_line(&record)?,
            (Format::Text, _) => {
                if let Some(text) = events::shown(&record, style, &zone) {
                    print(&text)?;
                }
            }
            (Format::Csv, Response::Flow(flow)) => sheet.row(&flow_cells(flow)),
            (Format::Csv, _) => {}
        }
    }
    if args.output == Format::Csv {
        print(&sheet.text(&FLOW_HEADS)?)?;
    }
    Ok(Exit::Ok)
}

fn summary(socket: &Path, args: &FlowsArgs, by: SummaryBy) -> Result<Exit, Failure> {
    let answer = Client::connect(socket)?.ask(&Request::Summary {
        since: Some(args.since),
        until: args.until,
        agent: args.agent.clone(),
        by,
        limit: Some(args.limit),
    })?;
    let Response::Summary { rows, more } = answer else {
        return Err(ClientError::Protocol("another answer than asked for".into()).into());
    };
    match args.output {
        Format::Json => print_json(&serde_json::json!({ "rows": rows, "more": more }))?,
        Format::Text => {
            print(&table(&rows, by, &TimeZone::system()))?;
            if more {
                eprintln!("exeat: there are more; ask with a larger --limit or a later --since");
            }
        }
        Format::Csv => {
            let mut sheet = Sheet::default();
            for row in &rows {
                sheet.row(&row_cells(row));
            }
            print(&sheet.text(&ROW_HEADS)?)?;
        }
    }
    Ok(Exit::Ok)
}

fn table(rows: &[SummaryRow], by: SummaryBy, zone: &TimeZone) -> String {
    let head = match by {
        SummaryBy::Agent => "AGENT",
        SummaryBy::Destination => "DESTINATION",
        SummaryBy::Verdict => "VERDICT",
        SummaryBy::Hour => "HOUR (UTC)",
        SummaryBy::Process => "PROCESS",
    };
    let heads = [
        head,
        "ALLOWED",
        "DENIED",
        "QUESTIONS",
        "SENT",
        "RECEIVED",
        "LAST",
    ];
    let mut columns = Columns::new(Style::stdout(), &heads);
    let number = |n: u64| match n {
        0 => "-".to_owned(),
        n => n.to_string(),
    };
    for row in rows {
        let key = match (&row.key, &row.detail) {
            (key, Some(detail)) => format!("{key} ({detail})"),
            (key, None) if key.is_empty() => "(unknown)".to_owned(),
            (key, None) => key.clone(),
        };
        let last = row.last.to_zoned(zone.clone());
        let tone = match row.denied {
            0 => Tone::Plain,
            _ => Tone::Bad,
        };
        columns.row(&[
            (&key, Tone::Plain),
            (&number(row.allowed), Tone::Plain),
            (&number(row.denied), tone),
            (&number(row.questions), Tone::Plain),
            (&bytes(row.sent_bytes), Tone::Plain),
            (&bytes(row.received_bytes), Tone::Plain),
            (&last.strftime("%Y-%m-%d %H:%M:%S").to_string(), Tone::Plain),
        ]);
    }
    columns.text()
}

const FLOW_HEADS: [&str; 18] = [
    "time",
    "agent",
    "verdict",
    "reason",
    "hook",
    "protocol",
    "source",
    "destination",
    "port",
    "name",
    "process",
    "pid",
    "uid",
    "rule",
    "sent_bytes",
    "sent_packets",
    "received_bytes",
    "received_packets",
];

fn flow_cells(flow: &FlowRecord) -> [String; 18] {
    let process = flow.process.as_ref();
    let text = |value: Option<String>| value.unwrap_or_default();
    let traffic = |get: fn(&crate::flow::Traffic) -> u64| {
        text(
            flow.traffic
                .as_ref()
                .map(|traffic| get(traffic).to_string()),
        )
    };
    let names = flow
        .server_name
        .iter()
        .chain(flow.dns.as_ref().map(|q| &q.name));
    [
        flow.time.to_string(),
        flow.agent.clone(),
        flow.verdict.as_str().to_owned(),
        text(flow.reason.map(|reason| reason.as_str().to_owned())),
        flow.hook.as_str().to_owned(),
        flow.protocol.as_str().to_owned(),
        text(flow.source.map(|end| end.to_string())),
        text(flow.dest.map(|end| end.ip.to_string())),
        text(flow.dest.map(|end| end.port.to_string())),
        text(names.chain(&flow.names).next().cloned()),
        text(process.map(|p| match &p.exe {
            Some(exe) => exe.to_string_lossy().into_owned(),
            None => p.comm.clone(),
        })),
        text(process.map(|p| p.pid.to_string())),
        text(process.map(|p| p.uid.to_string())),
        text(flow.rule.as_ref().map(|rule| rule.text.clone())),
        traffic(|t| t.sent_bytes),
        traffic(|t| t.sent_packets),
        traffic(|t| t.received_bytes),
        traffic(|t| t.received_packets),
    ]
}

const ROW_HEADS: [&str; 12] = [
    "key",
    "detail",
    "allowed",
    "denied",
    "questions",
    "suppressed",
    "sent_bytes",
    "sent_packets",
    "received_bytes",
    "received_packets",
    "first",
    "last",
];

fn row_cells(row: &SummaryRow) -> [String; 12] {
    [
        row.key.clone(),
        row.detail.clone().unwrap_or_default(),
        row.allowed.to_string(),
        row.denied.to_string(),
        row.questions.to_string(),
        row.suppressed.to_string(),
        row.sent_bytes.to_string(),
        row.sent_packets.to_string(),
        row.received_bytes.to_string(),
        row.received_packets.to_string(),
        row.first.to_string(),
        row.last.to_string(),
    ]
}

/// Rows for a spreadsheet.
#[derive(Default)]
struct Sheet(Vec<Vec<String>>);

impl Sheet {
    fn row(&mut self, cells: &[String]) {
        self.0
            .push(cells.iter().map(|cell| harmless(cell)).collect());
    }

    fn text(&self, heads: &[&str]) -> io::Result<String> {
        let mut sheet = csv::Writer::from_writer(Vec::new());
        sheet.write_record(heads)?;
        for row in &self.0 {
            sheet.write_record(row)?;
        }
        let bytes = sheet.into_inner().map_err(|e| e.into_error())?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }
}

/// A cell that a spreadsheet takes for text: what begins like a formula, and was chosen by a
/// confined program, must not become one.
fn harmless(cell: &str) -> String {
    let safe = printable(cell);
    match safe.starts_with(['=', '+', '-', '@']) {
        true => format!("'{safe}"),
        false => safe.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::record;

    #[test]
    fn a_name_that_a_program_chose_is_no_formula() {
        let mut flow = record();
        flow.server_name = Some("=HYPERLINK(\"http://x\",\"y\")".into());
        flow.agent = "a,b\n\u{1b}[2J".into();
        let mut sheet = Sheet::default();
        sheet.row(&flow_cells(&flow));
        let text = sheet.text(&FLOW_HEADS).expect("text");
        assert!(
            text.contains(",\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\","),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(
            rows.records().next().expect("a row").expect("whole").len(),
            18
        );
    }

    #[test]
    fn a_summary_reads_as_a_table() {
        let row = SummaryRow {
            key: "files.example.com".into(),
            allowed: 3,
            sent_bytes: 5_300_000,
            ..SummaryRow::default()
        };
        let unknown = SummaryRow {
            denied: 1,
            ..SummaryRow::default()
        };
        let text = table(&[row, unknown], SummaryBy::Destination, &TimeZone::UTC);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("DESTINATION"), "{text}");
        assert!(lines[1].contains("5.3 MB"), "{text}");
        assert!(lines[2].starts_with("(unknown)"), "{text}");
    }
}
