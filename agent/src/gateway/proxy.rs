//! Leaving through a proxy of the enterprise.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::on;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::dial::connect;
use super::flow::{Io, Upstream};
use super::name::{Host, Target};
use super::session::{Ended, Session};
use super::{Backend, Outcome, auth};

/// The most bytes of a credentials file.
const MAX_CREDENTIALS: usize = 1024;

/// The most bytes of a proxy's answer to CONNECT.
const MAX_ANSWER: usize = 16 * 1024;

/// An enterprise proxy as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxyConfig {
    /// `http://host:port` or `https://host:port`, and nothing else: no user, no path.
    pub url: String,
    /// The authorities (PEM) that the proxy's certificate must come from; without it those
    /// of the system.
    pub ca: Option<PathBuf>,
    /// The client certificate, with its chain, and its key (PEM). The key's file must be
    /// readable by its owner alone.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A file with `user:password`, readable by its owner alone. It is read for each
    /// connection, so that a new password counts at once.
    pub credentials: Option<PathBuf>,
}

/// A proxy that can be used: its URL was read, its certificates were loaded.
#[derive(Clone)]
pub struct Proxy {
    config: ProxyConfig,
    host: Host,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    label: Arc<str>,
}

/// Why a proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The URL is not one of a proxy.
    #[error("`{url}` is no proxy: {why}")]
    Url {
        /// As written.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file cannot be used.
    #[error("{} cannot be used: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system has no authorities.
    #[error("no certificate authority of the system can be read; name a file: {0}")]
    NoRoots(String),
    /// The certificate and the key do not go together.
    #[error("the client certificate cannot be used: {0}")]
    Identity(String),
    /// A setting of TLS alone would be without effect.
    #[error("`{0}` is asked in clear, where certificates have no meaning: write https://")]
    Clear(String),
}

/// By what is written: the same files may hold something else by now.
impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config
    }
}

impl Eq for Proxy {}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// Reads the URL and the files. They are read again only for another `Proxy`, but for
    /// the credentials.
    ///
    /// # Errors
    /// When any of it cannot be used.
    pub fn new(config: ProxyConfig) -> Result<Self, ProxyError> {
        let (secure, host, port) = parsed(&config.url)?;
        if !secure && (config.ca.is_some() || config.identity.is_some()) {
            return Err(ProxyError::Clear(config.url));
        }
        let tls = match secure {
            true => Some((Arc::new(client(&config)?), server_name(&host, &config.url)?)),
            false => None,
        };
        if let Some(path) = &config.credentials {
            credentials(path)?;
        }
        let label = match &host {
            Host::Name(name) => format!("{name}:{port}"),
            Host::Addr(addr) => std::net::SocketAddr::new(*addr, port).to_string(),
        };
        Ok(Self {
            label: label.into(),
            config,
            host,
            port,
            tls,
        })
    }

    /// As it is written.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Turns a request for a server into one for the proxy.
    pub(super) async fn address(&self, parts: &mut Parts, to: &Target) -> Result<(), Ended> {
        if parts.uri.path() == "*" {
            return Err(Ended::new(Outcome::BadRequest).because("`*` cannot be asked of a proxy"));
        }
        let odd = |_| Ended::new(Outcome::Broken).because("no URL for the proxy");
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority(to).try_into().map_err(odd)?);
        parts.uri = Uri::from_parts(uri)
            .map_err(|_| Ended::new(Outcome::Broken).because("no URL for the proxy"))?;
        if let Some(value) = self.authorization().await? {
            parts.headers.insert(PROXY_AUTHORIZATION, value);
        }
        Ok(())
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, Ended> {
        let Some(path) = self.config.credentials.clone() else {
            return Ok(None);
        };
        let failed = || Ended::new(Outcome::ProxyFailed);
        let read = spawn_blocking(move || credentials(&path)).await;
        let pair = read
            .map_err(|error| failed().because(error))?
            .map_err(|error| failed().because(error))?;
        let mut value = HeaderValue::try_from(auth::header(&pair))
            .map_err(|_| failed().because("its credentials fit no header"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn authority(to: &Target) -> String {
    match to {
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Addr(to) => to.to_string(),
    }
}

/// Whether it is asked by TLS, its host and its port.
fn parsed(url: &str) -> Result<(bool, Host, u16), ProxyError> {
    let wrong = |why| ProxyError::Url {
        // It may hold a password where none should be.
        url: url.rsplit('@').next().unwrap_or_default().to_owned(),
        why,
    };
    let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("it begins with neither http:// nor https://")),
    };
    let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("user and password belong in a file"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("it has a path"));
    }
    let port = authority.port_u16().filter(|port| *port != 0);
    let port = port.ok_or_else(|| wrong("it has no port"))?;
    let host = Host::read(authority.host()).ok_or_else(|| wrong("its host is no name"))?;
    Ok((secure, host, port))
}

