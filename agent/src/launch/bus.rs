//! D-Bus for an agent whose policy names whom it may speak to: xdg-dbus-proxy stands between,
//! one for each run.
//!
//! The proxy speaks for the agent and must not be of it: it would be governed, and a bus would
//! take what the agent sends for its own. So it is started by a process that is forked away
//! before the daemon moves the caller ([`Helper::fork`]), when nobody knows yet whether it is
//! needed. It waits to be told ([`Helper::start`]); a caller that ends without a word, or
//! becomes the command, ends it. Later it ends with the caller, which stays as long as the
//! sandbox does, and takes the proxy and the sockets with it.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _},
            net::UnixStream,
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::waitpid,
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, geteuid, setsid},
};
use serde::{Deserialize, Serialize};

use super::{LaunchError, become_user, find_user};
use crate::policy::sandbox::Dbus;

/// The filtering proxy.
const PROGRAM: &str = "xdg-dbus-proxy";
/// Where the system's bus listens, outside and inside.
const SYSTEM: &str = "/run/dbus/system_bus_socket";
/// How long the proxy may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The proxy is not installed.
    #[error(
        "`dbus` of the agent's sandbox needs {PROGRAM}, which is not installed: refusing to start the command\n  install the package xdg-dbus-proxy, or take `dbus` out of its policy"
    )]
    NoProxy,
    /// No name of D-Bus.
    #[error("`{0}` of `dbus` is no name on a bus: refusing to start the command")]
    Name(String),
    /// Any other failure.
    #[error("cannot filter D-Bus for the command ({step}): refusing to start it: {why}")]
    Step {
        /// What was tried.
        step: String,
        /// Why not.
        why: String,
    },
}

fn step<E: ToString>(step: &str) -> impl FnOnce(E) -> BusError {
    move |error| BusError::Step {
        step: step.to_owned(),
        why: error.to_string(),
    }
}

/// A process outside of the agent, which waits.
#[derive(Debug)]
pub struct Helper {
    channel: UnixStream,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    dbus: Dbus,
    user: Option<String>,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready(Broker),
    NoProxy,
    Failed { step: String, why: String },
}

/// Filtered buses, there as long as the process that asked for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    session: Option<Socket>,
    system: Option<Socket>,
}

/// A socket of the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Socket {
    outside: PathBuf,
    inside: PathBuf,
}

impl Helper {
    /// Forks it away. Call it with one thread, before the daemon is asked, and in the process
    /// that stays as long as the sandbox.
    ///
    /// # Errors
    /// When the system has no process or descriptor left.
    pub fn fork() -> io::Result<Self> {
        // SAFETY: the call takes two numbers; what it gives is a new descriptor.
        let caller = unsafe {
            let number = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
            OwnedFd::from_raw_fd(i32::try_from(Errno::result(number)?).map_err(io::Error::other)?)
        };
        let (channel, theirs) = UnixStream::pair()?;
        // SAFETY: this process has one thread, so that nothing is locked in the child.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                waitpid(child, None)?;
                Ok(Self { channel })
            }
            ForkResult::Child => {
                // A second time: it is not a child that the command, or a shell before it,
                // would have to wait for.
                // SAFETY: as above.
                if let Ok(ForkResult::Child) = unsafe { fork() } {
                    drop(channel);
                    // Whatever became of it, there is nobody to tell.
                    let _ = serve(theirs, caller);
                }
                // SAFETY: ends the process and runs nothing of the caller's.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Has the proxy started for these names, as `user` where that is not the caller. None
    /// where no names are.
    ///
    /// # Errors
    /// When there is no proxy, and when it cannot be started: then nothing may be started.
    pub fn start(mut self, dbus: &Dbus, user: Option<&str>) -> Result<Option<Broker>, BusError> {
        if dbus.session.is_empty() && dbus.system.is_empty() {
            return Ok(None);
        }
        let names = dbus.session.iter().chain(&dbus.system);
        for name in names {
            if !is_name(name) {
                return Err(BusError::Name(name.clone()));
            }
        }
        let order = Order {
            dbus: dbus.clone(),
            user: user.map(str::to_owned),
        };
        const STEP: &str = "ask the process that starts the proxy";
        let text = serde_json::to_vec(&order).map_err(step(STEP))?;
        self.channel
            .set_read_timeout(Some(PATIENCE * 2))
            .map_err(step(STEP))?;
        self.channel.write_all(&text).map_err(step(STEP))?;
        self.channel
            .shutdown(std::net::Shutdown::Write)
            .map_err(step(STEP))?;
        let mut answer = Vec::new();
        self.channel.read_to_end(&mut answer).map_err(step(STEP))?;
        match serde_json::from_slice(&answer).map_err(step(STEP))? {
            Answer::Ready(broker) => Ok(Some(broker)),
            Answer::NoProxy => Err(BusError::NoProxy),
            Answer::Failed { step, why } => Err(BusError::Step { step, why }),
        }
    }
}

impl Broker {
    /// Sockets: where each is outside, and where the agent is to find it.
    pub fn sockets(&self) -> impl Iterator<Item = (&Path, &Path)> {
        let all = self.session.iter().chain(&self.system);
        all.map(|socket| (socket.outside.as_path(), socket.inside.as_path()))
    }

