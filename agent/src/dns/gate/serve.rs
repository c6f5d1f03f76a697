//! A gate at work: messages in, replies and records out.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::{addresses, answer, busy, failed, not_granted, over_budget};
use super::judge::outside;
use super::sockets::{GateSockets, Pair};
use super::stream::{MAX_CONNECTIONS, MAX_MESSAGE};
use super::{
    Answer, Asked, Backend, Failed, GateEvent, GateRecord, Granted, HELD_TIME, Judged, MAX_HELD,
    NameRule, NotGranted, Outcome, Question, Rcode, Records, Transport, Verdict, judge,
};
use crate::asking::Ruling;
use crate::dns::budget::{Exceeded, Spent};
use crate::dns::flights::{Flights, Joined};
use crate::dns::stats::GateStats;
use crate::leases::{FailKind, Name};
use crate::policy::BASE_TYPES;

/// The most queries of one agent that wait for a look-up at once; more are answered
/// SERVFAIL. What is at hand is answered all the same.
pub const MAX_LOOK_UPS: usize = 256;

/// The longest that a query waits for its look-up and the write to the kernel. Clients give
/// up after five seconds.
pub const LOOK_UP_TIME: Duration = Duration::from_secs(10);

/// Datagrams that are taken before other tasks have their turn.
const BATCH: usize = 64;

/// Pause after an error of a listening socket (no descriptors left, no memory), so that
/// an error that stays does not take a whole CPU.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What every task of a gate needs.
pub(super) struct Gate<B> {
    pub(super) agent: u32,
    backend: Arc<B>,
    records: Records,
    pub(super) stats: Arc<GateStats>,
    pub(super) connections: Arc<Semaphore>,
    look_ups: Arc<Semaphore>,
    held: Arc<Semaphore>,
    /// By the rule, too, that addresses are granted under.
    flights: Arc<Flights<(Question, NameRule), Arc<Landed>>>,
}

/// How a look-up ended.
#[derive(Debug)]
enum Landed {
    /// Found, and the kernel holds what was granted.
    Granted(Answer, Granted),
    /// Found, and not granted.
    NotGranted(Answer, NotGranted),
    /// Not found.
    Failed(Failed),
}

/// A message begun.
pub(super) enum Begun {
    /// It is dealt with.
    Done(Box<Done>),
    /// It waits for a look-up or a write: [`Gate::finish`] it.
    Waits(Box<Waiting>),
}

/// A message dealt with and counted, but not told yet: the program waits for the reply, and
/// nobody for the record.
#[must_use]
pub(super) struct Done {
    /// What to send, if anything.
    pub(super) reply: Option<Vec<u8>>,
    /// What to tell.
    pub(super) event: GateEvent,
}

/// The same, before it is counted.
enum Tried {
    Done(Outcome),
    Waits(Waiting),
}

/// A query that could not be answered at once.
pub(super) enum Waiting {
    /// It waits for a look-up or a write.
    LookUp(LookUp),
    /// It waits for a person.
    Person(Person),
}

/// A query of a name that no rule decides.
pub(super) struct Person {
    name: Name,
    message: Vec<u8>,
    transport: Transport,
    /// What is said where it is denied.
    refusal: Outcome,
    peer: SocketAddr,
    arrived: Instant,
    _permit: OwnedSemaphorePermit,
}

/// A query that needs more than what is at hand.
pub(super) struct LookUp {
    asked: Asked,
    /// What the cache has, where only the grant is left.
    found: Option<Answer>,
    peer: SocketAddr,
    arrived: Instant,
    _permit: OwnedSemaphorePermit,
}

impl GateSockets {
    /// Serves until `cancel`, then closes the sockets and every connection before it
    /// returns. Records go to `records` without waiting: one that finds no room is
    /// counted as lost. Give each agent queues of its own, so that one agent's flood
    /// cannot crowd out the records of another.
    ///
    /// # Errors
    /// When the sockets cannot be handed to the runtime, or a task of the gate broke off:
    /// the agent has no names then until a new gate is bound and served.
    pub async fn serve<B: Backend>(
        self,
        backend: Arc<B>,
        records: Records,
        stats: Arc<GateStats>,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let gate = Arc::new(Gate::new(self.agent, backend, records, stats));
        // A token of its own: tasks that end with `cancel` could not be told from tasks
        // that broke off.
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for Pair { udp, tcp, .. } in [Some(self.v4), self.v6].into_iter().flatten() {
            let udp = UdpSocket::from_std(udp)?;
            let tcp = TcpListener::from_std(tcp)?;
            tasks.spawn(Arc::clone(&gate).serve_udp(udp, stop.clone()));
            tasks.spawn(Arc::clone(&gate).serve_tcp(tcp, stop.clone()));
        }
        let result = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => Err(match ended {
                Ok(()) => io::Error::other("a task of the DNS gate ended before its time"),
                Err(error) => io::Error::other(error),
            }),
        };
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        result
    }
}

