//! A program at a terminal, as a person would have it.

use crate::wait;
use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// A child that leads a session on a pseudo-terminal; killed when dropped.
pub struct Pty {
    child: Child,
    master: File,
    /// What a person would see: a terminal that was told all of it.
    screen: vt100::Parser,
    said: String,
    /// Bytes of `said` that [`Pty::until`] has passed.
    seen: usize,
}

impl Pty {
    /// Starts a command with the terminal as its standard streams.
    ///
    /// # Errors
    /// When there is no pseudo-terminal, or the command does not start.
    pub fn start(command: Command) -> anyhow::Result<Self> {
        Self::start_on(command, None)
    }

    /// The same on a terminal of a size: columns, then rows.
    ///
    /// # Errors
    /// As [`Pty::start`].
    pub fn start_on(mut command: Command, size: Option<(u16, u16)>) -> anyhow::Result<Self> {
        let window = size.map(|(columns, rows)| window(columns, rows));
        let opened = openpty(window.as_ref(), None).context("openpty")?;
        let OpenptyResult { master, slave } = opened;
        // Whoever runs there must be able to open its own terminal.
        nix::sys::stat::fchmod(&slave, nix::sys::stat::Mode::from_bits_truncate(0o666))?;
        command
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave.try_clone()?));
        let control = || -> std::io::Result<()> {
            nix::unistd::setsid()?;
            // SAFETY: plain system call on standard input, which is the terminal.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(control) };
        let child = command.spawn().context("start at the terminal")?;
        Ok(Self {
            child,
            master: File::from(master),
            screen: {
                let (columns, rows) = size.unwrap_or((80, 24));
                vt100::Parser::new(rows, columns, 0)
            },
            said: String::new(),
            seen: 0,
        })
    }

    /// Types.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn keys(&mut self, keys: &str) -> anyhow::Result<()> {
        self.master.write_all(keys.as_bytes()).context("type")
    }

    /// Reads until `text` appears behind what was passed before, and passes it.
    ///
    /// # Errors
    /// When it does not appear; with everything that was said.
    pub fn until(&mut self, text: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.said[self.seen..].find(text) {
                self.seen += at + text.len();
                return Ok(());
            }
            let left = wait::patience().saturating_sub(start.elapsed());
            if left.is_zero() || !self.read(left)? {
                bail!("{text:?} did not appear in {:?}", self.said);
            }
        }
    }

    /// Reads until the screen is as wanted.
    ///
    /// # Errors
    /// When it does not become so; with the screen.
    pub fn shows(
        &mut self,
        what: &str,
        wanted: impl Fn(&vt100::Screen) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !wanted(self.screen.screen()) {
            let left = wait::patience().saturating_sub(start.elapsed());
            if left.is_zero() || !self.read(left)? {
                bail!("no {what} on\n{}", self.screen.screen().contents());
            }
        }
        Ok(())
    }

    /// Whether a text is on the screen within a time; the pause between two tries of a test, not a
    /// limit.
    pub fn shows_within(&mut self, pause: std::time::Duration, text: &str) -> bool {
        let start = Instant::now();
        loop {
            if self.screen.screen().contents().contains(text) {
                return true;
            }
            let left = pause.saturating_sub(start.elapsed());
            if left.is_zero() || !matches!(self.read(left), Ok(true)) {
                return false;
            }
        }
    }

    /// Gives the terminal another size, as a person who pulls at its window.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&mut self, columns: u16, rows: u16) -> anyhow::Result<()> {
        self.screen.screen_mut().set_size(rows, columns);
        let window = window(columns, rows);
        // SAFETY: plain system call on a descriptor that we hold, with a structure of its type.
        match unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &window) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("TIOCSWINSZ"),
        }
    }

    /// How the terminal treats what is typed and printed.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn modes(&self) -> anyhow::Result<nix::sys::termios::Termios> {
        nix::sys::termios::tcgetattr(&self.master).context("tcgetattr")
    }

    /// Reads what is there; false at the end.
    fn read(&mut self, patience: std::time::Duration) -> anyhow::Result<bool> {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, patience)? == 0 {
            return Ok(false);
        }
        let mut buffer = [0u8; 4096];
        match self.master.read(&mut buffer) {
            // The master answers EIO once the last slave is closed.
            Ok(0) | Err(_) => Ok(false),
            Ok(length) => {
                self.screen.process(&buffer[..length]);
                self.said
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
                Ok(true)
            }
        }
    }

    /// The process group in the terminal's foreground.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn foreground(&self) -> anyhow::Result<i32> {
        // SAFETY: plain system call on a descriptor that we hold.
        match unsafe { libc::tcgetpgrp(self.master.as_raw_fd()) } {
            -1 => Err(std::io::Error::last_os_error()).context("tcgetpgrp"),
            group => Ok(group),
        }
    }

    /// A child of the process that was started, by the name of its program.
    ///
    /// # Errors
    /// When there is none.
    pub fn child_called(&self, name: &str) -> anyhow::Result<i32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let named = |child: &&str| {
            std::fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|comm| comm.trim() == name)
        };
        let child = children.split_whitespace().find(named);
        Ok(child.with_context(|| format!("no {name}"))?.parse()?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end; with everything that was said.
    pub fn end(mut self) -> anyhow::Result<ExitStatus> {
        let status = wait::until(
            "the program at the terminal to end",
            wait::patience(),
            || {
                // The program may be waiting for somebody to read what it says.
                let _ = self.read(std::time::Duration::ZERO);
                self.child.try_wait().ok().flatten()
            },
        );
        status.with_context(|| self.said.clone())
    }
}

fn window(columns: u16, rows: u16) -> nix::pty::Winsize {
    nix::pty::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
