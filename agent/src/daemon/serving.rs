//! What gates and gateways share: their tasks, and where else they answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::containers::Namespace;

/// What is behind these locks is whole between any two calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tasks of all gates and gateways. A clone has the same ones.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Starts one, and lets go of those that have ended: an agent can have any number of
    /// network namespaces come and go.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.0);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Those that are kept, to be joined at the end.
    pub(super) fn take(&self) -> JoinSet<()> {
        std::mem::take(&mut *lock(&self.0))
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        lock(&self.0).len()
    }
}

/// The other network namespaces in which something answers, each with what ends it there.
#[derive(Default)]
pub(super) struct Abroad(BTreeMap<Namespace, CancellationToken>);

impl Abroad {
    pub(super) fn has(&self, namespace: Namespace) -> bool {
        self.0.contains_key(&namespace)
    }

    pub(super) fn add(&mut self, namespace: Namespace, stop: CancellationToken) {
        self.0.insert(namespace, stop);
    }

    pub(super) fn namespaces(&self) -> BTreeSet<Namespace> {
        self.0.keys().copied().collect()
    }

    /// Ends it everywhere but in these.
    pub(super) fn leave(&mut self, present: &BTreeSet<Namespace>) {
        self.0.retain(|namespace, stop| {
            let stays = present.contains(namespace);
            if !stays {
                stop.cancel();
            }
            stays
        });
    }
}
