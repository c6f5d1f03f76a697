//! What the daemon says, kept up to date for every page that looks.
//!
//! Three threads, each with a connection of its own to the control socket: records, questions,
//! and what is asked anew every moment (status and grants). They begin with the first page and
//! live as long as the process.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::asking::Question;
use crate::control::{Client, ClientError, Code, Request, Response, Status};

/// Records that a page begins with.
const RECORDS: usize = 200;
/// News that a slow page may be behind; then it gets everything anew.
const BEHIND: usize = 512;
/// How often status and grants are asked.
const EACH: Duration = Duration::from_secs(2);
/// How long a daemon that is away is let alone.
const RETRY: Duration = Duration::from_secs(1);

/// One thing to tell a page: the name of the event and its JSON.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) event: &'static str,
    pub(super) data: Arc<str>,
}

impl News {
    fn new(event: &'static str, data: &impl serde::Serialize) -> Self {
        let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
        Self {
            event,
            data: data.into(),
        }
    }
}

/// What is known now.
#[derive(Default)]
struct Now {
    /// Why there is no daemon; none while there is one.
    down: Option<String>,
    status: Option<Status>,
    records: VecDeque<Value>,
    questions: BTreeMap<String, Question>,
    /// The answers that hold, or why they cannot be listed.
    grants: Value,
    /// Why no questions are shown.
    silent: Option<String>,
}

/// What the daemon says.
pub struct Live {
    socket: PathBuf,
    now: Mutex<Now>,
    news: broadcast::Sender<News>,
    wake: Mutex<Option<SyncSender<()>>>,
}

impl Live {
    /// Of the daemon at this socket.
    pub fn new(socket: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            socket,
            now: Mutex::default(),
            news: broadcast::Sender::new(BEHIND),
            wake: Mutex::default(),
        })
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let (wake, woken) = sync_channel(1);
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(wake);
        let start = |name: &str, work: Box<dyn FnOnce(&Self) + Send>| {
            let live = Arc::clone(self);
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || work(&live)).map(drop)
        };
        start("records", Box::new(Self::follow_records))?;
        start("questions", Box::new(Self::follow_questions))?;
        start("state", Box::new(move |live| live.ask_again(&woken)))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last status, while there is a daemon.
    pub(super) fn status(&self) -> Option<Status> {
        self.now().status.clone()
    }

    /// The socket of the daemon.
    pub(super) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Asks the daemon anew at once: something was done.
    pub(super) fn wake(&self) {
        let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = &*wake {
            // Full: it is to wake already.
            let _ = wake.try_send(());
        }
    }

    /// Everything that is known now, and what is new from here on.
    pub(super) fn subscribe(&self) -> (Vec<News>, broadcast::Receiver<News>) {
        let now = self.now();
        let state = [
            News::new("daemon", &now.down),
            News::new("status", &now.status),
            News::new("records", &now.records),
            News::new("silent", &now.silent),
            News::new("questions", &now.questions.values().collect::<Vec<_>>()),
            News::new("grants", &now.grants),
        ];
        // Nobody tells anything while `now` is locked: no news is missed or told twice.
        (state.into(), self.news.subscribe())
    }

    /// Changes what is known, and tells of it.
    fn tell<T: serde::Serialize>(&self, event: &'static str, change: impl FnOnce(&mut Now) -> T) {
        let mut now = self.now();
        let data = change(&mut now);
        // Without pages there is nobody to tell.
        let _ = self.news.send(News::new(event, &data));
    }

    fn follow_records(&self) {
        loop {
            // What a daemon before said is told anew by the next, as far as it remembers.
            let _ = self.records_once();
            std::thread::sleep(RETRY);
        }
    }

    fn records_once(&self) -> Result<(), ClientError> {
        let mut client = Client::connect(&self.socket)?;
        client.send(&Request::Events {
            follow: true,
            since_seq: None,
            agent: None,
            limit: Some(RECORDS as u32),
        })?;
        client.wait_forever()?;
        self.tell("records", |now| {
            now.records.clear();
            now.records.clone()
        });
        while let Some(answer) = client.next()? {
            if matches!(answer, Response::End { .. }) {
                break;
            }
            let record = serde_json::to_value(&answer).unwrap_or(Value::Null);
            self.tell("record", |now| {
                if now.records.len() == RECORDS {
                    now.records.pop_front();
                }
                now.records.push_back(record.clone());
                record
            });
        }
        Ok(())
    }

    fn follow_questions(&self) {
        loop {
            let why = match self.questions_once() {
                Ok(()) => None,
                Err(ClientError::Refused(problem)) if problem.code == Code::UnknownMethod => {
                    Some("This daemon asks nobody.".to_owned())
                }
                Err(ClientError::Refused(problem)) => Some(problem.to_string()),
                Err(_) => None,
            };
            self.tell("silent", |now| {
                now.silent.clone_from(&why);
                why
            });
            // A question that nobody can be told of is none.
            self.tell("questions", |now| {
                now.questions.clear();
                Vec::<Question>::new()
            });
            std::thread::sleep(RETRY);
        }
    }

    fn questions_once(&self) -> Result<(), ClientError> {
        let mut client = Client::connect(&self.socket)?;
        client.send(&Request::Questions {
            follow: true,
            agent: None,
        })?;
        client.wait_forever()?;
        while let Some(answer) = client.next()? {
            match answer {
                Response::Question(question) => {
                    self.tell("question", |now| {
                        now.silent = None;
                        now.questions
                            .insert(question.id.clone(), (*question).clone());
                        question
                    });
                }
                Response::Settled(settled) => {
                    self.tell("settled", |now| {
                        now.questions.remove(&settled.question);
                        settled
                    });
                    self.wake();
                }
                Response::End { .. } => break,
                _ => {}
            }
        }
        Ok(())
    }

    fn ask_again(&self, woken: &Receiver<()>) {
        loop {
            self.ask_once();
            match woken.recv_timeout(EACH) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn ask_once(&self) {
        let asked = Client::connect(&self.socket).and_then(|mut client| {
            let status = client.ask(&Request::Status {})?;
            Ok((status, client.ask(&Request::Grants { agent: None })))
        });
        let (status, grants) = match asked {
            Ok((Response::Status(status), grants)) => (Ok(*status), grants),
            Ok(_) => (
                Err("the daemon's answer is no status".to_owned()),
                Ok(end()),
            ),
            Err(error) => (Err(error.to_string()), Ok(end())),
        };
        let grants = match grants {
            Ok(Response::Grants { grants }) => json!({ "grants": grants }),
            Err(ClientError::Refused(problem)) if problem.code == Code::UnknownMethod => {
                json!({ "grants": [] })
            }
            Err(ClientError::Refused(problem)) => json!({ "grants": [], "why": problem.message }),
            _ => json!({ "grants": [] }),
        };
        let down = status.as_ref().err().cloned();
        let changed = {
            let now = self.now();
            (now.down != down, now.grants != grants)
        };
        if changed.0 {
            self.tell("daemon", |now| {
                now.down.clone_from(&down);
                down
            });
        }
        self.tell("status", |now| {
            now.status = status.ok();
            now.status.clone()
        });
        if changed.1 {
            self.tell("grants", |now| {
                now.grants = grants.clone();
                grants
            });
        }
    }
}

const fn end() -> Response {
    Response::End { last_seq: 0 }
}
