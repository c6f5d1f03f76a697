//! A shell that the demo types into, so that what runs in it outlives one command.

use super::signals;
use crate::technique::read_lines;
use crate::{unique, wait};
use anyhow::{Context, bail};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// No command of the demo takes longer than a few time-outs of seconds.
fn patience() -> Duration {
    wait::scaled(Duration::from_secs(30))
}

/// What came of a command.
pub(super) struct Outcome {
    pub(super) lines: Vec<String>,
    pub(super) code: i32,
}

/// A running `sh`; killed when dropped.
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    /// Starts `command`, which must end in a `sh` that reads its standard input.
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let (read, write) = std::io::pipe().context("make a pipe")?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(write.try_clone().context("copy a pipe")?)
            .stderr(write)
            // Ctrl-C is ours: this one is ended when we clean up.
            .process_group(0)
            .spawn()
            .context("start a shell")?;
        // It holds the ends for the child, and the reader would never see the end.
        drop(command);
        let input = child.stdin.take().context("a shell without input")?;
        let lines = read_lines(read)?;
        let mut shell = Self {
            child,
            input,
            lines,
        };
        let first = shell.run("true")?;
        if first.code != 0 || !first.lines.is_empty() {
            bail!("the shell said {:?}", first.lines);
        }
        Ok(shell)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs one command line to its end.
    pub(super) fn run(&mut self, line: &str) -> anyhow::Result<Outcome> {
        let mark = unique::token();
        writeln!(self.input, "{{ {line}; }} </dev/null; echo {mark} $?")
            .context("type into the shell")?;
        let begun = Instant::now();
        let mut lines = Vec::new();
        loop {
            signals::check()?;
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(text) => match text.strip_prefix(&mark) {
                    Some(code) => {
                        let code = code.trim().parse().context("an exit code")?;
                        return Ok(Outcome { lines, code });
                    }
                    None => lines.push(text),
                },
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < patience() => {}
                Err(RecvTimeoutError::Timeout) => bail!("`{line}` does not end: {lines:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the shell ended: {}", lines.join("\n"))
                }
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
