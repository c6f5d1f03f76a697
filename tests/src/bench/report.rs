//! Results: tables for people, JSON for programs, and `BENCHMARKS.md`.

use crate::stats::Series;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// One benchmark's results.
#[derive(Serialize)]
pub(crate) struct Section {
    /// The word that chooses it.
    pub(crate) name: &'static str,
    /// The heading.
    pub(crate) title: &'static str,
    /// How it was measured, and what the numbers are.
    pub(crate) note: String,
    /// Column heads.
    pub(crate) columns: Vec<String>,
    /// Rows, each as long as `columns`.
    pub(crate) rows: Vec<Vec<String>>,
    /// Targets of the design that it speaks of.
    pub(crate) targets: Vec<Target>,
}

/// A target and what was seen.
#[derive(Serialize)]
pub(crate) struct Target {
    /// Of what.
    pub(crate) what: String,
    /// The bound.
    pub(crate) bound: f64,
    /// What was seen.
    pub(crate) seen: f64,
    /// The unit of both.
    pub(crate) unit: &'static str,
    /// Whether the bound is the least (a rate) or the most (a cost).
    pub(crate) at_least: bool,
    /// Whether it was met.
    pub(crate) met: bool,
}

impl Target {
    /// A cost that must not be more than `bound`.
    pub(crate) fn at_most(
        what: impl Into<String>,
        bound: f64,
        seen: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            what: what.into(),
            bound,
            seen,
            unit,
            at_least: false,
            met: seen <= bound,
        }
    }

    /// A rate that must not be less than `bound`.
    pub(crate) fn at_least(
        what: impl Into<String>,
        bound: f64,
        seen: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            at_least: true,
            met: seen >= bound,
            ..Self::at_most(what, bound, seen, unit)
        }
    }
}

/// Everything of one run.
#[derive(Serialize)]
pub(crate) struct Report {
    /// How it was called.
    pub(crate) command: String,
    /// UTC, to the second.
    pub(crate) date: String,
    /// `uname -sr`.
    pub(crate) kernel: String,
    /// Model and number of processors.
    pub(crate) cpu: String,
    /// Commit, with `+` if the sources were changed after it.
    pub(crate) commit: String,
    /// Load averages before and after: how quiet the machine was.
    pub(crate) load: [String; 2],
    /// Seconds that it took.
    pub(crate) seconds: f64,
    /// The results.
    pub(crate) sections: Vec<Section>,
}

/// Short and without false precision.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    match value.abs() {
        a if a >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 0.1 || a == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// `1.034 (1.01-1.06)`: median and the middle half of the rounds.
pub(crate) fn ratio(series: &Series) -> String {
    format!(
        "{:.3} ({:.2}-{:.2})",
        series.median(),
        series.quantile(0.25),
        series.quantile(0.75)
    )
}

impl Section {
    fn widths(&self) -> Vec<usize> {
        (0..self.columns.len())
            .map(|at| {
                std::iter::once(&self.columns)
                    .chain(&self.rows)
                    .map(|row| row[at].chars().count())
                    .max()
                    .unwrap_or(0)
                    // A rule in Markdown is three signs at least.
                    .max(3)
            })
            .collect()
    }

    fn table(&self) -> String {
        let widths = self.widths();
        let line = |row: &[String]| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(at, (cell, width))| match at {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(at, width)| match at {
                0 => "-".repeat(*width),
                _ => format!("{}:", "-".repeat(width.saturating_sub(1))),
            })
            .collect();
        let mut text = line(&self.columns) + &format!("| {} |\n", rule.join(" | "));
        for row in &self.rows {
            text += &line(row);
        }
        text
    }

    /// As Markdown, which people can read on a terminal too.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n{}", self.title, self.note, self.table());
        if !self.targets.is_empty() {
            text += "\n";
        }
        for target in &self.targets {
            let _ = writeln!(
                text,
                "- {}: {} {} {}, seen {}: **{}**",
                target.what,
                if target.at_least {
                    "at least"
                } else {
                    "at most"
                },
                number(target.bound),
                target.unit,
                number(target.seen),
                if target.met { "met" } else { "missed" },
            );
        }
        text
    }
}

impl Report {
    /// A report without results yet.
    pub(crate) fn new() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        Self {
            command: format!("cargo xtask bench {}", words.join(" "))
                .trim()
                .to_owned(),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M:%S UTC"]),
            kernel: said("uname", &["-sr"]),
            cpu: cpu(),
            commit: commit(),
            load: [load(), String::new()],
            seconds: 0.0,
            sections: Vec::new(),
        }
    }

    /// Notes the end.
    pub(crate) fn close(&mut self, seconds: f64) {
        self.seconds = seconds;
        self.load[1] = load();
    }

    /// The lines before the results.
    pub(crate) fn head(&self) -> String {
        format!(
            "- command: `{}` ({:.0} s)\n- date: {}\n- kernel: {}\n- processor: {}\n- commit: {}\n\
             - load average before and after: {}; {}\n",
            self.command,
            self.seconds,
            self.date,
            self.kernel,
            self.cpu,
            self.commit,
            self.load[0],
            self.load[1],
        )
    }

    fn targets(&self) -> String {
        let mut text = String::from("| target | bound | seen | |\n| --- | ---: | ---: | --- |\n");
        for target in self.sections.iter().flat_map(|section| &section.targets) {
            let _ = writeln!(
                text,
                "| {} | {} {} {} | {} | {} |",
                target.what,
                if target.at_least { "≥" } else { "≤" },
                number(target.bound),
                target.unit,
                number(target.seen),
                if target.met { "met" } else { "**missed**" },
            );
        }
        text
    }

    /// Writes the file that the repository keeps.
    pub(crate) fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut text = format!(
            "# Benchmarks\n\nMade by `cargo xtask bench --save`; do not edit.\n\n{}\n{NOISE}\n\n\
             ## Targets\n\n{}\n",
            self.head(),
            self.targets()
        );
        for section in &self.sections {
            text += &section.text();
            text.push('\n');
        }
        std::fs::write(path, text.trim_end().to_owned() + "\n")
    }
}

/// What the numbers are worth.
pub(crate) const NOISE: &str = "Absolute times belong to this machine and this hour: it is a virtual \
machine, and others may have been at work on it (see the load averages). What is measured \
side by side in one run, in turns, and given as a ratio, holds better: a ratio is the median \
over the rounds of what was seen next to each other, with the middle half of the rounds in \
brackets; differences of a few percent are noise unless the brackets say otherwise.";

fn said(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{count} × {model}")
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut all = vec!["-C", env!("CARGO_MANIFEST_DIR")];
        all.extend_from_slice(arguments);
        said("git", &all)
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]);
    match git(&["status", "--porcelain", "--untracked-files=no"]).as_str() {
        "" => head,
        _ => format!("{head}+"),
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0.00"),
            (0.0123, "0.0123"),
            (1.5, "1.50"),
            (42.13, "42.1"),
            (678.4, "678"),
            (1_030_000.0, "1030.0k"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_target_knows_its_direction() {
        assert!(Target::at_most("cost", 2.0, 2.0, "ns").met);
        assert!(!Target::at_most("cost", 2.0, 2.1, "ns").met);
        assert!(!Target::at_least("rate", 2.0, 1.9, "/s").met);
        // What could not be measured is not met.
        assert!(!Target::at_most("cost", 2.0, f64::NAN, "ns").met);
        assert!(!Target::at_least("rate", 2.0, f64::NAN, "/s").met);
    }
}
