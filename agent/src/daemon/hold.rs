//! Freeze, thaw and kill: an agent is cut off from the network first, and then stopped or
//! ended.
//!
//! ```text
//! kernel refuses every flow ─► its gateway's connections end ─► written down ─► cgroup.freeze
//! ```
//!
//! What is frozen is kept by name in the state folder, so that it holds over a restart, a
//! reload and a reboot; that an agent is cut off is also in the pinned maps, and needs no
//! daemon.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::{
    Shared,
    engine::{Engine, EngineError},
};
use crate::{
    control::{
        Problem,
        protocol::{Code, HoldReport, Holding},
    },
    dns::clock,
    error::chain,
    incident::{Incident, IncidentKind},
    kernel::{KernelError, cgroup},
};

/// How long a cgroup may take to stop, or to be empty.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// An agent that was cut off, or let go on.
struct Cut {
    cgroups: Vec<PathBuf>,
    /// It was so already.
    already: bool,
    warnings: Vec<String>,
}

fn internal(agent: &str, what: &str, error: &EngineError) -> Problem {
    Problem::new(
        Code::Internal,
        format!("agent {agent}: {what}: {}", chain(error)),
        "see `exeat status`, then try again",
    )
}

impl Engine {
    /// The index of an agent that there is something of.
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        let agent = self.agents.get(name).map(|agent| agent.index);
        agent.or_else(|| self.retired.get(name).copied())
    }

    pub(super) fn no_agent(&self, name: &str) -> Problem {
        let known: Vec<&str> = self.agents.keys().map(String::as_str).collect();
        let help = match known.is_empty() {
            true => "no policy is loaded: see `exeat status`".to_owned(),
            false => format!("agents with a policy: {}", known.join(", ")),
        };
        let text = format!("there is no agent `{}`", name.escape_debug());
        Problem::new(Code::NoAgent, text, help)
    }

    /// Why an agent may not start anything now.
    pub(super) fn held_back(&self, name: &str, index: u32) -> Option<Problem> {
        if let Some(since) = self.held.get(name) {
            return Some(Problem::new(
                Code::Frozen,
                format!("agent {name} is frozen since {since}: nothing of it is started"),
                format!("let it go on with `sudo exeat thaw --agent {name}`"),
            ));
        }
        // One that a person isolated may start: nothing of it reaches the network.
        let killed = self.kernel.is_isolated(index) && !self.asking.isolated.contains_key(name);
        killed.then(|| {
            Problem::new(
                Code::Frozen,
                format!("agent {name} is being killed: nothing of it is started"),
                "try again in a moment",
            )
        })
    }

    fn save_held(&self, warnings: &mut Vec<String>) {
        if let Err(error) = self.keeper.save_held(&self.held) {
            warn!(%error, "what is frozen could not be written down");
            warnings.push(format!(
                "it could not be written down ({error}), so it does not hold over a reboot"
            ));
        }
    }

    /// From here on every flow of the agent is refused, and nothing that its gateway has taken
    /// goes on. `keep`: until it is thawed.
    fn cut_off(&mut self, name: &str, keep: bool) -> Result<Cut, Problem> {
        let index = self.index_of(name).ok_or_else(|| self.no_agent(name))?;
        let already = self.held.contains_key(name);
        self.kernel
            .isolate(index, true)
            .map_err(|error| internal(name, "it could not be cut off", &error.into()))?;
        self.gateways.close(index);
        let mut warnings = Vec::new();
        if keep && !already {
            self.held.insert(name.to_owned(), Timestamp::now());
            self.save_held(&mut warnings);
        }
        Ok(Cut {
            cgroups: self.cgroups_of(name),
            already,
            warnings,
        })
    }

    /// From here on the agent's policy is in force again.
    fn let_on(&mut self, name: &str) -> Result<Cut, Problem> {
        let index = self.index_of(name);
        let already = !self.held.contains_key(name);
        if already && index.is_none() {
            return Err(self.no_agent(name));
        }
        let mut warnings = Vec::new();
        if self.held.remove(name).is_some() {
            self.save_held(&mut warnings);
        }
        if let Some(index) = index
            && !already
        {
            let cut = self.stays_cut(name);
            self.renew(name, clock::now())
                .and_then(|()| Ok(self.kernel.isolate(index, cut)?))
                .map_err(|error| internal(name, "it is still cut off", &error))?;
        }
        Ok(Cut {
            cgroups: self.cgroups_of(name),
            already,
            warnings,
        })
    }

    /// Puts an agent's policy in force under a new number, so that no verdict that a socket
    /// carries holds any more, and opens its gateway again.
    pub(super) fn renew(&mut self, name: &str, now: Duration) -> Result<(), EngineError> {
        let Some(agent) = self.agents.get(name) else {
            return Ok(());
        };
        let policy = std::sync::Arc::clone(&agent.policy);
        self.put_policy(name, policy, now)
    }

    /// What was killed is gone: its cgroup goes too, so that what its sockets still hold finds
    /// no agent any more, and then it may be started anew.
    fn after_kill(&mut self, name: &str) -> Result<bool, Problem> {
        let index = self.index_of(name);
        self.collect();
        if self.admitted.contains_key(name) {
            return Ok(false);
        }
        if let Some(index) = index
            && !self.stays_cut(name)
        {
            self.renew(name, clock::now())
                .and_then(|()| Ok(self.kernel.isolate(index, false)?))
                .map_err(|error| internal(name, "it is still cut off", &error))?;
        }
        Ok(true)
    }

    /// At the start: what is written down as frozen is so, and what the maps have as cut off is
    /// frozen too, should what was written down be lost or a kill have been broken off.
    pub(super) fn hold_again(&mut self) -> Result<(), KernelError> {
        let known: Vec<(String, u32)> = self
            .retired
            .iter()
            .map(|(name, index)| (name.clone(), *index))
            .collect();
        let mut kept = self.kernel.isolated();
        for (name, index) in known {
            let isolated = self.asking.isolated.contains_key(&name);
            if isolated {
                self.kernel.isolate(index, true)?;
            }
            if kept.remove(&index) && !isolated && !self.held.contains_key(&name) {
                self.held.insert(name.clone(), Timestamp::now());
                self.save_held(&mut Vec::new());
            }
            if self.held.contains_key(&name) {
                self.kernel.isolate(index, true)?;
                let path = self.kernel.slice().folder(&name);
                if let Err(error) = cgroup::freeze(&path, true) {
                    error!(
                        agent = name,
                        error = chain(&error),
                        "a frozen agent is cut off, but may run"
                    );
                }
            }
        }
        // Nothing of these runs.
        let last = &self.last.agents;
        let held = |index: &u32| {
            let mut agents = last.iter().filter(|(_, agent)| agent.index == *index);
            agents.any(|(name, _)| self.stays_cut(name))
        };
        let free: Vec<u32> = kept.into_iter().filter(|index| !held(index)).collect();
        for index in free {
            self.kernel.isolate(index, false)?;
        }
        Ok(())
    }
}

