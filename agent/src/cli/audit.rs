//! `exeat audit`: whether the log is whole, and what is in it. Reads files; asks no daemon.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, Style, Tone, print, print_json};
use crate::audit::{
    CREDENTIAL, Fault, Key, Lines, PublicKey, Report, VerifyError, known_keys, list, verify_files,
    verify_folder,
};
use crate::config::ConfigError;
use crate::flow::printable;

/// What to do with the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(disable_help_subcommand = true)]
pub struct AuditArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub action: Action,
}

/// What follows the help of `audit verify`.
const AFTER_VERIFY: &str = "Exit codes: 0 the log is sound, 1 it was changed, 2 it could not be \
    checked.\n\nExamples:\n  exeat audit verify\n  exeat audit verify --folder /mnt/evidence/audit \
    --public-key \"$(cat laptop.pub)\" --output json";

/// What follows the help of `audit key`.
const AFTER_KEY: &str = "Examples:\n  exeat audit key > laptop.pub\n  exeat audit key --new | \
    systemd-creds encrypt --with-key=auto --name=exeat-audit-key - /etc/credstore.encrypted/exeat-audit-key";

/// The subcommands of `audit`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Find every edit, cut, swap and missing record, and say exactly where (exit 0 sound, 1 not)
    #[command(after_help = AFTER_VERIFY)]
    Verify(VerifyArgs),
    /// Show what is in the log, the newest last; JSON gives the lines as they are
    Show(ShowArgs),
    /// Print the public keys that check the log; keep them elsewhere
    #[command(after_help = AFTER_KEY)]
    Key(KeyArgs),
}

/// What is checked, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct VerifyArgs {
    /// Only these files of a log: that they follow from each other
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The folder of the log [default: that of the configuration]
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    pub folder: Option<PathBuf>,
    /// The key that signed (again for more) [default: those that the folder itself names]
    #[arg(long, value_name = "KEY")]
    pub public_key: Vec<PublicKey>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct ShowArgs {
    /// Only what is younger: a span such as 2h or 7d, or a time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what is about this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// The folder of the log [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which key is printed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct KeyArgs {
    /// Make a new private key and print it, for `systemd-creds encrypt`
    #[arg(long)]
    pub new: bool,
    /// The folder of the log [default: that of the configuration]
    #[arg(long, value_name = "DIR", conflicts_with = "new")]
    pub folder: Option<PathBuf>,
}

/// Where the log is, if nobody says.
type Configured<'a> = &'a dyn Fn() -> Result<PathBuf, ConfigError>;

