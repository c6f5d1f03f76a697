//! Speaks the control protocol as the daemon does, and asks what a test wants it to. It enforces
//! nothing and decides nothing: it writes down what it is told.

use exeat::asking::{Choice, Grant, GrantSubject, Outcome, Question, Settlement, Subject, Who};
use exeat::control::protocol::{Code, Problem, RevokeReport};
use exeat::control::{Request, Response, SOCKET_NAME, Status};
use exeat_tests::wait;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;

#[derive(Default)]
struct State {
    questions: Vec<Question>,
    grants: Vec<Grant>,
    /// Requests that change something.
    told: Vec<Request>,
    followers: Vec<UnixStream>,
}

/// The double; its folder is the runtime directory.
pub(crate) struct Double {
    folder: TempDir,
    state: Arc<Mutex<State>>,
}

impl Double {
    /// Not yet listening.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("folder"),
            state: Arc::default(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("state")
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) {
        let listener = UnixListener::bind(self.folder().join(SOCKET_NAME)).expect("bind");
        let state = Arc::clone(&self.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
    }

    /// Puts a question.
    pub(crate) fn ask(&self, question: Question) {
        let mut state = self.state();
        let line = Response::Question(Box::new(question.clone()));
        state.questions.push(question);
        state.tell(&line);
    }

    /// Ends one as if nobody had answered.
    pub(crate) fn time_out(&self, id: &str) {
        self.state().settle(id, Outcome::TimedOut);
    }

    /// Waits for a request that changes something, and gives it.
    pub(crate) fn told(&self) -> Request {
        wait::until("a request of the page", wait::patience(), || {
            let mut state = self.state();
            (!state.told.is_empty()).then(|| state.told.remove(0))
        })
        .expect("a request")
    }

    /// Whether nothing was to be changed but what [`Double::told`] gave.
    pub(crate) fn was_told_no_more(&self) -> bool {
        self.state().told.is_empty()
    }
}

impl State {
    fn tell(&mut self, line: &Response) {
        self.followers
            .retain_mut(|follower| send(follower, line).is_some());
    }

    fn settle(&mut self, id: &str, outcome: Outcome) -> Option<Question> {
        let at = self
            .questions
            .iter()
            .position(|question| question.id == id)?;
        let question = self.questions.remove(at);
        self.tell(&Response::Settled(Box::new(Settlement {
            question: question.id.clone(),
            agent: question.agent.clone(),
            outcome,
            by: None,
        })));
        Some(question)
    }
}

fn send(stream: &mut UnixStream, answer: &Response) -> Option<()> {
    let mut line = serde_json::to_vec(answer).ok()?;
    line.push(b'\n');
    stream.write_all(&line).ok()
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) {
    let lines = BufReader::new(stream.try_clone().expect("clone")).lines();
    for line in lines.map_while(Result::ok) {
        let request = Request::from_line(line.as_bytes()).expect("a request");
        let mut state = state.lock().expect("state");
        let answer = match request {
            Request::Status {} => Response::Status(Box::new(status())),
            Request::Events { follow: true, .. } => continue,
            Request::Questions { follow: true, .. } => {
                for question in state.questions.clone() {
                    send(&mut stream, &Response::Question(Box::new(question)));
                }
                state.followers.push(stream.try_clone().expect("clone"));
                continue;
            }
            Request::Answer {
                ref question,
                choice,
                ref via,
                ..
            } => {
                let (id, via) = (question.clone(), via.clone());
                state.told.push(request);
                match state.settle(&id, Outcome::Allowed) {
                    Some(question) => {
                        let grant = grant(&question, choice, via);
                        state.grants.push(grant.clone());
                        Response::Granted(Box::new(grant))
                    }
                    None => problem(Code::NoQuestion, "this question is settled"),
                }
            }
            Request::Grants { .. } => Response::Grants {
                grants: state.grants.clone(),
            },
            Request::Revoke {
                grant: Some(ref id),
                ..
            } => {
                let id = id.clone();
                state.told.push(request);
                match state.grants.iter().position(|grant| grant.id == id) {
                    Some(at) => {
                        let grant = state.grants.remove(at);
                        Response::Revoked(Box::new(RevokeReport {
                            agent: grant.agent.clone(),
                            grants: vec![grant],
                            connections: 0,
                            isolated: false,
                            took_us: 1,
                            message: "revoked".into(),
                            warnings: vec![],
                        }))
                    }
                    None => problem(Code::NoGrant, "there is no such grant"),
                }
            }
            _ => problem(Code::UnknownMethod, "the double does not know this"),
        };
        send(&mut stream, &answer);
    }
}

fn problem(code: Code, text: &str) -> Response {
    Response::Error(Problem::new(code, text, ""))
}

fn grant(question: &Question, choice: Choice, via: String) -> Grant {
    Grant {
        id: format!("g-{}", question.id),
        agent: question.agent.clone(),
        run: None,
        ruling: choice.ruling,
        subject: match &question.subject {
            Subject::Name { name } => GrantSubject::Name { name: name.clone() },
            Subject::Address { address } => GrantSubject::Address { address: *address },
        },
        port: None,
        lasts: choice.lasts,
        by: Who {
            uid: 1000,
            name: Some("alice".into()),
            via,
        },
        why: None,
        question: Some(question.id.clone()),
        program: None,
        given: Timestamp::now(),
        until: None,
    }
}

/// A question about a name.
pub(crate) fn question(id: &str, name: &str) -> Question {
    let now = Timestamp::now();
    Question {
        id: id.into(),
        agent: "build-bot".into(),
        run: Some("r1".into()),
        subject: Subject::Name { name: name.into() },
        domain: Some("example.net".into()),
        port: Some(443),
        protocol: None,
        process: None,
        asks: exeat::asking::Asks::User,
        uid: Some(1000),
        asked: now,
        expires: now + SignedDuration::from_secs(600),
        waiting: 1,
    }
}

fn status() -> Status {
    let now = Timestamp::now();
    let agent = json!({
        "name": "build-bot", "index": 0, "mode": "enforce", "generation": 1, "rules": 3,
        "cgroup": "/sys/fs/cgroup/exeat.slice/build-bot", "runs": [{ "run": "r1", "processes": 2 }],
        "leases": 1, "blocked": { "no_rule": { "tcp": 3 } }, "allowed": { "tcp": 11 },
        "sent_bytes": 5_300_000, "maps": {},
    });
    let wall = |name: &str, state: &str| json!({ "name": name, "hook": "here", "state": state });
    let status = json!({
        "daemon": {
            "pid": 1, "version": "0.1.0", "revision": "double", "started": now, "uptime_seconds": 1,
            "slice": "exeat.slice",
        },
        "enforcement": { "active": true, "walls": [wall("connect4", "up"), wall("lsm_unix", "missing")] },
        "agents": [agent], "names": [],
        "policy": { "digest": "d", "sources": [], "generation": 1, "loaded_at": now },
        "resolver": { "upstreams": [], "queries": 0, "failures": 0 },
        "events": { "received": 0, "lost_kernel": 0, "lost_ring": 0, "lost_queue": 0, "throttled": 0 },
        "health": { "state": "ok", "reasons": [] },
    });
    serde_json::from_value(status).expect("a status")
}
