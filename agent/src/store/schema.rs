//! The file and its tables: making, opening and bringing up to date.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Bytes of a page of the file.
pub(super) const PAGE: i64 = 4096;
/// How long a lock of the file is waited for: only a checkpoint and a reader that opens meet.
const LOCKED: Duration = Duration::from_secs(2);
/// What the log of changes may grow to before it is folded into the file, in pages.
const LOG_PAGES: i64 = 1000;

/// Each brings the tables from the version that is its index to the next.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        time INTEGER NOT NULL,
        incident INTEGER NOT NULL,
        agent TEXT NOT NULL,
        uid INTEGER,
        verdict TEXT,
        reason TEXT,
        destination TEXT,
        names TEXT,
        process TEXT,
        ended INTEGER NOT NULL,
        question INTEGER NOT NULL,
        suppressed INTEGER NOT NULL,
        sent_bytes INTEGER NOT NULL,
        sent_packets INTEGER NOT NULL,
        received_bytes INTEGER NOT NULL,
        received_packets INTEGER NOT NULL,
        record TEXT NOT NULL
    );
    CREATE INDEX records_time ON records (time);
"];

/// Why the file does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Its content is none that this version can go on with: it is put aside.
    #[error("{0}")]
    Spoilt(String),
    /// Anything else: it may be better later.
    #[error("{0}")]
    Other(String),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match is_damage(&error) {
            true => Self::Spoilt(error.to_string()),
            false => Self::Other(error.to_string()),
        }
    }
}

/// Whether an error says that the file's content is broken.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Opens the file for the one who writes, making it if it is not there.
pub(super) fn open(path: &Path, max_bytes: u64) -> Result<Connection, OpenError> {
    prepare(path).map_err(|e| OpenError::Other(format!("{}: {e}", path.display())))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(LOCKED)?;
    // Counts before there is a table, and never after.
    db.pragma_update(None, "page_size", PAGE)?;
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    db.pragma_update(None, "journal_size_limit", LOG_PAGES * PAGE)?;
    // The index is small, and the daemon is to be so too.
    db.pragma_update(None, "cache_size", -1024)?;
    let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(OpenError::Spoilt(sound));
    }
    migrate(&mut db)?;
    limit(&db, max_bytes)?;
    Ok(db)
}

/// Pages that the file may have.
pub(super) fn max_pages(max_bytes: u64) -> i64 {
    i64::try_from(max_bytes).unwrap_or(i64::MAX) / PAGE
}

/// The most that the file may grow to, whatever the writer does.
pub(super) fn limit(db: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    // Answers with the limit, which is no less than what there is.
    db.query_row(
        &format!("PRAGMA max_page_count = {}", max_pages(max_bytes)),
        [],
        |_| Ok(()),
    )
}

fn migrate(db: &mut Connection) -> Result<(), OpenError> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(OpenError::Spoilt(format!(
            "it is of a later Exeat (version {version}, and this one knows {})",
            MIGRATIONS.len()
        )));
    }
    for (index, change) in MIGRATIONS.iter().enumerate().skip(version) {
        let whole = db.transaction()?;
        whole.execute_batch(change)?;
        whole.pragma_update(None, "user_version", index as i64 + 1)?;
        whole.commit()?;
    }
    Ok(())
}

/// Opens the file for one question.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(LOCKED)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

/// Makes the file (SQLite would give it the umask's mode), and looks at one that is there. The
/// files beside it get its mode.
fn prepare(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if meta.mode() & 0o777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Puts a file aside that does not serve, in place of one that was put aside before. Returns
/// where it is now.
pub(super) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = beside(".damaged");
    for suffix in ["-shm", ".damaged-wal"] {
        gone(std::fs::remove_file(beside(suffix)))?;
    }
    // What was not yet folded in goes with it.
    gone(std::fs::rename(beside("-wal"), beside(".damaged-wal")))?;
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
