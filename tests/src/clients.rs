//! DNS and TLS clients of other people: where each is, and what one of DNS says.
//!
//! What the machine has is taken from it. The rest (Go, musl, tunnels, programs of TLS libraries, SSH,
//! and Java if a bare machine lacks it) `cargo xtask setup` brings into `target/clients`, from Debian's packages
//! and without installing any.

use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// Where programs are that every user may run. Not `PATH`: root's may lead into a home.
const FOLDERS: [&str; 5] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin", "/sbin"];

/// A client by its name. One that is missing fails the test where `CI=true`; elsewhere the
/// terminal is told, and there is none.
///
/// # Panics
/// When it is missing in CI.
pub fn find(name: &str) -> Option<PathBuf> {
    let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    let folders = FOLDERS.iter().map(PathBuf::from).chain([brought]);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let why = format!(
            "the client {name} is neither in {} nor in target/clients: `cargo xtask setup` brings it",
            FOLDERS.join(", ")
        );
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        // Past the test runner, which keeps what passing tests print to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    }
    found
}

/// A program that Cargo built with the tests.
pub fn own(name: &str) -> PathBuf {
    crate::technique::beside(name)
}

/// What came of a look-up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// The addresses that the client was given.
    pub addresses: BTreeSet<IpAddr>,
    /// Why it was given none, in its own words.
    pub error: Option<String>,
    /// The servers that its sockets were connected to, where it tells.
    pub from: Vec<String>,
    /// How long the look-up took, without the start of the program.
    pub took: Duration,
}

impl Said {
    /// Reads the lines that the programs of `tests/clients` print.
    ///
    /// # Errors
    /// When the program failed, or a line is none of theirs.
    pub fn read(output: &Output) -> anyhow::Result<Self> {
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {text}{said}", output.status);
        }
        let mut said = Self::default();
        for line in text.lines() {
            match line.split_once(' ').context("a line of one word")? {
                ("address", address) => {
                    said.addresses.insert(address.parse()?);
                }
                ("error", words) => said.error = Some(words.to_owned()),
                ("from", server) => said.from.push(server.to_owned()),
                ("ms", number) => said.took = Duration::from_millis(number.parse()?),
                _ => bail!("{line:?} in {text}"),
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn output(stdout: &str, status: i32) -> Output {
        Output {
            status: ExitStatus::from_raw(status),
            stdout: stdout.into(),
            stderr: b"words".into(),
        }
    }

    #[test]
    fn lines_are_read_and_others_are_errors() {
        let lines = "from 203.0.113.53:53\naddress 203.0.113.1\naddress 2001:db8::1\nms 12\n";
        let said = Said::read(&output(lines, 0)).expect("lines");
        assert_eq!(said.addresses.len(), 2);
        assert_eq!(said.from, ["203.0.113.53:53"]);
        assert_eq!((said.took, said.error), (Duration::from_millis(12), None));
        let said = Said::read(&output("error no such name\nms 0\n", 0)).expect("lines");
        assert_eq!(said.error.as_deref(), Some("no such name"));
        assert!(Said::read(&output("hello world\n", 0)).is_err());
        assert!(Said::read(&output("address x\n", 0)).is_err());
        assert!(Said::read(&output(lines, 256)).is_err());
    }
}