    /// The variables by which programs find them.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let address = |socket: &Socket| format!("unix:path={}", socket.inside.display());
        let session = self.session.as_ref().map(address);
        let system = self.system.as_ref().map(address);
        [
            ("DBUS_SESSION_BUS_ADDRESS", session),
            ("DBUS_SYSTEM_BUS_ADDRESS", system),
        ]
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)))
        .collect()
    }
}

/// Whether it is a well-known name of the D-Bus specification, perhaps with `.*` after it for
/// all names below.
fn is_name(name: &str) -> bool {
    let plain = name.strip_suffix(".*").unwrap_or(name);
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    };
    plain.len() <= 255 && plain.contains('.') && plain.split('.').all(good)
}

/// The life of the helper.
fn serve(mut channel: UnixStream, caller: OwnedFd) -> io::Result<()> {
    // The terminal's signals are the agent's, and its pipes are not held open.
    setsid()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    let mut kept = [channel.as_raw_fd(), caller.as_raw_fd()].map(i32::unsigned_abs);
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().chain([libc::c_uint::MAX]) {
        if from < fd {
            // SAFETY: what is closed here is the caller's, and nothing of ours is among it.
            unsafe { libc::close_range(from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
    let mut order = Vec::new();
    channel.read_to_end(&mut order)?;
    let Ok(order) = serde_json::from_slice::<Order>(&order) else {
        // It needs no bus, or it is gone.
        return Ok(());
    };
    let answer =
        |answer: &Answer| -> io::Result<()> { (&channel).write_all(&serde_json::to_vec(answer)?) };
    let proxy = match Proxy::start(&order) {
        Ok(proxy) => proxy,
        Err(BusError::NoProxy) => return answer(&Answer::NoProxy),
        Err(BusError::Step { step, why }) => return answer(&Answer::Failed { step, why }),
        Err(other) => {
            let (step, why) = (String::new(), other.to_string());
            return answer(&Answer::Failed { step, why });
        }
    };
    answer(&Answer::Ready(proxy.broker.clone()))?;
    drop(channel);
    loop {
        let mut ends = [PollFd::new(caller.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ends, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            done => {
                drop(proxy);
                return Ok(done.map(drop)?);
            }
        }
    }
}

/// The proxy, with the folder of its sockets: both end when it is dropped.
struct Proxy {
    broker: Broker,
    folder: PathBuf,
    child: std::process::Child,
    /// The proxy ends when this is closed.
    alive: Option<io::PipeReader>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.alive.take());
        // It has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Proxy {
    fn start(order: &Order) -> Result<Self, BusError> {
        if let Some(name) = &order.user {
            let become_it = || -> Result<(), LaunchError> { become_user(&find_user(name)?) };
            become_it().map_err(step("become the user"))?;
        }
        let uid = geteuid();
        let run = PathBuf::from(format!("/run/user/{uid}"));
        let session = match order.user {
            // The caller's is not the user's.
            Some(_) => None,
            None => env::var("DBUS_SESSION_BUS_ADDRESS")
                .ok()
                .filter(|address| !address.is_empty()),
        };
        let system = env::var("DBUS_SYSTEM_BUS_ADDRESS")
            .ok()
            .filter(|address| !address.is_empty());
        let bus = |found: Option<String>, path: &Path| {
            found.unwrap_or_else(|| format!("unix:path={}", path.display()))
        };
        let folder = make_folder(&run)?;
        // A folder without a proxy is taken away again.
        let started = (|| {
            let (pipe, proxys) = io::pipe().map_err(step("make a pipe"))?;
            let mut command = Command::new(PROGRAM);
            command.arg(format!("--fd={}", proxys.as_raw_fd()));
            let mut add = |names: &BTreeSet<String>, address: String, name: &str, inside: &Path| {
                if names.is_empty() {
                    return None;
                }
                let outside = folder.join(name);
                command.arg(address).arg(&outside).arg("--filter");
                command.args(names.iter().map(|name| format!("--talk={name}")));
                let inside = inside.to_owned();
                Some(Socket { outside, inside })
            };
            let (here, there) = (run.join("bus"), Path::new(SYSTEM));
            let broker = Broker {
                session: add(&order.dbus.session, bus(session, &here), "session", &here),
                system: add(&order.dbus.system, bus(system, there), "system", there),
            };
            let kept = proxys.as_raw_fd();
            let keep = move || {
                // SAFETY: it is open in the child; only its close-on-exec is taken off.
                Errno::result(unsafe { libc::fcntl(kept, libc::F_SETFD, 0) })?;
                Ok(())
            };
            command.stdin(Stdio::null()).current_dir("/");
            // SAFETY: only a system call is made between fork and exec.
            unsafe { command.pre_exec(keep) };
            let child = match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(BusError::NoProxy);
                }
                child => child.map_err(step("start xdg-dbus-proxy"))?,
            };
            drop(proxys);
            Ok((broker, pipe, child))
        })();
        let (broker, pipe, child) = started.inspect_err(|_| {
            let _ = fs::remove_dir_all(&folder);
        })?;
        let mut proxy = Self {
            broker,
            folder,
            child,
            alive: Some(pipe),
        };
        proxy.wait()?;
        Ok(proxy)
    }

    /// It writes a byte when it listens.
    fn wait(&mut self) -> Result<(), BusError> {
        const STEP: &str = "wait for xdg-dbus-proxy";
        let Some(pipe) = &mut self.alive else {
            return Ok(());
        };
        let patience = PollTimeout::try_from(PATIENCE).map_err(step(STEP))?;
        let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, patience).map_err(step(STEP))? == 0 {
            return Err(step(STEP)("it does not listen in time"));
        }
        match pipe.read(&mut [0]).map_err(step(STEP))? {
            1 => Ok(()),
            _ => Err(step(STEP)(
                "it ended; `xdg-dbus-proxy ADDRESS SOCKET --filter` says why",
            )),
        }
    }
}

/// A folder for the sockets that only the user can enter.
fn make_folder(run: &Path) -> Result<PathBuf, BusError> {
    let doing = format!("make a folder in {}", run.display());
    let found = fs::metadata(run).map_err(step(&doing))?;
    if found.uid() != geteuid().as_raw() {
        return Err(step(&doing)("it belongs to another user"));
    }
    loop {
        let folder = run.join(format!("exeat-bus-{:016x}", rand::random::<u64>()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| folder).map_err(step(&doing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        for name in ["org.freedesktop.Notifications", "a.b", "a.b-c._d.*"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "a",
            "*",
            ".*",
            "a.*",
            "a.b.*.c",
            "a..b",
            ".a.b",
            "a.b.",
            "a.1b",
            "a.b=x",
            "a.b c",
            ":1.5",
            "a.*.*",
            "--own=a.b",
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&format!("a.{}", "b".repeat(255))));
    }

    #[test]
    fn variables_lead_to_the_sockets_inside() {
        let socket = Socket {
            outside: "/run/user/7/exeat-bus-x/session".into(),
            inside: "/run/user/7/bus".into(),
        };
        let broker = Broker {
            session: Some(socket),
            system: None,
        };
        let variables = broker.variables();
        let expected = "unix:path=/run/user/7/bus".to_owned();
        assert_eq!(variables, [("DBUS_SESSION_BUS_ADDRESS", expected)]);
        assert_eq!(broker.sockets().count(), 1);
    }
}
