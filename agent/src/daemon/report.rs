//! The engine's state in the words of status.

use std::{collections::BTreeMap, fs};

use agent_common::{Reason, layout::Stats, protocol::ProtocolClass};
use std::sync::atomic::Ordering::Relaxed;

use super::{Shared, agents::Agent, engine::Engine, walls::of_lsm};
use crate::{
    control::status::{
        AgentStatus, DaemonStatus, Enforcement, EventsStatus, Fill, Health, NameState, NameStatus,
        PolicyStatus, ResolverStatus, RunStatus, Status, Wall, WallState,
    },
    dns::clock,
    health::Check,
    kernel::links::{ATTACHMENTS, LinkState, Place},
    leases,
    policy::mode_str,
};

/// A table that is this full is worth a word, in percent.
const NEARLY_FULL: u64 = 90;

/// The version of this binary.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The revision that it was built from.
pub(super) const REVISION: &str = env!("EXEAT_REVISION");

pub(super) fn status(shared: &Shared, engine: &Engine) -> Status {
    let walls = walls(engine);
    let fallen = walls.iter().any(|wall| wall.state == WallState::Failed);
    let active = !fallen && !engine.digest.is_empty();
    let agents: Vec<AgentStatus> = engine
        .agents
        .iter()
        .map(|(name, agent)| agent_status(engine, name, agent))
        .collect();
    let names = names(engine);
    let events = events(shared, engine);
    let resolver = resolver(shared);
    let health = health(shared, engine, &walls, &agents, &names);
    Status {
        daemon: DaemonStatus {
            pid: std::process::id(),
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
            started: shared.started,
            uptime_seconds: shared.started_at.elapsed().as_secs(),
            slice: engine.kernel.slice().name().to_owned(),
        },
        enforcement: Enforcement { active, walls },
        agents,
        names,
        policy: PolicyStatus {
            digest: engine.digest.clone(),
            sources: shared.config.policy.clone(),
            generation: engine.generation,
            loaded_at: engine.loaded_at,
            last_error: engine.last_error.clone(),
        },
        resolver,
        events,
        bundle: engine.bundles.status(),
        sinks: shared.hub.sinks().into_iter().map(Into::into).collect(),
        portal: engine.portal.as_ref().map(super::portal::Portal::status),
        health,
    }
}

/// Every hook as the kernel describes it at this moment.
pub(super) fn walls(engine: &Engine) -> Vec<Wall> {
    let slice = engine.kernel.slice();
    engine
        .kernel
        .hooks()
        .into_iter()
        .zip(ATTACHMENTS)
        .map(|((hook, state), attachment)| {
            let place = match attachment.place {
                Place::Root => slice.root(),
                Place::Slice => slice.path(),
            };
            let (state, detail) = match state {
                LinkState::Up {
                    link,
                    program,
                    cgroup,
                } if crate::kernel::cgroup::id(place).is_ok_and(|id| id == cgroup) => {
                    (WallState::Up, format!("link {link}, program {program}"))
                }
                LinkState::Up { cgroup, .. } => (
                    WallState::Failed,
                    format!("attached to cgroup {cgroup}, which is another"),
                ),
                LinkState::Dead => (WallState::Failed, "its cgroup was removed".to_owned()),
                LinkState::Missing => (WallState::Failed, "not attached".to_owned()),
            };
            Wall {
                name: hook.to_owned(),
                hook: format!("{hook} at {}", place.display()),
                state,
                detail,
                leaves_out: engine
                    .kernel
                    .leaves_out(hook)
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            }
        })
        .chain(
            engine
                .kernel
                .walls()
                .into_iter()
                .map(|(wall, standing)| of_lsm(wall.name, &wall.hooks(), standing)),
        )
        .collect()
}

fn agent_status(engine: &Engine, name: &str, agent: &Agent) -> AgentStatus {
    let stats = engine.kernel.stats(agent.index).unwrap_or_default();
    let cgroup = engine.kernel.slice().folder(name);
    let mut maps = BTreeMap::new();
    if let Some(fill) = engine.kernel.fill(agent.index) {
        maps.insert(
            "exact".to_owned(),
            Fill {
                used: u64::from(fill.used),
                max: u64::from(fill.room),
            },
        );
    }
    AgentStatus {
        name: name.to_owned(),
        index: agent.index,
        mode: mode_str(agent.policy.mode).to_owned(),
        generation: agent.generation,
        rules: agent.policy.rules.len() as u32,
        adopted: engine.adopted_status(name),
        runs: runs(engine, name, &cgroup),
        cgroup,
        leases: agent.leases() as u32,
        blocked: blocked(&stats),
        allowed: allowed(&stats),
        sent_bytes: stats.sent_bytes,
        maps,
        frozen: engine.held.get(name).copied(),
        isolated: engine.kernel.is_isolated(agent.index),
        questions: engine.asking.desk.pending(Some(name)) as u32,
        grants: engine.asking.grants.of(name).count() as u32,
        limits: engine.limits_status(name, clock::now()),
        walls: engine.walls_of(&agent.policy),
        clicks: super::walls::clicks(engine.sandbox, &agent.policy),
    }
}

