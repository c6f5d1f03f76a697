//! `exeat ask`: what agents wait for, and answering it.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, duration, print, print_json};
use super::term::printable;
use crate::asking::{Asks, Breadth, Choice, Grant, Lasts, Outcome, Question, Ruling, Settlement};
use crate::control::{Client, ClientError, Request, Response};

mod watch;

/// What follows the help.
pub const AFTER_HELP: &str = "Examples:\n  exeat ask                              what waits for an \
    answer\n  exeat ask watch                        answer by key as questions come\n  exeat ask \
    allow k3x9pm --for 1h --port 443\n  exeat ask deny k3x9pm --always --why \"not on this \
    machine\"\n\nWithout a time `allow` holds for one minute and `deny` for an hour.";

/// Show what agents ask people for, and answer it
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AskArgs {
    /// What to do; to show the questions if nothing is said
    #[command(subcommand)]
    pub what: Option<What>,
    /// Only questions of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What to do with questions.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum What {
    /// Show questions as they come; on a terminal, answer them by key
    Watch(WatchArgs),
    /// Let out what a question asks for
    Allow(AnswerArgs),
    /// Refuse what a question asks for, and do not ask again for a while
    Deny(AnswerArgs),
}

/// Which questions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct WatchArgs {
    /// Only questions of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct AnswerArgs {
    /// The question, as `exeat ask` shows it
    #[arg(value_name = "ID")]
    pub question: String,
    /// For how long.
    #[command(flatten)]
    pub lasts: LastsArgs,
    /// Until the run that asks has ended
    #[arg(long, conflicts_with_all = ["once", "time", "always"])]
    pub run: bool,
    /// Only this port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "domain")]
    pub port: Option<u16>,
    /// The whole registered domain of the name, not the name alone
    #[arg(long)]
    pub domain: bool,
    /// Why, for those who look at it later
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// For how long an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub struct LastsArgs {
    /// For one minute: what waits now, and what follows from it
    #[arg(long, conflicts_with_all = ["time", "always"])]
    pub once: bool,
    /// For this long, as in 30m, 1h or 7d
    #[arg(long = "for", value_name = "TIME", value_parser = seconds, conflicts_with = "always")]
    pub time: Option<u64>,
    /// Until somebody revokes it
    #[arg(long)]
    pub always: bool,
}

impl LastsArgs {
    /// What was said, or what holds where nothing was.
    pub fn or(self, default: Lasts) -> Lasts {
        match self {
            Self { always: true, .. } => Lasts::Always,
            Self { once: true, .. } => Lasts::Once,
            Self {
                time: Some(seconds),
                ..
            } => Lasts::For { seconds },
            _ => default,
        }
    }
}

/// A time in seconds, from words such as `1h 30m`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write a time such as 30m, 1h or 7d".to_owned();
    // A day is one of hours here: a grant knows no calendar.
    let text = match text.strip_suffix('d').map(str::parse::<u64>) {
        Some(Ok(days)) => format!("{}h", days.saturating_mul(24)),
        _ => text.to_owned(),
    };
    let time: SignedDuration = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_secs())
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

/// Does what the arguments say.
pub fn run(socket: &Path, args: &AskArgs) -> Result<Exit, Failure> {
    match &args.what {
        None => list(socket, args),
        Some(What::Watch(args)) => watch::run(socket, args.agent.clone()),
        Some(What::Allow(answer)) => settle(socket, answer, Ruling::Allow),
        Some(What::Deny(answer)) => settle(socket, answer, Ruling::Deny),
    }
}

fn list(socket: &Path, args: &AskArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Questions {
        follow: false,
        agent: args.agent.clone(),
    })?;
    let mut questions = Vec::new();
    loop {
        match client.next()? {
            Some(Response::Question(question)) => questions.push(*question),
            Some(Response::End { .. }) => break,
            Some(_) => return Err(ClientError::Protocol("it is no question".into()).into()),
            None => return Err(ClientError::Closed(socket.to_owned()).into()),
        }
    }
    match args.output.output {
        Format::Json => print_json(&questions)?,
        Format::Text => print(&render(&questions, Timestamp::now(), Style::stdout()))?,
    }
    Ok(Exit::Ok)
}

fn settle(socket: &Path, args: &AnswerArgs, ruling: Ruling) -> Result<Exit, Failure> {
    let default = match ruling {
        Ruling::Allow => Lasts::Once,
        Ruling::Deny => Lasts::For { seconds: 3600 },
    };
    let choice = Choice {
        ruling,
        lasts: match args.run {
            true => Lasts::Run,
            false => args.lasts.or(default),
        },
        breadth: match (args.domain, args.port) {
            (true, _) => Breadth::Domain,
            (false, Some(port)) => Breadth::Port { port },
            (false, None) => Breadth::This,
        },
    };
    let grant = answer(socket, &args.question, choice, args.why.clone())?;
    match args.output.output {
        Format::Json => print_json(&grant)?,
        Format::Text => print(&said(&grant))?,
    }
    Ok(Exit::Ok)
}

