//! Whether a log is whole, and where it is not. Needs no daemon; reads a line at a time.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{self, AuditFile, Line, Lines};
use super::head::{Found, Head};
use super::key::{PublicKey, known_keys};
use super::record::{Kind, Link, Parsed, Unreadable};

/// Faults that are told one by one.
const TOLD: usize = 100;
/// How often it begins anew when a file goes away while it reads: a daemon deletes old ones.
const ATTEMPTS: usize = 3;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A line is no record.
    Malformed,
    /// A record's content is not what its hash says.
    Altered,
    /// A record does not follow from the one before: that one was replaced.
    Unlinked,
    /// Records are not there.
    Missing,
    /// A record is there twice.
    Duplicate,
    /// A record is not where it was written.
    Moved,
    /// A signature is not right.
    Signature,
    /// A signature by a key that is not one of the log's.
    UnknownKey,
    /// A file is not there.
    MissingFile,
    /// A file is not the one that its name says.
    WrongFile,
    /// Records are missing at the end.
    Truncated,
    /// Something follows the end that was signed.
    Appended,
    /// A line has no end.
    Torn,
    /// `head` is not there, or not what the daemon wrote.
    Head,
}

/// One fault, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, from 1; none where it is about the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The number of the record, where one could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What.
    pub kind: FaultKind,
    /// The same in a sentence.
    pub message: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub sound: bool,
    /// Files read.
    pub files: u64,
    /// Records in them.
    pub records: u64,
    /// Those that are events.
    pub events: u64,
    /// Signed records.
    pub signed: u64,
    /// Records that the daemon says it lost.
    pub lost: u64,
    /// Number of the first record.
    pub first_seq: u64,
    /// Number of the last record.
    pub last_seq: u64,
    /// Hash of the last record: compare it with what was written down elsewhere.
    pub last_hash: String,
    /// The keys that signatures were checked with.
    pub keys: Vec<String>,
    /// Faults, the first ones.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more_faults: u64,
    /// What is worth knowing and is no fault.
    pub notes: Vec<String>,
}

/// Nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no log.
    #[error("there is no audit log in {}", .0.display())]
    Nothing(PathBuf),
    /// There is no key to check with.
    #[error(
        "there is no public key to check with: give it with --public-key (`exeat audit key` on the machine prints it)"
    )]
    NoKey,
    /// A path is none of a file of the log.
    #[error("{} is no file of the audit log: those are named audit-0000000001.jsonl", .0.display())]
    NoLog(PathBuf),
    /// Something cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Checks the whole log of a folder. Without `keys` those that the folder itself names count:
/// whoever could write there could have put in their own.
pub fn verify_folder(folder: &Path, keys: &[PublicKey]) -> Result<Report, VerifyError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match verify_once(folder, keys) {
            Err(VerifyError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            result => return result,
        }
    }
}

fn verify_once(folder: &Path, keys: &[PublicKey]) -> Result<Report, VerifyError> {
    let fail = |source| VerifyError::Read {
        path: folder.to_owned(),
        source,
    };
    let own = known_keys(folder);
    // Before the files: what it names must be in them, whatever is appended meanwhile.
    let head = Head::read(folder).map_err(fail)?;
    let files = files::list(folder).map_err(fail)?;
    if files.is_empty() && head == Found::None {
        return Err(VerifyError::Nothing(folder.to_owned()));
    }
    let trusted = if keys.is_empty() { &own } else { keys };
    let mut check = Check::new(trusted)?;
    if keys.is_empty() {
        check.note(
            "checked with the key in the log's own folder: who can write there can replace it. \
             Keep the key elsewhere and give it with --public-key",
        );
    }
    match head {
        Found::Head(head) if trusted.contains(&head.key) => check.head = Some(head),
        Found::Head(head) => {
            let text = format!(
                "head is signed by {}, which is not one of the keys",
                head.key
            );
            check.fault(super::head::FILE, None, None, FaultKind::UnknownKey, text);
        }
        Found::None => check.fault(
            super::head::FILE,
            None,
            None,
            FaultKind::Head,
            "head is not there: whether records are missing at the end cannot be known".into(),
        ),
        Found::Broken => check.fault(
            super::head::FILE,
            None,
            None,
            FaultKind::Head,
            "head is not what the daemon wrote".into(),
        ),
    }
    check.whole = true;
    check.files(&files)?;
    check.end(files.last());
    Ok(check.finish())
}

