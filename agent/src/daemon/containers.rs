//! Gates and gateways in the network namespaces that agents bring along, as containers do.
//!
//! Their addresses are loopback, and every namespace has a loopback of its own. The hooks
//! steer there whatever namespace a program is in, so each agent's gate and gateway are opened,
//! at the same address and ports, in every namespace that a process of the agent is in. That is looked for
//! five times a second: until then, and while its loopback is down, questions from there are
//! refused at once. The sockets would keep a namespace alive, so they are closed when no
//! process of the agent is in it any more.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Shared, engine::Engine};
use crate::{
    dns::gate::{GatePorts, GateSockets},
    error::chain,
    gateway::{GatewayPorts, GatewaySockets},
    sockets::{Peers, processes_below},
};

/// How often namespaces are looked for.
const ROUND: Duration = Duration::from_millis(200);
/// Namespaces of one agent that get a gate. An agent can make as many as its user may.
const MOST: usize = 16;

/// A network namespace, while something keeps it: device and inode of its file in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Namespace(u64, u64);

impl Namespace {
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self(found.dev(), found.ino()))
    }

    fn file(file: &File) -> io::Result<Self> {
        file.metadata().map(|found| Self(found.dev(), found.ino()))
    }
}

/// What is to be looked at of one agent.
pub(super) struct Visit {
    agent: u32,
    name: String,
    cgroups: Vec<PathBuf>,
    gate: GatePorts,
    gateway: Option<GatewayPorts>,
    /// Where the gate answers, and where the gateway.
    open: (BTreeSet<Namespace>, BTreeSet<Namespace>),
}

impl Visit {
    fn wants(&self, namespace: Namespace) -> (bool, bool) {
        let gateway = self.gateway.is_some() && !self.open.1.contains(&namespace);
        (!self.open.0.contains(&namespace), gateway)
    }
}

/// What was opened in a namespace.
#[derive(Default)]
struct Opened {
    gate: Option<GateSockets>,
    gateway: Option<(GatewaySockets, Peers)>,
}

/// What was found.
struct Found {
    agent: u32,
    /// Where its processes are.
    present: BTreeSet<Namespace>,
    opened: BTreeMap<Namespace, io::Result<Opened>>,
}

impl Engine {
    /// The agents that something runs of.
    fn visits(&self) -> Vec<Visit> {
        let names: BTreeSet<&String> = self.admitted.keys().chain(self.adoption.agents()).collect();
        names
            .into_iter()
            .filter_map(|name| {
                let agent = self.agents.get(name)?.index;
                let (gate, open) = self.gates.abroad(agent)?;
                let (gateway, open_gateway) = self.gateways.abroad(agent).unzip();
                Some(Visit {
                    agent,
                    name: name.clone(),
                    cgroups: self.cgroups_of(name),
                    gate,
                    gateway,
                    open: (open, open_gateway.unwrap_or_default()),
                })
            })
            .collect()
    }
}

/// Opens and closes them, until it is cancelled.
pub(super) async fn watch(shared: Arc<Shared>, cancel: CancellationToken) {
    let own = match Namespace::of(Path::new("/proc/self/ns/net")) {
        Ok(own) => own,
        Err(error) => {
            warn!(%error, "network namespaces cannot be told apart; names do not resolve in containers");
            return;
        }
    };
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let visits = shared.with(|engine| engine.visits());
        if visits.is_empty() {
            continue;
        }
        let looked = tokio::task::spawn_blocking(move || {
            let found: Vec<Found> = visits.iter().map(|visit| look(visit, own)).collect();
            (visits, found)
        });
        let Ok((visits, found)) = looked.await else {
            continue;
        };
        shared.with(|engine| {
            for (visit, found) in visits.iter().zip(found) {
                settle(engine, visit, found, &mut told);
            }
        });
    }
}

fn settle(engine: &mut Engine, visit: &Visit, found: Found, told: &mut HashSet<(u32, Namespace)>) {
    engine.gates.leave(found.agent, &found.present);
    engine.gateways.leave(found.agent, &found.present);
    told.retain(|(agent, namespace)| *agent != found.agent || found.present.contains(namespace));
    for (namespace, opened) in found.opened {
        match opened {
            // Only where they are still those that were asked for.
            Ok(Opened { gate, gateway }) => {
                let (agent, name) = (found.agent, &visit.name);
                if let Some(sockets) = gate
                    && engine.gates.serve_abroad(agent, namespace, sockets)
                {
                    info!(
                        agent = name,
                        "names resolve in a network namespace of its own"
                    );
                }
                if let Some((sockets, peers)) = gateway
                    && engine
                        .gateways
                        .serve_abroad(agent, namespace, sockets, peers)
                {
                    info!(
                        agent = name,
                        "its gateway is in a network namespace of its own"
                    );
                }
            }
            // Its loopback is down: as long as that is so, nothing there asks.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => {
                if told.insert((found.agent, namespace)) {
                    warn!(
                        agent = visit.name,
                        error = chain(&error),
                        "names do not resolve in a network namespace of its own"
                    );
                }
            }
        }
    }
}

/// Reads where the processes of an agent are, and opens its gate where it is not open.
fn look(visit: &Visit, own: Namespace) -> Found {
    let mut found = Found {
        agent: visit.agent,
        present: BTreeSet::new(),
        opened: BTreeMap::new(),
    };
    let processes = visit.cgroups.iter();
    for pid in processes.flat_map(|cgroup| processes_below(cgroup)) {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        // One that has ended needs no gate.
        let Ok(namespace) = Namespace::of(&path) else {
            continue;
        };
        if namespace == own || found.present.contains(&namespace) {
            continue;
        }
        if found.present.len() == MOST && !visit.open.0.contains(&namespace) {
            continue;
        }
        found.present.insert(namespace);
        if visit.wants(namespace) != (false, false) {
            let opened = open(&path, namespace, visit);
            found.opened.insert(namespace, opened);
        }
    }
    found
}

/// Sockets in another namespace, made by a thread of their own, because it enters it.
fn open(path: &Path, namespace: Namespace, visit: &Visit) -> io::Result<Opened> {
    let file = File::open(path)?;
    // The process may be another one by now, or have moved.
    if Namespace::file(&file)? != namespace {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let (agent, ports) = (visit.agent, visit.gate);
    let (gate, gateway) = visit.wants(namespace);
    let gateway = visit.gateway.clone().filter(|_| gateway);
    let bind = move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let mut opened = Opened::default();
        if gate {
            opened.gate = Some(GateSockets::bind_at(agent, ports)?);
        }
        if let Some(ports) = gateway {
            opened.gateway = Some((GatewaySockets::bind_at(agent, &ports)?, Peers::here()?));
        }
        Ok(opened)
    };
    let thread = thread::Builder::new().name("container".to_owned());
    let opened = thread.spawn(bind)?.join();
    opened.unwrap_or_else(|_| Err(io::Error::other("the thread that opens a gate failed")))
}
