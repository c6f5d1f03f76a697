//! The rules behind the hub: a thread of its own, so that no record waits for an expression.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use super::engine::{Detection, Engine};
use crate::sink::{Record, Sink, SinkState};

/// Records that may wait for the rules.
const QUEUE: usize = 8192;
/// How often what was seen is saved.
const SAVE: Duration = Duration::from_secs(60);

/// What the rules found, on its way to who acts on it.
pub type Found = Detection;

#[derive(Default)]
struct Shared {
    done: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicU64,
    /// Findings that nobody took.
    unheard: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// The queue's end and the thread that evaluates.
pub struct DetectSink {
    queue: Mutex<Option<SyncSender<Arc<Record>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl DetectSink {
    /// Starts the thread. Findings go to `found`; `memory` is the file of what was seen.
    pub fn start(engine: Engine, found: Sender<Found>, memory: PathBuf) -> std::io::Result<Self> {
        let (queue, records) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let counts = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("detect".into())
            .spawn(move || evaluate(engine, &records, &found, &memory, &counts))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            shared,
        })
    }
}

fn evaluate(
    mut engine: Engine,
    records: &Receiver<Arc<Record>>,
    found: &Sender<Found>,
    memory: &Path,
    shared: &Shared,
) {
    let mut saved = Instant::now();
    let tell = |trouble: Option<String>| {
        *shared
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = trouble;
    };
    loop {
        let record = records.recv_timeout(SAVE);
        if let Ok(record) = &record {
            shared.queued.fetch_sub(1, Ordering::Relaxed);
            for detection in engine.feed(record) {
                if found.try_send(detection).is_err() {
                    shared.unheard.fetch_add(1, Ordering::Relaxed);
                }
            }
            shared.done.fetch_add(1, Ordering::Relaxed);
            if let Some((rule, error)) = engine.troubles().first_key_value() {
                tell(Some(format!("rule `{rule}`: {error}")));
            }
        }
        let over = matches!(record, Err(RecvTimeoutError::Disconnected));
        if (over || saved.elapsed() >= SAVE) && engine.seen.is_dirty() {
            if let Err(error) = engine.seen.save(memory) {
                tell(Some(format!("{}: {error}", memory.display())));
            }
            saved = Instant::now();
        }
        if over {
            return;
        }
    }
}

impl Sink for DetectSink {
    fn offer(&self, record: &Arc<Record>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else { return };
        // Before it is sent, or the thread could take off what was not yet put on.
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            queue.try_send(Arc::clone(record))
        {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn state(&self) -> SinkState {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let trouble = self.shared.trouble.lock();
        SinkState {
            name: "detect".into(),
            delivered: get(&self.shared.done),
            dropped: get(&self.shared.dropped),
            failed: get(&self.shared.unheard),
            queued: get(&self.shared.queued),
            last_success: None,
            waiting_since: None,
            trouble: trouble.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn crowded(&self) -> Option<u64> {
        crate::sink::crowd(self.shared.queued.load(Ordering::Relaxed), QUEUE)
    }

    fn close(&self) {
        let take =
            |queue: &Mutex<Option<_>>| queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(take(&self.queue));
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the detection rules has panicked");
        }
    }
}
