//! One receiver's queue and the two threads at its ends: one writes to the disk, one sends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Receiver as Records;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::config::{ReceiverConfig, folder};
use super::outcome::{Outcome, Trouble};
use super::parcel::{Packer, Parcel};
use super::queue::{Queue, Syncer, Waiting};
use super::receiver::Receiver;
use crate::sink::{Lines, Record};

/// Records in one batch, and bytes of them.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 512 << 10;
/// How long the first record of a batch waits for others.
const LINGER: Duration = Duration::from_millis(100);
/// How long written records may be in memory of the system before they are synced.
const SYNC: Duration = Duration::from_secs(1);
/// Pauses after failures: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long what waits is still sent after the daemon was told to stop.
pub(super) const DRAIN: Duration = Duration::from_secs(3);
/// Size at which the file of dead letters is put aside (three old ones are kept).
const DEAD_BYTES: u64 = 4 << 20;

/// Where records are.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) failed: u64,
    /// In memory, not yet in the queue.
    pub(super) in_memory: u64,
    /// In the queue.
    pub(super) on_disk: u64,
}

/// What the threads and the sink share. Nothing in it waits for a disk.
#[derive(Default)]
pub(super) struct Counts {
    /// Every record that was ever offered is in exactly one of its numbers.
    pub(super) tally: Mutex<Tally>,
    pub(super) last_success: Mutex<Option<Timestamp>>,
    /// Of the oldest record that the receiver did not take at the last attempt.
    pub(super) waiting_since: Mutex<Option<Timestamp>>,
    /// Of the writer: the disk.
    writing: Mutex<Option<String>>,
    /// Of the sender: the receiver.
    sending: Mutex<Option<String>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    /// What is not well, in one line.
    pub(super) fn trouble(&self) -> Option<String> {
        let both = [lock(&self.writing).clone(), lock(&self.sending).clone()];
        let both: Vec<String> = both.into_iter().flatten().collect();
        (!both.is_empty()).then(|| both.join("; "))
    }

    pub(super) fn set_writing(&self, trouble: Option<String>) {
        *lock(&self.writing) = trouble;
    }

    fn set_sending(&self, name: &str, trouble: Option<String>) {
        let mut now = lock(&self.sending);
        match (&*now, &trouble) {
            (None, Some(why)) => {
                tracing::warn!(
                    receiver = name,
                    "records cannot be shipped, and wait: {why}"
                );
            }
            (Some(_), None) => tracing::info!(receiver = name, "records are shipped again"),
            _ => {}
        }
        *now = trouble;
    }
}

/// One receiver.
pub(super) struct Lane {
    pub(super) config: ReceiverConfig,
    pub(super) state_dir: PathBuf,
    pub(super) counts: Counts,
    pub(super) packer: Packer,
    pub(super) queue: Mutex<Option<Queue>>,
    /// Something has changed since the last sync.
    pub(super) dirty: AtomicBool,
    /// Something is in the queue.
    pub(super) more: Notify,
    /// The writer has ended: nothing more comes.
    pub(super) stop: CancellationToken,
}

impl Lane {
    fn with<T>(&self, work: impl FnOnce(&mut Queue) -> rusqlite::Result<T>) -> Option<T> {
        self.tell(work, |_, _| {})
    }

    /// Works with the queue, and counts what came of it; nothing where there is none.
    fn tell<T>(
        &self,
        work: impl FnOnce(&mut Queue) -> rusqlite::Result<T>,
        count: impl FnOnce(&T, &mut Tally),
    ) -> Option<T> {
        let mut queue = lock(&self.queue);
        let queue = queue.as_mut()?;
        match work(queue) {
            Ok(done) => {
                let mut tally = lock(&self.counts.tally);
                tally.on_disk = queue.records();
                tally.failed += queue.take_unreadable();
                count(&done, &mut tally);
                drop(tally);
                self.dirty.store(true, Relaxed);
                self.counts.set_writing(None);
                Some(done)
            }
            Err(error) => {
                let why = format!("the queue cannot be written: {error}");
                tracing::warn!(receiver = self.config.name, "{why}");
                self.counts.set_writing(Some(why));
                None
            }
        }
    }

