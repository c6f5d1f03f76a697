//! What waits for a person: connections that the kernel holds, and names at the gates.
//!
//! ```text
//! connect, held ─ event ─→ a question at the desk ─┬ allow: the grant is in force, so the next SYN
//!                                                  │        passes, and nothing is to be done
//! SYN, held ─ event ─→ the ends of the socket ─────┴ deny, or too late: SOCK_DESTROY
//! ```
//!
//! Nothing here lets anything out. What is not known here (the daemon was started meanwhile, an
//! event was lost) stays held in the kernel, which tells of it again every few seconds.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_common::{FlowEvent, Hook, Protocol, Reason};
use jiff::Timestamp;

use super::{directory::Directory, gates::Means};
use crate::{
    asking::{Asked, Asks, Desk, Ruling, Subject},
    flow::FlowRecord,
    kernel::cgroup,
    leases::{Name, canonical},
    policy::Ask,
    sockets::{Aborter, Connection, processes_below},
};

/// Sockets that are known to be held. The kernel bounds those of an agent; this bounds what
/// agents that come and go leave behind.
const ROOM: usize = 16 * 1024;
/// A socket that was held is remembered for so long: no question stands longer, and no connect
/// of a socket takes longer.
const MEMORY: Duration = Duration::from_secs(1800);

/// How long Linux tries to connect, usually (`tcp_syn_retries`).
const CONNECT: Duration = Duration::from_secs(127);

/// Index of the agent, and cookie of the socket.
type Key = (u32, u64);

/// Its own end of a connection and the far one.
type Ends = (SocketAddr, SocketAddr);

struct Held {
    /// Its own end and the far one, once its first SYN was seen.
    ends: Option<Ends>,
    /// It was denied, and is to be ended whenever it shows itself.
    denied: bool,
    since: Instant,
}

/// Puts questions for what is held, and carries the answers out.
pub(super) struct Holding {
    desk: Desk,
    directory: Arc<Directory>,
    aborter: Aborter,
    means: Means,
    slice: PathBuf,
    held: Mutex<HashMap<Key, Held>>,
}

impl Holding {
    pub(super) fn new(
        desk: Desk,
        directory: Arc<Directory>,
        aborter: Aborter,
        means: Means,
        slice: &Path,
    ) -> Arc<Self> {
        Arc::new(Self {
            desk,
            directory,
            aborter,
            means,
            slice: slice.to_owned(),
            held: Mutex::default(),
        })
    }

