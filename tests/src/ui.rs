//! `exeat ui` as a person starts it.

use crate::daemon::program;
use crate::{technique, wait};
use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// It; ended when dropped.
pub struct Running {
    child: Child,
    /// The address that it printed, with the token.
    pub url: String,
}

impl Running {
    /// Starts a command that ends in `ui …`, and returns when it has printed its address.
    ///
    /// # Errors
    /// When it prints none.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let lines = technique::read_lines(child.stdout.take().context("no output")?)?;
        let Ok(url) = lines.recv_timeout(wait::patience()) else {
            child.kill()?;
            bail!("no address: {}", child.wait()?);
        };
        Ok(Self { child, url })
    }

    /// On this machine's own loopback, of the daemon whose socket is in `runtime_dir`.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn of(folder: &Path) -> anyhow::Result<Self> {
        let config = folder.join("config.yaml");
        std::fs::write(&config, format!("runtime_dir: {}\n", folder.display()))?;
        let mut command = Command::new(program());
        command.arg("--config").arg(config).arg("ui");
        Self::start(command)
    }

    /// The address without the token.
    ///
    /// # Panics
    /// When what was printed is no such address.
    pub fn address(&self) -> SocketAddr {
        let rest = self.url.strip_prefix("http://").expect("a plain address");
        let (address, _) = rest.split_once('/').expect("a path");
        address.parse().expect("an address")
    }

    /// What opens a session.
    ///
    /// # Panics
    /// As [`Running::address`].
    pub fn token(&self) -> &str {
        self.url.split_once('#').expect("a token").1
    }

    /// Ctrl-C.
    ///
    /// # Errors
    /// When it does not end.
    pub fn interrupt(mut self) -> anyhow::Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        wait::until("the end of `exeat ui`", wait::patience(), || {
            self.child.try_wait().ok().flatten()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
