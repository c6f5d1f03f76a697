//! Whether this machine is as its administrator wants it, for programs that ask: a [`Status`]
//! in, a [`Verdict`] out. Pure.

mod check;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use check::{Check, Grade};

use crate::control::status::{AgentStatus, HealthState, Status, WallState};

/// What is wanted beyond what is wanted everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Checks that fail where they would warn.
    pub fail_on: BTreeSet<Check>,
    /// Checks that warn where they would fail.
    pub ignore: BTreeSet<Check>,
    /// Records that may be lost; none: losses only warn.
    pub max_losses: Option<u64>,
    /// How long a receiver may take nothing while records wait.
    pub sink_grace: SignedDuration,
    /// How the digest of the policy in force begins.
    pub policy_digest: Option<String>,
    /// The oldest version of the daemon.
    pub min_version: Option<[u64; 3]>,
    /// Walls that must be up.
    pub walls: BTreeSet<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            fail_on: BTreeSet::new(),
            ignore: BTreeSet::new(),
            max_losses: None,
            sink_grace: SignedDuration::from_hours(24),
            policy_digest: None,
            min_version: None,
            walls: BTreeSet::new(),
        }
    }
}

/// What was found. Every check is in it, always and in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Version of this form: a field may be added without changing it.
    pub format: u32,
    /// No check fails.
    pub healthy: bool,
    /// The exit code.
    pub exit: u8,
    /// The worst grade.
    pub grade: Grade,
    /// What the daemon is and holds; none where it did not answer.
    pub facts: Option<Facts>,
    /// Each check.
    pub checks: Vec<Outcome>,
}

/// How one check came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub check: Check,
    /// How.
    pub grade: Grade,
    /// Its exit code.
    pub code: u8,
    /// Why, in words that may change from version to version.
    pub reasons: Vec<String>,
}

/// Numbers for inventories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the daemon.
    pub version: String,
    /// Source revision that it was built from.
    pub revision: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// SHA-256 of the policy in force, empty where there is none.
    pub policy_digest: String,
    /// When it came into force.
    pub policy_loaded_at: Timestamp,
    /// Agents that are held to their policies.
    pub agents_enforced: usize,
    /// Agents that are only watched.
    pub agents_monitored: usize,
    /// Walls that stand.
    pub walls_up: usize,
    /// Walls that this kernel or machine cannot have.
    pub walls_missing: Vec<String>,
    /// Walls that should stand and do not.
    pub walls_failed: Vec<String>,
    /// Records lost since the daemon started.
    pub losses: u64,
    /// Records that wait for their receivers.
    pub queued: u64,
}

/// The form's version.
const FORMAT: u32 = 1;

/// Exit codes with their meaning, for the manual.
pub fn codes() -> Vec<(u8, &'static str)> {
    let general = [
        (0, "no check fails"),
        (
            1,
            "the daemon runs and gave no usable answer, or nothing could be printed",
        ),
        (2, "wrong usage or bad configuration"),
        (5, "not permitted: a governed program asks"),
    ];
    let mut all: Vec<_> = general
        .into_iter()
        .chain(Check::ALL.map(|check| (check.code(), check.about())))
        .collect();
    all.sort_unstable();
    all
}

/// The verdict where the daemon gave no answer; `code` says why as other commands do.
pub fn silent(code: u8, why: &str, wanted: &Wanted) -> Verdict {
    let checks = Check::ALL
        .map(|check| match check {
            Check::Daemon => outcome(check, Grade::Fail, vec![why.to_owned()]),
            check => outcome(check, Grade::Unknown, Vec::new()),
        })
        .into();
    let mut verdict = whole(checks, None, wanted);
    // What is not known cannot be ignored away.
    (verdict.healthy, verdict.grade, verdict.exit) = (false, Grade::Fail, code);
    verdict
}

