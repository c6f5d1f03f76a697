//! Which program a run is: judged before the process is moved, and held to it until it has
//! executed it ([`super::arrest`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use agent_common::layout::Mode;
use nix::errno::Errno;
use tokio::sync::Semaphore;

use super::{
    Shared,
    arrest::{Expected, Hold, Joined, Mismatch},
    engine::Engine,
};
use crate::{
    control::{
        Peer,
        protocol::{Code, Problem, ProgramFile, RunTicket},
    },
    identity::{self, Judged, Verdict, script},
    incident::{Incident, IncidentKind},
    policy::Identity,
};

/// Files of one command: scripts of scripts, as many as the kernel follows, and what `env`
/// starts.
const MOST_FILES: usize = 16;
/// Programs that are read at once: whoever asks for many large ones waits.
static READING: Semaphore = Semaphore::const_new(2);

/// A program that may be started.
pub(super) struct Admitted {
    programs: Vec<Judged>,
    warnings: Vec<String>,
    hold: Option<Hold>,
}

impl Admitted {
    /// The process is in its run: it may execute the program and nothing else.
    pub(super) fn join(self, shared: &Shared, ticket: &mut RunTicket) {
        ticket.warnings.extend(self.warnings);
        let key = (ticket.agent.clone(), ticket.run.clone());
        for program in &self.programs {
            tracing::info!(agent = key.0, run = key.1, %program, "identified");
        }
        shared.with(|engine| engine.programs.insert(key, self.programs));
        if let Some(hold) = self.hold {
            hold.join(Joined {
                run: ticket.run.clone(),
                cgroup: ticket.cgroup.clone(),
            });
        }
    }
}

impl Engine {
    /// What the policy of an agent asks of its programs, and whether they are refused.
    fn identity(&self, agent: &str) -> Option<(Identity, Mode)> {
        let policy = &self.agents.get(agent)?.policy;
        let identity = policy.identity.says_something();
        identity.then(|| (policy.identity.clone(), policy.mode))
    }

    /// Forgets the programs of runs that are gone.
    pub(super) fn forget_programs(&mut self) {
        let slice = self.kernel.slice().clone();
        self.programs
            .retain(|(agent, run), _| slice.folder(agent).join(run).exists());
    }
}

/// Judges the program of a run. `None`: the policy asks nothing of it.
///
/// # Errors
/// Where it is not one that the policy identifies, cannot be read, or cannot be held.
pub(super) async fn admit(
    shared: &Arc<Shared>,
    peer: &Peer,
    agent: &str,
    program: &[ProgramFile],
) -> Result<Option<Admitted>, Problem> {
    let Some((identity, mode)) = shared.with(|engine| engine.identity(agent)) else {
        return Ok(None);
    };
    let (pid, uid) = (peer.pid(), peer.uid());
    let files = open(peer.pidfd(), program);
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let judgement = async {
        let _turn = READING.acquire().await;
        tokio::task::spawn_blocking(move || judge_all(&identity, files, &root)).await
    };
    let judged = judgement
        .await
        .unwrap_or_else(|error| Err(error.to_string()));
    if !peer.is_alive() {
        let text = "the process ended while its program was being read";
        return Err(Problem::new(Code::Internal, text, ""));
    }
    let (expected, programs) = match judged {
        Ok(found) => found,
        Err(why) if mode == Mode::Monitor => {
            mismatch(
                shared,
                agent,
                (pid, Some(uid)),
                None,
                &format!("{why}; it was started, in monitor mode"),
            );
            return Ok(Some(Admitted {
                programs: Vec::new(),
                warnings: vec![why],
                hold: None,
            }));
        }
        Err(why) => {
            mismatch(
                shared,
                agent,
                (pid, Some(uid)),
                None,
                &format!("{why}; it was not started"),
            );
            return Err(Problem::new(
                Code::Identity,
                why,
                "if it is the right one, `exeat identify FILE` says what the `identity:` of the agent's policy would have to say",
            ));
        }
    };
    let warnings = expected
        .windows(2)
        .filter(|pair| !pair[0].starts)
        .filter_map(|pair| exposed(&pair[0]))
        .collect();
    let hold = match mode {
        Mode::Monitor => None,
        Mode::Enforce => Some(hold(shared, agent, pid, uid, expected).map_err(|error| {
            Problem::new(
                Code::NotEnforceable,
                format!("the process cannot be held to its program: {error}"),
                "it must not be traced by another (strace, a debugger), and kernel.yama.ptrace_scope must be below 3",
            )
        })?),
    };
    Ok(Some(Admitted {
        programs,
        warnings,
        hold,
    }))
}

