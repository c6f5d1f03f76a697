//! The answering side: the socket, its bounds, and who may ask what.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dns::DnsReport;
use super::peer::{CgroupReader, Peer, Standing, proc_cgroup};
use super::protocol::{
    BundleReport, Code, HoldReport, Holding, Lease, PortalReport, Problem, ProgramFile,
    ReloadReport, Response, RevokeReport, RunTicket,
};
use super::session::Session;
use super::status::Status;
use super::{LOCK_NAME, SOCKET_NAME};
use crate::asking::{Choice, Desk, Grant, GrantSubject, Lasts, Ruling};
use crate::sink::Hub;
use crate::store::Store;

/// What the engine answers. A call that takes longer than [`Limits::handler`] is dropped
/// where it waits, so each must leave things whole at every await.
pub trait Handler: Send + Sync + 'static {
    /// The state of everything.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// Leases of every agent, or of one ([`Code::NoAgent`] if there is none of the name).
    fn leases(
        &self,
        agent: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Lease>, Problem>> + Send;

    /// What an agent's gate would answer ([`Code::NoAgent`] if there is no such agent,
    /// [`Code::BadRequest`] for what is no name or type).
    fn dns(
        &self,
        agent: &str,
        name: &str,
        qtype: &str,
    ) -> impl Future<Output = Result<DnsReport, Problem>> + Send;

    /// Compiles the policy anew and swaps it in. The peer may administer.
    fn reload(&self, peer: &Peer) -> impl Future<Output = Result<ReloadReport, Problem>> + Send;

    /// Moves the peer into a new run of the agent, under its policy. The peer was shown not
    /// to be governed a moment ago; [`Peer::pidfd`] is the process, its number may not be.
    /// `program` is what it says that it will execute.
    fn run(
        &self,
        peer: &Peer,
        agent: &str,
        program: &[ProgramFile],
    ) -> impl Future<Output = Result<RunTicket, Problem>> + Send;

    /// Takes the bundle of a file, or goes back to the one before. The peer may administer.
    fn bundle(
        &self,
        _file: Option<&std::path::Path>,
    ) -> impl Future<Output = Result<BundleReport, Problem>> + Send {
        std::future::ready(Err(Problem::new(Code::Internal, "it takes no bundles", "")))
    }

    /// Freezes, thaws or kills an agent. The peer is root.
    fn hold(
        &self,
        agent: &str,
        how: Holding,
    ) -> impl Future<Output = Result<HoldReport, Problem>> + Send;

    /// Where questions stand.
    fn desk(&self) -> &Desk;

    /// Settles a question for whoever it is put to, and for administrators (`admin`).
    fn answer(
        &self,
        peer: &Peer,
        admin: bool,
        answer: Answer,
    ) -> impl Future<Output = Result<Grant, Problem>> + Send;

    /// Gives a grant ahead. The peer may administer.
    fn grant(
        &self,
        peer: &Peer,
        ahead: Ahead,
    ) -> impl Future<Output = Result<Grant, Problem>> + Send;

    /// The grants that hold, of every agent or of one.
    fn grants(&self, agent: Option<&str>) -> impl Future<Output = Vec<Grant>> + Send;

    /// Ends one grant, for whoever gave it and for administrators.
    fn revoke(
        &self,
        peer: &Peer,
        admin: bool,
        grant: &str,
    ) -> impl Future<Output = Result<RevokeReport, Problem>> + Send;

    /// Ends every grant and connection of an agent. The peer may administer.
    fn revoke_all(
        &self,
        peer: &Peer,
        agent: &str,
    ) -> impl Future<Output = Result<RevokeReport, Problem>> + Send;

    /// Cuts an agent off, or connects it again. The peer may administer.
    fn isolate(
        &self,
        peer: &Peer,
        agent: &str,
        on: bool,
    ) -> impl Future<Output = Result<RevokeReport, Problem>> + Send;

    /// Opens a portal, or closes it where no time is given. The peer may administer.
    fn portal(
        &self,
        peer: &Peer,
        agent: Option<String>,
        seconds: Option<u64>,
        hosts: Vec<String>,
    ) -> impl Future<Output = Result<PortalReport, Problem>> + Send;

    /// Recent flows and those to come.
    fn hub(&self) -> &Hub;

    /// The history, if one is kept.
    fn store(&self) -> Option<&Store> {
        None
    }
}

/// An answer to a question, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The question's id.
    pub question: String,
    /// The answer.
    pub choice: Choice,
    /// Through what.
    pub via: String,
    /// Why.
    pub why: Option<String>,
}

