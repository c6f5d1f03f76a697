//! The thread that writes the log: it opens it, mends it, and counts what it loses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::key::Key;
use super::log::{Log, Settings, Unwritten};
use super::{Counts, Options};
use crate::error::chain;
use crate::ocsf::{self, Device};
use crate::sink::Record;

/// Records written at once.
const BATCH: usize = 256;
/// The longest time that a record is not on the disk.
const SYNC: Duration = Duration::from_secs(1);
/// How long nothing is looked at while nothing comes: whether somebody else changed the files.
const LOOK: Duration = Duration::from_secs(10);
/// Records between two checkpoints.
const CHECKPOINT: u64 = 1000;

pub(super) struct Writer {
    options: Options,
    device: Device,
    boot: String,
    counts: Arc<Counts>,
    log: Option<Log>,
    /// What `counts.dropped` was when the log was last told.
    told_dropped: u64,
    /// Records that could not be written, and the log was not told of.
    untold_failed: u64,
    checkpointed: Instant,
    synced: Instant,
    /// Records were lost, and none was written since: a few bytes for the word of the loss may
    /// fit where no record does.
    failing: bool,
    /// Somebody meddled with the files. It stays until the daemon starts anew.
    disturbed: Option<String>,
}

impl Writer {
    pub(super) fn new(options: Options, device: Device, counts: Arc<Counts>) -> Self {
        Self {
            options,
            device,
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            counts,
            log: None,
            told_dropped: 0,
            untold_failed: 0,
            checkpointed: Instant::now(),
            synced: Instant::now(),
            failing: false,
            disturbed: None,
        }
    }

    pub(super) fn run(mut self, records: &Receiver<Arc<Record>>) {
        self.ready();
        loop {
            match records.recv_timeout(self.patience()) {
                Ok(record) => {
                    let mut batch = vec![record];
                    batch.extend(records.try_iter().take(BATCH - 1));
                    self.counts.queued.fetch_sub(batch.len() as u64, Relaxed);
                    self.write(&batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tend();
        }
        self.end();
    }

    /// How long until something is due, whether or not a record comes.
    fn patience(&self) -> Duration {
        match &self.log {
            Some(log) if !log.is_unsynced() && !self.failing => {
                let due = self.options.checkpoint;
                let due = due.saturating_sub(self.checkpointed.elapsed());
                match log.since_checkpoint() {
                    0 => LOOK,
                    _ => due.clamp(SYNC, LOOK),
                }
            }
            _ => SYNC,
        }
    }

    fn write(&mut self, batch: &[Arc<Record>]) {
        let events: Vec<_> = batch
            .iter()
            .map(|record| ocsf::event(record, &self.device))
            .collect();
        let all = events.len();
        // Before them, so that the loss has its place.
        let written = match self.ready() {
            false => 0,
            true => match self.log.as_mut().map(|log| log.events(events)) {
                Some(Ok(())) => all,
                Some(Err(unwritten)) => {
                    let written = unwritten.written;
                    self.failed(&unwritten);
                    written
                }
                None => 0,
            },
        };
        self.counts.written.fetch_add(written as u64, Relaxed);
        if written > 0 {
            self.counts.state().last_success = Some(jiff::Timestamp::now());
        }
        let lost = (all - written) as u64;
        self.failing = lost > 0;
        self.untold_failed += lost;
        self.counts.failed.fetch_add(lost, Relaxed);
    }

    /// Whether the log is open and has been told of every loss.
    fn ready(&mut self) -> bool {
        if self.log.is_none() {
            match self.open() {
                Ok(log) => {
                    tracing::info!(
                        folder = %self.options.folder.display(),
                        append_only = log.is_append_only(),
                        "audit log"
                    );
                    self.log = Some(log);
                }
                Err(error) => {
                    self.trouble(error);
                    return false;
                }
            }
        }
        let dropped = self.counts.dropped.load(Relaxed);
        let new = dropped - self.told_dropped;
        if new + self.untold_failed > 0 {
            let failed = self.untold_failed;
            match self.log.as_mut().map(|log| log.lost(new, failed)) {
                Some(Ok(())) => {
                    self.told_dropped = dropped;
                    self.untold_failed = 0;
                }
                Some(Err(unwritten)) => {
                    self.failed(&unwritten);
                    return false;
                }
                None => return false,
            }
        }
        true
    }

    fn open(&self) -> Result<Log, String> {
        let options = &self.options;
        let say = |error: &dyn std::error::Error| chain(error);
        Log::make_folder(&options.folder).map_err(|error| say(&error))?;
        let key = Key::open(&options.folder, options.credentials.as_deref())
            .map_err(|error| say(&error))?;
        let settings = Settings {
            max_bytes: options.max_bytes,
            keep: options.keep,
        };
        Log::open(&options.folder, settings, key, &self.boot).map_err(|error| say(&error))
    }

    /// What is due: sync, checkpoint, the next file.
    fn tend(&mut self) {
        if !self.ready() {
            return;
        }
        let Some(log) = &mut self.log else { return };
        let result = tend(
            log,
            &self.boot,
            &mut self.checkpointed,
            &mut self.synced,
            self.options.checkpoint,
        );
        match result {
            // Signed and on the disk.
            Ok(true) => self.failing = false,
            Ok(false) => {}
            Err(error) => {
                self.trouble(error.to_string());
                return;
            }
        }
        if let Some(what) = self.log.as_ref().and_then(Log::disturbed) {
            tracing::error!(what, "somebody else changed the audit log");
            self.counts.state().trouble = Some(what.clone());
            self.disturbed = Some(what);
            // Opened anew it says what is missing.
            self.log = None;
            return;
        }
        if !self.failing {
            self.counts.state().trouble.clone_from(&self.disturbed);
        }
    }

    fn end(&mut self) {
        if !self.ready() {
            return;
        }
        let Some(log) = &mut self.log else { return };
        if let Err(error) = log.checkpoint(&self.boot, true) {
            self.trouble(error.to_string());
        }
    }

    fn failed(&mut self, unwritten: &Unwritten) {
        if unwritten.reopen {
            self.log = None;
        }
        self.trouble(unwritten.error.to_string());
    }

    fn trouble(&self, text: String) {
        let mut state = self.counts.state();
        if state.trouble.as_ref() != Some(&text) {
            tracing::error!(error = text, "the audit log cannot be written");
            state.trouble = Some(text);
        }
    }
}

/// Whether there was a checkpoint.
fn tend(
    log: &mut Log,
    boot: &str,
    checkpointed: &mut Instant,
    synced: &mut Instant,
    interval: Duration,
) -> io::Result<bool> {
    log.rotate(boot)?;
    let count = log.since_checkpoint();
    if count >= CHECKPOINT || (count > 0 && checkpointed.elapsed() >= interval) {
        log.checkpoint(boot, false)?;
        (*checkpointed, *synced) = (Instant::now(), Instant::now());
        return Ok(true);
    } else if log.is_unsynced() && synced.elapsed() >= SYNC {
        log.sync(false)?;
        *synced = Instant::now();
    }
    Ok(false)
}