    /// What ends connections.
    pub(super) fn aborter(&self) -> &Aborter {
        &self.aborter
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection is held that the event is about, or has to be.
    pub(super) fn waits_for(&self, event: &FlowEvent) -> bool {
        let key = (event.agent, event.socket_cookie);
        event.reason() == Reason::Asked
            || event.hook() == Hook::Egress && self.held().contains_key(&key)
    }

    /// Looks at an event; false if nobody is to be told of it. Call it within a runtime.
    pub(super) fn seen(self: &Arc<Self>, event: &FlowEvent, record: &FlowRecord) -> bool {
        let key = (event.agent, event.socket_cookie);
        match (event.reason(), event.hook()) {
            (Reason::Asked, Hook::Connect4 | Hook::Connect6) => {
                self.hold(key, None, event, record);
                true
            }
            (Reason::Asked, _) => {
                let ends = ends(event);
                let known = self.held().get_mut(&key).map(|held| {
                    held.ends = Some(ends);
                    held.denied
                });
                match known {
                    Some(true) => self.end(key, &record.agent),
                    Some(false) => {}
                    None => self.hold(key, Some(ends), event, record),
                }
                known.is_none()
            }
            // It was held, and now a rule decides, or nobody is asked any more.
            (_, Hook::Egress) if !event.monitored() && !event.allowed() => {
                let held = self.held().get_mut(&key).map(|held| {
                    held.ends = Some(ends(event));
                    held.denied = true;
                });
                if held.is_some() {
                    self.end(key, &record.agent);
                }
                true
            }
            (
                Reason::NoRule | Reason::Port,
                Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6,
            ) if !event.monitored() => {
                // It was refused, and nobody waits: the question stands for the next try.
                if let Some(asked) = self.question(event, record) {
                    drop(self.desk.ask(asked));
                }
                true
            }
            _ => true,
        }
    }

    /// Puts the question of a connection that is held.
    fn hold(
        self: &Arc<Self>,
        key: Key,
        ends: Option<Ends>,
        event: &FlowEvent,
        record: &FlowRecord,
    ) {
        let now = Instant::now();
        let mut all = self.held();
        if all.len() >= ROOM {
            all.retain(|_, held| now.duration_since(held.since) < MEMORY);
        }
        if all.len() >= ROOM && !all.contains_key(&key) {
            // It stays held until its connect times out.
            return;
        }
        let held = Held {
            ends,
            denied: false,
            since: now,
        };
        all.insert(key, held);
        drop(all);
        let Some(asked) = self.question(event, record) else {
            return self.deny(key, record);
        };
        // The question is put here, in the order of the events.
        let ruling = self.desk.ask(asked);
        let (holding, record) = (Arc::clone(self), record.clone());
        tokio::spawn(async move {
            match ruling.await {
                Ruling::Allow => holding.release(key, &record.agent).await,
                Ruling::Deny => holding.deny(key, &record),
            }
        });
    }

    /// Ends what was held, and tells of it.
    fn deny(&self, key: Key, record: &FlowRecord) {
        let known = self.held().get_mut(&key).map(|held| {
            let first = !held.denied;
            held.denied = true;
            (first, held.ends.is_some())
        });
        if let Some((_, true)) = known {
            self.end(key, &record.agent);
        }
        if let (Some((true, _)), Some(shared)) = (known, self.means.shared()) {
            shared.hub.publish(FlowRecord {
                time: Timestamp::now(),
                reason: Some(Reason::DeniedByPerson),
                ..record.clone()
            });
        }
    }

    /// Forgets what was let out. Its socket has so many SYNs left that it would try a server that
    /// is not there for hours: after the usual time it is ended.
    async fn release(&self, key: Key, agent: &str) {
        let ends = self.held().remove(&key).and_then(|held| held.ends);
        tokio::time::sleep(CONNECT).await;
        // It may be held again, for another destination.
        let again = self.held().contains_key(&key);
        if let (Some(ends), false) = (ends, again) {
            self.abort(ends, key.1, agent, true);
        }
    }

    /// Has a socket destroyed.
    fn end(&self, key: Key, agent: &str) {
        let ends = self.held().get(&key).and_then(|held| held.ends);
        if let Some(ends) = ends {
            self.abort(ends, key.1, agent, false);
        }
    }

    /// The same, wherever the agent is.
    fn abort(&self, ends: Ends, cookie: u64, agent: &str, unless_open: bool) {
        for cgroup in self.folders(agent) {
            self.aborter.end(Connection {
                ends,
                cookie,
                cgroup,
                unless_open,
            });
        }
    }

    /// The agent's cgroups, at once: of one that has none elsewhere, or where the engine is busy,
    /// the one in the slice.
    fn folders(&self, agent: &str) -> Vec<PathBuf> {
        let shared = self.means.shared();
        let all =
            shared.and_then(|shared| shared.try_with(|engine| Some(engine.cgroups_of(agent))));
        all.unwrap_or_else(|| vec![cgroup::agent_folder(&self.slice, agent)])
    }

    /// The question that an event comes to; none where nobody may be asked.
    fn question(&self, event: &FlowEvent, record: &FlowRecord) -> Option<Asked> {
        let ask = self.directory.ask(event.agent);
        if ask.who == Asks::Nobody {
            return None;
        }
        let addr = IpAddr::from(event.dest);
        let subject = match record.names.first() {
            Some(name) => Subject::Name { name: name.clone() },
            // This machine, and the networks around it, are for the policy to open.
            None => Subject::Address {
                address: canonical(addr, false).filter(|_| !event.dest.is_special())?,
            },
        };
        let uid = record.process.as_ref().map(|process| process.uid);
        Some(Asked {
            run: self.run(&record.agent, record.process.as_ref().map(|p| p.pid)),
            agent: record.agent.clone(),
            subject,
            port: (event.protocol() != Protocol::ICMP).then_some(event.dest_port),
            protocol: Some(record.protocol),
            process: record.process.clone(),
            asks: ask.who,
            uid: uid.or_else(|| self.user(&record.agent)),
            timeout: ask.timeout,
        })
    }

    /// Asks about a name.
    pub(super) async fn ask_name(&self, agent: u32, name: &Name, ask: Ask) -> Ruling {
        let (agent, _) = self.directory.agent(agent);
        let asked = Asked {
            run: self.run(&agent, None),
            uid: self.user(&agent),
            agent,
            subject: Subject::Name {
                name: name.to_string(),
            },
            port: None,
            protocol: None,
            process: None,
            asks: ask.who,
            timeout: ask.timeout,
        };
        self.desk.ask(asked).await
    }

    /// The run of a process of the agent; of no process, the only run there is.
    fn run(&self, agent: &str, pid: Option<u32>) -> Option<String> {
        let runs = std::fs::read_dir(cgroup::agent_folder(&self.slice, agent)).ok()?;
        let runs = runs.flatten().filter(|entry| entry.path().is_dir());
        let mut runs = runs.filter(|entry| match pid {
            Some(pid) => processes_below(&entry.path()).contains(&pid),
            None => true,
        });
        let run = runs.next()?.file_name().into_string().ok()?;
        runs.next().is_none().then_some(run)
    }

    /// Whose processes the agent's are, where they are of one user: a message to the gate does
    /// not say.
    fn user(&self, agent: &str) -> Option<u32> {
        use std::os::unix::fs::MetadataExt as _;
        let folders = self.folders(agent);
        let processes = folders.iter().flat_map(|folder| processes_below(folder));
        let owner = |pid| std::fs::metadata(format!("/proc/{pid}")).ok();
        let mut users = processes.filter_map(owner).map(|process| process.uid());
        let user = users.next()?;
        users.all(|other| other == user).then_some(user)
    }
}

/// Both ends of a packet's connection.
fn ends(event: &FlowEvent) -> Ends {
    let end = |addr, port| SocketAddr::new(IpAddr::from(addr), port);
    (
        end(event.source, event.source_port),
        end(event.dest, event.dest_port),
    )
}
