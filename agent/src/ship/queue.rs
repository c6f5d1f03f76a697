//! What a receiver has not acknowledged yet, on the disk.
//!
//! A SQLite database in WAL mode: a record is in the file system before anybody is asked to
//! send it, so the end of the daemon costs none that has come so far. A [`Syncer`] brings it to
//! the disk about a second later, so a power cut costs about that second: it has a connection
//! of its own, because a busy disk takes seconds for it, and records must not wait in memory
//! meanwhile. A torn tail is SQLite's own to cut.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use super::parcel::{Head, Parcel};

const FILE: &str = "queue.sqlite";
/// Where a database goes that cannot be read.
const BROKEN: &str = "queue.broken";
/// What a row takes beside its texts.
const ROW_BYTES: u64 = 64;
/// How long one connection waits for the other.
const BUSY: Duration = Duration::from_secs(5);

/// The queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueueError {
    #[error("cannot make {path}: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the queue {path}: {source}", path = path.display())]
    Database {
        path: PathBuf,
        source: rusqlite::Error,
    },
}

/// A row's number, and its parcel.
pub(super) type Waiting = (i64, Parcel);

pub(super) struct Queue {
    db: Connection,
    max_bytes: u64,
    records: u64,
    bytes: u64,
    /// Rows up to this one are being sent, and are not pushed out: each record is counted
    /// once, as delivered or as dropped.
    under_way: i64,
    /// Rows that were taken out because nobody can read them.
    unreadable: u64,
}

