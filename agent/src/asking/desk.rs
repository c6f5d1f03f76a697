//! The desk: callers wait here for a person's ruling.
//!
//! It holds no verdict up but that of whoever waits, and answers with a denial in every doubt:
//! at the time-out, when there are too many questions, when it closes.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use agent_common::protocol::ProtocolClass;
use jiff::Timestamp;
use rand::Rng as _;
use tokio::sync::{broadcast, watch};

use super::book::{Book, Bounds, Counts, Ended, Put};
use super::{
    Asks, Breadth, Choice, DeskEvent, Grant, GrantSubject, Lasts, Outcome, Question, Ruling,
    Settlement, Subject, Who,
};
use crate::dns::clock::Clock;
use crate::flow::{ProcessRecord, printable};
use crate::incident::{Incident, IncidentKind};

/// Letters and digits of an id: none that are read for another.
const LETTERS: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";
/// Length of an id.
const ID: usize = 6;
/// What a watcher may be behind before it loses events.
const EVENTS: usize = 256;
/// How long an answer of [`Lasts::Once`] holds.
pub(crate) const ONCE: Duration = Duration::from_secs(60);
/// The longest time that an answer may name: a year.
pub(crate) const LONGEST: u64 = 366 * 86_400;
/// Characters of a person's words.
pub(crate) const WHY: usize = 500;

/// A new id, for a question or a grant.
pub(crate) fn new_id() -> String {
    let mut rng = rand::rng();
    (0..ID)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect()
}

/// What is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Name of the agent.
    pub agent: String,
    /// The run, where it is known.
    pub run: Option<String>,
    /// The destination.
    pub subject: Subject,
    /// The far port; none for a question of the DNS.
    pub port: Option<u16>,
    /// The protocol; none for a question of the DNS.
    pub protocol: Option<ProtocolClass>,
    /// The process, where it is known.
    pub process: Option<ProcessRecord>,
    /// Who is asked ([`Asks::Nobody`]: it is denied).
    pub asks: Asks,
    /// The user that is asked, for [`Asks::User`]; where it is not known only administrators
    /// can answer.
    pub uid: Option<u32>,
    /// Seconds until it is denied.
    pub timeout: u32,
}

/// Why an answer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It was settled, or never stood.
    #[error("there is no question `{}`: it was answered, or its time ended", .0.escape_debug())]
    NoQuestion(String),
    /// The choice does not fit the question.
    #[error("{0}")]
    Unfit(String),
    /// Not for this person.
    #[error("{0}")]
    NotPermitted(String),
    /// The policy forbids it; the text names the rule.
    #[error("{0}")]
    Forbidden(String),
    /// It could not be put in force; nothing was granted.
    #[error("{0}")]
    Failed(String),
}

/// Puts a grant in force, whole or not at all.
pub type Force = Box<dyn Fn(&Grant) -> Result<(), AnswerError> + Send + Sync>;
/// Where incidents go.
pub type Tell = Box<dyn Fn(Incident) + Send + Sync>;

/// What is told to who waits.
type Settled = Option<(Ruling, Option<u16>)>;

struct Inner {
    book: Mutex<(Book, HashMap<String, watch::Sender<Settled>>)>,
    /// One answer at a time: it is put in force before the next is looked at.
    answering: Mutex<()>,
    events: broadcast::Sender<DeskEvent>,
    force: OnceLock<Force>,
    tell: Tell,
    clock: Clock,
}

/// Where questions stand until they are settled. A clone is the same desk.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

impl Desk {
    /// An empty desk. `tell` gets the incidents `asked`, `answered` and `granted`.
    pub fn new(bounds: Bounds, clock: Clock, tell: Tell) -> Self {
        Self {
            inner: Arc::new(Inner {
                book: Mutex::new((Book::new(bounds), HashMap::new())),
                answering: Mutex::new(()),
                events: broadcast::channel(EVENTS).0,
                force: OnceLock::new(),
                tell,
                clock,
            }),
        }
    }

