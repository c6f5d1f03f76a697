//! Connections of the small HTTP servers: so many at once, each for so long, unless it is one that
//! stays.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Accepts so many at once; the rest waits in the kernel's backlog.
pub(crate) struct BoundedListener {
    listener: TcpListener,
    life: Duration,
    places: Arc<Semaphore>,
}

impl BoundedListener {
    /// `life` is how long a connection may live that does not stay: it is one request, because every
    /// answer closes it.
    pub(crate) fn new(listener: TcpListener, connections: usize, life: Duration) -> Self {
        Self {
            listener,
            life,
            places: Arc::new(Semaphore::new(connections)),
        }
    }
}

impl Listener for BoundedListener {
    type Io = Bounded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounded, SocketAddr) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await;
            match (place, self.listener.accept().await) {
                (Ok(place), Ok((stream, addr))) => {
                    let bounded = Bounded {
                        stream,
                        end: Box::pin(sleep(self.life)),
                        stays: Arc::default(),
                        _place: place,
                    };
                    return (bounded, addr);
                }
                (_, Err(e)) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    // Out of descriptors: without a pause this would spin.
                    sleep(Duration::from_millis(100)).await;
                }
                // The semaphore is never closed.
                (Err(_), _) => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends in time and gives its place back: neither half a request nor an
/// answer that nobody reads can hold it.
pub(crate) struct Bounded {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    stays: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

impl Bounded {
    /// Our own end.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Set to have it stay.
    pub(crate) fn stays(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stays)
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.stays.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
