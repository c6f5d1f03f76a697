//! `exeat health`: for compliance scripts, which read its exit code or its JSON.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use jiff::{SignedDuration, Span, Timestamp};

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, print, print_json, print_json_line};
use super::term::printable;
use crate::control::status::Status;
use crate::control::{Client, ClientError, Request, Response};
use crate::health::{self, Check, Grade, Verdict, Wanted};

/// What follows the help.
pub const AFTER_HELP: &str = "Every check is in the JSON, always and in the same order. Exit codes: \
    0 no check fails, else the code of the first that does, which `--list` prints; 1 no usable \
    answer, 2 wrong usage, 5 not permitted.\n\nExamples:\n  exeat health --output json\n  \
    exeat health --max-losses 0 --fail-on mode,names\n  exeat health --wall lsm_unix,lsm_bpf \
    --min-version 0.2.0";

/// What is wanted of this machine.
#[derive(Debug, Clone, Args)]
pub struct HealthArgs {
    /// Print the checks with their exit codes, and look at nothing
    #[arg(long)]
    pub list: bool,
    /// These checks fail where they would only warn
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = checks())]
    pub fail_on: Vec<Check>,
    /// These checks only warn where they would fail
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = ignorable())]
    pub ignore: Vec<Check>,
    /// Fail if more records than this were lost since the daemon started
    #[arg(long, value_name = "N")]
    pub max_losses: Option<u64>,
    /// How long a record may wait for its receiver, as in 12h or 3d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = period)]
    pub sink_grace: SignedDuration,
    /// The policy in force must have this digest, or one that begins so
    #[arg(long, value_name = "HEX", value_parser = digest)]
    pub policy_digest: Option<String>,
    /// The daemon must be this version or a newer one
    #[arg(long, value_name = "X.Y.Z", value_parser = least)]
    pub min_version: Option<[u64; 3]>,
    /// These walls must be up, whether or not a policy requires them
    #[arg(long, value_name = "WALL", value_delimiter = ',')]
    pub wall: Vec<String>,
    /// Print one JSON object on a line, without objects in it: `exeat_healthy`, `exeat_exit`,
    /// `exeat_version` and so on, and `exeat_check_NAME` for each check
    #[arg(long, conflicts_with_all = ["output", "list"])]
    pub flat: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn checks() -> impl clap::builder::TypedValueParser<Value = Check> {
    of_words(&|_| true)
}

/// Not that the daemon is silent: then nothing is known.
fn ignorable() -> impl clap::builder::TypedValueParser<Value = Check> {
    of_words(&|check| check != Check::Daemon)
}

fn of_words(which: &dyn Fn(Check) -> bool) -> impl clap::builder::TypedValueParser<Value = Check> {
    let words = Check::ALL.into_iter().filter(|check| which(*check));
    PossibleValuesParser::new(words.map(Check::as_str)).try_map(|word| {
        let found = Check::ALL.into_iter().find(|c| c.as_str() == word);
        found.ok_or_else(|| format!("`{word}` is no check"))
    })
}

fn period(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("`{}` is no time: write 12h or 3d", text.escape_debug());
    let span: Span = text.parse().map_err(|_| wrong())?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    let time = span.to_duration(day).map_err(|_| wrong())?;
    (!time.is_negative()).then_some(time).ok_or_else(wrong)
}

fn digest(text: &str) -> Result<String, String> {
    // Shorter ones would be met by chance.
    let sound = (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let wrong = "a digest has 8 to 64 hexadecimal digits: see `exeat status`";
    sound
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| wrong.to_owned())
}

fn least(text: &str) -> Result<[u64; 3], String> {
    let wrong = || format!("`{}` is no version: write 0.2.0", text.escape_debug());
    health::version(text).ok_or_else(wrong)
}

impl From<&HealthArgs> for Wanted {
    fn from(args: &HealthArgs) -> Self {
        Self {
            fail_on: args.fail_on.iter().copied().collect(),
            ignore: args.ignore.iter().copied().collect(),
            max_losses: args.max_losses,
            sink_grace: args.sink_grace,
            policy_digest: args.policy_digest.clone(),
            min_version: args.min_version,
            walls: args.wall.iter().cloned().collect(),
        }
    }
}

/// Asks, judges, prints. The code is one of [`health::codes`].
///
/// # Errors
/// When nothing could be printed.
pub fn run(socket: &Path, args: &HealthArgs) -> Result<u8, Failure> {
    if args.list {
        list(args.output.output)?;
        return Ok(Exit::Ok.code());
    }
    let wanted = Wanted::from(args);
    let verdict = match ask(socket) {
        Ok(status) => health::assess(&status, &wanted, Timestamp::now()),
        Err(failure) => health::silent(failure.exit.code(), &failure.message, &wanted),
    };
    match args.output.output {
        _ if args.flat => print_json_line(&flat(&verdict))?,
        Format::Json => print_json(&verdict)?,
        Format::Text => print(&render(&verdict, Style::stdout()))?,
    }
    Ok(verdict.exit)
}

fn ask(socket: &Path) -> Result<Status, Failure> {
    match Client::connect(socket)?.ask(&Request::Status {})? {
        Response::Status(status) => Ok(*status),
        _ => Err(ClientError::Protocol("it is no status".into()).into()),
    }
}