    /// What puts grants in force. Until it is there no answer is taken. Only the first counts.
    pub fn put_in_force_by(&self, force: Force) {
        let _ = self.inner.force.set(force);
    }

    /// Puts a question, or joins the standing one about the same. The question is put when this
    /// is called; the future ends when it is settled. Dropping it takes the one who waits away,
    /// not the question.
    pub fn ask(&self, asked: Asked) -> impl Future<Output = Ruling> + Send + 'static {
        let wait = self.put(&asked);
        let desk = self.clone();
        async move {
            match wait {
                Err(ruling) => ruling,
                Ok(settled) => desk.wait(settled, &asked).await,
            }
        }
    }

    async fn wait(&self, mut settled: watch::Receiver<Settled>, asked: &Asked) -> Ruling {
        let timeout = Duration::from_secs(asked.timeout.into());
        loop {
            let changed = tokio::time::timeout(timeout, settled.wait_for(Option::is_some)).await;
            match changed {
                // The runtime's clock stands still while the machine sleeps; the desk's does
                // not, so it is the desk that says when time is over.
                Err(_) => self.tend(),
                Ok(Err(_)) => return Ruling::Deny,
                Ok(Ok(ruling)) => {
                    return match *ruling {
                        Some((Ruling::Allow, None)) => Ruling::Allow,
                        // A name's question has no port: what was narrowed is judged later.
                        Some((Ruling::Allow, port))
                            if asked.port.is_none() || port == asked.port =>
                        {
                            Ruling::Allow
                        }
                        _ => Ruling::Deny,
                    };
                }
            }
        }
    }

    fn put(&self, asked: &Asked) -> Result<watch::Receiver<Settled>, Ruling> {
        if asked.asks == Asks::Nobody {
            return Err(Ruling::Deny);
        }
        self.tend();
        let now = (self.inner.clock)();
        let mut guard = self.book();
        let (book, waiting) = &mut *guard;
        let waiters = |id: &str| waiting.get(id).map_or(0, watch::Sender::receiver_count);
        match book.put(asked, now, Timestamp::now(), waiters, new_id) {
            Put::Throttled => {
                let count = book.throttled(&asked.agent);
                drop(guard);
                // Not one line for each.
                if count.is_power_of_two() {
                    tracing::warn!(
                        agent = asked.agent,
                        count,
                        "denied without a question: too many questions, or nobody answered the same before"
                    );
                }
                Err(Ruling::Deny)
            }
            Put::Answered(ruling) => Err(ruling),
            Put::Joined(question, changed) => {
                let receiver = waiting.get(&question.id).map(watch::Sender::subscribe);
                if changed {
                    let _ = self.inner.events.send(DeskEvent::Asked(question));
                }
                receiver.ok_or(Ruling::Deny)
            }
            Put::New(question) => {
                let (sender, receiver) = watch::channel(None);
                waiting.insert(question.id.clone(), sender);
                let _ = self.inner.events.send(DeskEvent::Asked(question.clone()));
                drop(guard);
                (self.inner.tell)(asked_incident(&question));
                Ok(receiver)
            }
        }
    }

    /// The questions that stand, oldest first, and what comes from here on.
    pub fn subscribe(&self) -> (Vec<Question>, broadcast::Receiver<DeskEvent>) {
        let guard = self.book();
        (guard.0.questions(), self.inner.events.subscribe())
    }

    /// One question, if it stands.
    pub fn question(&self, id: &str) -> Option<Question> {
        self.book().0.question(id).cloned()
    }

    /// Takes an answer from somebody who may give it. The grant is in force when this returns,
    /// and only then who waits is told. Blocks for as long as that takes.
    pub fn answer(
        &self,
        id: &str,
        choice: Choice,
        who: Who,
        why: Option<String>,
    ) -> Result<Grant, AnswerError> {
        let inner = &self.inner;
        let _one = inner
            .answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.tend();
        let grant = {
            let mut guard = self.book();
            let question = guard.0.question(id);
            let question = question.ok_or_else(|| AnswerError::NoQuestion(id.to_owned()))?;
            let grant = draft(question, choice, who, why, Timestamp::now())?;
            guard.0.answering(id, true);
            grant
        };
        let force = inner.force.get();
        let forced = match force {
            Some(force) => force(&grant),
            None => Err(AnswerError::Failed(
                "the daemon is not ready yet".to_owned(),
            )),
        };
        if let Err(error) = forced {
            self.book().0.answering(id, false);
            self.tend();
            return Err(error);
        }
        self.granted(&grant);
        Ok(grant)
    }

    /// A grant came into force: whoever waits for what it covers is told. [`Desk::answer`] does
    /// so by itself.
    pub fn granted(&self, grant: &Grant) {
        let now = (self.inner.clock)();
        let choice = Choice {
            ruling: grant.ruling,
            lasts: grant.lasts,
            breadth: Breadth::This,
        };
        (self.inner.tell)(granted_incident(grant));
        let mut guard = self.book();
        let ended = guard.0.settle(grant, choice, now);
        self.end(guard, &ended, Some(&grant.by));
    }

    /// Ends questions that are of no use any more: the agent is gone, or asks nobody now.
    pub fn withdraw(&self, which: impl Fn(&Question) -> bool) {
        let mut guard = self.book();
        let ended = guard.0.withdraw(which);
        self.end(guard, &ended, None);
    }

    /// The denials that hold: what they cover is not asked about, however long ago they were
    /// given.
    pub fn set_denials(&self, denials: Vec<Grant>) {
        self.book().0.denials = denials;
    }

    /// An answer about this does not count any more: it is asked about again.
    pub fn forget(&self, agent: &str, subject: &GrantSubject) {
        self.book().0.forget(agent, subject);
    }

    /// Denies the questions whose time is over. To be called each second: who waits is told by
    /// it, and a question that nobody waits for any more ends by it.
    pub fn tend(&self) {
        let now = (self.inner.clock)();
        let mut guard = self.book();
        let ended = guard.0.tend(now);
        if !ended.is_empty() {
            self.end(guard, &ended, None);
        }
    }

    /// Denies everything that waits.
    pub fn close(&self) {
        self.withdraw(|_| true);
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.book().0.counts
    }

    /// Number of standing questions of an agent; of all of them for `None`.
    pub fn pending(&self, agent: Option<&str>) -> usize {
        let guard = self.book();
        let of = |q: &&Question| agent.is_none_or(|agent| q.agent == agent);
        guard.0.questions().iter().filter(of).count()
    }

    fn book(&self) -> MutexGuard<'_, (Book, HashMap<String, watch::Sender<Settled>>)> {
        let book = &self.inner.book;
        book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody of questions that ended; not with the book's lock where it could block.
    fn end(
        &self,
        mut guard: MutexGuard<'_, (Book, HashMap<String, watch::Sender<Settled>>)>,
        ended: &[Ended],
        by: Option<&Who>,
    ) {
        for end in ended {
            let ruling = match end.outcome {
                Outcome::Allowed => Ruling::Allow,
                Outcome::Denied | Outcome::TimedOut | Outcome::Withdrawn => Ruling::Deny,
            };
            if let Some(waiting) = guard.1.remove(&end.question.id) {
                waiting.send_replace(Some((ruling, end.port)));
            }
            let settlement = Settlement {
                question: end.question.id.clone(),
                agent: end.question.agent.clone(),
                outcome: end.outcome,
                by: by.cloned(),
            };
            let _ = self.inner.events.send(DeskEvent::Settled(settlement));
        }
        drop(guard);
        for end in ended {
            (self.inner.tell)(answered_incident(end, by));
        }
    }
}