async fn until(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    }
}

/// Number of processes in all of an agent's cgroups.
fn processes_of(paths: &[PathBuf]) -> usize {
    paths.iter().map(|path| cgroup::processes_of(path)).sum()
}

fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Cuts an agent off and stops it.
pub(super) async fn freeze(shared: &Shared, name: &str) -> Result<HoldReport, Problem> {
    let cut = shared.with(|engine| engine.cut_off(name, true))?;
    let mut warnings = cut.warnings;
    let paths = cut.cgroups;
    let begun = blocking(|| paths.iter().try_for_each(|path| cgroup::freeze(path, true)));
    let confirmed = match begun {
        Err(error) => {
            warnings.push(chain(&error));
            false
        }
        Ok(()) => until(|| paths.iter().all(|path| cgroup::is_frozen(path))).await,
    };
    let processes = blocking(|| processes_of(&paths));
    let count = counted(processes);
    let message = match (confirmed, processes) {
        (true, 0) => format!(
            "agent {name} is frozen: it is cut off from the network, and nothing of it runs"
        ),
        (true, _) => {
            format!("agent {name} is frozen: cut off from the network, then {count} stopped")
        }
        (false, _) => format!(
            "agent {name} is cut off from the network, but not all of its {count} have stopped"
        ),
    };
    if !cut.already || !confirmed {
        shared
            .hub
            .incident(Incident::new(IncidentKind::Frozen, name, message.clone()));
    }
    Ok(HoldReport {
        agent: name.to_owned(),
        did: Holding::Frozen,
        changed: !cut.already,
        confirmed,
        frozen: true,
        processes: processes as u32,
        message,
        next: match confirmed {
            true => format!(
                "let it go on with `sudo exeat thaw --agent {name}`, or end it with `sudo exeat kill --agent {name}`; until then it starts nothing, after a reboot too"
            ),
            false => format!(
                "a process that the kernel is busy with stops later: look with `exeat status`, or end it with `sudo exeat kill --agent {name}`"
            ),
        },
        warnings,
    })
}