fn server_name(host: &Host, url: &str) -> Result<ServerName<'static>, ProxyError> {
    match host {
        Host::Addr(addr) => Ok(ServerName::IpAddress((*addr).into())),
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| ProxyError::Url {
            url: url.to_owned(),
            why: "no certificate can have its host",
        }),
    }
}

fn client(config: &ProxyConfig) -> Result<ClientConfig, ProxyError> {
    let roots = match &config.ca {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let identity = |error: rustls::Error| ProxyError::Identity(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(identity)?
        .with_root_certificates(roots);
    let mut client = match &config.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain)?;
            let pem = private(key)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| ProxyError::File {
                path: key.clone(),
                why: error.to_string(),
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(identity)?
        }
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ProxyError> {
    let error = |why: String| ProxyError::File {
        path: path.to_owned(),
        why,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| error(e.to_string()))?;
    match found.is_empty() {
        true => Err(error("it holds no certificate".to_owned())),
        false => Ok(found),
    }
}

pub(super) fn from_file(path: &Path) -> Result<RootCertStore, ProxyError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| ProxyError::File {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
    }
    Ok(roots)
}

pub(super) fn from_system() -> Result<RootCertStore, ProxyError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Distributions carry a few certificates that webpki does not read.
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(ProxyError::NoRoots(found.errors.first().map_or_else(
            || "none is installed".to_owned(),
            ToString::to_string,
        ))),
        false => Ok(roots),
    }
}

fn private(path: &Path) -> Result<Vec<u8>, ProxyError> {
    crate::private::read(path).map_err(|why| ProxyError::File {
        path: path.to_owned(),
        why: why.to_string(),
    })
}

/// `user:password`, without the end of its line.
fn credentials(path: &Path) -> Result<Vec<u8>, ProxyError> {
    let error = |why: &str| ProxyError::File {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let mut pair = private(path)?;
    while pair.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        pair.pop();
    }
    if pair.len() > MAX_CREDENTIALS || pair.iter().any(u8::is_ascii_control) {
        return Err(error("it is not one line of user:password"));
    }
    match pair.contains(&b':') {
        true => Ok(pair),
        false => Err(error("it is not user:password")),
    }
}

/// The proxy said no.
pub(super) fn refused(status: StatusCode) -> Ended {
    let mut ended = Ended::new(Outcome::ProxyRefused).because(format!("it answers {status}"));
    ended.proxy_status = Some(status.as_u16());
    ended
}

impl<B: Backend> Session<B> {
    /// A connection to the proxy itself, for requests in clear.
    pub(super) async fn at_proxy(&self, proxy: &Proxy) -> Result<Upstream, Ended> {
        let limit = self.gateway.config.connect;
        match timeout(limit, self.reach(proxy)).await {
            Ok(reached) => Ok(Upstream::boxed(reached?, &self.flow)),
            Err(_) => Err(Ended::new(Outcome::ConnectTimeout)),
        }
    }

    /// A tunnel through the proxy.
    pub(super) async fn tunnel(&self, proxy: &Proxy, to: &Target) -> Result<Upstream, Ended> {
        let failed = |error: &dyn fmt::Display| Ended::new(Outcome::ProxyFailed).because(error);
        let io = self.reach(proxy).await?;
        let to = authority(to);
        let mut request = Request::connect(&to)
            .header(HOST, &to)
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        if let Some(value) = proxy.authorization().await? {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
        let (mut send, connection) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| failed(&error))?;
        let talk = async {
            let response = send.send_request(request).await.map_err(|e| failed(&e))?;
            match response.status() {
                status if status.is_success() => on(response).await.map_err(|e| failed(&e)),
                status => Err(refused(status)),
            }
        };
        // The connection does the work; it ends when the tunnel begins.
        let connection = async {
            let _ = connection.with_upgrades().await;
            std::future::pending().await
        };
        let upgraded = tokio::select! {
            talked = talk => talked?,
            never = connection => never,
        };
        Ok(Upstream::new(TokioIo::new(upgraded), &self.flow))
    }

    async fn reach(&self, proxy: &Proxy) -> Result<Box<dyn Io>, Ended> {
        let failed = |why: &dyn fmt::Display| {
            Ended::new(Outcome::ProxyFailed).because(format!("{}: {why}", proxy.label))
        };
        self.note(|record| record.proxy = Some(Arc::clone(&proxy.label)));
        let addresses = match &proxy.host {
            Host::Addr(addr) => vec![*addr],
            Host::Name(name) => self
                .backend()
                .resolve_proxy(name)
                .await
                .map_err(|kind| failed(&kind.as_str()))?,
        };
        let (socket, addr) = connect(addresses, proxy.port, &self.flow)
            .await
            .map_err(|ended| failed(&ended.detail.unwrap_or_default()))?;
        self.note(|record| record.connected = Some(addr));
        let Some((config, name)) = &proxy.tls else {
            return Ok(Box::new(socket));
        };
        let tls = TlsConnector::from(Arc::clone(config))
            .connect(name.clone(), socket)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Box::new(tls))
    }
}
