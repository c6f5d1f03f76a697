//! Names: what the resolver finds becomes leases, leases become entries of the kernel's
//! tables, and only what those hold is answered at the gates.

use std::{collections::BTreeSet, io, time::Duration};

use agent_common::Addr;
use tracing::{info, warn};

use super::{
    agents::names_of,
    engine::{Engine, EngineError},
};
use crate::{
    kernel::object::Leased,
    leases::{Change, ChangeKind, Name},
    policy::{self, HostName},
};

impl Engine {
    /// Brings leases back that an earlier daemon had. Call it before the first reload.
    pub(super) fn restore_leases(&mut self, now: Duration) {
        let Some(json) = self.keeper.load_leases() else {
            return;
        };
        // Only names that are wanted are restored, so the names of the policy come first. If
        // the files do not load, `begin` will say why.
        let set = policy::load(&self.paths).ok().or_else(|| {
            let texts = self.keeper.load_policy()?;
            policy::parse_all(&texts).ok()
        });
        if let Some(set) = set {
            let names = set
                .agents
                .values()
                .flat_map(|policy| policy.hosts())
                .map(|host| Name::from(host.as_str()))
                .collect();
            self.leases.set_names(&names, now);
        }
        match self.leases.restore(&json, &self.boot_id, now) {
            Ok(changes) => info!(addresses = changes.len(), "leases of the last daemon"),
            Err(error) => warn!(%error, "the last daemon's leases cannot be used"),
        }
    }

    /// What the resolver found. The gate says it only after the kernel holds it.
    pub(super) fn resolved(
        &mut self,
        resolution: &crate::dns::resolver::Resolution,
        now: Duration,
    ) {
        match &resolution.result {
            Ok(addresses) => {
                if self.failing.remove(&resolution.name) {
                    info!(name = %resolution.name, "resolves again");
                }
                for change in self.leases.answered(&resolution.name, addresses, now) {
                    self.apply(&change, now);
                }
            }
            Err(kind) => {
                // Once for each time that it begins: the retries are in status and metrics.
                if self.failing.insert(resolution.name.clone()) {
                    warn!(
                        name = %resolution.name,
                        error = kind.as_str(),
                        upstream = resolution.upstream,
                        "does not resolve; its addresses stay until their grace ends"
                    );
                }
                self.leases.failed(&resolution.name, *kind, now);
            }
        }
        self.publish(&resolution.name, now);
        self.remember_leases();
    }

    /// Ends leases whose time has come.
    pub(super) fn expire(&mut self, now: Duration) {
        let changes = self.leases.expire(now);
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            self.apply(change, now);
            self.publish(&change.name, now);
        }
        self.remember_leases();
    }

    /// Takes an address from an agent whose tables could not be brought up to date: what they
    /// hold of it may be wider than what is leased now.
    fn give_up(&mut self, name: &str, addr: Addr) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.held.remove(&addr);
        agent.overflow.insert(addr);
        let taken = agent
            .compiled
            .lease(addr, &BTreeSet::new())
            .map_err(EngineError::from)
            .and_then(|update| {
                let entries = agent.compiled.entries();
                self.kernel
                    .lease(agent.index, addr, update.set, entries, update.appended)
                    .map_err(EngineError::from)
            });
        if let Err(error) = taken {
            warn!(agent = name, %error, "an address could not be taken from the kernel's table");
        }
    }

    /// Brings one change of a lease to every agent whose policy has the name.
    pub(super) fn apply(&mut self, change: &Change, now: Duration) {
        let addr = Addr::from(change.addr);
        let wanted: Vec<String> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.hosts.contains(change.name.as_ref()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in wanted {
            if let Err(error) = self.apply_to(&name, addr, change, now) {
                warn!(agent = name, %error, "a lease could not be written; the address stays refused");
            }
        }
    }

    pub(super) fn apply_to(
        &mut self,
        name: &str,
        addr: Addr,
        change: &Change,
        now: Duration,
    ) -> Result<(), EngineError> {
        let Some(agent) = self.agents.get_mut(name) else {
            return Ok(());
        };
        let mut names = agent.held.get(&addr).cloned().unwrap_or_default();
        let Ok(host) = change.name.parse::<HostName>() else {
            return Ok(());
        };
        match change.kind {
            ChangeKind::Added => names.insert(host),
            ChangeKind::Removed => names.remove(&host),
        };
        let update = match agent.compiled.lease(addr, &names) {
            Ok(update) => update,
            // Entries are only ever added to a table in force. A new table has room again,
            // if the policy itself leaves any.
            Err(_) => {
                return self
                    .rebuild(name, now)
                    .inspect_err(|_| self.give_up(name, addr));
            }
        };
        let leased = self.kernel.lease(
            agent.index,
            addr,
            update.set,
            agent.compiled.entries(),
            update.appended,
        )?;
        match leased {
            Leased::Held => {
                agent.overflow.remove(&addr);
                if names.is_empty() {
                    agent.held.remove(&addr);
                } else {
                    agent.held.insert(addr, names);
                }
            }
            Leased::Full => {
                warn!(agent = name, address = %change.addr, "the table of addresses is full; the address stays refused");
                agent.held.remove(&addr);
                agent.overflow.insert(addr);
            }
        }
        let held = names_of(&agent.held);
        self.directory
            .update(agent.index, |agent| agent.names = held);
        Ok(())
    }

    /// Tells the gates what they may answer for a name: only what the kernel holds.
    pub(super) fn publish(&self, name: &Name, now: Duration) {
        for agent in self.agents.values() {
            let addresses = self
                .leases
                .answer(name, now)
                .unwrap_or_default()
                .into_iter()
                .filter(|(addr, _)| agent.holds(*addr, name))
                .map(|(addr, left)| (addr, now + left))
                .collect();
            agent.published.set(name, addresses);
        }
    }

    pub(super) fn publish_all(&self, now: Duration) {
        let names = self.names.borrow().clone();
        for name in names.iter() {
            self.publish(name, now);
        }
    }

    pub(super) fn remember_leases(&self) {
        let saved = self
            .leases
            .snapshot(&self.boot_id)
            .map_err(io::Error::from)
            .and_then(|json| self.keeper.save_leases(&json));
        if let Err(error) = saved {
            warn!(%error, "the leases could not be saved; a restart will resolve names anew");
        }
    }
}