/// Lets an agent go on.
pub(super) async fn thaw(shared: &Shared, name: &str) -> Result<HoldReport, Problem> {
    let cut = shared.with(|engine| engine.let_on(name))?;
    let mut warnings = cut.warnings;
    let paths = cut.cgroups;
    let begun = blocking(|| {
        paths
            .iter()
            .try_for_each(|path| cgroup::freeze(path, false))
    });
    let confirmed = match begun {
        Err(error) => {
            warnings.push(chain(&error));
            false
        }
        Ok(()) => {
            until(|| {
                let goes_on = |path: &PathBuf| !path.exists() || !cgroup::is_frozen(path);
                paths.iter().all(goes_on)
            })
            .await
        }
    };
    let processes = blocking(|| processes_of(&paths));
    let count = counted(processes);
    let message = match (cut.already, confirmed) {
        (true, true) => format!("agent {name} was not frozen"),
        (false, true) => {
            format!("agent {name} goes on: its policy is in force again, and {count} run")
        }
        (_, false) => format!(
            "agent {name} may reach what its policy says again, but its {count} could not be let go on"
        ),
    };
    if !cut.already {
        shared
            .hub
            .incident(Incident::new(IncidentKind::Thawed, name, message.clone()));
    }
    Ok(HoldReport {
        agent: name.to_owned(),
        did: Holding::Thawed,
        changed: !cut.already,
        confirmed,
        frozen: false,
        processes: processes as u32,
        message,
        next: match confirmed {
            true => String::new(),
            false => {
                format!("see the daemon's log, or end it with `sudo exeat kill --agent {name}`")
            }
        },
        warnings,
    })
}

/// Cuts an agent off and ends everything that it runs.
pub(super) async fn kill(shared: &Shared, name: &str) -> Result<HoldReport, Problem> {
    let cut = shared.with(|engine| engine.cut_off(name, false))?;
    let mut warnings = cut.warnings;
    let paths = cut.cgroups;
    let processes = blocking(|| processes_of(&paths));
    let mut said = None;
    // Before 5.14 one that forks meanwhile needs another call.
    let empty = until(|| {
        if let Err(error) = blocking(|| paths.iter().try_for_each(|path| cgroup::kill(path))) {
            said = Some(chain(&error));
        }
        !paths.iter().any(|path| cgroup::is_populated(path))
    })
    .await;
    warnings.extend(said.filter(|_| !empty));
    let mut gone = false;
    if empty {
        let end = Instant::now() + PATIENCE;
        while !gone && Instant::now() < end {
            gone = shared.with(|engine| engine.after_kill(name))?;
            if !gone {
                sleep(LOOK).await;
            }
        }
    }
    let mut frozen = cut.already;
    if !gone {
        // It stays cut off until somebody says otherwise.
        warnings.extend(shared.with(|engine| engine.cut_off(name, true))?.warnings);
        frozen = true;
    }
    let left = blocking(|| processes_of(&paths));
    let message = match gone {
        true => format!(
            "agent {name} was killed: cut off from the network, then {} ended",
            counted(processes)
        ),
        false => format!(
            "agent {name} is cut off from the network, but {} of it cannot be ended",
            counted(left)
        ),
    };
    shared
        .hub
        .incident(Incident::new(IncidentKind::Killed, name, message.clone()));
    Ok(HoldReport {
        agent: name.to_owned(),
        did: Holding::Killed,
        changed: true,
        confirmed: gone,
        frozen,
        processes: match gone {
            true => processes as u32,
            false => left as u32,
        },
        message,
        next: match (gone, frozen) {
            (false, _) => format!(
                "a process that the kernel is busy with ends later; `sudo exeat kill --agent {name}` again, then `sudo exeat thaw --agent {name}`"
            ),
            (true, true) => {
                format!("it is still frozen: `sudo exeat thaw --agent {name}` lets it start again")
            }
            (true, false) => format!(
                "it may be started again; `sudo exeat freeze --agent {name}` keeps it from that"
            ),
        },
        warnings,
    })
}