/// The grant that an answer is.
fn draft(
    question: &Question,
    choice: Choice,
    by: Who,
    why: Option<String>,
    given: Timestamp,
) -> Result<Grant, AnswerError> {
    let unfit = |text: &str| Err(AnswerError::Unfit(text.to_owned()));
    let (subject, port) = match (&question.subject, choice.breadth) {
        (Subject::Name { name }, Breadth::This) => {
            (GrantSubject::Name { name: name.clone() }, None)
        }
        (Subject::Name { name }, Breadth::Port { port }) => {
            (GrantSubject::Name { name: name.clone() }, Some(port))
        }
        (Subject::Address { address }, Breadth::This) => {
            (GrantSubject::Address { address: *address }, None)
        }
        (Subject::Address { address }, Breadth::Port { port }) => {
            (GrantSubject::Address { address: *address }, Some(port))
        }
        (Subject::Name { .. }, Breadth::Domain) => match &question.domain {
            Some(domain) => (
                GrantSubject::Domain {
                    domain: domain.clone(),
                },
                None,
            ),
            None => return unfit("this name has no registered domain: answer for the name alone"),
        },
        (Subject::Address { .. }, Breadth::Domain) => {
            return unfit("an address has no domain: answer for the address alone");
        }
    };
    if port == Some(0) {
        return unfit("there is no port 0");
    }
    let until = until(choice.lasts, given)?;
    Ok(Grant {
        id: new_id(),
        agent: question.agent.clone(),
        run: match choice.lasts {
            Lasts::Run => question.run.clone(),
            Lasts::Once | Lasts::For { .. } | Lasts::Always => None,
        },
        ruling: choice.ruling,
        subject,
        port,
        lasts: choice.lasts,
        by,
        why: why.map(|why| why.chars().take(WHY).collect()),
        question: Some(question.id.clone()),
        program: question.process.as_ref().map(program_of),
        given,
        until,
    })
}