impl<B: Backend> Gate<B> {
    pub(super) fn new(
        agent: u32,
        backend: Arc<B>,
        records: Records,
        stats: Arc<GateStats>,
    ) -> Self {
        Self {
            agent,
            backend,
            records,
            stats,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            look_ups: Arc::new(Semaphore::new(MAX_LOOK_UPS)),
            held: Arc::new(Semaphore::new(MAX_HELD)),
            flights: Arc::default(),
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: UdpSocket, stop: CancellationToken) {
        let socket = Arc::new(socket);
        let mut waiting = JoinSet::new();
        let mut buffer = [0; MAX_MESSAGE];
        stop.run_until_cancelled(async {
            loop {
                if let Err(error) = socket.readable().await {
                    self.troubled("udp", &error).await;
                    continue;
                }
                for _ in 0..BATCH {
                    match socket.try_recv_from(&mut buffer) {
                        Ok((len, peer)) => {
                            self.datagram(&socket, &buffer[..len], peer, &mut waiting)
                                .await;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            self.troubled("udp", &error).await;
                            break;
                        }
                    }
                }
                while waiting.try_join_next().is_some() {}
                // Datagrams that come without end must not keep the other gates of this
                // thread waiting.
                tokio::task::yield_now().await;
            }
        })
        .await;
        waiting.shutdown().await;
    }

    async fn datagram(
        self: &Arc<Self>,
        socket: &Arc<UdpSocket>,
        message: &[u8],
        peer: SocketAddr,
        waiting: &mut JoinSet<()>,
    ) {
        match self.begin(message, Transport::Udp, peer) {
            Begun::Done(done) => self.send(socket, *done, peer).await,
            Begun::Waits(query) => {
                let (gate, socket) = (Arc::clone(self), Arc::clone(socket));
                waiting.spawn(async move {
                    let done = gate.finish(*query).await;
                    gate.send(&socket, done, peer).await;
                });
            }
        }
    }

    async fn send(&self, socket: &UdpSocket, done: Done, peer: SocketAddr) {
        let Done { reply, event } = done;
        let Some(reply) = reply else {
            return self.tell(event);
        };
        let mut sent = socket.try_send_to(&reply, peer);
        // Before anything is waited for: what is waited for may be called off.
        self.tell(event);
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            sent = socket.send_to(&reply, peer).await;
        }
        if let Err(error) = sent {
            self.stats.replies_lost.fetch_add(1, Relaxed);
            tracing::debug!(agent = self.agent, %peer, %error, "a DNS reply was not sent");
        }
    }

