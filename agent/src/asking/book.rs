//! Which questions stand, and which are not put at all. Pure: time is an argument.
//!
//! Whoever asks is hostile: it wants a person to click `allow` out of weariness, or another
//! agent's question to find no room. So everything here is counted by agent, what nobody
//! answered rests for longer each time, and what finds no room is denied.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::desk::Asked;
use super::{Choice, Grant, GrantSubject, Lasts, Outcome, Question, Ruling, Subject};

/// How many questions there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Standing at once, of one agent.
    pub per_agent: usize,
    /// Standing at once, but for the first of each agent.
    pub total: usize,
    /// New ones of one agent in a minute.
    pub per_minute: u32,
    /// Who may wait for one question.
    pub waiters: usize,
    /// How long what nobody answered rests, at first; doubled with each further time.
    pub rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_agent: 8,
            total: 64,
            per_minute: 12,
            waiters: 1024,
            rest: Duration::from_secs(30),
            longest_rest: Duration::from_secs(3600),
        }
    }
}

/// Absolute counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions that were put.
    pub asked: u64,
    /// Requests that joined a standing question.
    pub joined: u64,
    /// Requests that were denied without a question: too many of them, or nobody answered the
    /// same a moment ago.
    pub throttled: u64,
    /// Questions that nobody answered in time.
    pub timed_out: u64,
    /// Questions that were withdrawn.
    pub withdrawn: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
/// How long an answer is remembered for requests that were under way when it was given.
const UNDER_WAY: Duration = Duration::from_secs(3);
/// How long a denial keeps the same question from being put, at least.
const DENIED: Duration = Duration::from_secs(60);
/// Time-outs in a row after which an agent may ask half as often.
const STRIKES: u32 = 4;
/// Subjects of one agent that are remembered.
const REMEMBERED: usize = 256;

/// What is known of a subject that was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// Nobody answered, so many times in a row; it is not asked about again before it has rested.
    Unanswered { times: u32, rests: Duration },
    /// Somebody did.
    Answered { ruling: Ruling, port: Option<u16> },
}

/// The pace of one agent.
#[derive(Debug, Default)]
struct Pace {
    /// When its last questions were put.
    put: VecDeque<Duration>,
    /// Time-outs since somebody answered.
    strikes: u32,
    /// What was asked, and until when that counts.
    memory: BTreeMap<Subject, (Memory, Duration)>,
    throttled: u64,
}

impl Pace {
    fn remember(&mut self, subject: Subject, memory: Memory, until: Duration) {
        if self.memory.len() >= REMEMBERED && !self.memory.contains_key(&subject) {
            let next = self.memory.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(next) = next.map(|(subject, _)| subject.clone()) {
                self.memory.remove(&next);
            }
        }
        self.memory.insert(subject, (memory, until));
    }

    /// New questions in a minute that it may put now.
    fn allowance(&self, bounds: &Bounds) -> usize {
        let halved = (self.strikes / STRIKES).min(31);
        (bounds.per_minute >> halved).max(1) as usize
    }
}

#[derive(Debug)]
struct Standing {
    question: Question,
    deadline: Duration,
    /// An answer is being put in force: no time-out any more.
    answering: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Put {
    /// A new question.
    New(Question),
    /// It waits with others; whether watchers are told.
    Joined(Question, bool),
    /// It was answered a moment ago.
    Answered(Ruling),
    /// No question is put: it is denied.
    Throttled,
}

/// A question that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) question: Question,
    pub(super) outcome: Outcome,
    /// What an answer narrows it to.
    pub(super) port: Option<u16>,
}

/// The questions.
#[derive(Debug)]
pub(super) struct Book {
    bounds: Bounds,
    standing: BTreeMap<String, Standing>,
    paces: BTreeMap<String, Pace>,
    /// Denials that hold: what they cover is not asked about.
    pub(super) denials: Vec<Grant>,
    pub(super) counts: Counts,
}