/// Until when an answer holds that is given now.
pub(crate) fn until(lasts: Lasts, given: Timestamp) -> Result<Option<Timestamp>, AnswerError> {
    let seconds = match lasts {
        Lasts::Run | Lasts::Always => return Ok(None),
        Lasts::Once => ONCE.as_secs(),
        Lasts::For { seconds } if (1..=LONGEST).contains(&seconds) => seconds,
        Lasts::For { .. } => {
            let text = "a time is from a second to a year; longer is `always`";
            return Err(AnswerError::Unfit(text.to_owned()));
        }
    };
    let span = jiff::SignedDuration::from_secs(seconds as i64);
    Ok(Some(given.saturating_add(span).unwrap_or(Timestamp::MAX)))
}

fn program_of(process: &ProcessRecord) -> String {
    match &process.exe {
        Some(exe) => exe.display().to_string(),
        None => process.comm.clone(),
    }
}

fn with_port(subject: &dyn std::fmt::Display, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{subject} port {port}"),
        None => subject.to_string(),
    }
}

fn asked_incident(question: &Question) -> Incident {
    let what = with_port(&question.subject, question.port);
    let who = match (question.asks, question.uid) {
        (Asks::User, Some(uid)) => format!("user {uid}"),
        _ => "an administrator".to_owned(),
    };
    let program = question.process.as_ref().map(program_of);
    let by = program.as_deref().unwrap_or("a program");
    let message = format!(
        "{by} wants to reach {what}; {who} is asked ({})",
        question.id
    );
    let mut incident = Incident::new(IncidentKind::Asked, &question.agent, message)
        .with("question", &question.id)
        .with("destination", question.subject.to_string())
        .with(
            "asks",
            match question.asks {
                Asks::Nobody => "nobody",
                Asks::User => "user",
                Asks::Admin => "admin",
            },
        );
    if let Some(port) = question.port {
        incident = incident.with("port", port.to_string());
    }
    if let Some(program) = program {
        incident = incident.with("program", program);
    }
    if let Some(run) = &question.run {
        incident = incident.of_run(run);
    }
    match &question.process {
        Some(process) => incident.of_process(process.pid, question.uid),
        None => incident.of_user(question.uid),
    }
}

/// The word of an outcome.
pub(crate) const fn outcome_str(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::TimedOut => "timed_out",
        Outcome::Withdrawn => "withdrawn",
    }
}

