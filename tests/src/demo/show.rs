//! The terminal. Several threads write whole lines; who speaks stands in front of each.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Who a line comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// A command that was typed into the agent's shell.
    Typed,
    /// What the command printed.
    Agent,
    /// A line of `exeat events --follow`.
    Events,
    /// What a stub host received.
    Host,
    /// What the sniffer on the wire counted.
    Wire,
    /// A command of ours, outside of the agent.
    Root,
    /// What that command printed.
    Said,
}

impl From {
    fn label(self) -> &'static str {
        match self {
            Self::Typed => "  agent $ ",
            Self::Agent => "        > ",
            Self::Events => " events | ",
            Self::Host => "   host | ",
            Self::Wire => "   wire | ",
            Self::Root => "   root # ",
            Self::Said => "        > ",
        }
    }
}

/// A meaning that a colour underlines; the words say it too.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

/// Standard output.
pub(super) struct Show {
    colour: bool,
    step: Mutex<u32>,
}

impl Show {
    pub(super) fn stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self::new(std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    pub(super) fn new(colour: bool) -> Self {
        Self {
            colour,
            step: Mutex::new(0),
        }
    }

    /// A numbered heading.
    pub(super) fn step(&self, title: &str) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        *step += 1;
        self.text(&format!(
            "\n{}",
            self.paint(Tone::Bold, &format!("{step}. {title}"))
        ));
    }

    /// Plain words.
    pub(super) fn text(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Whoever reads may have gone (`| head`): the demo still has to clean up.
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }

    /// A line of somebody. What cannot be shown safely is escaped.
    pub(super) fn line(&self, from: From, tone: Tone, text: &str) {
        let text: String = text
            .chars()
            .flat_map(|c| match c.is_control() {
                true => c.escape_default().collect::<Vec<_>>(),
                false => vec![c],
            })
            .collect();
        let label = self.paint(Tone::Dim, from.label());
        self.text(&format!("{label}{}", self.paint(tone, &text)));
    }

    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.colour => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Bold => 1,
            Tone::Dim => 2,
            Tone::Bad => 31,
            Tone::Good => 32,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_where_asked_for() {
        assert_eq!(Show::new(false).paint(Tone::Bad, "x"), "x");
        assert_eq!(Show::new(true).paint(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
