//! The host behind everyone: TLS 1.3 with a certificate of its own, every handshake a full
//! one. A request is [`REQUEST`] bytes: what is wanted, and of how many bytes.

use anyhow::Context;
use exeat_tests::http::Authority;
use exeat_tests::ns::Ns;
use exeat_tests::wait;
use nix::sys::socket::{Shutdown, shutdown};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of a request, and of an echo.
pub(super) const REQUEST: usize = 64;
/// Bytes of an answer.
pub(super) const ANSWER: usize = 256;
/// What takes connections: more than ever are under way.
const WORKERS: usize = 16;

/// What a client wants: the first byte of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// One answer, and the end.
    Answer,
    /// Everything that follows, in pieces as long as a request, back.
    Echo,
    /// So many bytes taken, one byte back, and the end.
    Upload(u64),
}

impl Wish {
    /// As it is sent.
    pub(super) fn bytes(self) -> [u8; REQUEST] {
        let (kind, count) = match self {
            Self::Answer => (b'a', 0),
            Self::Echo => (b'e', 0),
            Self::Upload(count) => (b'u', count),
        };
        let mut bytes = [0; REQUEST];
        bytes[0] = kind;
        bytes[1..9].copy_from_slice(&count.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8; REQUEST]) -> Option<Self> {
        let mut count = [0; 8];
        count.copy_from_slice(&bytes[1..9]);
        match bytes[0] {
            b'a' => Some(Self::Answer),
            b'e' => Some(Self::Echo),
            b'u' => Some(Self::Upload(u64::from_be_bytes(count))),
            _ => None,
        }
    }
}

/// It serves until it is dropped.
pub(super) struct Server {
    listener: Arc<TcpListener>,
    workers: Vec<JoinHandle<()>>,
}

impl Server {
    /// At `address`, with a certificate of `authority` for `name`.
    ///
    /// # Errors
    /// When the address is taken, or the certificate cannot be made.
    pub(super) fn start(
        ns: &Ns,
        address: SocketAddr,
        authority: &Authority,
        name: &str,
    ) -> anyhow::Result<Self> {
        let mut config = ServerConfig::clone(&*authority.server(&[name])?);
        // No client of ours comes back with one.
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let listener = ns
            .run(|| Ok(TcpListener::bind(address)?))
            .with_context(|| format!("listen on tcp {address}"))?;
        let mut server = Self {
            listener: Arc::new(listener),
            workers: Vec::new(),
        };
        for _ in 0..WORKERS {
            let (listener, config) = (server.listener.clone(), config.clone());
            let work = move || {
                while let Ok((stream, _)) = listener.accept() {
                    // A client that goes away in the middle is told of by itself.
                    let _ = serve(stream, &config);
                }
            };
            let thread = std::thread::Builder::new().name("tls-host".to_owned());
            server.workers.push(thread.spawn(work)?);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Those that wait for a connection wait no more.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn serve(stream: TcpStream, config: &Arc<ServerConfig>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    // Bounds what a client that keeps silent holds.
    let limit = wait::scaled(Duration::from_secs(10));
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut tls = StreamOwned::new(ServerConnection::new(config.clone())?, stream);
    let mut request = [0; REQUEST];
    tls.read_exact(&mut request)?;
    match Wish::read(&request).context("no request of ours")? {
        Wish::Answer => tls.write_all(&[b'.'; ANSWER])?,
        Wish::Echo => {
            while tls.read_exact(&mut request).is_ok() {
                tls.write_all(&request)?;
            }
        }
        Wish::Upload(count) => {
            let mut buffer = vec![0; 256 * 1024];
            let mut left = count;
            while left > 0 {
                let room = buffer.len().min(usize::try_from(left)?);
                let got = tls.read(&mut buffer[..room])?;
                anyhow::ensure!(got > 0, "it ended too early");
                left -= got as u64;
            }
            tls.write_all(b".")?;
        }
    }
    // The host ends connections: who closes first keeps the port for a minute.
    tls.conn.send_close_notify();
    Ok(tls.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read() {
        for wish in [Wish::Answer, Wish::Echo, Wish::Upload(1 << 33)] {
            assert_eq!(Wish::read(&wish.bytes()), Some(wish));
        }
        assert_eq!(Wish::read(&[0; REQUEST]), None);
    }
}
