//! Programs of other people to compare with, of this machine or unpacked from their packages.

use anyhow::{Context, bail};
use exeat_tests::ns::Ns;
use exeat_tests::wait;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Set by `cargo xtask bench`: folders with unpacked packages.
const FOLDERS: &str = "EXEAT_PEERS";

/// Where a program is.
pub(crate) enum Program {
    /// The machine's own.
    Own(PathBuf),
    /// In a folder of unpacked packages, which has its libraries too.
    Unpacked(PathBuf, PathBuf),
}

impl Program {
    /// On `PATH`, or among the packages that were unpacked.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = std::env::split_paths(&path).map(|folder| folder.join(name));
        if let Some(own) = own.into_iter().find(|path| path.is_file()) {
            return Ok(Self::Own(own));
        }
        let folders = std::env::var_os(FOLDERS).unwrap_or_default();
        for root in std::env::split_paths(&folders) {
            let folders = ["usr/sbin", "usr/bin"].map(|folder| root.join(folder));
            let programs = folders.map(|folder| folder.join(name));
            if let Some(program) = programs.into_iter().find(|path| path.is_file()) {
                return Ok(Self::Unpacked(program, root));
            }
        }
        bail!("it is neither on PATH nor among the packages that were unpacked")
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(program) | Self::Unpacked(program, _) => program,
        }
    }

    /// A command in a namespace, with its libraries.
    pub(crate) fn command(&self, ns: &Ns) -> Command {
        match self {
            Self::Own(program) => ns.command(program),
            Self::Unpacked(program, root) => {
                let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
                let libraries = ["usr/lib", "lib"].map(|lib| root.join(lib).join(&machine));
                let mut command = ns.command(program);
                command.env(
                    "LD_LIBRARY_PATH",
                    libraries.map(|path| path.display().to_string()).join(":"),
                );
                command
            }
        }
    }

    /// `name` and what it says of its version at `flag`: the word after "version".
    pub(crate) fn version(&self, ns: &Ns, name: &str, flag: impl AsRef<OsStr>) -> String {
        let output = self.command(ns).arg(flag).output();
        let said = output.map(|output| output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let words = said.split_whitespace();
        let number = words
            .skip_while(|word| !word.eq_ignore_ascii_case("version"))
            .nth(1);
        format!("{name} {}", number.unwrap_or("?"))
    }
}

/// A server that runs; it is killed when dropped.
pub(crate) struct Served(Child);

impl Served {
    /// Starts it, what it says into a file, and waits until it is `ready`.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in time; with what it said.
    pub(crate) fn start(
        mut command: Command,
        log: &Path,
        mut ready: impl FnMut() -> bool,
    ) -> anyhow::Result<Self> {
        let file = std::fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start it")?;
        let mut served = Self(child);
        let mut ended = None;
        let waited = wait::until("an answer", wait::patience(), || {
            ended = served.0.try_wait().ok().flatten();
            (ended.is_some() || ready()).then_some(())
        });
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        match ended {
            Some(status) => bail!("it has ended: {status}:\n{}", said()),
            None => waited
                .with_context(|| format!("it does not answer:\n{}", said()))
                .map(|()| served),
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
