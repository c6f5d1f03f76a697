//! What was expected and what was seen.

use super::show::{Show, Tone};

struct Row {
    step: String,
    expected: &'static str,
    seen: String,
    ok: bool,
}

/// The rows of the closing table.
#[derive(Default)]
pub(super) struct Ledger(Vec<Row>);

impl Ledger {
    /// Notes one expectation.
    pub(super) fn note(&mut self, step: &str, expected: &'static str, seen: String, ok: bool) {
        self.0.push(Row {
            step: step.to_owned(),
            expected,
            seen,
            ok,
        });
    }

    /// Number of expectations that failed.
    pub(super) fn failed(&self) -> usize {
        self.0.iter().filter(|row| !row.ok).count()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn print(&self, show: &Show) {
        let width = |of: &dyn Fn(&Row) -> &str, head: &str| {
            let widest = self.0.iter().map(|row| of(row).chars().count()).max();
            widest.unwrap_or(0).max(head.len())
        };
        let step = width(&|row| &row.step, "STEP");
        let expected = width(&|row| row.expected, "EXPECTED");
        let seen = width(&|row| &row.seen, "SEEN");
        let head = format!(
            "  {:step$}  {:expected$}  {:seen$}",
            "STEP", "EXPECTED", "SEEN"
        );
        show.text(&show.paint(Tone::Bold, head.trim_end()));
        for row in &self.0 {
            let (tone, word) = match row.ok {
                true => (Tone::Good, "ok"),
                false => (Tone::Bad, "NOT AS EXPECTED"),
            };
            show.text(&format!(
                "  {:step$}  {:expected$}  {:seen$}  {}",
                row.step,
                row.expected,
                row.seen,
                show.paint(tone, word)
            ));
        }
    }
}
