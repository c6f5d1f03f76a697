//! What is known, what is selected, and what keys do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::answer::Proposal;
use super::brief::Brief;
use super::rates::Rates;
use crate::asking::{Choice, Grant, Question, Ruling, Settlement};
use crate::control::status::{AgentStatus, NameStatus, Status, Wall, WallState};
use crate::flow::printable;
use crate::sink::Record;

/// Refusals and incidents that are remembered.
pub(super) const KEPT: usize = 500;

/// What comes in.
#[derive(Debug)]
pub enum Update {
    /// The daemon's state, at a time that only grows.
    Status(Box<Status>, Duration),
    /// The daemon does not answer, and why.
    Gone(String, Timestamp),
    /// Records follow from here; those before are told again.
    Records,
    /// One record.
    Record(Box<Record>),
    /// Records that are not told, because this reader was too slow.
    Lost(u64),
    /// Questions follow from here; those before are told again if they still stand.
    Questions,
    /// One stands, or more joined it.
    Question(Box<Question>),
    /// One ended.
    Settled(Box<Settlement>),
    /// Questions are not told, and why.
    NoQuestions(String),
    /// What became of an answer.
    Answered(Result<Box<Grant>, String>),
    /// A key.
    Key(KeyEvent),
    /// Only that time has passed, or the terminal has another size.
    Look,
    /// Told to end.
    End,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Leave.
    Quit,
    /// Send an answer.
    Answer {
        /// Id of the question.
        question: String,
        /// The answer.
        choice: Choice,
    },
}

/// Whether the daemon is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It was not asked yet.
    Waiting,
    /// It answers.
    Up,
    /// It does not.
    Gone {
        /// Since when.
        since: Timestamp,
        /// What the last try said; safe.
        why: String,
    },
}

/// Where keys that move go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// The agents.
    Agents,
    /// The questions.
    Questions,
    /// Refusals and incidents.
    News,
    /// Names of the policy.
    Names,
}

impl Pane {
    const ALL: [Self; 4] = [Self::Agents, Self::Questions, Self::News, Self::Names];
}

/// A word about the last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Safe text.
    pub text: String,
    /// Whether it is about something that was not done.
    pub bad: bool,
}

/// Everything that is on the screen.
#[derive(Debug)]
pub struct App {
    /// Whether the daemon is there.
    pub link: Link,
    /// The last state that it told.
    pub status: Option<Box<Status>>,
    /// By agent.
    pub rates: BTreeMap<String, Rates>,
    /// Refusals and incidents, the newest last.
    pub news: VecDeque<Brief>,
    /// Records that were not told.
    pub lost: u64,
    /// Standing questions, the oldest first.
    pub questions: Vec<Question>,
    /// Why questions are not told; safe.
    pub no_questions: Option<String>,
    /// Id of the selected question.
    selected: Option<String>,
    /// An answer that waits to be confirmed.
    pub proposal: Option<Proposal>,
    /// What became of the last answer.
    pub notice: Option<Notice>,
    /// Whether the help is shown.
    pub help: bool,
    /// Where keys that move go.
    pub focus: Pane,
    /// Only this agent is shown.
    pub only: Option<String>,
    agent: usize,
    name: usize,
    /// Lines that the pane of news is scrolled back by.
    pub back: usize,
}

impl App {
    /// Nothing is known yet. `only` shows one agent.
    pub fn new(only: Option<String>) -> Self {
        Self {
            link: Link::Waiting,
            status: None,
            rates: BTreeMap::new(),
            news: VecDeque::new(),
            lost: 0,
            questions: Vec::new(),
            no_questions: None,
            selected: None,
            proposal: None,
            notice: None,
            help: false,
            focus: Pane::Agents,
            only,
            agent: 0,
            name: 0,
            back: 0,
        }
    }

    /// Takes what came; what is to be done about it.
    pub fn apply(&mut self, update: Update) -> Option<Act> {
        match update {
            Update::Status(status, at) => self.take_status(status, at),
            Update::Gone(why, now) => {
                let since = match self.link {
                    Link::Gone { since, .. } => since,
                    Link::Waiting | Link::Up => now,
                };
                let why = printable(&why).into_owned();
                self.link = Link::Gone { since, why };
                self.rates.values_mut().for_each(Rates::interrupted);
                // An answer could not be sent, and the daemon may ask anew under other ids.
                self.questions.clear();
                self.proposal = None;
            }
            Update::Records => {
                self.news.clear();
                self.back = 0;
            }
            Update::Record(record) => self.take_record(&record),
            Update::Lost(records) => self.lost = self.lost.saturating_add(records),
            Update::Questions => {
                self.questions.clear();
                self.proposal = None;
                self.no_questions = None;
            }
            Update::Question(question) => self.take_question(*question),
            Update::Settled(settlement) => self.settle(&settlement),
            Update::NoQuestions(why) => {
                self.questions.clear();
                self.no_questions = Some(printable(&why).into_owned());
            }
            Update::Answered(outcome) => self.notice = Some(notice(outcome)),
            Update::Key(key) if key.kind != KeyEventKind::Release => return self.key(key),
            Update::Key(_) | Update::Look => {}
            Update::End => return Some(Act::Quit),
        }
        None
    }

