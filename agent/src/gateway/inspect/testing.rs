//! Sites that are asked, programs that ask, and a gateway between them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use ::http::{HeaderMap, Method, Request, Response, Uri, Version};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::super::testing::{Pki, Rig, grant, server_name, within};
use super::super::*;
use crate::policy::{DataPattern, Inspect, RequestRule};

pub(super) const BOTH: [&str; 2] = ["http/1.1", "h2"];

/// An `inspect` that has nothing against anything.
pub(super) fn lax() -> Inspect {
    Inspect {
        requests: Vec::new(),
        strip: BTreeSet::new(),
        max_body: None,
        patterns: Vec::new(),
        pins: BTreeSet::new(),
    }
}

pub(super) fn requests(methods: &[&str], path: &str) -> Vec<RequestRule> {
    vec![RequestRule {
        methods: methods.iter().map(ToString::to_string).collect(),
        path: Some(path.to_owned()),
    }]
}

pub(super) fn pattern(name: &str, regex: &str, report_only: bool) -> DataPattern {
    DataPattern {
        name: name.to_owned(),
        regex: regex::bytes::Regex::new(regex).expect("regex"),
        report_only,
    }
}

/// What a site got of one request.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(super) whole: bool,
    pub(super) trailers: bool,
}

/// A site over TLS. It answers each request with `ok`, and to `/echo` sends back each piece of
/// the body as it comes.
pub(super) async fn site(config: ServerConfig) -> (u16, mpsc::UnboundedReceiver<Got>) {
    site_until(config, CancellationToken::new()).await
}

/// One that ends its connections as servers do, once it is told to.
pub(super) async fn site_until(
    config: ServerConfig,
    stop: CancellationToken,
) -> (u16, mpsc::UnboundedReceiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("addr").port();
    let (tell, got) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tell, stop) = (acceptor.clone(), tell.clone(), stop.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let io = TokioIo::new(stream);
                let service = service_fn(move |request| answered(request, tell.clone()));
                macro_rules! served {
                    ($http:expr) => {{
                        let mut served = std::pin::pin!($http.serve_connection(io, service));
                        // Gateways break off, too.
                        tokio::select! {
                            _ = &mut served => {}
                            () = stop.cancelled() => {
                                served.as_mut().graceful_shutdown();
                                let _ = served.await;
                            }
                        }
                    }};
                }
                match h2 {
                    true => served!(hyper::server::conn::http2::Builder::new(
                        TokioExecutor::new()
                    )),
                    false => served!(hyper::server::conn::http1::Builder::new()),
                }
            });
        }
    });
    (port, got)
}

pub(super) type AnyBody = BoxBody<Bytes, hyper::Error>;

fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// No body.
pub(super) fn none() -> AnyBody {
    full("")
}

async fn answered(
    request: Request<Incoming>,
    tell: mpsc::UnboundedSender<Got>,
) -> Result<Response<AnyBody>, hyper::Error> {
    let (parts, mut body) = request.into_parts();
    if parts.uri.path() == "/echo" {
        return Ok(Response::new(body.boxed()));
    }
    let mut got = Got {
        method: parts.method,
        uri: parts.uri,
        version: parts.version,
        headers: parts.headers,
        body: Vec::new(),
        whole: true,
        trailers: false,
    };
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) if frame.is_data() => {
                got.body
                    .extend_from_slice(&frame.into_data().expect("data"));
            }
            Ok(_) => got.trailers = true,
            Err(_) => {
                got.whole = false;
                break;
            }
        }
    }
    let mut response = Response::new(full("ok"));
    if got.uri.path() == "/last" {
        let close = ::http::HeaderValue::from_static("close");
        response.headers_mut().insert("connection", close);
    }
    if got.method == Method::HEAD {
        *response.body_mut() = none();
        let length = ::http::HeaderValue::from_static("2");
        response.headers_mut().insert("content-length", length);
    }
    let _ = tell.send(got);
    Ok(response)
}

/// A gateway that inspects, with an authority of its own.
pub(super) struct Place {
    pub(super) rig: Rig,
    pub(super) authority: Arc<Authority>,
    _folder: TempDir,
}

