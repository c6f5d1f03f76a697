//! What may follow a ClientHello.
//!
//! After the first hello a client may be told to send another one (HelloRetryRequest), and
//! some servers go by the name in the last. So until the client's records show that its
//! hellos are over, each is read, and none with another name leaves. Whatever came before
//! the end of a hello is held back until it is known.
//!
//! Early data (0-RTT) may stand between two hellos: where it was offered, the records are
//! followed to the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Outcome;
use super::flow::Socket;
use super::hello::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, CLIENT_HELLO, HANDSHAKE, HEADER, MAX_BYTES,
    Reader, record_length,
};
use super::session::Ended;
use crate::leases::Name;

/// How much is read at once.
const CHUNK: usize = 4096;

/// The client's side of a TLS connection whose first ClientHello was judged.
pub(super) struct Guarded {
    socket: Socket,
    watch: Watch,
    refused: Option<Ended>,
}

impl Guarded {
    /// `name`, `ech` and `early` (early data is offered) are those of the first hello.
    pub(super) fn new(socket: Socket, name: Name, ech: bool, early: bool) -> Self {
        Self {
            socket,
            watch: Watch::new(name, ech, early),
            refused: None,
        }
    }

    /// Why reading failed, if it was the client's fault.
    pub(super) fn refused(&mut self) -> Option<Ended> {
        self.refused.take()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.watch.give(buf) {
                return Poll::Ready(Ok(()));
            }
            if this.watch.over {
                return Pin::new(&mut this.socket).poll_read(cx, buf);
            }
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // What is held back was never whole, and stays here.
                return Poll::Ready(Ok(()));
            }
            if let Err(ended) = this.watch.take(chunk.filled()) {
                this.refused = Some(ended);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The judging alone: bytes in, bytes that may leave out.
struct Watch {
    name: Name,
    ech: bool,
    early: bool,
    /// Encrypted records have left.
    encrypted: bool,
    /// Bytes of the encrypted record that is leaving, still to come.
    leaving: usize,
    held: Vec<u8>,
    /// Bytes of `held` that may leave.
    free: usize,
    /// The hello that has begun behind them.
    reader: Option<Reader>,
    /// No hello can come any more.
    over: bool,
}

impl Watch {
    fn new(name: Name, ech: bool, early: bool) -> Self {
        Self {
            name,
            ech,
            early,
            encrypted: false,
            leaving: 0,
            held: Vec::new(),
            free: 0,
            reader: None,
            over: false,
        }
    }

    /// Fills a buffer with what may leave; false when nothing may.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = self.free.min(buf.remaining());
        if len == 0 {
            return false;
        }
        buf.put_slice(&self.held[..len]);
        self.held.drain(..len);
        self.free -= len;
        true
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.held.extend_from_slice(bytes);
        while !self.over && self.step()? {}
        if self.over {
            self.free = self.held.len();
        }
        Ok(())
    }

    /// Judges the next record; false when not enough of it is there.
    fn step(&mut self) -> Result<bool, Ended> {
        let rest = &self.held[self.free..];
        if self.reader.is_some() {
            return self.hello();
        }
        let Some(&kind) = rest.first() else {
            return Ok(false);
        };
        if self.leaving > 0 {
            let len = self.leaving.min(rest.len());
            self.free += len;
            self.leaving -= len;
            return Ok(true);
        }
        match (kind, rest.get(HEADER)) {
            // Before a server has answered it would take these for an error.
            (APPLICATION_DATA, _) if !self.early => self.over = true,
            (APPLICATION_DATA, _) => {
                let Some(length) = record_length(rest) else {
                    return Ok(false);
                };
                self.encrypted = true;
                self.leaving = HEADER + length;
            }
            (HANDSHAKE, Some(&CLIENT_HELLO)) => self.reader = Some(Reader::default()),
            (HANDSHAKE, Some(_)) if self.encrypted => {
                return Err(Ended::new(Outcome::Malformed)
                    .because("a handshake in clear after encrypted records"));
            }
            // The client goes on as TLS 1.2 has it, and is encrypted soon.
            (HANDSHAKE, Some(_)) => self.over = true,
            (HANDSHAKE, None) if record_length(rest) == Some(0) => {
                return Err(Ended::new(Outcome::Malformed).because("an empty handshake record"));
            }
            (HANDSHAKE, None) => return Ok(false),
            (CHANGE_CIPHER_SPEC | ALERT, _) => {
                let Some(length) = record_length(rest) else {
                    return Ok(false);
                };
                // One byte, two bytes: more would be a place to hide something.
                if length > 2 {
                    return Err(Ended::new(Outcome::Malformed).because("a long record"));
                }
                if rest.len() < HEADER + length {
                    return Ok(false);
                }
                self.free += HEADER + length;
            }
            _ => return Err(Ended::new(Outcome::NotTls).because("no record of TLS")),
        }
        Ok(true)
    }

    fn hello(&mut self) -> Result<bool, Ended> {
        let rest = &self.held[self.free..];
        let Some(reader) = &mut self.reader else {
            return Ok(false);
        };
        let Some(hello) = reader.read(rest).map_err(|bad| bad.ended)? else {
            debug_assert!(rest.len() <= MAX_BYTES, "the reader is bounded");
            return Ok(false);
        };
        let same = hello.name.as_ref().is_ok_and(|name| *name == self.name);
        if !same || hello.ech && !self.ech {
            let name = hello.name.unwrap_or_else(|_| "no name".into());
            return Err(Ended::new(Outcome::SecondHello)
                .because(format!("after {} it shows {name}", self.name)));
        }
        self.free += hello.length;
        self.early |= hello.early;
        self.reader = None;
        Ok(true)
    }
}
