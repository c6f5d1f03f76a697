//! What is shown, and which clicks count. Pure.
//!
//! A click is a signal that anybody on the bus can send. It counts when it comes from the
//! connection that showed the notification, names one of ours that stands, and carries a key
//! that only that connection was ever told. The key matters where a program may speak to the
//! notification server: it can put a text of its own over a notification of ours, and a person
//! who clicks there sends a key that we do not know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::text::Button;
use crate::asking::Question;

/// Notifications at once; the rest is one line that says how many.
pub(super) const MOST: usize = 6;
/// How long a notification must have stood before it lets anything through: who clicks where
/// something has just appeared has not read it.
pub(super) const TOO_SOON: Duration = Duration::from_millis(500);
/// How long the end of a question is waited for after its time.
const OVERDUE: i64 = 5;

/// A notification on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// The connection that shows it, by its unique name.
    pub(super) server: String,
    /// Its number there.
    pub(super) number: u32,
    /// Its buttons, by key.
    pub(super) keys: BTreeMap<String, Button>,
    /// Since when it shows this destination.
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Standing {
    pub(super) question: Question,
    pub(super) shown: Option<Shown>,
    /// The text on the screen is not that of the question any more.
    dirty: bool,
    /// The person has put it away, or it was answered here.
    away: bool,
}

/// The questions that stand, by id.
#[derive(Debug, Default)]
pub(super) struct Board {
    standing: BTreeMap<String, Standing>,
}

/// What is to be done with a click.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Click {
    /// It answers this question.
    Answers(Box<Question>, Button),
    /// It came before anybody can have read it: show it again.
    TooSoon(String),
    /// It is nobody's business, or somebody's attempt; why.
    Ignored(&'static str),
}

impl Board {
    /// A question stands, or more joined it.
    pub(super) fn put(&mut self, question: Question) {
        match self.standing.get_mut(&question.id) {
            Some(standing) => {
                // An id that is used again is another question.
                if standing.question.asked != question.asked {
                    standing.away = false;
                }
                standing.dirty = true;
                standing.question = question;
            }
            None => {
                let standing = Standing {
                    question: question.clone(),
                    shown: None,
                    dirty: true,
                    away: false,
                };
                self.standing.insert(question.id, standing);
            }
        }
    }

    /// It ended; what is to be closed.
    pub(super) fn take(&mut self, id: &str) -> Option<Shown> {
        self.standing.remove(id)?.shown
    }

    /// Every question is gone; what is to be closed.
    pub(super) fn clear(&mut self) -> Vec<Shown> {
        let all = std::mem::take(&mut self.standing);
        all.into_values().filter_map(|one| one.shown).collect()
    }

    /// The server went away with all that it showed.
    pub(super) fn forget_shown(&mut self) {
        for standing in self.standing.values_mut() {
            standing.shown = None;
            standing.dirty = true;
        }
    }

    /// Questions whose time is long over and whose end nobody told.
    pub(super) fn overdue(&self, now: Timestamp) -> Vec<String> {
        let over = |one: &&Standing| now.as_second() - one.question.expires.as_second() > OVERDUE;
        let all = self.standing.values().filter(over);
        all.map(|one| one.question.id.clone()).collect()
    }

    /// What is to be shown or shown anew, the oldest first, within [`MOST`].
    pub(super) fn to_show(&self) -> Vec<String> {
        let mut all: Vec<_> = self.standing.values().filter(|one| !one.away).collect();
        all.sort_by_key(|one| (one.shown.is_none(), one.question.asked));
        all.truncate(MOST);
        let dirty = all.into_iter().filter(|one| one.dirty);
        dirty.map(|one| one.question.id.clone()).collect()
    }

