//! Sockets that a program had before it was an agent's.
//!
//! A packet is judged by the cgroup that its socket was made in, so those of a program that was
//! moved are never seen by its agent's hooks: each is judged here once, and destroyed where the
//! policy does not allow its peer.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::Instant,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_sock_diag::{
    constants::IPPROTO_TCP,
    inet::{ExtensionFlags, InetRequest, InetResponse, StateFlags},
};
use nix::sched::{CloneFlags, setns};

use super::{PATIENCE, abort::SOCK_DESTROY, diag, tree::Namespaces};

/// `TCP_LISTEN` of `include/net/tcp_states.h`.
const LISTEN: u8 = 10;
/// Files of `/proc/PID/net` that name sockets which no rule can speak of, and which cannot be
/// told to end.
const OTHERS: &[&str] = &[
    "raw", "raw6", "packet", "udplite", "udplite6", "icmp", "icmp6",
];

/// A TCP or UDP socket.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Id of the cgroup that it was made in; 0 where the kernel does not tell.
    pub cgroup: u64,
    /// Number of its protocol.
    pub protocol: u8,
    /// Its own end.
    pub local: SocketAddr,
    /// The far end; none where it has none.
    pub peer: Option<SocketAddr>,
    /// It waits for connections.
    pub listens: bool,
    namespace: Arc<File>,
    request: InetRequest,
}

/// What some processes have.
#[derive(Debug, Default)]
pub struct Inherited {
    /// What can be judged.
    pub sockets: Vec<Earlier>,
    /// Kinds of sockets that cannot.
    pub others: Vec<&'static str>,
}

/// The sockets that these processes hold, and those that were made in one of these cgroups.
///
/// # Errors
/// Where they cannot be read.
pub fn earlier(processes: &[u32], cgroups: &[u64]) -> io::Result<Inherited> {
    let mut inodes = HashSet::new();
    let mut others = HashSet::new();
    for pid in processes {
        let own = inodes_of(*pid);
        if !own.is_empty() {
            others.extend(others_of(*pid, &own));
        }
        inodes.extend(own);
    }
    let others: Vec<&'static str> = others.into_iter().collect();
    if inodes.is_empty() && cgroups.is_empty() {
        return Ok(Inherited::default());
    }
    let cgroups: HashSet<u64> = cgroups.iter().copied().collect();
    let mut namespaces = Namespaces::default();
    namespaces.add(processes);
    let files = namespaces.into_files();
    let sockets = elsewhere(move || {
        let until = Instant::now() + PATIENCE;
        let mut sockets = Vec::new();
        for file in files {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            let file = Arc::new(file);
            diag::each_socket(until, |protocol, found| {
                let cgroup = diag::cgroup_of(found).unwrap_or(0);
                if inodes.contains(&u64::from(found.header.inode)) || cgroups.contains(&cgroup) {
                    sockets.push(Earlier::of(protocol, cgroup, found, &file));
                }
            })?;
        }
        Ok(sockets)
    })?;
    Ok(Inherited { sockets, others })
}

/// Destroys sockets: their programs are told `ECONNABORTED`, and a connection is reset. Gives
/// the number of those that are gone.
///
/// # Errors
/// Where one of them cannot be destroyed.
pub fn destroy(sockets: Vec<Earlier>) -> io::Result<usize> {
    if sockets.is_empty() {
        return Ok(0);
    }
    elsewhere(move || {
        let mut gone = 0;
        for socket in sockets {
            setns(&socket.namespace, CloneFlags::CLONE_NEWNET)?;
            let asker = diag::socket()?;
            match diag::ask(
                &asker,
                SOCK_DESTROY,
                NLM_F_REQUEST | NLM_F_ACK,
                socket.request,
            ) {
                Ok(_) => gone += 1,
                // It ended by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    })
}

/// On a thread of its own, because it enters other network namespaces.
fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = thread::Builder::new().name("earlier".to_owned());
    let ended = thread.spawn(work)?.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("the thread that reads sockets failed")))
}

impl Earlier {
    fn of(protocol: u8, cgroup: u64, found: &InetResponse, namespace: &Arc<File>) -> Self {
        let id = found.header.socket_id.clone();
        let end = |addr: std::net::IpAddr, port| SocketAddr::new(addr.to_canonical(), port);
        let peer = end(id.destination_address, id.destination_port);
        Self {
            cgroup,
            protocol,
            local: end(id.source_address, id.source_port),
            peer: (!peer.ip().is_unspecified() || peer.port() != 0).then_some(peer),
            listens: protocol == IPPROTO_TCP && found.header.state == LISTEN,
            namespace: Arc::clone(namespace),
            request: InetRequest {
                family: found.header.family,
                protocol,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id: id,
            },
        }
    }
}

/// Inodes of the sockets that a process holds.
fn inodes_of(pid: u32) -> HashSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// The kinds of sockets among these that cannot be judged.
fn others_of(pid: u32, inodes: &HashSet<u64>) -> Vec<&'static str> {
    OTHERS
        .iter()
        .copied()
        .filter(|kind| {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap_or_default();
            // The inode is a field of its own; no other field is as wide or as large.
            text.lines().skip(1).any(|line| {
                let field = match *kind {
                    "packet" => line.split_whitespace().nth(8),
                    _ => line.split_whitespace().nth(9),
                };
                field
                    .and_then(|inode| inode.parse().ok())
                    .is_some_and(|inode| inodes.contains(&inode))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// Needs root: it enters a network namespace, its own.
    #[test]
    fn what_a_process_holds_is_found_and_can_be_destroyed() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.21:0").expect("listener");
        let at = listener.local_addr().expect("address");
        let stream = TcpStream::connect(at).expect("stream");
        let udp = UdpSocket::bind("127.0.0.21:0").expect("socket");
        udp.connect("127.0.0.22:9").expect("connect");
        let found = earlier(&[std::process::id()], &[]).expect("sockets");
        let to = |peer: &str| {
            let peer = peer.parse().expect("an address");
            let mut all = found.sockets.iter();
            all.find(|s| s.peer.map(|p| p.ip()) == Some(peer) && s.local.port() != at.port())
        };
        assert!(
            found
                .sockets
                .iter()
                .any(|s| s.listens && s.local == at && s.peer.is_none())
        );
        assert!(to("127.0.0.22").is_some_and(|s| s.protocol == 17));
        let mine = to("127.0.0.21").expect("the stream").clone();
        assert_eq!(mine.local, stream.local_addr().expect("address"));
        assert_eq!(destroy(vec![mine.clone()]).expect("destroyed"), 1);
        assert_eq!(destroy(vec![mine]).expect("gone"), 0);
        assert!(stream.peer_addr().is_err());
    }
}
