//! A program that makes TLS connections: `bench shake`, started inside or outside of an agent.

use super::server::{ANSWER, REQUEST, Wish};
use crate::remote::{self, Remote};
use anyhow::{Context, bail, ensure};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls::{StreamOwned, crypto::ring::default_provider};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
/// Protocols that a long hello offers, and how long the name of each is. The host knows none,
/// and speaks none. With post-quantum keys a hello is as long.
pub(super) const LONG: (usize, usize) = (8, 200);

/// Where to and how: what a client is told first.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Way {
    pub(super) host: String,
    pub(super) port: u16,
    /// The authority of the host's certificate, PEM.
    pub(super) authority: String,
    /// A proxy to ask with CONNECT, which looks the name up itself.
    pub(super) proxy: Option<SocketAddr>,
}

/// What to do.
#[derive(Serialize, Deserialize)]
pub(super) enum Order {
    /// So many connections, one after the other, each with a request and an answer; with a
    /// [long](LONG) hello or without.
    Connect { count: u32, long: bool },
    /// As many as go, some always under way, for a time.
    Flood { under_way: usize, milliseconds: u64 },
    /// One connection for echoes, whose handshake is over when this is done.
    Open,
    /// So many pieces there and back, one after the other, on that connection.
    Echo { count: u32 },
    /// Its end.
    Close,
    /// One connection that takes so many bytes; its handshake is outside the clock.
    Upload { bytes: u64 },
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub(super) enum Done {
    /// Nothing to tell.
    Ready,
    /// Nanoseconds of each.
    Each(Vec<u64>),
    /// Connections, and in how many seconds.
    Flooded { connections: u64, seconds: f64 },
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// `bench shake`.
pub(crate) fn main() -> anyhow::Result<ExitCode> {
    let way = remote::orders().next().context("no orders")??;
    let dialer = Dialer::new(way)?;
    remote::answer(&Done::Ready)?;
    let mut open = None;
    for order in remote::orders() {
        let done = match order? {
            Order::Connect { count, long } => {
                let config = match long {
                    true => &dialer.long,
                    false => &dialer.config,
                };
                let each = (0..count).map(|_| dialer.ask(config));
                Done::Each(each.collect::<anyhow::Result<_>>()?)
            }
            Order::Flood {
                under_way,
                milliseconds,
            } => dialer.flood(under_way, Duration::from_millis(milliseconds))?,
            Order::Open => {
                let mut tls = dialer.open()?;
                tls.write_all(&Wish::Echo.bytes())?;
                echo(&mut tls)?;
                open = Some(tls);
                Done::Ready
            }
            Order::Echo { count } => {
                let tls = open.as_mut().context("no connection for echoes")?;
                let each = (0..count).map(|_| echo(tls));
                Done::Each(each.collect::<anyhow::Result<_>>()?)
            }
            Order::Close => {
                open = None;
                Done::Ready
            }
            Order::Upload { bytes } => Done::Each(vec![dialer.upload(bytes)?]),
        };
        remote::answer(&done)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A piece there and back; its nanoseconds.
fn echo(tls: &mut Tls) -> anyhow::Result<u64> {
    let mut piece = [7; REQUEST];
    let begun = Instant::now();
    tls.write_all(&piece).context("an echo's way there")?;
    tls.read_exact(&mut piece).context("an echo's way back")?;
    Ok(nanos(begun))
}

fn nanos(begun: Instant) -> u64 {
    begun.elapsed().as_nanos() as u64
}

struct Dialer {
    /// The first hop.
    to: SocketAddr,
    connect: Option<String>,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    long: Arc<ClientConfig>,
}

impl Dialer {
    fn new(way: Way) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(way.authority.as_bytes())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let mut long = config.clone();
        let (count, length) = LONG;
        long.alpn_protocols = (0..count).map(|n| vec![b'a' + n as u8; length]).collect();
        let host = format!("{}:{}", way.host, way.port);
        let to = match way.proxy {
            Some(proxy) => proxy,
            None => host
                .to_socket_addrs()
                .with_context(|| format!("look {host} up"))?
                .find(SocketAddr::is_ipv4)
                .context("no IPv4 address")?,
        };
        let connect = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        Ok(Self {
            to,
            connect: way.proxy.map(|_| connect),
            name: ServerName::try_from(way.host)?,
            config: Arc::new(config),
            long: Arc::new(long),
        })
    }

    /// A connection; the first write shakes hands.
    fn open(&self) -> anyhow::Result<Tls> {
        self.open_with(&self.config)
    }

    fn open_with(&self, config: &Arc<ClientConfig>) -> anyhow::Result<Tls> {
        let mut stream =
            TcpStream::connect(self.to).with_context(|| format!("connect to {}", self.to))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if let Some(connect) = &self.connect {
            stream.write_all(connect.as_bytes())?;
            read_answer(&mut stream).context("CONNECT")?;
        }
        let connection = ClientConnection::new(config.clone(), self.name.clone())?;
        Ok(StreamOwned::new(connection, stream))
    }

    /// Connects, asks, reads to the end and closes; the nanoseconds of it all.
    fn ask(&self, config: &Arc<ClientConfig>) -> anyhow::Result<u64> {
        let begun = Instant::now();
        let mut tls = self.open_with(config)?;
        tls.write_all(&Wish::Answer.bytes()).context("a request")?;
        let mut answer = [0; ANSWER];
        tls.read_exact(&mut answer).context("an answer")?;
        ensure!(tls.read(&mut answer)? == 0, "more than an answer");
        let Tls { conn, sock } = tls;
        drop(sock);
        let took = nanos(begun);
        ensure!(
            conn.protocol_version() == Some(ProtocolVersion::TLSv1_3)
                && conn.handshake_kind() == Some(HandshakeKind::Full),
            "not a full handshake of TLS 1.3"
        );
        Ok(took)
    }

    fn flood(&self, under_way: usize, time: Duration) -> anyhow::Result<Done> {
        let begun = Instant::now();
        let work = || -> anyhow::Result<u64> {
            let mut connections = 0;
            while begun.elapsed() < time {
                self.ask(&self.config)?;
                connections += 1;
            }
            Ok(connections)
        };
        let connections = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..under_way).map(|_| scope.spawn(work)).collect();
            let done = workers.into_iter().map(|worker| {
                let done = worker.join();
                done.map_err(|_| anyhow::anyhow!("a connecting thread panicked"))?
            });
            done.sum::<anyhow::Result<u64>>()
        })?;
        Ok(Done::Flooded {
            connections,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn upload(&self, bytes: u64) -> anyhow::Result<u64> {
        let mut tls = self.open()?;
        tls.write_all(&Wish::Upload(bytes).bytes())?;
        let block = vec![0; 128 * 1024];
        let begun = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let length = block.len().min(usize::try_from(left)?);
            tls.write_all(&block[..length]).context("an upload")?;
            left -= length as u64;
        }
        tls.read_exact(&mut [0]).context("an upload's answer")?;
        Ok(nanos(begun))
    }
}

/// The head of a proxy's answer, which nothing follows yet.
fn read_answer(stream: &mut impl Read) -> anyhow::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let got = stream.read(&mut buffer)?;
        ensure!(got > 0 && head.len() < 16 * 1024, "no answer of a proxy");
        head.extend_from_slice(&buffer[..got]);
    }
    let said = String::from_utf8_lossy(&head);
    let first = said.lines().next().unwrap_or_default();
    ensure!(
        first.split(' ').nth(1) == Some("200"),
        "the proxy said: {first}"
    );
    Ok(())
}