    /// How many stand that are not on the screen for want of room.
    pub(super) fn hidden(&self) -> usize {
        let open = self.standing.values().filter(|one| !one.away).count();
        open.saturating_sub(MOST)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Standing> {
        self.standing.get(id)
    }

    /// It is on the screen.
    pub(super) fn showing(&mut self, id: &str, shown: Shown) {
        if let Some(standing) = self.standing.get_mut(id) {
            standing.shown = Some(shown);
            standing.dirty = false;
        }
    }

    /// It is to be shown anew.
    pub(super) fn again(&mut self, id: &str) {
        if let Some(standing) = self.standing.get_mut(id) {
            standing.dirty = true;
            standing.away = false;
        }
    }

    /// It was answered here: nothing more is shown unless the answer fails.
    pub(super) fn answered(&mut self, id: &str) {
        if let Some(standing) = self.standing.get_mut(id) {
            standing.away = true;
        }
    }

    /// A server says that a notification is gone. Whose it is not does not count.
    pub(super) fn closed(&mut self, sender: &str, number: u32) {
        for standing in self.standing.values_mut() {
            let its = |shown: &Shown| shown.server == sender && shown.number == number;
            if standing.shown.as_ref().is_some_and(its) {
                standing.shown = None;
                // Not again for those who join: the person has put it away.
                standing.away = !standing.dirty || standing.away;
            }
        }
    }

    /// What a click means.
    pub(super) fn click(
        &self,
        sender: Option<&str>,
        owner: Option<&str>,
        number: u32,
        key: &str,
        now: Instant,
    ) -> Click {
        let Some(sender) = sender else {
            return Click::Ignored("it has no sender");
        };
        if owner != Some(sender) {
            return Click::Ignored("it is not from the notification server");
        }
        let found = self.standing.values().find_map(|standing| {
            let shown = standing.shown.as_ref()?;
            (shown.server == sender && shown.number == number).then_some((standing, shown))
        });
        let Some((standing, shown)) = found else {
            return Click::Ignored("it is not about a question that stands");
        };
        let Some(button) = shown.keys.get(key) else {
            return Click::Ignored("it carries no key of ours");
        };
        let soon = now.saturating_duration_since(shown.since) < TOO_SOON;
        if soon && *button != Button::Deny {
            return Click::TooSoon(standing.question.id.clone());
        }
        Click::Answers(Box::new(standing.question.clone()), *button)
    }

    /// Numbers on the screen.
    #[cfg(test)]
    fn on_screen(&self) -> std::collections::BTreeSet<u32> {
        let all = self.standing.values();
        all.filter_map(|one| Some(one.shown.as_ref()?.number))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::text::tests::question;
    use std::collections::BTreeSet;

    const SERVER: &str = ":1.7";

    fn shown(number: u32, since: Instant) -> Shown {
        Shown {
            server: SERVER.into(),
            number,
            keys: BTreeMap::from([
                ("k-once".into(), Button::Once),
                ("k-deny".into(), Button::Deny),
            ]),
            since,
        }
    }

    fn board(start: Instant) -> Board {
        let mut board = Board::default();
        let question = question("a.example", None);
        board.put(question.clone());
        assert_eq!(board.to_show(), std::slice::from_ref(&question.id));
        board.showing(&question.id, shown(4, start));
        assert!(board.to_show().is_empty());
        board
    }

    #[test]
    fn only_a_click_of_the_server_on_a_notification_of_ours_answers() {
        let start = Instant::now();
        let later = start + TOO_SOON;
        let mut board = board(start);
        let owner = Some(SERVER);
        let click = |board: &Board, sender, owner, number, key, now| {
            board.click(sender, owner, number, key, now)
        };
        let answers = |click| matches!(click, Click::Answers(_, Button::Once));
        assert!(answers(click(&board, owner, owner, 4, "k-once", later)));
        for (sender, owner, number, key) in [
            // Another connection, with or without the true name of the server.
            (Some(":1.66"), Some(SERVER), 4, "k-once"),
            // A connection that took the name after the notification was shown.
            (Some(":1.66"), Some(":1.66"), 4, "k-once"),
            // The one that showed it, and no longer is the server.
            (Some(SERVER), Some(":1.66"), 4, "k-once"),
            (Some(SERVER), None, 4, "k-once"),
            (None, Some(SERVER), 4, "k-once"),
            // Not ours.
            (Some(SERVER), Some(SERVER), 5, "k-once"),
            // Buttons that somebody else put over ours.
            (Some(SERVER), Some(SERVER), 4, "once"),
            (Some(SERVER), Some(SERVER), 4, "default"),
            (Some(SERVER), Some(SERVER), 4, ""),
        ] {
            let found = click(&board, sender, owner, number, key, later);
            assert!(
                matches!(found, Click::Ignored(_)),
                "{sender:?} {number} {key}: {found:?}"
            );
        }
        let closed = board.take("k3w9qd").expect("it was shown");
        assert_eq!(closed.number, 4);
        let replayed = click(&board, owner, owner, 4, "k-once", later);
        assert!(matches!(replayed, Click::Ignored(_)), "{replayed:?}");
    }

    #[test]
    fn a_click_before_anybody_can_have_read_it_lets_nothing_through() {
        let start = Instant::now();
        let board = board(start);
        let owner = Some(SERVER);
        let soon = board.click(owner, owner, 4, "k-once", start + TOO_SOON / 2);
        assert_eq!(soon, Click::TooSoon("k3w9qd".into()));
        let deny = board.click(owner, owner, 4, "k-deny", start);
        assert!(matches!(deny, Click::Answers(_, Button::Deny)));
    }

    #[test]
    fn a_notification_that_was_put_away_does_not_come_back() {
        let mut board = board(Instant::now());
        board.closed(":1.66", 4);
        assert_eq!(
            board.on_screen(),
            BTreeSet::from([4]),
            "not the server's word"
        );
        board.closed(SERVER, 4);
        assert!(board.on_screen().is_empty());
        let mut joined = question("a.example", None);
        joined.waiting = 9;
        board.put(joined);
        assert!(board.to_show().is_empty());
        board.again("k3w9qd");
        assert_eq!(board.to_show(), ["k3w9qd"]);
    }

    #[test]
    fn a_flood_of_questions_is_not_a_flood_of_notifications() {
        let mut board = Board::default();
        for n in 0..50 {
            let mut one = question("a.example", None);
            one.id = format!("q{n:05}");
            board.put(one);
        }
        assert_eq!(board.to_show().len(), MOST);
        assert_eq!(board.hidden(), 50 - MOST);
        for id in board.to_show() {
            board.showing(&id, shown(1, Instant::now()));
        }
        assert!(
            board.to_show().is_empty(),
            "those on the screen keep their place"
        );
    }

    #[test]
    fn a_server_that_comes_back_gets_everything_anew() {
        let mut board = board(Instant::now());
        board.forget_shown();
        assert_eq!(board.to_show(), ["k3w9qd"]);
        let late = "2026-01-02T03:06:30Z".parse().expect("time");
        assert_eq!(board.overdue(late), ["k3w9qd"]);
    }
}
