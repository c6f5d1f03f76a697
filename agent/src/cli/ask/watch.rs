//! `exeat ask watch`: questions as they come, answered by key.
//!
//! A program may put a question at the moment at which a person presses a key for another one.
//! So one question is shown at a time, keys that were pressed before it was shown are thrown
//! away, and for a moment after it none counts.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};

use super::super::exit::{Exit, Failure};
use super::super::output::{duration, print};
use super::super::term::{printable, printable_lines};
use super::{answer, destination, ended, program, said};
use crate::asking::{Breadth, Choice, Lasts, Question, Ruling};
use crate::control::{Client, ClientError, Request, Response};

/// How long a question is shown before a key answers it.
const LOOK: Duration = Duration::from_millis(700);
/// How often keys are looked for.
const BEAT: Duration = Duration::from_millis(100);
/// For how long. crossterm's source for terminals (`use-dev-tty`) does not look at all where it
/// may take no time.
const GLANCE: Duration = Duration::from_millis(1);

/// A terminal whose keys come one by one; as it was when dropped.
struct Raw;

impl Raw {
    fn new() -> std::io::Result<Self> {
        enable_raw_mode().map(|()| Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
    }
}

/// Shows and answers until the daemon ends or the person leaves.
pub(super) fn run(socket: &Path, agent: Option<String>) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Questions {
        follow: true,
        agent,
    })?;
    client.wait_forever()?;
    let (sender, lines) = channel();
    let keys = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if keys {
        // Or they would end the process and leave the terminal as it is. Blocked before there
        // are other threads, so that all of them have it so.
        let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT]);
        ends.thread_block().map_err(std::io::Error::from)?;
        let leave = sender.clone();
        std::thread::spawn(move || {
            if ends.wait().is_ok() {
                let _ = leave.send(Ok(None));
            }
        });
    }
    std::thread::spawn(move || {
        loop {
            let next = client.next();
            let last = !matches!(next, Ok(Some(_)));
            if sender.send(next).is_err() || last {
                return;
            }
        }
    });
    match keys {
        true => by_key(socket, &lines),
        false => tell(&lines),
    }
}

type Line = Result<Option<Response>, ClientError>;

/// Says what happens, a line each.
fn tell(lines: &Receiver<Line>) -> Result<Exit, Failure> {
    for line in lines {
        match line? {
            Some(Response::Question(question)) => print(&card(&question, Timestamp::now()))?,
            Some(Response::Settled(settled)) => {
                print(&format!(
                    "{}  {}\n",
                    printable(&settled.question),
                    ended(&settled)
                ))?;
            }
            _ => return Ok(Exit::Ok),
        }
    }
    Ok(Exit::Ok)
}

/// A question in a few lines.
pub(super) fn card(question: &Question, now: Timestamp) -> String {
    let left = question.expires.duration_since(now).as_secs();
    format!(
        "{}  agent {} wants {}\n        program {}; {} waiting; {} left\n",
        printable(&question.id),
        printable(&question.agent),
        printable(&destination(question)),
        printable(&program(question)),
        question.waiting,
        duration(u64::try_from(left).unwrap_or(0)),
    )
}

const KEYS: &str = "        [o] allow once  [r] this run  [h] for an hour  [w] always  [d] deny  [s] skip  [q] leave\n";

/// What a key answers.
fn choice_of(key: KeyCode) -> Option<Choice> {
    let (ruling, lasts) = match key {
        KeyCode::Char('o') => (Ruling::Allow, Lasts::Once),
        KeyCode::Char('r') => (Ruling::Allow, Lasts::Run),
        KeyCode::Char('h') => (Ruling::Allow, Lasts::For { seconds: 3600 }),
        KeyCode::Char('w') => (Ruling::Allow, Lasts::Always),
        KeyCode::Char('d') => (Ruling::Deny, Lasts::For { seconds: 3600 }),
        _ => return None,
    };
    Some(Choice {
        ruling,
        lasts,
        breadth: Breadth::This,
    })
}

/// Text for a terminal in raw mode.
fn show(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.replace('\n', "\r\n").as_bytes())?;
    out.flush()
}

fn by_key(socket: &Path, lines: &Receiver<Line>) -> Result<Exit, Failure> {
    let _raw = Raw::new()?;
    let mut waiting: VecDeque<Question> = VecDeque::new();
    let mut shown: Option<(String, Instant)> = None;
    show("waiting for questions; [q] leaves\n")?;
    loop {
        match lines.recv_timeout(BEAT) {
            Ok(line) => match line? {
                Some(Response::Question(question)) => {
                    match waiting.iter_mut().find(|known| known.id == question.id) {
                        Some(known) => *known = *question,
                        None => waiting.push_back(*question),
                    }
                }
                Some(Response::Settled(settled)) => {
                    waiting.retain(|question| question.id != settled.question);
                    show(&format!(
                        "{}  {}\n",
                        printable(&settled.question),
                        ended(&settled)
                    ))?;
                    if shown
                        .as_ref()
                        .is_some_and(|(id, _)| *id == settled.question)
                    {
                        shown = None;
                    }
                }
                _ => return Ok(Exit::Ok),
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Ok),
        }
        if shown.is_none()
            && let Some(question) = waiting.front()
        {
            while event::poll(GLANCE)? {
                event::read()?;
            }
            show(&card(question, Timestamp::now()))?;
            show(KEYS)?;
            shown = Some((question.id.clone(), Instant::now()));
        }
        while event::poll(GLANCE)? {
            let Event::Key(KeyEvent {
                code, modifiers, ..
            }) = event::read()?
            else {
                continue;
            };
            let leaves = code == KeyCode::Char('q')
                || code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
            if leaves {
                return Ok(Exit::Ok);
            }
            let Some((id, since)) = &shown else { continue };
            if since.elapsed() < LOOK {
                continue;
            }
            if code == KeyCode::Char('s') {
                waiting.retain(|question| question.id != *id);
                shown = None;
                break;
            }
            let Some(choice) = choice_of(code) else {
                continue;
            };
            match answer(socket, id, choice, None) {
                Ok(grant) => {
                    show(&said(&grant))?;
                    waiting.retain(|question| question.id != *id);
                    shown = None;
                }
                Err(error) => show(&format!("{}\n", printable_lines(&error.to_string())))?,
            }
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_that_is_pressed_by_habit_allows() {
        for key in [
            KeyCode::Enter,
            KeyCode::Char(' '),
            KeyCode::Char('y'),
            KeyCode::Char('a'),
            KeyCode::Esc,
            KeyCode::Tab,
        ] {
            assert_eq!(choice_of(key), None, "{key:?}");
        }
        let denied = choice_of(KeyCode::Char('d')).expect("an answer");
        assert_eq!(denied.ruling, Ruling::Deny);
    }
}