/// What a status says.
pub fn assess(status: &Status, wanted: &Wanted, now: Timestamp) -> Verdict {
    let checks = Check::ALL
        .map(|check| {
            let mut reasons = told(status, check);
            let mut grade = match reasons.is_empty() {
                true => Grade::Ok,
                false => check.usual(),
            };
            let (own, own_grade) = look(check, status, wanted, now);
            for reason in own.into_iter() {
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
                grade = grade.max(own_grade);
            }
            // The daemon's own words on these are no reason to fail before the thresholds say so.
            if matches!(check, Check::Sinks | Check::Losses) && !reasons.is_empty() {
                grade = own_grade.max(Grade::Warn);
            }
            outcome(check, grade, reasons)
        })
        .into();
    whole(checks, Some(facts(status)), wanted)
}

fn outcome(check: Check, grade: Grade, reasons: Vec<String>) -> Outcome {
    Outcome {
        check,
        grade,
        code: check.code(),
        reasons,
    }
}

fn whole(mut checks: Vec<Outcome>, facts: Option<Facts>, wanted: &Wanted) -> Verdict {
    for one in &mut checks {
        one.grade = match one.grade {
            Grade::Warn if wanted.fail_on.contains(&one.check) => Grade::Fail,
            Grade::Fail if wanted.ignore.contains(&one.check) => Grade::Warn,
            grade => grade,
        };
    }
    let first = checks.iter().find(|one| one.grade == Grade::Fail);
    Verdict {
        format: FORMAT,
        healthy: first.is_none(),
        exit: first.map_or(0, |one| one.code),
        grade: checks
            .iter()
            .map(|one| one.grade)
            .max()
            .unwrap_or(Grade::Ok),
        facts,
        checks,
    }
}

/// The daemon's own reasons that belong to a check. One without a check is of [`Check::Other`].
fn told(status: &Status, wanted: Check) -> Vec<String> {
    let checks = status.health.checks.iter().copied();
    status
        .health
        .reasons
        .iter()
        .zip(checks.chain(std::iter::repeat(Check::Other)))
        .filter(|(_, check)| *check == wanted)
        .map(|(reason, _)| reason.clone())
        .collect()
}

/// What the status's fields say, and how bad that is if it is anything.
fn look(check: Check, s: &Status, wanted: &Wanted, now: Timestamp) -> (Vec<String>, Grade) {
    let usual = check.usual();
    match check {
        Check::Walls => (walls(s), usual),
        Check::Policy => (policy(s), usual),
        Check::PolicyLoad => (
            // The daemon's reason has the error's text.
            match (&s.policy.last_error, told(s, check).is_empty()) {
                (Some(error), true) => vec![format!("the last policy load failed: {error}")],
                _ => Vec::new(),
            },
            usual,
        ),
        Check::Limits => (limits(s), usual),
        Check::Recording => (recording(s), usual),
        Check::WantedPolicy => (wanted_policy(s, wanted), usual),
        Check::WantedVersion => (wanted_version(s, wanted), usual),
        Check::WantedWalls => (wanted_walls(s, wanted), usual),
        Check::Sinks => sinks(s, wanted, now),
        Check::Losses => losses(s, wanted),
        Check::Mode => (
            agents(s, |a| {
                (a.mode != "enforce").then(|| format!("{} is in {} mode", a.name, a.mode))
            }),
            usual,
        ),
        Check::OptionalWalls => (missing(s), usual),
        Check::Held => (
            agents(s, |a| match (a.frozen, a.isolated) {
                (Some(since), _) => Some(format!("{} is frozen since {since}", a.name)),
                (None, true) => Some(format!("{} is cut off from the network", a.name)),
                (None, false) => None,
            }),
            usual,
        ),
        Check::Other => (other(s), usual),
        Check::Daemon
        | Check::Requirements
        | Check::Adoption
        | Check::Audit
        | Check::Detection
        | Check::Bundle
        | Check::Names
        | Check::Capacity
        | Check::Asking => (Vec::new(), usual),
    }
}

fn agents(s: &Status, what: impl Fn(&AgentStatus) -> Option<String>) -> Vec<String> {
    s.agents.iter().filter_map(what).collect()
}

