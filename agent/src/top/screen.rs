//! The terminal: taken and given back, whatever happens in between.

use std::io::{self, IsTerminal};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::DefaultTerminal;

/// Set by a panic of any thread: the terminal was given back, and nobody may draw any more.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours: raw, on its other screen. Given back when dropped, and by a
/// panic of any thread before the panic's message is printed.
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes it.
    ///
    /// # Errors
    /// When the terminal cannot be set.
    pub fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        // Ratatui's own hook gives the terminal back.
        let terminal = ratatui::try_init()?;
        HOOK.call_once(|| {
            let restoring = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                PANICKED.store(true, Ordering::SeqCst);
                restoring(info);
            }));
        });
        Ok(Self { terminal })
    }

    /// Draws, unless a thread has panicked.
    ///
    /// # Errors
    /// When the terminal is gone, or a thread has panicked.
    pub fn draw(&mut self, view: impl FnOnce(&mut ratatui::Frame<'_>)) -> io::Result<()> {
        if PANICKED.load(Ordering::SeqCst) {
            return Err(io::Error::other("a part of the view ended by a panic"));
        }
        self.terminal.draw(view).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if !PANICKED.load(Ordering::SeqCst) {
            ratatui::restore();
        }
    }
}

/// Whether there is a terminal to draw on and to read keys from.
pub fn there() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    io::stdin().is_terminal() && io::stdout().is_terminal() && !dumb
}
