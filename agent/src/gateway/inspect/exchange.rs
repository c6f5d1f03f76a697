//! Request by request.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex as AsyncMutex;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::flow::Upstream;
use super::super::head;
use super::super::http::{MAX_HEAD, MAX_HEADERS};
use super::super::session::Ended;
use super::super::{GatewayRecord, GatewayStats, Outcome, Records};
use super::body::{Told, Watched, drained, matched};
use super::judge::Judge;
use super::serve::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};
use super::tasks::Spawner;
use super::ticket::Ticket;
use crate::leases::Name;

/// The port that an authority need not tell.
const HTTPS: u16 = 443;

/// The connection to the server is over, and this request never began to leave: the program
/// may ask again over another one.
#[derive(Debug)]
pub(super) struct Gone(h2::Error);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server is gone")
    }
}

impl std::error::Error for Gone {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Why the server does not answer.
enum Failed {
    Gone,
    Ended(Ended),
}

impl From<Ended> for Failed {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// The connection to the server.
pub(super) enum Server {
    H1(AsyncMutex<http1::SendRequest<Watched>>),
    H2(http2::SendRequest<Watched>),
}

impl Server {
    /// Opens HTTP on it. `gone` is told when it ends.
    pub(super) async fn open(
        stream: TlsStream<Upstream>,
        h2: bool,
        spawner: &Spawner,
        gone: &CancellationToken,
    ) -> Result<Self, Ended> {
        let failed = |error: hyper::Error| Ended::new(Outcome::UpstreamFailed).because(error);
        let io = TokioIo::new(stream);
        let gone = gone.clone().drop_guard();
        if h2 {
            let (send, connection) = http2::Builder::new(spawner.clone())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_reset_streams(MAX_STREAMS as usize)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(MAX_HEAD as u32)
                .handshake(io)
                .await
                .map_err(failed)?;
            spawner.execute(async move {
                // Its errors come with the requests that meet them.
                let _ = connection.await;
                drop(gone);
            });
            return Ok(Self::H2(send));
        }
        let (send, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(io)
            .await
            .map_err(failed)?;
        spawner.execute(async move {
            let _ = connection.await;
            drop(gone);
        });
        Ok(Self::H1(AsyncMutex::new(send)))
    }

    async fn send(&self, request: Request<Watched>) -> Result<Response<Incoming>, Failed> {
        let sent = match self {
            Self::H1(send) => {
                let mut send = send.lock().await;
                send.ready().await.map_err(|_| Failed::Gone)?;
                send.try_send_request(request).await
            }
            Self::H2(send) => {
                let mut send = send.clone();
                send.ready().await.map_err(|_| Failed::Gone)?;
                send.try_send_request(request).await
            }
        };
        sent.map_err(|mut error: TrySendError<_>| match error.take_message() {
            Some(_) => Failed::Gone,
            None => Failed::Ended(Ended::new(Outcome::UpstreamFailed).because(error.into_error())),
        })
    }
}

/// What answers the requests of one connection.
pub(super) struct Exchange {
    pub(super) records: Records,
    pub(super) stats: Arc<GatewayStats>,
    /// What every record of a request begins with.
    pub(super) like: Arc<GatewayRecord>,
    pub(super) name: Name,
    pub(super) port: u16,
    pub(super) rule: Arc<str>,
    pub(super) judge: Judge,
    pub(super) server: Server,
    /// Requests that were passed on.
    pub(super) requests: Arc<AtomicU64>,
    pub(super) gone: CancellationToken,
    pub(super) spawner: Spawner,
}

/// What can be told of an exchange from outside.
pub(super) struct Seen {
    requests: Arc<AtomicU64>,
    like: Weak<GatewayRecord>,
}

impl Seen {
    /// Whether a request was passed on.
    pub(super) fn asked(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// Whether no request is under way: each holds what its record begins with.
    pub(super) fn idle(&self) -> bool {
        self.like.strong_count() <= 1
    }
}

impl Exchange {
    pub(super) fn seen(&self) -> Seen {
        Seen {
            requests: Arc::clone(&self.requests),
            like: Arc::downgrade(&self.like),
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Told>, Gone> {
        let (parts, body) = request.into_parts();
        let version = parts.version;
        let ticket = Arc::new(Ticket::new(
            self.records.clone(),
            Arc::clone(&self.stats),
            Arc::clone(&self.like),
            &parts,
        ));
        let mut response = match self.pass(parts, body, &ticket).await {
            Ok(response) => response,
            // What was found meanwhile counts, and not how the server took it.
            Err(failed) => match (ticket.refusal(), failed) {
                (Some(ended), _) | (None, Failed::Ended(ended)) => {
                    ticket.end(ended.clone());
                    self.refusal(&ended)
                }
                (None, Failed::Gone) => {
                    ticket.end(Ended::new(Outcome::UpstreamFailed).because("the server is gone"));
                    self.gone.cancel();
                    return Err(Gone(h2::Reason::REFUSED_STREAM.into()));
                }
            },
        };
        ticket.answered(response.status());
        *response.version_mut() = version;
        if version == Version::HTTP_2 {
            response.headers_mut().remove(CONNECTION);
        }
        Ok(response)
    }

    async fn pass(
        &self,
        mut parts: Parts,
        body: Incoming,
        ticket: &Arc<Ticket>,
    ) -> Result<Response<Told>, Failed> {
        if let Err(ended) = self.judged(&parts, ticket) {
            // Who waits to be told to go on sends nothing.
            if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) {
                self.spawner.execute(drained(body));
            }
            return Err(ended.into());
        }
        let authority = match self.port {
            HTTPS => self.name.to_string(),
            port => format!("{}:{port}", self.name),
        };
        self.judge.leaving(&mut parts, &authority)?;
        let inspect = &self.judge.inspect;
        let body = Watched::new(body, inspect, Arc::clone(ticket), self.spawner.clone());
        ticket.passed();
        self.requests.fetch_add(1, Relaxed);
        let mut response = self.server.send(Request::from_parts(parts, body)).await?;
        let odd = |why: &str| Ended::new(Outcome::UpstreamFailed).because(why);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(odd("the server changes the protocol unasked").into());
        }
        let last = head::closes(response.headers());
        head::strip(response.headers_mut(), false)
            .map_err(|ended| odd(&ended.detail.unwrap_or_default()))?;
        if last {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Told::server(body, Arc::clone(ticket))))
    }