fn runs(engine: &Engine, agent: &str, cgroup: &std::path::Path) -> Vec<RunStatus> {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return Vec::new();
    };
    let mut runs: Vec<RunStatus> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| RunStatus {
            run: entry.file_name().to_string_lossy().into_owned(),
            processes: fs::read_to_string(entry.path().join("cgroup.procs"))
                .map(|text| text.lines().count() as u32)
                .unwrap_or(0),
            programs: Vec::new(),
        })
        .filter(|run| run.processes > 0)
        .map(|run| RunStatus {
            programs: (engine.programs.get(&(agent.to_owned(), run.run.clone())))
                .cloned()
                .unwrap_or_default(),
            ..run
        })
        .collect();
    runs.sort_by(|a, b| a.run.cmp(&b.run));
    runs
}

fn blocked(stats: &Stats) -> BTreeMap<String, BTreeMap<String, u64>> {
    Reason::ALL
        .iter()
        .filter_map(|reason| {
            let by_protocol = by_protocol(&stats.blocked[usize::from(reason.number())]);
            (!by_protocol.is_empty()).then(|| (reason.as_str().to_owned(), by_protocol))
        })
        .collect()
}

fn allowed(stats: &Stats) -> BTreeMap<String, u64> {
    by_protocol(&stats.allowed)
}

fn by_protocol(counts: &[u64]) -> BTreeMap<String, u64> {
    ProtocolClass::ALL
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(class, count)| (class.as_str().to_owned(), *count))
        .collect()
}

fn names(engine: &Engine) -> Vec<NameStatus> {
    let now = clock::now();
    engine
        .leases
        .status(now)
        .into_iter()
        .map(|name| NameStatus {
            state: match name.state {
                leases::NameState::Pending => NameState::Pending,
                leases::NameState::Fresh => NameState::Ok,
                leases::NameState::Failing { .. } if name.addresses.is_empty() => NameState::Failed,
                leases::NameState::Failing { .. } => NameState::Stale,
                leases::NameState::Expired => NameState::Failed,
            },
            expires_in_seconds: name.addresses.iter().map(|(_, left)| left.as_secs()).min(),
            addresses: name.addresses.iter().map(|(addr, _)| *addr).collect(),
            failures: name.failures,
            last_error: name.last_failure.map(|kind| kind.as_str().to_owned()),
            name: name.name,
        })
        .collect()
}

pub(super) fn events(shared: &Shared, engine: &Engine) -> EventsStatus {
    let mut kernel = Stats::default();
    let indices = engine
        .agents
        .values()
        .map(|agent| agent.index)
        .chain([agent_common::layout::NO_AGENT]);
    for index in indices {
        if let Ok(stats) = engine.kernel.stats(index) {
            kernel.events_lost += stats.events_lost;
            kernel.events_throttled += stats.events_throttled;
        }
    }
    let gates: u64 = shared
        .dns
        .gates()
        .iter()
        .map(|(_, gate)| gate.records_lost.load(Relaxed))
        .sum();
    EventsStatus {
        received: shared.events.received.load(Relaxed),
        lost_kernel: kernel.events_lost,
        lost_ring: shared.events.unreadable.load(Relaxed),
        lost_queue: gates + shared.hub.counts().file.dropped,
        throttled: kernel.events_throttled,
    }
}

fn resolver(shared: &Shared) -> ResolverStatus {
    let upstreams = shared.dns.upstreams();
    ResolverStatus {
        upstreams: shared.resolver.labels(),
        queries: upstreams.iter().map(|(_, stats)| stats.requests()).sum(),
        failures: upstreams
            .iter()
            .flat_map(|(_, stats)| &stats.failures)
            .map(|count| count.load(Relaxed))
            .sum(),
    }
}

