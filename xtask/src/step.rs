//! Running other programs: quietly with a progress hint, or with their own
//! output, and saying how long each took.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines of a quiet program's output that are shown when it fails.
const TAIL: usize = 40;

/// How often a log without a terminal is told that a step is still at work.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// One finished step, one line.
pub(crate) fn done(what: &str, how: &str) {
    println!("  {what}: {how}");
}

/// A heading for a step whose program writes by itself.
pub(crate) fn heading(what: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m== {what}\x1b[0m");
    } else {
        println!("\n== {what}");
    }
}

/// `9.4 s`, `2 min 04 s`.
pub(crate) fn seconds(took: Duration) -> String {
    let whole = took.as_secs();
    if whole < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:+,@~".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a short command and returns what it wrote to its standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` wrote no UTF-8"))
}

/// Runs a command with its own output, standard input closed.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{shown}`"))?;
    check(&shown, status)
}

/// Runs a command with its own output, and shows each line of its standard
/// output to `look` besides passing it on.
pub(crate) fn watched(command: &mut Command, mut look: impl FnMut(&str)) -> Result<()> {
    let mut out = std::io::stdout().lock();
    read_by(command, |line| {
        look(line);
        writeln!(out, "{line}")
    })
}

/// Runs a command whose standard output is for `look` alone, and whose errors are for the
/// reader.
pub(crate) fn lines(command: &mut Command, mut look: impl FnMut(&str)) -> Result<()> {
    read_by(command, |line| {
        look(line);
        Ok(())
    })
}

/// Runs a command and gives each line of its standard output to `take`.
fn read_by(command: &mut Command, take: impl FnMut(&str) -> std::io::Result<()>) -> Result<()> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    if let Some(stdout) = child.stdout.take() {
        for_each_line(stdout, take)
            .with_context(|| format!("could not read or pass on the output of `{shown}`"))?;
    }
    let status = child.wait().context("could not wait for a child")?;
    check(&shown, status)
}

/// Runs a command whose output matters only when it fails. While it works a
/// terminal shows the time and its last line; a log gets a line now and then.
/// Past `limit` the command is killed.
pub(crate) fn quiet(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let shown = shown(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    let lines = read_both(&mut child);
    let mut hint = Hint::new(what, started);
    let mut tail = VecDeque::with_capacity(TAIL);
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                hint.show(&line);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => hint.show(""),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if started.elapsed() > limit {
            // Already gone is as good as killed; `wait` below reaps it.
            let _ = child.kill();
            let _ = child.wait();
            hint.clear();
            bail!(
                "`{shown}` took longer than {}{}",
                seconds(limit),
                told(&tail)
            );
        }
    }
    hint.clear();
    let status = child.wait().context("could not wait for a child")?;
    if !status.success() {
        bail!("`{shown}` failed ({status}){}", told(&tail));
    }
    Ok(())
}

fn check(shown: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

fn told(tail: &VecDeque<String>) -> String {
    if tail.is_empty() {
        return ". It wrote nothing".to_owned();
    }
    let lines = tail.iter().map(String::as_str).collect::<Vec<_>>();
    format!(". It wrote:\n    {}\n", lines.join("\n    "))
}

fn read_both(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            // The receiver goes away only after the child was killed.
            let _ = for_each_line(pipe, |line| {
                sender
                    .send(line.to_owned())
                    .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
            });
        });
    }
    receiver
}

fn for_each_line(
    pipe: impl Read,
    mut each: impl FnMut(&str) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']))?;
        line.clear();
    }
    Ok(())
}

/// The transient sign that a step is at work.
struct Hint<'a> {
    what: &'a str,
    started: Instant,
    terminal: bool,
    next: Duration,
    last: String,
}

impl<'a> Hint<'a> {
    fn new(what: &'a str, started: Instant) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let next = if terminal { Duration::ZERO } else { HEARTBEAT };
        Self {
            what,
            started,
            terminal,
            next,
            last: String::new(),
        }
    }

    fn show(&mut self, line: &str) {
        let line = line.trim();
        if !line.is_empty() {
            self.last = line.chars().take(50).collect();
        }
        let took = self.started.elapsed();
        if took < self.next {
            return;
        }
        let (what, last) = (self.what, &self.last);
        if self.terminal {
            eprint!("\r\x1b[K  {what} … {} s  {last}", took.as_secs());
            self.next = took + Duration::from_millis(200);
        } else {
            eprintln!("  {what} … {} s  {last}", took.as_secs());
            self.next = took + HEARTBEAT;
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn quiet_passes_and_fails_with_what_was_written() {
        let minute = Duration::from_secs(60);
        quiet("a", &mut shell("echo out; echo err >&2"), minute).expect("exit 0");
        let error = quiet("a", &mut shell("echo why >&2; exit 3"), minute).expect_err("exit 3");
        let text = format!("{error:#}");
        assert!(text.contains("why"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn quiet_kills_what_takes_too_long() {
        let started = Instant::now();
        let limit = Duration::from_millis(10);
        let error = quiet("a", Command::new("sleep").arg("600"), limit).expect_err("a limit");
        assert!(format!("{error:#}").contains("took longer"));
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn watched_sees_every_line() {
        let mut seen = Vec::new();
        watched(&mut shell("echo 1; printf 2"), |line| {
            seen.push(line.to_owned())
        })
        .expect("exit 0");
        assert_eq!(seen, ["1", "2"]);
    }

    #[test]
    fn names_what_cannot_start() {
        let error = capture(&mut Command::new("/nonexistent/tool")).expect_err("no such file");
        assert!(format!("{error:#}").contains("/nonexistent/tool"));
    }

    #[test]
    fn shown_can_be_pasted() {
        let mut command = Command::new("cargo");
        command.args(["test", "it's", "", "--config=a.b"]);
        assert_eq!(shown(&command), r"cargo test 'it'\''s' '' --config=a.b");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(124)), "2 min 04 s");
    }
}
