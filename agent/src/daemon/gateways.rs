//! The gateways of the agents that have one: their sockets, and the tasks that serve them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use agent_common::layout::gate_v4;
use data_encoding::HEXLOWER;
use rand::{TryRngCore as _, rngs::OsRng};
use tokio_util::sync::CancellationToken;

use super::{
    containers::Namespace,
    directory::Directory,
    fd_store::{FdStore, Owner, Service},
    gates::{Desk as Gate, Means},
    gateway_desk::{Desk, Post, Rules},
    gateway_records,
    serving::{Abroad, Tasks, lock},
    state::GatewayState,
};
use crate::{
    control::ProxyAddress,
    gateway::{
        Credentials, GatewayConfig, GatewayPorts, GatewaySockets, GatewayStats, Listening, Records,
    },
    kernel::{Steered, object::Throttle},
    policy::GatewayPolicy,
    sink::Hub,
    sockets::Peers,
};

/// Records of one gateway that may wait to be told, refusals and the rest each.
const QUEUE: usize = 1024;
/// Random bytes of a token.
const TOKEN: usize = 32;

struct Open {
    name: String,
    ports: GatewayPorts,
    desk: Arc<Desk>,
    records: Records,
    stats: Arc<GatewayStats>,
    stop: CancellationToken,
    /// Where else it answers, and what ends that.
    abroad: Abroad,
}

/// What a gateway is opened for.
pub(super) struct Wanted<'a> {
    pub(super) agent: u32,
    pub(super) name: &'a str,
    /// What the last daemon knew of it.
    pub(super) last: Option<GatewayState>,
    pub(super) rules: Rules,
    pub(super) gate: Arc<Gate>,
}

/// Every gateway that is open.
pub(super) struct Gateways {
    open: BTreeMap<u32, Open>,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    throttle: Throttle,
    config: GatewayConfig,
    means: Means,
    cancel: CancellationToken,
    tasks: Tasks,
    store: Arc<Mutex<FdStore>>,
}

fn ports_of(words: BTreeMap<String, u16>) -> GatewayPorts {
    let ports = words.into_iter();
    ports
        .filter_map(|(word, port)| Some((word.parse().ok()?, port)))
        .collect()
}

/// A token that nobody guesses.
fn token() -> io::Result<String> {
    let mut bytes = [0; TOKEN];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(HEXLOWER.encode(&bytes))
}

impl Gateways {
    #[expect(clippy::too_many_arguments, reason = "each is one part of the daemon")]
    pub(super) fn new(
        directory: Arc<Directory>,
        hub: Arc<Hub>,
        throttle: Throttle,
        config: GatewayConfig,
        means: Means,
        cancel: CancellationToken,
        tasks: Tasks,
        store: Arc<Mutex<FdStore>>,
    ) -> Self {
        Self {
            open: BTreeMap::new(),
            directory,
            hub,
            throttle,
            config,
            means,
            cancel,
            tasks,
            store,
        }
    }

    /// The ports of an agent's gateway, if it is open.
    pub(super) fn ports(&self, agent: u32) -> Option<&GatewayPorts> {
        self.open.get(&agent).map(|open| &open.ports)
    }

    /// Opens an agent's gateway: the sockets that the last daemon had, or new ones, if possible
    /// at the same ports. `steered` is where the kernel says what its connections asked for.
    /// Call it within a tokio runtime, and only where none is open.
    pub(super) fn open(&mut self, wanted: Wanted<'_>, steered: Steered) -> io::Result<()> {
        let agent = wanted.agent;
        let (last_ports, last_token) = match wanted.last {
            Some(last) => (ports_of(last.ports), Some(last.token)),
            None => (GatewayPorts::new(), None),
        };
        let sockets = lock(&self.store).take_or_open(
            &Owner::new(Service::Gateway, wanted.name, agent),
            |kept| GatewaySockets::kept(agent, &last_ports, kept),
            || GatewaySockets::bind(agent, &last_ports),
            |sockets| sockets.each().collect(),
        )?;
        let credentials = Credentials {
            user: wanted.name.to_owned(),
            token: match last_token.filter(|token| token.len() == TOKEN * 2) {
                Some(token) => token,
                None => token()?,
            },
        };
        let desk = Desk::new(
            agent,
            wanted.rules,
            steered,
            wanted.gate,
            self.means.clone(),
            credentials,
        );
        let stop = self.cancel.child_token();
        let (records, refusals, flows) = Records::channel(QUEUE);
        self.tasks.spawn(gateway_records::tell(
            refusals,
            flows,
            self.throttle,
            Arc::clone(&self.directory),
            Arc::clone(&self.hub),
            stop.clone(),
        ));
        let open = Open {
            name: wanted.name.to_owned(),
            ports: sockets.ports()?,
            desk: Arc::new(desk),
            records,
            stats: Arc::default(),
            stop: stop.clone(),
            abroad: Abroad::default(),
        };
        self.serve(&open, agent, sockets, Peers::here()?, stop);
        self.open.insert(agent, open);
        Ok(())
    }