    /// Hands a record on.
    pub(super) fn tell(&self, event: GateEvent) {
        if !self.records.offer(event) {
            self.stats.records_lost.fetch_add(1, Relaxed);
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        self.troubled("tcp", &error).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next() => continue,
                () = stop.cancelled() => break,
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                self.stats.connections_refused.fetch_add(1, Relaxed);
                continue;
            };
            let gate = Arc::clone(&self);
            connections.spawn(async move {
                if let Err(error) = gate.serve_stream(stream, peer).await {
                    tracing::debug!(agent = gate.agent, %peer, %error, "a DNS connection ended");
                }
                drop(permit);
            });
        }
        connections.shutdown().await;
    }

    /// Judges a message and answers it if nothing has to be waited for.
    pub(super) fn begin(&self, message: &[u8], transport: Transport, peer: SocketAddr) -> Begun {
        self.begin_at(message, transport, peer, Instant::now())
    }

    fn begin_at(
        &self,
        message: &[u8],
        transport: Transport,
        peer: SocketAddr,
        arrived: Instant,
    ) -> Begun {
        // The parser reads hostile bytes. Should one make it panic, that message is lost
        // and not the agent's gate.
        let begun = catch_unwind(AssertUnwindSafe(|| {
            self.try_begin(message, transport, peer, arrived)
        }));
        let outcome = match begun {
            Ok(Tried::Waits(waiting)) => return Begun::Waits(Box::new(waiting)),
            Ok(Tried::Done(outcome)) => outcome,
            Err(_) => lost(),
        };
        Begun::Done(Box::new(self.done(outcome, transport, peer, arrived)))
    }

    fn try_begin(
        &self,
        message: &[u8],
        transport: Transport,
        peer: SocketAddr,
        arrived: Instant,
    ) -> Tried {
        let refuse = self.backend.refuse();
        let missed = Cell::new(None);
        let rule = |name: &str| {
            let found = self.backend.rule(name);
            if found.is_none() {
                missed.set(Some(Name::from(name)));
            }
            found
        };
        let mut asked = match judge(message, transport, refuse, &rule) {
            Judged::Done(refusal) => {
                return match missed.into_inner() {
                    Some(name) => self.hold(name, message, transport, refusal, peer, arrived),
                    None => Tried::Done(refusal),
                };
            }
            Judged::Ask(asked) => asked,
        };
        let mut known = false;
        if asked.rule.wildcard.is_some() {
            match self.backend.spend(&asked.name, &asked.rule) {
                Spent::Within => {}
                Spent::Known => known = true,
                Spent::Reported(exceeded) => asked.over = Some(exceeded),
                Spent::Blocked(exceeded) => {
                    return Tried::Done(over_budget(&asked, exceeded, refuse));
                }
            }
        }
        let question = asked.question(self.backend.validate());
        let mut found = self.backend.cached(&question, &asked.rule);
        if found.is_none() && known {
            found = match self.pay_again(&mut asked, &question) {
                Ok(stands_in) => stands_in,
                Err(exceeded) => return Tried::Done(over_budget(&asked, exceeded, refuse)),
            };
        }
        if let Some(found) = &found {
            let wanted = addresses(&asked, found);
            let granted = match wanted.is_empty() {
                true => Some(Granted::default()),
                false => self.backend.granted(&asked.name, &wanted, &asked.rule),
            };
            if let Some(granted) = granted {
                return Tried::Done(self.answer(&asked, found, &granted));
            }
        }
        let Ok(permit) = Arc::clone(&self.look_ups).try_acquire_owned() else {
            return Tried::Done(busy(&asked));
        };
        Tried::Waits(Waiting::LookUp(LookUp {
            asked,
            found,
            peer,
            arrived,
            _permit: permit,
        }))
    }

    /// Holds a query of a name that no rule has, where a person may be asked about it.
    fn hold(
        &self,
        name: Name,
        message: &[u8],
        transport: Transport,
        refusal: Outcome,
        peer: SocketAddr,
        arrived: Instant,
    ) -> Tried {
        // Of other types nothing would be answered, whatever a person says.
        if !BASE_TYPES.contains(&refusal.record.qtype) || !self.backend.asks(&name) {
            return Tried::Done(refusal);
        }
        let Ok(permit) = Arc::clone(&self.held).try_acquire_owned() else {
            return Tried::Done(refusal);
        };
        Tried::Waits(Waiting::Person(Person {
            name,
            message: message.to_owned(),
            transport,
            refusal,
            peer,
            arrived,
            _permit: permit,
        }))
    }

    /// Waits for a person, but not for long: the client asks again.
    async fn finish_held(&self, held: Person) -> Done {
        let Person {
            name,
            message,
            transport,
            mut refusal,
            peer,
            arrived,
            _permit,
        } = held;
        let left = HELD_TIME.saturating_sub(arrived.elapsed());
        let outcome = match timeout(left, self.backend.ask(name)).await {
            Ok(Ruling::Allow) => match self.begin_at(&message, transport, peer, arrived) {
                Begun::Done(done) => return *done,
                Begun::Waits(waiting) => match *waiting {
                    Waiting::LookUp(query) => return self.finish_look_up(query).await,
                    // It was taken back at once.
                    Waiting::Person(held) => held.refusal,
                },
            },
            Ok(Ruling::Deny) => {
                refusal.record.verdict = Verdict::Denied;
                refusal
            }
            Err(_) => {
                refusal.reply = None;
                refusal.record.verdict = Verdict::Asked;
                refusal.record.rcode = Rcode::None;
                refusal
            }
        };
        self.done(outcome, transport, peer, arrived)
    }

    /// Pays for asking upstream for a name that was paid for before. Beyond the budget an
    /// answer that has ended stands in; an error where there is none.
    fn pay_again(
        &self,
        asked: &mut Asked,
        question: &Question,
    ) -> Result<Option<Answer>, Exceeded> {
        match self.backend.repeat(&asked.name, &asked.rule) {
            Spent::Within | Spent::Known => Ok(None),
            Spent::Reported(exceeded) => {
                asked.over = Some(exceeded);
                Ok(None)
            }
            Spent::Blocked(exceeded) => {
                let Some(ended) = self.backend.ended(question) else {
                    return Err(exceeded);
                };
                asked.over = Some(exceeded).filter(|exceeded| exceeded.tell);
                Ok(Some(ended))
            }
        }
    }

    /// Waits for what a query needs, and answers it.
    pub(super) async fn finish(&self, waiting: Waiting) -> Done {
        match waiting {
            Waiting::LookUp(query) => self.finish_look_up(query).await,
            Waiting::Person(held) => self.finish_held(held).await,
        }
    }

    async fn finish_look_up(&self, query: LookUp) -> Done {
        let LookUp {
            asked,
            found,
            peer,
            arrived,
            _permit,
        } = query;
        let transport = asked.client.transport;
        let outcome = AssertUnwindSafe(self.look_up(&asked, found))
            .catch_unwind()
            .await;
        let outcome = outcome.unwrap_or_else(|_| lost());
        self.done(outcome, transport, peer, arrived)
    }

    async fn look_up(&self, asked: &Asked, found: Option<Answer>) -> Outcome {
        let question = asked.question(self.backend.validate());
        let key = (question.clone(), asked.rule.clone());
        let look_up =
            || look(Arc::clone(&self.backend), asked.clone(), question, found).map(Arc::new);
        let landed = match self.flights.join(key, MAX_LOOK_UPS, look_up) {
            Joined::Earlier(flight) | Joined::Begun(flight) => flight.await,
            Joined::Full => return busy(asked),
        };
        // The policy may have changed meanwhile: a name that it no longer has must not be
        // answered with what was found under the old one.
        match self.backend.rule(&asked.name) {
            Some(rule) if rule == asked.rule => {}
            Some(_) => return busy(asked),
            None => return outside(&asked.client, self.backend.refuse()),
        }
        match &*landed {
            Landed::Granted(found, granted) => self.answer(asked, found, granted),
            Landed::NotGranted(found, error) => not_granted(asked, found, error),
            Landed::Failed(why) => failed(asked, why),
        }
    }

    fn answer(&self, asked: &Asked, found: &Answer, granted: &Granted) -> Outcome {
        answer(asked, found, granted, &|name| {
            self.backend.rule(name).is_some()
        })
    }

    fn done(
        &self,
        outcome: Outcome,
        transport: Transport,
        peer: SocketAddr,
        arrived: Instant,
    ) -> Done {
        let Outcome { reply, mut record } = outcome;
        record.elapsed = arrived.elapsed();
        self.stats.query(record.verdict, record.rcode);
        if record.over.as_ref().is_some_and(|over| over.tell) {
            self.stats.budgets_crossed.fetch_add(1, Relaxed);
        }
        let event = GateEvent {
            agent: self.agent,
            transport,
            peer,
            record,
        };
        Done { reply, event }
    }

    async fn troubled(&self, socket: &str, error: &io::Error) {
        tracing::warn!(agent = self.agent, socket, %error, "the DNS gate could not take a query");
        tokio::time::sleep(ERROR_PAUSE).await;
    }

    #[cfg(test)]
    pub(super) fn backend(&self) -> &B {
        &self.backend
    }

    #[cfg(test)]
    pub(super) fn flying(&self) -> usize {
        self.flights.len()
    }
}