/// Checks some files of a log: that each is whole, and that they follow from each other.
pub fn verify_files(paths: &[PathBuf], keys: &[PublicKey]) -> Result<Report, VerifyError> {
    let mut files = Vec::new();
    for path in paths {
        files.push(AuditFile::at(path).ok_or_else(|| VerifyError::NoLog(path.clone()))?);
    }
    files.sort_by_key(|file| file.number);
    files.dedup();
    let mut check = Check::new(keys)?;
    check.note("single files: that nothing is missing before and after them is not checked");
    check.files(&files)?;
    if check.after_signed > 0 {
        let text = format!(
            "{} records at the end follow the last signature",
            check.after_signed
        );
        check.note(&text);
    }
    Ok(check.finish())
}

struct Check<'a> {
    keys: &'a [PublicKey],
    head: Option<Head>,
    /// The whole log, and not some of its files.
    whole: bool,
    /// Whether the record that `head` names was met.
    met_head: bool,
    /// The last record; none before the first.
    last: Option<Link>,
    /// What the first file follows from, where it is not the first one of all.
    wanted: Option<(u64, String)>,
    after_signed: u64,
    report: Report,
}

/// Where in the log it is.
struct At<'a> {
    file: &'a AuditFile,
    line: u64,
    /// No file follows.
    last: bool,
}

impl<'a> Check<'a> {
    fn new(keys: &'a [PublicKey]) -> Result<Self, VerifyError> {
        if keys.is_empty() {
            return Err(VerifyError::NoKey);
        }
        Ok(Self {
            keys,
            head: None,
            whole: false,
            met_head: false,
            last: None,
            wanted: None,
            after_signed: 0,
            report: Report {
                keys: keys.iter().map(ToString::to_string).collect(),
                ..Report::default()
            },
        })
    }

    fn note(&mut self, text: &str) {
        self.report.notes.push(text.to_owned());
    }

    fn fault(
        &mut self,
        file: &str,
        line: Option<u64>,
        seq: Option<u64>,
        kind: FaultKind,
        message: String,
    ) {
        if self.report.faults.len() >= TOLD {
            self.report.more_faults += 1;
            return;
        }
        self.report.faults.push(Fault {
            file: file.to_owned(),
            line,
            seq,
            kind,
            message,
        });
    }

    fn at(&mut self, at: &At<'_>, seq: Option<u64>, kind: FaultKind, message: String) {
        self.fault(&at.file.name(), Some(at.line), seq, kind, message);
    }