    fn take_status(&mut self, status: Box<Status>, at: Duration) {
        self.link = Link::Up;
        let names: Vec<&str> = status.agents.iter().map(|a| a.name.as_str()).collect();
        self.rates.retain(|name, _| names.contains(&name.as_str()));
        for agent in &status.agents {
            let rates = self.rates.entry(agent.name.clone()).or_default();
            rates.sample(at, agent);
        }
        self.status = Some(status);
        self.agent = self.agent.min(self.agents().count().saturating_sub(1));
        self.name = self.name.min(self.names().len().saturating_sub(1));
    }

    fn take_record(&mut self, record: &Record) {
        let brief = match record {
            Record::Flow(flow) => Brief::of_flow(flow),
            Record::Incident(incident) => Some(Brief::of_incident(incident)),
        };
        let Some(brief) = brief else { return };
        let shown = self.shows(record.agent());
        self.news.push_back(brief);
        if self.news.len() > KEPT {
            self.news.pop_front();
        }
        // What a person looks at does not move away.
        if self.back > 0 && shown {
            let last = self.shown_news().count().saturating_sub(1);
            self.back = (self.back + 1).min(last);
        }
    }

    fn take_question(&mut self, question: Question) {
        match self.questions.iter_mut().find(|q| q.id == question.id) {
            Some(known) => *known = question,
            None => self.questions.push(question),
        }
        if self.selected().is_none() {
            self.select(0);
        }
    }

    fn settle(&mut self, settlement: &Settlement) {
        let at = self
            .shown_questions()
            .position(|q| q.id == settlement.question);
        self.questions.retain(|q| q.id != settlement.question);
        if let Some(at) = at
            && self.selected().is_none()
        {
            let last = self.shown_questions().count().saturating_sub(1);
            self.select(at.min(last));
        }
        let open = self.proposal.as_ref();
        if open.is_some_and(|p| p.question.id == settlement.question) {
            self.proposal = None;
            self.notice = Some(Notice {
                text: settled(settlement),
                bad: true,
            });
        }
    }

