//! One TCP connection of an agent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::serve::{Begun, Done, Gate};
use super::{Backend, Transport};

/// The most TCP connections of one agent at once; more are closed as they come.
pub const MAX_CONNECTIONS: usize = 64;

/// The longest message that is read. A query is a header, one question and an EDNS
/// record: a few hundred bytes.
pub const MAX_MESSAGE: usize = 4096;

/// How long a TCP connection may be silent, or take for one message either way.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// The most queries of one connection that wait for a look-up; no more are read meanwhile.
pub const MAX_PIPELINED: usize = 32;

/// Replies are written together up to this many bytes.
const WRITE_AT: usize = 16 * 1024;

type Waits = FuturesUnordered<BoxFuture<'static, Done>>;

/// What was read and not judged yet, and what was answered and not written yet.
struct Buffers {
    read: Vec<u8>,
    /// Bytes of `read` that were judged.
    judged: usize,
    write: Vec<u8>,
}

impl Buffers {
    /// The next whole message; `Err` when one is announced that is too long.
    fn next(&mut self) -> Result<Option<std::ops::Range<usize>>, TooLong> {
        let rest = &self.read[self.judged..];
        let Some((len, rest)) = rest.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*len));
        if len > MAX_MESSAGE {
            return Err(TooLong);
        }
        if rest.len() < len {
            return Ok(None);
        }
        let start = self.judged + 2;
        self.judged = start + len;
        Ok(Some(start..start + len))
    }

    /// Makes room for what is read next.
    fn compact(&mut self) {
        self.read.drain(..self.judged);
        self.judged = 0;
    }

    /// False if the reply is too long for a stream, which the encoder does not make.
    fn queue(&mut self, reply: &[u8]) -> bool {
        let Ok(len) = u16::try_from(reply.len()) else {
            return false;
        };
        self.write.extend_from_slice(&len.to_be_bytes());
        self.write.extend_from_slice(reply);
        true
    }
}

struct TooLong;

impl<B: Backend> Gate<B> {
    /// Judges every message of a stream. Replies go out as they are ready (RFC 7766
    /// section 6.2.1.1), and a client that does not read its replies waits for itself.
    pub(super) async fn serve_stream(
        self: &Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffers = Buffers {
            read: Vec::with_capacity(512),
            judged: 0,
            write: Vec::new(),
        };
        let mut waits = Waits::new();
        let mut open = true;
        let mut deadline = Instant::now() + TCP_IDLE;
        loop {
            while waits.len() < MAX_PIPELINED {
                let message = match buffers.next() {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(TooLong) => {
                        self.stats.oversized.fetch_add(1, Relaxed);
                        self.flush(&mut stream, &mut buffers).await?;
                        return Ok(());
                    }
                };
                deadline = Instant::now() + TCP_IDLE;
                match self.begin(&buffers.read[message], Transport::Tcp, peer) {
                    Begun::Done(done) => self.queue(&mut buffers, *done),
                    Begun::Waits(query) => {
                        let gate = Arc::clone(self);
                        waits.push(Box::pin(async move { gate.finish(*query).await }));
                    }
                }
                if buffers.write.len() >= WRITE_AT {
                    self.flush(&mut stream, &mut buffers).await?;
                }
            }
            self.flush(&mut stream, &mut buffers).await?;
            let full = waits.len() >= MAX_PIPELINED;
            if !full {
                buffers.compact();
            }
            if !open && waits.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(done) = waits.next(), if !waits.is_empty() => {
                    deadline = Instant::now() + TCP_IDLE;
                    self.queue(&mut buffers, done);
                }
                // At most one message and the length of the next are in the buffer.
                read = stream.read_buf(&mut buffers.read), if open && !full => {
                    open = read? > 0;
                }
                () = sleep_until(deadline), if waits.is_empty() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    fn queue(&self, buffers: &mut Buffers, done: Done) {
        if let Some(reply) = &done.reply
            && !buffers.queue(reply)
        {
            self.stats.replies_lost.fetch_add(1, Relaxed);
        }
        self.tell(done.event);
    }

    async fn flush(&self, stream: &mut TcpStream, buffers: &mut Buffers) -> io::Result<()> {
        if buffers.write.is_empty() {
            return Ok(());
        }
        let written = timeout(TCP_IDLE, stream.write_all(&buffers.write)).await;
        buffers.write.clear();
        match written.map_err(io::Error::from).flatten() {
            Ok(()) => Ok(()),
            Err(error) => {
                self.stats.replies_lost.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }
}
