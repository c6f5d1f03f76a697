//! The daemon's questions and findings, each followed on a thread of its own: the client blocks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::asking::{Question, Settlement};
use crate::control::{Client, ClientError, Code, Problem, Request, Response};
use crate::incident::Incident;

/// The pauses between two attempts to reach the daemon.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);

/// What the daemon says.
#[derive(Debug)]
pub(super) enum Told {
    /// It answers.
    Reached,
    /// A question stands, or more joined it.
    Question(Box<Question>),
    /// One ended.
    Settled(Box<Settlement>),
    /// A rule found something that people are to know.
    Finding(Box<Incident>),
    /// It is gone, and every question with it; why.
    Lost(String),
    /// It will never talk to this process.
    Refused(Problem),
}

/// Follows questions until nobody listens or the daemon refuses for good.
pub(super) fn follow(socket: PathBuf, told: mpsc::Sender<Told>) {
    keep_on(|| {
        let request = Request::Questions {
            follow: true,
            agent: None,
        };
        let take = |answer| match answer {
            Response::Question(question) => Some(Told::Question(question)),
            Response::Settled(settlement) => Some(Told::Settled(settlement)),
            // What a newer daemon tells besides.
            _ => None,
        };
        let end = match once(&socket, &request, Some(Told::Reached), &told, take) {
            // Nobody listens any more.
            Ok(()) => return false,
            Err(ClientError::Refused(problem)) if problem.code == Code::Governed => {
                Told::Refused(problem)
            }
            Err(error) => Told::Lost(error.to_string()),
        };
        let refused = matches!(end, Told::Refused(_));
        told.blocking_send(end).is_ok() && !refused
    });
}

/// The same for what detection rules find. Whether the daemon is there [`follow`] says.
pub(super) fn follow_findings(socket: PathBuf, told: mpsc::Sender<Told>) {
    keep_on(|| {
        let take = |answer| match answer {
            Response::Incident(incident) => Some(Told::Finding(incident)),
            _ => None,
        };
        match once(&socket, &Request::Findings {}, None, &told, take) {
            Ok(()) => false,
            Err(ClientError::Refused(problem)) => problem.code != Code::Governed,
            Err(_) => true,
        }
    });
}

/// Begins anew as long as it is to go on, with longer and longer pauses.
fn keep_on(mut once: impl FnMut() -> bool) {
    let mut pause = SHORTEST;
    loop {
        let began = Instant::now();
        if !once() {
            return;
        }
        if began.elapsed() > LONGEST {
            pause = SHORTEST;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}

fn once(
    socket: &Path,
    request: &Request,
    reached: Option<Told>,
    told: &mpsc::Sender<Told>,
    take: impl Fn(Response) -> Option<Told>,
) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    client.send(request)?;
    client.wait_forever()?;
    if reached.is_some_and(|reached| told.blocking_send(reached).is_err()) {
        return Ok(());
    }
    while let Some(answer) = client.next()? {
        if matches!(answer, Response::End { .. }) {
            break;
        }
        if take(answer).is_some_and(|one| told.blocking_send(one).is_err()) {
            return Ok(());
        }
    }
    Err(ClientError::Closed(socket.to_owned()))
}