fn walls(s: &Status) -> Vec<String> {
    let all = s.enforcement.walls.iter();
    let failed: Vec<String> = all
        .filter(|wall| wall.state == WallState::Failed)
        .map(|wall| format!("{} is not up: {}", wall.hook, wall.detail))
        .collect();
    let own = s.agents.iter().flat_map(|agent| {
        let fell = agent.walls.iter().filter(|w| w.state == WallState::Failed);
        fell.map(|wall| format!("{} of {} is not up: {}", wall.name, agent.name, wall.detail))
    });
    let mut reasons: Vec<String> = failed.into_iter().chain(own).collect();
    if s.enforcement.walls.iter().all(|w| w.state != WallState::Up) {
        reasons.push("no wall stands".to_owned());
    }
    // Without a policy it is not active either, which is another check's.
    if reasons.is_empty() && !s.enforcement.active && !s.policy.digest.is_empty() {
        reasons.push("the daemon does not enforce".to_owned());
    }
    reasons
}

fn policy(s: &Status) -> Vec<String> {
    match (s.policy.digest.is_empty(), s.agents.is_empty()) {
        (true, _) if !told(s, Check::Policy).is_empty() => Vec::new(),
        (true, _) => vec!["no policy is in force".to_owned()],
        (false, true) => vec!["the policy in force names no agent".to_owned()],
        (false, false) => Vec::new(),
    }
}

fn recording(s: &Status) -> Vec<String> {
    let history = s.sinks.iter().filter(|s| s.name == crate::store::SINK_NAME);
    history
        .filter_map(|sink| Some(format!("the history: {}", sink.trouble.as_ref()?)))
        .collect()
}

fn limits(s: &Status) -> Vec<String> {
    if !told(s, Check::Limits).is_empty() {
        return Vec::new();
    }
    let broken = s.agents.iter().flat_map(|agent| {
        let not = agent.limits.iter().filter(|limit| !limit.holds);
        not.map(|limit| {
            let (name, what) = (&agent.name, &limit.limit);
            format!("the limit {what} of {name} does not hold: {}", limit.detail)
        })
    });
    broken.collect()
}

fn wanted_policy(s: &Status, wanted: &Wanted) -> Vec<String> {
    let Some(digest) = &wanted.policy_digest else {
        return Vec::new();
    };
    match s.policy.digest.starts_with(digest.as_str()) {
        true => Vec::new(),
        false => vec![format!(
            "the policy in force has the digest {}",
            match s.policy.digest.as_str() {
                "" => "of none",
                digest => digest,
            }
        )],
    }
}

/// The three numbers of a version; what follows them, as in `1.2.3-rc.1+7`, makes no
/// difference. None where they are not there.
pub fn version(text: &str) -> Option<[u64; 3]> {
    let plain = text.split(['-', '+', '~']).next()?;
    let mut numbers = plain.split('.').map(|part| part.parse::<u64>());
    let three = [numbers.next()?, numbers.next()?, numbers.next()?];
    let [Ok(major), Ok(minor), Ok(patch)] = three else {
        return None;
    };
    numbers.next().is_none().then_some([major, minor, patch])
}

fn wanted_version(s: &Status, wanted: &Wanted) -> Vec<String> {
    let Some(least) = wanted.min_version else {
        return Vec::new();
    };
    match version(&s.daemon.version) {
        Some(is) if is >= least => Vec::new(),
        // One that cannot be read is no newer one.
        _ => vec![format!("the daemon is version {}", s.daemon.version)],
    }
}

fn wanted_walls(s: &Status, wanted: &Wanted) -> Vec<String> {
    let state = |name: &String| {
        let wall = s.enforcement.walls.iter().find(|wall| wall.name == *name);
        match wall {
            Some(wall) if wall.state == WallState::Up => None,
            Some(wall) => Some(format!(
                "{name} is {}: {}",
                wall.state.as_str(),
                match wall.detail.as_str() {
                    "" => "no reason given",
                    detail => detail,
                }
            )),
            None => Some(format!("{name} is no wall of this daemon")),
        }
    };
    wanted.walls.iter().filter_map(state).collect()
}

