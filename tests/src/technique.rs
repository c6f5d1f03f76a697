//! The hostile program: where it is, what it can do, and how it speaks.

use anyhow::Context;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Command;

/// A technique as the hostile program describes it.
#[derive(Clone, Debug)]
pub struct Technique {
    /// Its name, also the argument that chooses it.
    pub name: String,
    /// The file that it is written in.
    pub family: String,
    /// Whether an ordinary user cannot do it.
    pub needs_root: bool,
    /// What [`crate::attack::Attack::run`] does for it.
    pub needs: String,
    /// How [`crate::attack::Attack::run`] finds out whether it worked: `payload`, `protocol`,
    /// `group`, `word`.
    pub evidence: String,
    pub(crate) protocol: Option<u8>,
}

/// The program, built by Cargo for this test run.
pub fn program() -> PathBuf {
    beside("hostile")
}

/// Exeat as a build with another layout of its maps.
pub fn another_layout() -> PathBuf {
    beside("another")
}

/// Exeat as it would be where the clock is set and the machine sleeps.
pub fn shifted_clock() -> PathBuf {
    beside("shifted")
}

/// Any program of this crate.
pub(crate) fn beside(name: &str) -> PathBuf {
    // Integration tests lie in target/<profile>/deps, the program in target/<profile>.
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join(name)
}

/// Every technique that sends.
///
/// # Errors
/// When the program cannot be run.
pub fn list() -> anyhow::Result<Vec<Technique>> {
    listed("list")
}

/// Every technique that only a sandbox stops: none of them sends by itself.
///
/// # Errors
/// As [`list`].
pub fn confined() -> anyhow::Result<Vec<Technique>> {
    listed("list-confined")
}

fn listed(which: &str) -> anyhow::Result<Vec<Technique>> {
    let output = Command::new(program())
        .arg(which)
        .output()
        .context("run `hostile list`")?;
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).context("read `hostile list`")?;
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    Ok(list
        .iter()
        .map(|v| Technique {
            name: text(v, "name"),
            family: text(v, "family"),
            needs_root: v["needs_root"].as_bool().unwrap_or(false),
            needs: text(v, "needs"),
            evidence: text(v, "evidence"),
            protocol: v["protocol"].as_u64().and_then(|n| u8::try_from(n).ok()),
        })
        .collect())
}

/// The number in a line `{"ready":N}`, which says that a preparation is over.
pub(crate) fn ready_number(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["ready"].as_u64()
}

/// Lines of a pipe, read on a thread that ends with the pipe.
pub fn read_lines(
    pipe: impl Read + Send + 'static,
) -> anyhow::Result<std::sync::mpsc::Receiver<String>> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("lines".into())
        .spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        })?;
    Ok(receive)
}
