//! Leases across a restart of the daemon.
//!
//! Deadlines are times since boot, so a snapshot means something on the boot that made
//! it and is ignored on any other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Change, ChangeKind, Lease, Leases, canonical};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    version: u32,
    boot_id: String,
    names: BTreeMap<String, NameLeases>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameLeases {
    last_success_ms: Option<u64>,
    addresses: Vec<AddressLease>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressLease {
    addr: IpAddr,
    deadline_ms: u64,
    fresh: bool,
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

impl Leases {
    /// The leases as JSON, for [`Leases::restore`] after a restart on the same boot.
    /// `boot_id` is the content of `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// None that is known; serializing is fallible by type.
    pub fn snapshot(&self, boot_id: &str) -> Result<String, serde_json::Error> {
        let names = self
            .names
            .iter()
            .filter(|(_, entry)| !entry.addresses.is_empty())
            .map(|(name, entry)| {
                let leases = NameLeases {
                    last_success_ms: entry.last_success.map(millis),
                    addresses: entry
                        .addresses
                        .iter()
                        .map(|(addr, lease)| AddressLease {
                            addr: *addr,
                            deadline_ms: millis(lease.deadline),
                            fresh: lease.fresh,
                        })
                        .collect(),
                };
                (name.to_string(), leases)
            })
            .collect();
        serde_json::to_string(&Snapshot {
            version: VERSION,
            boot_id: boot_id.trim().to_owned(),
            names,
        })
    }

    /// Takes leases back from a snapshot, for names that [`Leases::set_names`] has
    /// brought and that hold nothing yet. A lease keeps its deadline, but never more than
    /// a fresh answer could give, and obeys the guard and the bounds that hold now. A
    /// snapshot of another boot gives nothing.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub fn restore(
        &mut self,
        json: &str,
        boot_id: &str,
        now: Duration,
    ) -> Result<Vec<Change>, RestoreError> {
        let now = self.advance(now);
        let snapshot: Snapshot = serde_json::from_str(json)?;
        if snapshot.version != VERSION {
            return Err(RestoreError::Version(snapshot.version));
        }
        if snapshot.boot_id != boot_id.trim() {
            return Ok(Vec::new());
        }
        let latest = now + self.config.lifetime(u32::MAX);
        let mut changes = Vec::new();
        for (name, entry) in &mut self.names {
            let Some(saved) = snapshot.names.get(name.as_ref()) else {
                continue;
            };
            if !entry.addresses.is_empty() || entry.last_success.is_some() {
                continue;
            }
            entry.last_success = saved
                .last_success_ms
                .map(|ms| Duration::from_millis(ms).min(now));
            for lease in &saved.addresses {
                let deadline = Duration::from_millis(lease.deadline_ms).min(latest);
                let Some(addr) = canonical(lease.addr) else {
                    continue;
                };
                if deadline <= now
                    || entry.addresses.contains_key(&addr)
                    || entry.addresses.len() == self.config.max_addresses_per_name
                {
                    continue;
                }
                entry.addresses.insert(
                    addr,
                    Lease {
                        deadline,
                        fresh: lease.fresh,
                    },
                );
                self.deadlines.insert((deadline, name.clone(), addr));
                changes.push(Change {
                    name: name.clone(),
                    addr,
                    kind: ChangeKind::Added,
                });
            }
        }
        Ok(changes)
    }
}
