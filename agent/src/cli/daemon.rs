//! `exeat daemon`.

use std::io::IsTerminal as _;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{Exit, Failure};
use crate::{
    config::Config,
    control::StartError,
    daemon::{self, EngineError, Lifetime},
};

/// How the daemon runs.
#[derive(Clone, Copy, Debug, Args)]
pub struct DaemonArgs {
    /// Serve one run and then take everything down (`exeat run --policy` starts it so)
    #[arg(long, hide = true)]
    pub one_run: bool,
}

/// What is logged when nothing else is asked for. The DNS library warns of what it reads, and
/// what it reads is written by agents and by whoever runs a zone: none of them shall have a
/// line of the log for each message. What matters of it the resolver says itself.
const LOGGED: &str = "exeat=info,warn,hickory_proto=off,hickory_net=off,hickory_resolver=off";

/// Runs it in the foreground. Logs go to standard error; `EXEAT_LOG` filters them
/// (`debug`, `exeat::dns=trace`, …).
pub fn run(config: Config, args: &DaemonArgs) -> Result<Exit, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            Exit::NotPermitted,
            "the daemon needs root, to load BPF programs: run `sudo exeat daemon`",
        ));
    }
    let filter = EnvFilter::try_from_env("EXEAT_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let lifetime = if args.one_run {
        Lifetime::OneRun
    } else {
        Lifetime::Service
    };
    daemon::run(config, lifetime).map_err(failure)?;
    Ok(Exit::Ok)
}

fn failure(error: anyhow::Error) -> Failure {
    let exit = match error.downcast_ref::<EngineError>() {
        Some(EngineError::Policy(_) | EngineError::Compile(_)) => Exit::Usage,
        _ => Exit::Failed,
    };
    match error.downcast_ref::<StartError>() {
        Some(error) => Failure::new(exit, error.to_string()),
        None => Failure::new(exit, format!("{error:#}")),
    }
}
