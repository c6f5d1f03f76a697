//! Limits of agents: put in force with the policy and before a run begins, looked at each
//! second, and told of where they are hit.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use agent_common::layout::Mode;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::engine::Engine;
use crate::{
    control::status::LimitStatus,
    error::chain,
    incident::{Incident, IncidentKind},
    kernel::{
        cgroup,
        limits::{self, Hits, Unmet},
    },
    policy::{
        Limits,
        limits::{bytes_text, time_text},
    },
};

/// A limit that is hit again and again is told of this often.
const AGAIN: Duration = Duration::from_secs(30);

/// When runs began, and what was told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ledger {
    /// By the id of the run's cgroup: seconds since boot.
    runs: BTreeMap<u64, u64>,
    /// By name of the agent.
    told: BTreeMap<String, Told>,
}

/// The hits of an agent that were told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// Id of the agent's cgroup: another one counts from 0.
    cgroup: u64,
    hits: Hits,
    /// When it was told of memory that had to be given back, and of processes that were not
    /// started, seconds since boot.
    memory_at: Option<u64>,
    pids_at: Option<u64>,
}

fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

/// What is to be told of hits beyond those that were, which are brought up to date.
fn news(told: &mut Told, now: &Hits, limits: &Limits, at: Duration) -> Vec<String> {
    let mut news = Vec::new();
    let due = |last: Option<u64>| last.is_none_or(|last| at.as_secs() >= last + AGAIN.as_secs());
    let memory = limits.memory.map_or_else(|| "none".to_owned(), bytes_text);
    let killed = now.oom_kill.saturating_sub(told.hits.oom_kill);
    let starved = now.oom.saturating_sub(told.hits.oom);
    let at_limit = now.memory_max.saturating_sub(told.hits.memory_max);
    if killed > 0 {
        let who = match killed {
            1 => "1 process was".to_owned(),
            n => format!("{n} processes were"),
        };
        news.push(format!(
            "memory: {who} ended by the kernel at the limit of {memory}"
        ));
    } else if (starved > 0 || at_limit > 0) && due(told.memory_at) {
        let often = times(at_limit.max(starved));
        news.push(format!(
            "memory: {often} the agent had to wait for memory to be given back at the limit of {memory}"
        ));
    }
    if killed > 0 || due(told.memory_at) {
        if killed + starved + at_limit > 0 {
            told.memory_at = Some(at.as_secs());
        }
        told.hits = Hits {
            pids_max: told.hits.pids_max,
            ..*now
        };
    }
    let forks = now.pids_max.saturating_sub(told.hits.pids_max);
    if forks > 0 && due(told.pids_at) {
        told.hits.pids_max = now.pids_max;
        told.pids_at = Some(at.as_secs());
        let most = limits.pids.unwrap_or(0);
        news.push(format!(
            "pids: {} a process or thread was not started at the limit of {most}",
            times(forks)
        ));
    }
    news
}

impl Engine {
    /// The limits that hold for an agent. Monitor mode changes nothing for the program.
    pub(super) fn limits_of(&self, name: &str) -> Limits {
        let policy = self.agents.get(name).map(|agent| &agent.policy);
        policy
            .filter(|policy| policy.mode == Mode::Enforce)
            .map(|policy| policy.limits.clone())
            .unwrap_or_default()
    }

    /// Puts an agent's limits in force, if its cgroup is there; what does not hold, in words.
    pub(super) fn apply_limits(&mut self, name: &str) -> Vec<String> {
        let limits = self.limits_of(name);
        if let Some(systemd) = &mut self.systemd
            && let Err(error) = systemd.limit(name, &limits)
        {
            warn!(
                agent = name,
                error = chain(&error),
                "systemd was not told of an agent's limits, and may take them back"
            );
        }
        let slice = self.kernel.slice();
        let unmet = match slice.folder(name).is_dir() {
            true => limits::apply(slice, name, &limits),
            false => limits::lacking(slice.root(), &limits),
        };
        let words = unmet.iter().map(Unmet::to_string).collect();
        self.unmet.insert(name.to_owned(), unmet);
        words
    }

    /// The same for every agent, after another policy has come.
    pub(super) fn apply_all_limits(&mut self) {
        self.unmet.clear();
        let names: Vec<String> = self.agents.keys().cloned().collect();
        for name in names {
            for unmet in self.apply_limits(&name) {
                warn!(agent = name, "a limit does not hold: {unmet}");
            }
        }
    }

    /// Every limit that does not hold, in words.
    pub(super) fn limits_unmet(&self) -> Vec<String> {
        let each = |(name, unmet): (&String, &Vec<Unmet>)| {
            let word = |unmet| format!("a limit of agent {name} does not hold: {unmet}");
            unmet.iter().map(word).collect::<Vec<_>>()
        };
        self.unmet.iter().flat_map(each).collect()
    }

    /// A run begins.
    pub(super) fn clock_in(&mut self, cgroup: u64, now: Duration) {
        self.ledger.runs.insert(cgroup, now.as_secs());
        self.save_ledger();
    }

    fn save_ledger(&self) {
        if let Err(error) = self.keeper.save_ledger(&self.ledger) {
            warn!(%error, "when runs began could not be saved; after a restart their time begins anew");
        }
    }

