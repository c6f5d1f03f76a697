//! The gates of all agents: their sockets and the tasks that serve them.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    directory::{Directory, Published},
    watch,
};
use crate::{
    dns::{
        gate::{GatePorts, GateSockets},
        stats::DnsStats,
    },
    kernel::object::Throttle,
    sink::Hub,
};

/// Records of one gate that may wait to be told. Each gate has its own queue, so that one
/// agent's questions cannot crowd out another's.
const QUEUE: usize = 1024;

struct Gate {
    ports: GatePorts,
    published: Arc<Published>,
    stop: CancellationToken,
}

/// Every gate that is open.
pub(super) struct Gates {
    open: BTreeMap<u32, Gate>,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    throttle: Throttle,
    stats: Arc<DnsStats>,
    cancel: CancellationToken,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Gates {
    pub(super) fn new(
        directory: Arc<Directory>,
        hub: Arc<Hub>,
        throttle: Throttle,
        stats: Arc<DnsStats>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            open: BTreeMap::new(),
            directory,
            hub,
            throttle,
            stats,
            cancel,
            tasks: Arc::default(),
        }
    }

    /// Opens the gate of an agent if it is not open. Call it within a tokio runtime.
    pub(super) fn open(&mut self, agent: u32, port4: u16, port6: u16) -> io::Result<GatePorts> {
        if let Some(gate) = self.open.get(&agent) {
            return Ok(gate.ports);
        }
        let preferred = GatePorts {
            v4: port4,
            v6: port6,
        };
        let sockets = GateSockets::bind(agent, preferred)?;
        let ports = sockets.ports();
        let published = Arc::new(Published::default());
        let stop = self.cancel.child_token();
        let (records, queue) = mpsc::channel(QUEUE);
        let serve = sockets.serve(
            Arc::clone(&published) as Arc<dyn crate::dns::gate::Answers + Send + Sync>,
            records,
            self.stats.gate(agent),
            stop.clone(),
        );
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(watch::gate_refusals(
            queue,
            self.throttle,
            Arc::clone(&self.directory),
            Arc::clone(&self.hub),
            stop.clone(),
        ));
        tasks.spawn(async move {
            if let Err(error) = serve.await {
                error!(agent, %error, "the DNS gate failed; the agent's names are refused");
            }
        });
        self.open.insert(
            agent,
            Gate {
                ports,
                published,
                stop,
            },
        );
        Ok(ports)
    }

    /// Closes the gate of an agent: its queries are refused from now on.
    pub(super) fn close(&mut self, agent: u32) {
        if let Some(gate) = self.open.remove(&agent) {
            gate.stop.cancel();
            self.stats.forget_gate(agent);
        }
    }

    /// What the agent's gate answers from.
    pub(super) fn published(&self, agent: u32) -> Arc<Published> {
        self.open
            .get(&agent)
            .map(|gate| Arc::clone(&gate.published))
            .unwrap_or_default()
    }

    /// Ports by agent.
    pub(super) fn ports(&self) -> BTreeMap<u32, GatePorts> {
        self.open
            .iter()
            .map(|(agent, gate)| (*agent, gate.ports))
            .collect()
    }

    /// Agents by the port of their gate at `::1`.
    pub(super) fn ports6(&self) -> BTreeMap<u16, u32> {
        self.open
            .iter()
            .filter(|(_, gate)| gate.ports.v6 != 0)
            .map(|(agent, gate)| (gate.ports.v6, *agent))
            .collect()
    }

    /// The tasks, to be joined at the end.
    pub(super) fn tasks(&self) -> Arc<Mutex<JoinSet<()>>> {
        Arc::clone(&self.tasks)
    }
}