impl Queue {
    /// Opens the queue in a folder of its own (mode 0700). One that cannot be read is put
    /// aside, once: the second value is why.
    pub(super) fn open(
        folder: &Path,
        max_bytes: u64,
    ) -> Result<(Self, Option<String>), QueueError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| QueueError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        let path = folder.join(FILE);
        let failed = |source| QueueError::Database {
            path: path.clone(),
            source,
        };
        match Self::open_file(&path, max_bytes) {
            Ok(queue) => Ok((queue, None)),
            Err(error) if is_broken(&error) => {
                let aside = folder.join(BROKEN);
                fs::rename(&path, &aside).map_err(|source| QueueError::Folder {
                    path: aside.clone(),
                    source,
                })?;
                for end in ["-wal", "-shm"] {
                    let _ = fs::remove_file(folder.join(format!("{FILE}{end}")));
                }
                let why = format!(
                    "the queue could not be read ({error}) and was begun anew; what it held lies in {}",
                    aside.display()
                );
                let queue = Self::open_file(&path, max_bytes).map_err(failed)?;
                Ok((queue, Some(why)))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn open_file(path: &Path, max_bytes: u64) -> rusqlite::Result<Self> {
        let db = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_NOFOLLOW,
        )?;
        db.busy_timeout(BUSY)?;
        // Space is given back when the queue empties.
        db.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA cache_size = -512;
             PRAGMA journal_size_limit = 1048576;
             CREATE TABLE IF NOT EXISTS waiting (
                 number INTEGER PRIMARY KEY AUTOINCREMENT,
                 bytes INTEGER NOT NULL,
                 head TEXT NOT NULL,
                 body TEXT NOT NULL
             );
             CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
             INSERT OR IGNORE INTO totals VALUES ('dropped', 0);",
        )?;
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(verdict),
            ));
        }
        let (records, bytes) = db.query_row(
            "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM waiting",
            [],
            |row| Ok((count(row, 0)?, count(row, 1)?)),
        )?;
        Ok(Self {
            db,
            max_bytes,
            records,
            bytes,
            under_way: 0,
            unreadable: 0,
        })
    }

    /// Appends, and pushes out the oldest where there is no room: how many. All of it or,
    /// with an error, none of it.
    pub(super) fn push(&mut self, parcels: &[Parcel]) -> rusqlite::Result<u64> {
        let (mut records, mut bytes) = (self.records, self.bytes);
        let mut dropped = 0;
        let change = self.db.transaction()?;
        {
            let mut insert = change
                .prepare_cached("INSERT INTO waiting (bytes, head, body) VALUES (?, ?, ?)")?;
            for parcel in parcels {
                let head = serde_json::to_string(&parcel.head)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                let size = (head.len() + parcel.body.len()) as u64 + ROW_BYTES;
                insert.execute(params![number(size), head, parcel.body])?;
                records += 1;
                bytes += size;
            }
            let mut oldest = change.prepare_cached(
                "SELECT number, bytes FROM waiting WHERE number > ? ORDER BY number LIMIT 256",
            )?;
            let mut remove = change.prepare_cached("DELETE FROM waiting WHERE number = ?")?;
            'full: while bytes > self.max_bytes {
                let rows: Vec<(i64, u64)> = oldest
                    .query_map([self.under_way], |row| Ok((row.get(0)?, count(row, 1)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                if rows.is_empty() {
                    break;
                }
                for (number, size) in rows {
                    remove.execute([number])?;
                    records -= 1;
                    bytes = bytes.saturating_sub(size);
                    dropped += 1;
                    if bytes <= self.max_bytes {
                        break 'full;
                    }
                }
            }
            if dropped > 0 {
                change.execute(
                    "UPDATE totals SET count = count + ? WHERE name = 'dropped'",
                    [number(dropped)],
                )?;
            }
        }
        change.commit()?;
        (self.records, self.bytes) = (records, bytes);
        Ok(dropped)
    }

    /// The oldest, at least one if there is one. They stay until [`Queue::settle`].
    pub(super) fn oldest(
        &mut self,
        max_records: usize,
        max_bytes: usize,
    ) -> rusqlite::Result<Vec<Waiting>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut unreadable = Vec::new();
        {
            let mut select = self
                .db
                .prepare_cached("SELECT number, head, body FROM waiting ORDER BY number LIMIT ?")?;
            let mut rows = select.query([number(max_records as u64)])?;
            while let Some(row) = rows.next()? {
                let (number, head, body): (i64, String, String) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                bytes += body.len();
                if !found.is_empty() && bytes > max_bytes {
                    break;
                }
                match serde_json::from_str::<Head>(&head) {
                    Ok(head) => found.push((number, Parcel { head, body })),
                    // Of another version of Exeat.
                    Err(_) => unreadable.push(number),
                }
            }
        }
        if !unreadable.is_empty() {
            self.settle(&unreadable)?;
            self.unreadable += unreadable.len() as u64;
            if found.is_empty() {
                return self.oldest(max_records, max_bytes);
            }
        }
        self.under_way = found.last().map_or(0, |(number, _)| *number);
        Ok(found)
    }

    /// Takes these out: they are where they should be, or nobody will ever take them.
    pub(super) fn settle(&mut self, numbers: &[i64]) -> rusqlite::Result<()> {
        let (mut records, mut bytes) = (self.records, self.bytes);
        let change = self.db.transaction()?;
        {
            let mut remove =
                change.prepare_cached("DELETE FROM waiting WHERE number = ? RETURNING bytes")?;
            for number in numbers {
                let size = remove.query_row([number], |row| count(row, 0))?;
                records -= 1;
                bytes = bytes.saturating_sub(size);
            }
        }
        change.commit()?;
        (self.records, self.bytes) = (records, bytes);
        if self.records == 0 {
            // What an outage made large becomes small again.
            self.db.execute_batch("PRAGMA incremental_vacuum(256)")?;
        }
        Ok(())
    }

    /// How many rows nobody could read, since this was last asked.
    pub(super) const fn take_unreadable(&mut self) -> u64 {
        std::mem::replace(&mut self.unreadable, 0)
    }

    /// Nothing is being sent any more.
    pub(super) fn release(&mut self) {
        self.under_way = 0;
    }

    /// Records that wait.
    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    /// Records that were ever pushed out of this queue.
    pub(super) fn dropped(&self) -> rusqlite::Result<u64> {
        self.db.query_row(
            "SELECT count FROM totals WHERE name = 'dropped'",
            [],
            |row| count(row, 0),
        )
    }
}

/// Brings a queue to the disk itself, beside those who write to it and read from it.
pub(super) struct Syncer(Connection);

impl Syncer {
    /// For the queue in this folder, once it is there.
    pub(super) fn open(folder: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let db = Connection::open_with_flags(folder.join(FILE), flags)?;
        db.busy_timeout(BUSY)?;
        db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -64;")?;
        Ok(Self(db))
    }

    /// With synchronous = NORMAL a checkpoint is what syncs, and a passive one stops nobody.
    pub(super) fn sync(&self) -> rusqlite::Result<()> {
        self.0
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }
}

