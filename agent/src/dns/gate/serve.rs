//! A gate at work: sockets in, [`respond`] for each message, records out.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::sockets::{GateSockets, Pair};
use super::{Answers, GateEvent, GateRecord, Outcome, Rcode, Transport, Verdict, respond};
use crate::dns::stats::GateStats;

/// The most TCP connections of one agent at once; more are closed as they come.
pub const MAX_CONNECTIONS: usize = 64;

/// The longest message that is read. A query is a header, one question and an EDNS
/// record: a few hundred bytes.
pub const MAX_MESSAGE: usize = 4096;

/// How long a TCP connection may be silent, or take for one message either way.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// Pause after an error of a listening socket (no descriptors left, no memory), so that
/// an error that stays does not take a whole CPU.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What every task of a gate needs.
#[derive(Clone)]
struct Gate {
    agent: u32,
    answers: Arc<dyn Answers + Send + Sync>,
    records: mpsc::Sender<GateEvent>,
    stats: Arc<GateStats>,
    connections: Arc<Semaphore>,
}

impl GateSockets {
    /// Serves until `cancel`, then closes the sockets and every connection before it
    /// returns. Records go to `records` without waiting: one that finds no room is
    /// counted as lost. Give each agent a channel of its own, so that one agent's flood
    /// cannot crowd out the records of another.
    ///
    /// # Errors
    /// When the sockets cannot be handed to the runtime, or a task of the gate broke off:
    /// the agent has no names then until a new gate is bound and served.
    pub async fn serve(
        self,
        answers: Arc<dyn Answers + Send + Sync>,
        records: mpsc::Sender<GateEvent>,
        stats: Arc<GateStats>,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let gate = Gate {
            agent: self.agent,
            answers,
            records,
            stats,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        };
        // A token of its own: tasks that end with `cancel` could not be told from tasks
        // that broke off.
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for Pair { udp, tcp, .. } in [Some(self.v4), self.v6].into_iter().flatten() {
            let udp = UdpSocket::from_std(udp)?;
            let tcp = TcpListener::from_std(tcp)?;
            tasks.spawn(gate.clone().serve_udp(udp, stop.clone()));
            tasks.spawn(gate.clone().serve_tcp(tcp, stop.clone()));
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

impl Gate {
    async fn serve_udp(self, socket: UdpSocket, stop: CancellationToken) {
        stop.run_until_cancelled(self.answer_datagrams(&socket))
            .await;
    }

    async fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let (len, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    self.troubled("udp", &error).await;
                    continue;
                }
            };
            let Some(reply) = self.answer(&buffer[..len], Transport::Udp, peer) else {
                continue;
            };
            if let Err(error) = socket.send_to(&reply, peer).await {
                self.stats.replies_lost.fetch_add(1, Relaxed);
                tracing::debug!(agent = self.agent, %peer, %error, "a DNS reply was not sent");
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener, stop: CancellationToken) {
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
            let Ok(permit) = self.connections.clone().try_acquire_owned() else {
                self.stats.connections_refused.fetch_add(1, Relaxed);
                continue;
            };
            let gate = self.clone();
            connections.spawn(async move {
                if let Err(error) = gate.serve_stream(stream, peer).await {
                    tracing::debug!(agent = gate.agent, %peer, %error, "a DNS connection ended");
                }
                drop(permit);
            });
        }
        connections.shutdown().await;
    }

    /// Judges every message of a stream, one after the other: replies keep the order of
    /// the queries, and a client that does not read its replies waits for itself.
    async fn serve_stream(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let Some(len) = timeout(TCP_IDLE, read_message(&mut stream, &mut buffer)).await??
            else {
                return Ok(());
            };
            let Some(message) = buffer.get(..len) else {
                self.stats.oversized.fetch_add(1, Relaxed);
                return Ok(());
            };
            let Some(reply) = self.answer(message, Transport::Tcp, peer) else {
                continue;
            };
            let Ok(len) = u16::try_from(reply.len()) else {
                self.stats.replies_lost.fetch_add(1, Relaxed);
                return Ok(());
            };
            let mut framed = len.to_be_bytes().to_vec();
            framed.extend_from_slice(&reply);
            if let Err(error) = timeout(TCP_IDLE, stream.write_all(&framed)).await? {
                self.stats.replies_lost.fetch_add(1, Relaxed);
                return Err(error);
            }
        }
    }

    fn answer(&self, query: &[u8], transport: Transport, peer: SocketAddr) -> Option<Vec<u8>> {
        // The parser reads hostile bytes. Should one make it panic, that message is lost
        // and not the agent's gate.
        let judged = catch_unwind(AssertUnwindSafe(|| {
            respond(query, transport, self.answers.as_ref())
        }));
        let Outcome { reply, record } = judged.unwrap_or_else(|_| Outcome {
            reply: None,
            record: GateRecord {
                name: String::new(),
                qtype: 0,
                rcode: Rcode::None,
                addresses: Vec::new(),
                verdict: Verdict::Malformed,
            },
        });
        self.stats.query(record.verdict, record.rcode);
        let event = GateEvent {
            agent: self.agent,
            transport,
            peer,
            record,
        };
        if self.records.try_send(event).is_err() {
            self.stats.records_lost.fetch_add(1, Relaxed);
        }
        reply
    }

    async fn troubled(&self, socket: &str, error: &io::Error) {
        tracing::warn!(agent = self.agent, socket, %error, "the DNS gate could not take a query");
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

/// Reads one message with its length before it. `None` at the end of the stream. A
/// length that does not fit the buffer is returned without reading on.
async fn read_message(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut prefix = [0; 2];
    match stream.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = usize::from(u16::from_be_bytes(prefix));
    if let Some(room) = buffer.get_mut(..len) {
        stream.read_exact(room).await?;
    }
    Ok(Some(len))
}
