//! Connections of the page, and which of them stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use crate::bounded::BoundedListener;

/// Connections at once.
const CONNECTIONS: usize = 32;
/// How long a connection may live that is no stream.
const LIFE: Duration = Duration::from_secs(10);

/// Accepts them.
pub(super) fn wire(listener: TcpListener) -> BoundedListener {
    BoundedListener::new(listener, CONNECTIONS, LIFE)
}

/// Both ends of a connection, and whether it may stay.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: Option<SocketAddr>,
    pub(super) stays: Arc<AtomicBool>,
}

impl Connected<IncomingStream<'_, BoundedListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self {
            peer: *stream.remote_addr(),
            local: stream.io().local_addr().ok(),
            stays: stream.io().stays(),
        }
    }
}
