//! What is wrong with a policy file, where, and what to write instead.

use std::fmt;
use std::sync::Arc;

/// The most mistakes that one load reports; the rest are counted.
pub const MAX_REPORTED: usize = 1_000;

/// Characters of a line that are shown.
const SHOWN: usize = 160;

/// A place in a file; both numbers count from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pos {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Pos {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl From<serde_saphyr::Location> for Pos {
    fn from(at: serde_saphyr::Location) -> Self {
        let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        Self {
            line: clamp(at.line()),
            column: clamp(at.column()),
        }
    }
}

/// One mistake (or warning) with its place. `Display` shows it in full: place and
/// message, the line with a caret, and the help.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The file as it was named.
    pub file: Arc<str>,
    /// The place; none where the file itself is the trouble (it cannot be read).
    pub at: Option<Pos>,
    /// What is wrong.
    pub message: String,
    /// What to write or do instead.
    pub help: String,
    /// The line, made fit for a terminal.
    pub line_text: Option<String>,
}

impl Diagnostic {
    /// About a file as a whole.
    pub fn about_file(
        file: impl Into<Arc<str>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            at: None,
            message: message.into(),
            help: help.into(),
            line_text: None,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = self.at else {
            writeln!(f, "{}: {}", self.file, self.message)?;
            return write!(f, "  help: {}", self.help);
        };
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.file, at.line, at.column, self.message
        )?;
        if let Some(text) = &self.line_text {
            writeln!(f, "{:>6} | {text}", at.line)?;
            let column = at.column as usize - 1;
            if column <= SHOWN {
                writeln!(f, "{:>6} | {:column$}^", "", "")?;
            }
        }
        write!(f, "  help: {}", self.help)
    }
}

/// Every mistake of a load. Nothing of the policy is used when there is one.
#[derive(Clone, Debug, Default)]
pub struct PolicyErrors {
    /// The mistakes in the order of the files, at most [`MAX_REPORTED`].
    pub errors: Vec<Diagnostic>,
    /// Mistakes beyond [`MAX_REPORTED`].
    pub omitted: usize,
    /// Warnings that were found beside them.
    pub warnings: Vec<Diagnostic>,
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n\nand {} more errors", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// Where mistakes and warnings are gathered while files are read.
#[derive(Default)]
pub(crate) struct Report {
    errors: Vec<Diagnostic>,
    omitted: usize,
    warnings: Vec<Diagnostic>,
}

impl Report {
    pub(crate) fn error(&mut self, diagnostic: Diagnostic) {
        if self.errors.len() < MAX_REPORTED {
            self.errors.push(diagnostic);
        } else {
            self.omitted += 1;
        }
    }

    /// Mistakes so far.
    pub(crate) fn count(&self) -> usize {
        self.errors.len() + self.omitted
    }

    /// Warnings beyond the bound are dropped: they change nothing.
    pub(crate) fn warn(&mut self, diagnostic: Diagnostic) {
        if self.warnings.len() < MAX_REPORTED {
            self.warnings.push(diagnostic);
        }
    }

    /// The warnings, or the errors if there is any.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, PolicyErrors> {
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        // Mistakes are found in two passes; people read files from the top. Files keep
        // their order because the sort is stable and compares only within a file.
        let mut order: Vec<Arc<str>> = Vec::new();
        for error in &self.errors {
            if !order.contains(&error.file) {
                order.push(Arc::clone(&error.file));
            }
        }
        self.errors.sort_by_cached_key(|error| {
            let file = order.iter().position(|name| *name == error.file);
            (file, error.at)
        });
        Err(PolicyErrors {
            errors: self.errors,
            omitted: self.omitted,
            warnings: self.warnings,
        })
    }
}

/// A file's name and text, to show lines from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: Arc<str>,
    text: String,
    line_starts: Vec<usize>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            name: name.into(),
            text: text.to_owned(),
            line_starts,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn diagnostic(
        &self,
        at: Pos,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            file: Arc::clone(&self.name),
            at: Some(at),
            message: message.into(),
            help: help.into(),
            line_text: self.line(at.line),
        }
    }

    fn line(&self, line: u32) -> Option<String> {
        let start = *self.line_starts.get(line as usize - 1)?;
        let text = self.text.get(start..)?.lines().next().unwrap_or_default();
        // One character for one, so that the caret stays where it belongs, and nothing
        // that a terminal would obey.
        let shown = text
            .chars()
            .take(SHOWN)
            .map(|c| match c {
                '\t' => ' ',
                c if is_unprintable(c) => '\u{fffd}',
                c => c,
            })
            .collect();
        Some(shown)
    }
}

/// Control characters, and the ones that turn the direction of writing around.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Text from a file, made fit for a message: short, in one line, without anything that
/// a terminal would obey.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(80)
        .map(|c| if is_unprintable(c) { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

/// The candidate that someone may have meant.
pub(crate) fn near<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Long words are no typing mistakes, and the comparison is quadratic.
    if word.len() > 80 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_place_line_caret_and_help() {
        let source = Source::new("p.yaml", "version: 1\nagnets:\n  a: {}\n");
        let at = Pos { line: 2, column: 1 };
        let text = source
            .diagnostic(at, "unknown key `agnets`", "did you mean `agents`?")
            .to_string();
        assert_eq!(
            text,
            "p.yaml:2:1: unknown key `agnets`\n     2 | agnets:\n       | ^\n  help: did you mean `agents`?"
        );
    }

    #[test]
    fn a_hostile_line_cannot_drive_the_terminal() {
        let source = Source::new("p.yaml", "a: \u{1b}[2J\u{202e}x\ty\r\n");
        let line = source.line(1).expect("line");
        assert_eq!(line, "a: \u{fffd}[2J\u{fffd}x y");
        assert_eq!(shown("a\nb"), "a\u{fffd}b");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 81);
    }

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let keys = ["allow", "deny", "listen", "mode"];
        assert_eq!(near("alow", keys), Some("allow"));
        assert_eq!(near("dney", keys), Some("deny"));
        assert_eq!(near("network", keys), None);
    }

    #[test]
    fn errors_beyond_the_bound_are_counted() {
        let mut report = Report::default();
        for _ in 0..MAX_REPORTED + 5 {
            report.error(Diagnostic::about_file("x", "m", "h"));
        }
        let errors = report.finish().expect_err("errors");
        assert_eq!((errors.errors.len(), errors.omitted), (MAX_REPORTED, 5));
        assert!(errors.to_string().ends_with("and 5 more errors"));
    }
}
