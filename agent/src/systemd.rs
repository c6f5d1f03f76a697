//! What is asked of systemd: a scope for each agent, so that systemd knows what the agent's
//! cgroup is and leaves it to the daemon (`Delegate`), and the agent's limits, which it would
//! else take back.
//!
//! It is asked over the system's bus, and not at its own socket, where it calls itself by a name
//! that zbus takes for none of a sender ("Invalid unique name"). A connection is opened for each
//! question: nothing of it is left to be mended when the bus starts anew.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::debug;
use zbus::Variant;

use crate::{
    kernel::cgroup::{self, Slice},
    policy::Limits,
};

/// The system's bus.
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// Where it says that it runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// A scope of the name is still about to go.
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a scope may take. One launch waits meanwhile, and nobody else.
const SCOPE_PATIENCE: Duration = Duration::from_secs(20);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// How long agents that are told to end may take, before systemd ends them at shutdown.
const STOP: Duration = Duration::from_secs(10);

type Property = (&'static str, Variant<'static>);

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be reached, or says no.
    #[error("systemd: {0}")]
    Refused(String),
    /// It did not answer, or not do it, in time.
    #[error("systemd did not do it within {} s", PATIENCE.as_secs())]
    Late,
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// The systemd of this machine.
#[derive(Debug)]
pub struct Systemd {
    scopes: Scopes,
    /// What it was told of the limits of each scope, by the name of the agent: the id of the
    /// scope's cgroup, and what holds.
    told: BTreeMap<String, (u64, Limits)>,
}

/// Who asks it for scopes, without anybody's lock.
#[derive(Clone, Debug)]
pub struct Scopes {
    socket: PathBuf,
    slice: Slice,
    /// The program of [`Keeper`], with its arguments.
    keeper: (PathBuf, &'static [&'static str]),
}

/// The first process of a scope: it waits until this is dropped, or the daemon is gone, and does
/// nothing. A scope without a process ends, so it keeps the scope for the process that is about to
/// be moved below it.
///
/// systemd is given this process and not that one: a job that it gets to late would else move an
/// agent's process back out of its run.
#[derive(Debug)]
pub struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scopes {
    /// Has the scope of an agent be there, for as long as what it gives is kept.
    ///
    /// # Errors
    /// Where it is not there when its time is up.
    pub fn keep(&self, agent: &str, limits: &Limits) -> Result<Keeper, SystemdError> {
        let until = Instant::now() + SCOPE_PATIENCE;
        let (program, arguments) = &self.keeper;
        let child = Command::new(program)
            .args(*arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let keeper = Keeper(child.map_err(|error| {
            SystemdError::Refused(format!("no process keeps the scope: {error}"))
        })?);
        let pid = keeper.0.id();
        let scope = self.slice.scope(agent);
        loop {
            // One that is there, if it is not about to go.
            if scope.is_dir() && cgroup::move_process(&scope, pid).is_ok() {
                return Ok(keeper);
            }
            match self.start(agent, pid, limits) {
                Ok(()) => break,
                // One that has just ended: it is gone in a moment.
                Err(SystemdError::Refused(why))
                    if why.contains(EXISTS) && Instant::now() < until =>
                {
                    debug!(agent, why, "the scope of before is not gone yet");
                    std::thread::sleep(LOOK * 10);
                }
                Err(error) => return Err(error),
            }
        }
        while !is_in(pid, &self.slice, &scope) {
            if Instant::now() > until {
                return Err(SystemdError::Late);
            }
            std::thread::sleep(LOOK);
        }
        Ok(keeper)
    }

    fn start(&self, agent: &str, pid: u32, limits: &Limits) -> Result<(), SystemdError> {
        let mut properties: Vec<Property> = vec![
            ("Description", format!("Agent {agent} (exeat)").into()),
            ("Slice", self.slice.name().to_owned().into()),
            ("PIDs", vec![pid].into()),
            // What is below it is the daemon's.
            ("Delegate", true.into()),
            ("CollectMode", "inactive-or-failed".into()),
            ("TimeoutStopUSec", micros(STOP).into()),
        ];
        properties.extend(limit_properties(limits));
        self.call(Question::Start(cgroup::scope_name(agent), properties))
    }

    /// On a thread and a runtime of its own: who asks may be a part of another one.
    fn call(&self, question: Question) -> Result<(), SystemdError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let socket = self.socket.clone();
        std::thread::Builder::new()
            .name("systemd".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let result = match runtime {
                    Ok(runtime) => runtime.block_on(async {
                        match tokio::time::timeout(PATIENCE, ask(&socket, question)).await {
                            Ok(result) => result,
                            Err(_) => Err(SystemdError::Late),
                        }
                    }),
                    Err(error) => Err(SystemdError::Refused(error.to_string())),
                };
                // Who asked has given up.
                let _ = answer.send(result);
            })
            .map_err(|error| SystemdError::Refused(error.to_string()))?;
        answered
            .recv_timeout(PATIENCE)
            .unwrap_or(Err(SystemdError::Late))
    }
}

