//! A program that does what a test says, one step at a time.
//!
//! It is a Python interpreter that reads code from its standard input and answers with
//! the value or the errno. The test so decides what happens between two system calls of
//! one process: a reload, a kill, a look at a sink.

use crate::technique::read_lines;
use crate::wait;
use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;

const SCRIPT: &str = include_str!("puppet.py");

/// Seconds that its sockets wait, unless a step says otherwise.
const PATIENCE: u64 = 5;

/// The interpreter; one that every user may execute.
const PYTHON: &str = "/usr/bin/python3";

/// Arguments of a puppet, for `exeat run` or for a plain command.
pub fn arguments() -> Vec<String> {
    // -I: nothing of the user's environment or home takes part.
    let patience = wait::seconds(PATIENCE);
    [PYTHON, "-I", "-u", "-c", SCRIPT, &patience]
        .map(str::to_owned)
        .into()
}

/// What came of a step.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// It worked; the value, `null` for a statement.
    Value(Value),
    /// A system call failed with this errno.
    Errno(i32),
    /// It took longer than the socket's time-out.
    TimedOut,
}

impl Answer {
    /// The errno; 0 where it worked, `ETIMEDOUT` where it took too long.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Value(_) => 0,
            Self::Errno(errno) => *errno,
            Self::TimedOut => libc::ETIMEDOUT,
        }
    }
}

/// A puppet that runs; killed when dropped.
pub struct Puppet {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Puppet {
    /// Starts a command that ends in [`arguments`], and returns when it answers.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().context("start a puppet")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let lines = read_lines(child.stdout.take().context("no stdout")?)?;
        let mut puppet = Self {
            child,
            stdin,
            lines,
        };
        puppet.ask("1").context("the puppet does not answer")?;
        Ok(puppet)
    }

    /// Runs one step: the last line may be an expression, whose value is the answer.
    ///
    /// # Errors
    /// When it ended, or failed in another way than by an errno.
    pub fn ask(&mut self, code: &str) -> anyhow::Result<Answer> {
        writeln!(self.stdin, "{}", Value::from(code)).context("the puppet has ended")?;
        let line = self
            .lines
            .recv_timeout(wait::patience())
            .with_context(|| format!("no answer to {code:?}"))?;
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if let Some(value) = answer.get("value") {
            return Ok(Answer::Value(value.clone()));
        }
        match answer["errno"].as_i64() {
            Some(errno) => Ok(Answer::Errno(i32::try_from(errno)?)),
            None if answer["timeout"] == true => Ok(Answer::TimedOut),
            None => bail!("{code:?}: {}", answer["error"]),
        }
    }

    /// The errno of a step; 0 if it worked.
    ///
    /// # Errors
    /// As [`Puppet::ask`].
    pub fn errno(&mut self, code: &str) -> anyhow::Result<i32> {
        Ok(self.ask(code)?.errno())
    }

    /// The value of a step that must work.
    ///
    /// # Errors
    /// When it fails, also by an errno.
    pub fn value(&mut self, code: &str) -> anyhow::Result<Value> {
        match self.ask(code)? {
            Answer::Value(value) => Ok(value),
            other => Err(anyhow!("{code:?}: {other:?}")),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
