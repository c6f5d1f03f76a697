//! The engine's state in the words of the metrics page.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use agent_common::{layout::NO_AGENT, verdict::Action};

use super::{Shared, directory::UNKNOWN, engine::Engine, report};
use crate::{
    control::status::WallState,
    dns::gate,
    leases::FailKind,
    metrics::{
        AgentSample, DnsVerdict, Launch, LoadFailure, LossStage, MapSample, ProcessSample, Rcode,
        RuleKind, Snapshot, UpstreamFailure,
    },
};

pub(super) fn snapshot(shared: &Shared, engine: &Engine) -> Snapshot {
    let status = report::status(shared, engine);
    let mut snapshot = Snapshot {
        version: report::VERSION.to_owned(),
        revision: report::REVISION.to_owned(),
        enforcing: status.enforcement.active,
        degraded: status.health.reasons,
        rebind_dropped: shared.dns.rebind_dropped.load(Relaxed)
            + engine.leases.counters().rebind_dropped,
        policy_digest: engine.digest.clone(),
        policy_sources: shared
            .config
            .policy
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        policy_loaded_at: engine.loaded_at.as_millisecond() as f64 / 1000.0,
        sinks: shared.hub.counts(),
        process: ProcessSample::read(),
        dns_latency: shared.latency.clone(),
        ..Snapshot::default()
    };
    let failed = engine.loads_failed;
    snapshot.policy_load_failures[LoadFailure::Invalid.index()] = failed.invalid;
    snapshot.policy_load_failures[LoadFailure::TooLarge.index()] = failed.too_large;
    snapshot.policy_load_failures[LoadFailure::Kernel.index()] = failed.kernel;
    snapshot.launches[Launch::Ok.index()] = shared.launches.ok.load(Relaxed);
    snapshot.launches[Launch::Refused.index()] = shared.launches.refused.load(Relaxed);
    snapshot.events_lost[LossStage::Kernel.index()] = status.events.lost_kernel;
    snapshot.events_lost[LossStage::Ring.index()] = status.events.lost_ring;
    snapshot.events_lost[LossStage::Queue.index()] = status.events.lost_queue;
    snapshot.events_lost[LossStage::Follower.index()] = snapshot.sinks.follower_lost;
    for (_, upstream) in shared.dns.upstreams() {
        for kind in FailKind::ALL {
            let count = upstream.failures[kind.index()].load(Relaxed);
            snapshot.upstream_failures[upstream_failure(kind).index()] += count;
        }
    }
    for agent in engine.agents.values() {
        for rule in &agent.policy.rules {
            let kind = match rule.action {
                Action::Allow => RuleKind::Allow,
                Action::Deny => RuleKind::Deny,
                Action::Listen => RuleKind::Listen,
            };
            snapshot.policy_rules[kind.index()] += 1;
        }
    }
    snapshot.governed = engine.agents.len() as u64;
    snapshot.agents = agents(shared, engine);
    snapshot.maps = maps(engine);
    snapshot.programs = status
        .enforcement
        .walls
        .iter()
        .map(|wall| (wall.name.clone(), u64::from(wall.state == WallState::Up)))
        .collect();
    snapshot.walls = status.enforcement.walls;
    snapshot
}

fn agents(shared: &Shared, engine: &Engine) -> Vec<AgentSample> {
    let gates: BTreeMap<u32, _> = shared.dns.gates().into_iter().collect();
    let mut samples: Vec<AgentSample> = engine
        .agents
        .iter()
        .map(|(name, agent)| {
            let mut sample = AgentSample {
                name: name.clone(),
                stats: engine.kernel.stats(agent.index).unwrap_or_default(),
                leases: agent.leases() as u64,
                ..AgentSample::default()
            };
            if let Some(gate) = gates.get(&agent.index) {
                for (verdict, rcode) in gate::Verdict::OUTCOMES {
                    let Some(code) = rcode_label(rcode) else {
                        continue;
                    };
                    let side = match verdict {
                        gate::Verdict::Answered
                        | gate::Verdict::NoData
                        | gate::Verdict::Failed
                        | gate::Verdict::Busy => DnsVerdict::Allow,
                        gate::Verdict::Refused
                        | gate::Verdict::OverBudget
                        | gate::Verdict::Rebind
                        | gate::Verdict::NoRoom
                        | gate::Verdict::Malformed
                        | gate::Verdict::Ignored => DnsVerdict::Deny,
                    };
                    sample.dns[side.index()][code.index()] += gate.queries(verdict, rcode);
                }
            }
            sample
        })
        .collect();
    samples.push(AgentSample {
        name: UNKNOWN.to_owned(),
        stats: engine.kernel.stats(NO_AGENT).unwrap_or_default(),
        ..AgentSample::default()
    });
    samples
}

/// Codes that have a label; a query without a reply, or with a code of EDNS, counts as
/// malformed.
fn rcode_label(rcode: gate::Rcode) -> Option<Rcode> {
    match rcode {
        gate::Rcode::NoError => Some(Rcode::NoError),
        gate::Rcode::FormErr | gate::Rcode::BadVers => Some(Rcode::FormErr),
        gate::Rcode::ServFail => Some(Rcode::ServFail),
        gate::Rcode::NxDomain => Some(Rcode::NxDomain),
        gate::Rcode::NotImp => Some(Rcode::NotImp),
        gate::Rcode::Refused => Some(Rcode::Refused),
        gate::Rcode::None => None,
    }
}

fn upstream_failure(kind: FailKind) -> UpstreamFailure {
    match kind {
        FailKind::Timeout => UpstreamFailure::Timeout,
        FailKind::Network | FailKind::NoUpstream => UpstreamFailure::Network,
        FailKind::NxDomain | FailKind::ServFail | FailKind::Refused => UpstreamFailure::Rcode,
        FailKind::NoAddresses => UpstreamFailure::NoRecords,
        FailKind::BadAnswer | FailKind::Rebind => UpstreamFailure::Invalid,
    }
}

/// Of the tables that every agent has its own of, the fullest.
fn maps(engine: &Engine) -> Vec<MapSample> {
    let agents = engine.kernel.agents_fill();
    let mut maps = vec![MapSample {
        map: "agents".to_owned(),
        entries: agents.used.into(),
        max_entries: agents.room.into(),
    }];
    let fullest = engine
        .agents
        .values()
        .filter_map(|agent| engine.kernel.fill(agent.index))
        .max_by(|a, b| {
            (u64::from(a.used) * u64::from(b.room)).cmp(&(u64::from(b.used) * u64::from(a.room)))
        });
    if let Some(fill) = fullest {
        maps.push(MapSample {
            map: "exact".to_owned(),
            entries: fill.used.into(),
            max_entries: fill.room.into(),
        });
    }
    maps
}
