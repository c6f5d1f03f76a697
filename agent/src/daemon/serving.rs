//! What gates and gateways share: their tasks, and where else they answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{containers::Namespace, gates::Means};

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

    /// Serves once the daemon runs, until it is stopped; `failed` is said where it breaks off
    /// before.
    pub(super) fn serve(
        &self,
        means: &Means,
        agent: u32,
        stop: CancellationToken,
        failed: &'static str,
        serve: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        let means = means.clone();
        self.spawn(async move {
            tokio::select! {
                () = means.ready() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = serve.await {
                error!(agent, %error, "{failed}");
            }
        });
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

/// The next of two queues, refusals first; none once it is cancelled or a queue has ended.
pub(super) async fn next<T>(
    refusals: &mut mpsc::Receiver<T>,
    rest: &mut mpsc::Receiver<T>,
    cancel: &CancellationToken,
) -> Option<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        next = refusals.recv() => next,
        next = rest.recv() => next,
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
