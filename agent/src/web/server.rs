//! Who may ask, and what is answered.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt as _;
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::live::{Live, News};
use super::page::{self, CSP};
use super::session::Sessions;
use super::wire::{Ends, wire};
use crate::asking::Choice;
use crate::control::protocol::Code;
use crate::control::{Client, ClientError, Request, Response as Answer};

/// Bytes of the body of a request.
const BODY: usize = 4096;
/// Pages that are kept up to date at once.
const STREAMS: usize = 8;
/// The header that has the session's key.
const KEY: &str = "x-exeat-key";
/// How long what was begun may take when it is told to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the requests share.
pub struct App {
    host: String,
    origin: String,
    cookie: String,
    sessions: Sessions,
    guard: Guard,
    live: Arc<Live>,
    streams: Arc<Semaphore>,
    cancel: CancellationToken,
}

/// The page, bound to its port.
pub struct Ui {
    listener: TcpListener,
    app: Arc<App>,
}

impl Ui {
    /// Takes a port of 127.0.0.1; 0 takes a free one.
    ///
    /// # Errors
    /// Where the port cannot be had.
    pub async fn bind(
        port: u16,
        guard: Guard,
        live: Arc<Live>,
        cancel: CancellationToken,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let addr = listener.local_addr()?;
        let app = App {
            host: addr.to_string(),
            origin: format!("http://{addr}"),
            // Cookies are of a host, not of a port: two pages must not take each other's.
            cookie: format!("exeat-{}", addr.port()),
            sessions: Sessions::default(),
            guard,
            live,
            streams: Arc::new(Semaphore::new(STREAMS)),
            cancel,
        };
        Ok(Self {
            listener,
            app: Arc::new(app),
        })
    }

    /// What the requests share: [`App::link`] is of use elsewhere.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// Serves until it is cancelled.
    ///
    /// # Errors
    /// Those of the listener.
    pub async fn serve(self) -> std::io::Result<()> {
        let cancel = self.app.cancel.clone();
        let router = router(self.app).into_make_service_with_connect_info::<Ends>();
        let served = axum::serve(wire(self.listener), router)
            .with_graceful_shutdown(cancel.clone().cancelled_owned());
        tokio::select! {
            served = served => served,
            () = async { cancel.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
        }
    }
}

impl App {
    /// An address that opens one session. The token is behind `#`: browsers send that to nobody,
    /// and the page takes it out of the address at once.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn link(&self) -> std::io::Result<String> {
        Ok(format!("{}/#{}", self.origin, self.sessions.token()?))
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(
            "/",
            get(|| async { typed("text/html; charset=utf-8", page::page()) }),
        )
        .route(
            "/app.js",
            get(|| async { typed("text/javascript; charset=utf-8", page::SCRIPT) }),
        )
        .route(
            "/app.css",
            get(|| async { typed("text/css; charset=utf-8", page::STYLE) }),
        )
        .route(
            "/icon.svg",
            get(|| async { typed("image/svg+xml", page::ICON) }),
        )
        .route("/session", post(begin))
        .route("/live", get(live))
        .route("/answer", post(answer))
        .route("/revoke", post(revoke))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this is not done so")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), admit))
        .with_state(app)
}

fn typed(kind: &'static str, text: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, kind)], text.into()).into_response()
}

/// Why a request is not done.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, typed_json(&json!({ "error": self.1 }))).into_response()
    }
}

fn refusal(status: StatusCode, why: impl Into<String>) -> Response {
    Refusal(status, why.into()).into_response()
}

fn typed_json(value: &serde_json::Value) -> Response {
    typed("application/json", value.to_string())
}

/// Every request passes here, and every answer.
async fn admit(
    State(app): State<Arc<App>>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    request: HttpRequest,
    next: Next,
) -> Response {
    let checked = check(
        &app,
        &ends,
        request.method(),
        request.uri().path(),
        request.headers(),
    );
    let mut response = match checked {
        Err(refused) => refused.into_response(),
        Ok(()) => {
            // It walks a tree of folders.
            let (judge, ends) = (Arc::clone(&app), ends.clone());
            match tokio::task::spawn_blocking(move || judged(&judge, &ends)).await {
                Ok(Ok(())) => next.run(request).await,
                Ok(Err(why)) => refusal(StatusCode::FORBIDDEN, why),
                Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "it could not be judged"),
            }
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONNECTION, "close"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn judged(app: &App, ends: &Ends) -> Result<(), String> {
    let local = ends.local.ok_or("the connection has gone")?;
    let status = app.live.status();
    app.guard.judge(ends.peer, local, status.as_ref())
}

/// What is refused before anybody is asked who it is.
fn check(
    app: &App,
    ends: &Ends,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if !ends.peer.ip().to_canonical().is_loopback() {
        let why = "this page is for this machine alone".to_owned();
        return Err(Refusal(StatusCode::FORBIDDEN, why));
    }
    // A name of an attacker that suddenly stands for 127.0.0.1 is still that name here.
    if only(headers, header::HOST) != Some(&app.host) {
        let why = format!("this page is at http://{}/", app.host);
        return Err(Refusal(StatusCode::MISDIRECTED_REQUEST, why));
    }
    let forbid = |why: &str| Err(Refusal(StatusCode::FORBIDDEN, why.to_owned()));
    // Browsers that say where a request is from are believed; the page itself may be opened from
    // anywhere, and shows nothing by itself.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let of_page = matches!(path, "/session" | "/live" | "/answer" | "/revoke");
    if of_page && !matches!(site, None | Some(b"same-origin")) {
        return forbid("another site asked");
    }
    if *method == Method::POST {
        if only(headers, header::ORIGIN) != Some(&app.origin) {
            return forbid("another origin asked");
        }
        if only(headers, header::CONTENT_TYPE) != Some("application/json") {
            return forbid("the body is to be JSON");
        }
    }
    if of_page && path != "/session" && !in_session(app, headers) {
        let why = "no session: open the address that `exeat ui` printed";
        return Err(Refusal(StatusCode::UNAUTHORIZED, why.to_owned()));
    }
    Ok(())
}

/// The value of a header that is there exactly once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn in_session(app: &App, headers: &HeaderMap) -> bool {
    let key = headers.get(KEY).and_then(|key| key.to_str().ok());
    let cookies = headers.get_all(header::COOKIE).iter();
    let cookies = cookies.filter_map(|line| line.to_str().ok());
    let mut own = cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == app.cookie);
    // Whoever can set cookies for the host can put one before ours: two are none.
    match (own.next(), own.next(), key) {
        (Some((_, cookie)), None, Some(key)) => app.sessions.knows(cookie, key),
        _ => false,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    token: String,
}

async fn begin(State(app): State<Arc<App>>, body: Body) -> Response {
    let asked: Begin = match read(body).await {
        Ok(asked) => asked,
        Err(refused) => return refused.into_response(),
    };
    let Some(session) = app.sessions.begin(&asked.token) else {
        let why = "this address was used already, or is too old: press Enter in the terminal of \
                   `exeat ui` for another, or start it anew";
        return refusal(StatusCode::UNAUTHORIZED, why);
    };
    let cookie = format!(
        "{}={}; Path=/; HttpOnly; SameSite=Strict",
        app.cookie, session.cookie
    );
    let mut response = typed_json(&json!({ "key": session.key }));
    match HeaderValue::from_str(&cookie) {
        Ok(cookie) => response.headers_mut().insert(header::SET_COOKIE, cookie),
        Err(_) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, "no cookie can be made"),
    };
    response
}

