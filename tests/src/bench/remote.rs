//! A program on the measured side, inside or outside of an agent: it reads what to do from
//! its standard input, a JSON value a line, and writes an answer a line.

use anyhow::{Context, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The program as it is seen from outside; killed when dropped.
pub(crate) struct Remote {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Remote {
    /// Starts a command that becomes it.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a client")?;
        Ok(Self {
            orders: child.stdin.take().context("its input")?,
            answers: BufReader::new(child.stdout.take().context("its output")?),
            child,
        })
    }

    /// Its process, or the `exeat run` that became it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order; [`Remote::done`] waits until it is carried out.
    pub(crate) fn order(&mut self, order: &impl Serialize) -> anyhow::Result<()> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("a client has ended")
    }

    /// What came of the oldest order that was not asked about.
    pub(crate) fn done<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a client has ended: see above");
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end: the orders that come.
pub(crate) fn orders<T: DeserializeOwned>() -> impl Iterator<Item = anyhow::Result<T>> {
    let lines = std::io::stdin().lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?))
}

/// Answers one.
pub(crate) fn answer(done: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(done)?)?;
    Ok(out.flush()?)
}