    /// Tells of limits that were hit since the last look, and ends runs whose time is up.
    pub(super) fn watch_limits(&mut self, now: Duration) {
        let before = self.ledger.clone();
        let mut live = Vec::new();
        let admitted: Vec<(String, u64)> = self
            .admitted
            .iter()
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        for (name, id) in &admitted {
            let limits = self.limits_of(name);
            let folder = self.kernel.slice().folder(name);
            let told = self.ledger.told.entry(name.clone()).or_default();
            if told.cgroup != *id {
                *told = Told {
                    cgroup: *id,
                    ..Told::default()
                };
            }
            for message in news(told, &limits::hits(&folder), &limits, now) {
                self.incident(Incident::new(IncidentKind::LimitHit, name, message));
            }
            for (run, path) in runs(&folder) {
                live.push(run);
                let began = *self.ledger.runs.entry(run).or_insert(now.as_secs());
                if let Some(time) = limits.time
                    && now.as_secs() >= began.saturating_add(time)
                    && cgroup::is_populated(&path)
                {
                    self.end_run(name, &path, time);
                }
            }
        }
        self.ledger.runs.retain(|run, _| live.contains(run));
        self.ledger
            .told
            .retain(|name, _| admitted.iter().any(|(known, _)| known == name));
        if self.ledger != before {
            self.save_ledger();
        }
    }

    fn end_run(&self, name: &str, path: &std::path::Path, time: u64) {
        if let Err(error) = cgroup::kill(path) {
            error!(
                agent = name,
                error = chain(&error),
                "a run whose time is up cannot be ended"
            );
            return;
        }
        let run = path.file_name().unwrap_or_default().to_string_lossy();
        let message = format!("time: the run took {} and was ended", time_text(time));
        self.incident(Incident::new(IncidentKind::LimitHit, name, message).of_run(run));
    }

    /// An agent's limits as status shows them.
    pub(super) fn limits_status(&self, name: &str, now: Duration) -> Vec<LimitStatus> {
        let Some(agent) = self.agents.get(name) else {
            return Vec::new();
        };
        let folder = self.kernel.slice().folder(name);
        let none = Vec::new();
        let unmet = self.unmet.get(name).unwrap_or(&none);
        let monitored = agent.policy.mode == Mode::Monitor;
        let status = |(key, value): (&'static str, String)| {
            let part = key.split('.').next().unwrap_or(key);
            let why = unmet.iter().find(|unmet| unmet.limit == part);
            let detail = match (monitored, why) {
                (true, _) => "the agent is only monitored".to_owned(),
                (false, Some(unmet)) => unmet.why.clone(),
                (false, None) if key == "time" => {
                    self.time_left(&folder, &agent.policy.limits, now)
                }
                (false, None) => limits::used(&folder, part).unwrap_or_default(),
            };
            LimitStatus {
                limit: key.to_owned(),
                value,
                holds: !monitored && why.is_none(),
                detail,
            }
        };
        agent.policy.limits.each().into_iter().map(status).collect()
    }

    fn time_left(&self, folder: &std::path::Path, limits: &Limits, now: Duration) -> String {
        let Some(time) = limits.time else {
            return String::new();
        };
        let left: Vec<String> = runs(folder)
            .into_iter()
            .filter_map(|(id, path)| {
                let end = self.ledger.runs.get(&id)?.saturating_add(time);
                let run = path.file_name()?.to_string_lossy().into_owned();
                let left = time_text(end.saturating_sub(now.as_secs()));
                Some(format!("{run} has {left} left"))
            })
            .collect();
        left.join(", ")
    }
}

/// The runs of an agent: id and folder.
fn runs(folder: &std::path::Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut runs: Vec<(u64, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            metadata.is_dir().then(|| (metadata.ino(), entry.path()))
        })
        .collect();
    runs.sort_by(|a, b| a.1.cmp(&b.1));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_hit_again_and_again_is_told_of_now_and_then() {
        let limits = Limits {
            memory: Some(64 << 20),
            pids: Some(7),
            ..Limits::default()
        };
        let mut told = Told::default();
        let mut hits = Hits::default();
        let at = Duration::from_secs;
        assert!(news(&mut told, &hits, &limits, at(5)).is_empty());
        hits.pids_max = 3;
        hits.memory_max = 2;
        let first = news(&mut told, &hits, &limits, at(6));
        assert_eq!(
            first,
            [
                "memory: 2 times the agent had to wait for memory to be given back at the limit of 64MiB",
                "pids: 3 times a process or thread was not started at the limit of 7",
            ]
        );
        hits.pids_max = 10;
        hits.memory_max = 20;
        assert!(news(&mut told, &hits, &limits, at(7)).is_empty());
        // A process that was ended is told of at once.
        hits.oom_kill = 1;
        hits.oom = 1;
        let killed = news(&mut told, &hits, &limits, at(8));
        assert_eq!(
            killed,
            ["memory: 1 process was ended by the kernel at the limit of 64MiB"]
        );
        let later = news(&mut told, &hits, &limits, at(36));
        assert_eq!(
            later,
            ["pids: 7 times a process or thread was not started at the limit of 7"]
        );
        assert!(news(&mut told, &hits, &limits, at(100)).is_empty());
    }
}