    fn files(&mut self, files: &[AuditFile]) -> Result<(), VerifyError> {
        for (index, file) in files.iter().enumerate() {
            if let Some(before) = index.checked_sub(1).and_then(|i| files.get(i))
                && before.number + 1 != file.number
            {
                let text = match before.number + 1 == file.number - 1 {
                    true => format!(
                        "the file before it, number {}, is not there",
                        file.number - 1
                    ),
                    false => format!(
                        "the files before it, numbers {} to {}, are not there",
                        before.number + 1,
                        file.number - 1
                    ),
                };
                self.fault(&file.name(), None, None, FaultKind::MissingFile, text);
            }
            let last = index + 1 == files.len();
            self.file(file, last).map_err(|source| VerifyError::Read {
                path: file.path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    fn file(&mut self, file: &AuditFile, last: bool) -> io::Result<()> {
        self.report.files += 1;
        let mut lines = Lines::open(&file.path)?;
        let mut at = At {
            file,
            line: 0,
            last,
        };
        loop {
            at.line += 1;
            match lines.next_line()? {
                Line::Whole(line) => self.line(&at, &line),
                Line::TooLong => {
                    self.at(
                        &at,
                        None,
                        FaultKind::Malformed,
                        "longer than any record".into(),
                    );
                }
                Line::Torn(bytes) => {
                    self.torn(&at, bytes);
                    break;
                }
                Line::End => break,
            }
        }
        if at.line == 1 && !(last && self.is_open()) {
            let text = "the file is empty".to_owned();
            self.fault(&file.name(), None, None, FaultKind::Missing, text);
        }
        Ok(())
    }

    /// Whether the daemon still writes, or ended without a last word.
    fn is_open(&self) -> bool {
        self.head.as_ref().is_none_or(|head| !head.closed)
    }

    fn torn(&mut self, at: &At<'_>, bytes: u64) {
        let text = format!("the file ends inside a line, {bytes} bytes after its beginning");
        match at.last && self.is_open() {
            true => self.note(&format!(
                "{}: {text}: the daemon writes it just now, or was killed while it did",
                at.file.name()
            )),
            false => self.at(at, None, FaultKind::Torn, text),
        }
    }

    fn line(&mut self, at: &At<'_>, line: &[u8]) {
        let (record, wrong) = Parsed::read(line);
        let seq = record.as_ref().map(|record| record.seq);
        match wrong {
            Some(Unreadable::Malformed) => {
                self.at(at, seq, FaultKind::Malformed, "this is no record".into());
            }
            Some(Unreadable::NotCanonical) => self.at(
                at,
                seq,
                FaultKind::Altered,
                "not written as the log writes it".into(),
            ),
            Some(Unreadable::WrongHash) => self.at(
                at,
                seq,
                FaultKind::Altered,
                "the content is not what its hash says".into(),
            ),
            None => {}
        }
        let Some(record) = record else { return };
        self.report.records += 1;
        self.report.events += u64::from(record.kind == Kind::Event);
        self.chain(at, &record);
        self.place(at, &record);
        if record.kind == Kind::Event {
            self.after_signed += 1;
        } else {
            self.signed(at, &record);
        }
        if let Some(head) = &self.head
            && head.link.seq == record.seq
        {
            let same = head.link.hash == record.hash && head.file == at.file.number;
            self.met_head = true;
            if !same {
                let text = "head names another record of this number".to_owned();
                self.at(at, seq, FaultKind::Altered, text);
            }
        }
        self.last = Some(record.link());
    }

    fn chain(&mut self, at: &At<'_>, record: &Parsed) {
        let seq = Some(record.seq);
        let Some(last) = self.last.clone() else {
            self.report.first_seq = record.seq;
            return self.first(at, record);
        };
        let expected = last.seq + 1;
        if record.seq == expected {
            if record.prev != last.hash {
                let text = format!(
                    "record {} was replaced by another, or this one was",
                    last.seq
                );
                self.at(at, seq, FaultKind::Unlinked, text);
            }
        } else if record.seq > expected {
            let text = match record.seq - expected {
                1 => format!("record {expected} is not there"),
                _ => format!("records {expected} to {} are not there", record.seq - 1),
            };
            self.at(at, seq, FaultKind::Missing, text);
        } else if record.seq == last.seq && record.hash == last.hash {
            let text = format!("record {} is there twice", record.seq);
            self.at(at, seq, FaultKind::Duplicate, text);
        } else {
            let text = format!("record {} stands where {expected} should", record.seq);
            self.at(at, seq, FaultKind::Moved, text);
        }
    }

    /// The first record of all: the log's own first, or one that an anchor must account for.
    fn first(&mut self, at: &At<'_>, record: &Parsed) {
        let first_of_all = Link::start();
        if at.file.number == 1 {
            if record.seq != 1 || record.prev != first_of_all.hash {
                let text = format!("the log begins with record {}, not with 1", record.seq);
                self.at(at, Some(record.seq), FaultKind::Missing, text);
            }
        } else if self.whole {
            self.wanted = Some((at.file.number - 1, record.prev.clone()));
        }
    }

    /// A file begins with its head, and has no other.
    fn place(&mut self, at: &At<'_>, record: &Parsed) {
        let right = match (at.line, record.kind) {
            (1, Kind::Head) => {
                record.number("number") == Some(at.file.number)
                    && record.word("file") == Some(&*at.file.name())
            }
            (1, _) | (_, Kind::Head) => false,
            _ => return,
        };
        if !right {
            let text = match record.kind {
                Kind::Head => format!(
                    "the head of {} is here",
                    record.word("file").unwrap_or("another file")
                ),
                _ => "the file does not begin with its head".to_owned(),
            };
            self.at(at, Some(record.seq), FaultKind::WrongFile, text);
        }
    }

    fn signed(&mut self, at: &At<'_>, record: &Parsed) {
        let seq = Some(record.seq);
        match record.key() {
            Some(key) if !self.keys.contains(&key) => {
                let text = format!("signed by {key}, which is not one of the keys");
                return self.at(at, seq, FaultKind::UnknownKey, text);
            }
            Some(_) if record.is_signed() => {}
            _ => {
                let text = format!("the signature of this {} is wrong", record.kind.as_str());
                return self.at(at, seq, FaultKind::Signature, text);
            }
        }
        self.report.signed += 1;
        self.after_signed = 0;
        match record.kind {
            Kind::Lost => self.report.lost += record.number("count").unwrap_or(0),
            Kind::Anchor => {
                let tail = record.word("tail").unwrap_or_default();
                let through = record.number("through").unwrap_or(0);
                if self.wanted == Some((through, tail.to_owned())) {
                    self.wanted = None;
                }
            }
            Kind::Opened => self.opened(at, record),
            Kind::Event | Kind::Head | Kind::Checkpoint => {}
        }
    }

    fn opened(&mut self, at: &At<'_>, record: &Parsed) {
        if record.word("no_head").is_some() {
            let text = "when the daemon started here, head was not there, or not its own: records \
                        before this one may be missing or others"
                .to_owned();
            self.at(at, Some(record.seq), FaultKind::Head, text);
        }
        let name = at.file.name();
        if let Some(unsigned) = record.number("unsigned") {
            self.note(&format!(
                "{name}:{}: the {unsigned} records before were written in the last moment before \
                 the daemon ended without a word, and signed only when it started again",
                at.line
            ));
        }
        if record.fields.contains_key("torn") {
            self.note(&format!(
                "{name}:{}: a line that was half written was put aside when the daemon started",
                at.line
            ));
        }
    }

    fn end(&mut self, last_file: Option<&AuditFile>) {
        let file = last_file.map_or_else(|| super::head::FILE.to_owned(), AuditFile::name);
        let last = self.last.as_ref().map_or(0, |last| last.seq);
        if let Some((through, _)) = self.wanted.take() {
            let text = format!(
                "the files up to number {through} are not there, and no signed record says that \
                 the daemon deleted them"
            );
            let first = AuditFile::of(Path::new(""), through + 1).name();
            self.fault(&first, None, None, FaultKind::MissingFile, text);
        }
        let Some(head) = self.head.clone() else {
            return;
        };
        if head.link.seq > last {
            let text = match head.link.seq - last {
                1 => format!("record {} is missing at the end", head.link.seq),
                _ => format!(
                    "records {} to {} are missing at the end",
                    last + 1,
                    head.link.seq
                ),
            };
            self.fault(&file, None, Some(last), FaultKind::Truncated, text);
        } else if head.link.seq > 0 && !self.met_head {
            let text = format!("record {}, which head names, is not there", head.link.seq);
            self.fault(&file, None, Some(last), FaultKind::Missing, text);
        } else if head.link.seq < last && head.closed {
            let text = format!(
                "the daemon ended with record {}; what follows is not its",
                head.link.seq
            );
            self.fault(&file, None, Some(last), FaultKind::Appended, text);
        } else if head.link.seq < last {
            let count = last - head.link.seq;
            self.note(&format!(
                "{count} records at the end are younger than head: the daemon writes just now, or \
                 ended without a word"
            ));
        }
    }

    fn finish(mut self) -> Report {
        if let Some(last) = self.last {
            (self.report.last_seq, self.report.last_hash) = (last.seq, last.hash);
        }
        self.report.sound = self.report.faults.is_empty();
        self.report
    }
}