impl Place {
    /// `a.example` is inspected; `sites` is who servers' certificates may come from.
    pub(super) fn new(sites: &Pki, inspect: Inspect) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let roots: PathBuf = folder.path().join("roots.pem");
        std::fs::write(&roots, &sites.authority_pem).expect("write");
        let authority = Arc::new(Authority::open(folder.path()).expect("authority"));
        let rig = Rig::with(GatewayConfig {
            roots: Some(roots),
            ..GatewayConfig::default()
        });
        *rig.backend.authority.lock().expect("lock") = Some(Arc::clone(&authority));
        rig.backend
            .allow_as("a.example", Kind::Tls, inspecting(inspect));
        Self {
            rig,
            authority,
            _folder: folder,
        }
    }

    /// TLS to `a.example` as a program does it that trusts the authority.
    pub(super) async fn tls(
        &self,
        port: u16,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.rig.steer(port).await;
        self.tls_over(stream, alpn).await
    }

    pub(super) async fn tls_over(
        &self,
        stream: TcpStream,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let root = CertificateDer::from_pem_slice(self.authority.certificate_pem().as_bytes());
        let connector = trusting(root.expect("certificate"), alpn);
        within(connector.connect(server_name("a.example"), stream)).await
    }

    pub(super) async fn program(&self, port: u16, alpn: &[&str]) -> Program {
        Program::new(self.tls(port, alpn).await.expect("handshake")).await
    }

    /// The record of a request that passed, and that of its connection are both flows.
    pub(super) async fn request(&mut self) -> (GatewayRecord, RequestRecord) {
        let record = self.rig.flow().await;
        let request = record.request.clone().expect("of a request");
        (record, request)
    }

    pub(super) async fn refusal(&mut self) -> (GatewayRecord, RequestRecord) {
        let record = self.rig.refusal().await;
        let request = record.request.clone().expect("of a request");
        (record, request)
    }
}

pub(super) fn inspecting(inspect: Inspect) -> Grant {
    Grant {
        inspect: Some(Arc::new(inspect)),
        ..grant(Route::Direct)
    }
}

/// Who trusts one authority alone.
pub(super) fn trusting(root: CertificateDer<'static>, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12, &TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A program with one connection, in the protocol that it was given.
pub(super) struct Program {
    asker: Asker,
    ended: JoinHandle<hyper::Result<()>>,
}

enum Asker {
    H1(http1::SendRequest<AnyBody>),
    H2(http2::SendRequest<AnyBody>),
}

impl Program {
    pub(super) async fn new(stream: TlsStream<TcpStream>) -> Self {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let (asker, ended) = match h2 {
            true => {
                let (send, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .expect("handshake");
                (Asker::H2(send), tokio::spawn(connection))
            }
            false => {
                let (send, connection) = http1::handshake(io).await.expect("handshake");
                (Asker::H1(send), tokio::spawn(connection))
            }
        };
        Self { asker, ended }
    }

    /// Waits until its connection ends in peace.
    pub(super) async fn ended(self) {
        let ended = within(self.ended).await.expect("joins");
        ended.expect("without an error");
    }

    pub(super) async fn send(
        &mut self,
        request: Request<AnyBody>,
    ) -> hyper::Result<Response<Incoming>> {
        within(async {
            match &mut self.asker {
                Asker::H1(send) => {
                    send.ready().await?;
                    send.send_request(request).await
                }
                Asker::H2(send) => {
                    send.ready().await?;
                    send.send_request(request).await
                }
            }
        })
        .await
    }

    /// A request for `https://a.example` and what came back: status and body.
    pub(super) async fn ask(&mut self, request: Request<AnyBody>) -> (u16, String) {
        let response = self.send(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = within(response.into_body().collect()).await.expect("all");
        let body = body.to_bytes().to_vec();
        (status, String::from_utf8(body).expect("text"))
    }

    /// A request to a path, as this protocol has it.
    pub(super) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Request<()> {
        let mut request = Request::builder().method(method);
        request = match self.asker {
            Asker::H1(_) => request.uri(path).header("host", "a.example"),
            Asker::H2(_) => request.uri(format!("https://a.example{path}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request")
    }

    pub(super) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let request = self.request("GET", path, headers);
        self.ask(request.map(|()| none())).await
    }

    /// A body whole, with its length.
    pub(super) async fn post(&mut self, path: &str, body: &str) -> (u16, String) {
        let request = self.request("POST", path, &[]);
        self.ask(request.map(|()| full(body.to_owned()))).await
    }

    /// A body in pieces, without a length, which come as they are sent.
    pub(super) fn pieces(
        &self,
        path: &str,
    ) -> (mpsc::UnboundedSender<Frame<Bytes>>, Request<AnyBody>) {
        let (send, mut sent) = mpsc::unbounded_channel();
        let stream =
            futures_util::stream::poll_fn(move |cx| sent.poll_recv(cx).map(|it| it.map(Ok)));
        let body = BodyExt::boxed(StreamBody::new(stream));
        (send, self.request("POST", path, &[]).map(|()| body))
    }
}