/// Sends an answer.
fn answer(
    socket: &Path,
    question: &str,
    choice: Choice,
    why: Option<String>,
) -> Result<Grant, ClientError> {
    let request = Request::Answer {
        question: question.to_owned(),
        choice,
        via: "cli".to_owned(),
        why,
    };
    match Client::connect(socket)?.ask(&request)? {
        Response::Granted(grant) => Ok(*grant),
        _ => Err(ClientError::Protocol("it is no grant".into())),
    }
}

/// What holds from now on, and how it ends.
pub(super) fn said(grant: &Grant) -> String {
    let verb = match grant.ruling {
        Ruling::Allow => "may reach",
        Ruling::Deny => "may not reach",
    };
    let until = match (grant.lasts, grant.until) {
        (Lasts::Run, _) => "until its run ends".to_owned(),
        (_, Some(until)) => format!("until {}", until.strftime("%FT%TZ")),
        (_, None) => "until it is revoked".to_owned(),
    };
    format!(
        "agent {} {verb} {} {until}\n  take it back with `exeat revoke {}`\n",
        printable(&grant.agent),
        printable(&crate::asking::grant_text(grant)),
        printable(&grant.id)
    )
}

/// The program that asks, as it is known: never only by the name that it gives itself.
fn program(question: &Question) -> String {
    match &question.process {
        None => "-".to_owned(),
        Some(process) => match &process.exe {
            Some(exe) => format!("{} [{}]", exe.display(), process.pid),
            None => format!("calls itself `{}` [{}]", process.comm, process.pid),
        },
    }
}

fn destination(question: &Question) -> String {
    match question.port {
        Some(port) => format!("{} port {port}", question.subject),
        None => question.subject.to_string(),
    }
}

fn render(questions: &[Question], now: Timestamp, style: Style) -> String {
    if questions.is_empty() {
        return "no questions wait for you\n".to_owned();
    }
    let heads = ["ID", "AGENT", "WANTS", "PROGRAM", "WAITING", "LEFT", "ASKS"];
    let mut columns = Columns::new(style, &heads);
    for question in questions {
        let left = question.expires.duration_since(now).as_secs();
        columns.row(&[
            (&question.id, Tone::Good),
            (&question.agent, Tone::Plain),
            (&destination(question), Tone::Warn),
            (&program(question), Tone::Plain),
            (&question.waiting.to_string(), Tone::Plain),
            (&duration(u64::try_from(left).unwrap_or(0)), Tone::Plain),
            (
                match question.asks {
                    Asks::User => "user",
                    Asks::Admin => "admin",
                    Asks::Nobody => "nobody",
                },
                Tone::Plain,
            ),
        ]);
    }
    let mut out = columns.text();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\nanswer with `exeat ask allow ID` or `exeat ask deny ID`, or by key with `exeat ask watch`"
    );
    out
}

/// How a question ended, in words.
fn ended(settlement: &Settlement) -> String {
    let how = match settlement.outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::TimedOut => "nobody answered: denied",
        Outcome::Withdrawn => "withdrawn",
    };
    match &settlement.by {
        Some(by) => {
            let name = crate::asking::name_of(by);
            format!("{how} by {name} ({})", printable(&by.via))
        }
        None => how.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asking::Subject;
    use crate::flow::ProcessRecord;

    fn question() -> Question {
        let asked: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
        Question {
            id: "k3x9pm".into(),
            agent: "bot".into(),
            run: Some("run-0".into()),
            subject: Subject::Name {
                name: "x.example.com".into(),
            },
            domain: Some("example.com".into()),
            port: Some(443),
            protocol: None,
            process: Some(ProcessRecord {
                pid: 7,
                tid: 7,
                ppid: 1,
                uid: 1000,
                gid: 1000,
                comm: "\x1b[2Jsudo".into(),
                exe: None,
                parent_exe: None,
            }),
            asks: Asks::User,
            uid: Some(1000),
            asked,
            expires: asked + SignedDuration::from_secs(120),
            waiting: 3,
        }
    }

    #[test]
    fn what_a_program_calls_itself_cannot_drive_the_terminal() {
        let question = question();
        let text = render(
            std::slice::from_ref(&question),
            question.asked,
            Style::default(),
        );
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(text.contains("calls itself `\\u{1b}[2Jsudo` [7]"), "{text}");
        assert!(text.contains("x.example.com port 443"), "{text}");
        assert!(text.contains("2m"), "{text}");
        let shown = watch::card(&question, question.asked);
        assert!(!shown.contains('\x1b'), "{shown:?}");
    }

    #[test]
    fn times_are_words() {
        for (text, want) in [("30m", 1800), ("1h", 3600), ("7d", 604_800), ("90s", 90)] {
            assert_eq!(seconds(text), Ok(want), "{text}");
        }
        for text in ["", "1", "-1h", "0s", "tomorrow", "d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_said_first_holds() {
        let args = LastsArgs::default();
        assert_eq!(args.or(Lasts::Once), Lasts::Once);
        let always = LastsArgs {
            always: true,
            ..args
        };
        assert_eq!(always.or(Lasts::Once), Lasts::Always);
    }
}
