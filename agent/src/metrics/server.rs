//! The page over HTTP: `/metrics` and `/healthz`, on loopback unless the configuration
//! says otherwise.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Snapshot, encode};
use crate::bounded::BoundedListener;

/// Connections at once. The rest waits in the kernel's backlog.
const CONNECTIONS: usize = 16;
/// How long one connection may live: it is one request, because every answer closes it.
const LIFE: Duration = Duration::from_secs(10);

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {addr}: {source}; set `metrics:` in the configuration to \
     another IP:PORT, or to off"
)]
pub struct PageError {
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// The metrics page, bound to its address.
pub struct Page {
    listener: BoundedListener,
    addr: SocketAddr,
}

impl Page {
    /// Takes the address; port 0 takes a free one.
    pub async fn bind(addr: SocketAddr) -> Result<Self, PageError> {
        Self::bind_with(addr, LIFE, CONNECTIONS).await
    }

    pub(super) async fn bind_with(
        addr: SocketAddr,
        life: Duration,
        connections: usize,
    ) -> Result<Self, PageError> {
        let fail = |source| PageError { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(fail)?;
        Ok(Self {
            addr: listener.local_addr().map_err(fail)?,
            listener: BoundedListener::new(listener, connections, life),
        })
    }

    /// The address, with the port that it got.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until cancelled, and then what was begun. `snapshot` is called once a request.
    pub async fn serve<F, Fut>(self, cancel: CancellationToken, snapshot: F)
    where
        F: Fn() -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Snapshot> + Send + 'static,
    {
        let health = snapshot.clone();
        let router = Router::new()
            .route("/metrics", get(move || metrics(snapshot.clone())))
            .route("/healthz", get(move || healthz(health.clone())))
            .fallback(|| async { page(StatusCode::NOT_FOUND, "see /metrics and /healthz\n") });
        let served =
            axum::serve(self.listener, router).with_graceful_shutdown(cancel.cancelled_owned());
        if let Err(e) = served.await {
            tracing::error!(error = %e, "the metrics page ended");
        }
    }
}

async fn metrics<F: Fn() -> Fut, Fut: Future<Output = Snapshot>>(snapshot: F) -> Response {
    match encode(&snapshot().await) {
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            let headers = [(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")];
            (headers, text).into_response()
        }
        Err(e) => {
            tracing::error!(error = %e, "the metrics cannot be written");
            page(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n"))
        }
    }
}

async fn healthz<F: Fn() -> Fut, Fut: Future<Output = Snapshot>>(snapshot: F) -> Response {
    let now = snapshot().await;
    if now.degraded.is_empty() && now.enforcing {
        return page(StatusCode::OK, "ok\n");
    }
    let mut text = String::from("degraded\n");
    for reason in &now.degraded {
        text.push_str(reason);
        text.push('\n');
    }
    page(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn page(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONNECTION, "close")], text.into()).into_response()
}