    /// Whether records and questions of this agent are shown.
    fn shows(&self, agent: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == agent)
    }

    /// The agents that are shown.
    pub fn agents(&self) -> impl Iterator<Item = &AgentStatus> {
        let all = self.status.iter().flat_map(|status| &status.agents);
        all.filter(|agent| self.shows(&agent.name))
    }

    /// Refusals and incidents that are shown, the newest last.
    pub fn shown_news(&self) -> impl DoubleEndedIterator<Item = &Brief> {
        let only = self.only.as_deref().map(printable);
        let shows = move |brief: &&Brief| only.as_ref().is_none_or(|only| *only == brief.agent);
        self.news.iter().filter(shows)
    }

    /// The questions that are shown, the oldest first.
    pub fn shown_questions(&self) -> impl Iterator<Item = &Question> {
        self.questions.iter().filter(|q| self.shows(&q.agent))
    }

    /// The names of the policy.
    pub fn names(&self) -> &[NameStatus] {
        self.status.as_ref().map_or(&[], |status| &status.names)
    }

    /// Walls that should stand and do not, and those that this machine cannot have: of all
    /// agents, and of those that are shown.
    pub fn walls_missing(&self) -> Vec<&Wall> {
        let all = self.status.iter().flat_map(|s| &s.enforcement.walls);
        let own = self.agents().flat_map(|agent| &agent.walls);
        let mut missing: Vec<&Wall> = Vec::new();
        for wall in all.chain(own).filter(|w| w.state != WallState::Up) {
            if !missing.iter().any(|known| known.name == wall.name) {
                missing.push(wall);
            }
        }
        missing
    }

    /// Index of the selected agent among those that are shown.
    pub const fn selected_agent(&self) -> usize {
        self.agent
    }

    /// Index of the selected name.
    pub const fn selected_name(&self) -> usize {
        self.name
    }

    /// The selected question, with its index among those that are shown.
    pub fn selected(&self) -> Option<(usize, &Question)> {
        let selected = self.selected.as_ref()?;
        self.shown_questions()
            .enumerate()
            .find(|(_, q)| q.id == *selected)
    }

    fn select(&mut self, at: usize) {
        let id = self.shown_questions().nth(at).map(|q| q.id.clone());
        self.selected = id;
    }

    fn key(&mut self, key: KeyEvent) -> Option<Act> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Some(Act::Quit);
        }
        if control {
            return None;
        }
        if self.help {
            self.help = false;
            return None;
        }
        if self.proposal.is_some() {
            return self.confirm(key.code);
        }
        self.notice = None;
        match key.code {
            KeyCode::Char('q') => return Some(Act::Quit),
            KeyCode::Char('?') => self.help = true,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(|at, last| (at + 1).min(last)),
            KeyCode::PageUp => self.go(|at, _| at.saturating_sub(10)),
            KeyCode::PageDown => self.go(|at, last| (at + 10).min(last)),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_, last| last),
            KeyCode::Enter if self.focus == Pane::Agents => self.filter(),
            KeyCode::Char(key) => {
                self.proposal = self
                    .selected()
                    .and_then(|(_, question)| Proposal::of_key(key, question));
            }
            _ => {}
        }
        None
    }

    /// Only `y` sends: a person who types something else while a question comes up must not
    /// answer it by chance.
    fn confirm(&mut self, key: KeyCode) -> Option<Act> {
        match key {
            KeyCode::Char('y') => {
                let proposal = self.proposal.take()?;
                self.notice = Some(Notice {
                    text: "the answer is sent".into(),
                    bad: false,
                });
                return Some(Act::Answer {
                    question: proposal.question.id.clone(),
                    choice: proposal.choice(),
                });
            }
            KeyCode::Char('b') => self.proposal.iter_mut().for_each(Proposal::turn),
            KeyCode::Char('n' | 'q') | KeyCode::Esc => self.proposal = None,
            _ => {}
        }
        None
    }

    fn turn(&mut self, by: usize) {
        let at = Pane::ALL.iter().position(|p| *p == self.focus);
        self.focus = Pane::ALL[(at.unwrap_or(0) + by) % Pane::ALL.len()];
    }

    /// Moves in the pane: from where, and with the last place, to where.
    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        match self.focus {
            Pane::Agents => self.agent = to(self.agent, last(self.agents().count())),
            Pane::Names => self.name = to(self.name, last(self.names().len())),
            Pane::Questions => {
                let at = self.selected().map_or(0, |(at, _)| at);
                self.select(to(at, last(self.shown_questions().count())));
            }
            Pane::News => {
                let last = last(self.shown_news().count());
                self.back = last - to(last - self.back.min(last), last);
            }
        }
    }

    fn filter(&mut self) {
        self.only = match self.only {
            Some(_) => None,
            None => self.agents().nth(self.agent).map(|a| a.name.clone()),
        };
        (self.agent, self.back) = (0, 0);
        if self.selected().is_none() {
            self.select(0);
        }
    }
}

const fn last(count: usize) -> usize {
    count.saturating_sub(1)
}

fn settled(settlement: &Settlement) -> String {
    use crate::asking::Outcome as O;
    let how = match settlement.outcome {
        O::Allowed => "allowed",
        O::Denied => "denied",
        O::TimedOut => {
            return "not sent: the question ended, denied because nobody answered".into();
        }
        O::Withdrawn => return "not sent: the question was withdrawn".into(),
    };
    match &settlement.by {
        None => format!("not sent: the question was {how} meanwhile"),
        Some(by) => {
            let who = by
                .name
                .clone()
                .unwrap_or_else(|| format!("user {}", by.uid));
            let (who, via) = (printable(&who).into_owned(), printable(&by.via));
            format!("not sent: {who} {how} it meanwhile, by {via}")
        }
    }
}

fn notice(outcome: Result<Box<Grant>, String>) -> Notice {
    match outcome {
        Err(why) => Notice {
            text: printable(&why.replace('\n', " ")).into_owned(),
            bad: true,
        },
        Ok(grant) => {
            let did = match grant.ruling {
                Ruling::Allow => "allowed",
                Ruling::Deny => "denied",
            };
            let id = printable(&grant.id);
            Notice {
                text: format!("{did}; `exeat revoke {id}` takes it back"),
                bad: false,
            }
        }
    }
}