/// A grant that is to be given ahead, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// Name of the agent.
    pub agent: String,
    /// About what.
    pub subject: GrantSubject,
    /// Only this far port.
    pub port: Option<u16>,
    /// Yes or no.
    pub ruling: Ruling,
    /// For how long.
    pub lasts: Lasts,
    /// Through what.
    pub via: String,
    /// Why.
    pub why: Option<String>,
}

/// The bounds of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one user who is not root, so that none can lock out the rest.
    pub per_user: usize,
    /// How long a connection may wait with no whole request.
    pub idle: Duration,
    /// How long a reader may refuse to take a line.
    pub write: Duration,
    /// How long an answer may take to make.
    pub handler: Duration,
    /// How often a follower's standing is looked at again.
    pub recheck: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            per_user: 16,
            idle: Duration::from_secs(10),
            write: Duration::from_secs(10),
            handler: Duration::from_secs(60),
            recheck: Duration::from_secs(1),
        }
    }
}

/// Absolute counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Connections taken.
    pub accepted: u64,
    /// Requests and connections refused because the peer is, or may be, governed.
    pub governed: u64,
    /// Connections refused because there were too many.
    pub busy: u64,
    /// Connections dropped because the peer did not read.
    pub slow: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    pub(super) governed: AtomicU64,
    busy: AtomicU64,
    pub(super) slow: AtomicU64,
}

/// Reads the counts of a server, also while it serves.
#[derive(Debug, Clone)]
pub struct CountsReader(Arc<Counters>);

impl CountsReader {
    /// Absolute counts since the start.
    pub fn read(&self) -> ServerCounts {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ServerCounts {
            accepted: get(&self.0.accepted),
            governed: get(&self.0.governed),
            busy: get(&self.0.busy),
            slow: get(&self.0.slow),
        }
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another daemon holds the lock or answers at the socket.
    #[error(
        "another exeat daemon is running ({detail}): stop it first, \
         or talk to it with `exeat status`"
    )]
    Running {
        /// What showed it.
        detail: String,
    },
    /// The runtime directory is not safe to use.
    #[error(
        "{path} must be a folder of user {uid} that nobody else may write (it is {found}): \
         remove it, or set its owner and mode 0755",
        path = path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The user who must own it.
        uid: u32,
        /// What it is instead.
        found: String,
    },
    /// A call failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// In the words of `cannot … PATH`.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io { what, path, source }
}

/// The proof that no other daemon runs on this runtime directory, for as long as it lives.
/// Taken before the daemon touches anything in the kernel.
#[derive(Debug)]
pub struct DaemonLock {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl DaemonLock {
    /// Makes the runtime directory (mode 0755) if it is missing, and takes its lock.
    pub fn acquire(dir: &Path) -> Result<Self, StartError> {
        match std::fs::DirBuilder::new().mode(0o755).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("make the folder", dir)(e));
            }
            _ => {}
        }
        let meta = std::fs::symlink_metadata(dir).map_err(io_error("look at", dir))?;
        let uid = nix::unistd::geteuid().as_raw();
        if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o022 != 0 {
            return Err(StartError::Directory {
                path: dir.to_owned(),
                uid,
                found: match meta.is_dir() {
                    true => format!("of user {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777),
                    false => "no folder".to_owned(),
                },
            });
        }
        let path = dir.join(LOCK_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                let detail = format!("pid {}, it holds {}", pid.trim(), path.display());
                return Err(StartError::Running { detail });
            }
            Err((_, e)) => return Err(io_error("lock", &path)(e.into())),
        };
        let pid = format!("{}\n", std::process::id());
        let write = || {
            use std::os::unix::fs::FileExt;
            lock.set_len(0)?;
            lock.write_all_at(pid.as_bytes(), 0)
        };
        write().map_err(io_error("write", &path))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }
}

/// The control socket, ready to serve.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    rules: Arc<Rules>,
}

/// What every session needs to decide.
pub(super) struct Rules {
    pub(super) slice: String,
    pub(super) admin_gid: Option<u32>,
    pub(super) cgroup: CgroupReader,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
}

impl Rules {
    /// Refuses a peer that is governed or may be, whatever its uid.
    pub(super) fn admit(&self, peer: &Peer) -> Result<(), Problem> {
        let why = match peer.standing(&self.slice, &self.cgroup) {
            Standing::Outside => return Ok(()),
            Standing::Governed => format!("process {} is governed by Exeat", peer.pid()),
            Standing::Unknown(why) => format!(
                "process {} cannot be shown not to be governed by Exeat ({why})",
                peer.pid()
            ),
        };
        Err(self.governed(why))
    }

