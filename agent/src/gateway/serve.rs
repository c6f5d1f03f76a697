//! A gateway at work: connections in, records out.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::certificate::Looks;
use super::flow::Socket;
use super::hello::refusing;
use super::inspect::Servers;
use super::session::{Draft, Ended, Session};
use super::sockets::GatewaySockets;
use super::{Backend, Door, GatewayConfig, GatewayStats, Outcome, Records};

/// Pause after an error of a listening socket (no descriptors left, no memory), so that
/// an error that stays does not take a whole CPU.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of a gateway needs.
pub(super) struct Gateway<B> {
    pub(super) agent: u32,
    pub(super) backend: Arc<B>,
    pub(super) config: GatewayConfig,
    pub(super) stats: Arc<GatewayStats>,
    pub(super) looks: Looks,
    /// The server that tells a refused program so.
    pub(super) refusing: Arc<ServerConfig>,
    /// How servers of inspected connections are verified.
    pub(super) servers: OnceCell<Servers>,
    pub(super) records: Records,
    connections: Arc<Semaphore>,
}

impl GatewaySockets {
    /// Serves until `cancel`, then closes the sockets and every connection before it
    /// returns. Records go to `records` without waiting: one that finds no room is counted
    /// as lost. Give each agent queues of its own.
    ///
    /// # Errors
    /// When the sockets cannot be handed to the runtime, or a task of the gateway broke off:
    /// what the agent's policy sends through the gateway is closed then until a new one
    /// is served.
    pub async fn serve<B: Backend>(
        self,
        backend: Arc<B>,
        config: GatewayConfig,
        records: Records,
        stats: Arc<GatewayStats>,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let gateway = Arc::new(Gateway {
            agent: self.agent(),
            backend,
            stats,
            looks: Looks::new(),
            refusing: refusing().map_err(io::Error::other)?,
            servers: OnceCell::new(),
            records,
            connections: Arc::new(Semaphore::new(config.connections)),
            config,
        });
        // A token of its own: tasks that end with `cancel` could not be told from tasks
        // that broke off.
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (door, listener) in self.into_listeners() {
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn(Arc::clone(&gateway).listen(door, listener, stop.clone()));
        }
        let result = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => Err(match ended {
                Ok(()) => io::Error::other("a task of the gateway ended before its time"),
                Err(error) => io::Error::other(error),
            }),
        };
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        result
    }
}

impl<B: Backend> Gateway<B> {
    async fn listen(self: Arc<Self>, door: Door, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(agent = self.agent, door = door.as_str(), %error,
                            "the gateway could not take a connection");
                        tokio::time::sleep(ERROR_PAUSE).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next() => continue,
                () = stop.cancelled() => break,
            };
            let Ok(local) = stream.local_addr() else {
                continue;
            };
            let session = Session::new(Arc::clone(&self), door, peer, local);
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                // Reset, and not ended: the program is to know at once.
                let _ = stream.set_zero_linger();
                if let Some(draft) = session.finish(Ended::new(Outcome::Busy)) {
                    self.tell(draft);
                }
                continue;
            };
            let stop = stop.clone();
            let gateway = Arc::clone(&self);
            connections.spawn(async move {
                gateway.stats.open.fetch_add(1, Relaxed);
                let ended = session.run(stream, &stop).await;
                gateway.stats.open.fetch_sub(1, Relaxed);
                drop(permit);
                let Some(mut draft) = session.finish(ended) else {
                    return;
                };
                if let Some(look) = draft.look.take() {
                    let seen = stop.run_until_cancelled(look.seen()).await;
                    let seen = seen.unwrap_or_default();
                    draft.record.certificate = seen.certificate;
                    draft.record.alpn_chosen = seen.alpn;
                }
                gateway.tell(draft);
            });
        }
        while connections.join_next().await.is_some() {}
    }

    /// Hands a record on.
    pub(super) fn tell(&self, draft: Draft) {
        if !self.records.offer(draft.record) {
            self.stats.records_lost.fetch_add(1, Relaxed);
        }
    }
}

impl<B: Backend> Session<B> {
    /// Serves the connection until it ends, is stopped, falls silent or loses the policy's
    /// consent. Then both its sockets are closed.
    async fn run(&self, stream: TcpStream, stop: &CancellationToken) -> Ended {
        let mut changes = self.backend().changed();
        // What is judged from here on is judged by this policy or a newer one.
        changes.mark_unchanged();
        let cut = |ended: Ended| {
            self.flow.cut();
            ended
        };
        let serve = async {
            if let Err(error) = stream.set_nodelay(true) {
                return Ended::new(Outcome::Reset).because(error);
            }
            let socket = Socket::new(stream, &self.flow);
            let served = match self.door() {
                Door::Steered => self.steered(socket).await,
                Door::Http => self.http_door(socket).await,
                Door::Socks => self.socks_door(socket).await,
            };
            served.err().unwrap_or(Ended::new(Outcome::Closed))
        };
        let idle = self.gateway.config.idle;
        // The sockets are cut while they are still there: `serve` is dropped at the end.
        let served = async {
            tokio::select! {
                biased;
                ended = async { stop.cancelled().await; cut(Ended::new(Outcome::Stopped)) } => ended,
                ended = async { cut(self.revoked(changes).await) } => ended,
                ended = async {
                    self.flow.idle(idle).await;
                    cut(Ended::new(Outcome::IdleTimeout))
                } => ended,
                ended = serve => ended,
            }
        };
        // Parsers read hostile bytes. Should one make a panic, that connection is closed
        // and not the agent's gateway.
        let served = AssertUnwindSafe(served).catch_unwind().await;
        served.unwrap_or_else(|_| Ended::new(Outcome::Broken))
    }
}
