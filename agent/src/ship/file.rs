//! A file of JSON lines for a forwarder: Filebeat, Vector, Fluent Bit, Splunk's.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::outcome::{Delivery, Outcome, Trouble};
use super::parcel::Parcel;
use crate::sink::Lines;

pub(super) struct JsonFile {
    path: PathBuf,
    max_bytes: u64,
    open: Option<Lines>,
}

impl JsonFile {
    pub(super) const fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self {
            path,
            max_bytes,
            open: None,
        }
    }

    /// Arrived is what is on the disk.
    pub(super) fn deliver(&mut self, batch: &[&Parcel]) -> Delivery {
        self.write(batch).map_err(|error| {
            self.open = None;
            Trouble::later(format!("{}: {error}", self.path.display()))
        })
    }

    fn write(&mut self, batch: &[&Parcel]) -> io::Result<Outcome> {
        if self
            .open
            .as_ref()
            .is_some_and(|lines| self.was_moved(lines))
        {
            self.open = None;
        }
        let lines = match &mut self.open {
            Some(lines) => lines,
            None => self.open.insert(Lines::open(&self.path, self.max_bytes)?),
        };
        for parcel in batch {
            lines.line(parcel.body.clone().into_bytes())?;
        }
        lines.sync()?;
        Ok(Outcome::default())
    }

    /// logrotate or somebody else put the file aside: the next line goes into a new one.
    fn was_moved(&self, lines: &Lines) -> bool {
        let there = std::fs::metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        match (there, lines.identity()) {
            (Ok(there), Ok(ours)) => there != ours,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::parcel::tests::parcel;

    #[test]
    fn a_file_that_was_put_aside_is_opened_anew_without_a_signal() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("exeat.json");
        let mut file = JsonFile::new(path.clone(), 1 << 20);
        let (one, two) = (parcel(), parcel());
        file.deliver(&[&one]).expect("written");
        std::fs::rename(&path, dir.path().join("exeat.json-20260304")).expect("logrotate");
        file.deliver(&[&two]).expect("written");
        let text = std::fs::read_to_string(&path).expect("file");
        assert_eq!(text, format!("{}\n", two.body));
    }

    #[test]
    fn what_cannot_be_written_is_a_trouble_that_may_pass() {
        let mut file = JsonFile::new("/dev/full".into(), 1 << 20);
        let error = file.deliver(&[&parcel()]).expect_err("no file");
        assert!(error.why().contains("/dev/full"), "{error:?}");
    }
}
