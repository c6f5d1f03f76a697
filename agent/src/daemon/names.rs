//! Names: what was resolved becomes leases, leases become entries of the kernel's tables, and
//! only what those hold is answered at the gates.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::IpAddr,
    time::Duration,
};

use agent_common::{
    Addr,
    layout::MAX_ENTRIES,
    verdict::{MAX_SET, Tables},
};
use tracing::{info, warn};

use super::engine::{Engine, EngineError};
use crate::{
    dns::{gate::Granted, resolver::Resolution},
    error::chain,
    kernel::tables::Leased,
    leases::{Change, ChangeKind, FailKind, LeaseView, Name, Snapshot, canonical, journal_head},
    policy::HostName,
    sockets::{InUse, Sockets, Subject},
};

/// The least time between two questions which sockets are live.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How long an address that a live socket uses is kept before it is asked again: the grace,
/// within these.
const HOLD: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(30));
/// The least time between two compilations of one agent's policy because a table was full.
const REBUILD_EVERY: Duration = Duration::from_secs(10);
/// Addresses without room that status can count.
const OVERFLOW_COUNTED: usize = 1024;
/// How long leases that only live longer now may be unsaved; one that came or went is saved
/// at the next round of the housekeeping.
const SAVE_PROLONGED: Duration = Duration::from_secs(10);

/// What a crash would lose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsaved {
    /// Leases came or went.
    changed: bool,
    /// Leases live longer.
    prolonged: bool,
    /// When the last were saved.
    saved: Duration,
}

impl Unsaved {
    /// Leases came or went.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }
}

