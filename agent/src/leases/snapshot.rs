//! Leases across a restart of the daemon.
//!
//! Deadlines are times since boot, so a snapshot means something on the boot that made
//! it and is ignored on any other.
//!
//! A snapshot is written now and then. What was leased since is in a journal, a line a lease,
//! so that a daemon that is killed at any moment leaves no client with an address that the
//! next one does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LeaseView, Leases, Name, canonical};

/// 1 had no agents.
const VERSION: u32 = 2;

/// The leases of a daemon that has ended, by the names of the agents: their indices may be
/// others now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    version: u32,
    boot_id: String,
    agents: BTreeMap<String, BTreeMap<String, Vec<AddressLease>>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressLease {
    addr: IpAddr,
    deadline_ms: u64,
    promised_ms: u64,
    fresh: bool,
}

/// The first line of a journal.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
}

/// Another line of a journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<A, N> {
    agent: A,
    name: N,
    addr: IpAddr,
    deadline_ms: u64,
    promised_ms: u64,
}

/// The first line of a journal, with its end.
pub fn journal_head(boot_id: &str) -> String {
    let head = Head {
        version: VERSION,
        boot_id: boot_id.trim().to_owned(),
    };
    // Numbers and text are always JSON.
    serde_json::to_string(&head).unwrap_or_default() + "\n"
}

/// A snapshot that cannot be read. The leases are as they were before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not the JSON of a snapshot.
    #[error("the lease snapshot cannot be read; names will be resolved anew")]
    Json(#[from] serde_json::Error),
    /// Written by another version.
    #[error("the lease snapshot has version {0} instead of {VERSION}; names will be resolved anew")]
    Version(u32),
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Snapshot {
    /// A snapshot of nothing.
    pub fn empty(boot_id: &str) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id.trim().to_owned(),
            agents: BTreeMap::new(),
        }
    }

    /// Adds what a journal of the same boot has; of another it is nothing. A line that was cut
    /// off by the end of its writer ends it.
    pub fn replay(&mut self, journal: &str) {
        let mut lines = journal.lines();
        let same = lines
            .next()
            .and_then(|line| serde_json::from_str::<Head>(line).ok())
            .is_some_and(|head| head.version == VERSION && head.boot_id == self.boot_id);
        if !same {
            return;
        }
        for line in lines {
            let Ok(line) = serde_json::from_str::<Line<String, String>>(line) else {
                return;
            };
            let names = self.agents.entry(line.agent).or_default();
            let leases = names.entry(line.name).or_default();
            // The snapshot may be the later one, with a lease that has been renewed.
            match leases.iter_mut().find(|lease| lease.addr == line.addr) {
                Some(lease) => {
                    lease.deadline_ms = lease.deadline_ms.max(line.deadline_ms);
                    lease.promised_ms = lease.promised_ms.max(line.promised_ms);
                }
                None => leases.push(AddressLease {
                    addr: line.addr,
                    deadline_ms: line.deadline_ms,
                    promised_ms: line.promised_ms,
                    fresh: true,
                }),
            }
        }
    }

    /// Reads what [`Leases::snapshot`] wrote; `None` if that was on another boot. `boot_id`
    /// is the content of `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn parse(json: &str, boot_id: &str) -> Result<Option<Self>, RestoreError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(json)?;
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        let snapshot: Self = serde_json::from_str(json)?;
        Ok((snapshot.boot_id == boot_id.trim()).then_some(snapshot))
    }

    /// The addresses of every agent, also those whose time has ended since: to be asked of
    /// them whether a socket uses them.
    pub fn addresses(&self) -> BTreeMap<&str, BTreeSet<IpAddr>> {
        self.agents
            .iter()
            .map(|(agent, names)| {
                let addresses = names.values().flatten().map(|lease| lease.addr).collect();
                (agent.as_str(), addresses)
            })
            .collect()
    }
}

impl Leases {
    /// The line of a journal about a lease that is new, with its end; `owner` is the agent's
    /// name. `None` if there is no such lease.
    pub fn journal_line(
        &self,
        agent: u32,
        owner: &str,
        name: &Name,
        addr: IpAddr,
    ) -> Option<String> {
        let lease = self.lease(agent, name, addr)?;
        let line = Line {
            agent: owner,
            name: name.as_ref(),
            addr,
            deadline_ms: millis(lease.deadline),
            promised_ms: millis(lease.promised),
        };
        serde_json::to_string(&line).ok().map(|line| line + "\n")
    }

    /// The leases as JSON, for [`Leases::restore`] after a restart on the same boot.
    /// `agents` are the names of the agents by index; `boot_id` is as in
    /// [`Snapshot::parse`].
    ///
    /// # Errors
    /// None that is known; serializing is fallible by type.
    pub fn snapshot(
        &self,
        agents: &BTreeMap<u32, String>,
        boot_id: &str,
    ) -> Result<String, serde_json::Error> {
        let of_agent = |index: &u32| {
            self.names(*index)
                .map(|name| {
                    let leases = self
                        .addresses(*index, name, Duration::ZERO)
                        .map(|view| AddressLease {
                            addr: view.addr,
                            deadline_ms: millis(view.deadline),
                            promised_ms: millis(view.promised),
                            fresh: view.fresh,
                        })
                        .collect();
                    (name.to_string(), leases)
                })
                .collect()
        };
        serde_json::to_string(&Snapshot {
            version: VERSION,
            boot_id: boot_id.trim().to_owned(),
            agents: agents
                .iter()
                .map(|(index, agent)| (agent.clone(), of_agent(index)))
                .collect(),
        })
    }

    /// Takes the place of all leases by those of a snapshot, for the agents in `indices`. A
    /// lease keeps its deadline, but never gets more than a fresh answer could give, and
    /// obeys the bounds and the guard. One whose time has ended comes back, for `hold`, where
    /// a live socket of its agent uses it (`used`). [`Leases::set_names`] then takes away
    /// what the policy no longer has. Returns how many there are.
    pub fn restore(
        &mut self,
        snapshot: &Snapshot,
        indices: &BTreeMap<String, u32>,
        used: &BTreeMap<String, BTreeSet<IpAddr>>,
        hold: Duration,
        now: Duration,
    ) -> usize {
        let now = self.advance(now);
        let latest = now + self.config.lifetime(u32::MAX);
        let promised = now + self.config.promise(u32::MAX);
        self.agents.clear();
        for (agent, names) in &snapshot.agents {
            let Some(index) = indices.get(agent) else {
                continue;
            };
            let leases = self.agents.entry(*index).or_default();
            for (name, addresses) in names {
                let name = Name::from(name.as_str());
                for lease in addresses {
                    let Some(addr) = canonical(lease.addr, true) else {
                        continue;
                    };
                    let mut deadline = Duration::from_millis(lease.deadline_ms).min(latest);
                    let in_use = used.get(agent).is_some_and(|used| used.contains(&addr));
                    if in_use {
                        deadline = deadline.max(now + hold);
                    }
                    if deadline <= now {
                        continue;
                    }
                    let view = LeaseView {
                        addr,
                        remaining: deadline - now,
                        deadline,
                        promised: Duration::from_millis(lease.promised_ms).min(promised),
                        fresh: lease.fresh,
                        in_use,
                    };
                    leases.restore(&self.config, &name, view);
                }
            }
        }
        self.len()
    }
}