    /// Opens the queue, which may be read in whole for it.
    fn open(&self) {
        let folder = folder(&self.state_dir, &self.config.name);
        match Queue::open(&folder, self.config.queue_bytes) {
            Ok((queue, odd)) => {
                if let Some(why) = odd {
                    tracing::error!(receiver = self.config.name, "{why}");
                }
                match queue.dropped() {
                    Ok(dropped) if dropped > 0 => tracing::warn!(
                        receiver = self.config.name,
                        dropped,
                        "records were pushed out of the queue, since it was made"
                    ),
                    _ => {}
                }
                lock(&self.counts.tally).on_disk = queue.records();
                *lock(&self.queue) = Some(queue);
                self.counts.set_writing(None);
                self.more.notify_one();
            }
            Err(error) => {
                let why = crate::error::chain(&error);
                tracing::error!(receiver = self.config.name, "{why}");
                self.counts.set_writing(Some(why));
            }
        }
    }

    /// Takes records until nobody gives any more.
    pub(super) fn write(&self, records: &Records<Arc<Record>>) {
        self.open();
        let mut parcels: Vec<Parcel> = Vec::with_capacity(BATCH);
        while let Ok(record) = records.recv() {
            parcels.push(self.pack(&record));
            while parcels.len() < BATCH
                && let Ok(record) = records.try_recv()
            {
                parcels.push(self.pack(&record));
            }
            self.put(&mut parcels);
        }
        self.put(&mut parcels);
        let lost = parcels.len() as u64;
        let mut tally = lock(&self.counts.tally);
        tally.failed += lost;
        tally.in_memory -= lost;
    }

    /// Brings what is written to the disk itself, again and again.
    pub(super) fn sync(&self) {
        let folder = folder(&self.state_dir, &self.config.name);
        let mut syncer = None;
        while !self.stop.is_cancelled() {
            std::thread::sleep(SYNC);
            if !self.dirty.swap(false, Relaxed) {
                continue;
            }
            let synced = match &syncer {
                Some(syncer) => Syncer::sync(syncer),
                None => Syncer::open(&folder).and_then(|new| syncer.insert(new).sync()),
            };
            if let Err(error) = synced {
                tracing::warn!(receiver = self.config.name, %error, "the queue is not synced");
                self.dirty.store(true, Relaxed);
                syncer = None;
            }
        }
    }

    fn pack(&self, record: &Record) -> Parcel {
        self.packer.pack(record, self.config.format)
    }

    /// Into the queue. What cannot be written now stays in `parcels`, which then stops what
    /// comes behind it: the memory's own queue fills, and counts.
    fn put(&self, parcels: &mut Vec<Parcel>) {
        while !parcels.is_empty() {
            if lock(&self.queue).is_none() {
                self.open();
            }
            let count = |dropped: &u64, tally: &mut Tally| {
                tally.dropped += dropped;
                tally.in_memory -= parcels.len() as u64;
            };
            match self.tell(|queue| queue.push(parcels), count) {
                Some(_) => {
                    parcels.clear();
                    self.more.notify_one();
                }
                None if self.stop.is_cancelled() => return,
                None => std::thread::sleep(SYNC),
            }
        }
    }

    /// Sends until the daemon stops, and a little longer.
    pub(super) async fn send(&self) {
        let mut receiver = None;
        tokio::select! {
            () = self.send_on(&mut receiver) => {}
            () = self.stop.cancelled() => {
                // A record is not taken out before it has arrived, so this can be cut anywhere.
                let rest = async {
                    while let Some(batch) = self.batch(BATCH)
                        && !batch.is_empty()
                        && let Ok(outcome) = self.deliver(&mut receiver, &batch).await
                        && outcome.again.is_empty() {}
                };
                let _ = tokio::time::timeout(DRAIN, rest).await;
            }
        }
        // The next one may want it before this process ends.
        drop(lock(&self.queue).take());
    }

    async fn send_on(&self, receiver: &mut Option<Receiver>) {
        let mut failures = 0;
        let mut most = BATCH;
        loop {
            let batch = match self.batch(most) {
                Some(batch) if !batch.is_empty() => batch,
                // Nothing waits, or the disk does not answer; the writer says when it does.
                _ => {
                    self.more.notified().await;
                    tokio::time::sleep(LINGER).await;
                    continue;
                }
            };
            let trouble = match self.deliver(receiver, &batch).await {
                Ok(outcome) if outcome.again.is_empty() => {
                    failures = 0;
                    most = (most * 2).min(BATCH);
                    self.counts.set_sending(&self.config.name, outcome.why);
                    *lock(&self.counts.waiting_since) = None;
                    continue;
                }
                Ok(outcome) => Trouble::Later {
                    why: outcome.why.unwrap_or_else(|| "it is busy".to_owned()),
                    after: outcome.after,
                },
                Err(Trouble::Indigestible { why }) if batch.len() > 1 => {
                    tracing::debug!(receiver = self.config.name, "half of the batch: {why}");
                    most = batch.len() / 2;
                    continue;
                }
                Err(trouble) => trouble,
            };
            let after = match &trouble {
                Trouble::Later { after, .. } => *after,
                Trouble::Parked { .. } => Some(LONGEST_PAUSE),
                Trouble::Indigestible { why } => {
                    self.bury(&batch, &[(0, why.clone())]);
                    continue;
                }
            };
            self.counts
                .set_sending(&self.config.name, Some(trouble.why().to_owned()));
            *lock(&self.counts.waiting_since) = batch.first().map(|(_, parcel)| parcel.head.time);
            let _ = self.with(|queue| {
                queue.release();
                Ok(())
            });
            failures += 1;
            tokio::time::sleep(after.unwrap_or_else(|| pause(failures))).await;
        }
    }

