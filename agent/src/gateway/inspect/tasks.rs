//! The parts of one connection, driven together: whoever drops them ends them all at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper and others begin parts.
#[derive(Clone)]
pub(super) struct Spawner(mpsc::UnboundedSender<Task>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        // With nobody left to drive it there is no connection left either.
        let _ = self.0.send(Box::pin(future));
    }
}

/// The parts that were begun. Their number is bounded by the streams of the connection.
pub(super) struct Tasks {
    begun: mpsc::UnboundedReceiver<Task>,
    running: FuturesUnordered<Task>,
}

pub(super) fn tasks() -> (Spawner, Tasks) {
    let (begin, begun) = mpsc::unbounded_channel();
    let running = FuturesUnordered::new();
    (Spawner(begin), Tasks { begun, running })
}

impl Tasks {
    /// Drives them for as long as it is polled.
    pub(super) async fn run(&mut self) -> Infallible {
        std::future::poll_fn(|cx| {
            loop {
                while let Poll::Ready(Some(task)) = self.begun.poll_recv(cx) {
                    self.running.push(task);
                }
                if !matches!(self.running.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}