fn answered_incident(end: &Ended, by: Option<&Who>) -> Incident {
    let question = &end.question;
    let what = with_port(&question.subject, question.port);
    let message = match (end.outcome, by) {
        (Outcome::Allowed, Some(by)) => format!("{what}: allowed by {}", name_of(by)),
        (Outcome::Denied, Some(by)) => format!("{what}: denied by {}", name_of(by)),
        (Outcome::Allowed, None) => format!("{what}: allowed"),
        (Outcome::Denied, None) => format!("{what}: denied"),
        (Outcome::TimedOut, _) => format!("{what}: nobody answered in time, so it is denied"),
        (Outcome::Withdrawn, _) => format!("{what}: the question was withdrawn"),
    };
    let mut incident = Incident::new(IncidentKind::Answered, &question.agent, message)
        .with("question", &question.id)
        .with("destination", question.subject.to_string())
        .with("outcome", outcome_str(end.outcome))
        .with("waiting", question.waiting.to_string())
        .of_user(question.uid);
    if let Some(run) = &question.run {
        incident = incident.of_run(run);
    }
    match by {
        Some(by) => with_who(incident, by),
        None => incident,
    }
}

/// A person as they are named.
pub(crate) fn name_of(who: &Who) -> String {
    match &who.name {
        Some(name) => printable(name).into_owned(),
        None => format!("user {}", who.uid),
    }
}

/// The incident with who did it.
pub(crate) fn with_who(incident: Incident, who: &Who) -> Incident {
    let incident = incident.with("by_uid", who.uid.to_string());
    let incident = incident.with("via", &who.via);
    match &who.name {
        Some(name) => incident.with("by", name),
        None => incident,
    }
}

/// What a grant is about, and how wide, in words.
pub(crate) fn grant_text(grant: &Grant) -> String {
    match &grant.subject {
        GrantSubject::Name { name } => with_port(name, grant.port),
        GrantSubject::Domain { domain } => {
            with_port(&format!("{domain} and all below it"), grant.port)
        }
        GrantSubject::Address { address } => with_port(address, grant.port),
    }
}

/// The facts of a grant.
pub(crate) fn grant_incident(kind: IncidentKind, grant: &Grant, message: String) -> Incident {
    let (scope, destination) = match &grant.subject {
        GrantSubject::Name { name } => ("name", name.clone()),
        GrantSubject::Domain { domain } => ("domain", domain.clone()),
        GrantSubject::Address { address } => ("address", address.to_string()),
    };
    let mut incident = Incident::new(kind, &grant.agent, message)
        .with("grant", &grant.id)
        .with("scope", scope)
        .with("destination", destination)
        .with(
            "ruling",
            match grant.ruling {
                Ruling::Allow => "allow",
                Ruling::Deny => "deny",
            },
        )
        .with(
            "lasts",
            match grant.lasts {
                Lasts::Once => "once",
                Lasts::Run => "run",
                Lasts::For { .. } => "time",
                Lasts::Always => "always",
            },
        );
    let optional = [
        ("port", grant.port.map(|port| port.to_string())),
        ("until", grant.until.map(|until| until.to_string())),
        ("question", grant.question.clone()),
        ("program", grant.program.clone()),
        ("why", grant.why.clone()),
    ];
    for (fact, value) in optional {
        if let Some(value) = value {
            incident = incident.with(fact, value);
        }
    }
    if let Some(run) = &grant.run {
        incident = incident.of_run(run);
    }
    with_who(incident.of_user(Some(grant.by.uid)), &grant.by)
}

fn granted_incident(grant: &Grant) -> Incident {
    let verb = match grant.ruling {
        Ruling::Allow => "allowed",
        Ruling::Deny => "denied",
    };
    let how_long = match (grant.lasts, grant.until) {
        (Lasts::Run, _) => ", for this run".to_owned(),
        (_, Some(until)) => format!(", until {until}"),
        (_, None) => ", until it is revoked".to_owned(),
    };
    let message = format!(
        "{} is {verb} by {}{how_long} ({})",
        grant_text(grant),
        name_of(&grant.by),
        grant.id
    );
    grant_incident(IncidentKind::Granted, grant, message)
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
