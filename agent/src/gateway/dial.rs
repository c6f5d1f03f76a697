//! Connecting to a server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::flow::{Flow, Socket, Upstream};
use super::name::Target;
use super::session::{Ended, Session};
use super::{Backend, Grant, Outcome, Route};

/// How long one address is tried before the next is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;

impl<B: Backend> Session<B> {
    /// A connection to where the policy allowed one, by the way that it says.
    pub(super) async fn dial(&self, target: &Target, grant: &Grant) -> Result<Upstream, Ended> {
        let limit = self.gateway.config.connect;
        let dialled = match &grant.route {
            Route::Direct => timeout(limit, self.direct(target, grant)).await,
            Route::Proxy(proxy) => timeout(limit, self.tunnel(proxy, target)).await,
        };
        dialled.unwrap_or_else(|_| Err(Ended::new(Outcome::ConnectTimeout)))
    }

    async fn direct(&self, target: &Target, grant: &Grant) -> Result<Upstream, Ended> {
        let addresses = match target {
            Target::Addr(to) => vec![to.addr],
            Target::Name(name, port) => {
                let found = self
                    .backend()
                    .resolve(name, grant)
                    .await
                    .map_err(|kind| Ended::new(Outcome::Unresolved).because(kind.as_str()))?;
                let all = found.len();
                let mut addresses: Vec<_> = found.iter().map(IpAddr::to_canonical).collect();
                addresses.retain(|addr| self.backend().may_reach(name, *addr, *port, grant));
                if addresses.is_empty() && all > 0 {
                    return Err(Ended::new(Outcome::Rebind)
                        .because(format!("{name} stands for {}", found[0])));
                }
                addresses
            }
        };
        let (socket, addr) = connect(addresses, target.port(), &self.flow).await?;
        self.note(|record| record.connected = Some(addr));
        Ok(Upstream::new(socket, &self.flow))
    }
}

/// Connects to the first address that answers. Both families have their turn, and a silent
/// address holds nobody up.
pub(super) async fn connect(
    addresses: Vec<IpAddr>,
    port: u16,
    flow: &Arc<Flow>,
) -> Result<(Socket, SocketAddr), Ended> {
    let mut untried = alternating(addresses).into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failed = Ended::new(Outcome::Unreachable).because("it has no address");
    loop {
        if let Some(addr) = untried.next() {
            trying.push(open(SocketAddr::new(addr, port)));
        }
        if trying.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            Some(opened) = trying.next() => match opened {
                Ok((stream, addr)) => return Ok((Socket::new(stream, flow), addr)),
                Err(error) => failed = Ended::new(Outcome::Unreachable).because(error),
            },
            () = sleep(STAGGER), if untried.len() > 0 => {}
        }
    }
}

async fn open(addr: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(addr)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{addr}: {error}")))?;
    stream.set_nodelay(true)?;
    Ok((stream, addr))
}

/// The addresses in their order, but the families by turns (RFC 8305 section 4).
fn alternating(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|addr| addr.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let turn = [first.next(), second.next()];
        if turn == [None, None] || mixed.len() >= MAX_ADDRESSES {
            return mixed;
        }
        mixed.extend(turn.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &[&str]) -> Vec<IpAddr> {
        text.iter().map(|ip| ip.parse().expect("address")).collect()
    }

    #[test]
    fn families_take_turns_and_the_number_is_bounded() {
        let order = alternating(ips(&["::1", "::2", "::3", "192.0.2.1"]));
        assert_eq!(order, ips(&["::1", "192.0.2.1", "::2", "::3"]));
        let many = (0..200).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        assert!(alternating(many).len() <= MAX_ADDRESSES);
        assert!(alternating(vec![]).is_empty());
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_to_the_next() {
        let listener = std::net::TcpListener::bind("127.0.0.2:0").expect("bind");
        let port = listener.local_addr().expect("addr").port();
        let flow = Flow::new();
        let (_, addr) = connect(ips(&["127.0.0.3", "127.0.0.2"]), port, &flow)
            .await
            .expect("connects");
        assert_eq!(addr.ip(), ips(&["127.0.0.2"])[0]);
        drop(listener);
        let ended = connect(ips(&["127.0.0.3", "127.0.0.2"]), port, &flow)
            .await
            .map(drop)
            .expect_err("nobody");
        assert_eq!(ended.outcome, Outcome::Unreachable);
        let none = connect(vec![], port, &flow).await.map(drop);
        assert_eq!(none.expect_err("nothing").outcome, Outcome::Unreachable);
    }
}
