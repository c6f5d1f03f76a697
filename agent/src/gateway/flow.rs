//! The two sides of a connection, counted, and cut when they must be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// What both sides of a connection share.
#[derive(Debug)]
pub(super) struct Flow {
    started: Instant,
    /// When a byte last passed, in milliseconds since `started`.
    active: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    cut: AtomicBool,
}

impl Flow {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            active: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            cut: AtomicBool::new(false),
        })
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn touch(&self) {
        let now = self.started.elapsed().as_millis();
        self.active
            .store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
    }

    /// Waits until no byte has passed for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let end = self.started + Duration::from_millis(self.active.load(Relaxed)) + limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// Bytes to and from servers, counted anew from here on.
    pub(super) fn take_bytes(&self) -> (u64, u64) {
        (self.sent.swap(0, Relaxed), self.received.swap(0, Relaxed))
    }

    /// From now on a socket that is dropped is reset: what it has not sent is thrown away.
    pub(super) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }
}

/// A TCP socket of a connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    flow: Arc<Flow>,
    /// Bytes that were read and put back.
    front: Vec<u8>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, flow: &Arc<Flow>) -> Self {
        Self {
            stream,
            flow: Arc::clone(flow),
            front: Vec::new(),
        }
    }

    /// Bytes to be read before anything else.
    pub(super) fn put_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.front);
        self.front = bytes;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A panic cuts, too: it must not look like an end.
        if self.flow.cut.load(Relaxed) || std::thread::panicking() {
            // It fails for a socket that is broken already, and then there is nothing to
            // throw away.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.front.is_empty() {
            let len = self.front.len().min(buf.remaining());
            buf.put_slice(&self.front[..len]);
            self.front.drain(..len);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.flow.touch();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.flow.touch();
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.flow.touch();
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A stream of bytes, whatever is below it.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The server's side, counted.
pub(super) struct Upstream {
    io: Box<dyn Io>,
    flow: Arc<Flow>,
}

impl Upstream {
    pub(super) fn new(io: impl Io + 'static, flow: &Arc<Flow>) -> Self {
        Self::boxed(Box::new(io), flow)
    }

    pub(super) fn boxed(io: Box<dyn Io>, flow: &Arc<Flow>) -> Self {
        Self {
            io,
            flow: Arc::clone(flow),
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.flow.received.fetch_add(read as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.flow.sent.fetch_add(len as u64, Relaxed);
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.flow.sent.fetch_add(len as u64, Relaxed);
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