    /// Judges a head. What its patterns find is recorded in any case.
    fn judged(&self, parts: &Parts, ticket: &Ticket) -> Result<(), Ended> {
        let patterns = &self.judge.inspect.patterns;
        let (path, rest) = self.judge.look(parts);
        if !path.found.is_empty() {
            ticket.withhold_path();
        }
        for &place in path.found.iter().chain(&rest.found) {
            ticket.found(&patterns[place].name);
        }
        head::inside(parts, &self.name, self.port)?;
        if let Some(place) = path.blocking() {
            return Err(matched(&patterns[place].name, "URL"));
        }
        if let Some(place) = rest.blocking() {
            return Err(matched(&patterns[place].name, "headers"));
        }
        self.judge.allows(parts)
    }

    /// A refusal in words.
    fn refusal(&self, ended: &Ended) -> Response<Told> {
        let status = match ended.outcome {
            Outcome::BadRequest | Outcome::NoHost | Outcome::HostMismatch | Outcome::BadName => {
                StatusCode::BAD_REQUEST
            }
            // Browsers then ask over a connection of its own.
            Outcome::NameMismatch => StatusCode::MISDIRECTED_REQUEST,
            Outcome::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Outcome::EncodedBody => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            outcome if outcome.is_refusal() => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_GATEWAY,
        };
        let why = ended.detail.as_deref().unwrap_or_default();
        let mut response = Response::new(Told::words(format!(
            "Exeat: {} ({}): {why}\n",
            ended.outcome.as_str(),
            self.rule
        )));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, text);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
