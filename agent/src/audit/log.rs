//! The log itself: opened, mended, appended to, signed, rotated. One thread has it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::files::{self, AuditFile, Line, Lines, append_only, sync_folder};
use super::head::{Found, Head};
use super::key::Key;
use super::record::{Kind, Link, Parsed, Sealed, seal};

/// Bounds of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A file's size at which the next is begun.
    pub max_bytes: u64,
    /// How many files there are at most, two at least.
    pub keep: u32,
}

/// An open log.
pub struct Log {
    folder: PathBuf,
    settings: Settings,
    key: Key,
    current: AuditFile,
    file: File,
    /// Bytes of the file that hold whole records.
    bytes: u64,
    /// The last record.
    link: Link,
    /// Whether something is not yet on the disk, or not in `head`.
    unsynced: bool,
    /// Records since the last checkpoint.
    since_checkpoint: u64,
    append_only: bool,
}

/// How the last file was left.
struct Tail {
    /// The last record that is one.
    link: Option<Link>,
    /// Bytes up to the end of the last whole line.
    whole: u64,
    /// Bytes of the line that has no end.
    torn: u64,
}

/// Some records were not written.
#[derive(Debug)]
pub struct Unwritten {
    /// How many of those that were given were.
    pub written: usize,
    /// Why not more.
    pub error: io::Error,
    /// The file is not as it should be: the log must be opened anew.
    pub reopen: bool,
}

impl Log {
    /// Opens the log of a folder, or begins one, and writes down how it was found. `boot` is
    /// the boot's id.
    pub fn open(folder: &Path, settings: Settings, key: Key, boot: &str) -> io::Result<Self> {
        let mut found = Map::new();
        let head = Head::read(folder)?;
        let files = files::list(folder)?;
        let (mut link, mut number) = (Link::start(), 1);
        if files.is_empty() && head == Found::None {
            // From now on there is never a log without a head.
            Head::write(folder, &link, number, false, &key)?;
        }
        let mut resumed = None;
        for file in files.iter().rev() {
            let tail = Tail::of(&file.path)?;
            let last = file.number == files.last().map_or(0, |last| last.number);
            if last && tail.torn > 0 {
                let aside = files::put_aside(&file.path, tail.whole)?;
                found.insert("torn".into(), json!({"bytes": tail.torn, "file": aside}));
            }
            if last {
                // With nothing in it, it was begun and no more.
                resumed = Some((file.clone(), tail.whole));
            }
            if let Some(there) = tail.link {
                link = there;
                break;
            }
        }
        if let Some(last) = files.last() {
            number = last.number;
        }
        match &head {
            Found::Head(head) => {
                found.insert("clean".into(), (head.closed && head.link == link).into());
                if head.link.seq >= link.seq && head.link != link {
                    // Records that were there are gone or others. The chain goes on where it
                    // was, so that the gap stays to be seen.
                    found.insert(
                        "missing".into(),
                        json!({"from": (link.seq + 1).min(head.link.seq), "to": head.link.seq}),
                    );
                    link = head.link.clone();
                    if files.is_empty() {
                        number = head.file + 1;
                    }
                } else if head.link.seq < link.seq {
                    let unsigned = link.seq - head.link.seq;
                    found.insert("unsigned".into(), unsigned.into());
                }
            }
            Found::None if !files.is_empty() => {
                found.insert("no_head".into(), "missing".into());
            }
            Found::Broken => {
                found.insert("no_head".into(), "broken".into());
            }
            Found::None => {}
        }
        let (current, file, bytes) = match resumed {
            Some((current, bytes)) => {
                let file = files::open(&current.path, false)?;
                (current, file, bytes)
            }
            None => {
                let current = AuditFile::of(folder, number);
                let file = files::open(&current.path, true)?;
                sync_folder(folder)?;
                (current, file, 0)
            }
        };
        let append_only = append_only(&file, true);
        let mut log = Self {
            folder: folder.to_owned(),
            settings,
            key,
            current,
            file,
            bytes,
            link,
            unsynced: true,
            since_checkpoint: 0,
            append_only,
        };
        let mut first = Vec::new();
        if bytes == 0 {
            first.push((Kind::Head, log.head_fields()));
        }
        found.insert("boot".into(), boot.into());
        found.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        found.insert("append_only".into(), append_only.into());
        found.insert("time".into(), json!(jiff::Timestamp::now()));
        first.push((Kind::Opened, found));
        log.write(first).map_err(|unwritten| unwritten.error)?;
        log.sync(false)?;
        Ok(log)
    }

