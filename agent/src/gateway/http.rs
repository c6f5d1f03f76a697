//! Plain HTTP, request by request.
//!
//! hyper reads a request and hyper writes it anew, so a server never gets bytes that the
//! gateway read in another way: there is one body with one length.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, PROXY_AUTHENTICATE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded, on};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::AbortOnDropHandle;

use super::auth;
use super::flow::Socket;
use super::head::{self, Form};
use super::name::Target;
use super::relay::relay;
use super::session::{Ended, Session};
use super::{Backend, Grant, Kind, Outcome, Route};

/// The longest head, and the most that is read ahead of a body.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The most headers.
pub(super) const MAX_HEADERS: usize = 128;

type Body = Either<Incoming, Full<Bytes>>;

/// The connection to a server that requests go to.
struct Server {
    target: Target,
    route: Route,
    send: client::SendRequest<Incoming>,
    _driver: AbortOnDropHandle<()>,
}

/// What the connection becomes when its last request is answered.
enum Change {
    /// WebSocket on both sides.
    WebSocket(OnUpgrade, OnUpgrade),
    /// A tunnel, from a door.
    Tunnel(OnUpgrade, Target),
}

/// One connection of a program.
struct Exchange<'a, B> {
    session: &'a Session<B>,
    form: Form,
    /// Requests come one after another: it is never waited for.
    server: AsyncMutex<Option<Server>>,
    change: Mutex<Option<Change>>,
}

impl<B: Backend> Session<B> {
    /// Serves plain HTTP on a connection that was meant for a server.
    pub(super) async fn http(&self, socket: Socket, target: &Target) -> Result<(), Ended> {
        let form = Form::Origin(target.port(), target.name().cloned());
        self.note(|record| record.kind = Some(Kind::Http));
        self.exchange(socket, form).await.map(drop)
    }

    /// Serves plain HTTP until the connection ends; a tunnel, if that is what it became.
    pub(super) async fn exchange(
        &self,
        socket: Socket,
        form: Form,
    ) -> Result<Option<(Socket, Target)>, Ended> {
        let exchange = Exchange {
            session: self,
            form,
            server: AsyncMutex::default(),
            change: Mutex::default(),
        };
        let mut http = server::Builder::new();
        http.timer(TokioTimer::new())
            // It runs between two requests, too.
            .header_read_timeout(self.gateway.config.first_byte)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .preserve_header_case(true)
            // The server's date is the server's.
            .auto_date_header(false);
        let served = http
            .serve_connection(
                TokioIo::new(socket),
                service_fn(|request| exchange.answer(request)),
            )
            .with_upgrades()
            .await;
        if let Err(error) = served {
            let outcome = if error.is_timeout() {
                match exchange.server.lock().await.is_some() {
                    true => Outcome::IdleTimeout,
                    false => Outcome::HandshakeTimeout,
                }
            } else if error.is_parse() {
                // It was told so by hyper, and has a record of its own.
                exchange.close_server().await;
                self.note(|record| record.kind = Some(Kind::Http));
                match error.is_parse_version_h2() {
                    true => Outcome::Http2,
                    false => Outcome::BadRequest,
                }
            } else {
                Outcome::Reset
            };
            return Err(Ended::new(outcome).because(error));
        }
        let change = exchange
            .change
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let broken = |error: hyper::Error| Ended::new(Outcome::Reset).because(error);
        match change {
            None => Ok(None),
            Some(Change::WebSocket(client, server)) => {
                let mut client = TokioIo::new(client.await.map_err(broken)?);
                let server = TokioIo::new(server.await.map_err(broken)?);
                relay(&mut client, server, &self.flow).await?;
                Ok(None)
            }
            Some(Change::Tunnel(client, target)) => {
                let socket = taken_back(client.await.map_err(broken)?)?;
                Ok(Some((socket, target)))
            }
        }
    }
}

/// The socket under an upgraded connection, with what hyper read ahead.
fn taken_back(upgraded: Upgraded) -> Result<Socket, Ended> {
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_| Ended::new(Outcome::Broken))?;
    let mut socket = parts.io.into_inner();
    socket.put_back(parts.read_buf.to_vec());
    Ok(socket)
}