fn hold(
    shared: &Arc<Shared>,
    agent: &str,
    pid: u32,
    uid: u32,
    expected: Vec<Expected>,
) -> io::Result<Hold> {
    let (weak, agent) = (Arc::downgrade(shared), agent.to_owned());
    let told = move |found: Mismatch| {
        if let Some(shared) = weak.upgrade() {
            let pid = if found.pid == 0 { pid } else { found.pid };
            let what = format!("{}; the run was killed", found.what);
            mismatch(
                &shared,
                &agent,
                (pid, Some(uid)),
                Some(found.joined.run),
                &what,
            );
        }
    };
    tokio::task::block_in_place(|| Hold::start(pid, expected, told))
}

fn mismatch(
    shared: &Shared,
    agent: &str,
    (pid, uid): (u32, Option<u32>),
    run: Option<String>,
    what: &str,
) {
    let incident = Incident::new(IncidentKind::IdentityMismatch, agent, what);
    let mut incident = incident.of_process(pid, uid);
    incident.run = run;
    shared.hub.incident(incident);
}

/// The files that the process has open by these descriptors. They are the process's own, so
/// nothing is read that its user may not read.
fn open(process: BorrowedFd<'_>, program: &[ProgramFile]) -> Result<Vec<(File, bool)>, String> {
    if program.len() > MOST_FILES {
        return Err("the command comes to too many files".to_owned());
    }
    let take = |part: &ProgramFile| {
        take(process, part.fd)
            .map(|file| (file, part.starts))
            .map_err(|error| format!("the file of the command cannot be taken over ({error})"))
    };
    match program.last() {
        Some(last) if last.starts => program.iter().map(take).collect(),
        _ => Err("the file of the command could not be opened for reading, so it cannot be shown to be what the policy identifies".to_owned()),
    }
}

fn take(process: BorrowedFd<'_>, fd: i32) -> io::Result<File> {
    let (process, flags) = (process.as_raw_fd(), 0_u32);
    // SAFETY: pidfd_getfd takes three integers and touches no memory of ours.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, fd, flags) };
    let taken = i32::try_from(Errno::result(taken)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(taken) }.into())
}

type Found = (Vec<Expected>, Vec<Judged>);

fn judge_all(
    identity: &Identity,
    files: Result<Vec<(File, bool)>, String>,
    root: &std::path::Path,
) -> Result<Found, String> {
    let mut found = Found::default();
    for (file, starts) in files? {
        let path = script::path_of(&file).map_err(|error| error.to_string())?;
        match identity::judge(identity, &file, &path, root) {
            Verdict::Refused(refused) => return Err(refused.to_string()),
            Verdict::Accepted(judged) => {
                found.0.push(Expected {
                    path: judged.path.clone(),
                    sha256: judged.sha256,
                    starts,
                });
                found.1.push(judged);
            }
        }
    }
    Ok(found)
}

/// A script that may be changed or replaced after its interpreter was started and before it
/// is read.
fn exposed(script: &Expected) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let others = |path: &std::path::Path| {
        // Folders that everybody may write let only owners replace what is in them.
        std::fs::symlink_metadata(path).is_ok_and(|found| {
            found.uid() != 0 || (found.mode() & 0o022 != 0 && found.mode() & libc::S_ISVTX == 0)
        })
    };
    script.path.ancestors().any(others).then(|| {
        format!(
            "{} is a script that others than root may change: it was checked when its interpreter was started, and the interpreter reads it after that",
            script.path.display()
        )
    })
}
