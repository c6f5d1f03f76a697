//! Records as JSON lines in a file, put aside when it grows too large.
//!
//! A thread of its own writes, behind a bounded queue: a full or slow disk costs records,
//! which are counted, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::Record;
use crate::flow::FlowRecord;
use crate::incident::Incident;

/// How many full files are kept beside the one in use: `FILE.1` is the youngest.
pub const KEPT_FILES: u32 = 3;
/// Records that may wait for the disk: about 4 MB.
const QUEUE: usize = 4096;

/// The file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot append events to {path}: {source}", path = path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Absolute counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// Records written.
    pub written: u64,
    /// Records that found the queue full.
    pub dropped: u64,
    /// Records that could not be written (disk full, file system gone).
    pub failed: u64,
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    queued: AtomicU64,
}

/// The queue's end and the thread that writes.
pub struct FileSink {
    queue: SyncSender<Arc<Record>>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl FileSink {
    /// Opens (or makes, mode 0640) the file and starts its thread. `max_bytes` is the size
    /// at which it is put aside.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self, FileError> {
        let fail = |source| FileError {
            path: path.to_owned(),
            source,
        };
        let writer = Writer::open(path, max_bytes).map_err(fail)?;
        Self::start(writer).map_err(fail)
    }

    fn start(mut writer: Writer) -> io::Result<Self> {
        let (queue, records): (_, Receiver<Arc<Record>>) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let counts = Arc::clone(&shared);
        let run = move || {
            for record in records {
                counts.queued.fetch_sub(1, Ordering::Relaxed);
                match writer.append(&record) {
                    Ok(()) => counts.written.fetch_add(1, Ordering::Relaxed),
                    Err(_) => counts.failed.fetch_add(1, Ordering::Relaxed),
                };
            }
        };
        let thread = std::thread::Builder::new()
            .name("events-file".into())
            .spawn(run)?;
        Ok(Self {
            queue,
            shared,
            thread,
        })
    }

    pub(super) fn offer(&self, record: Arc<Record>) {
        // Before it is sent, or the thread could take off what was not yet put on.
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(record).is_err() {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn crowded(&self) -> Option<u64> {
        super::crowd(self.shared.queued.load(Ordering::Relaxed), QUEUE)
    }

    /// Absolute counts since the start.
    pub fn counts(&self) -> FileCounts {
        FileCounts {
            written: self.shared.written.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }

    /// Writes out the queue and ends the thread.
    pub fn close(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the thread that writes events to a file has panicked");
        }
    }
}

/// What a record is as a line: a flow without more, anything else with its type.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Flow(&'a FlowRecord),
    Typed(Typed<'a>),
}

#[derive(serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Typed<'a> {
    Incident(&'a Incident),
}

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Self {
        match record {
            Record::Flow(flow) => Self::Flow(flow),
            Record::Incident(incident) => Self::Typed(Typed::Incident(incident)),
        }
    }
}

/// Lines in a file that is put aside when it grows too large.
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
    /// The last write ended inside a line.
    torn: bool,
}

impl Writer {
    pub(crate) fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let (file, bytes) = open_append(path)?;
        Ok(Self {
            path: path.to_owned(),
            torn: bytes > 0 && !ends_with_newline(path, bytes)?,
            file,
            bytes,
            max_bytes,
        })
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = Vec::with_capacity(1024);
        serde_json::to_writer(&mut line, &Line::from(record))?;
        self.line(line)
    }

    /// Appends a line, whose end is added.
    pub(crate) fn line(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if self.torn {
            line.insert(0, b'\n');
        }
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        // One write a record: readers never see half a line unless the disk is full.
        let before = self.bytes;
        let result = self.write_all(&line);
        self.torn = result.is_err() && (self.torn || self.bytes != before);
        result
    }

    /// Brings what was written to the disk itself.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Device and inode of the file that is written.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|meta| (meta.dev(), meta.ino()))
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.bytes += n as u64;
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..KEPT_FILES).rev() {
            rename_if_there(&self.aside(n), &self.aside(n + 1))?;
        }
        rename_if_there(&self.path, &self.aside(1))?;
        let (file, bytes) = open_append(&self.path)?;
        (self.file, self.bytes, self.torn) = (file, bytes, false);
        Ok(())
    }

    fn aside(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn open_append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // The daemon is root: a link that someone left in its folder is not followed.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, meta.size()))
}

