//! The audit log: what was decided, asked, answered and changed, in files that show tampering.
//!
//! ```text
//! hub ─► AuditSink (bounded queue) ─► writer thread ─► Log ─► audit-0000000001.jsonl …
//!                                                       └──► head   (signed: where it ends)
//! ```
//!
//! Each line is canonical JSON (RFC 8785) with a number, the SHA-256 of the line before and
//! its own, across all files. Every line that is not an event is signed (Ed25519), and so is
//! `head`: see `docs/operations.md` for what that proves, and what it cannot.

mod files;
mod head;
mod key;
mod log;
#[cfg(test)]
mod mutations;
mod record;
#[cfg(test)]
pub(crate) mod tests;
mod verify;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::flow::FlowVerdict;
use crate::ocsf::Device;
use crate::sink::{Record, Sink, SinkState};

pub use files::{AuditFile, Lines, list, release};
pub use key::{CREDENTIAL, Key, KeyError, PublicKey, known_keys};
pub use log::{Log, Settings};
pub use record::{Kind, MAX_LINE};
pub use verify::{Fault, FaultKind, Report, VerifyError, verify_files, verify_folder};

/// The name of the sink.
pub const NAME: &str = "audit";
/// Records that may wait for the disk: about 16 MB.
const QUEUE: usize = 16_384;

/// How the audit log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where.
    pub folder: PathBuf,
    /// A file's size at which the next is begun.
    pub max_bytes: u64,
    /// How many files there are at most.
    pub keep: u32,
    /// The longest time between a record and the checkpoint behind it.
    pub checkpoint: Duration,
    /// Allowed flows too.
    pub allowed: bool,
    /// Where systemd puts credentials, if it does: a key is looked for there first.
    pub credentials: Option<PathBuf>,
}

/// What the writer tells.
#[derive(Default)]
struct Counts {
    written: AtomicU64,
    /// Records that found the queue full: told in the log by the writer.
    dropped: AtomicU64,
    failed: AtomicU64,
    queued: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default, Clone)]
struct State {
    last_success: Option<jiff::Timestamp>,
    trouble: Option<String>,
}

impl Counts {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the queue that the hub has, and the thread behind it.
pub struct AuditSink {
    queue: Mutex<Option<SyncSender<Arc<Record>>>>,
    counts: Arc<Counts>,
    thread: Mutex<Option<JoinHandle<()>>>,
    allowed: bool,
}

impl AuditSink {
    /// Starts the thread. It opens the log, and goes on trying where that fails: what comes
    /// meanwhile counts as lost.
    pub fn start(options: Options, device: Device) -> std::io::Result<Self> {
        Self::start_with(options, device, QUEUE)
    }

    fn start_with(options: Options, device: Device, room: usize) -> std::io::Result<Self> {
        let (queue, records) = sync_channel(room);
        let counts = Arc::new(Counts::default());
        let allowed = options.allowed;
        let writer = writer::Writer::new(options, device, Arc::clone(&counts));
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(&records))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            counts,
            thread: Mutex::new(Some(thread)),
            allowed,
        })
    }

    /// Whether the record is one for the log: everything but allowed flows, and those too
    /// where it is asked for.
    fn is_of_note(&self, record: &Record) -> bool {
        match record {
            Record::Flow(flow) => self.allowed || flow.verdict != FlowVerdict::Allow,
            Record::Incident(_) => true,
        }
    }
}

impl Sink for AuditSink {
    fn offer(&self, record: &Arc<Record>) {
        if !self.is_of_note(record) {
            return;
        }
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else { return };
        // Before it is there, or the writer could take away what is not yet added.
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        if queue.try_send(Arc::clone(record)).is_err() {
            self.counts.queued.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn state(&self) -> SinkState {
        let counts = &self.counts;
        let state = counts.state().clone();
        SinkState {
            name: NAME.to_owned(),
            delivered: counts.written.load(Ordering::Relaxed),
            dropped: counts.dropped.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            queued: counts.queued.load(Ordering::Relaxed),
            last_success: state.last_success,
            waiting_since: None,
            trouble: state.trouble,
        }
    }

    fn crowded(&self) -> Option<u64> {
        crate::sink::crowd(self.counts.queued.load(Ordering::Relaxed), QUEUE)
    }

    fn close(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the audit log has panicked");
        }
    }
}
