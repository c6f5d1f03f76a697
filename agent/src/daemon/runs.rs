//! Runs: a process is moved into a cgroup of its agent, and cgroups that hold nothing any
//! more are collected.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
};

use agent_common::layout::Mode;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{error, info, warn};

use super::{Shared, engine::Engine};
use crate::{
    control::protocol::{Code, Problem, RunTicket},
    dns::clock,
    error::chain,
    kernel::{
        KernelError,
        cgroup::{self, RunCgroup},
        links::{ATTACHMENTS, LinkState, Place},
        walls::{LsmWall, Standing},
    },
    policy::{Sandbox, Services, mode_str},
    systemd::Keeper,
};

/// How often a scope is begun anew that ends at the same moment.
const ATTEMPTS: usize = 3;

/// Whether a cgroup was removed meanwhile.
fn is_gone(error: &KernelError) -> bool {
    match error {
        KernelError::Path { source, .. } => {
            source.kind() == std::io::ErrorKind::NotFound
                || source.raw_os_error() == Some(libc::ENODEV)
        }
        _ => false,
    }
}

/// A process that is to be moved: its number, and the descriptor that proves that the
/// number is still its own.
pub(super) struct Candidate<'a> {
    pub(super) pid: u32,
    pub(super) pidfd: BorrowedFd<'a>,
}

impl Candidate<'_> {
    /// A pidfd becomes readable when its process ends (pidfd_open(2)).
    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// A wall that should be up and is not.
pub(super) fn fallen(engine: &Engine) -> Vec<String> {
    let slice = cgroup::id(engine.kernel.slice().path()).unwrap_or(0);
    let root = cgroup::id(engine.kernel.slice().root()).unwrap_or(0);
    engine
        .kernel
        .hooks()
        .into_iter()
        .zip(ATTACHMENTS)
        .filter_map(|((hook, state), attachment)| {
            let wanted = match attachment.place {
                Place::Root => root,
                Place::Slice => slice,
            };
            match state {
                LinkState::Up { cgroup, .. } if cgroup == wanted => None,
                LinkState::Up { .. } => Some(format!("{hook} is attached to another cgroup")),
                LinkState::Dead => Some(format!("{hook} is detached: its cgroup was removed")),
                LinkState::Missing => Some(format!("{hook} is not attached")),
            }
        })
        .chain(engine.kernel.walls().into_iter().filter_map(fallen_wall))
        .collect()
}

fn fallen_wall((wall, standing): (&LsmWall, Standing)) -> Option<String> {
    match standing {
        Standing::Failed(why) => Some(format!("{}: {why}", wall.name)),
        Standing::Up | Standing::Missing(_) => None,
    }
}

impl Shared {
    /// Where systemd runs, has it make the agent's cgroup, as a scope's, and keeps it there until
    /// what this gives is dropped: to be had before a process joins. What cannot be done so is
    /// done without: an agent is governed by its cgroup, whoever made it. Blocks, without the
    /// engine's lock.
    pub(super) fn keep_scope(&self, name: &str) -> Option<Keeper> {
        let (scopes, limits) = self.with(|engine| {
            let systemd = engine.systemd.as_ref()?;
            // One without a scope goes on to be used.
            let plain = engine.kernel.slice().path().join(name).is_dir();
            (engine.agents.contains_key(name) && !plain)
                .then(|| (systemd.scopes(), engine.limits_of(name)))
        })?;
        scopes
            .keep(name, &limits)
            .inspect_err(|error| {
                warn!(
                    agent = name,
                    error = chain(error),
                    "systemd makes no scope; the agent has a cgroup without one"
                );
            })
            .ok()
    }
}

