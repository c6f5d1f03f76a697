//! Work under way: everyone who wants the same waits for the same, and it is done once.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

type Work<T> = BoxFuture<'static, T>;

/// Work that any number wait for. It is driven by those who wait, so one who leaves stops
/// nobody, and when all have left it ends.
pub(super) type Flight<T> = Shared<Work<T>>;

/// What became of who came.
pub(super) enum Joined<T> {
    /// It was under way already.
    Earlier(Flight<T>),
    /// It is under way from now on.
    Begun(Flight<T>),
    /// Too much else is under way.
    Full,
}

/// What is under way, by what it is about.
pub(super) struct Flights<K, T> {
    table: Mutex<Table<K, T>>,
}

struct Table<K, T> {
    next: u64,
    flights: HashMap<K, (u64, WeakShared<Work<T>>)>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        let table = Table {
            next: 0,
            flights: HashMap::new(),
        };
        Self {
            table: Mutex::new(table),
        }
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

impl<K, T> Flights<K, T> {
    fn table(&self) -> MutexGuard<'_, Table<K, T>> {
        // Nothing that could panic runs under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().flights.len()
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the work of this key, or begins it, with at most `most` under way.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: K,
        most: usize,
        work: impl FnOnce() -> F,
    ) -> Joined<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut table = self.table();
        if let Some(flight) = table.flights.get(&key).and_then(|(_, weak)| weak.upgrade())
            && flight.peek().is_none()
        {
            return Joined::Earlier(flight);
        }
        if table.flights.len() >= most {
            return Joined::Full;
        }
        let number = table.next;
        table.next += 1;
        let entry = Entry {
            flights: Arc::clone(self),
            key: key.clone(),
            number,
        };
        let work = work();
        let flight = async move {
            let _entry = entry;
            work.await
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            table.flights.insert(key, (number, weak));
        }
        Joined::Begun(flight)
    }
}

/// Takes a flight off the table when it has ended, or when nobody waits for it any more.
struct Entry<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        let mut table = self.flights.table();
        // Somebody may have begun the next one already.
        if table
            .flights
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            table.flights.remove(&self.key);
        }
    }
}
