//! `exeat notify`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::notify::{Options, run as serve};

/// The lock that keeps a second one of the session from showing everything twice.
const LOCK: &str = "exeat-notify.lock";

/// Show questions as desktop notifications, with buttons that answer
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct NotifyArgs {
    /// Show questions without buttons: they are answered by `exeat ask`
    #[arg(long)]
    pub show_only: bool,
}

/// Runs in the foreground until it is told to stop.
pub fn run(config: &Config, args: &NotifyArgs) -> Result<Exit, Failure> {
    let bus = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").filter(|one| !one.is_empty());
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|one| !one.is_empty());
    if bus.is_none() && folder.is_none() {
        return Err(Failure::new(
            Exit::Failed,
            "there is no session bus here (neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR \
             is set): start it in a graphical session, as its autostart file does",
        ));
    }
    let _lock = match folder.map(PathBuf::from) {
        Some(folder) => match lock(&folder)? {
            Some(lock) => Some(lock),
            None => {
                eprintln!("exeat notify: another one serves this session");
                return Ok(Exit::Ok);
            }
        },
        None => None,
    };
    let options = Options {
        socket: config.socket_path(),
        answer: config.notify.answer && !args.show_only,
        always: config.asking.users_may_always || administers(config),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let ended = runtime.block_on(serve(options));
    // A thread that waits for the daemon is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => Ok(Exit::Ok),
        Err(problem) => Err(Failure::new(Exit::NotPermitted, problem.to_string())),
    }
}

/// Whether the daemon will take for an administrator whoever runs this. What is wrong here is a
/// button too many or too few: the daemon decides.
fn administers(config: &Config) -> bool {
    let group = config.admin_gid().ok().flatten();
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let has = |gid: u32| groups.iter().any(|one| one.as_raw() == gid);
    nix::unistd::getuid().is_root()
        || group.is_some_and(|gid| gid == nix::unistd::getgid().as_raw() || has(gid))
}

/// None where another process has it.
fn lock(folder: &Path) -> Result<Option<Flock<std::fs::File>>, Failure> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|error| {
            let text = format!("cannot open {}: {error}", path.display());
            Failure::new(Exit::Failed, text)
        })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => {
            let text = format!("cannot lock {}: {error}", path.display());
            Err(Failure::new(Exit::Failed, text))
        }
    }
}
