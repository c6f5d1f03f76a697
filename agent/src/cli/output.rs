//! Text or JSON on standard output.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;

use super::exit::Failure;
use super::term::{printable, printable_json, stdout_colour};

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The option that commands with both forms share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub struct OutputArgs {
    /// Print for people, or JSON for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// How text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether to colour.
    pub colour: bool,
}

impl Style {
    /// As standard output takes it.
    pub fn stdout() -> Self {
        Self {
            colour: stdout_colour(),
        }
    }

    /// The text in a colour, if there are any. The text must be safe already.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        match (self.colour, tone) {
            (true, Tone::Good) => format!("\x1b[32m{text}\x1b[0m"),
            (true, Tone::Bad) => format!("\x1b[31m{text}\x1b[0m"),
            (true, Tone::Warn) => format!("\x1b[33m{text}\x1b[0m"),
            (false, _) | (true, Tone::Plain) => text.to_owned(),
        }
    }
}

/// What a word means for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Look at it.
    Warn,
    /// Wrong.
    Bad,
}

/// Writes text to standard output, as it is.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes one JSON document, indented.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value)?;
    print(&format!("{}\n", printable_json(&json)))?;
    Ok(())
}

/// Writes one JSON object on a line.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value)?;
    print(&format!("{}\n", printable_json(&json)))?;
    Ok(())
}

/// Aligned columns under a head. Every cell is made safe.
pub struct Columns {
    table: Table,
    style: Style,
}

impl Columns {
    /// Columns with these heads.
    pub fn new(style: Style, heads: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        match style.colour {
            true => table.enforce_styling(),
            false => table.force_no_tty(),
        };
        table.set_header(heads.iter().copied().map(Cell::new));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, style }
    }

    /// One more row.
    pub fn row(&mut self, cells: &[(&str, Tone)]) {
        let style = self.style;
        self.table.add_row(cells.iter().map(|(text, tone)| {
            let cell = Cell::new(printable(text));
            match tone {
                Tone::Good if style.colour => cell.fg(Color::Green),
                Tone::Warn if style.colour => cell.fg(Color::Yellow),
                Tone::Bad if style.colour => cell.fg(Color::Red),
                _ => cell,
            }
        }));
    }

    /// The lines, each with its end.
    pub fn text(&self) -> String {
        self.table
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }
}

/// A number of bytes as people read it: `5.3 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "";
    for next in UNITS {
        // 999.95 would be shown as 1000.0 of the smaller unit.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A number of seconds as people read it: `1d 2h`.
pub fn duration(seconds: u64) -> String {
    let (d, h, m, s) = (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, _, _) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_999, "1.0 MB"),
            (5_300_000, "5.3 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0s"), (61, "1m 1s"), (3600, "1h 0m"), (93_784, "1d 2h")] {
            assert_eq!(duration(n), text);
        }
    }

    #[test]
    fn columns_align_and_cells_are_safe() {
        let mut columns = Columns::new(Style::default(), &["NAME", "STATE"]);
        columns.row(&[("a-long-name", Tone::Plain), ("up", Tone::Good)]);
        columns.row(&[("x\x1b[31m", Tone::Plain), ("down\n", Tone::Bad)]);
        assert_eq!(
            columns.text(),
            "NAME         STATE\na-long-name  up\nx\\u{1b}[31m  down\\u{a}\n"
        );
    }

    #[test]
    fn colours_only_when_asked_for() {
        let text = |colour| {
            let mut columns = Columns::new(Style { colour }, &["A"]);
            columns.row(&[("up", Tone::Good)]);
            columns.text() + &Style { colour }.paint(Tone::Bad, "x")
        };
        assert!(!text(false).contains('\x1b'));
        assert!(text(true).matches('\x1b').count() >= 4);
    }
}
