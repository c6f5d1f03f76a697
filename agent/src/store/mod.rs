//! What went where, kept: every record in an SQLite file, bounded by age and by bytes.
//!
//! One thread writes, behind a bounded queue. Each question has a connection of its own that can
//! only read, and a deadline. A disk that is full or a file that is broken costs records, which
//! are counted; a broken file is put aside and a new one begun.

mod model;
mod query;
mod row;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;

pub use model::{
    DEFAULT_LIMIT, MAX_LIMIT, MAX_ROWS, Page, QueryError, SummaryBy, SummaryRow, Wanted,
};

use crate::sink::{Record, Sink, SinkState};

/// The file in the state directory.
pub const FILE_NAME: &str = "history.sqlite";
/// What the sink is called in status and metrics.
pub const SINK_NAME: &str = "history";
/// The least that the file may be bounded to.
pub const MIN_BYTES: u64 = 1 << 20;
/// Records that may wait for the disk.
const QUEUE: usize = 16_384;
/// How long a question may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Questions at once of users who do not administer, and as many of those who do, so that the
/// first cannot lock out the second.
const QUESTIONS: usize = 2;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How old a record gets.
    pub max_age: Duration,
    /// How large the file gets.
    pub max_bytes: u64,
}

/// What the thread and its owner share.
#[derive(Default)]
struct Shared {
    delivered: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    queued: AtomicU64,
    said: Mutex<Said>,
}

/// What is to be told of the file.
#[derive(Default)]
struct Said {
    last_success: Option<Timestamp>,
    /// Why it does not work at the moment.
    trouble: Option<String>,
    /// What happened to an earlier file, for as long as the daemon lives.
    notice: Option<String>,
}

impl Shared {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_trouble(&self, trouble: Option<String>) {
        self.said().trouble = trouble;
    }

    fn set_notice(&self, notice: String) {
        self.said().notice = Some(notice);
    }

    fn set_success(&self, time: Timestamp) {
        self.said().last_success = Some(time);
    }
}

/// The history.
pub struct Store {
    path: PathBuf,
    /// None once it is closed: the thread ends when it has written what waits.
    queue: Mutex<Option<SyncSender<Arc<Record>>>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    of_users: Arc<Semaphore>,
    of_admins: Arc<Semaphore>,
    answer: Duration,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Starts the thread, which opens the file or makes it (mode 0600). A file that cannot be
    /// opened is no failure of this: the state says so, and it is tried again.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(path: &Path, bounds: Bounds) -> std::io::Result<Self> {
        Self::start_with(path, bounds, QUEUE, ANSWER)
    }

    fn start_with(
        path: &Path,
        bounds: Bounds,
        queue: usize,
        answer: Duration,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(queue);
        let shared = Arc::new(Shared::default());
        let writer = writer::Writer::new(path.to_owned(), bounds, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("history".into())
            .spawn(move || writer.run(&receiver))?;
        Ok(Self {
            path: path.to_owned(),
            queue: Mutex::new(Some(sender)),
            shared,
            thread: Mutex::new(Some(thread)),
            of_users: Arc::new(Semaphore::new(QUESTIONS)),
            of_admins: Arc::new(Semaphore::new(QUESTIONS)),
            answer,
        })
    }

    /// What is wrong with it, for people.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.state();
        let lost = state.dropped + state.failed;
        let lost = (lost > 0).then(|| {
            format!(
                "the history has lost {lost} records ({} found its queue full, {} could not be written)",
                state.dropped, state.failed
            )
        });
        state.trouble.into_iter().chain(lost).collect()
    }

    /// The newest records that are wanted.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn history(&self, wanted: Wanted) -> Result<Page, QueryError> {
        self.ask(wanted.uid, move |path, limit| {
            query::history(path, &wanted, limit)
        })
        .await
    }

    /// What was recorded, added up, and whether there are more rows.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn summary(
        &self,
        wanted: Wanted,
        by: SummaryBy,
    ) -> Result<(Vec<SummaryRow>, bool), QueryError> {
        self.ask(wanted.uid, move |path, limit| {
            query::summary(path, &wanted, by, limit)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        uid: Option<u32>,
        work: impl FnOnce(&Path, Duration) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let turns = match uid {
            Some(_) => &self.of_users,
            None => &self.of_admins,
        };
        let turn = Arc::clone(turns).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(self.answer, turn).await else {
            return Err(QueryError::Busy);
        };
        let (path, limit) = (self.path.clone(), self.answer);
        // Whoever asked may be gone before the search ends: it keeps its turn.
        let search = move || {
            let _turn = turn;
            work(&path, limit)
        };
        tokio::task::spawn_blocking(search)
            .await
            .unwrap_or_else(|_| Err(QueryError::Unreadable("the search has failed".into())))
    }
}

impl Sink for Store {
    fn offer(&self, record: &Arc<Record>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else { return };
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        if queue.try_send(Arc::clone(record)).is_err() {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn state(&self) -> SinkState {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let said = self.shared.said();
        SinkState {
            name: SINK_NAME.into(),
            delivered: get(&self.shared.delivered),
            dropped: get(&self.shared.dropped),
            failed: get(&self.shared.failed),
            queued: get(&self.shared.queued),
            last_success: said.last_success,
            waiting_since: None,
            trouble: said.trouble.clone().or_else(|| said.notice.clone()),
        }
    }

    fn crowded(&self) -> Option<u64> {
        crate::sink::crowd(self.shared.queued.load(Ordering::Relaxed), QUEUE)
    }

    fn close(&self) {
        let queue = self.queue.lock();
        drop(queue.unwrap_or_else(PoisonError::into_inner).take());
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the history has panicked");
        }
    }
}

#[cfg(test)]
mod tests;
