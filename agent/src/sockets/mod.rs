//! The live sockets of agents: what they are connected to now.
//!
//! ```text
//! agent's cgroup ─► cgroups below it (ids), processes ─► their network namespaces
//!                        each namespace ─► sock_diag dump ─► socket's cgroup is one of them?
//! ```
//!
//! A socket belongs to the cgroup that it was made in (`INET_DIAG_CGROUP_ID`, Linux 5.8), as
//! it does for the packet hooks; whose descriptor it is now does not matter. A socket that
//! was made outside is not found, and needs not be: no packet of it meets an agent's tables.
//! What cannot be found out counts as not in use.

mod abort;
mod diag;
mod earlier;
mod peers;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Release},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub use abort::{Aborter, Connection};
pub use earlier::{Earlier, Inherited, destroy, earlier};
pub use peers::{Owner, Peers};

/// How long one question may take. Reading costs under a microsecond a socket, so this is
/// millions of them; who has more gets no answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Numbers of the processes in a cgroup and below it; of very many, some.
pub fn processes_below(cgroup: &Path) -> Vec<u32> {
    tree::below(cgroup).processes
}

/// Ids of a cgroup and of those below it; of very many, some.
pub fn cgroups_below(cgroup: &Path) -> Vec<u64> {
    tree::below(cgroup).ids
}

/// What is asked of one agent.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Index of the agent.
    pub agent: u32,
    /// The agent's cgroups: folders.
    pub cgroups: Vec<PathBuf>,
    /// Addresses of which it is asked whether a socket uses them; never v4-mapped.
    pub addresses: BTreeSet<IpAddr>,
}

/// The addresses that live sockets use, by index of the agent; a subset of what was asked.
pub type InUse = BTreeMap<u32, BTreeSet<IpAddr>>;

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The last question is not answered yet.
    #[error("the last question about live sockets is still under way")]
    Busy,
    /// It took longer than it may.
    #[error("the sockets of this machine could not be read in {PATIENCE:?}")]
    TooLong,
    /// A thread could not be started.
    #[error("cannot start a thread that reads sockets")]
    Thread(#[source] io::Error),
    /// The thread ended without an answer.
    #[error("the thread that reads sockets failed")]
    Failed,
}

/// Asks, one question at a time.
#[derive(Debug, Default)]
pub struct Sockets {
    busy: Arc<AtomicBool>,
}

impl Sockets {
    /// Which of the addresses live sockets of their agents use now. The work is done by a
    /// thread of its own, because it enters other network namespaces.
    pub async fn ask(&self, subjects: Vec<Subject>) -> Result<InUse, SocketsError> {
        let answer = self.start(subjects)?;
        // A little more than the thread allows itself.
        match tokio::time::timeout(PATIENCE * 2, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(SocketsError::Failed),
            Err(_) => Err(SocketsError::TooLong),
        }
    }

    /// As [`Sockets::ask`], and waits: for the start, when there is nothing else to do.
    pub fn ask_now(&self, subjects: Vec<Subject>) -> Result<InUse, SocketsError> {
        let mut answer = self.start(subjects)?;
        let until = Instant::now() + PATIENCE * 2;
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Closed) => return Err(SocketsError::Failed),
                Err(oneshot::error::TryRecvError::Empty) if Instant::now() > until => {
                    return Err(SocketsError::TooLong);
                }
                Err(oneshot::error::TryRecvError::Empty) => {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn start(
        &self,
        subjects: Vec<Subject>,
    ) -> Result<oneshot::Receiver<Result<InUse, SocketsError>>, SocketsError> {
        /// Also when the thread panics.
        struct Free(Arc<AtomicBool>);
        impl Drop for Free {
            fn drop(&mut self) {
                self.0.store(false, Release);
            }
        }
        if self
            .busy
            .compare_exchange(false, true, AcqRel, Acquire)
            .is_err()
        {
            return Err(SocketsError::Busy);
        }
        let free = Free(Arc::clone(&self.busy));
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("sockets".to_owned())
            .spawn(move || {
                let answer = look(&subjects, Instant::now() + PATIENCE);
                drop(free);
                // Who asked may have stopped waiting.
                let _ = sender.send(answer);
            })
            .map_err(SocketsError::Thread)?;
        Ok(receiver)
    }
}

/// Reads every namespace once, whichever agents are in it. Leaves the thread in one of them.
fn look(subjects: &[Subject], until: Instant) -> Result<InUse, SocketsError> {
    let mut found = InUse::new();
    let mut namespaces = tree::Namespaces::default();
    let mut owners: HashMap<u64, &Subject> = HashMap::new();
    for subject in subjects {
        for cgroup in &subject.cgroups {
            let below = tree::below(cgroup);
            namespaces.add(&below.processes);
            owners.extend(below.ids.into_iter().map(|id| (id, subject)));
        }
        found.insert(subject.agent, BTreeSet::new());
    }
    for namespace in namespaces.into_entered() {
        let read = namespace.and_then(|()| {
            diag::each_connected(until, |cgroup, addr| {
                if let Some(subject) = owners.get(&cgroup)
                    && subject.addresses.contains(&addr)
                    && let Some(used) = found.get_mut(&subject.agent)
                {
                    used.insert(addr);
                }
            })
        });
        match read {
            Ok(()) => {}
            // What is not found out of one namespace is not in use; it is no reason to let
            // down the sockets of another.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(SocketsError::TooLong);
            }
            Err(error) => {
                tracing::warn!(%error, "the sockets of a network namespace cannot be read; addresses that they use end with their leases");
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// Needs no privilege: one's own namespace may be read by everyone.
    #[test]
    fn what_this_process_is_connected_to_is_found_and_the_rest_is_not() {
        let listener = TcpListener::bind("127.0.0.9:0").expect("listener");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("stream");
        let udp = UdpSocket::bind("[::]:0").expect("socket");
        udp.connect("[::ffff:127.0.0.10]:9").expect("connect");
        let unconnected = UdpSocket::bind("127.0.0.11:0").expect("socket");
        let mut cgroups = BTreeMap::<IpAddr, BTreeSet<u64>>::new();
        diag::each_connected(Instant::now() + PATIENCE, |cgroup, addr| {
            cgroups.entry(addr).or_default().insert(cgroup);
        })
        .expect("dump");
        let of = |text: &str| cgroups.get(&text.parse::<IpAddr>().expect("address"));
        assert!(of("127.0.0.9").is_some());
        assert_eq!(
            of("127.0.0.10"),
            of("127.0.0.9"),
            "both were made in this test's cgroup"
        );
        assert_eq!(of("127.0.0.11"), None);
        assert_eq!(of("0.0.0.0"), None);
        drop((stream, udp, unconnected));
    }

    #[test]
    fn what_takes_too_long_has_no_answer() {
        let late = diag::each_connected(Instant::now(), |_, _| {});
        assert_eq!(
            late.expect_err("in no time").kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[tokio::test]
    async fn an_agent_without_a_cgroup_uses_nothing() {
        let sockets = Sockets::default();
        let subject = Subject {
            agent: 7,
            cgroups: vec!["/nonexistent/exeat".into()],
            addresses: ["192.0.2.1".parse().expect("address")].into(),
        };
        let answer = sockets.ask(vec![subject.clone()]).await.expect("answer");
        assert_eq!(answer, [(7, BTreeSet::new())].into());
        let again = sockets.ask_now(vec![subject]).expect("free again");
        assert_eq!(again, [(7, BTreeSet::new())].into());
    }
}