impl Book {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            standing: BTreeMap::new(),
            paces: BTreeMap::new(),
            denials: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// A request. `id` makes a name for a question, any number of times.
    pub(super) fn put(
        &mut self,
        asked: &Asked,
        now: Duration,
        wall: Timestamp,
        waiters: impl Fn(&str) -> usize,
        mut id: impl FnMut() -> String,
    ) -> Put {
        let denied = self.denials.iter().any(|grant| {
            grant.agent == asked.agent
                && covers(&grant.subject, &asked.subject)
                && (grant.port.is_none() || grant.port == asked.port)
        });
        if denied {
            return Put::Answered(Ruling::Deny);
        }
        let same = self.standing.values_mut().find(|s| {
            let q = &s.question;
            q.agent == asked.agent
                && q.subject == asked.subject
                && (q.asks, q.uid) == (asked.asks, asked.uid)
        });
        if let Some(standing) = same {
            // One that is over and only not looked at yet takes nobody in.
            if standing.deadline > now && waiters(&standing.question.id) < self.bounds.waiters {
                let question = &mut standing.question;
                question.waiting += 1;
                let mut changed = question.waiting.is_power_of_two();
                if question.port != asked.port && question.port.is_some() && asked.port.is_some() {
                    // It is about more than one: whoever wants to allow one names it.
                    question.port = None;
                    changed = true;
                }
                self.counts.joined += 1;
                return Put::Joined(question.clone(), changed);
            }
            return self.throttle(&asked.agent);
        }
        let pace = self.paces.entry(asked.agent.clone()).or_default();
        pace.memory.retain(|_, (_, until)| *until > now);
        match pace.memory.get(&asked.subject) {
            Some((Memory::Answered { ruling, port }, _))
                if port.is_none()
                    || *port == asked.port
                    || *ruling == Ruling::Deny && asked.port.is_none() =>
            {
                return Put::Answered(*ruling);
            }
            Some((Memory::Unanswered { rests, .. }, _)) if *rests > now => {
                return self.throttle(&asked.agent);
            }
            _ => {}
        }
        while pace.put.front().is_some_and(|at| *at + MINUTE <= now) {
            pace.put.pop_front();
        }
        let mine = self
            .standing
            .values()
            .filter(|s| s.question.agent == asked.agent)
            .count();
        // However many others there are, each agent finds room for one.
        let full = pace.put.len() >= pace.allowance(&self.bounds)
            || mine > 0 && self.standing.len() >= self.bounds.total
            || mine >= self.bounds.per_agent;
        if full {
            return self.throttle(&asked.agent);
        }
        let id = loop {
            let id = id();
            if !self.standing.contains_key(&id) {
                break id;
            }
        };
        if let Some(pace) = self.paces.get_mut(&asked.agent) {
            pace.put.push_back(now);
        }
        let timeout = Duration::from_secs(asked.timeout.into());
        let lasts = SignedDuration::from_secs(asked.timeout.into());
        let question = Question {
            id: id.clone(),
            agent: asked.agent.clone(),
            run: asked.run.clone(),
            domain: match &asked.subject {
                Subject::Name { name } => psl::domain_str(name).map(str::to_owned),
                Subject::Address { .. } => None,
            },
            subject: asked.subject.clone(),
            port: asked.port,
            protocol: asked.protocol,
            process: asked.process.clone(),
            asks: asked.asks,
            uid: asked.uid,
            asked: wall,
            expires: wall.saturating_add(lasts).unwrap_or(Timestamp::MAX),
            waiting: 1,
        };
        self.standing.insert(
            id,
            Standing {
                question: question.clone(),
                deadline: now + timeout,
                answering: false,
            },
        );
        self.counts.asked += 1;
        Put::New(question)
    }

    fn throttle(&mut self, agent: &str) -> Put {
        self.counts.throttled += 1;
        if let Some(pace) = self.paces.get_mut(agent) {
            pace.throttled += 1;
        }
        Put::Throttled
    }

    pub(super) fn questions(&self) -> Vec<Question> {
        let mut all: Vec<Question> = self.standing.values().map(|s| s.question.clone()).collect();
        all.sort_by(|a, b| (a.asked, &a.id).cmp(&(b.asked, &b.id)));
        all
    }

    pub(super) fn question(&self, id: &str) -> Option<&Question> {
        self.standing.get(id).map(|s| &s.question)
    }

    /// Requests of an agent that were denied without a question.
    pub(super) fn throttled(&self, agent: &str) -> u64 {
        self.paces.get(agent).map_or(0, |pace| pace.throttled)
    }

    /// An answer to it is being put in force, or is not after all.
    pub(super) fn answering(&mut self, id: &str, is: bool) {
        if let Some(standing) = self.standing.get_mut(id) {
            standing.answering = is;
        }
    }