    /// Makes the folder, for root alone.
    pub fn make_folder(folder: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
    }

    /// Whether the file system keeps the file from being rewritten.
    pub const fn is_append_only(&self) -> bool {
        self.append_only
    }

    /// Records since the last checkpoint.
    pub const fn since_checkpoint(&self) -> u64 {
        self.since_checkpoint
    }

    /// Whether [`Log::sync`] has something to do.
    pub const fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Appends events, in one write.
    pub fn events(&mut self, events: Vec<Value>) -> Result<(), Unwritten> {
        let records = events.into_iter().map(|event| {
            let mut fields = Map::new();
            fields.insert("event".into(), event);
            (Kind::Event, fields)
        });
        self.write(records.collect())
    }

    /// Writes down that records were lost: so many found the queue full, so many could not be
    /// written.
    pub fn lost(&mut self, dropped: u64, failed: u64) -> Result<(), Unwritten> {
        let mut fields = Map::new();
        fields.insert("count".into(), (dropped + failed).into());
        fields.insert("dropped".into(), dropped.into());
        fields.insert("failed".into(), failed.into());
        fields.insert("time".into(), json!(jiff::Timestamp::now()));
        self.write(vec![(Kind::Lost, fields)])
    }

    /// Signs the log as it is, and has it on the disk.
    pub fn checkpoint(&mut self, boot: &str, last: bool) -> io::Result<()> {
        let mut fields = Map::new();
        fields.insert("boot".into(), boot.into());
        fields.insert("file".into(), self.current.name().into());
        fields.insert("records".into(), self.since_checkpoint.into());
        fields.insert("time".into(), json!(jiff::Timestamp::now()));
        self.write(vec![(Kind::Checkpoint, fields)])
            .map_err(|unwritten| unwritten.error)?;
        self.sync(last)
    }

    /// Has what was written on the disk, then says so in `head`. In this order: what `head`
    /// names must be there after a power cut.
    pub fn sync(&mut self, closed: bool) -> io::Result<()> {
        self.file.sync_data()?;
        let (link, number) = (&self.link, self.current.number);
        Head::write(&self.folder, link, number, closed, &self.key)?;
        self.unsynced = false;
        Ok(())
    }

    /// What somebody else did to the file in use, if anything: it is not there, or another, or
    /// has another length.
    pub fn disturbed(&self) -> Option<String> {
        let own = self.file.metadata().ok()?;
        let name = self.current.name();
        let there = match std::fs::symlink_metadata(&self.current.path) {
            Ok(there) => there,
            Err(error) => return Some(format!("{name} is not there any more: {error}")),
        };
        if (there.dev(), there.ino()) != (own.dev(), own.ino()) {
            return Some(format!("{name} was replaced by another file"));
        }
        (own.len() != self.bytes).then(|| {
            format!(
                "{name} has {} bytes, and {} were written",
                own.len(),
                self.bytes
            )
        })
    }