    fn batch(&self, most: usize) -> Option<Vec<Waiting>> {
        self.with(|queue| queue.oldest(most, BATCH_BYTES))
    }

    /// Sends one batch, and takes out of the queue what has arrived and what never will.
    async fn deliver(
        &self,
        receiver: &mut Option<Receiver>,
        batch: &[Waiting],
    ) -> Result<Outcome, Trouble> {
        let receiver = match receiver {
            Some(receiver) => receiver,
            // Its certificates may be there by now.
            None => receiver.insert(Receiver::new(&self.config).map_err(Trouble::parked)?),
        };
        let parcels: Vec<&Parcel> = batch.iter().map(|(_, parcel)| parcel).collect();
        let outcome = receiver.deliver(&parcels).await?;
        let stays = |n: usize| {
            outcome.again.contains(&n) || outcome.dead.iter().any(|(dead, _)| *dead == n)
        };
        let arrived: Vec<i64> = (batch.iter().enumerate())
            .filter(|(n, _)| !stays(*n))
            .map(|(_, (number, _))| *number)
            .collect();
        let refused = outcome.refused.min(arrived.len() as u64);
        let count = |_: &(), tally: &mut Tally| {
            tally.delivered += arrived.len() as u64 - refused;
            tally.failed += refused;
        };
        let settled = self.tell(|queue| queue.settle(&arrived), count);
        if settled.is_none() {
            return Err(Trouble::later("the queue cannot be written"));
        }
        if arrived.len() as u64 > refused {
            *lock(&self.counts.last_success) = Some(Timestamp::now());
        }
        self.bury(batch, &outcome.dead);
        Ok(outcome)
    }

    /// Into the file of dead letters: the receiver will never take them, and what it takes
    /// must not wait behind them.
    fn bury(&self, batch: &[Waiting], dead: &[(usize, String)]) {
        if dead.is_empty() {
            return;
        }
        let path = folder(&self.state_dir, &self.config.name).join("dead.jsonl");
        let written = Lines::open(&path, DEAD_BYTES).and_then(|mut lines| {
            for (n, why) in dead {
                let letter = serde_json::json!({
                    "id": batch[*n].1.head.id, "why": why, "record": batch[*n].1.body,
                });
                lines.line(letter.to_string().into_bytes())?;
            }
            lines.sync()
        });
        let (name, count) = (&self.config.name, dead.len());
        let why = dead.first().map_or("", |(_, why)| why.as_str());
        match written {
            Ok(()) => tracing::warn!(
                receiver = name,
                "it never takes {count} records ({why}); they are in {}",
                path.display()
            ),
            Err(error) => tracing::error!(
                receiver = name,
                "it never takes {count} records ({why}), and {} cannot be written: {error}",
                path.display()
            ),
        }
        let numbers: Vec<i64> = dead.iter().map(|(n, _)| batch[*n].0).collect();
        let count = |_: &(), tally: &mut Tally| tally.failed += numbers.len() as u64;
        let _ = self.tell(|queue| queue.settle(&numbers), count);
    }
}

/// Twice as long after each failure, and between half of that and all of it: those who lost
/// the same receiver do not come back together.
fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
    let whole = doubled.min(LONGEST_PAUSE);
    whole.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_differ() {
        for (failures, whole) in [(1, 0.5), (2, 1.0), (7, 32.0), (8, 60.0), (4000, 60.0)] {
            for _ in 0..50 {
                let pause = pause(failures).as_secs_f64();
                assert!(
                    pause <= whole && pause >= whole / 2.0,
                    "{failures}: {pause}"
                );
            }
        }
        let some: std::collections::BTreeSet<_> = (0..20).map(|_| pause(5)).collect();
        assert!(some.len() > 1);
    }
}
