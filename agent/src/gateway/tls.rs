//! Where a connection goes once its destination is known, and TLS passing through.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::flow::Socket;
use super::guard::Guarded;
use super::hello::{Bad, HANDSHAKE, Hello, Reader};
use super::name::Target;
use super::relay::relay;
use super::session::{Ended, Session};
use super::{Backend, Kind, Outcome};

/// How long a refused program may take to read why.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// The most bytes of a refused program that are thrown away meanwhile.
const FAREWELL_BYTES: usize = 64 * 1024;

impl<B: Backend> Session<B> {
    /// A connection that the kernel steered here.
    pub(super) async fn steered(&self, socket: Socket) -> Result<(), Ended> {
        let mut to = self
            .backend()
            .origin(self.peer, self.local)
            .ok_or_else(|| Ended::new(Outcome::NoOrigin))?;
        to.addr = to.addr.to_canonical();
        self.note(|record| {
            record.destination = Some(to);
            record.port = to.port;
        });
        self.pass(socket, &Target::Addr(to)).await
    }

    /// Passes a connection on: unread where the policy says so, else by the name it shows.
    pub(super) async fn pass(&self, mut socket: Socket, target: &Target) -> Result<(), Ended> {
        let tunnel = target.ask(Kind::Tunnel);
        // A rule that inspects lets nothing pass unread, whoever is asked.
        if self.allows_unread(&tunnel) {
            let grant = self.judge(tunnel)?;
            let upstream = self.dial(target, &grant).await?;
            return relay(&mut socket, upstream, &self.flow).await;
        }
        match self.first_byte(&mut socket).await? {
            HANDSHAKE => self.tls(socket, target).await,
            // A method of HTTP is letters in practice, and upper case.
            byte if byte.is_ascii_uppercase() => self.http(socket, target).await,
            _ => Err(Ended::new(Outcome::NotTls)),
        }
    }

    async fn tls(&self, mut socket: Socket, target: &Target) -> Result<(), Ended> {
        let (hello, mut stream) = match self.hello(&mut socket).await? {
            Ok(read) => read,
            Err(bad) => {
                farewell(&mut socket, &bad.alert).await;
                return Err(bad.ended);
            }
        };
        let alpn = hello.shown_alpn();
        self.note(|record| {
            record.kind = Some(Kind::Tls);
            record.sni = hello.name.as_ref().ok().cloned();
            record.alpn = alpn;
        });
        let named = hello.name.clone().and_then(|name| match target.name() {
            Some(asked) if *asked != name => {
                Err(Ended::new(Outcome::NameMismatch).because(format!("{asked} was asked for")))
            }
            _ => Ok(name),
        });
        let judged = named.and_then(|name| {
            let grant = self.judge(target.ask_named(Some(name.clone()), Kind::Tls))?;
            // An inspected connection ends here: it is for the name that can be read, whatever
            // the other one is.
            match hello.ech && !grant.ech && grant.inspect.is_none() {
                true => Err(Ended::new(Outcome::Ech)),
                false => Ok((name, grant)),
            }
        });
        let (name, grant) = match judged {
            Ok(judged) => judged,
            Err(ended) => {
                let alert = hello.refusal(&self.gateway.refusing);
                farewell(&mut socket, &alert).await;
                return Err(ended);
            }
        };
        if let Some(inspect) = grant.inspect.clone() {
            socket.put_back(stream.split_off(hello.length));
            let to = (name, target.port());
            return self.inspected(socket, hello, to, grant, inspect).await;
        }
        if hello.ech {
            self.stands_on_ech();
        }
        let to = Target::Name(name.clone(), target.port());
        let mut upstream = self.dial(&to, &grant).await?;
        self.look(&to, &grant, &hello);
        socket.put_back(stream.split_off(hello.length));
        upstream
            .write_all(&stream)
            .await
            .map_err(|error| Ended::new(Outcome::Reset).because(error))?;
        drop(stream);
        let mut guarded = Guarded::new(socket, name, hello.ech, hello.early);
        drop(hello);
        let done = relay(&mut guarded, upstream, &self.flow).await;
        match guarded.refused() {
            Some(ended) => {
                // The server may have what the program sent until then, and no more.
                self.flow.cut();
                Err(ended)
            }
            None => done,
        }
    }

    /// Reads the ClientHello; with it, all bytes of the stream so far.
    async fn hello(&self, socket: &mut Socket) -> Result<Result<(Hello, Vec<u8>), Bad>, Ended> {
        let deadline = Instant::now() + self.gateway.config.handshake;
        let mut reader = Reader::default();
        let mut stream = Vec::with_capacity(2048);
        loop {
            match timeout_at(deadline, socket.read_buf(&mut stream)).await {
                Err(_) => return Err(Ended::new(Outcome::HandshakeTimeout)),
                Ok(Err(error)) => return Err(Ended::new(Outcome::Reset).because(error)),
                Ok(Ok(0)) => {
                    return Err(
                        Ended::new(Outcome::Malformed).because("it ended within the ClientHello")
                    );
                }
                Ok(Ok(_)) => match reader.read(&stream) {
                    Ok(Some(hello)) => return Ok(Ok((hello, stream))),
                    Ok(None) => {}
                    Err(bad) => return Ok(Err(bad)),
                },
            }
        }
    }
}

/// Last words to a refused program. What it still sends is thrown away for a moment: bytes
/// left unread would reset the connection, and the program might never read them.
pub(super) async fn farewell(socket: &mut Socket, words: &[u8]) {
    let talk = async {
        socket.write_all(words).await?;
        socket.shutdown().await?;
        let mut left = FAREWELL_BYTES;
        let mut buffer = [0; 2048];
        while left > 0 {
            match socket.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    // It is closed in any case.
    let _ = timeout(FAREWELL, talk).await;
}
