//! The daemon's questions, followed on a thread of its own: the client blocks.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::asking::{Question, Settlement};
use crate::control::{Client, ClientError, Code, Problem, Request, Response};

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
    /// It is gone, and every question with it; why.
    Lost(String),
    /// It will never talk to this process.
    Refused(Problem),
}

/// Follows until nobody listens or the daemon refuses for good.
pub(super) fn follow(socket: PathBuf, told: mpsc::Sender<Told>) {
    let mut pause = SHORTEST;
    loop {
        let began = Instant::now();
        let end = match once(&socket, &told) {
            // Nobody listens any more.
            Ok(()) => return,
            Err(ClientError::Refused(problem)) if problem.code == Code::Governed => {
                Told::Refused(problem)
            }
            Err(error) => Told::Lost(error.to_string()),
        };
        let refused = matches!(end, Told::Refused(_));
        if told.blocking_send(end).is_err() || refused {
            return;
        }
        if began.elapsed() > LONGEST {
            pause = SHORTEST;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}

fn once(socket: &std::path::Path, told: &mpsc::Sender<Told>) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Questions {
        follow: true,
        agent: None,
    })?;
    client.wait_forever()?;
    if told.blocking_send(Told::Reached).is_err() {
        return Ok(());
    }
    while let Some(answer) = client.next()? {
        let told = match answer {
            Response::Question(question) => told.blocking_send(Told::Question(question)),
            Response::Settled(settlement) => told.blocking_send(Told::Settled(settlement)),
            Response::End { .. } => break,
            // What a newer daemon tells besides.
            _ => Ok(()),
        };
        if told.is_err() {
            return Ok(());
        }
    }
    Err(ClientError::Closed(socket.to_owned()))
}