    /// What the next daemon is to know of an agent's gateway.
    pub(super) fn remembered(&self, agent: u32) -> Option<GatewayState> {
        let open = self.open.get(&agent)?;
        let ports = open.ports.iter();
        Some(GatewayState {
            ports: ports
                .map(|(kind, port)| (kind.to_string(), *port))
                .collect(),
            token: open.desk.credentials().token.clone(),
        })
    }

    /// Puts an agent's rules in force at its gateway, if it has one.
    pub(super) fn set_rules(&self, agent: u32, rules: Rules) {
        if let Some(open) = self.open.get(&agent) {
            open.desk.set_rules(rules);
        }
    }

    /// The proxy listeners that an agent's policy has.
    pub(super) fn proxies(&self, agent: u32, policy: &GatewayPolicy) -> Vec<ProxyAddress> {
        let Some(open) = self.open.get(&agent) else {
            return Vec::new();
        };
        let Credentials { user, token } = open.desk.credentials();
        let listeners = [
            (policy.http, Listening::Http, "EXEAT_HTTP_PROXY", "http"),
            (
                policy.socks5,
                Listening::Socks,
                "EXEAT_SOCKS5_PROXY",
                "socks5h",
            ),
        ];
        let listeners = listeners.into_iter().filter(|(on, ..)| *on);
        listeners
            .filter_map(|(_, kind, variable, scheme)| {
                let addr = Ipv4Addr::from(gate_v4(agent));
                let port = open.ports.get(&kind)?;
                Some(ProxyAddress {
                    variable: variable.to_owned(),
                    url: format!("{scheme}://{user}:{token}@{addr}:{port}"),
                })
            })
            .collect()
    }

    /// What the gateways count, by agent.
    pub(super) fn stats(&self) -> impl Iterator<Item = (u32, &GatewayStats)> {
        self.open.iter().map(|(agent, open)| (*agent, &*open.stats))
    }

    /// Closes an agent's gateway, and every connection with it.
    pub(super) fn close(&mut self, agent: u32) {
        if let Some(open) = self.open.remove(&agent) {
            open.stop.cancel();
            lock(&self.store).forget(&Owner::new(Service::Gateway, &open.name, agent));
        }
    }

    /// Agents whose gateway is open.
    pub(super) fn agents(&self) -> BTreeSet<u32> {
        self.open.keys().copied().collect()
    }

    /// Agents by the port of their gateway at `::1`.
    pub(super) fn ports6(&self) -> impl Iterator<Item = (u16, u32)> {
        let open = self.open.iter();
        open.filter_map(|(agent, open)| Some((*open.ports.get(&Listening::Steered6)?, *agent)))
    }

    /// The ports of an agent's gateway, and the other network namespaces in which it answers.
    pub(super) fn abroad(&self, agent: u32) -> Option<(GatewayPorts, BTreeSet<Namespace>)> {
        let open = self.open.get(&agent)?;
        Some((open.ports.clone(), open.abroad.namespaces()))
    }

    /// Has an agent's gateway answer in another network namespace too, at sockets that were
    /// made there. False where they are not those of the gateway.
    pub(super) fn serve_abroad(
        &mut self,
        agent: u32,
        namespace: Namespace,
        sockets: GatewaySockets,
        peers: Peers,
    ) -> bool {
        let Some(open) = self.open.get(&agent) else {
            return false;
        };
        let same = |ports: GatewayPorts| {
            ports
                .iter()
                .all(|(kind, port)| open.ports.get(kind) == Some(port))
        };
        if open.abroad.has(namespace) || !sockets.ports().is_ok_and(same) {
            return false;
        }
        let stop = open.stop.child_token();
        self.serve(open, agent, sockets, peers, stop.clone());
        if let Some(open) = self.open.get_mut(&agent) {
            open.abroad.add(namespace, stop);
        }
        true
    }

    /// Ends an agent's gateway in every other network namespace but these.
    pub(super) fn leave(&mut self, agent: u32, present: &BTreeSet<Namespace>) {
        if let Some(open) = self.open.get_mut(&agent) {
            open.abroad.leave(present);
        }
    }

    fn serve(
        &self,
        open: &Open,
        agent: u32,
        sockets: GatewaySockets,
        peers: Peers,
        stop: CancellationToken,
    ) {
        let serve = sockets.serve(
            Arc::new(Post::new(Arc::clone(&open.desk), peers)),
            self.config.clone(),
            open.records.clone(),
            Arc::clone(&open.stats),
            stop.clone(),
        );
        let failed = "a gateway of the agent failed; what is steered there is closed";
        self.tasks
            .serve(&self.means, agent, stop.clone(), failed, serve);
    }
}
