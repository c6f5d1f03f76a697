//! An answer before it is sent: what the person sees and confirms.

use crate::asking::{Breadth, Choice, Lasts, Question, Ruling, Subject};
use crate::flow::printable;

/// What a key proposes.
pub(super) const KEYS: [(char, Ruling, Lasts, &str); 6] = [
    ('a', Ruling::Allow, Lasts::Once, "once"),
    ('r', Ruling::Allow, Lasts::Run, "run"),
    ('h', Ruling::Allow, Lasts::For { seconds: 3600 }, "hour"),
    ('A', Ruling::Allow, Lasts::Always, "always"),
    ('d', Ruling::Deny, Lasts::Once, "deny"),
    ('D', Ruling::Deny, Lasts::Always, "deny always"),
];

/// An answer that waits to be confirmed. It is about the question that was on the screen when
/// the key was pressed, whatever comes meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The question, as it was shown.
    pub question: Question,
    ruling: Ruling,
    lasts: Lasts,
    breadths: Vec<Breadth>,
    chosen: usize,
}

impl Proposal {
    /// What the key proposes, if it proposes anything.
    pub fn of_key(key: char, question: &Question) -> Option<Self> {
        let (_, ruling, lasts, _) = KEYS.into_iter().find(|(of, ..)| *of == key)?;
        let mut breadths = vec![Breadth::This];
        breadths.extend(question.port.map(|port| Breadth::Port { port }));
        if question.domain.is_some() && matches!(question.subject, Subject::Name { .. }) {
            breadths.push(Breadth::Domain);
        }
        Some(Self {
            question: question.clone(),
            ruling,
            lasts,
            breadths,
            chosen: 0,
        })
    }

    /// Goes on to the next thing that the answer can be about.
    pub fn turn(&mut self) {
        self.chosen = (self.chosen + 1) % self.breadths.len();
    }

    /// Whether there is another thing that it can be about.
    pub const fn can_turn(&self) -> bool {
        self.breadths.len() > 1
    }

    /// The answer.
    pub fn choice(&self) -> Choice {
        Choice {
            ruling: self.ruling,
            lasts: self.lasts,
            breadth: self.breadths[self.chosen],
        }
    }

    /// What is answered, in safe lines.
    pub fn lines(&self) -> Vec<String> {
        let question = &self.question;
        let verb = match self.ruling {
            Ruling::Allow => "Allow",
            Ruling::Deny => "Deny",
        };
        let subject = question.subject.to_string();
        let what = match self.breadths[self.chosen] {
            Breadth::This => format!("{}, any port", printable(&subject)),
            Breadth::Port { port } => format!("{} port {port}", printable(&subject)),
            Breadth::Domain => {
                let domain = question.domain.as_deref().unwrap_or(&subject);
                format!("{} and every name below it", printable(domain))
            }
        };
        let lasts = match self.lasts {
            Lasts::Once => "once: what waits now, and for a minute".to_owned(),
            Lasts::Run => match &question.run {
                Some(run) => format!("until the run {} ends", printable(run)),
                None => "until its processes end".to_owned(),
            },
            Lasts::For { seconds } => {
                format!("for {}", crate::cli::output::duration(seconds))
            }
            Lasts::Always => "always, until it is revoked".to_owned(),
        };
        vec![
            format!("{verb} {} to reach", printable(&question.agent)),
            format!("  {what}"),
            format!("  {lasts}"),
            format!("Asked for by {}", wanted_by(question)),
        ]
    }
}

/// The process behind a question.
pub(super) fn wanted_by(question: &Question) -> String {
    let Some(process) = &question.process else {
        return "a process that is not known".into();
    };
    let program = match &process.exe {
        Some(exe) => exe.to_string_lossy(),
        None => process.comm.as_str().into(),
    };
    format!("{}[{}]", printable(&program), process.pid)
}
