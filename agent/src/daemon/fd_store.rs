//! Sockets of gates and gateways outlive the daemon in the service manager's file descriptor
//! store (`FDSTORE=1` of sd_notify(3), `LISTEN_FDS` of sd_listen_fds(3)).
//!
//! What comes while no daemon runs waits in its socket, and the next daemon takes it: a restart
//! or a kill costs an agent a moment, not a name. Without a store (another
//! service manager, `FileDescriptorStoreMax=0`) the sockets end with the daemon and agents
//! are refused at once until the next one has opened its own.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
    str::FromStr,
};

use sd_notify::NotifyState;
use tracing::warn;

use crate::error::chain;

/// Whose sockets: an index can be another agent's after a restart, and what one agent asked is
/// not answered by the policy of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    /// What they are for.
    pub(super) service: Service,
    /// Name of the agent.
    pub(super) agent: String,
    /// Its index.
    pub(super) index: u32,
}

/// What sockets are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    /// DNS.
    Gate,
    /// Connections.
    Gateway,
    /// Programs that are caught when they are executed.
    Programs,
}

/// Sockets of one owner, each with the word for its kind.
type Kept = BTreeMap<String, OwnedFd>;

impl Service {
    const ALL: [Self; 3] = [Self::Gate, Self::Gateway, Self::Programs];

    const fn word(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Gateway => "gateway",
            Self::Programs => "programs",
        }
    }
}

impl Owner {
    pub(super) fn new(service: Service, agent: &str, index: u32) -> Self {
        Self {
            service,
            agent: agent.to_owned(),
            index,
        }
    }

    /// The descriptor's name in the store: no `:` and no control character, 255 bytes at most
    /// (agents' names are short and of letters, digits, `-`, `_` and `.`).
    fn name(&self, kind: &str) -> String {
        let service = self.service.word();
        format!("{service}-{kind}-{}-{}", self.index, self.agent)
    }

    fn parse(name: &str) -> Option<(Self, String)> {
        let mut parts = name.splitn(4, '-');
        let word = parts.next()?;
        let service = Service::ALL.into_iter().find(|s| s.word() == word)?;
        let kind = parts.next()?.to_owned();
        let index = parts.next()?.parse().ok()?;
        let agent = parts.next()?.to_owned();
        let owner = Self {
            service,
            agent,
            index,
        };
        Some((owner, kind))
    }
}

/// What the store holds of us.
#[derive(Debug, Default)]
pub(super) struct FdStore {
    handed_over: BTreeMap<Owner, Kept>,
    /// What was handed over and is not yet known to be gone, by its names.
    held: BTreeMap<Owner, Vec<String>>,
    /// Whether there may be a store to speak to.
    speaks: bool,
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
            speaks: true,
            ..Self::default()
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
                let held = store.held.entry(owner.clone()).or_default();
                held.push(kind.clone());
                store.handed_over.entry(owner).or_default().insert(kind, fd);
            }
        }
        store
    }

    /// The sockets of an owner as the last daemon left them, with whatever has come since; none
    /// where they were not kept. `open` makes of them what they are said to be.
    fn take<T>(&mut self, owner: &Owner, open: impl FnOnce(Kept) -> io::Result<T>) -> Option<T> {
        let sockets = self.handed_over.remove(owner)?;
        open(sockets)
            .inspect_err(|error| {
                warn!(
                    agent = owner.agent,
                    service = owner.service.word(),
                    error = chain(error),
                    "what was kept cannot be used; a new one is opened"
                );
                self.forget(owner);
            })
            .ok()
    }

    /// The sockets of an owner as the last daemon left them, else fresh ones, which are kept
    /// from now on.
    pub(super) fn take_or_open<T, K: FromStr + Display + Ord>(
        &mut self,
        owner: &Owner,
        kept: impl FnOnce(BTreeMap<K, OwnedFd>) -> io::Result<T>,
        fresh: impl FnOnce() -> io::Result<T>,
        each: for<'a> fn(&'a T) -> Vec<(K, BorrowedFd<'a>)>,
    ) -> io::Result<T> {
        let kept = self.take(owner, |sockets| {
            let known = sockets.into_iter();
            let known = known.filter_map(|(kind, fd)| Some((kind.parse().ok()?, fd)));
            kept(known.collect())
        });
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let fresh = fresh()?;
        let named = each(&fresh).into_iter();
        self.keep(owner, named.map(|(kind, fd)| (kind.to_string(), fd)));
        Ok(fresh)
    }

    /// Has the service manager keep an owner's sockets.
    fn keep<'a>(&mut self, owner: &Owner, sockets: impl Iterator<Item = (String, BorrowedFd<'a>)>) {
        if !self.speaks {
            return;
        }
        for (kind, fd) in sockets {
            let told = sd_notify::notify_with_fds(
                &[
                    NotifyState::FdStore,
                    NotifyState::FdName(&owner.name(&kind)),
                    // By default it drops a descriptor whose poll says error, which a packet
                    // can bring about.
                    NotifyState::Custom("FDPOLL=0"),
                ],
                &[fd],
            );
            if let Err(error) = told {
                let (agent, service) = (&owner.agent, owner.service.word());
                warn!(agent, service, %error, "its sockets are not kept: a restart refuses this agent for a moment");
                return;
            }
            self.held.entry(owner.clone()).or_default().push(kind);
        }
    }

    /// Closes what no agent has taken.
    pub(super) fn close_rest(&mut self) {
        for owner in std::mem::take(&mut self.handed_over).into_keys() {
            self.forget(&owner);
        }
    }

    /// Its sockets are closed for good.
    pub(super) fn forget(&mut self, owner: &Owner) {
        for kind in self.held.remove(owner).unwrap_or_default() {
            let name = owner.name(&kind);
            // One that stays costs a descriptor, and the next daemon closes it.
            let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn names_say_whose_and_what() {
        for service in Service::ALL {
            let owner = Owner::new(service, "claude-code", 7);
            let name = owner.name("udp4");
            assert_eq!(Owner::parse(&name), Some((owner, "udp4".to_owned())));
        }
        for other in ["", "gate", "gate-udp4-x-a", "web-udp4-1-a", "gate-udp4-1"] {
            assert_eq!(Owner::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_kept_is_only_taken_by_its_owner_and_once() {
        let mut store = FdStore::default();
        let whose = Owner::new(Service::Gate, "a", 7);
        let file = File::open("/dev/null").expect("a descriptor");
        let kept = Kept::from([("udp4".to_owned(), file.into())]);
        store.handed_over.insert(whose.clone(), kept);
        let taken = |store: &mut FdStore, owner: &Owner| store.take(owner, Ok);
        for other in [
            Owner::new(Service::Gate, "b", 7),
            Owner::new(Service::Gate, "a", 8),
            Owner::new(Service::Gateway, "a", 7),
        ] {
            assert!(taken(&mut store, &other).is_none(), "{other:?}");
        }
        assert_eq!(taken(&mut store, &whose).expect("taken").len(), 1);
        assert!(taken(&mut store, &whose).is_none(), "only once");
    }
}
