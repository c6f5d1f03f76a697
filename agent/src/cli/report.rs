//! `exeat report`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, bytes, print, print_json};
use super::term::printable;
use crate::config::Config;
use crate::report::{self, Asked, Report};

/// What follows the help.
pub(super) const AFTER_HELP: &str = "Examples:\n  exeat report --since 7d --html week.html\n  exeat \
    report --since 2026-03-01T00:00:00Z --until 2026-04-01T00:00:00Z --html march.html\n  exeat report \
    --agent build-bot --output json\n\nTimes are an age (90m, 12h, 7d, 4w) or a date (2026-03-01, \
    2026-03-01T08:00:00Z). A user who does not administer sees own flows only; the report says so.";

/// Write what the agents did in a period as one HTML file, for who was not there
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct ReportArgs {
    /// Begin of the period: an age or a date
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub since: String,
    /// End of the period; now, if not said
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// The file, which is replaced; readable by its owner alone
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Whether the daemon shows this user what everybody's programs did.
fn administers(config: &Config) -> bool {
    let group = config.control.group.as_deref();
    let group = group.and_then(|name| nix::unistd::Group::from_name(name).ok().flatten());
    nix::unistd::geteuid().is_root()
        || group.is_some_and(|group| {
            nix::unistd::getegid() == group.gid
                || nix::unistd::getgroups().is_ok_and(|all| all.contains(&group.gid))
        })
}

/// Asks, and writes.
pub fn run(config: &Config, args: &ReportArgs) -> Result<Exit, Failure> {
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let since = time(&args.since, now, &zone)?;
    let until = args
        .until
        .as_deref()
        .map_or(Ok(now), |text| time(text, now, &zone))?;
    if since >= until {
        let text = format!("the period ends ({until}) before it begins ({since})");
        return Err(Failure::new(Exit::Usage, text));
    }
    if args.html.is_none() && args.output.output == Format::Text {
        let text = "say where the report goes: --html FILE, or --output json";
        return Err(Failure::new(Exit::Usage, text));
    }
    let asked = Asked {
        since,
        until,
        agent: args.agent.clone(),
        now,
        everybody: administers(config),
    };
    let report = report::gather(&config.socket_path(), &asked)?;
    if let Some(file) = &args.html {
        write(file, &report::page(&report, &zone)).map_err(|e| {
            let text = format!("cannot write {}: {e}", file.display());
            Failure::new(Exit::Failed, text)
        })?;
    }
    match (args.output.output, &args.html) {
        (Format::Json, _) => print_json(&report)?,
        (Format::Text, Some(file)) => print(&summary(&report, file))?,
        (Format::Text, None) => {}
    }
    Ok(Exit::Ok)
}

/// Whole or not at all, and for its owner alone: it says what everybody's programs did.
fn write(file: &Path, page: &str) -> std::io::Result<()> {
    let name = file.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let beside = file.with_file_name(format!(
        ".{}.{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut out| out.write_all(page.as_bytes()))
        .and_then(|()| std::fs::rename(&beside, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn summary(report: &Report, file: &Path) -> String {
    let total = &report.total;
    format!(
        "{}: {} agents, {} let out, {} refused, {} sent, {} new destinations{}\n",
        printable(&file.to_string_lossy()),
        report.agents.len(),
        total.allowed,
        total.refused,
        bytes(total.sent_bytes),
        report.new.len(),
        match report.complete.is_whole(report.since) {
            true => "",
            false => " (the record of the period is not whole: see its last part)",
        }
    )
}

/// An age before `now`, or a date.
fn time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, Failure> {
    let wrong = || {
        let text = format!(
            "`{text}` is no time: write an age (90m, 12h, 7d, 4w) or a date (2026-03-01, \
             2026-03-01T08:00:00Z)"
        );
        Failure::new(Exit::Usage, text)
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if let Ok(n) = digits.parse::<i64>() {
        let seconds = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let age = n
            .checked_mul(seconds)
            .filter(|_| n >= 0)
            .ok_or_else(wrong)?;
        return now
            .checked_sub(SignedDuration::from_secs(age))
            .map_err(|_| wrong());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(Into::into));
    let local = local.map_err(|_| wrong())?;
    let zoned = local.to_zoned(zone.clone()).map_err(|_| wrong())?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ages_or_dates() {
        let now: Timestamp = "2026-03-08T12:00:00Z".parse().expect("time");
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, expected) in [
            ("7d", "2026-03-01T12:00:00Z"),
            ("90m", "2026-03-08T10:30:00Z"),
            ("0s", "2026-03-08T12:00:00Z"),
            ("2026-03-01", "2026-02-28T23:00:00Z"),
            ("2026-03-01T08:00:00", "2026-03-01T07:00:00Z"),
            ("2026-03-01T08:00:00Z", "2026-03-01T08:00:00Z"),
        ] {
            let expected: Timestamp = expected.parse().expect("time");
            assert_eq!(time(text, now, &zone).expect(text), expected, "{text}");
        }
        for text in [
            "",
            "d",
            "7",
            "-7d",
            "7y",
            "yesterday",
            "99999999999999999w",
            "2026-13-01",
        ] {
            let failure = time(text, now, &zone).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage, "{text}");
        }
    }

    #[test]
    fn the_file_is_its_owners_and_replaces_what_was_there() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("r.html");
        std::fs::write(&file, "old").expect("write");
        write(&file, "new").expect("write");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "new");
        let mode = std::fs::metadata(&file)
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1);
        assert!(write(&dir.path().join("gone/r.html"), "x").is_err());
        assert!(write(Path::new("/"), "x").is_err());
    }

    #[test]
    fn wrong_usage_is_said_before_anybody_is_asked() {
        let args = |since: &str, until: Option<&str>| ReportArgs {
            since: since.into(),
            until: until.map(Into::into),
            ..ReportArgs::default()
        };
        for args in [args("7d", None), args("1d", Some("2d")), args("soon", None)] {
            let failure = run(&Config::default(), &args).expect_err("usage");
            assert_eq!(failure.exit, Exit::Usage, "{failure}");
        }
    }
}
