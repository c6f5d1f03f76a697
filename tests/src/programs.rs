//! Files that are to be executed at once.
//!
//! A test never has one open for writing itself: what another thread forks meanwhile inherits the
//! descriptor until its own exec, and execve(2) of the file fails with ETXTBSY until then.

use anyhow::Context as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A new file of these bytes and this mode.
///
/// # Errors
/// When install(1) cannot make it.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut child = install(Path::new("/dev/stdin"), path, mode)
        .stdin(Stdio::piped())
        .spawn()
        .context("install")?;
    let mut input = child.stdin.take().context("standard input of install")?;
    let written = input.write_all(bytes);
    drop(input);
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "install {}: {status}", path.display());
    written.with_context(|| format!("write {}", path.display()))
}

/// A copy of a file, with this mode.
///
/// # Errors
/// When install(1) cannot make it.
pub fn copy(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let status = install(from, to, mode).status().context("install")?;
    anyhow::ensure!(
        status.success(),
        "install {} {}: {status}",
        from.display(),
        to.display()
    );
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Command {
    let mut command = Command::new("install");
    command.arg(format!("--mode={mode:o}")).arg(from).arg(to);
    command
}
