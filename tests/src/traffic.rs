//! Steady traffic of an agent, for the fault tests.

use crate::technique::{program, read_lines, ready_number};
use crate::wait;
use anyhow::{Context, anyhow};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

/// A `hostile traffic` that runs; killed when dropped.
pub struct Traffic {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Traffic {
    /// Starts the command, which must be `hostile traffic` in some form.
    ///
    /// # Errors
    /// When no round is over within [`wait::patience`].
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().context("start hostile traffic")?;
        let lines = read_lines(child.stdout.take().context("no stdout")?)?;
        let traffic = Self { child, lines };
        let first = traffic
            .lines
            .recv_timeout(wait::patience())
            .context("no round of traffic was made")?;
        ready_number(&first).ok_or_else(|| anyhow!("hostile traffic said {first:?}"))?;
        Ok(traffic)
    }

    /// Ends it and gives its counts: `allowed`, `failed`, `leaked`, `refused`, `errors`.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn finish(mut self) -> anyhow::Result<Value> {
        drop(self.child.stdin.take());
        let line = self
            .lines
            .recv_timeout(wait::patience())
            .context("hostile traffic gave no counts")?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("hostile traffic said {line:?}"))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Argument list of `hostile traffic`.
pub fn traffic_arguments(target: Ipv4Addr, decoy: Ipv4Addr, port: u16, token: &str) -> Vec<String> {
    let mut argv = vec![program().to_string_lossy().into_owned(), "traffic".into()];
    for (key, value) in [
        ("--target", target.to_string()),
        ("--decoy", decoy.to_string()),
        ("--port", port.to_string()),
        ("--payload", token.to_owned()),
    ] {
        argv.extend([key.to_owned(), value]);
    }
    argv
}
