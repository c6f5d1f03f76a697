//! The gates' sockets outlive the daemon in the service manager's file descriptor store
//! (`FDSTORE=1` of sd_notify(3), `LISTEN_FDS` of sd_listen_fds(3)).
//!
//! A query that comes while no daemon runs waits in its socket, and the next daemon answers
//! it: a restart or a kill costs an agent a moment, not a name. Without a store (another
//! service manager, `FileDescriptorStoreMax=0`) the sockets end with the daemon and agents
//! are refused at once until the next one has opened its own.

use std::{
    collections::BTreeMap,
    os::fd::{FromRawFd as _, OwnedFd},
};

use sd_notify::NotifyState;
use tracing::warn;

use crate::{
    dns::gate::{GatePorts, GateSockets, SocketKind},
    error::chain,
};

/// Where the names of our descriptors begin.
const PREFIX: &str = "gate";

/// What the store holds of us.
#[derive(Debug, Default)]
pub(super) struct FdStore {
    handed_over: BTreeMap<Owner, BTreeMap<SocketKind, OwnedFd>>,
    /// Whether there may be a store to speak to.
    speaks: bool,
}

/// Whose gate: an index can be another agent's after a restart, and what one agent asked is
/// not answered by the policy of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    agent: String,
    index: u32,
}

impl Owner {
    /// The descriptor's name in the store: no `:` and no control character, 255 bytes at most
    /// (agents' names are short and of letters, digits, `-`, `_` and `.`).
    fn name(&self, kind: SocketKind) -> String {
        format!("{PREFIX}-{kind}-{}-{}", self.index, self.agent)
    }

    fn parse(name: &str) -> Option<(Self, SocketKind)> {
        let mut parts = name.splitn(4, '-');
        if parts.next()? != PREFIX {
            return None;
        }
        let kind = parts.next()?.parse().ok()?;
        let index = parts.next()?.parse().ok()?;
        let agent = parts.next()?.to_owned();
        Some((Self { agent, index }, kind))
    }
}

impl FdStore {
    /// Takes what the service manager handed to this process, and all of it: descriptors that
    /// are not ours are closed.
    ///
    /// # Safety
    /// No other thread runs yet (the environment is changed), and nothing else in this process
    /// owns the descriptors that `LISTEN_FDS` counts.
    pub(super) unsafe fn take_over() -> Self {
        let mut store = Self {
            handed_over: BTreeMap::new(),
            speaks: true,
        };
        // SAFETY: by this function's contract no other thread runs.
        let handed_over = match unsafe { sd_notify::listen_fds_with_names_and_unset_env() } {
            Ok(handed_over) => handed_over,
            Err(error) => {
                warn!(%error, "what the service manager handed over cannot be read; gates are opened anew");
                return store;
            }
        };
        for (fd, name) in handed_over {
            // SAFETY: handed to this process by its service manager, which sd_notify has
            // checked by LISTEN_PID; by this function's contract nothing else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            if let Some((owner, kind)) = Owner::parse(&name) {
                store.handed_over.entry(owner).or_default().insert(kind, fd);
            }
        }
        store
    }

    /// The gate of an agent as the last daemon left it, with whatever has been asked since;
    /// none when it was not kept, or is not the gate that it is said to be.
    pub(super) fn take(
        &mut self,
        agent: &str,
        index: u32,
        ports: GatePorts,
    ) -> Option<GateSockets> {
        let owner = Owner {
            agent: agent.to_owned(),
            index,
        };
        let sockets = self.handed_over.remove(&owner)?;
        GateSockets::kept(index, ports, sockets)
            .inspect_err(|error| {
                warn!(
                    agent,
                    error = chain(error),
                    "the kept gate cannot be used; a new one is opened"
                );
                self.remove(&owner);
            })
            .ok()
    }

    /// Has the service manager keep a gate's sockets.
    pub(super) fn keep(&self, agent: &str, sockets: &GateSockets) {
        if !self.speaks {
            return;
        }
        let owner = Owner {
            agent: agent.to_owned(),
            index: sockets.agent(),
        };
        for (kind, fd) in sockets.each() {
            let told = sd_notify::notify_with_fds(
                &[
                    NotifyState::FdStore,
                    NotifyState::FdName(&owner.name(kind)),
                    // By default it drops a descriptor whose poll says error, which a packet
                    // can bring about.
                    NotifyState::Custom("FDPOLL=0"),
                ],
                &[fd],
            );
            if let Err(error) = told {
                warn!(agent, %error, "the gate is not kept: a restart refuses this agent's names for a moment");
                return;
            }
        }
    }

    /// A gate is closed for good.
    pub(super) fn forget(&self, agent: &str, index: u32) {
        self.remove(&Owner {
            agent: agent.to_owned(),
            index,
        });
    }

    /// Closes what no agent has taken.
    pub(super) fn close_rest(&mut self) {
        for owner in std::mem::take(&mut self.handed_over).into_keys() {
            self.remove(&owner);
        }
    }

    fn remove(&self, owner: &Owner) {
        if !self.speaks {
            return;
        }
        for kind in SocketKind::ALL {
            let name = owner.name(kind);
            // One that stays costs a descriptor, and the next daemon closes it.
            let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_and_what() {
        let owner = Owner {
            agent: "claude-code".to_owned(),
            index: 7,
        };
        for kind in SocketKind::ALL {
            assert_eq!(Owner::parse(&owner.name(kind)), Some((owner.clone(), kind)));
        }
        for other in [
            "",
            "gate",
            "gate-udp4-x-a",
            "gate-raw-1-a",
            "web-udp4-1-a",
            "gate-udp4-1",
        ] {
            assert_eq!(Owner::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_gate_is_only_taken_by_the_agent_and_index_that_it_was_kept_for() {
        let gate = || GateSockets::bind(0x1310, GatePorts::default()).expect("gate");
        let first = gate();
        let ports = first.ports();
        let mut store = FdStore::default();
        let owner = Owner {
            agent: "a".to_owned(),
            index: 0x1310,
        };
        let sockets = first
            .each()
            .map(|(kind, fd)| (kind, fd.try_clone_to_owned().expect("dup")))
            .collect();
        store.handed_over.insert(owner, sockets);
        assert!(store.take("b", 0x1310, ports).is_none());
        assert!(store.take("a", 0x1311, ports).is_none());
        let taken = store.take("a", 0x1310, ports).expect("taken");
        assert_eq!(taken.ports(), ports);
        assert!(store.take("a", 0x1310, ports).is_none(), "only once");
    }
}