impl Systemd {
    /// If it runs here and the slice is one that it can make.
    pub fn find(slice: &Slice) -> Option<Self> {
        let booted = Path::new(BOOTED).is_dir();
        let program = std::env::current_exe().ok()?;
        (booted && is_fit(slice.name()) && is_ours(slice.root())).then(|| Self {
            scopes: Scopes {
                socket: SOCKET.into(),
                slice: slice.clone(),
                keeper: (program, &["boot", "keep"]),
            },
            told: BTreeMap::new(),
        })
    }

    /// Who asks for scopes.
    pub fn scopes(&self) -> Scopes {
        self.scopes.clone()
    }

    /// Tells it the limits of an agent, if the agent has a scope and they are news. Else it would
    /// write down those of before whenever it looks at the scope anew.
    ///
    /// # Errors
    /// Where it does not take them.
    pub fn limit(&mut self, agent: &str, limits: &Limits) -> Result<(), SystemdError> {
        let Ok(id) = cgroup::id(&self.scopes.slice.scope(agent)) else {
            self.told.remove(agent);
            return Ok(());
        };
        if self.told.get(agent) == Some(&(id, limits.clone())) {
            return Ok(());
        }
        let name = cgroup::scope_name(agent);
        self.scopes
            .call(Question::Set(name, limit_properties(limits)))?;
        self.told.insert(agent.to_owned(), (id, limits.clone()));
        Ok(())
    }

    /// Ends the slice with all scopes in it.
    ///
    /// # Errors
    /// Where it does not.
    pub fn end_slice(&self) -> Result<(), SystemdError> {
        let slice = self.scopes.slice.name().to_owned();
        self.scopes.call(Question::Stop(slice))
    }
}

enum Question {
    Start(String, Vec<Property>),
    Set(String, Vec<Property>),
    Stop(String),
}

async fn ask(socket: &Path, question: Question) -> Result<(), SystemdError> {
    let stream =
        UnixStream::connect(socket).map_err(|error| SystemdError::Refused(error.to_string()))?;
    let bus = zbus::connection::Builder::unix_stream(stream)
        .build()
        .await?;
    let to = Some(MANAGER);
    match question {
        Question::Start(name, properties) => {
            let none: Vec<(&str, Vec<Property>)> = Vec::new();
            let body = (name, "fail", properties, none);
            bus.call_method(Some(NAME), PATH, to, "StartTransientUnit", &body)
                .await
        }
        Question::Set(name, properties) => {
            // For as long as the scope lives.
            let body = (name, true, properties);
            bus.call_method(Some(NAME), PATH, to, "SetUnitProperties", &body)
                .await
        }
        Question::Stop(name) => {
            bus.call_method(Some(NAME), PATH, to, "StopUnit", &(name, "replace"))
                .await
        }
    }?;
    Ok(())
}

/// A slice directly below the root: a dash would put it below another one.
fn is_fit(slice: &str) -> bool {
    slice
        .strip_suffix(".slice")
        .is_some_and(|name| !name.is_empty() && !name.contains('-'))
}