    fn head_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("file".into(), self.current.name().into());
        fields.insert("number".into(), self.current.number.into());
        fields.insert("append_only".into(), self.append_only.into());
        fields.insert("time".into(), json!(jiff::Timestamp::now()));
        fields
    }

    fn write(&mut self, records: Vec<(Kind, Map<String, Value>)>) -> Result<(), Unwritten> {
        let mut link = self.link.clone();
        let mut sealed = Vec::with_capacity(records.len());
        for (kind, fields) in records {
            let record = seal(kind, fields, &link, &self.key).map_err(|error| Unwritten {
                written: 0,
                error: error.into(),
                reopen: false,
            })?;
            link = record.link.clone();
            sealed.push(record);
        }
        self.append(&sealed)
    }

    /// One write for all; what of it does not fit is cut off again, so that the file always
    /// ends with a whole record.
    fn append(&mut self, records: &[Sealed]) -> Result<(), Unwritten> {
        let bytes: Vec<u8> = records.iter().flat_map(|r| &r.line).copied().collect();
        let mut done = 0;
        let mut fault = None;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => fault = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => fault = Some(error),
            }
            if fault.is_some() {
                break;
            }
        }
        let mut written = 0;
        let mut end = 0;
        for record in records {
            if end + record.line.len() > done {
                break;
            }
            end += record.line.len();
            written += 1;
            self.link = record.link.clone();
            match record.kind {
                Kind::Checkpoint => self.since_checkpoint = 0,
                _ => self.since_checkpoint += 1,
            }
        }
        self.unsynced |= written > 0;
        self.bytes += end as u64;
        let Some(error) = fault else { return Ok(()) };
        let reopen = done > end && files::cut(&self.file, self.bytes).is_err();
        Err(Unwritten {
            written,
            error,
            reopen,
        })
    }

    /// Begins the next file if this one is full, and deletes the oldest ones that are too
    /// many. Where it cannot begin one, the old one goes on.
    pub fn rotate(&mut self, boot: &str) -> io::Result<()> {
        if self.bytes < self.settings.max_bytes {
            return Ok(());
        }
        self.checkpoint(boot, false)?;
        let next = AuditFile::of(&self.folder, self.current.number + 1);
        let file = files::open(&next.path, true)?;
        let before = (
            std::mem::replace(&mut self.current, next.clone()),
            std::mem::replace(&mut self.file, file),
            std::mem::replace(&mut self.bytes, 0),
        );
        let append_only = append_only(&self.file, true);
        self.append_only = append_only;
        if let Err(unwritten) = self.write(vec![(Kind::Head, self.head_fields())]) {
            (self.current, self.file, self.bytes) = before;
            remove(&next.path)?;
            return Err(unwritten.error);
        }
        sync_folder(&self.folder)?;
        self.sync(false)?;
        self.prune()
    }

    /// What is deleted is first written down, so that it can be told from what was cut.
    fn prune(&mut self) -> io::Result<()> {
        let files = files::list(&self.folder)?;
        let keep = self.settings.keep.max(2) as usize;
        let Some(surplus) = files.len().checked_sub(keep).filter(|n| *n > 0) else {
            return Ok(());
        };
        let (gone, kept) = files.split_at(surplus);
        let (Some(last), Some(first)) = (gone.last(), kept.first()) else {
            return Ok(());
        };
        let Some(head) = first_record(&first.path)? else {
            return Err(io::Error::other(format!("{} has no head", first.name())));
        };
        let mut fields = Map::new();
        fields.insert("through".into(), last.number.into());
        fields.insert("through_seq".into(), head.seq.saturating_sub(1).into());
        fields.insert("tail".into(), head.prev.into());
        fields.insert("time".into(), json!(jiff::Timestamp::now()));
        self.write(vec![(Kind::Anchor, fields)])
            .map_err(|unwritten| unwritten.error)?;
        self.sync(false)?;
        for file in gone {
            remove(&file.path)?;
        }
        sync_folder(&self.folder)
    }
}

/// The first record of a file, if it is one.
fn first_record(path: &Path) -> io::Result<Option<Parsed>> {
    Ok(match Lines::open(path)?.next_line()? {
        Line::Whole(line) => Parsed::read(&line).0,
        _ => None,
    })
}

fn remove(path: &Path) -> io::Result<()> {
    if let Ok(file) = files::open_to_read(path) {
        append_only(&file, false);
    }
    std::fs::remove_file(path)
}

impl Tail {
    fn of(path: &Path) -> io::Result<Self> {
        let mut tail = Self {
            link: None,
            whole: 0,
            torn: 0,
        };
        let mut lines = Lines::open(path)?;
        loop {
            match lines.next_line()? {
                Line::Whole(line) => {
                    tail.whole = lines.offset;
                    if let (Some(record), None) = Parsed::read(&line) {
                        tail.link = Some(record.link());
                    }
                }
                // What is no record stays, for verify to show.
                Line::TooLong => tail.whole = lines.offset,
                Line::Torn(bytes) => tail.torn = bytes,
                Line::End => return Ok(tail),
            }
        }
    }
}