impl Engine {
    /// Reads the leases that an earlier daemon had, for the first policy that is put in force,
    /// and which of them sockets use. Call it before the first reload.
    pub(super) fn remember_last_leases(&mut self) {
        let saved = self
            .keeper
            .load_leases()
            .map(|json| Snapshot::parse(&json, &self.boot_id));
        let mut snapshot = match saved {
            Some(Ok(Some(snapshot))) => snapshot,
            Some(Ok(None)) | None => Snapshot::empty(&self.boot_id),
            Some(Err(error)) => {
                warn!(%error, "the last daemon's leases cannot be used");
                Snapshot::empty(&self.boot_id)
            }
        };
        for journal in self.keeper.load_journals() {
            snapshot.replay(&journal);
        }
        if snapshot.addresses().is_empty() {
            return;
        }
        let names: BTreeSet<&String> = self.admitted.keys().chain(self.adoption.agents()).collect();
        let names: Vec<&String> = names.into_iter().collect();
        let mut addresses = snapshot.addresses();
        let subjects: Vec<Subject> = (0..)
            .zip(&names)
            .map(|(number, name)| Subject {
                agent: number,
                cgroups: self.cgroups_of(name),
                addresses: addresses.remove(name.as_str()).unwrap_or_default(),
            })
            .collect();
        let used = match Sockets::default().ask_now(subjects) {
            Ok(used) => used,
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "which addresses live sockets use is not known; leases that ended while no daemon ran are not renewed"
                );
                InUse::new()
            }
        };
        let used: BTreeMap<String, BTreeSet<IpAddr>> = used
            .into_iter()
            .filter_map(|(number, used)| {
                let name = names.get(usize::try_from(number).ok()?)?;
                Some(((*name).clone(), used))
            })
            .collect();
        self.last_leases = Some((snapshot, used));
    }

    /// Brings the last daemon's leases back, now that it is known which index each agent has.
    pub(super) fn restore_leases(&mut self, indices: &BTreeMap<String, u32>, now: Duration) {
        let hold = self.hold();
        if let Some((snapshot, used)) = &self.last_leases {
            let count = self.leases.restore(snapshot, indices, used, hold, now);
            info!(addresses = count, "leases of the last daemon");
        }
    }

    /// Whether a grant of so many addresses is a matter of microseconds: one that finds no room
    /// among the entries compiles the agent's policy anew.
    pub(super) fn grants_at_once(&self, agent: u32, addresses: usize) -> bool {
        let agent = self
            .owners
            .get(&agent)
            .and_then(|owner| self.agents.get(owner));
        agent.is_some_and(|agent| {
            let most = addresses.saturating_mul(MAX_SET.into());
            agent.compiled.entries().len().saturating_add(most) <= MAX_ENTRIES as usize
        })
    }

    /// Has the kernel hold addresses (with their TTL in seconds) for a name of an agent. What
    /// is in the result may be said by the gate, and nothing else.
    pub(super) fn grant(
        &mut self,
        agent: u32,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        now: Duration,
    ) -> Granted {
        let owner = self.owners.get(&agent).cloned();
        let Some(private) = owner
            .as_ref()
            .and_then(|owner| self.agents.get(owner))
            .and_then(|agent| agent.rule(name))
        else {
            return Granted {
                refused: addresses.len(),
                ..Granted::default()
            };
        };
        let (addresses, translated): (Vec<_>, Vec<_>) = addresses
            .iter()
            .map(|(addr, ttl)| (*addr, self.believe(*ttl)))
            .partition(|(addr, _)| self.may_lead_to(*addr, private));
        let answered = self.leases.answered(agent, name, &addresses, private, now);
        let mut rebound = answered.rebound;
        rebound.extend(translated.into_iter().map(|(addr, _)| addr));
        let mut granted = Granted {
            refused: answered.refused,
            rebound,
            ..Granted::default()
        };
        self.unsaved.prolonged = true;
        for change in &answered.changes {
            let added = change.kind == ChangeKind::Added;
            if !self.apply(change, now) && added {
                granted.refused += 1;
            }
            if change.name != *name {
                self.publish(agent, &change.name, now);
            }
        }
        granted.held = self
            .publish(agent, name, now)
            .iter()
            .filter(|view| view.fresh)
            .map(|view| (view.addr, view.promised.saturating_sub(now)))
            .collect();
        granted
    }

    /// Whether a name may stand for what this network's translators make of an address.
    pub(super) fn may_lead_to(&self, addr: IpAddr, private: bool) -> bool {
        let mut translated = self.nat64.embedded(addr);
        translated.all(|v4| canonical(v4.into(), private).is_some())
    }

    /// What the refresher found, for every agent whose policy has the name exactly.
    pub(super) fn resolved(&mut self, resolution: &Resolution, now: Duration) {
        let name = &resolution.name;
        let result = match &resolution.result {
            Ok(addresses) => self.granted_to_all(name, addresses, now),
            Err(kind) => Err(*kind),
        };
        match result {
            Ok((ttl, left_out)) => {
                if self.failing.remove(name) {
                    info!(%name, "resolves again");
                }
                self.leases.succeeded(name, ttl, left_out, now);
            }
            Err(kind) => {
                // Once for each time that it begins: the retries are in status and metrics.
                if self.failing.insert(name.clone()) {
                    warn!(
                        %name,
                        error = kind.as_str(),
                        upstream = resolution.upstream,
                        "does not resolve; its addresses stay until their grace ends"
                    );
                }
                self.leases.failed(name, kind, now);
            }
        }
    }

    /// The shortest TTL and the most addresses that an agent had no room for.
    fn granted_to_all(
        &mut self,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        now: Duration,
    ) -> Result<(u32, usize), FailKind> {
        let Some(ttl) = addresses.iter().map(|(_, ttl)| *ttl).min() else {
            return Err(FailKind::NoAddresses);
        };
        let wanted: Vec<u32> = self
            .agents
            .values()
            .filter(|agent| agent.hosts().contains(name.as_ref()))
            .map(|agent| agent.index)
            .collect();
        let mut left_out = 0;
        let mut any = wanted.is_empty();
        for agent in wanted {
            let granted = self.grant(agent, name, addresses, now);
            left_out = left_out.max(granted.refused);
            any |= granted.rebound.len() < addresses.len();
        }
        if any {
            Ok((ttl, left_out))
        } else {
            Err(FailKind::Rebind)
        }
    }

    /// What has to be asked about live sockets before leases may end; `None` when it is
    /// nothing, or too soon after the last question.
    pub(super) fn doubts(&mut self, now: Duration) -> Option<Vec<Subject>> {
        if now < self.asked + ASK_EVERY {
            return None;
        }
        let doubtful = self.leases.doubtful(now);
        if doubtful.is_empty() {
            return None;
        }
        self.asked = now;
        let subject = |(agent, addresses)| {
            let cgroups = self.cgroups_of(self.owners.get(&agent)?);
            Some(Subject {
                agent,
                cgroups,
                addresses,
            })
        };
        Some(doubtful.into_iter().filter_map(subject).collect())
    }

    /// Keeps the addresses that live sockets use, and ends the other leases whose time has
    /// come. `used` is the answer to `asked`, which was asked at `when`.
    pub(super) fn end_leases(
        &mut self,
        asked: &[Subject],
        used: &InUse,
        when: Duration,
        now: Duration,
    ) {
        let none = BTreeSet::new();
        let hold = self.hold();
        for subject in asked {
            let used = used.get(&subject.agent).unwrap_or(&none);
            self.leases
                .in_use(subject.agent, &subject.addresses, used, hold, now);
        }
        for change in self.leases.expire(when, now) {
            self.apply(&change, now);
            self.publish(change.agent, &change.name, now);
        }
        self.unsaved.prolonged |= used.values().any(|used| !used.is_empty());
        for agent in self.agents.values_mut() {
            agent.overflow.retain(|_, until| *until > now);
        }
    }

    fn hold(&self) -> Duration {
        self.leases.config().grace.clamp(HOLD.0, HOLD.1)
    }

    /// Brings one change of a lease to the kernel. What it does not take is leased no more;
    /// false then.
    fn apply(&mut self, change: &Change, now: Duration) -> bool {
        self.unsaved.touch();
        let Some(owner) = self.owners.get(&change.agent).cloned() else {
            return false;
        };
        let done = match self.apply_to(&owner, change, now) {
            Ok(done) => done,
            Err(error) => {
                warn!(agent = owner, address = %change.addr, error = chain(&error), "a lease could not be written; the address is refused");
                self.give_up(&owner, change.addr);
                false
            }
        };
        if done && change.kind == ChangeKind::Added {
            self.write_down(change, &owner);
        }
        if !done && change.kind == ChangeKind::Added {
            self.leases.revoke(change.agent, &change.name, change.addr);
            self.count_overflow(&owner, change.addr, now);
        }
        done
    }

    /// Writes a new lease down before anybody is told: one write to a file in memory.
    fn write_down(&mut self, change: &Change, owner: &str) {
        let line = self
            .leases
            .journal_line(change.agent, owner, &change.name, change.addr);
        let (Some(journal), Some(line)) = (&mut self.journal, line) else {
            return;
        };
        if let Err(error) = journal.write_all(line.as_bytes()) {
            warn!(%error, "a lease could not be written down; a restart would have to resolve its name anew");
            // Until the next snapshot, rather than a warning for every lease.
            self.journal = None;
        }
    }

    fn apply_to(
        &mut self,
        owner: &str,
        change: &Change,
        now: Duration,
    ) -> Result<bool, EngineError> {
        let Some(agent) = self.agents.get_mut(owner) else {
            return Ok(false);
        };
        let Some(host) = HostName::asked(&change.name) else {
            return Ok(false);
        };
        let addr = Addr::from(change.addr);
        // Taken out, changed, and put back: the names of one address alone.
        let mut names = agent.held.remove(&addr).unwrap_or_default();
        let before = (!names.is_empty()).then(|| Tables::exact(&agent.compiled, &addr));
        let changed = match change.kind {
            ChangeKind::Added => names.insert(host.clone()),
            ChangeKind::Removed => names.remove(&host),
        };
        let update = match agent.compiled.lease(addr, &names) {
            Ok(update) => update,
            Err(_) => {
                // Entries are only ever added to a table in force. A new table has room again,
                // if the policy itself leaves any.
                let again = agent.rebuilt.is_none_or(|last| now >= last + REBUILD_EVERY);
                if change.kind == ChangeKind::Added && !again {
                    // What failed has changed nothing.
                    names.remove(&host);
                    if !names.is_empty() {
                        agent.held.insert(addr, names);
                    }
                    return Ok(false);
                }
                self.rebuild(owner, now)?;
                return Ok(self
                    .agents
                    .get(owner)
                    .is_some_and(|agent| agent.holds(change.addr, &change.name)));
            }
        };
        let same = changed
            && before == Some(update.set)
            && update.names.is_empty()
            && update.appended.is_empty();
        let leased = if same {
            Leased::Held
        } else {
            let entries = agent.compiled.entries();
            self.kernel.lease(agent.index, &update, entries)?
        };
        let done = leased == Leased::Held;
        if done {
            agent.overflow.remove(&addr);
        } else {
            // What it stood for before, if anything, it stands for still.
            names.remove(&host);
            let back = agent.compiled.lease(addr, &names)?;
            let entries = agent.compiled.entries();
            self.kernel.lease(agent.index, &back, entries)?;
        }
        self.directory
            .stands_for(agent.index, addr, &host, names.contains(&host));
        if !names.is_empty() {
            agent.held.insert(addr, names);
        }
        Ok(done)
    }

    /// Takes an address from an agent whose tables could not be brought up to date: what they
    /// hold of it may be wider than what is leased now.
    fn give_up(&mut self, owner: &str, addr: IpAddr) {
        let Some(agent) = self.agents.get_mut(owner) else {
            return;
        };
        let key = Addr::from(addr);
        let index = agent.index;
        agent.held.remove(&key);
        let taken = agent
            .compiled
            .lease(key, &BTreeSet::new())
            .map_err(EngineError::from)
            .and_then(|update| {
                let entries = agent.compiled.entries();
                self.kernel
                    .lease(index, &update, entries)
                    .map_err(EngineError::from)
            });
        let of_addr = |name: &&Name| {
            let mut views = self.leases.addresses(index, name, Duration::ZERO);
            views.any(|view| view.addr == addr)
        };
        // An answer that has it again then tries again.
        let names: Vec<Name> = self.leases.names(index).filter(of_addr).cloned().collect();
        for name in &names {
            self.leases.revoke(index, name, addr);
        }
        self.directory.forget(index, key);
        if let Err(error) = taken {
            warn!(
                agent = owner,
                error = chain(&error),
                "an address could not be taken from the kernel's table"
            );
        }
    }

    pub(super) fn count_overflow(&mut self, owner: &str, addr: IpAddr, now: Duration) {
        let config = self.leases.config();
        let until = now + config.max_ttl + config.grace;
        let Some(agent) = self.agents.get_mut(owner) else {
            return;
        };
        if agent.overflow.is_empty() {
            warn!(agent = owner, address = %addr, "the tables have no room for an address; it stays refused");
        }
        if agent.overflow.len() < OVERFLOW_COUNTED {
            agent.overflow.insert(addr.into(), until);
        }
    }

    /// Tells the agent's gate what it may answer for a name: only what the kernel holds, which
    /// is what it returns.
    pub(super) fn publish(&self, index: u32, name: &Name, now: Duration) -> Vec<LeaseView> {
        let Some(agent) = self
            .owners
            .get(&index)
            .and_then(|owner| self.agents.get(owner))
        else {
            return Vec::new();
        };
        let held: Vec<LeaseView> = self
            .leases
            .addresses(index, name, now)
            .filter(|view| agent.holds(view.addr, name))
            .collect();
        let granted = held.iter().map(|view| (view.addr, view.promised));
        agent.published.set(name, granted.collect());
        held
    }

    /// The same for every name that an agent holds addresses of.
    pub(super) fn publish_all(&self, index: u32, now: Duration) {
        for name in self.leases.names(index) {
            self.publish(index, name, now);
        }
    }

    /// The leases as they have to be saved now; `None` if they need not be.
    pub(super) fn unsaved(&mut self, now: Duration) -> Option<String> {
        let due = now >= self.unsaved.saved + SAVE_PROLONGED;
        if !(self.unsaved.changed || self.unsaved.prolonged && due) {
            return None;
        }
        self.unsaved = Unsaved {
            saved: now,
            ..Unsaved::default()
        };
        self.snapshot()
    }

    /// The leases as they have to be saved at the end. What comes after is journalled anew.
    pub(super) fn snapshot(&mut self) -> Option<String> {
        if self.last_leases.is_some() {
            // No policy has come into force yet: what the last daemon left is still the truth.
            return None;
        }
        let head = journal_head(&self.boot_id);
        self.journal = self
            .keeper
            .turn_journal(&head)
            .inspect_err(|error| {
                warn!(%error, "the journal of leases cannot be written; a daemon that is killed would have to resolve new names anew");
            })
            .ok();
        self.leases
            .snapshot(&self.owners, &self.boot_id)
            .inspect_err(|error| warn!(%error, "the leases could not be written down"))
            .ok()
    }
}
