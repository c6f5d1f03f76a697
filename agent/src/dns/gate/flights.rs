//! Look-ups under way: everyone who asks for the same waits for the same answer and the
//! same write to the kernel.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::{Answer, Failed, Granted, NameRule, NotGranted, Question};

/// How a look-up ended.
#[derive(Debug)]
pub(super) enum Landed {
    /// Found, and the kernel holds what was granted.
    Granted(Answer, Granted),
    /// Found, and not granted.
    NotGranted(Answer, NotGranted),
    /// Not found.
    Failed(Failed),
}

type Look = BoxFuture<'static, Arc<Landed>>;

/// A look-up that any number of queries wait for.
pub(super) type Flight = Shared<Look>;

/// The look-ups of one gate. There are at most as many as queries that wait for one, which
/// the gate bounds.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    flights: HashMap<Question, Known>,
}

#[derive(Debug)]
struct Known {
    id: u64,
    /// The rule that the addresses are granted under.
    rule: NameRule,
    flight: WeakShared<Look>,
}

impl Flights {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that could panic runs under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The look-up of this question under this rule that is under way, or a new one. It
    /// goes on as long as somebody waits for it.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        question: Question,
        rule: &NameRule,
        start: impl FnOnce() -> F,
    ) -> Flight
    where
        F: Future<Output = Landed> + Send + 'static,
    {
        let mut table = self.table();
        if let Some(flight) = table
            .flights
            .get(&question)
            .filter(|known| known.rule == *rule)
            .and_then(|known| known.flight.upgrade())
            && flight.peek().is_none()
        {
            return flight;
        }
        let id = table.next;
        table.next += 1;
        let entry = Entry {
            flights: Arc::clone(self),
            question: question.clone(),
            id,
        };
        let look = start();
        let flight = async move {
            // Goes when the look-up ends, or when nobody waits for it any more.
            let _entry = entry;
            Arc::new(look.await)
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            let known = Known {
                id,
                rule: rule.clone(),
                flight: weak,
            };
            table.flights.insert(question, known);
        }
        flight
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().flights.len()
    }
}

struct Entry {
    flights: Arc<Flights>,
    question: Question,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.flights.table();
        // A new look-up may have taken the place already.
        if table
            .flights
            .get(&self.question)
            .is_some_and(|known| known.id == self.id)
        {
            table.flights.remove(&self.question);
        }
    }
}
