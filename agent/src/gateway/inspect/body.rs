//! Bodies on their way: a request's, counted and looked at, and an answer's, counted.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::super::Outcome;
use super::super::session::Ended;
use super::super::tls::FAREWELL;
use super::judge::too_large;
use super::scan::Scan;
use super::tasks::Spawner;
use super::ticket::Ticket;
use crate::policy::Inspect;

/// How long bytes wait for those that follow them: programs that talk both ways at once wait
/// for an answer, and what the network cut in two comes sooner.
const WAIT: Duration = Duration::from_millis(50);

/// The most bytes of a refused body that are read for nothing: most programs read an answer
/// only when they have sent all.
const MAX_DRAINED: usize = 16 * 1024 * 1024;

/// A body that does not go on. Why is in its ticket.
#[derive(Debug)]
pub(super) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body was stopped")
    }
}

impl std::error::Error for Stopped {}

/// Reads on for a moment what nobody wants: with bytes left unread the program might never
/// read its answer.
pub(super) async fn drained(mut body: Incoming) {
    let reading = async {
        let mut left = MAX_DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(len) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // It is over in any case.
    let _ = timeout(FAREWELL, reading).await;
}

/// A request's body, to the server.
pub(super) struct Watched {
    /// `None` once it is over or stopped.
    inner: Option<Incoming>,
    scan: Scan,
    most: Option<u64>,
    seen: u64,
    wait: Pin<Box<Sleep>>,
    waiting: bool,
    inspect: Arc<Inspect>,
    ticket: Arc<Ticket>,
    spawner: Spawner,
}

impl Watched {
    pub(super) fn new(
        inner: Incoming,
        inspect: &Arc<Inspect>,
        ticket: Arc<Ticket>,
        spawner: Spawner,
    ) -> Self {
        Self {
            inner: Some(inner),
            scan: Scan::new(Arc::clone(inspect)),
            most: inspect.max_body,
            seen: 0,
            wait: Box::pin(sleep(WAIT)),
            waiting: false,
            inspect: Arc::clone(inspect),
            ticket,
            spawner,
        }
    }

    /// Ends it here, refused.
    fn stop(&mut self, ended: Ended) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        self.ticket.end(ended);
        if let Some(inner) = self.inner.take() {
            self.spawner.execute(drained(inner));
        }
        Poll::Ready(Some(Err(Stopped)))
    }

    /// Why it must stop, by what was found.
    fn found(&self) -> Option<Ended> {
        let looked = self.scan.looked();
        for &place in &looked.found {
            self.ticket.found(&self.inspect.patterns[place].name);
        }
        let place = looked.blocking()?;
        Some(matched(&self.inspect.patterns[place].name, "body"))
    }
}

/// A pattern is where it must not be.
pub(super) fn matched(pattern: &str, place: &str) -> Ended {
    Ended::new(Outcome::DataPattern).because(format!("the pattern {pattern} is in its {place}"))
}

/// hyper does not ask for the end of a body that it knows the length of.
impl Drop for Watched {
    fn drop(&mut self) {
        // What waits here has not left and does not leave.
        let _ = self.scan.flush();
        let _ = self.found();
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Stopped;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        let this = self.get_mut();
        loop {
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(None);
            };
            let out = match Pin::new(inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers would leave unread.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    this.seen += data.len() as u64;
                    if let Some(most) = this.most.filter(|most| this.seen > *most) {
                        return this.stop(too_large(most));
                    }
                    this.scan.take(data)
                }
                Poll::Ready(Some(Err(error))) => {
                    this.inner = None;
                    this.ticket.end(Ended::new(Outcome::Reset).because(error));
                    return Poll::Ready(Some(Err(Stopped)));
                }
                Poll::Ready(None) => {
                    let out = this.scan.flush();
                    if let Some(ended) = this.found() {
                        return this.stop(ended);
                    }
                    this.inner = None;
                    out
                }
                Poll::Pending if this.scan.waits() => {
                    if !this.waiting {
                        this.waiting = true;
                        this.wait.as_mut().reset(Instant::now() + WAIT);
                    }
                    ready!(this.wait.as_mut().poll(cx));
                    this.waiting = false;
                    this.scan.flush()
                }
                Poll::Pending => return Poll::Pending,
            };
            if let Some(ended) = this.found() {
                return this.stop(ended);
            }
            if !out.is_empty() {
                // What still waits has just begun to.
                this.waiting = false;
                this.ticket.sent(out.len());
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let ended =
            |inner: &Incoming| inner.is_end_stream() && !self.scan.waits() && self.seen == 0;
        self.inner.as_ref().is_none_or(ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) if self.seen == 0 => inner.size_hint(),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// An answer's body, to the program: the server's, or the gateway's words.
pub(super) struct Told {
    inner: Either<Incoming, Full<Bytes>>,
    ticket: Option<Arc<Ticket>>,
}

impl Told {
    pub(super) fn server(inner: Incoming, ticket: Arc<Ticket>) -> Self {
        Self {
            inner: Either::Left(inner),
            ticket: Some(ticket),
        }
    }

    pub(super) fn words(words: String) -> Self {
        Self {
            inner: Either::Right(Full::from(words)),
            ticket: None,
        }
    }

    fn end(&mut self, ended: Ended) {
        if let Some(ticket) = self.ticket.take() {
            ticket.end(ended);
        }
    }
}

/// hyper does not ask for the end of a body that it knows the length of.
impl Drop for Told {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.end(Ended::new(Outcome::Closed));
        }
    }
}

impl Body for Told {
    type Data = Bytes;
    type Error = Stopped;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        let this = self.get_mut();
        if this.ticket.as_ref().is_some_and(|it| it.is_refused()) {
            return Poll::Ready(Some(Err(Stopped)));
        }
        match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let (Some(ticket), Some(data)) = (&this.ticket, frame.data_ref()) {
                    ticket.received(data.len());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.end(Ended::new(Outcome::UpstreamFailed).because(error));
                Poll::Ready(Some(Err(Stopped)))
            }
            None => {
                this.end(Ended::new(Outcome::Closed));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