    pub(super) fn governed(&self, why: impl std::fmt::Display) -> Problem {
        self.counters.governed.fetch_add(1, Ordering::Relaxed);
        Problem::new(
            Code::Governed,
            format!("the daemon does not talk to governed programs: {why}"),
            "ask from a shell outside of `exeat run`",
        )
    }
}

impl Server {
    /// Makes the socket in the lock's directory, for every local user to connect. Call it
    /// within a tokio runtime. `admin_gid` is the group that may administer beside root.
    pub fn bind(
        lock: &DaemonLock,
        slice: &str,
        admin_gid: Option<u32>,
    ) -> Result<Self, StartError> {
        Self::bind_with(lock, slice, admin_gid, proc_cgroup(), Limits::default())
    }

    /// [`Server::bind`] with other bounds and another view of `/proc`.
    pub fn bind_with(
        lock: &DaemonLock,
        slice: &str,
        admin_gid: Option<u32>,
        cgroup: CgroupReader,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let path = lock.dir.join(SOCKET_NAME);
        // The lock says that no daemon of this version lives; what answers is something else.
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let detail = format!("something answers at {}", path.display());
            return Err(StartError::Running { detail });
        }
        // Made under another name and moved over, so that clients find the old socket or the
        // new one, with its mode, and never a moment without.
        let temporary = lock.dir.join(format!(".{SOCKET_NAME}.new"));
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &temporary)(e));
            }
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&temporary)
            .map_err(io_error("make the socket", &temporary))?;
        // Accepted sockets inherit it before their first byte can arrive: every message then
        // says which process wrote it.
        setsockopt(&listener, sockopt::PassCred, &true)
            .map_err(|e| io_error("ask for credentials on", &temporary)(e.into()))?;
        let mode = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&temporary, mode)
            .map_err(io_error("set the mode of", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(io_error("put in place", &path))?;
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(io_error("listen at", &path))?;
        Ok(Self {
            listener,
            path,
            rules: Arc::new(Rules {
                slice: slice.to_owned(),
                admin_gid,
                cgroup,
                limits,
                counters: Arc::default(),
            }),
        })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The counts, to be read while [`Server::serve`] runs.
    pub fn counts(&self) -> CountsReader {
        CountsReader(Arc::clone(&self.rules.counters))
    }

    /// Serves until cancelled, then removes the socket and ends every connection.
    pub async fn serve<H: Handler>(self, handler: Arc<H>, cancel: CancellationToken) {
        let mut sessions = JoinSet::new();
        let mut users: HashMap<tokio::task::Id, u32> = HashMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(ended) = sessions.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(e) => {
                            tracing::error!(error = %e, "a control session failed");
                            e.id()
                        }
                    };
                    users.remove(&id);
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let Some(peer) = self.admit(&stream, &users) else { continue };
                        let uid = peer.uid();
                        let session = Session::new(stream, peer, Arc::clone(&self.rules));
                        let run = session.run(Arc::clone(&handler), cancel.clone());
                        users.insert(sessions.spawn(run).id(), uid);
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot accept a control connection");
                        // Out of descriptors: without a pause this would spin.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.listener);
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "cannot remove the control socket");
        }
        while sessions.join_next().await.is_some() {}
    }

    /// Looks at a new connection before it costs anything. `None` if it was turned away.
    fn admit(&self, stream: &UnixStream, users: &HashMap<tokio::task::Id, u32>) -> Option<Peer> {
        let rules = &self.rules;
        let peer = match Peer::of(stream) {
            Ok(peer) => peer,
            Err(e) => {
                turn_away(
                    stream,
                    rules.governed(format_args!("who asks is not known ({e})")),
                );
                return None;
            }
        };
        if let Err(problem) = rules.admit(&peer) {
            turn_away(stream, problem);
            return None;
        }
        let same = users.values().filter(|uid| **uid == peer.uid()).count();
        let mine_full = peer.uid() != 0 && same >= rules.limits.per_user;
        if mine_full || users.len() >= rules.limits.connections {
            rules.counters.busy.fetch_add(1, Ordering::Relaxed);
            let whose = if mine_full {
                "this user has"
            } else {
                "there are"
            };
            let message = format!("{whose} too many connections to the daemon");
            let help = "end some `exeat events --follow`, or try again in a moment";
            turn_away(stream, Problem::new(Code::Busy, message, help));
            return None;
        }
        rules.counters.accepted.fetch_add(1, Ordering::Relaxed);
        Some(peer)
    }
}

/// Says why, as far as the socket takes it at once, and lets go.
fn turn_away(stream: &UnixStream, problem: Problem) {
    if let Ok(mut line) = serde_json::to_vec(&Response::Error(problem)) {
        line.push(b'\n');
        let _ = stream.try_write(&line);
    }
}
