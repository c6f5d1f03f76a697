//! The thread that writes: batches in transactions, and the bounds of age and size.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, params};
use tracing::{error, warn};

use super::schema::{self, OpenError};
use super::{Bounds, Shared, row::Row};
use crate::sink::Record;

/// Records of one transaction at most, and fewer where the file is small: it must hold many.
const BATCH: u64 = 2000;
/// What a record may take, for that.
const ROOM: u64 = 16 << 10;
/// How long a batch gathers: one transaction for what comes together, on a quiet day too.
const GATHER: Duration = Duration::from_millis(50);
/// How often what is too old is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a file that cannot be opened is let alone.
const RETRY: Duration = Duration::from_secs(5);
/// When the file is so full, percent, the oldest go until it is at [`EASY`];
/// when a batch finds no room at all, at [`HALF`].
const TIGHT: i64 = 90;
const EASY: i64 = 80;
const HALF: i64 = 50;

pub(super) struct Writer {
    path: PathBuf,
    bounds: Bounds,
    shared: Arc<Shared>,
    db: Option<Connection>,
    opened: Option<Instant>,
    swept: Instant,
    /// Records that are written, or thrown away, by one transaction.
    batch: u32,
}

impl Writer {
    pub(super) fn new(path: PathBuf, bounds: Bounds, shared: Arc<Shared>) -> Self {
        Self {
            path,
            bounds,
            shared,
            db: None,
            opened: None,
            swept: Instant::now(),
            batch: (bounds.max_bytes / ROOM).clamp(16, BATCH) as u32,
        }
    }

