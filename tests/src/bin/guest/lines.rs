//! The serial port: one JSON object a line.

use anyhow::Context;
use nix::sys::termios;
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// The way out. Several threads may speak; a line stays whole.
pub(crate) struct Lines(Mutex<File>);

impl Lines {
    /// # Errors
    /// When the device cannot be opened or is no serial port.
    pub(crate) fn open(device: &str) -> anyhow::Result<Self> {
        let port = File::options()
            .write(true)
            .read(true)
            .open(device)
            .with_context(|| format!("open {device}"))?;
        // Not a terminal for people: a line's end stays one byte.
        let mut mode = termios::tcgetattr(&port).with_context(|| format!("{device}: tcgetattr"))?;
        termios::cfmakeraw(&mut mode);
        termios::tcsetattr(&port, termios::SetArg::TCSANOW, &mode)
            .with_context(|| format!("{device}: tcsetattr"))?;
        Ok(Self(Mutex::new(port)))
    }

    /// Says one line.
    ///
    /// # Errors
    /// When the port does not take it.
    pub(crate) fn say(&self, value: &serde_json::Value) -> anyhow::Result<()> {
        let mut line = value.to_string();
        line.push('\n');
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        port.write_all(line.as_bytes())
            .context("write to the serial port")
    }

    /// Waits until all is out of the machine.
    ///
    /// # Errors
    /// When the port cannot tell.
    pub(crate) fn drain(&self) -> anyhow::Result<()> {
        let port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        termios::tcdrain(&*port).context("drain the serial port")
    }
}
