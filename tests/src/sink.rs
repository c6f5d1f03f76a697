//! Hosts that take everything and remember it.

use crate::ns::Ns;
use crate::service::{Service, Stop};
use anyhow::Context;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Something that reached a sink.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Who sent it.
    pub from: SocketAddr,
    /// What came: a datagram, or a piece of a stream; empty for an accepted connection.
    pub bytes: Vec<u8>,
    /// When it was read.
    pub at: Instant,
}

type Log = Arc<Mutex<Vec<Arrival>>>;

fn record(log: &Log, from: SocketAddr, bytes: &[u8]) {
    let arrival = Arrival {
        from,
        bytes: bytes.to_vec(),
        at: Instant::now(),
    };
    log.lock().expect("sink lock").push(arrival);
}

fn holds(log: &Log, token: &str) -> bool {
    let log = log.lock().expect("sink lock");
    let all: Vec<u8> = log.iter().flat_map(|a| a.bytes.iter().copied()).collect();
    all.windows(token.len()).any(|w| w == token.as_bytes())
}

/// A TCP host that accepts everyone and reads until the end of the stream.
pub struct TcpSink {
    log: Log,
    address: SocketAddr,
    _service: Service,
}

impl TcpSink {
    /// Listens in `ns`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(ns: &Ns, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(ns, address)?;
        let address = listener.local_addr()?;
        let log = Log::default();
        let theirs = log.clone();
        let service = Service::spawn("tcp-sink", move |stop| {
            accept_each(&stop, &listener, |stream, from, stop| {
                record(&theirs, from, &[]);
                let log = theirs.clone();
                let stop = stop.clone();
                std::thread::spawn(move || drain(&stop, stream, from, &log));
            });
        })?;
        Ok(Self {
            log,
            address,
            _service: service,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> usize {
        let log = self.log.lock().expect("sink lock");
        log.iter().filter(|a| a.bytes.is_empty()).count()
    }

    /// Everything that arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.log.lock().expect("sink lock").clone()
    }

    /// Whether `token` has arrived.
    pub fn holds(&self, token: &str) -> bool {
        holds(&self.log, token)
    }
}

fn drain(stop: &Stop, mut stream: TcpStream, from: SocketAddr, log: &Log) {
    let mut buffer = [0u8; 65536];
    loop {
        if stop.readable(&[stream.as_fd()]).is_none() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => record(log, from, &buffer[..length]),
        }
    }
}

/// TCP hosts of many addresses that let everyone in, and remember at which address.
pub struct Doors {
    log: Arc<Mutex<Vec<(IpAddr, Instant)>>>,
    _service: Service,
}

impl Doors {
    /// Listens in `ns`, at every address that the namespace calls its own if `address` is
    /// 0.0.0.0.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(ns: &Ns, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(ns, address)?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let theirs = log.clone();
        let service = Service::spawn("doors", move |stop| {
            accept_each(&stop, &listener, |stream, _, _| {
                if let Ok(at) = stream.local_addr() {
                    let arrival = (at.ip(), Instant::now());
                    theirs.lock().expect("doors lock").push(arrival);
                }
            });
        })?;
        Ok(Self {
            log,
            _service: service,
        })
    }

    /// Every connection that came: at which address, and when.
    pub fn opened(&self) -> Vec<(IpAddr, Instant)> {
        self.log.lock().expect("doors lock").clone()
    }
}

/// A UDP host.
pub struct UdpSink {
    log: Log,
    address: SocketAddr,
    _service: Service,
}

impl UdpSink {
    /// Binds in `ns`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(ns: &Ns, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = ns
            .run(|| Ok(UdpSocket::bind(address)?))
            .with_context(|| format!("bind udp {address}"))?;
        let address = socket.local_addr()?;
        let log = Log::default();
        let theirs = log.clone();
        let service = Service::spawn("udp-sink", move |stop| {
            let mut buffer = [0u8; 65536];
            while stop.readable(&[socket.as_fd()]).is_some() {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    record(&theirs, from, &buffer[..length]);
                }
            }
        })?;
        Ok(Self {
            log,
            address,
            _service: service,
        })
    }

    /// Where it is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.log.lock().expect("sink lock").clone()
    }

    /// Whether `token` has arrived.
    pub fn holds(&self, token: &str) -> bool {
        holds(&self.log, token)
    }
}

/// A listener in a namespace, with TCP Fast Open on so that data in a SYN is taken.
///
/// # Errors
/// When the address is taken.
pub fn listen(ns: &Ns, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = ns
        .run(|| Ok(TcpListener::bind(address)?))
        .with_context(|| format!("listen on tcp {address}"))?;
    let queue: libc::c_int = 16;
    // SAFETY: the pointer and the length describe `queue`.
    unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&listener),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of_val(&queue) as libc::socklen_t,
        );
    }
    Ok(listener)
}

/// Hands every connection to `take` until stopped.
pub fn accept_each(
    stop: &Stop,
    listener: &TcpListener,
    mut take: impl FnMut(TcpStream, SocketAddr, &Stop),
) {
    while stop.readable(&[listener.as_fd()]).is_some() {
        if let Ok((stream, from)) = listener.accept() {
            take(stream, from, stop);
        }
    }
}