fn health(
    shared: &Shared,
    engine: &Engine,
    walls: &[Wall],
    agents: &[AgentStatus],
    names: &[NameStatus],
) -> Health {
    let mut reasons: Vec<String> = walls
        .iter()
        .filter(|wall| wall.state == WallState::Failed)
        .map(|wall| format!("{} is not up: {}", wall.hook, wall.detail))
        .collect();
    // What was pushed since the line before belongs to the check that is named.
    let mut checks = vec![Check::Walls; reasons.len()];
    for (name, agent) in &engine.agents {
        for lack in engine.lacks(&agent.policy) {
            reasons.push(format!("{name} requires {lack}"));
        }
    }
    checks.resize(reasons.len(), Check::Requirements);
    reasons.extend(engine.asking.trouble.clone());
    checks.resize(reasons.len(), Check::Asking);
    reasons.extend(engine.bundles.reasons());
    if let Some(error) = &engine.last_error {
        reasons.push(format!("the last policy load failed: {error}"));
    }
    checks.resize(reasons.len(), Check::PolicyLoad);
    if engine.digest.is_empty() {
        reasons.push("no policy is loaded: everything that runs is refused".to_owned());
    }
    checks.resize(reasons.len(), Check::Policy);
    for name in names {
        match name.state {
            NameState::Stale | NameState::Failed => reasons.push(format!(
                "{} does not resolve ({}), {} left",
                name.name,
                name.last_error.as_deref().unwrap_or("no answer"),
                match name.addresses.len() {
                    1 => "1 address".to_owned(),
                    n => format!("{n} addresses"),
                }
            )),
            NameState::Pending | NameState::Ok => {}
        }
    }
    checks.resize(reasons.len(), Check::Names);
    for name in engine.leases.status(clock::now()) {
        if name.left_out > 0 {
            reasons.push(format!(
                "{} has {} more addresses than the {} that a name may have; they stay refused",
                name.name,
                name.left_out,
                engine.leases.config().max_addresses_per_name
            ));
        }
    }
    for agent in agents {
        for (map, fill) in &agent.maps {
            if fill.used * 100 >= fill.max * NEARLY_FULL {
                reasons.push(format!(
                    "the {map} table of {} holds {} of {} addresses",
                    agent.name, fill.used, fill.max
                ));
            }
        }
    }
    for (name, agent) in &engine.agents {
        if !agent.overflow.is_empty() {
            reasons.push(format!(
                "{} addresses of {name} have no room and stay refused",
                agent.overflow.len()
            ));
        }
    }
    checks.resize(reasons.len(), Check::Capacity);
    reasons.extend(engine.limits_unmet());
    checks.resize(reasons.len(), Check::Limits);
    for (what, why) in &engine.adoption.troubles {
        reasons.push(format!("adoption: {what}: {why}"));
    }
    checks.resize(reasons.len(), Check::Adoption);
    if let Some(error) = &shared.file_error {
        reasons.push(format!("events are not written to their file: {error}"));
    }
    checks.resize(reasons.len(), Check::Recording);
    if let Some(error) = &shared.detect_error {
        reasons.push(format!("no detection rule is in force: {error}"));
    }
    checks.resize(reasons.len(), Check::Detection);
    reasons.extend(shared.store.iter().flat_map(|store| store.troubles()));
    checks.resize(reasons.len(), Check::Losses);
    for sink in shared.hub.sinks() {
        if let (crate::audit::NAME, Some(trouble)) = (&*sink.name, &sink.trouble) {
            reasons.push(format!("the audit log: {trouble}"));
        }
    }
    checks.resize(reasons.len(), Check::Audit);
    let file = shared.hub.counts().file;
    if file.failed > 0 {
        reasons.push(format!(
            "{} events could not be written to the events file",
            file.failed
        ));
    }
    checks.resize(reasons.len(), Check::Losses);
    // The history has said its losses in its own words, and the audit log its trouble.
    let others = |sink: &&crate::sink::SinkState| sink.name != crate::store::SINK_NAME;
    for sink in shared.hub.sinks().iter().filter(others) {
        let (name, audit) = (&sink.name, sink.name == crate::audit::NAME);
        if let Some(trouble) = sink.trouble.as_ref().filter(|_| !audit) {
            let queued = sink.queued;
            reasons.push(format!(
                "records do not reach {name} ({queued} wait): {trouble}"
            ));
            checks.resize(reasons.len(), Check::Sinks);
        }
        if sink.dropped > 0 {
            reasons.push(format!(
                "{} records for {name} found no room in its queue and are gone",
                sink.dropped
            ));
        }
        if sink.failed > 0 {
            reasons.push(format!(
                "{} records were not taken by {name} and never will be",
                sink.failed
            ));
        }
        checks.resize(reasons.len(), Check::Losses);
    }
    checks.resize(reasons.len(), Check::Other);
    Health {
        checks,
        ..Health::from_reasons(reasons)
    }
}
