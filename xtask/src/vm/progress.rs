//! What a person sees while guests run: on a terminal a moving line a kernel, and everywhere
//! a line for each step that has ended.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::results::Outcome;
use crate::step;

/// All kernels together.
pub(super) struct Progress {
    bars: Option<MultiProgress>,
}

/// One kernel's line.
pub(super) struct Bar {
    name: String,
    bars: Option<(MultiProgress, ProgressBar)>,
    steps: usize,
    ended: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Self {
            bars: terminal.then(MultiProgress::new),
        }
    }

    pub(super) fn bar(&self, name: &str, steps: usize) -> Bar {
        let bars = self.bars.as_ref().map(|all| {
            let bar = all.add(ProgressBar::new_spinner());
            // A constant template: it parses or no run ever shows it.
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            (all.clone(), bar)
        });
        Bar {
            name: name.to_owned(),
            bars,
            steps,
            ended: 0,
        }
    }
}

impl Bar {
    /// A step begins.
    pub(super) fn start(&self, what: &str) {
        if let Some((_, bar)) = &self.bars {
            let (name, number, steps) = (&self.name, self.ended + 1, self.steps);
            bar.set_message(format!("{name:<6} {number}/{steps} {what}"));
            bar.reset_elapsed();
        }
    }

    /// A step has ended.
    pub(super) fn end(&mut self, outcome: &Outcome) {
        self.ended += 1;
        let count = outcome.count;
        let took = step::seconds(outcome.took);
        let line = match &outcome.why {
            None if count.passed + count.failed > 0 => {
                format!("{}: {} passed ({took})", outcome.name, count.passed)
            }
            None => format!("{}: done ({took})", outcome.name),
            Some(why) => format!(
                "{}: FAILED, {why}, {} passed, {} failed ({took})",
                outcome.name, count.passed, count.failed
            ),
        };
        self.say(&line);
        for name in &outcome.failed {
            self.say(&format!("{}: FAILED {name}", outcome.name));
        }
    }

    pub(super) fn say(&self, line: &str) {
        let line = format!("  {:<6} {line}", self.name);
        match &self.bars {
            // A terminal that is gone has no reader.
            Some((all, _)) => drop(all.println(line)),
            None => println!("{line}"),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.bars {
            bar.finish_and_clear();
        }
    }
}
