//! The SOCKS5 door (RFC 1928, RFC 1929).
//!
//! Of the crates, fast-socks5 (1.0.0) is the one that is kept, and it writes the password's
//! bytes to the log; the protocol is four short messages, read here to the byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::flow::Socket;
use super::name::{Host, Target, shown};
use super::session::{Ended, Session};
use super::{Backend, Destination, Outcome, auth};

const VERSION: u8 = 5;
/// Of the sub-negotiation with user and password.
const AUTH_VERSION: u8 = 1;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

const SUCCEEDED: u8 = 0;
const FAILED: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NO_SUCH_COMMAND: u8 = 7;
const NO_SUCH_ADDRESS: u8 = 8;

impl<B: Backend> Session<B> {
    /// Speaks SOCKS5 until the program has said where it goes, and passes it on.
    pub(super) async fn socks_door(&self, mut socket: Socket) -> Result<(), Ended> {
        self.first_byte(&mut socket).await?;
        let talk = timeout(self.gateway.config.handshake, self.talk(&mut socket));
        let target = talk
            .await
            .unwrap_or_else(|_| Err(Ended::new(Outcome::HandshakeTimeout)))?;
        self.pass(socket, &target).await
    }

    async fn talk(&self, socket: &mut Socket) -> Result<Target, Ended> {
        let [version, methods] = take(socket).await?;
        let methods = take_some(socket, methods).await?;
        if version != VERSION {
            return Err(bad("this is not SOCKS5"));
        }
        if !methods.contains(&USER_AND_PASSWORD) {
            say(socket, &[VERSION, NO_METHOD]).await?;
            return Err(Ended::new(Outcome::Unauthenticated).because("no user and password"));
        }
        say(socket, &[VERSION, USER_AND_PASSWORD]).await?;
        let [version, user] = take(socket).await?;
        let user = take_some(socket, user).await?;
        let [token] = take(socket).await?;
        let token = take_some(socket, token).await?;
        if version != AUTH_VERSION {
            return Err(bad("this is no user and password"));
        }
        if !auth::matches(self.backend().credentials(), &user, &token) {
            say(socket, &[AUTH_VERSION, FAILED]).await?;
            return Err(Ended::new(Outcome::Unauthenticated));
        }
        say(socket, &[AUTH_VERSION, SUCCEEDED]).await?;
        let target = match self.request(socket).await {
            Ok(target) => target,
            Err((reply, ended)) => {
                self.reply(socket, reply).await?;
                return Err(ended);
            }
        };
        if let Err(ended) = self.opens(&target) {
            self.reply(socket, NOT_ALLOWED).await?;
            return Err(ended);
        }
        self.reply(socket, SUCCEEDED).await?;
        Ok(target)
    }

    async fn request(&self, socket: &mut Socket) -> Result<Target, (u8, Ended)> {
        let failed = |ended| (FAILED, ended);
        let [version, command, reserved, kind] = take(socket).await.map_err(failed)?;
        if version != VERSION || reserved != 0 {
            return Err((FAILED, bad("this is no request")));
        }
        let host = match kind {
            IPV4 => {
                let addr: [u8; 4] = take(socket).await.map_err(failed)?;
                Host::Addr(Ipv4Addr::from(addr).into())
            }
            IPV6 => {
                let addr: [u8; 16] = take(socket).await.map_err(failed)?;
                Host::Addr(Ipv6Addr::from(addr).to_canonical())
            }
            DOMAIN => {
                let [length] = take(socket).await.map_err(failed)?;
                let name = take_some(socket, length).await.map_err(failed)?;
                let read = std::str::from_utf8(&name).ok().and_then(Host::read);
                let odd = || Ended::new(Outcome::BadName).because(shown(&name));
                read.ok_or_else(|| (NOT_ALLOWED, odd()))?
            }
            _ => return Err((NO_SUCH_ADDRESS, bad("it names no address"))),
        };
        let port = u16::from_be_bytes(take(socket).await.map_err(failed)?);
        if command != CONNECT {
            return Err((NO_SUCH_COMMAND, bad("only CONNECT is served")));
        }
        if port == 0 {
            return Err((NOT_ALLOWED, bad("it names no port")));
        }
        Ok(match host {
            Host::Name(name) => Target::Name(name, port),
            Host::Addr(addr) => Target::Addr(Destination { addr, port }),
        })
    }

    /// The bound address is nobody's business: zeros, as the RFC lets a server send.
    async fn reply(&self, socket: &mut Socket, code: u8) -> Result<(), Ended> {
        say(socket, &[VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]).await
    }
}

fn bad(why: &str) -> Ended {
    Ended::new(Outcome::BadSocks).because(why)
}

async fn take<const N: usize>(socket: &mut Socket) -> Result<[u8; N], Ended> {
    let mut bytes = [0; N];
    match socket.read_exact(&mut bytes).await {
        Ok(_) => Ok(bytes),
        Err(error) => Err(bad("it ended within the talk").because(error)),
    }
}

async fn take_some(socket: &mut Socket, length: u8) -> Result<Vec<u8>, Ended> {
    let mut bytes = vec![0; usize::from(length)];
    match socket.read_exact(&mut bytes).await {
        Ok(_) => Ok(bytes),
        Err(error) => Err(bad("it ended within the talk").because(error)),
    }
}

async fn say(socket: &mut Socket, bytes: &[u8]) -> Result<(), Ended> {
    socket
        .write_all(bytes)
        .await
        .map_err(|error| Ended::new(Outcome::Reset).because(error))
}
