//! The gates of all agents: their sockets and the tasks that serve them.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name as WireName, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    directory::{Directory, Published},
    watch,
};
use crate::{
    dns::{
        budget::Spent,
        gate::{
            Answer, Backend, Failed, GatePorts, GateSockets, Granted, NameRule, NotGranted,
            Question, Records, Refuse, Source,
        },
        stats::DnsStats,
    },
    kernel::object::Throttle,
    leases::{FailKind, Name},
    sink::Hub,
};

/// Records of one gate that may wait to be told, refusals and answers each. Each gate has its
/// own queues, so that one agent's questions cannot crowd out another's.
const QUEUE: usize = 1024;

struct Gate {
    ports: GatePorts,
    published: Arc<Published>,
    stop: CancellationToken,
}

/// The gate of a policy whose names are all resolved beforehand: what the engine has
/// published is at hand and granted, and nothing is looked up.
struct FromPublished(Arc<Published>);

impl Backend for FromPublished {
    fn rule(&self, name: &str) -> Option<NameRule> {
        self.0.lookup(name).map(|_| NameRule::default())
    }

    fn refuse(&self) -> Refuse {
        Refuse::Refused
    }

    fn spend(&self, _name: &str, _rule: &NameRule) -> Spent {
        Spent::Within
    }

    fn cached(&self, question: &Question) -> Option<Answer> {
        let addresses = self.0.lookup(&question.name)?;
        // A name of which nothing is known (yet) fails; it is not empty.
        if addresses.is_empty() && is_address(question.rtype) {
            return None;
        }
        let owner = WireName::from_ascii(format!("{}.", question.name)).ok()?;
        let mut shortest = u64::from(u32::MAX);
        let records: Vec<Record> = addresses
            .into_iter()
            .filter_map(|(addr, left)| {
                let data = match (addr, question.rtype) {
                    (IpAddr::V4(v4), RecordType::A) => RData::A(A(v4)),
                    (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(v6)),
                    _ => return None,
                };
                let ttl = left.as_secs().max(1);
                shortest = shortest.min(ttl);
                let ttl = u32::try_from(ttl).unwrap_or(u32::MAX);
                Some(Record::from_rdata(owner.clone(), ttl, data))
            })
            .collect();
        Some(Answer {
            rcode: ResponseCode::NoError,
            records: records.into(),
            authority: Arc::default(),
            authentic: false,
            ttl: u32::try_from(shortest).unwrap_or(u32::MAX),
            chain: Vec::new(),
            source: Source::Cache,
            upstream: Arc::from(""),
            elapsed: Duration::ZERO,
        })
    }

    async fn resolve(&self, _question: Question) -> Result<Answer, Failed> {
        Err(Failed {
            kind: FailKind::NoAddresses,
            upstream: Arc::from(""),
            elapsed: Duration::ZERO,
        })
    }

    fn granted(
        &self,
        name: &Name,
        _addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Option<Granted> {
        Some(Granted {
            held: self.0.lookup(name)?,
            ..Granted::default()
        })
    }

    async fn grant(
        &self,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        rule: &NameRule,
    ) -> Result<Granted, NotGranted> {
        self.granted(name, addresses, rule)
            .ok_or_else(|| NotGranted {
                why: "the name left the policy".to_owned(),
            })
    }
}

const fn is_address(rtype: RecordType) -> bool {
    matches!(rtype, RecordType::A | RecordType::AAAA)
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
        let (records, refusals, answers) = Records::channel(QUEUE);
        let serve = sockets.serve(
            Arc::new(FromPublished(Arc::clone(&published))),
            records,
            self.stats.gate(agent),
            stop.clone(),
        );
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(watch::gate_records(
            refusals,
            answers,
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