/// Does it.
pub fn run(args: &AuditArgs, configured: Configured<'_>) -> Result<Exit, Failure> {
    match &args.action {
        Action::Verify(args) => verify(args, configured),
        Action::Show(args) => show(args, configured),
        Action::Key(args) => key(args, configured),
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

fn folder(given: Option<&PathBuf>, configured: Configured<'_>) -> Result<PathBuf, Failure> {
    match given {
        Some(folder) => Ok(folder.clone()),
        None => Ok(configured()?),
    }
}

fn verify(args: &VerifyArgs, configured: Configured<'_>) -> Result<Exit, Failure> {
    let report = match args.files.first() {
        None => {
            let folder = folder(args.folder.as_ref(), configured)?;
            verify_folder(&folder, &args.public_key)?
        }
        Some(first) => {
            // What lies beside the files, if nobody says.
            let beside = known_keys(first.parent().unwrap_or(Path::new("")));
            match args.public_key.is_empty() {
                true => verify_files(&args.files, &beside)?,
                false => verify_files(&args.files, &args.public_key)?,
            }
        }
    };
    match args.output.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report, Style::stdout()))?,
    }
    Ok(match report.sound {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

fn text(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for fault in &report.faults {
        text.push_str(&style.paint(Tone::Bad, &line(fault)));
        text.push('\n');
    }
    if report.more_faults > 0 {
        text.push_str(&format!("… and {} more\n", report.more_faults));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {}\n", printable(note)));
    }
    if report.lost > 0 {
        let lost = format!("the daemon lost {} records, and says so\n", report.lost);
        text.push_str(&style.paint(Tone::Warn, &lost));
    }
    text.push_str(&format!(
        "{}: {} files, records {} to {} ({} events, {} signed)\nlast hash {}\n",
        match report.sound {
            true => style.paint(Tone::Good, "sound"),
            false => style.paint(Tone::Bad, "CHANGED"),
        },
        report.files,
        report.first_seq,
        report.last_seq,
        report.events,
        report.signed,
        report.last_hash,
    ));
    text
}

/// `audit-0000000001.jsonl:7: record 12: …`
fn line(fault: &Fault) -> String {
    let mut at = printable(&fault.file).into_owned();
    if let Some(line) = fault.line {
        at.push_str(&format!(":{line}"));
    }
    if let Some(seq) = fault.seq {
        at.push_str(&format!(": record {seq}"));
    }
    format!("{at}: {}", printable(&fault.message))
}

/// `7d` before now, or a time.
fn since(text: &str) -> Result<Timestamp, Failure> {
    let span = text.parse::<jiff::Span>().ok();
    let before = span.and_then(|span| Zoned::now().checked_sub(span.abs()).ok());
    before
        .map(|zoned| zoned.timestamp())
        .or_else(|| text.parse().ok())
        .ok_or_else(|| {
            let text = text.escape_debug();
            Failure::new(
                Exit::Usage,
                format!("--since {text}: write a span such as 2h or 7d, or a time such as 2026-01-31T08:00:00Z"),
            )
        })
}

fn show(args: &ShowArgs, configured: Configured<'_>) -> Result<Exit, Failure> {
    let folder = folder(args.folder.as_ref(), configured)?;
    let since = args.since.as_deref().map(since).transpose()?;
    let unreadable = |error: std::io::Error| {
        let text = format!("cannot read the audit log in {}: {error}", folder.display());
        Failure::new(Exit::Failed, text)
    };
    let files = list(&folder).map_err(unreadable)?;
    if files.is_empty() {
        return Err(VerifyError::Nothing(folder).into());
    }
    let zone = TimeZone::system();
    for file in files {
        for line in Lines::open(&file.path).map_err(unreadable)? {
            let line = line.map_err(unreadable)?;
            // What is no record is for `verify`.
            let Ok(record) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            if !is_asked(&record, since, args.agent.as_deref()) {
                continue;
            }
            match args.output.output {
                Format::Json => print(&format!("{}\n", String::from_utf8_lossy(&line)))?,
                Format::Text => print(&shown(&record, &zone))?,
            }
        }
    }
    Ok(Exit::Ok)
}

fn time(record: &Value) -> Option<Timestamp> {
    match record["event"]["time"].as_i64() {
        Some(millis) => Timestamp::from_millisecond(millis).ok(),
        None => record["time"].as_str()?.parse().ok(),
    }
}

fn agent(record: &Value) -> Option<&str> {
    let event = &record["event"];
    let named = event["unmapped"]["agent"].as_str();
    named.or_else(|| event["actor"]["app_name"].as_str())
}

fn is_asked(record: &Value, since: Option<Timestamp>, wanted: Option<&str>) -> bool {
    since.is_none_or(|since| time(record).is_some_and(|time| time >= since))
        && wanted.is_none_or(|wanted| agent(record) == Some(wanted))
}

fn shown(record: &Value, zone: &TimeZone) -> String {
    let when = time(record).map_or_else(
        || "?".to_owned(),
        |time| {
            let zoned = time.to_zoned(zone.clone());
            zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
        },
    );
    let seq = &record["seq"];
    let event = &record["event"];
    let message = event["message"].as_str().unwrap_or_default();
    let kind = event["unmapped"]["kind"].as_str();
    let text = match (record["kind"].as_str(), kind) {
        (Some("event"), Some(kind)) if event["unmapped"].get("hook").is_none() => {
            format!("{}  {kind}  {message}", agent(record).unwrap_or("-"))
        }
        // Of a flow the message has the agent and the verdict.
        (Some("event"), _) => message.to_owned(),
        (Some("lost"), _) => format!("-  lost  {} records", record["count"]),
        (Some("opened"), _) if record["clean"] == Value::Bool(false) => {
            "-  opened  the log was not closed before".to_owned()
        }
        (kind, _) => format!("-  {}", kind.unwrap_or("?")),
    };
    format!("{when} #{seq} {}\n", printable(text.trim_start()))
}

fn key(args: &KeyArgs, configured: Configured<'_>) -> Result<Exit, Failure> {
    let failed =
        |error: crate::audit::KeyError| Failure::new(Exit::Failed, crate::error::chain(&error));
    if args.new {
        print(&Key::generate().map_err(failed)?)?;
        return Ok(Exit::Ok);
    }
    let folder = folder(args.folder.as_ref(), configured)?;
    let keys = known_keys(&folder);
    if keys.is_empty() {
        let text = format!(
            "no key in {}: the daemon makes one at its first start, or takes the credential \
             {CREDENTIAL}; only root may read the folder",
            folder.display()
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    for key in keys {
        print(&format!("{key}\n"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::{SETTINGS, Scratch, rewrite, written};

    fn verify_of(folder: &Path) -> Result<Exit, Failure> {
        let args = VerifyArgs {
            folder: Some(folder.to_owned()),
            ..VerifyArgs::default()
        };
        verify(&args, &|| panic!("the folder is given"))
    }

    #[test]
    fn the_code_says_whether_it_is_sound() {
        let dir = Scratch::new();
        assert_eq!(verify_of(dir.path()).expect_err("no log").exit, Exit::Usage);
        written(dir.path(), 5, SETTINGS);
        assert_eq!(verify_of(dir.path()), Ok(Exit::Ok));
        let file = &list(dir.path()).expect("files")[0].path;
        let text = std::fs::read_to_string(file).expect("text");
        rewrite(file, text.replacen("event 1", "event 8", 1).as_bytes());
        assert_eq!(verify_of(dir.path()), Ok(Exit::Failed));
        let report = verify_folder(dir.path(), &[]).expect("report");
        let text = self::text(&report, Style::default());
        assert!(
            text.contains("audit-0000000001.jsonl:4: record 4: the content is not what"),
            "{text}"
        );
        let single = VerifyArgs {
            files: vec![file.clone()],
            ..VerifyArgs::default()
        };
        assert_eq!(verify(&single, &|| panic!("given")), Ok(Exit::Failed));
    }

    #[test]
    fn what_is_shown_is_what_is_asked_for() {
        let dir = Scratch::new();
        written(dir.path(), 2, SETTINGS);
        let file = &list(dir.path()).expect("files")[0].path;
        let records: Vec<Value> = Lines::open(file)
            .expect("file")
            .map(|line| serde_json::from_slice(&line.expect("line")).expect("json"))
            .collect();
        let of = |agent| {
            records
                .iter()
                .filter(|r| is_asked(r, None, Some(agent)))
                .count()
        };
        assert_eq!((of("build-bot"), of("other")), (2, 0));
        let later = since("2199-01-01T00:00:00Z").expect("time");
        assert!(!records.iter().any(|r| is_asked(r, Some(later), None)));
        let earlier = since("7d").expect("span");
        assert!(records.iter().all(|r| is_asked(r, Some(earlier), None)));
        let shown: String = records.iter().map(|r| shown(r, &TimeZone::UTC)).collect();
        assert!(shown.contains("build-bot  detected  event 1"), "{shown}");
        assert_eq!(since("soon").expect_err("no time").exit, Exit::Usage);
    }

    #[test]
    fn keys_are_printed_and_made() {
        let dir = Scratch::new();
        let args = KeyArgs {
            folder: Some(dir.path().to_owned()),
            ..KeyArgs::default()
        };
        assert_eq!(
            key(&args, &|| panic!("given")).expect_err("none").exit,
            Exit::Failed
        );
        written(dir.path(), 1, SETTINGS);
        assert_eq!(key(&args, &|| panic!("given")), Ok(Exit::Ok));
    }
}