fn ends_with_newline(path: &Path, bytes: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, bytes - 1)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::record;
    use crate::sink::Hub;

    fn lines(path: &Path) -> Vec<FlowRecord> {
        let text = std::fs::read_to_string(path).expect("file");
        text.lines()
            .map(|l| serde_json::from_str(l).expect("a whole line"))
            .collect()
    }

    #[test]
    fn records_are_appended_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("events.jsonl");
        for _ in 0..2 {
            let hub = Hub::new(4, Some(FileSink::open(&path, 1 << 20).expect("open")));
            hub.publish(record());
            hub.close();
        }
        assert_eq!(lines(&path).len(), 2);
    }

    #[test]
    fn an_incident_says_what_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("events.jsonl");
        let hub = Hub::new(4, Some(FileSink::open(&path, 1 << 20).expect("open")));
        hub.incident(crate::incident::tests::incident());
        hub.close();
        let text = std::fs::read_to_string(&path).expect("file");
        assert!(text.starts_with(r#"{"type":"incident","seq":1,"#), "{text}");
        assert!(text.contains(r#""kind":"limit_hit""#), "{text}");
    }

    #[test]
    fn a_full_file_is_put_aside_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("events.jsonl");
        let one = serde_json::to_vec(&record()).expect("json").len() as u64 + 10;
        let mut writer = Writer::open(&path, one * 2).expect("open");
        for _ in 0..20 {
            writer.append(&Record::Flow(record())).expect("append");
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("list")
            .map(|e| e.expect("entry").file_name().into_string().expect("name"))
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "events.jsonl",
                "events.jsonl.1",
                "events.jsonl.2",
                "events.jsonl.3"
            ]
        );
        for name in names {
            let path = dir.path().join(name);
            assert!(std::fs::metadata(&path).expect("size").len() <= one * 2);
            assert!(!lines(&path).is_empty());
        }
    }

    #[test]
    fn a_full_disk_is_counted_and_stops_nothing() {
        let full = || Writer {
            path: "/dev/full".into(),
            file: OpenOptions::new()
                .append(true)
                .open("/dev/full")
                .expect("open"),
            bytes: 0,
            max_bytes: 1 << 20,
            torn: false,
        };
        assert!(full().append(&Record::Flow(record())).is_err());
        let hub = Hub::new(4, Some(FileSink::start(full()).expect("thread")));
        for _ in 0..3 {
            hub.publish(record());
        }
        let shared = Arc::clone(&hub.file.as_ref().expect("file").shared);
        hub.close();
        assert_eq!(shared.failed.load(Ordering::Relaxed), 3);
        assert_eq!(shared.written.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_ended_first() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, "{\"seq\":").expect("write");
        let mut writer = Writer::open(&path, 1 << 20).expect("open");
        writer.append(&Record::Flow(record())).expect("append");
        let text = std::fs::read_to_string(&path).expect("file");
        assert_eq!(text.lines().count(), 2);
        assert!(serde_json::from_str::<FlowRecord>(text.lines().nth(1).expect("line")).is_ok());
    }

    #[test]
    fn a_link_and_a_folder_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).expect("link");
        assert!(FileSink::open(&link, 1 << 20).is_err());
        let text = FileSink::open(dir.path(), 1 << 20)
            .err()
            .expect("folder")
            .to_string();
        assert!(text.contains("cannot append events to"), "{text}");
    }

    #[test]
    fn a_queue_that_is_full_drops_and_counts() {
        let (queue, records) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let sink = FileSink {
            queue,
            shared,
            thread: std::thread::spawn(|| {}),
        };
        for _ in 0..3 {
            sink.offer(Arc::new(Record::Flow(record())));
        }
        assert_eq!(sink.counts().dropped, 2);
        drop(records);
        sink.close();
    }
}
