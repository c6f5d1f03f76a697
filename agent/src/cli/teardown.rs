//! `exeat teardown`: the only way that takes enforcement down.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{Exit, Failure};
use crate::{
    config::Config,
    control::{DaemonLock, StartError},
    daemon,
    kernel::{
        cgroup::{self, Slice},
        pins::Pins,
    },
};

/// What becomes of agents that still run.
#[derive(Clone, Copy, Debug, Args)]
pub struct TeardownArgs {
    /// Kill agents that still run (they would be free otherwise)
    #[arg(long, conflicts_with = "release")]
    pub kill: bool,
    /// Let agents that still run go on without any policy
    #[arg(long)]
    pub release: bool,
}

/// How long killed agents may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Removes links, programs, maps and empty cgroups. Refuses while a daemon runs, and while
/// agents run unless told what is to become of them.
pub fn run(config: &Config, args: &TeardownArgs) -> Result<Exit, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            Exit::NotPermitted,
            "teardown needs root: run `sudo exeat teardown`",
        ));
    }
    let _lock = DaemonLock::acquire(&config.runtime_dir).map_err(|error| {
        let text = match &error {
            StartError::Running { detail } => {
                format!("the daemon is running ({detail}): stop it first (SIGTERM), then tear down")
            }
            _ => error.to_string(),
        };
        Failure::new(Exit::Failed, text)
    })?;
    let slice = daemon::slice_of(config)?;
    let pins = Pins::new(&config.bpffs);
    let adopted = slice
        .elsewhere(&pins.adopted_ids())
        .map_err(anyhow::Error::from)?;
    let running = processes(&slice, &adopted)?;
    if running > 0 && args.kill {
        kill(&slice, &adopted)?;
    } else if running > 0 && !args.release {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} of agents still running would be free: end them, or say --kill to kill them or --release to let them go",
                match running {
                    1 => "1 process".to_owned(),
                    n => format!("{n} processes"),
                }
            ),
        ));
    }
    pins.remove().map_err(anyhow::Error::from)?;
    let gone = slice.remove().map_err(anyhow::Error::from)?;
    if gone && let Some(systemd) = crate::systemd::Systemd::find(&slice) {
        // It may know of no such unit; then there is none to end.
        let _ = systemd.end_slice();
    }
    for file in ["state.json", "leases.json", "leases.log", "leases.log.old"] {
        // What is not there need not be removed, and nothing rests on these.
        let _ = fs::remove_file(config.runtime_dir.join(file));
    }
    println!(
        "Enforcement is down: links, programs and maps under {} are removed{}.",
        config.bpffs.display(),
        if gone {
            String::new()
        } else {
            format!(
                ", and {} is kept for what runs in it",
                slice.path().display()
            )
        }
    );
    Ok(Exit::Ok)
}

fn processes(slice: &Slice, adopted: &[PathBuf]) -> Result<usize, Failure> {
    let mut sum = 0;
    for (agent, _) in slice.agents().map_err(anyhow::Error::from)? {
        sum += slice.processes(&agent).map_err(anyhow::Error::from)?;
    }
    for path in adopted {
        sum += cgroup::processes_of(path);
    }
    Ok(sum)
}

fn kill(slice: &Slice, adopted: &[PathBuf]) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        slice.kill().map_err(anyhow::Error::from)?;
        for path in adopted.iter().filter(|path| path.exists()) {
            cgroup::kill(path).map_err(anyhow::Error::from)?;
        }
        if processes(slice, adopted)? == 0 {
            return Ok(());
        }
        if begun.elapsed() > KILL_WAIT {
            return Err(Failure::new(
                Exit::Failed,
                "agents that were killed are not gone yet: nothing was taken down, try again",
            ));
        }
        thread::sleep(Duration::from_millis(10));
    }
}