/// What is left of a message that made something panic.
fn lost() -> Outcome {
    Outcome {
        reply: None,
        record: GateRecord {
            verdict: Verdict::Malformed,
            rcode: Rcode::None,
            ..GateRecord::default()
        },
    }
}

/// One look-up: found, unless it was before, then written. It is bounded in time as a whole.
async fn look<B: Backend>(
    backend: Arc<B>,
    asked: Asked,
    question: Question,
    found: Option<Answer>,
) -> Landed {
    let begun = Instant::now();
    let late = |upstream: Arc<str>| Failed {
        kind: FailKind::Timeout,
        upstream,
        elapsed: begun.elapsed(),
    };
    let found = match found {
        Some(found) => found,
        None => match timeout(LOOK_UP_TIME, backend.resolve(question)).await {
            Ok(Ok(found)) => found,
            Ok(Err(failed)) => return Landed::Failed(failed),
            Err(_) => return Landed::Failed(late(Arc::from(""))),
        },
    };
    let wanted = addresses(&asked, &found);
    if wanted.is_empty() {
        return Landed::Granted(found, Granted::default());
    }
    let left = LOOK_UP_TIME.saturating_sub(begun.elapsed());
    match timeout(left, backend.grant(&asked.name, &wanted, &asked.rule)).await {
        Ok(Ok(granted)) => Landed::Granted(found, granted),
        Ok(Err(error)) => Landed::NotGranted(found, error),
        Err(_) => {
            let why = "the kernel's maps were not written in time".to_owned();
            Landed::NotGranted(found, NotGranted { why })
        }
    }
}
