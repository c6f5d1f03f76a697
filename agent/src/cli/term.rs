//! The terminal: whether to colour, how to end under `| head`, and what may be shown.

use std::io::IsTerminal;

pub use crate::flow::printable;

/// Lets a closed pipe end this process, as every other command does: Rust ignores SIGPIPE
/// from the start, and then `println!` panics under `| head`.
///
/// For commands that print and end. Not for the daemon, which writes to sockets that others
/// close. The launcher needs it too: an ignored signal stays ignored across exec, and the
/// program must not see a difference.
pub fn reset_sigpipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of ours.
    let result = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    // It fails for signal numbers that do not exist; this one does.
    debug_assert!(result.is_ok());
}

/// Whether standard output takes colours: a terminal, `NO_COLOR` unset or empty
/// (no-color.org), `TERM` not `dumb`.
pub fn stdout_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    colour(std::io::stdout().is_terminal(), set("NO_COLOR"), dumb)
}

const fn colour(terminal: bool, no_color: bool, dumb: bool) -> bool {
    terminal && !no_color && !dumb
}

/// [`printable`] for text of several lines, which stay lines.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escape_only).collect();
    lines.join("\n")
}

/// Like [`printable`] but leaves backslashes: our own messages quote files.
fn escape_only(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '\t' => out.push_str("    "),
            c if crate::flow::is_unsafe(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// JSON that cannot drive a terminal either. `serde_json` escapes C0 only; the rest is
/// written as `\uXXXX`, which changes nothing for who parses it: beyond ASCII a JSON text
/// has characters in strings only.
pub fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && crate::flow::is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        assert!(colour(true, false, false));
        assert!(!colour(false, false, false));
        assert!(!colour(true, true, false));
        assert!(!colour(true, false, true));
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_its_teeth() {
        let hostile = "a\u{9b}31m\u{202e}\u{7f}\x1b\u{e0041}é\n";
        let json = serde_json::to_string(hostile).expect("json");
        let shown = printable_json(&json);
        assert!(!shown.chars().any(crate::flow::is_unsafe), "{shown}");
        assert_eq!(
            serde_json::from_str::<String>(&shown).expect("back"),
            hostile
        );
    }

    #[test]
    fn messages_keep_their_lines_only() {
        assert_eq!(
            printable_lines("a\x1b[2J\n  b\\c\td\r"),
            "a\\u{1b}[2J\n  b\\c    d\\u{d}"
        );
    }
}
