//! What detection rules found and a person is to know: which is shown next, and how often. Pure.
//!
//! A program can make rules fire. It must neither bury the screen under what they find, nor what
//! they find of another agent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::text::{Can, Text, clean, cut, escape};
use crate::incident::Incident;

/// Findings that wait, of one agent and in all. More of them are counted.
const OF_ONE: usize = 4;
const WAITING: usize = 16;
/// So many notifications in such a time.
const MOST: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);
/// Characters of a message that are shown.
const MESSAGE: usize = 240;

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// This one.
    One(Box<Incident>),
    /// That so many more were found.
    More(u64),
}

/// The findings.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The gravest first, and of those the oldest.
    waiting: Vec<Incident>,
    shown: VecDeque<Instant>,
    more: u64,
}

/// 0 is the gravest.
fn rank(incident: &Incident) -> u8 {
    match incident.facts.get("severity").map(String::as_str) {
        Some("critical") => 0,
        Some("high") => 1,
        Some("medium") => 2,
        _ => 3,
    }
}

impl Findings {
    pub(super) fn put(&mut self, incident: Incident) {
        let at = self
            .waiting
            .partition_point(|one| rank(one) <= rank(&incident));
        let agent = incident.agent.clone();
        self.waiting.insert(at, incident);
        let of_it = self.waiting.iter().filter(|one| one.agent == agent).count();
        let last = match of_it > OF_ONE {
            true => self.waiting.iter().rposition(|one| one.agent == agent),
            false if self.waiting.len() > WAITING => Some(self.waiting.len() - 1),
            false => None,
        };
        if let Some(last) = last {
            self.waiting.remove(last);
            self.more += 1;
        }
    }

    /// What is to be shown now, if anything may be.
    pub(super) fn due(&mut self, now: Instant) -> Option<Next> {
        let over = |then: &Instant| now.saturating_duration_since(*then) >= WITHIN;
        while self.shown.front().is_some_and(over) {
            self.shown.pop_front();
        }
        if self.shown.len() >= MOST {
            return None;
        }
        match self.waiting.first() {
            Some(one) => Some(Next::One(Box::new(one.clone()))),
            None => (self.more > 0).then_some(Next::More(self.more)),
        }
    }

    /// What was due is on the screen.
    pub(super) fn is_shown(&mut self, now: Instant) {
        self.shown.push_back(now);
        match self.waiting.is_empty() {
            true => self.more = 0,
            false => drop(self.waiting.remove(0)),
        }
    }
}

/// The text for it.
pub(super) fn text(next: &Next, can: Can) -> Text {
    let plain = |text: &str| match can.markup {
        true => escape(text),
        false => text.to_owned(),
    };
    match next {
        Next::One(incident) => {
            let agent = cut(&clean(&incident.agent), 40);
            let severity = incident.facts.get("severity").map_or("", String::as_str);
            let message = cut(&clean(&incident.message), MESSAGE);
            let mut lines = vec![plain(&message)];
            let actions = incident.facts.get("actions").map_or("", String::as_str);
            for (action, words) in [
                ("freeze", "The rule stops the agent where it may act"),
                ("isolate", "The rule cuts the agent off where it may act"),
            ] {
                if actions.split(',').any(|one| one == action) {
                    lines.push(words.to_owned());
                    break;
                }
            }
            lines.push(plain(&format!(
                "In a terminal: exeat events --agent {agent}"
            )));
            Text {
                summary: format!("Exeat: {} of agent {agent}", clean(severity)),
                body: lines.join("\n"),
            }
        }
        Next::More(count) => Text {
            summary: format!("Exeat: {count} more findings"),
            body: "In a terminal: exeat events".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::IncidentKind;

    fn finding(agent: &str, severity: &str, what: &str) -> Incident {
        Incident::new(IncidentKind::Detected, agent, what.to_owned())
            .with("severity", severity)
            .with("actions", "event,notify,isolate")
    }

    fn shown(findings: &mut Findings, now: Instant) -> Option<String> {
        let next = findings.due(now)?;
        findings.is_shown(now);
        Some(match next {
            Next::One(one) => one.message,
            Next::More(count) => format!("{count} more"),
        })
    }

    #[test]
    fn the_gravest_is_shown_first_and_a_flood_is_three_a_minute() {
        let start = Instant::now();
        let mut findings = Findings::default();
        for n in 0..100 {
            findings.put(finding("loud", "medium", &format!("m{n}")));
        }
        findings.put(finding("quiet", "low", "another agent's"));
        findings.put(finding("loud", "critical", "grave"));
        let first: Vec<_> = (0..10)
            .filter_map(|_| shown(&mut findings, start))
            .collect();
        assert_eq!(first, ["grave", "m0", "m1"]);
        let later = start + WITHIN;
        let second: Vec<_> = (0..10)
            .filter_map(|_| shown(&mut findings, later))
            .collect();
        assert_eq!(second, ["m2", "another agent's", "97 more"]);
        assert_eq!(findings.due(later + WITHIN), None);
    }

    #[test]
    fn no_agent_has_all_the_room() {
        let mut findings = Findings::default();
        for agent in 0..50 {
            findings.put(finding(&format!("a{agent}"), "low", "x"));
        }
        assert_eq!(findings.waiting.len(), WAITING);
        assert_eq!(findings.more, 50 - WAITING as u64);
    }

    #[test]
    fn what_a_program_chose_is_no_markup_and_no_line() {
        let hostile = "Canary: <b>x</b>\n<a href='http://evil'>click</a>\u{202e}";
        let next = Next::One(Box::new(finding("a<b>", "high", hostile)));
        for markup in [true, false] {
            let can = Can {
                actions: true,
                body: true,
                markup,
            };
            let text = text(&next, can);
            assert_eq!(text.body.lines().count(), 3, "{text:?}");
            assert!(!text.body.contains('\u{202e}'), "{text:?}");
            assert_eq!(markup, !text.body.contains('<'), "{text:?}");
        }
    }
}
