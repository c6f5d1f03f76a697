//! A connection that waits in the kernel for an answer, and the question about it.

use crate::puppet::Puppet;
use crate::stage::Stage;
use crate::wait;
use anyhow::Context;
use serde_json::Value;

/// A host that [`policy`] does not allow by itself, and the port that is asked about.
pub const FAR: &str = "203.0.113.31";
/// The same of the other family.
pub const FAR6: &str = "2001:db8::31";
/// See [`FAR`].
pub const PORT: u16 = 7000;

/// A policy of the stage's agent that has everything asked but one host; `who` is `user` or
/// `admin`.
pub fn policy(who: &str) -> String {
    format!(
        "version: 1\nagents:\n  worker:\n    ask: {{ who: {who}, timeout: 300s }}\n    allow:\n      - {{ host: allowed.example, ports: [443, 80] }}\n"
    )
}

/// A connection to `host` that a thread of the puppet opens; [`ended`] waits for it, and the
/// puppet's `held` is its socket.
///
/// # Errors
/// When the puppet has ended.
pub fn begin(puppet: &mut Puppet, host: &str) -> anyhow::Result<()> {
    let began = puppet.ask(&format!(
        "done = None\n\
         def go():\n\
         \x20   global done, held\n\
         \x20   try:\n\
         \x20       held = socket(AF_INET6 if ':' in {host:?} else AF_INET, SOCK_STREAM)\n\
         \x20       held.connect(({host:?}, {PORT}))\n\
         \x20       held.sendall(b'a')\n\
         \x20       done = 0\n\
         \x20   except OSError as e:\n\
         \x20       done = e.errno\n\
         threading.Thread(target=go, daemon=True).start()\n"
    ));
    began.map(drop)
}

/// How the connection ended: its errno, or 0.
///
/// # Errors
/// When it waits still.
pub fn ended(puppet: &mut Puppet) -> anyhow::Result<i64> {
    wait::until("the connection to be decided", wait::patience(), || {
        puppet.value("done").ok()?.as_i64()
    })
}

/// Whether the connection waits still.
///
/// # Errors
/// When the puppet has ended.
pub fn waits(puppet: &mut Puppet) -> anyhow::Result<bool> {
    Ok(puppet.value("done")?.is_null())
}

/// The questions that stand, as a user sees them.
///
/// # Errors
/// With what `exeat ask` said.
pub fn questions(stage: &Stage, uid: u32) -> anyhow::Result<Vec<Value>> {
    let mut ask = stage.daemon.cli_as(uid, &["ask", "--output", "json"]);
    let output = ask.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).context(said)
}

/// Waits for a question; its id.
///
/// # Errors
/// When none comes.
pub fn question(stage: &Stage) -> anyhow::Result<String> {
    let one = wait::until("a question", wait::patience(), || {
        questions(stage, 0).ok()?.pop()
    })?;
    Ok(one["id"].as_str().context("an id")?.to_owned())
}

/// What holds, as root sees it.
///
/// # Errors
/// With what `exeat grants` said.
pub fn grants(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    let output = stage.daemon.cli(&["grants", "--output", "json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).context(said)
}
