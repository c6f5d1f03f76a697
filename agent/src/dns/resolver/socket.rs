//! hickory's sockets, with UDP connected to the server that is asked.
//!
//! hickory draws the port (1024 to 65535) and the id of each query at random and drops
//! answers from other addresses itself. A connected socket adds that the kernel drops
//! them, and that a closed port is told at once instead of by a timeout.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider, TokioTime,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

#[derive(Clone, Default)]
pub(super) struct Sockets(TokioRuntimeProvider);

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = Connected;
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
            let socket = UdpSocket::bind(local).await?;
            // hickory's trait asks for an unconnected socket because some systems refuse
            // an address with each datagram then; Linux does not (udp(7)).
            socket.connect(server).await?;
            Ok(Connected(socket))
        })
    }
}

/// A UDP socket that is connected.
pub(super) struct Connected(UdpSocket);

impl DnsUdpSocket for Connected {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.0, cx, buf)
    }

    // As `async_trait` writes it. An error alone (a closed port, by ICMP) does not wake
    // tokio's readers: epoll gives EPOLLERR without EPOLLIN.
    fn recv_from<'s, 'b, 'f>(
        &'s self,
        buf: &'b mut [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<(usize, SocketAddr)>> + Send + 'f>>
    where
        's: 'f,
        'b: 'f,
    {
        Box::pin(async move {
            let error = tokio::select! {
                biased;
                received = self.0.recv_from(buf) => return received,
                ready = self.0.ready(Interest::ERROR) => {
                    ready?;
                    self.0.take_error()?
                }
            };
            match error {
                Some(error) => Err(error),
                // Somebody took it; what comes now is an answer or nothing.
                None => self.0.recv_from(buf).await,
            }
        })
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.0, cx, buf, target)
    }
}