/// The program as it is seen from outside.
pub(super) struct Client(Remote);

impl Client {
    /// Starts a command that becomes it, and returns when it knows where to go.
    pub(super) fn start(command: Command, way: &Way) -> anyhow::Result<Self> {
        let mut remote = Remote::start(command)?;
        remote.order(way)?;
        let mut client = Self(remote);
        client.ready()?;
        Ok(client)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        match self.0.done()? {
            Done::Ready => Ok(()),
            _ => bail!("a client did something else"),
        }
    }

    /// Carries out an order that says nothing.
    pub(super) fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        self.0.order(order)?;
        self.ready()
    }

    /// Microseconds of each thing that an order asks for.
    pub(super) fn each(&mut self, order: &Order) -> anyhow::Result<Vec<f64>> {
        self.0.order(order)?;
        match self.0.done()? {
            Done::Each(took) => Ok(took.into_iter().map(|nanos| nanos as f64 / 1e3).collect()),
            _ => bail!("a client did something else"),
        }
    }

    /// Connections a second.
    pub(super) fn flood(&mut self, under_way: usize, milliseconds: u64) -> anyhow::Result<f64> {
        self.0.order(&Order::Flood {
            under_way,
            milliseconds,
        })?;
        match self.0.done()? {
            Done::Flooded {
                connections,
                seconds,
            } => Ok(connections as f64 / seconds),
            _ => bail!("a client did something else"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proxy_that_says_200_is_a_way() {
        let yes = b"HTTP/1.1 200 Connection established\r\n\r\n";
        assert!(read_answer(&mut yes.as_slice()).is_ok());
        let no = b"HTTP/1.1 403 Forbidden\r\nServer: x\r\n\r\n";
        let why = read_answer(&mut no.as_slice()).expect_err("refused");
        assert!(why.to_string().contains("403 Forbidden"), "{why}");
        assert!(read_answer(&mut b"HTTP/1.1 200 OK\r\n".as_slice()).is_err());
    }
}
