//! `exeat run --policy`: a daemon for one run.
//!
//! It is the same daemon with folders, a slice and pins of its own. It takes everything
//! down when the run's last process is gone. If it is killed, what it enforces stays, and
//! the next standalone run removes what was left once nothing runs in it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use nix::unistd::ForkResult;

use crate::{
    config::Config,
    control::{DaemonLock, SOCKET_NAME},
    kernel::{
        cgroup::{Slice, cgroup2_root},
        pins::Pins,
    },
};

/// Names of standalone instances begin so.
const PREFIX: &str = "exeat-run-";
const RUN: &str = "/run";
const BPFFS: &str = "/sys/fs/bpf";

/// A daemon that serves one run.
pub struct Standalone {
    folder: PathBuf,
}

impl Standalone {
    /// Starts it for a policy file, and waits until it enforces.
    pub fn start(policy: &Path) -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!(
                "enforcing a policy for one run needs root: run `sudo exeat run --policy …`, or ask for a daemon (`exeat run --agent NAME`)"
            );
        }
        collect_leftovers();
        let name = format!("{PREFIX}{}", std::process::id());
        let folder = Path::new(RUN).join(&name);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let policy = policy
            .canonicalize()
            .with_context(|| format!("cannot find {}", policy.display()))?;
        let config = folder.join("config.yaml");
        let text = serde_json::json!({
            "policy": [policy],
            "slice": format!("{name}.slice"),
            "bpffs": Path::new(BPFFS).join(&name),
            "runtime_dir": folder,
            "state_dir": folder.join("state"),
            "metrics": "off",
        });
        // JSON is YAML.
        fs::write(&config, text.to_string())
            .with_context(|| format!("cannot write {}", config.display()))?;
        let standalone = Self { folder };
        if let Err(error) = standalone.spawn(&config) {
            // Its last words are in the error, and nothing runs in it.
            collect_leftovers();
            return Err(error);
        }
        Ok(standalone)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET_NAME)
    }

    /// The daemon leads a session of its own, so that the terminal's signals go to the
    /// command alone, and is nobody's child: a command that waits for all of its children
    /// would otherwise wait for a daemon that waits for the command. Its first words are
    /// read until it is ready, the rest goes to a log.
    fn spawn(&self, config: &Path) -> anyhow::Result<()> {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let log = self.folder.join("daemon.log");
        let file =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("--config")
            .arg(config)
            .args(["daemon", "--one-run"])
            .env(READY_ENV, "1")
            .env_remove(crate::config::ENV)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(file);
        // SAFETY: only system calls between fork and exec, no memory is touched; the process
        // in between ends by `_exit`, which runs nothing of ours.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match nix::unistd::fork()? {
                    ForkResult::Parent { .. } => libc::_exit(0),
                    ForkResult::Child => Ok(()),
                }
            });
        }
        let mut between = command.spawn().context("cannot start the daemon")?;
        between.wait().context("cannot start the daemon")?;
        drop(command);
        let mut line = String::new();
        BufReader::new(reader)
            .read_line(&mut line)
            .context("cannot hear from the daemon")?;
        if line.trim() != READY_WORD {
            let words = fs::read_to_string(&log).unwrap_or_default();
            bail!(
                "the daemon for this run did not start, so the command was not started either\n{}",
                words.trim_end()
            );
        }
        Ok(())
    }
}

/// Set for a daemon that is to print [`READY_WORD`] on standard output once it enforces.
pub const READY_ENV: &str = "EXEAT_SAY_READY";
/// What it prints.
pub const READY_WORD: &str = "ready";

/// Says that the daemon is ready to whoever started it for one run.
pub fn say_ready() {
    if std::env::var_os(READY_ENV).is_some() {
        println!("{READY_WORD}");
    }
}

/// Removes what killed standalone daemons left, where nothing runs in it any more. What
/// cannot be removed stays and goes on refusing.
fn collect_leftovers() {
    let Ok(root) = cgroup2_root() else {
        return;
    };
    let Ok(entries) = fs::read_dir(RUN) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else {
            continue;
        };
        // Whose it is lives: it may be starting at this moment, and then its daemon holds no
        // lock and its slice is not there yet. A number that another process has now only
        // puts the collection off.
        let own = pid == std::process::id().to_string();
        if !own && Path::new("/proc").join(pid).exists() {
            continue;
        }
        let folder = entry.path();
        let Ok(lock) = DaemonLock::acquire(&folder) else {
            continue;
        };
        // Only what this version wrote is understood; anything else is left to a person.
        if Config::load(Some(&folder.join("config.yaml"))).is_err() {
            continue;
        }
        let slice = Slice::new(&root, &format!("{name}.slice"));
        if slice.remove().unwrap_or(false) {
            let removed = Pins::new(Path::new(BPFFS).join(&name)).remove();
            drop(lock);
            if removed.is_ok() {
                let _ = fs::remove_dir_all(&folder);
            }
        }
    }
}
