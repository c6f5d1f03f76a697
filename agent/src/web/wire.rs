//! Connections: so many at once, each for so long, unless it is the one that stays.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at once. The rest waits in the kernel's backlog.
const CONNECTIONS: usize = 32;
/// How long a connection may live that is no stream: it is one request, because every answer
/// closes it.
const LIFE: Duration = Duration::from_secs(10);

/// Accepts them.
pub(super) struct Wire {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Wire {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl Listener for Wire {
    type Io = Bounded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounded, SocketAddr) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await;
            match (place, self.listener.accept().await) {
                (Ok(place), Ok((stream, addr))) => {
                    let bounded = Bounded {
                        stream,
                        end: Box::pin(sleep(LIFE)),
                        stays: Arc::default(),
                        _place: place,
                    };
                    return (bounded, addr);
                }
                // Out of descriptors: without a pause this would spin.
                (_, Err(_)) => sleep(Duration::from_millis(100)).await,
                // The semaphore is never closed.
                (Err(_), _) => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Both ends of a connection, and whether it may stay.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: Option<SocketAddr>,
    pub(super) stays: Arc<AtomicBool>,
}

impl Connected<IncomingStream<'_, Wire>> for Ends {
    fn connect_info(stream: IncomingStream<'_, Wire>) -> Self {
        Self {
            peer: *stream.remote_addr(),
            local: stream.io().stream.local_addr().ok(),
            stays: Arc::clone(&stream.io().stays),
        }
    }
}

/// A connection that ends in time and gives its place back: neither half a request nor an
/// answer that nobody reads can hold it.
pub(super) struct Bounded {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    stays: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

impl Bounded {
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