/// For what reads names and plain values only. Where the daemon is silent its numbers are 0 and
/// its words empty, so that a rule about them is not met, and every name is there.
fn flat(verdict: &Verdict) -> serde_json::Map<String, serde_json::Value> {
    let facts = verdict.facts.as_ref();
    let mut all = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| all.insert(format!("exeat_{name}"), value);
    put("healthy", verdict.healthy.into());
    put("exit", verdict.exit.into());
    put("version", facts.map_or("0.0.0", |f| &f.version).into());
    put(
        "policy_digest",
        facts.map_or("", |f| &f.policy_digest).into(),
    );
    put(
        "agents_enforced",
        facts.map_or(0, |f| f.agents_enforced).into(),
    );
    put(
        "agents_monitored",
        facts.map_or(0, |f| f.agents_monitored).into(),
    );
    put("losses", facts.map_or(0, |f| f.losses).into());
    put("queued", facts.map_or(0, |f| f.queued).into());
    for one in &verdict.checks {
        put(&format!("check_{}", one.check), one.grade.as_str().into());
    }
    all
}

/// One row of `--list`.
#[derive(serde::Serialize)]
struct Row {
    check: Check,
    code: u8,
    usual: Grade,
    about: &'static str,
}

fn list(format: Format) -> Result<(), Failure> {
    let rows = Check::ALL.map(|check| Row {
        check,
        code: check.code(),
        usual: check.usual(),
        about: check.about(),
    });
    if format == Format::Json {
        return print_json(&rows);
    }
    let mut columns = Columns::new(Style::stdout(), &["CHECK", "CODE", "GRADE", "WHEN"]);
    for row in &rows {
        columns.row(&[
            (row.check.as_str(), Tone::Plain),
            (&row.code.to_string(), Tone::Plain),
            (row.usual.as_str(), tone(row.usual)),
            (row.about, Tone::Plain),
        ]);
    }
    Ok(print(&columns.text())?)
}

const fn tone(grade: Grade) -> Tone {
    match grade {
        Grade::Ok => Tone::Good,
        Grade::Warn => Tone::Warn,
        Grade::Unknown => Tone::Plain,
        Grade::Fail => Tone::Bad,
    }
}

/// For people: what is not as it should be, and how many are.
fn render(verdict: &Verdict, style: Style) -> String {
    let mut out = String::new();
    let count = |grade| verdict.checks.iter().filter(|c| c.grade == grade).count();
    let (word, of) = match verdict.healthy {
        true => ("healthy", Tone::Good),
        false => ("NOT HEALTHY", Tone::Bad),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} (exit code {}): {} checks ok, {} warn, {} fail, {} unknown",
        style.paint(of, word),
        verdict.exit,
        count(Grade::Ok),
        count(Grade::Warn),
        count(Grade::Fail),
        count(Grade::Unknown),
    );
    let told = |grade: &Grade| matches!(grade, Grade::Fail | Grade::Warn);
    for one in verdict.checks.iter().filter(|one| told(&one.grade)) {
        let grade = style.paint(tone(one.grade), one.grade.as_str());
        let _ = writeln!(out, "{grade} {} ({})", one.check, one.code);
        for line in one.reasons.iter().flat_map(|reason| reason.lines()) {
            let _ = writeln!(out, "     {}", printable(line));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::control::status::tests::status;
    use clap::Parser as _;

    fn wanted(line: &str) -> Result<Wanted, clap::Error> {
        let cli = Cli::try_parse_from(["exeat", "health"].into_iter().chain(line.split(' ')))?;
        let Command::Health(args) = cli.command else {
            panic!("{cli:?}");
        };
        Ok(Wanted::from(&args))
    }

    #[test]
    fn what_is_wanted_is_read() {
        let got = wanted(
            "--fail-on names,mode --ignore other --max-losses 0 --sink-grace 3d \
             --policy-digest 0123ABCD --min-version 1.2.3 --wall a,b",
        )
        .expect("parsed");
        let expected = Wanted {
            fail_on: [Check::Names, Check::Mode].into(),
            ignore: [Check::Other].into(),
            max_losses: Some(0),
            sink_grace: SignedDuration::from_hours(72),
            policy_digest: Some("0123abcd".into()),
            min_version: Some([1, 2, 3]),
            walls: ["a".to_owned(), "b".to_owned()].into(),
        };
        assert_eq!(got, expected);
        for wrong in [
            "--fail-on nonsense",
            "--ignore daemon",
            "--sink-grace -1h",
            "--sink-grace soon",
            "--policy-digest 0123",
            "--policy-digest 0123456g",
            "--min-version 1.2",
        ] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_flat_form_has_the_same_names_whether_the_daemon_answers_or_not() {
        let wanted = Wanted::default();
        let s = status();
        let well = flat(&health::assess(&s, &wanted, s.daemon.started));
        let silent = flat(&health::silent(4, "nobody", &wanted));
        assert!(well.keys().eq(silent.keys()));
        assert_eq!(well["exeat_healthy"], true);
        assert_eq!(well["exeat_check_walls"], "ok");
        assert_eq!(silent["exeat_check_walls"], "unknown");
        assert_eq!(silent["exeat_version"], "0.0.0");
        assert!(
            well.values()
                .chain(silent.values())
                .all(|v| !v.is_object() && !v.is_array())
        );
        assert!(wanted_flat("--flat --output json").is_err());
    }

    fn wanted_flat(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["exeat", "health"].into_iter().chain(line.split(' ')))
    }

    #[test]
    fn people_see_what_is_wrong_and_nothing_drives_their_terminal() {
        let mut s = status();
        s.policy.last_error = Some("x\x1b]0;t\x07\n  second line".into());
        let wanted = Wanted::default();
        let verdict = health::assess(&s, &wanted, s.daemon.started);
        let text = render(&verdict, Style::default());
        assert!(text.starts_with("NOT HEALTHY (exit code 12): "), "{text}");
        assert!(text.contains("\nfail policy_load (12)\n"), "{text}");
        assert!(text.contains("second line"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text}");
    }
}