impl Engine {
    /// Moves a process into a new run of an agent. It may execute once this has returned.
    pub(super) fn run(
        &mut self,
        process: &Candidate<'_>,
        name: &str,
    ) -> Result<RunTicket, Problem> {
        let Some(agent) = self.agents.get(name) else {
            let known: Vec<&str> = self.agents.keys().map(String::as_str).collect();
            let help = if known.is_empty() {
                "no policy is loaded: see `exeat status`".to_owned()
            } else {
                format!("agents with a policy: {}", known.join(", "))
            };
            return Err(Problem::new(
                Code::NoAgent,
                format!("there is no policy for an agent `{}`", name.escape_debug()),
                help,
            ));
        };
        let (index, mode, generation) = (agent.index, agent.policy.mode, agent.generation);
        if let Some(problem) = self.held_back(name, index) {
            return Err(problem);
        }
        let services = match mode {
            Mode::Enforce => agent.policy.services.clone(),
            // It changes nothing for the program.
            Mode::Monitor => Services::All,
        };
        let sandbox = match mode {
            Mode::Enforce if self.sandbox => agent.policy.sandbox.clone(),
            Mode::Enforce | Mode::Monitor => Sandbox::None,
        };
        let proxies = self.gateways.proxies(index, &agent.policy.gateway);
        let inspects = agent.policy.inspects();
        let authorities = inspects.then(|| self.trust.bundle().to_owned());
        let fallen = fallen(self);
        if !fallen.is_empty() {
            return Err(Problem::new(
                Code::NotEnforceable,
                format!("the policy cannot be enforced: {}", fallen.join("; ")),
                "see `exeat status` and `sudo exeat doctor`",
            ));
        }
        let open_files = match mode {
            Mode::Enforce => agent.policy.limits.open_files,
            Mode::Monitor => None,
        };
        let policy = std::sync::Arc::clone(&agent.policy);
        self.check_required(name, &policy, process.pid)?;
        let run = self.join(process, name, index).map_err(|error| {
            Problem::new(
                Code::NotEnforceable,
                format!("the process could not be confined: {}", chain(&error)),
                "see `sudo exeat doctor`",
            )
        })?;
        if !process.is_alive() {
            // What was moved may be another process with the same number: it stays where it is,
            // confined, because nothing that was moved in is ever moved out.
            return Err(Problem::new(
                Code::Internal,
                "the process ended while it was being confined",
                "",
            ));
        }
        info!(agent = name, pid = process.pid, cgroup = %run.path.display(), "run");
        Ok(RunTicket {
            agent: name.to_owned(),
            run: run
                .path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            cgroup: run.path,
            mode: mode_str(mode).to_owned(),
            generation,
            services,
            sandbox,
            warnings: self
                .unmet
                .get(name)
                .into_iter()
                .flatten()
                .map(|unmet| format!("a limit of agent {name} does not hold: {unmet}"))
                .collect(),
            open_files,
            authorities,
            proxies,
        })
    }

    /// The maps know the agent's cgroup before a process is in it.
    pub(super) fn join(
        &mut self,
        process: &Candidate<'_>,
        name: &str,
        index: u32,
    ) -> Result<RunCgroup, KernelError> {
        // A run that has ended takes what was granted to it along, before its name is used anew.
        self.tend_grants(clock::now());
        for _ in 0..ATTEMPTS {
            match self.place(process, name, index) {
                // systemd has just ended the scope, whose last process is gone.
                Err(error) if self.systemd.is_some() && is_gone(&error) && process.is_alive() => {}
                other => return other,
            }
        }
        self.place(process, name, index)
    }

    fn place(
        &mut self,
        process: &Candidate<'_>,
        name: &str,
        index: u32,
    ) -> Result<RunCgroup, KernelError> {
        let run = self.kernel.slice().create_run(name)?;
        self.apply_limits(name);
        if self.admitted.get(name) != Some(&run.agent_id) {
            if let Some(old) = self.admitted.insert(name.to_owned(), run.agent_id) {
                self.kernel.forget(old)?;
            }
            self.kernel.admit(run.agent_id, index)?;
        }
        let id = cgroup::id(&run.path)?;
        self.kernel.admit_run(id, index)?;
        self.clock_in(id, clock::now());
        self.kernel.begin_run(id)?;
        cgroup::move_process(&run.path, process.pid)?;
        Ok(run)
    }

    /// Removes cgroups without a process; true if none is left.
    pub(super) fn collect(&mut self) -> bool {
        let names: Vec<String> = self.admitted.keys().cloned().collect();
        for name in names {
            match self.kernel.slice().collect(&name) {
                Ok(true) => {
                    if let Some(id) = self.admitted.remove(&name)
                        && let Err(error) = self.kernel.forget(id)
                    {
                        warn!(
                            agent = name,
                            error = chain(&error),
                            "the maps still know a cgroup that is gone"
                        );
                    }
                    if !self.adoption.has(&name) {
                        self.retired.remove(&name);
                    }
                    self.adoption.forget_runs_of(&name);
                }
                Ok(false) => {}
                Err(error) => {
                    warn!(
                        agent = name,
                        error = chain(&error),
                        "a cgroup could not be collected"
                    );
                }
            }
        }
        self.forget_programs();
        if let Err(error) = self.forget_runs() {
            warn!(
                error = chain(&error),
                "the maps still know runs that are gone"
            );
        }
        self.admitted.is_empty()
    }

    fn forget_runs(&mut self) -> Result<(), KernelError> {
        let mut live = HashSet::new();
        for name in self.admitted.keys() {
            live.extend(self.kernel.slice().runs(name)?);
        }
        self.kernel.keep_runs(&live)
    }

    /// Puts a wall that fell back up, and says so.
    pub(super) fn mend(&mut self) {
        let fallen = fallen(self);
        if fallen.is_empty() {
            return;
        }
        error!(
            walls = fallen.join("; "),
            "enforcement was taken down from outside; putting it back"
        );
        if let Err(error) = self.kernel.enforce() {
            error!(error = chain(&error), "enforcement could not be put back");
        }
    }
}
