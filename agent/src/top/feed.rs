//! Where updates come from: a thread each for the daemon's state, its records, its questions,
//! the keys and the signals. All of them write into one bounded channel: who is slow is the
//! terminal, and then the daemon's own bound on followers counts what is lost.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use ratatui::crossterm::event::{self, Event};

use super::state::Update;
use crate::asking::Choice;
use crate::control::protocol::{Code, Request, Response};
use crate::control::{Client, ClientError};
use crate::sink::Record;

/// Updates that wait to be drawn.
const WAITING: usize = 4096;
/// Past records that are asked for.
const PAST: u32 = 200;
/// Until the daemon is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Until a daemon that asks nobody is asked for its questions again.
const RETRY_QUESTIONS: Duration = Duration::from_secs(15);

/// How answers name this view ([`crate::asking::Who::via`]).
pub const VIA: &str = "top";

/// What is asked of the daemon, and how often.
#[derive(Debug, Clone)]
pub struct Feed {
    socket: PathBuf,
    agent: Option<String>,
    sender: SyncSender<Update>,
}

impl Feed {
    /// Starts the threads. They end with the process.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        socket: &Path,
        agent: Option<&str>,
        interval: Duration,
    ) -> std::io::Result<(Self, Receiver<Update>)> {
        let (sender, receiver) = sync_channel(WAITING);
        let feed = Self {
            socket: socket.to_owned(),
            agent: agent.map(str::to_owned),
            sender,
        };
        // Blocked before there are other threads, so that all of them have it so.
        let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT]);
        ends.thread_block()?;
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.into()).spawn(work)
        };
        let of = feed.clone();
        start("signals", Box::new(move || of.wait_for_the_end(&ends)))?;
        let of = feed.clone();
        start("status", Box::new(move || of.status(interval)))?;
        let of = feed.clone();
        start("events", Box::new(move || of.events()))?;
        let of = feed.clone();
        start("questions", Box::new(move || of.questions()))?;
        let of = feed.clone();
        start("keys", Box::new(move || of.keys()))?;
        Ok((feed, receiver))
    }

    /// False when nobody reads any more.
    fn tell(&self, update: Update) -> bool {
        self.sender.send(update).is_ok()
    }

    fn wait_for_the_end(&self, ends: &SigSet) {
        if ends.wait().is_ok() {
            self.tell(Update::End);
        }
    }

    fn keys(&self) {
        loop {
            let update = match event::read() {
                Ok(Event::Key(key)) => Update::Key(key),
                Ok(_) => Update::Look,
                // The terminal is gone.
                Err(_) => Update::End,
            };
            let end = matches!(update, Update::End);
            if !self.tell(update) || end {
                return;
            }
        }
    }

    fn status(&self, interval: Duration) {
        let start = Instant::now();
        let mut client = None;
        loop {
            let answer = match &mut client {
                Some(client) => Client::ask(client, &Request::Status {}),
                None => Client::connect(&self.socket)
                    .and_then(|new| client.insert(new).ask(&Request::Status {})),
            };
            let (update, wait) = match answer {
                Ok(Response::Status(status)) => (Update::Status(status, start.elapsed()), interval),
                Ok(other) => (
                    gone(&format!("an answer to something else: {other:?}")),
                    RETRY,
                ),
                Err(error) => (gone(&error.to_string()), RETRY),
            };
            if matches!(update, Update::Gone(..)) {
                client = None;
            }
            if !self.tell(update) {
                return;
            }
            thread::sleep(wait);
        }
    }

    /// Follows, and begins anew when it ends: [`Feed::status`] says whether the daemon is there.
    fn follow(&self, request: &Request, mut take: impl FnMut(Response) -> Option<Update>) -> End {
        let mut follow = || -> Result<bool, ClientError> {
            let mut client = Client::connect(&self.socket)?;
            client.send(request)?;
            client.wait_forever()?;
            let begin = match request {
                Request::Questions { .. } => Update::Questions,
                _ => Update::Records,
            };
            if !self.tell(begin) {
                return Ok(false);
            }
            while let Some(answer) = client.next()? {
                if take(answer).is_some_and(|update| !self.tell(update)) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match follow() {
            Ok(true) => End::Again,
            Ok(false) => End::NobodyReads,
            Err(ClientError::Refused(problem)) => End::Refused(problem.code, problem.to_string()),
            Err(_) => End::Again,
        }
    }

    fn events(&self) {
        let request = Request::Events {
            follow: true,
            since_seq: None,
            agent: self.agent.clone(),
            limit: Some(PAST),
        };
        let take = |answer| match answer {
            Response::Flow(flow) => Some(Update::Record(Box::new(Record::Flow(*flow)))),
            Response::Incident(one) => Some(Update::Record(Box::new(Record::Incident(*one)))),
            Response::Lost {
                records,
                cause: crate::control::protocol::LossCause::SlowReader,
            } => Some(Update::Lost(records)),
            _ => None,
        };
        while !matches!(self.follow(&request, take), End::NobodyReads) {
            thread::sleep(RETRY);
        }
    }

    fn questions(&self) {
        let request = Request::Questions {
            follow: true,
            agent: self.agent.clone(),
        };
        let take = |answer| match answer {
            Response::Question(question) => Some(Update::Question(question)),
            Response::Settled(settlement) => Some(Update::Settled(settlement)),
            _ => None,
        };
        loop {
            let wait = match self.follow(&request, take) {
                End::NobodyReads => return,
                End::Again => RETRY,
                End::Refused(code, why) => {
                    if !self.tell(Update::NoQuestions(why)) {
                        return;
                    }
                    match code {
                        Code::UnknownMethod => RETRY_QUESTIONS,
                        _ => RETRY,
                    }
                }
            };
            thread::sleep(wait);
        }
    }

    /// Sends an answer, and tells what became of it.
    pub fn answer(&self, question: String, choice: Choice) {
        let of = self.clone();
        let work = move || {
            let request = Request::Answer {
                question,
                choice,
                via: VIA.into(),
                why: None,
            };
            let answer = Client::connect(&of.socket).and_then(|mut c| c.ask(&request));
            of.tell(Update::Answered(match answer {
                Ok(Response::Granted(grant)) => Ok(grant),
                Ok(other) => Err(format!("an answer to something else: {other:?}")),
                Err(error) => Err(error.to_string()),
            }));
        };
        if let Err(error) = thread::Builder::new().name("answer".into()).spawn(work) {
            self.tell(Update::Answered(Err(error.to_string())));
        }
    }
}

/// How following ended.
enum End {
    Again,
    NobodyReads,
    Refused(Code, String),
}

fn gone(why: &str) -> Update {
    Update::Gone(why.to_owned(), Timestamp::now())
}
