//! hickory's sockets, with UDP connected to the server that is asked.
//!
//! hickory draws the port (1024 to 65535) and the id of each query at random and drops
//! answers from other addresses itself. A connected socket adds that the kernel drops
//! them, and that a closed port is told at once instead of by a timeout.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};

type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

#[derive(Clone, Default)]
pub(super) struct Sockets(TokioRuntimeProvider);

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pending<Self::Tcp> {
        self.0.connect_tcp(server, bind, timeout)
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Pending<Self::Udp> {
        Box::pin(async move {
            let socket = tokio::net::UdpSocket::bind(local).await?;
            // hickory's trait asks for an unconnected socket because some systems refuse
            // an address with each datagram then; Linux does not (udp(7)).
            socket.connect(server).await?;
            Ok(socket)
        })
    }
}
