//! Programs and services of others that are told of questions, and may answer: what they get,
//! what they say, and when they are told.
//!
//! Silence, a failure and whatever cannot be understood are no answer: the question stands until
//! somebody else answers it, or is denied at its time-out.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Breadth, Choice, DeskEvent, Lasts, Question, Ruling, Settlement, Who};

/// The longest answer that is read.
pub(super) const MAX_ANSWER: usize = 64 << 10;
/// Of what is told of the question's version: a reader can see that it is another.
const VERSION: u32 = 1;

/// What an outsider is sent: one JSON object.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Message<'a> {
    /// 1.
    pub version: u32,
    /// `asked` or `settled`.
    pub event: &'static str,
    /// The question; of an end only its id, agent and outcome are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<&'a Question>,
    /// The end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settlement: Option<&'a Settlement>,
}

impl<'a> Message<'a> {
    /// A question stands.
    pub fn asked(question: &'a Question) -> Self {
        Self {
            version: VERSION,
            event: "asked",
            question: Some(question),
            settlement: None,
        }
    }

    /// It ended.
    pub fn settled(settlement: &'a Settlement) -> Self {
        Self {
            version: VERSION,
            event: "settled",
            question: None,
            settlement: Some(settlement),
        }
    }
}

/// What an outsider says. A key that is not known makes it no answer: it could be a condition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    answer: Ruling,
    #[serde(default)]
    lasts: SaidLasts,
    #[serde(default)]
    breadth: Option<SaidBreadth>,
    #[serde(default)]
    why: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SaidLasts {
    #[default]
    Once,
    Run,
    Hour,
    Always,
    #[serde(untagged)]
    For {
        seconds: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SaidBreadth {
    This,
    Port,
    Domain,
}

/// An answer, and the words that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What is answered.
    pub choice: Choice,
    /// Why.
    pub why: Option<String>,
}

/// Reads an answer. Nothing but white space is none; without a word about it, an answer is about
/// the port that was asked about, and holds once.
pub fn read_answer(text: &[u8], question: &Question) -> Result<Option<Answer>, String> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let said: Said = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let lasts = match said.lasts {
        SaidLasts::Once => Lasts::Once,
        SaidLasts::Run => Lasts::Run,
        SaidLasts::Hour => Lasts::For { seconds: 3600 },
        SaidLasts::Always => Lasts::Always,
        SaidLasts::For { seconds } => Lasts::For { seconds },
    };
    let breadth = match (said.breadth, question.port) {
        (Some(SaidBreadth::This), _) | (None, None) => Breadth::This,
        (Some(SaidBreadth::Domain), _) => Breadth::Domain,
        (Some(SaidBreadth::Port) | None, Some(port)) => Breadth::Port { port },
        (Some(SaidBreadth::Port), None) => {
            return Err("it is about a port, and the question has none".to_owned());
        }
    };
    Ok(Some(Answer {
        choice: Choice {
            ruling: said.answer,
            lasts,
            breadth,
        },
        why: said.why,
    }))
}

/// One outsider.
pub trait Outsider: Send + Sync + 'static {
    /// [`Who::via`].
    const VIA: &'static str;
    /// How many questions it is told of at once.
    const AT_ONCE: usize;

    /// Whose its answers are.
    fn uid(&self) -> u32;

    /// Tells it of a question; gives its answer. Dropped when the question ends.
    fn ask(&self, question: &Question) -> impl Future<Output = Option<Answer>> + Send;

    /// Tells it that a question that it was told of ended.
    fn tell(&self, _settlement: &Settlement) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Where questions come from and answers go: the desk, or a test's.
pub trait Asker: Send + Sync + 'static {
    /// The questions that stand, and what comes from here on.
    fn subscribe(&self) -> (Vec<Question>, broadcast::Receiver<DeskEvent>);

    /// Takes an answer; why not, in words. It may block for as long as it takes to put it in
    /// force.
    fn answer(&self, id: &str, answer: Answer, who: Who) -> Result<(), String>;
}

impl Asker for super::Desk {
    fn subscribe(&self) -> (Vec<Question>, broadcast::Receiver<DeskEvent>) {
        Self::subscribe(self)
    }