impl<B: Backend> Exchange<'_, B> {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let version = request.version();
        let mut response = match self.pass(request).await {
            Ok(response) => response,
            Err(ended) => self.refuse(ended).await,
        };
        *response.version_mut() = version;
        Ok(response)
    }

    /// A refusal in words. The connection ends with it.
    async fn refuse(&self, ended: Ended) -> Response<Body> {
        let mut words = String::from("Exeat: ");
        let name = self.session.name();
        let policy = self.session.backend().policy();
        let status = match ended.outcome {
            Outcome::Unauthenticated => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Outcome::BadRequest | Outcome::NoHost | Outcome::HostMismatch | Outcome::BadName => {
                StatusCode::BAD_REQUEST
            }
            Outcome::ConnectTimeout => StatusCode::GATEWAY_TIMEOUT,
            outcome if outcome.is_refusal() => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_GATEWAY,
        };
        // Writing to a string does not fail.
        let _ = match (&name, ended.outcome) {
            (Some(name), Outcome::HostNotAllowed | Outcome::NameNotAllowed) => {
                write!(words, "the policy {policy} does not allow {name}")
            }
            (Some(name), outcome) => write!(words, "{name}: {}", outcome.as_str()),
            (None, outcome) => write!(words, "{} (policy {policy})", outcome.as_str()),
        };
        if let Some(detail) = &ended.detail {
            let _ = write!(words, ": {detail}");
        }
        words.push('\n');
        *self.server.lock().await = None;
        let session = self.session;
        if let Some(draft) = session.finish(ended) {
            session.gateway.tell(draft);
        }
        let mut response = Response::new(Either::Right(Full::from(words)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            headers.insert(
                PROXY_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"Exeat\", charset=\"UTF-8\""),
            );
        }
        response
    }

    /// Ends what is open to a server, with its record: what comes next has one of its own.
    async fn close_server(&self) {
        if self.server.lock().await.take().is_some()
            && let Some(draft) = self.session.finish(Ended::new(Outcome::Closed))
        {
            self.session.gateway.tell(draft);
        }
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Ended> {
        let session = self.session;
        let (mut parts, body) = request.into_parts();
        let target = match self.target(&parts) {
            Ok(target) => target,
            Err(ended) => {
                self.close_server().await;
                session.note(|record| record.kind = Some(Kind::Http));
                return Err(ended);
            }
        };
        if parts.method == Method::CONNECT {
            self.close_server().await;
            return self.connect(Request::from_parts(parts, body), target);
        }
        let same = self
            .server
            .lock()
            .await
            .as_ref()
            .map(|at| at.target == target);
        if same == Some(false) {
            self.close_server().await;
        }
        let grant = session.judge(target.ask(Kind::Http))?;
        if grant.inspect.is_some() {
            return Err(Ended::new(Outcome::RequestNotAllowed)
                .because("its requests are inspected, for which they must come by TLS"));
        }
        let websocket = head::is_websocket(&parts.headers);
        head::strip(&mut parts.headers, websocket)?;
        parts.version = Version::HTTP_11;
        let path = parts.uri.into_parts().path_and_query;
        parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if let Route::Proxy(proxy) = &grant.route {
            proxy.address(&mut parts, &target).await?;
        }
        request = Request::from_parts(parts, body);
        let asked = websocket.then(|| on(&mut request));
        session.note(|record| record.requests += 1);
        session.gateway.stats.requests.fetch_add(1, Relaxed);
        let mut response = self.send(request, &target, &grant).await?;
        if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // A server has no business to ask for it, and the program none to answer.
            return Err(super::proxy::refused(response.status()));
        }
        let changed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let changed = match (changed, asked) {
            (true, Some(asked)) if head::is_websocket(response.headers()) => {
                let theirs = on(&mut response);
                self.becomes(Change::WebSocket(asked, theirs));
                true
            }
            (true, _) => {
                return Err(Ended::new(Outcome::UpstreamFailed)
                    .because("the server changes the protocol unasked"));
            }
            (false, _) => false,
        };
        head::strip(response.headers_mut(), changed).map_err(|odd| {
            Ended::new(Outcome::UpstreamFailed).because(odd.detail.unwrap_or_default())
        })?;
        Ok(response.map(Either::Left))
    }

    fn target(&self, parts: &Parts) -> Result<Target, Ended> {
        if self.form == Form::Proxy {
            auth::basic(self.session.backend().credentials(), &parts.headers)?;
        }
        head::target(parts, &self.form)
    }

    /// A door's CONNECT: the tunnel begins behind the answer.
    fn connect(&self, request: Request<Incoming>, target: Target) -> Result<Response<Body>, Ended> {
        self.session.opens(&target)?;
        self.becomes(Change::Tunnel(on(request), target));
        Ok(Response::new(Either::Right(Full::default())))
    }

    fn becomes(&self, change: Change) {
        *self.change.lock().unwrap_or_else(PoisonError::into_inner) = Some(change);
    }

    /// Sends a request over the open connection, or a new one where it is closed or goes
    /// elsewhere.
    async fn send(
        &self,
        mut request: Request<Incoming>,
        target: &Target,
        grant: &Grant,
    ) -> Result<Response<Incoming>, Ended> {
        let mut server = self.server.lock().await;
        loop {
            let open = match server.take() {
                Some(mut open) if open.route == grant.route => {
                    // Not an error yet: servers close what is kept alive.
                    open.send.ready().await.is_ok().then_some(open)
                }
                _ => None,
            };
            let fresh = open.is_none();
            let open = match open {
                Some(open) => server.insert(open),
                None => server.insert(self.open(target, grant).await?),
            };
            match open.send.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    // It never began to leave.
                    Some(back) if !fresh => {
                        *server = None;
                        request = back;
                    }
                    _ => {
                        return Err(Ended::new(Outcome::UpstreamFailed).because(error.into_error()));
                    }
                },
            }
        }
    }

    async fn open(&self, target: &Target, grant: &Grant) -> Result<Server, Ended> {
        let upstream = match &grant.route {
            Route::Direct => self.session.dial(target, grant).await?,
            Route::Proxy(proxy) => self.session.at_proxy(proxy).await?,
        };
        let (send, connection) = client::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(upstream))
            .await
            .map_err(|error| Ended::new(Outcome::UpstreamFailed).because(error))?;
        let driver = tokio::spawn(async move {
            // Its errors come with the request that meets them.
            let _ = connection.with_upgrades().await;
        });
        Ok(Server {
            target: target.clone(),
            route: grant.route.clone(),
            send,
            _driver: AbortOnDropHandle::new(driver),
        })
    }
}
