//! Whether a click can be believed: whether a governed program could be behind it.
//!
//! Two ways lead there. The notification server, or the bus itself, may be such a program: then
//! it invents clicks. Or such a program reaches the screen or the session bus of the user: then
//! it makes them. Who is governed the daemon knows.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::control::peer::{Process, proc_cgroup};
use crate::control::status::AgentStatus;
use crate::control::{CgroupReader, Client, ClientError, Request, Response, Standing, Status};
use crate::kernel::cgroup::cgroup2_root;

/// Who is governed now.
pub(super) struct Governed {
    slice: String,
    read: CgroupReader,
    agents: Vec<AgentStatus>,
}

impl Governed {
    /// Asks the daemon. It blocks.
    pub(super) fn ask(socket: &Path) -> Result<Self, ClientError> {
        match Client::connect(socket)?.ask(&Request::Status {})? {
            Response::Status(status) => Ok(Self::of(*status)),
            _ => Err(ClientError::Protocol("no status".into())),
        }
    }

    pub(super) fn of(status: Status) -> Self {
        let adopted = status.agents.iter().flat_map(|agent| &agent.adopted);
        let adopted: BTreeSet<PathBuf> = adopted
            .filter(|one| one.run.is_none())
            .map(|one| one.what.clone())
            .collect();
        let slice = status.daemon.slice;
        Self {
            read: reader(slice.clone(), adopted),
            slice,
            agents: status.agents,
        }
    }

    /// Why nothing that this process says counts; none where it is governed by nobody.
    pub(super) fn distrust(&self, process: &Process) -> Option<String> {
        match process.standing(&self.slice, &self.read) {
            Standing::Outside => None,
            Standing::Governed => Some("it is governed by Exeat itself".to_owned()),
            Standing::Unknown(why) => Some(format!("who it is cannot be shown ({why})")),
        }
    }

    /// Why a click may be a program's and not a person's: the agents that run and could make
    /// one.
    pub(super) fn clickers(&self) -> Option<String> {
        let mut all = self.agents.iter().filter_map(clicks);
        let first = all.next()?;
        Some(match all.count() {
            0 => format!("{first} could click by itself"),
            more => format!("{first} and {more} more could click by themselves"),
        })
    }
}

fn clicks(agent: &AgentStatus) -> Option<String> {
    if agent.adopted.iter().any(|one| one.processes > 0) {
        return Some(format!("{} (it was adopted)", agent.name));
    }
    let runs = agent.runs.iter().any(|run| run.processes > 0);
    let why = agent.clicks.as_ref().filter(|_| runs)?;
    Some(format!("{} ({why})", agent.name))
}

/// The cgroup of a process; one below an adopted one reads as the slice's.
fn reader(slice: String, adopted: BTreeSet<PathBuf>) -> CgroupReader {
    let read = proc_cgroup();
    let root = cgroup2_root();
    Arc::new(move |pid| {
        let text = read(pid)?;
        if adopted.is_empty() {
            return Ok(text);
        }
        let root = root
            .as_ref()
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        let below = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let whole = below.map(|below| root.join(below));
        let governed = whole.is_some_and(|path| path.ancestors().any(|a| adopted.contains(a)));
        Ok(match governed {
            true => format!("0::/{slice}\n"),
            false => text,
        })
    })
}

/// The process of a connection, held so that its number cannot become another's.
pub(super) fn hold(pid: Option<u32>, pidfd: Option<OwnedFd>) -> std::io::Result<Process> {
    match (pidfd, pid) {
        (Some(fd), _) => Process::of(fd),
        (None, Some(pid)) => Process::numbered(pid),
        (None, None) => Err(std::io::Error::other("the bus does not say whose it is")),
    }
}
