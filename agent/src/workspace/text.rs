//! Changes as text: unified differences of files that are text.

use std::{io, io::Read as _, time::Duration};

use similar::TextDiff;

use super::changes::{Change, Kind, Thing, View, What};

/// The most bytes of a file whose lines are compared.
pub const MAX_BYTES: u64 = 1 << 20;

/// After this the comparison of two files gets coarser rather than go on.
const PATIENCE: Duration = Duration::from_secs(2);

/// What of a change's content can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No file's content changed.
    Nothing,
    /// The hunks, as unified text. It is what the files hold: not safe for a terminal.
    Lines(String),
    /// One of the two is no text.
    Binary,
    /// One of the two is larger than [`MAX_BYTES`].
    TooLarge,
}

impl View {
    /// The content that a change changes.
    ///
    /// # Errors
    /// When one of the files cannot be read.
    pub fn text(&self, change: &Change) -> io::Result<Shown> {
        let is_file = |side: &&Thing| side.kind == Kind::File;
        let before = change.before.as_ref().filter(is_file);
        let after = change.after.as_ref().filter(is_file);
        if (before.is_none() && after.is_none()) || change.what == What::Mode {
            return Ok(Shown::Nothing);
        }
        if before
            .into_iter()
            .chain(after)
            .any(|side| side.size > MAX_BYTES)
        {
            return Ok(Shown::TooLarge);
        }
        let mut sides = [String::new(), String::new()];
        for ((tree, side), text) in [(&self.lower, before), (&self.upper, after)]
            .into_iter()
            .zip(&mut sides)
        {
            if side.is_none() {
                continue;
            }
            let mut bytes = Vec::new();
            let file = tree.file(&change.path)?;
            // It may have grown since.
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_BYTES {
                return Ok(Shown::TooLarge);
            }
            match String::from_utf8(bytes) {
                Ok(read) if !read.contains('\0') => *text = read,
                _ => return Ok(Shown::Binary),
            }
        }
        let [before, after] = &sides;
        Ok(Shown::Lines(hunks(before, after)))
    }
}

/// Hunks without a header.
fn hunks(before: &str, after: &str) -> String {
    TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .to_string()
}

#[cfg(test)]
mod hunk_tests {
    use super::*;

    #[test]
    fn hunks_are_those_of_diff() {
        assert_eq!(hunks("a\nb\n", "a\nc\n"), "@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        assert_eq!(
            hunks("", "x"),
            "@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n"
        );
        assert_eq!(hunks("same\n", "same\n"), "");
    }
}