async fn read<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = to_bytes(body, BODY).await.map_err(|_| {
        Refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too long".to_owned(),
        )
    })?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Refusal(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be read: {e}"),
        )
    })
}

async fn live(State(app): State<Arc<App>>, ConnectInfo(ends): ConnectInfo<Ends>) -> Response {
    let Ok(place) = Arc::clone(&app.streams).try_acquire_owned() else {
        let why = "too many pages are open: close one";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    ends.stays.store(true, Ordering::Relaxed);
    let events =
        follow(Arc::clone(&app.live), place).take_until(app.cancel.clone().cancelled_owned());
    let alive = KeepAlive::new().interval(Duration::from_secs(5));
    Sse::new(events).keep_alive(alive).into_response()
}

/// Where a page is in what it is told.
struct Follower {
    live: Arc<Live>,
    first: std::vec::IntoIter<News>,
    news: broadcast::Receiver<News>,
    _place: OwnedSemaphorePermit,
}

fn follow(
    live: Arc<Live>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
    let (first, news) = live.subscribe();
    let follower = Follower {
        live,
        first: first.into_iter(),
        news,
        _place: place,
    };
    stream::unfold(follower, |mut follower| async move {
        loop {
            let news = match follower.first.next() {
                Some(news) => news,
                None => match follower.news.recv().await {
                    Ok(news) => news,
                    // Everything anew is less than what it missed.
                    Err(RecvError::Lagged(_)) => {
                        let (first, news) = follower.live.subscribe();
                        (follower.first, follower.news) = (first.into_iter(), news);
                        continue;
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            let event = Event::default().event(news.event).data(&*news.data);
            return Some((Ok(event), follower));
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    question: String,
    choice: Choice,
    #[serde(default)]
    why: Option<String>,
}

async fn answer(State(app): State<Arc<App>>, body: Body) -> Response {
    let asked: Answered = match read(body).await {
        Ok(asked) => asked,
        Err(refused) => return refused.into_response(),
    };
    let request = Request::Answer {
        question: asked.question,
        choice: asked.choice,
        via: "web".to_owned(),
        why: asked.why.filter(|why| !why.is_empty()),
    };
    pass_on(&app, request).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoked {
    grant: String,
}

async fn revoke(State(app): State<Arc<App>>, body: Body) -> Response {
    let asked: Revoked = match read(body).await {
        Ok(asked) => asked,
        Err(refused) => return refused.into_response(),
    };
    let request = Request::Revoke {
        grant: Some(asked.grant),
        agent: None,
    };
    pass_on(&app, request).await
}

/// Asks the daemon, as this user, and tells what it said.
async fn pass_on(app: &Arc<App>, request: Request) -> Response {
    let live = Arc::clone(&app.live);
    let asked = tokio::task::spawn_blocking(move || {
        Client::connect(live.socket()).and_then(|mut client| client.ask(&request))
    });
    let answer = asked.await;
    app.live.wake();
    match answer {
        Ok(Ok(answer @ (Answer::Granted(_) | Answer::Revoked(_)))) => {
            typed_json(&serde_json::to_value(&answer).unwrap_or_default())
        }
        Ok(Ok(_)) => refusal(
            StatusCode::BAD_GATEWAY,
            "the daemon answered something else",
        ),
        Ok(Err(ClientError::Refused(problem))) => {
            let status = match problem.code {
                Code::NoQuestion | Code::NoGrant => StatusCode::GONE,
                Code::NotPermitted | Code::Forbidden | Code::Governed => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_GATEWAY,
            };
            refusal(status, problem.to_string())
        }
        Ok(Err(error)) => refusal(StatusCode::BAD_GATEWAY, error.to_string()),
        Err(_) => refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the daemon could not be asked",
        ),
    }
}

impl std::fmt::Debug for Ui {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = &self.app.host;
        f.debug_struct("Ui")
            .field("host", host)
            .finish_non_exhaustive()
    }
}