/// SQLite's integers have a sign.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column)
        .map(|count: i64| u64::try_from(count).unwrap_or(0))
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::parcel::tests::parcel;
    use uuid::Uuid;

    const ROOM: u64 = 1 << 20;

    fn open(folder: &Path, room: u64) -> Queue {
        let (queue, trouble) = Queue::open(folder, room).expect("open");
        assert_eq!(trouble, None);
        queue
    }

    fn ids(waiting: &[Waiting]) -> Vec<Uuid> {
        waiting.iter().map(|(_, parcel)| parcel.head.id).collect()
    }

    fn numbers(waiting: &[Waiting]) -> Vec<i64> {
        waiting.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn what_waits_is_there_after_a_restart_in_order_until_it_is_settled() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = dir.path().join("ship/a");
        let sent: Vec<_> = (0..5).map(|_| parcel()).collect();
        let mut queue = open(&folder, ROOM);
        assert_eq!(queue.push(&sent).expect("push"), 0);
        drop(queue);
        let mut queue = open(&folder, ROOM);
        assert_eq!(queue.records(), 5);
        let first = queue.oldest(2, 1 << 20).expect("read");
        assert_eq!(first.len(), 2);
        assert_eq!(first[0].1, sent[0]);
        queue.settle(&numbers(&first)).expect("settle");
        drop(queue);
        let mut queue = open(&folder, ROOM);
        let rest = queue.oldest(10, 1 << 20).expect("read");
        let expected: Vec<_> = sent[2..].iter().map(|p| p.head.id).collect();
        assert_eq!(ids(&rest), expected);
        assert_eq!(queue.oldest(10, 1).expect("one at least").len(), 1);
        let wal = folder.join(format!("{FILE}-wal"));
        assert!(fs::metadata(&wal).expect("wal").len() > 0);
        Syncer::open(&folder).expect("open").sync().expect("sync");
        assert_eq!(queue.oldest(10, 1 << 20).expect("read").len(), 3);
    }

    #[test]
    fn a_full_queue_pushes_out_the_oldest_and_counts_each_but_never_what_is_being_sent() {
        let dir = tempfile::tempdir().expect("dir");
        let one = parcel();
        let size = (serde_json::to_string(&one.head).expect("json").len() + one.body.len()) as u64
            + ROW_BYTES;
        let mut queue = open(dir.path(), size * 10 + size / 2);
        let all: Vec<_> = (0..30).map(|_| parcel()).collect();
        assert_eq!(queue.push(&all[..10]).expect("push"), 0);
        let sending = queue.oldest(3, 1 << 20).expect("read");
        assert_eq!(queue.push(&all[10..]).expect("push"), 20);
        assert_eq!(queue.records(), 10);
        // The three that are under way, and the seven youngest.
        let held = queue.oldest(100, 1 << 20).expect("read");
        let mut expected = ids(&sending);
        expected.extend(all[23..].iter().map(|p| p.head.id));
        assert_eq!(ids(&held), expected);
        queue.settle(&numbers(&sending)).expect("settle");
        queue.release();
        assert_eq!(queue.records(), 7);
        drop(queue);
        assert_eq!(open(dir.path(), ROOM).dropped().expect("count"), 20);
    }

    #[test]
    fn rubbish_is_put_aside_and_the_queue_begins_anew() {
        let dir = tempfile::tempdir().expect("dir");
        fs::write(dir.path().join(FILE), vec![7; 8192]).expect("write");
        let (mut queue, trouble) = Queue::open(dir.path(), ROOM).expect("open");
        assert!(trouble.expect("told").contains("begun anew"));
        queue.push(&[parcel()]).expect("push");
        assert!(dir.path().join(BROKEN).exists());
        assert_eq!(queue.records(), 1);
    }

    #[test]
    fn a_tail_that_was_cut_off_costs_the_tail_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let mut queue = open(dir.path(), ROOM);
        for _ in 0..3 {
            queue.push(&[parcel()]).expect("push");
        }
        // As after a kill: the database and its log as they are at this moment.
        let copy = tempfile::tempdir().expect("dir");
        for end in ["", "-wal"] {
            let name = format!("{FILE}{end}");
            fs::copy(dir.path().join(&name), copy.path().join(&name)).expect("copy");
        }
        let wal = copy.path().join(format!("{FILE}-wal"));
        let length = fs::metadata(&wal).expect("wal").len();
        let file = fs::File::options().write(true).open(&wal).expect("open");
        file.set_len(length - 100).expect("cut");
        assert_eq!(open(copy.path(), ROOM).records(), 2);
    }

    #[test]
    fn a_row_of_another_version_is_counted_and_stops_no_other() {
        let dir = tempfile::tempdir().expect("dir");
        let mut queue = open(dir.path(), ROOM);
        queue.push(&[parcel(), parcel()]).expect("push");
        let change = "UPDATE waiting SET head = '{}' WHERE number = 1";
        assert_eq!(queue.db.execute(change, []).expect("change"), 1);
        assert_eq!(queue.oldest(1, 1 << 20).expect("read").len(), 1);
        assert_eq!((queue.take_unreadable(), queue.records()), (1, 1));
        assert_eq!(queue.take_unreadable(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_its_path() {
        let error = Queue::open(Path::new("/proc/exeat/a"), ROOM)
            .err()
            .expect("no folder");
        assert!(
            error.to_string().contains("cannot make /proc/exeat/a"),
            "{error}"
        );
    }
}
