//! One inspected connection, from the ClientHello on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ServerConfig};
use tokio::time::timeout;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::flow::{Socket, Upstream};
use super::super::hello::Hello;
use super::super::http::{MAX_HEAD, MAX_HEADERS};
use super::super::name::Target;
use super::super::session::{Ended, Session};
use super::super::tls::farewell;
use super::super::{Backend, Grant, Outcome};
use super::exchange::{Exchange, Gone, Server};
use super::judge::Judge;
use super::tasks::{Spawner, Tasks, tasks};
use crate::leases::Name;
use crate::policy::Inspect;

const H1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";

/// The most streams of a connection at once.
pub(super) const MAX_STREAMS: u32 = 64;

/// Bytes that may be under way on one stream, and on the connection: a download over 50
/// milliseconds comes with 10 MB/s.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 512 * 1024;

/// Bytes of a stream that wait to be written: two frames.
pub(super) const SEND_BUFFER: usize = 32 * 1024;

/// Drives the program's side until its end, with what belongs to it. When the server is gone
/// the program is told so, and ends what it has begun.
macro_rules! driven {
    ($served:expr, $gone:expr, $tasks:expr) => {{
        let mut served = std::pin::pin!($served);
        let mut ending = false;
        loop {
            tokio::select! {
                done = &mut served => break done,
                () = $gone.cancelled(), if !ending => {
                    ending = true;
                    served.as_mut().graceful_shutdown();
                }
                never = $tasks.run() => match never {},
            }
        }
    }};
}

/// One certificate, whatever is asked for: the name was judged.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Notes the number of requests in the connection's record, however it ends.
struct Counted<'a, B: Backend> {
    session: &'a Session<B>,
    requests: Arc<AtomicU64>,
}

impl<B: Backend> Drop for Counted<'_, B> {
    fn drop(&mut self) {
        let requests = self.requests.load(Relaxed);
        self.session.note(|record| record.requests = requests);
    }
}

impl<B: Backend> Session<B> {
    /// Ends the program's TLS here and looks into it. `socket` goes on behind the ClientHello
    /// that was read.
    pub(in crate::gateway) async fn inspected(
        &self,
        mut socket: Socket,
        hello: Hello,
        (name, port): (Name, u16),
        grant: Grant,
        inspect: Arc<Inspect>,
    ) -> Result<(), Ended> {
        let prepared = self.prepare(&hello, &name, port, &grant, &inspect).await;
        let (judge, server, config) = match prepared {
            Ok(prepared) => prepared,
            Err(ended) => {
                if ended.outcome.is_refusal() {
                    let alert = hello.refusal(&self.gateway.refusing);
                    farewell(&mut socket, &alert).await;
                }
                return Err(ended);
            }
        };
        let accepting = StartHandshake::from_parts(hello.accepted(), socket).into_stream(config);
        let client = timeout(self.gateway.config.handshake, accepting)
            .await
            .map_err(|_| Ended::new(Outcome::HandshakeTimeout))?
            .map_err(|error| untrusted(&error))?;
        let h2 = server.get_ref().1.alpn_protocol() == Some(H2);
        let (spawner, mut tasks) = tasks();
        let gone = CancellationToken::new();
        let server = Server::open(server, h2, &spawner, &gone).await?;
        let mut like = self.noted();
        like.alpn.clear();
        let counted = Counted {
            session: self,
            requests: Arc::default(),
        };
        let exchange = Arc::new(Exchange {
            records: self.gateway.records.clone(),
            stats: Arc::clone(&self.gateway.stats),
            like: Arc::new(like),
            name,
            port,
            rule: grant.rule,
            judge,
            server,
            requests: Arc::clone(&counted.requests),
            gone: gone.clone(),
            spawner: spawner.clone(),
        });
        match h2 {
            true => self.h2(client, exchange, &spawner, &mut tasks, &gone).await,
            false => self.h1(client, exchange, &mut tasks, &gone).await,
        }
    }