    fn answer(&self, id: &str, answer: Answer, who: Who) -> Result<(), String> {
        Self::answer(self, id, answer.choice, who, answer.why)
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// Tells an outsider of every question until cancelled.
pub async fn serve<O: Outsider, A: Asker>(outsider: O, asker: A, cancel: CancellationToken) {
    let (outsider, asker) = (Arc::new(outsider), Arc::new(asker));
    let room = Arc::new(Semaphore::new(O::AT_ONCE));
    let mut tasks = JoinSet::new();
    // Those that it was told of, by id, each with what ends its task.
    let mut told: HashMap<String, CancellationToken> = HashMap::new();
    let (mut standing, mut events) = asker.subscribe();
    loop {
        for question in standing.drain(..) {
            if told.contains_key(&question.id) {
                continue;
            }
            let stop = cancel.child_token();
            told.insert(question.id.clone(), stop.clone());
            let (outsider, asker, room) = (outsider.clone(), asker.clone(), room.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = one(&*outsider, asker, &room, question) => {}
                }
            });
        }
        let event = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            event = events.recv() => event,
        };
        match event {
            Ok(DeskEvent::Asked(question)) => standing.push(question),
            Ok(DeskEvent::Settled(settlement)) => {
                if let Some(stop) = told.remove(&settlement.question) {
                    stop.cancel();
                    let (outsider, room) = (outsider.clone(), room.clone());
                    tasks.spawn(async move {
                        let Ok(_place) = room.acquire().await else {
                            return;
                        };
                        outsider.tell(&settlement).await;
                    });
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                (standing, events) = asker.subscribe();
                // What ended meanwhile is answered by nobody any more.
                told.retain(|id, stop| {
                    let stands = standing.iter().any(|one| one.id == *id);
                    if !stands {
                        stop.cancel();
                    }
                    stands
                });
            }
            Err(broadcast::error::RecvError::Closed) => break,
        }
    }
    tasks.shutdown().await;
}

async fn one<O: Outsider, A: Asker>(
    outsider: &O,
    asker: Arc<A>,
    room: &Semaphore,
    question: Question,
) {
    let answer = {
        let Ok(_place) = room.acquire().await else {
            return;
        };
        outsider.ask(&question).await
    };
    let Some(answer) = answer else { return };
    let who = who(outsider.uid(), O::VIA);
    let id = question.id.clone();
    let taken = tokio::task::spawn_blocking(move || asker.answer(&question.id, answer, who)).await;
    let refused = match taken {
        Ok(Ok(())) => return,
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    };
    tracing::warn!(
        via = O::VIA,
        question = id,
        why = refused,
        "an answer was not taken"
    );
}

