//! Plain and TLS hosts that answer every request with their own address.

use crate::ns::Ns;
use crate::service::Service;
use crate::sink::{accept_each, listen};
use crate::wait;
use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A certificate authority made for one test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("generate the authority's key")?;
        let mut params = CertificateParams::default();
        // Distinct from the hosts' name: a certificate whose issuer is called as itself
        // passes for self-signed.
        params
            .distinguished_name
            .push(DnType::CommonName, "the test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let pem = params
            .self_signed(&key)
            .context("sign the authority")?
            .pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Writes the certificate as PEM, for `curl --cacert`.
    ///
    /// # Errors
    /// Those of the write.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("{}.pem", crate::unique::name("ca")));
        std::fs::write(&path, &self.pem).context("write the authority's certificate")?;
        crate::world::open_to_all(&path)?;
        Ok(path)
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `names` and its key as PEM, for programs that read them from files.
    ///
    /// # Errors
    /// When no key or no certificate can be made.
    pub fn pair(&self, names: &[&str]) -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate().context("generate a key")?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Settings of a server with a certificate for `names`.
    ///
    /// # Errors
    /// When no key or no certificate can be made.
    pub fn server(&self, names: &[&str]) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let key = KeyPair::generate().context("generate a host's key")?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Arc::new(config))
    }
}

/// A request that reached a host.
#[derive(Clone, Debug)]
pub struct Request {
    /// When its head was whole.
    pub at: Instant,
    /// Who asked.
    pub from: SocketAddr,
    /// Server name of the TLS hello, if there was one.
    pub server_name: Option<String>,
    /// Head of the request: request line and header lines.
    pub head: String,
}

/// Answers `200` to every request, then closes.
pub struct HttpHost {
    requests: Arc<Mutex<Vec<Request>>>,
    address: SocketAddr,
    _service: Service,
}

impl HttpHost {
    /// Without TLS.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn plain(ns: &Ns, address: SocketAddr) -> anyhow::Result<Self> {
        Self::start(ns, address, None)
    }

    /// With TLS, and a certificate of `authority` for `names`.
    ///
    /// # Errors
    /// When the address is taken or the certificate cannot be made.
    pub fn tls(
        ns: &Ns,
        address: SocketAddr,
        authority: &Authority,
        names: &[&str],
    ) -> anyhow::Result<Self> {
        Self::start(ns, address, Some(authority.server(names)?))
    }

    fn start(
        ns: &Ns,
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> anyhow::Result<Self> {
        let listener = listen(ns, address)?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let theirs = requests.clone();
        let service = Service::spawn("http", move |stop| {
            accept_each(&stop, &listener, |stream, from, _| {
                let (requests, tls) = (theirs.clone(), tls.clone());
                std::thread::spawn(move || {
                    // A client that goes away in the middle is no fault of the host.
                    let _ = serve(stream, from, tls, &requests);
                });
            });
        })?;
        Ok(Self {
            requests,
            address,
            _service: service,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("http lock").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    from: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    requests: &Mutex<Vec<Request>>,
) -> anyhow::Result<()> {
    // Bounds the life of a thread whose client keeps silent.
    stream.set_read_timeout(Some(wait::scaled(Duration::from_secs(10))))?;
    let Some(config) = tls else {
        let head = read_head(&mut stream)?;
        record(requests, from, None, head);
        return answer(&mut stream);
    };
    let mut connection = rustls::ServerConnection::new(config)?;
    let head = read_head(&mut rustls::Stream::new(&mut connection, &mut stream))?;
    let server_name = connection.server_name().map(str::to_owned);
    record(requests, from, server_name, head);
    answer(&mut rustls::Stream::new(&mut connection, &mut stream))?;
    connection.send_close_notify();
    connection.write_tls(&mut stream)?;
    // A close with the client's last words unread is a reset, which takes the answer with it.
    stream.shutdown(Shutdown::Write)?;
    std::io::copy(&mut stream, &mut std::io::sink())?;
    Ok(())
}

/// Before the answer is sent: who has the answer may look for the request.
fn record(
    requests: &Mutex<Vec<Request>>,
    from: SocketAddr,
    server_name: Option<String>,
    head: String,
) {
    let request = Request {
        at: Instant::now(),
        from,
        server_name,
        head,
    };
    requests.lock().expect("http lock").push(request);
}

fn read_head(stream: &mut impl Read) -> anyhow::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16384 {
        if stream.read(&mut byte)? == 0 {
            anyhow::bail!("the client closed before the end of its request");
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn answer(stream: &mut impl Write) -> anyhow::Result<()> {
    let body = "reached\n";
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.flush()?;
    Ok(())
}