    /// All that can be had before the program is answered.
    async fn prepare(
        &self,
        hello: &Hello,
        name: &Name,
        port: u16,
        grant: &Grant,
        inspect: &Arc<Inspect>,
    ) -> Result<
        (
            Judge,
            tokio_rustls::client::TlsStream<Upstream>,
            Arc<ServerConfig>,
        ),
        Ended,
    > {
        let unable = |why: &str| Ended::new(Outcome::NotInspectable).because(why);
        let Some(authority) = self.backend().authority() else {
            return Err(unable(
                "its rule says inspect, and there is no authority for it",
            ));
        };
        let judge = Judge::new(Arc::clone(inspect))?;
        // Programs that offer nothing speak HTTP/1 to be inspected, or fail.
        let mut alpn = hello.alpn.clone();
        alpn.retain(|it| it == H1 || it == H2);
        if alpn.is_empty() && !hello.alpn.is_empty() {
            return Err(unable("it offers other protocols than HTTP"));
        }
        let broken = |error: &dyn std::fmt::Display| Ended::new(Outcome::Broken).because(error);
        let leaf = authority.leaf(name).map_err(|error| broken(&error))?;
        let to = Target::Name(name.clone(), port);
        let server = self.verified(&to, grant, inspect, alpn).await?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| broken(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(One(leaf)));
        let chosen = server.get_ref().1.alpn_protocol();
        config.alpn_protocols = chosen.map(<[u8]>::to_vec).into_iter().collect();
        // Each connection is judged anew, and nothing of one is kept for another.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((judge, server, Arc::new(config)))
    }

    async fn h1(
        &self,
        client: TlsStream<Socket>,
        exchange: Arc<Exchange>,
        tasks: &mut Tasks,
        gone: &CancellationToken,
    ) -> Result<(), Ended> {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            // It runs between two requests, too.
            .header_read_timeout(self.gateway.config.first_byte)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .preserve_header_case(true)
            .auto_date_header(false);
        let seen = exchange.seen();
        let answer = move |request| {
            let exchange = Arc::clone(&exchange);
            async move { exchange.answer(request).await }
        };
        let served = http.serve_connection(TokioIo::new(client), service_fn(answer));
        let served = driven!(served, gone, tasks);
        served.or_else(|error| ended(&error, seen.asked(), seen.idle()))
    }

    async fn h2(
        &self,
        client: TlsStream<Socket>,
        exchange: Arc<Exchange>,
        spawner: &Spawner,
        tasks: &mut Tasks,
        gone: &CancellationToken,
    ) -> Result<(), Ended> {
        let mut http = http2::Builder::new(spawner.clone());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .auto_date_header(false);
        let seen = exchange.seen();
        let answer = move |request| {
            let exchange = Arc::clone(&exchange);
            async move { exchange.answer(request).await }
        };
        let served = http.serve_connection(TokioIo::new(client), service_fn(answer));
        let served = driven!(served, gone, tasks);
        served.or_else(|error| ended(&error, seen.asked(), seen.idle()))
    }
}

/// How the program's side ended, where it did not end well.
fn ended(error: &hyper::Error, asked: bool, idle: bool) -> Result<(), Ended> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        // The program was told so: it is no error of its own.
        if inner.is::<Gone>() {
            return Ok(());
        }
        let io = match inner.downcast_ref::<h2::Error>() {
            Some(error) => error.get_io(),
            None => inner.downcast_ref::<io::Error>(),
        };
        // Many programs leave without TLS's last word, or TCP's.
        if io.is_some() && idle {
            return Ok(());
        }
        source = inner.source();
    }
    let outcome = match error {
        _ if error.is_timeout() && asked => Outcome::IdleTimeout,
        _ if error.is_timeout() => Outcome::HandshakeTimeout,
        _ if error.is_parse() => Outcome::BadRequest,
        _ => Outcome::Reset,
    };
    Err(Ended::new(outcome).because(error))
}

/// Why the program did not take the certificate.
fn untrusted(error: &io::Error) -> Ended {
    use AlertDescription as Alert;
    let ended = |outcome| Ended::new(outcome);
    match error.get_ref().and_then(|it| it.downcast_ref()) {
        Some(rustls::Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::AccessDenied),
        )) => ended(Outcome::InspectionRefused).because(format!(
            "it does not take this machine's authority ({alert:?}): have it trust \
             inspection-ca.pem, or take `inspect` from its rule"
        )),
        Some(error) => ended(Outcome::Malformed).because(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => ended(Outcome::InspectionRefused)
            .because("it left without a word when it saw the certificate"),
        None => ended(Outcome::Reset).because(error),
    }
}