fn who(uid: u32, via: &str) -> Who {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
    Who {
        uid,
        name: user.ok().flatten().map(|user| user.name),
        via: via.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::asking::{Asks, Outcome, Subject};
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::sync::mpsc;

    pub(in crate::asking) fn question(id: &str) -> Question {
        let now = jiff::Timestamp::now();
        Question {
            id: id.into(),
            agent: "builder".into(),
            run: None,
            subject: Subject::Name {
                name: "a.example".into(),
            },
            domain: None,
            port: Some(443),
            protocol: None,
            process: None,
            asks: Asks::User,
            uid: Some(1000),
            asked: now,
            expires: now + jiff::SignedDuration::from_secs(60),
            waiting: 1,
        }
    }

    fn read(text: &str) -> Result<Option<Answer>, String> {
        read_answer(text.as_bytes(), &question("q"))
    }

    #[test]
    fn an_answer_is_narrow_and_short_unless_it_says_so() {
        let answer = read(r#"{"answer":"allow"}"#).expect("read").expect("some");
        assert_eq!(
            answer.choice,
            Choice {
                ruling: Ruling::Allow,
                lasts: Lasts::Once,
                breadth: Breadth::Port { port: 443 },
            }
        );
        let text = r#"{"answer":"deny","lasts":{"seconds":60},"breadth":"domain","why":"no"}"#;
        let answer = read(text).expect("read").expect("some");
        assert_eq!(answer.choice.lasts, Lasts::For { seconds: 60 });
        assert_eq!(answer.choice.breadth, Breadth::Domain);
        assert_eq!(answer.why.as_deref(), Some("no"));
        for (word, lasts) in [
            ("once", Lasts::Once),
            ("run", Lasts::Run),
            ("hour", Lasts::For { seconds: 3600 }),
            ("always", Lasts::Always),
        ] {
            let text = format!(r#"{{"answer":"allow","lasts":"{word}"}}"#);
            let answer = read(&text).expect("read").expect("some");
            assert_eq!(answer.choice.lasts, lasts);
        }
        let mut dns = question("q");
        dns.port = None;
        let narrow = read_answer(br#"{"answer":"allow"}"#, &dns).expect("read");
        assert_eq!(narrow.expect("some").choice.breadth, Breadth::This);
        let wrong = read_answer(br#"{"answer":"allow","breadth":"port"}"#, &dns);
        assert!(wrong.is_err(), "{wrong:?}");
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        assert_eq!(read(" \n"), Ok(None));
        for text in [
            "yes",
            "{}",
            r#"{"answer":"Allow"}"#,
            r#"{"answer":"allow","unless":"night"}"#,
            r#"{"answer":"allow","lasts":"forever"}"#,
            r#"{"answer":"allow","lasts":{"seconds":-1}}"#,
            r#"{"answer":"allow"} {"answer":"deny"}"#,
            r#"[{"answer":"allow"}]"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    struct Desk {
        events: broadcast::Sender<DeskEvent>,
        answers: mpsc::UnboundedSender<(String, Answer, Who)>,
        standing: Mutex<Vec<Question>>,
    }

    impl Asker for Arc<Desk> {
        fn subscribe(&self) -> (Vec<Question>, broadcast::Receiver<DeskEvent>) {
            let standing = self.standing.lock().expect("lock").clone();
            (standing, self.events.subscribe())
        }

        fn answer(&self, id: &str, answer: Answer, who: Who) -> Result<(), String> {
            let _ = self.answers.send((id.into(), answer, who));
            Ok(())
        }
    }

    /// Answers those whose id begins with `y`; hangs otherwise, and says when it is given up.
    struct Friend(mpsc::UnboundedSender<String>);

    impl Outsider for Friend {
        const VIA: &'static str = "hook";
        const AT_ONCE: usize = 2;

        fn uid(&self) -> u32 {
            0
        }

        async fn ask(&self, question: &Question) -> Option<Answer> {
            struct Dropped(mpsc::UnboundedSender<String>, String);
            impl Drop for Dropped {
                fn drop(&mut self) {
                    let _ = self.0.send(format!("dropped {}", self.1));
                }
            }
            let _ = self.0.send(format!("asked {}", question.id));
            if question.id.starts_with('y') {
                return read_answer(br#"{"answer":"allow"}"#, question)
                    .ok()
                    .flatten();
            }
            let _dropped = Dropped(self.0.clone(), question.id.clone());
            std::future::pending().await
        }

        async fn tell(&self, settlement: &Settlement) {
            let _ = self.0.send(format!("told {}", settlement.question));
        }
    }

    #[tokio::test]
    async fn an_outsider_is_told_once_of_each_question_and_given_up_at_its_end() {
        let (answers, mut answered) = mpsc::unbounded_channel();
        let (said, mut says) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk {
            events: broadcast::channel(16).0,
            answers,
            standing: Mutex::new(vec![question("y1")]),
        });
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(serve(Friend(said), desk.clone(), cancel.clone()));
        let limit = Duration::from_secs(20);
        let mut next = async || {
            tokio::time::timeout(limit, says.recv())
                .await
                .expect("in time")
        };
        assert_eq!(next().await.as_deref(), Some("asked y1"));
        let (id, _, who) = answered.recv().await.expect("an answer");
        assert_eq!((id.as_str(), who.uid, who.via.as_str()), ("y1", 0, "hook"));
        let mut joined = question("n1");
        desk.events
            .send(DeskEvent::Asked(joined.clone()))
            .expect("send");
        assert_eq!(next().await.as_deref(), Some("asked n1"));
        // More joined it: it is the same question.
        joined.waiting = 2;
        desk.events.send(DeskEvent::Asked(joined)).expect("send");
        let end = Settlement {
            question: "n1".into(),
            agent: "builder".into(),
            outcome: Outcome::TimedOut,
            by: None,
        };
        desk.events
            .send(DeskEvent::Settled(end.clone()))
            .expect("send");
        let both = [next().await.expect("one"), next().await.expect("two")];
        assert!(both.contains(&"dropped n1".to_owned()), "{both:?}");
        assert!(both.contains(&"told n1".to_owned()), "{both:?}");
        cancel.cancel();
        serving.await.expect("ended");
    }
}
