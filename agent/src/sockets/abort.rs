//! Ending a connection that was refused in its middle, so that its program learns of it at
//! once and does not wait for a time-out.
//!
//! `SOCK_DESTROY` (Linux 4.5, `CONFIG_INET_DIAG_DESTROY`) resets the connection and wakes the
//! program with `ECONNABORTED`. It finds the socket by its two ends, in the network namespace
//! of who asks, and takes it only if the cookie is the one that was seen.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_sock_diag::{SockDiagMessage, constants::SOCK_DIAG_BY_FAMILY};
use nix::sched::{CloneFlags, setns};

use super::{diag, tree};

/// `SOCK_DESTROY` of `include/uapi/linux/sock_diag.h`.
pub(super) const SOCK_DESTROY: u16 = 21;
/// `TCP_SYN_SENT` of `include/net/tcp_states.h`.
const SYN_SENT: u8 = 2;
/// Connections that may wait to be ended. What finds no room ends by its own time-out.
const ROOM: usize = 1024;

/// A TCP connection to end.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its own end and the far one; never v4-mapped.
    pub ends: (SocketAddr, SocketAddr),
    /// `SO_COOKIE` of the socket.
    pub cookie: u64,
    /// The agent's cgroup: a folder. Where the connection is not in the daemon's own network
    /// namespace, it is looked for in those of what runs there.
    pub cgroup: PathBuf,
    /// Only while it is not open yet.
    pub unless_open: bool,
}

/// Ends connections, by a thread of its own, because it enters other network namespaces.
#[derive(Clone, Debug)]
pub struct Aborter(SyncSender<Connection>);

impl Aborter {
    /// Starts the thread. It ends with the last clone of this.
    pub fn start() -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let (sender, receiver) = sync_channel(ROOM);
        thread::Builder::new()
            .name("abort".to_owned())
            .spawn(move || run(&receiver, &home))?;
        Ok(Self(sender))
    }

    /// Ends a connection soon; never waits.
    pub fn end(&self, connection: Connection) {
        if self.0.try_send(connection).is_err() {
            tracing::debug!("a refused connection is left to its own time-out");
        }
    }
}

fn run(receiver: &Receiver<Connection>, home: &File) {
    let mut told = false;
    for connection in receiver {
        let ended = end(&connection).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => end_elsewhere(&connection, home),
            _ => Err(error),
        });
        match ended {
            Ok(()) => {}
            // It has ended by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "refused connections cannot be ended; their programs wait for a time-out");
            }
            Err(_) => {}
        }
    }
}

fn end_elsewhere(connection: &Connection, home: &File) -> io::Result<()> {
    let mut namespaces = tree::Namespaces::default();
    namespaces.add(&tree::below(&connection.cgroup).processes);
    let found = namespaces
        .into_entered()
        .find_map(|entered| entered.and_then(|()| end(connection)).ok());
    setns(home, CloneFlags::CLONE_NEWNET)?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Ends a connection of the namespace that the thread is in.
fn end(connection: &Connection) -> io::Result<()> {
    let request = diag::exact(connection.ends, connection.cookie.to_ne_bytes());
    let socket = diag::socket()?;
    if connection.unless_open {
        let found = diag::ask(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, request.clone())?;
        match found {
            Some(SockDiagMessage::InetResponse(found)) if found.header.state == SYN_SENT => {}
            _ => return Ok(()),
        }
    }
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    diag::ask(&socket, SOCK_DESTROY, flags, request).map(drop)
}