/// Whether the tree is that of systemd: its own process is in it, where it puts itself.
fn is_ours(root: &Path) -> bool {
    root.join("init.scope").is_dir()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The limits as properties of a scope; those of disks are left to the kernel's own file, of
/// which systemd touches only what it was told.
fn limit_properties(limits: &Limits) -> Vec<Property> {
    let or_none = |limit: Option<u64>| Variant::from(limit.unwrap_or(u64::MAX));
    vec![
        ("MemoryMax", or_none(limits.memory)),
        ("MemorySwapMax", or_none(limits.swap)),
        // Microseconds of a second; a policy has percent of one processor.
        (
            "CPUQuotaPerSecUSec",
            or_none(limits.cpu.map(|percent| percent * 10_000)),
        ),
        // A scope has a default of systemd's, which no policy speaks of.
        ("TasksMax", or_none(limits.pids)),
    ]
}

/// Whether a process is in a cgroup.
fn is_in(pid: u32, slice: &Slice, folder: &Path) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .is_some_and(|below| slice.root().join(below) == folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_slice_below_another_one_is_not_for_it() {
        assert!(is_fit("exeat.slice"));
        for name in ["exeat", "a-b.slice", ".slice", "exeat.scope"] {
            assert!(!is_fit(name), "{name}");
        }
    }

    #[test]
    fn every_limit_is_told_and_none_is_said_as_none() {
        let limits = Limits {
            memory: Some(1 << 20),
            cpu: Some(150),
            ..Limits::default()
        };
        let told: BTreeMap<_, _> = limit_properties(&limits)
            .into_iter()
            .map(|(name, value)| (name, u64::try_from(value).expect("a number")))
            .collect();
        assert_eq!(told["MemoryMax"], 1 << 20);
        assert_eq!(told["MemorySwapMax"], u64::MAX);
        assert_eq!(told["CPUQuotaPerSecUSec"], 1_500_000);
        assert_eq!(told["TasksMax"], u64::MAX);
    }

    /// What was asked: the method, the name of the unit, and what was said of it.
    type Asked = Arc<Mutex<Vec<String>>>;

    /// Answers each who connects, as a bus and as systemd: it starts nothing, and takes every
    /// limit.
    fn serve(listener: UnixListener, asked: Asked) {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            while let Ok((stream, _)) = listener.accept() {
                // Whoever breaks off is the next test's.
                let _ = runtime.block_on(answer(stream, &asked));
            }
        });
    }

    async fn answer(stream: UnixStream, asked: &Asked) -> zbus::Result<()> {
        use futures_util::StreamExt as _;
        let bus = zbus::connection::Builder::unix_stream(stream)
            .server(zbus::Guid::generate())
            .p2p()
            .build()
            .await?;
        let mut messages = zbus::MessageStream::from(&bus);
        while let Some(message) = messages.next().await {
            let message = message?;
            let header = message.header();
            let method = header.member().map(ToString::to_string).unwrap_or_default();
            if method == "Hello" {
                bus.reply(&header, &":1.7").await?;
                continue;
            }
            let note = |what: String| asked.lock().expect("asked").push(what);
            if method == "StartTransientUnit" {
                type Body<'m> = (
                    &'m str,
                    &'m str,
                    Vec<(&'m str, Variant<'m>)>,
                    Vec<(&'m str, Vec<(&'m str, Variant<'m>)>)>,
                );
                let body = message.body();
                let (name, mode, properties, _): Body<'_> = body.deserialize()?;
                let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
                note(format!("start {name} {mode} {}", names.join(" ")));
                bus.reply_error(
                    &header,
                    "org.freedesktop.DBus.Error.AccessDenied",
                    &"no scopes here",
                )
                .await?;
            } else {
                let body = message.body();
                let (name, runtime, properties): (&str, bool, Vec<(&str, Variant<'_>)>) =
                    body.deserialize()?;
                note(format!("set {name} {runtime} {}", properties.len()));
                bus.reply(&header, &()).await?;
            }
        }
        Ok(())
    }

    /// A slice of plain folders, and the one who is asked about it.
    fn double(folder: &Path) -> (Systemd, Asked) {
        let socket = folder.join("private");
        let asked = Asked::default();
        let listener = UnixListener::bind(&socket).expect("a socket");
        serve(listener, Arc::clone(&asked));
        let slice = Slice::new(folder, "exeat.slice");
        slice.create().expect("the slice");
        let systemd = Systemd {
            scopes: Scopes {
                socket,
                slice,
                keeper: ("/bin/cat".into(), &[]),
            },
            told: BTreeMap::new(),
        };
        (systemd, asked)
    }

    #[test]
    fn limits_of_a_scope_are_told_once_and_when_they_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut systemd, asked) = double(folder.path());
        let few = Limits {
            pids: Some(7),
            ..Limits::default()
        };
        systemd.limit("a", &few).expect("no scope is fine");
        assert!(asked.lock().expect("asked").is_empty());
        fs::create_dir(systemd.scopes.slice.scope("a")).expect("a scope");
        for limits in [&few, &few, &Limits::default()] {
            systemd.limit("a", limits).expect("told");
        }
        let asked = asked.lock().expect("asked");
        assert_eq!(*asked, ["set exeat:a.scope true 4"; 2]);
    }

    #[test]
    fn what_it_refuses_is_said_and_one_that_is_not_there_is_no_scope() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut systemd, asked) = double(folder.path());
        let refused = systemd.scopes().keep("a", &Limits::default());
        let why = refused.expect_err("refused").to_string();
        assert!(why.contains("no scopes here"), "{why}");
        let first = asked.lock().expect("asked")[0].clone();
        for word in ["start exeat:a.scope fail", "PIDs", "Delegate", "TasksMax"] {
            assert!(first.contains(word), "{first}");
        }
        systemd.scopes.socket = folder.path().join("gone");
        assert!(systemd.scopes().keep("a", &Limits::default()).is_err());
    }
}