    /// Writes until the store is closed and the queue empty. Sleeps while nothing comes.
    pub(super) fn run(mut self, queue: &Receiver<Arc<Record>>) {
        self.open();
        self.sweep();
        let most = self.batch as usize;
        let mut batch = Vec::with_capacity(most);
        loop {
            match queue.recv_timeout(SWEEP.saturating_sub(self.swept.elapsed())) {
                Ok(record) => batch.push(record),
                Err(RecvTimeoutError::Timeout) => {
                    self.sweep();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let until = Instant::now() + GATHER;
            while batch.len() < most {
                let left = until.saturating_duration_since(Instant::now());
                match queue.recv_timeout(left) {
                    Ok(record) => batch.push(record),
                    Err(_) => break,
                }
            }
            self.store(&batch);
            batch.clear();
            if self.swept.elapsed() > SWEEP {
                self.sweep();
            }
        }
        if let Some(db) = self.db.take()
            && let Err((_, error)) = db.close()
        {
            warn!(%error, "the history was not closed in order");
        }
    }

    /// Opens the file, and puts aside one that does not serve.
    fn open(&mut self) {
        if self.db.is_some() || self.opened.is_some_and(|tried| tried.elapsed() < RETRY) {
            return;
        }
        self.opened = Some(Instant::now());
        let mut result = schema::open(&self.path, self.bounds.max_bytes);
        if let Err(OpenError::Spoilt(why)) = &result {
            match self.put_aside(why) {
                Ok(()) => result = schema::open(&self.path, self.bounds.max_bytes),
                Err(why) => result = Err(OpenError::Other(why)),
            }
        }
        match result {
            Ok(db) => {
                self.db = Some(db);
                self.shared.set_trouble(None);
            }
            Err(why) => {
                let text = format!("the history {} cannot be kept: {why}", self.path.display());
                error!("{text}");
                self.shared.set_trouble(Some(text));
            }
        }
    }

    fn put_aside(&mut self, why: &str) -> Result<(), String> {
        self.db = None;
        let aside = schema::put_aside(&self.path)
            .map_err(|e| format!("it is damaged ({why}) and cannot be put aside: {e}"))?;
        let text = format!(
            "the history was damaged ({why}); it is put aside as {}, and a new one has begun",
            aside.display()
        );
        error!("{text}");
        self.shared.set_notice(text);
        Ok(())
    }

    /// Writes a batch whole, or counts it as failed.
    fn store(&mut self, batch: &[Arc<Record>]) {
        let count = batch.len() as u64;
        let outcome = self.try_store(batch);
        self.shared.queued.fetch_sub(count, Ordering::Relaxed);
        match outcome {
            Ok(()) => {
                self.shared.delivered.fetch_add(count, Ordering::Relaxed);
                self.shared.set_success(Timestamp::now());
            }
            Err(why) => {
                self.shared.failed.fetch_add(count, Ordering::Relaxed);
                if let Some(why) = why {
                    let text = format!("the history cannot be written: {why}");
                    warn!(records = count, "{text}");
                    self.shared.set_trouble(Some(text));
                }
            }
        }
    }

    /// A second try where the first one found the file damaged or full.
    fn try_store(&mut self, batch: &[Arc<Record>]) -> Result<(), Option<String>> {
        for last in [false, true] {
            self.open();
            let db = self.db.as_mut().ok_or(None)?;
            let error = match insert(db, batch) {
                Ok(()) => {
                    self.make_room(TIGHT, EASY);
                    self.shared.set_trouble(None);
                    return Ok(());
                }
                Err(error) => error,
            };
            if last {
                return Err(Some(error.to_string()));
            }
            if schema::is_damage(&error) {
                self.put_aside(&error.to_string()).map_err(Some)?;
                self.opened = None;
            } else if schema::is_full(&error) {
                self.make_room(0, HALF);
            } else {
                return Err(Some(error.to_string()));
            }
        }
        Err(None)
    }

    /// Keeps the file below its bound: the oldest go first.
    fn make_room(&self, tight: i64, easy: i64) {
        let Some(db) = &self.db else { return };
        let max = schema::max_pages(self.bounds.max_bytes);
        let over = |percent: i64| matches!(used_pages(db), Ok(used) if used * 100 > max * percent);
        if !over(tight) {
            return;
        }
        while over(easy) && matches!(self.drop_oldest(), 1..) {}
        if let Err(error) = give_back(db) {
            warn!(%error, "the history's file cannot be made smaller");
        }
    }

    /// Throws away the oldest records; returns how many.
    fn drop_oldest(&self) -> usize {
        let Some(db) = &self.db else { return 0 };
        let oldest =
            "DELETE FROM records WHERE id IN (SELECT id FROM records ORDER BY id LIMIT ?1)";
        db.execute(oldest, [self.batch]).unwrap_or_else(|error| {
            warn!(%error, "the oldest of the history cannot be thrown away");
            0
        })
    }

    /// Throws away what is too old.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        self.open();
        let Some(db) = &self.db else { return };
        let age = jiff::SignedDuration::try_from(self.bounds.max_age).unwrap_or_default();
        let limit = Timestamp::now()
            .saturating_sub(age)
            .unwrap_or(Timestamp::MIN);
        let old = "DELETE FROM records WHERE id IN \
                   (SELECT id FROM records WHERE time < ?1 LIMIT ?2)";
        let swept = loop {
            match db.execute(old, params![limit.as_microsecond(), self.batch]) {
                Ok(0) => break give_back(db),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = swept {
            warn!(%error, "what is too old of the history cannot be thrown away");
        }
    }
}

fn insert(db: &mut Connection, batch: &[Arc<Record>]) -> rusqlite::Result<()> {
    let whole = db.transaction()?;
    {
        let mut add = whole.prepare_cached(
            "INSERT INTO records (time, incident, agent, uid, verdict, reason, destination, names,
                process, ended, question, suppressed, sent_bytes, sent_packets, received_bytes,
                received_packets, record)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?;
        for record in batch {
            let row = Row::of(record)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let [sent_bytes, sent_packets, received_bytes, received_packets] = row.traffic;
            add.execute(params![
                row.time,
                row.incident,
                row.agent,
                row.uid,
                row.verdict,
                row.reason,
                row.destination,
                row.names,
                row.process,
                row.ended,
                row.question,
                row.suppressed,
                sent_bytes,
                sent_packets,
                received_bytes,
                received_packets,
                row.json,
            ])?;
        }
    }
    whole.commit()
}

/// Pages that hold something.
pub(super) fn used_pages(db: &Connection) -> rusqlite::Result<i64> {
    let pragma = |name: &str| -> rusqlite::Result<i64> {
        db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    let (all, free): (i64, i64) = (pragma("page_count")?, pragma("freelist_count")?);
    Ok(all - free)
}

/// Gives free pages back to the disk.
fn give_back(db: &Connection) -> rusqlite::Result<()> {
    let mut pages = db.prepare("PRAGMA incremental_vacuum")?;
    let mut steps = pages.query([])?;
    while steps.next()?.is_some() {}
    Ok(())
}