    /// What a grant settles: the question that it answers, and others that it covers.
    pub(super) fn settle(&mut self, grant: &Grant, choice: Choice, now: Duration) -> Vec<Ended> {
        let outcome = match choice.ruling {
            Ruling::Allow => Outcome::Allowed,
            Ruling::Deny => Outcome::Denied,
        };
        let settled = |q: &Question| {
            grant.question.as_deref() == Some(q.id.as_str())
                || q.agent == grant.agent
                    && covers(&grant.subject, &q.subject)
                    && (grant.port.is_none() || grant.port == q.port)
        };
        let ids: Vec<String> = self
            .standing
            .values()
            .filter(|s| settled(&s.question))
            .map(|s| s.question.id.clone())
            .collect();
        let lasts = match (choice.ruling, choice.lasts) {
            (Ruling::Allow, _) => UNDER_WAY,
            // For the rest of its time it is among the denials.
            (Ruling::Deny, Lasts::For { seconds }) => DENIED.min(Duration::from_secs(seconds)),
            (Ruling::Deny, _) => DENIED,
        };
        let mut ended = Vec::new();
        for id in ids {
            let Some(standing) = self.standing.remove(&id) else {
                continue;
            };
            let question = standing.question;
            if let Some(pace) = self.paces.get_mut(&question.agent) {
                pace.strikes = 0;
                let memory = Memory::Answered {
                    ruling: choice.ruling,
                    port: grant.port,
                };
                pace.remember(question.subject.clone(), memory, now + lasts);
            }
            ended.push(Ended {
                question,
                outcome,
                port: grant.port,
            });
        }
        ended
    }

    /// Ends the questions whose time is over.
    pub(super) fn tend(&mut self, now: Duration) -> Vec<Ended> {
        let over: Vec<String> = self
            .standing
            .iter()
            .filter(|(_, s)| s.deadline <= now && !s.answering)
            .map(|(id, _)| id.clone())
            .collect();
        over.iter()
            .filter_map(|id| {
                let question = self.standing.remove(id)?.question;
                self.counts.timed_out += 1;
                let bounds = self.bounds;
                if let Some(pace) = self.paces.get_mut(&question.agent) {
                    pace.strikes = pace.strikes.saturating_add(1);
                    let times = match pace.memory.get(&question.subject) {
                        Some((Memory::Unanswered { times, .. }, until)) if *until > now => {
                            times.saturating_add(1)
                        }
                        _ => 1,
                    };
                    let rest = bounds.rest_of(times);
                    let memory = Memory::Unanswered {
                        times,
                        rests: now + rest,
                    };
                    // Over its rest, so that the next time counts as the next.
                    let known = now + rest * 2 + MINUTE * 10;
                    pace.remember(question.subject.clone(), memory, known);
                }
                Some(Ended {
                    question,
                    outcome: Outcome::TimedOut,
                    port: None,
                })
            })
            .collect()
    }

    /// Ends questions that are of no use any more.
    pub(super) fn withdraw(&mut self, which: impl Fn(&Question) -> bool) -> Vec<Ended> {
        let ids: Vec<String> = self
            .standing
            .values()
            .filter(|s| which(&s.question))
            .map(|s| s.question.id.clone())
            .collect();
        ids.iter()
            .filter_map(|id| {
                let question = self.standing.remove(id)?.question;
                self.counts.withdrawn += 1;
                Some(Ended {
                    question,
                    outcome: Outcome::Withdrawn,
                    port: None,
                })
            })
            .collect()
    }

    /// What was answered about a subject of an agent does not count any more.
    pub(super) fn forget(&mut self, agent: &str, subject: &GrantSubject) {
        if let Some(pace) = self.paces.get_mut(agent) {
            pace.memory.retain(|known, _| !covers(subject, known));
        }
    }
}

impl Bounds {
    /// How long a subject that nobody answered so many times in a row is not asked about.
    fn rest_of(&self, times: u32) -> Duration {
        let factor = 1u32 << times.saturating_sub(1).min(16);
        self.rest.saturating_mul(factor).min(self.longest_rest)
    }
}

/// Whether a grant for `granted` is about `asked` too.
pub(super) fn covers(granted: &GrantSubject, asked: &Subject) -> bool {
    match (granted, asked) {
        (GrantSubject::Name { name: a }, Subject::Name { name: b }) => a == b,
        (GrantSubject::Address { address: a }, Subject::Address { address: b }) => a == b,
        (GrantSubject::Domain { domain }, Subject::Name { name }) => {
            let below = name.strip_suffix(domain.as_str());
            below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        _ => false,
    }
}
