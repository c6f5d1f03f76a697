//! `exeat dns`.

use std::path::Path;

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, duration, print, print_json};
use super::term::printable;
use crate::control::{Client, ClientError, DnsReport, Request, Response};

/// Say what an agent would be answered for a name, and why
///
/// The daemon asks its upstream as it would for the agent; nothing is leased by asking.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DnsArgs {
    /// The agent
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// The name, as a program would ask for it
    pub name: String,
    /// The record type
    #[arg(long = "type", short = 't', value_name = "TYPE", default_value = "A")]
    pub qtype: String,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Asks and shows. The code is 1 where the agent gets no record.
pub fn run(socket: &Path, args: &DnsArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Dns {
        agent: args.agent.clone(),
        name: args.name.clone(),
        qtype: args.qtype.clone(),
    })?;
    let report = match client.next()? {
        Some(Response::Dns(report)) => report,
        Some(_) => return Err(ClientError::Protocol("it is no answer".into()).into()),
        None => return Err(ClientError::Closed(socket.to_owned()).into()),
    };
    match args.output.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&render(&report, Style::stdout()))?,
    }
    Ok(match report.records.is_empty() {
        true => Exit::Failed,
        false => Exit::Ok,
    })
}

fn render(report: &DnsReport, style: Style) -> String {
    let tone = match report.verdict.as_str() {
        "answered" => Tone::Good,
        "no_data" => Tone::Warn,
        _ => Tone::Bad,
    };
    let mut text = format!(
        "{} {} for {}: {} ({})\n  {}\n",
        printable(&report.name),
        printable(&report.qtype),
        printable(&report.agent),
        style.paint(tone, &printable(&report.verdict)),
        printable(&report.rcode),
        printable(&report.why),
    );
    for rule in &report.rules {
        text += &format!("  rule: {}\n", printable(rule));
    }
    if let Some(source) = &report.source {
        let upstream = report.upstream.as_deref().unwrap_or("nobody");
        text += &format!(
            "  from: {} of {}, {} ms\n",
            printable(source),
            printable(upstream),
            report.elapsed_us as f64 / 1000.0
        );
    }
    if !report.chain.is_empty() {
        text += &format!("  alias of: {}\n", printable(&report.chain.join(" → ")));
    }
    if !report.records.is_empty() {
        let mut columns = Columns::new(style, &["NAME", "TTL", "TYPE", "DATA", "LEASED"]);
        for record in &report.records {
            let leased = match record.leased {
                Some(left) => duration(left),
                None => "–".to_owned(),
            };
            columns.row(&[
                (&record.name, Tone::Plain),
                (&record.ttl.to_string(), Tone::Plain),
                (&record.rtype, Tone::Plain),
                (&record.data, Tone::Plain),
                (&leased, Tone::Plain),
            ]);
        }
        text += &columns.text();
    }
    for removed in &report.removed {
        let line = format!("removed: {} ({})", removed.address, printable(&removed.why));
        text += &format!("{}\n", style.paint(Tone::Warn, &line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{DnsRecord, DnsRemoved};

    #[test]
    fn an_answer_says_why() {
        let report = DnsReport {
            agent: "a".into(),
            name: "n.example".into(),
            qtype: "A".into(),
            verdict: "answered".into(),
            rcode: "noerror".into(),
            why: "a rule names it".into(),
            rules: vec!["allow tcp *.example:443".into()],
            records: vec![DnsRecord {
                name: "n.example\x1b".into(),
                rtype: "A".into(),
                ttl: 30,
                data: "192.0.2.1".into(),
                address: "192.0.2.1".parse().ok(),
                leased: Some(61),
            }],
            removed: vec![DnsRemoved {
                address: "10.0.0.1".parse().expect("address"),
                why: "private".into(),
            }],
            chain: vec!["x.example".into(), "y.example".into()],
            source: Some("cache".into()),
            upstream: Some("192.0.2.53:53".into()),
            elapsed_us: 1500,
        };
        assert_eq!(
            render(&report, Style::default()),
            "n.example A for a: answered (noerror)\n  a rule names it\n  \
             rule: allow tcp *.example:443\n  from: cache of 192.0.2.53:53, 1.5 ms\n  \
             alias of: x.example → y.example\n\
             NAME             TTL  TYPE  DATA       LEASED\n\
             n.example\\u{1b}  30   A     192.0.2.1  1m 1s\n\
             removed: 10.0.0.1 (private)\n"
        );
    }
}
