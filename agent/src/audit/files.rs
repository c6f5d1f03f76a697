//! The files of the log, and what keeps them from being rewritten.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::record::MAX_LINE;

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditFile {
    /// Its number, from 1.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl AuditFile {
    /// The one of a number.
    pub fn of(folder: &Path, number: u64) -> Self {
        let name = format!("{PREFIX}{number:010}{SUFFIX}");
        Self {
            number,
            path: folder.join(name),
        }
    }

    /// The one at a path, if its name is that of a file of the log.
    pub fn at(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let number = digits.parse().ok().filter(|number| *number > 0)?;
        let file = Self {
            number,
            path: path.to_owned(),
        };
        // One number has one name.
        (file.path == Self::of(path.parent()?, number).path).then_some(file)
    }

    /// Its name.
    pub fn name(&self) -> String {
        name(&self.path)
    }
}

pub(super) fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The files of a folder, in order. None where there is no folder.
pub fn list(folder: &Path) -> io::Result<Vec<AuditFile>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        files.extend(AuditFile::at(&entry?.path()));
    }
    files.sort();
    Ok(files)
}

/// Opens a file to append to it; `new`: it may not be there.
pub(super) fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create_new(new)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

/// Opens one to read, without waiting for what is no file.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// Lets the file be appended to and nothing else, by anybody who may not take the flag away
/// (CAP_LINUX_IMMUTABLE). Whether the file system can.
pub(super) fn append_only(file: &File, on: bool) -> bool {
    let set = || -> rustix::io::Result<()> {
        let mut flags = ioctl_getflags(file)?;
        if flags.contains(IFlags::APPEND) == on {
            return Ok(());
        }
        flags.set(IFlags::APPEND, on);
        ioctl_setflags(file, flags)
    };
    set().is_ok()
}

/// Lets the files of a folder be rewritten and deleted again, as who removes Exeat wants.
pub fn release(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => release(&path),
            Ok(kind) if kind.is_file() => {
                if let Ok(file) = open_to_read(&path) {
                    append_only(&file, false);
                }
            }
            _ => {}
        }
    }
}

/// Cuts a file to `length` bytes.
pub(super) fn cut(file: &File, length: u64) -> io::Result<()> {
    append_only(file, false);
    let result = file.set_len(length);
    append_only(file, true);
    result
}

/// Puts what is behind `length` into a file beside it and cuts it off. The name of that file.
pub(super) fn put_aside(path: &Path, length: u64) -> io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    let source = open_to_read(path)?;
    let end = source.metadata()?.len();
    // A torn line is short; of what is longer, the beginning tells what it was.
    let size = usize::try_from(end - length)
        .unwrap_or(usize::MAX)
        .min(1 << 20);
    let mut bytes = vec![0; size];
    source.read_exact_at(&mut bytes, length)?;
    let aside = (0..)
        .map(|n| {
            let mut aside = path.as_os_str().to_owned();
            aside.push(match n {
                0 => ".torn".to_owned(),
                n => format!(".torn.{n}"),
            });
            PathBuf::from(aside)
        })
        .find(|aside| !aside.exists())
        .unwrap_or_default();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&aside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    cut(&open(path, false)?, length)?;
    Ok(name(&aside))
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The lines of a file, one at a time, none longer than a record can be.
pub struct Lines {
    reader: BufReader<File>,
    /// Bytes read so far.
    pub(super) offset: u64,
}

/// What [`Lines::next_line`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole line, without its end.
    Whole(Vec<u8>),
    /// The file ends inside a line.
    Torn(u64),
    /// A line that no record can be; it was passed over.
    TooLong,
    /// The end.
    End,
}

impl Lines {
    /// Of a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            reader: BufReader::with_capacity(128 * 1024, open_to_read(path)?),
            offset: 0,
        })
    }

    pub(super) fn next_line(&mut self) -> io::Result<Line> {
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        let read = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut line)? as u64;
        self.offset += read;
        if line.last() == Some(&b'\n') {
            line.pop();
            return Ok(Line::Whole(line));
        }
        if read < limit {
            return Ok(match read {
                0 => Line::End,
                read => Line::Torn(read),
            });
        }
        let mut skipped = read;
        loop {
            let part = self.reader.fill_buf()?;
            if part.is_empty() {
                return Ok(Line::Torn(skipped));
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(part.len(), |end| end + 1);
            self.reader.consume(used);
            skipped += used as u64;
            self.offset += used as u64;
            if end.is_some() {
                return Ok(Line::TooLong);
            }
        }
    }
}

impl Iterator for Lines {
    type Item = io::Result<Vec<u8>>;

    /// Whole lines; others are left out.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_line() {
                Ok(Line::Whole(line)) => return Some(Ok(line)),
                Ok(Line::TooLong) => {}
                Ok(Line::Torn(_) | Line::End) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