fn sinks(s: &Status, wanted: &Wanted, now: Timestamp) -> (Vec<String>, Grade) {
    let mut grade = Grade::Ok;
    let mut reasons = Vec::new();
    for sink in &s.sinks {
        let Some(since) = sink.waiting_since else {
            continue;
        };
        // Where the clock was set back since, it is not late: nothing says how long it was.
        let late = now.duration_since(since) > wanted.sink_grace;
        grade = grade.max(if late { Grade::Fail } else { Grade::Warn });
        let (name, queued) = (&sink.name, sink.queued);
        reasons.push(format!(
            "{queued} records wait for {name}, the oldest since {since}"
        ));
    }
    (reasons, grade)
}

fn lost(s: &Status) -> u64 {
    let kernel = [
        s.events.lost_kernel,
        s.events.lost_ring,
        s.events.lost_queue,
    ];
    let sinks = s.sinks.iter().flat_map(|sink| [sink.dropped, sink.failed]);
    kernel
        .into_iter()
        .chain(sinks)
        .fold(0, |sum, n| sum.saturating_add(n))
}

fn losses(s: &Status, wanted: &Wanted) -> (Vec<String>, Grade) {
    let lost = lost(s);
    let grade = match wanted.max_losses {
        Some(most) if lost > most => Grade::Fail,
        _ if lost > 0 => Grade::Warn,
        _ => Grade::Ok,
    };
    let words = || {
        let e = &s.events;
        let sinks: Vec<String> = s
            .sinks
            .iter()
            .filter(|sink| sink.dropped + sink.failed > 0)
            .map(|sink| format!("{} for {}", sink.dropped + sink.failed, sink.name))
            .collect();
        let sinks = match sinks.is_empty() {
            true => String::new(),
            false => format!(", {}", sinks.join(", ")),
        };
        format!(
            "{lost} records lost since {}: kernel {}, ring {}, queue {}{sinks}",
            s.daemon.started, e.lost_kernel, e.lost_ring, e.lost_queue
        )
    };
    ((lost > 0).then(words).into_iter().collect(), grade)
}

fn missing(s: &Status) -> Vec<String> {
    let all = s.enforcement.walls.iter();
    all.filter(|wall| wall.state == WallState::Missing)
        .map(|wall| match wall.detail.as_str() {
            "" => wall.name.clone(),
            why => format!("{}: {why}", wall.name),
        })
        .collect()
}

/// A daemon that says `degraded` and gives no reason is not well all the same.
fn other(s: &Status) -> Vec<String> {
    let mute = s.health.state == HealthState::Degraded && s.health.reasons.is_empty();
    let words = "the daemon says that it is degraded, and not why";
    mute.then(|| words.to_owned()).into_iter().collect()
}

fn facts(s: &Status) -> Facts {
    let in_state = |state| {
        let walls = s.enforcement.walls.iter();
        walls
            .filter(|wall| wall.state == state)
            .map(|wall| wall.name.clone())
            .collect::<Vec<String>>()
    };
    let enforced = s.agents.iter().filter(|a| a.mode == "enforce").count();
    Facts {
        version: s.daemon.version.clone(),
        revision: s.daemon.revision.clone(),
        uptime_seconds: s.daemon.uptime_seconds,
        policy_digest: s.policy.digest.clone(),
        policy_loaded_at: s.policy.loaded_at,
        agents_enforced: enforced,
        agents_monitored: s.agents.len() - enforced,
        walls_up: in_state(WallState::Up).len(),
        walls_missing: in_state(WallState::Missing),
        walls_failed: in_state(WallState::Failed),
        losses: lost(s),
        queued: s
            .sinks
            .iter()
            .fold(0, |n, sink| n.saturating_add(sink.queued)),
    }
}

#[cfg(test)]
mod tests;
