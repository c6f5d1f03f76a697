//! The engine's state in the words of the metrics page.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use agent_common::{layout::NO_AGENT, verdict::Action};

use super::{Shared, directory::UNKNOWN, engine::Engine, report};
use crate::{
    control::status::WallState,
    dns::{
        gate,
        resolver::MAX_CACHE_BYTES,
        stats::{GateStats, Transport, UpstreamStats},
    },
    gateway::{GatewayStats, Outcome},
    incident::IncidentKind,
    kernel::links::ATTACHMENTS,
    leases::FailKind,
    metrics::{
        AgentSample, CacheSample, DnsSample, DnsVerdict, GateDrop, GateSample, GatewaySample,
        Launch, LoadFailure, LossStage, MapSample, ProcessSample, Rcode, RuleKind, Snapshot,
        UpstreamFailure, UpstreamSample,
    },
};

pub(super) fn snapshot(shared: &Shared, engine: &Engine) -> Snapshot {
    let status = report::status(shared, engine);
    let mut snapshot = Snapshot {
        version: report::VERSION.to_owned(),
        revision: report::REVISION.to_owned(),
        enforcing: status.enforcement.active,
        degraded: status.health.reasons,
        policy_digest: engine.digest.clone(),
        policy_sources: shared
            .config
            .policy
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        policy_loaded_at: engine.loaded_at.as_millisecond() as f64 / 1000.0,
        sinks: shared.hub.counts(),
        places: shared.hub.sinks(),
        process: ProcessSample::read(),
        dns: dns(shared, engine),
        ..Snapshot::default()
    };
    for sink in shared.hub.sinks() {
        if sink.name == crate::audit::NAME {
            snapshot.audit_records = sink.delivered;
            snapshot.audit_write_failures = sink.dropped + sink.failed;
        }
    }
    if let Some(bundle) = status.bundle.and_then(|bundle| bundle.current) {
        snapshot.bundle_version = bundle.version.into();
        snapshot.bundle_expires_at = bundle.expires.as_second() as f64;
    }
    snapshot.bundle_refusals = engine.bundles.refusals;
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
    snapshot.approvals = engine.asking.approvals();
    snapshot.approvals_pending = shared.desk.pending(None) as u64;
    snapshot.governed = engine.agents.len() as u64;
    snapshot.agents = agents(shared, engine);
    snapshot.maps = maps(engine);
    snapshot.programs = status
        .enforcement
        .walls
        .iter()
        // The others have no program each.
        .filter(|wall| ATTACHMENTS.iter().any(|hook| hook.hook == wall.name))
        .map(|wall| (wall.name.clone(), u64::from(wall.state == WallState::Up)))
        .collect();
    snapshot.walls = status.enforcement.walls;
    snapshot
}

fn agents(shared: &Shared, engine: &Engine) -> Vec<AgentSample> {
    let gates: BTreeMap<u32, _> = shared.dns.gates().into_iter().collect();
    let gateways: BTreeMap<u32, _> = engine.gateways.stats().collect();
    let mut incidents = shared.hub.incidents();
    let mut samples: Vec<AgentSample> = engine
        .agents
        .iter()
        .map(|(name, agent)| {
            let mut sample = AgentSample {
                name: name.clone(),
                stats: engine.kernel.stats(agent.index).unwrap_or_default(),
                leases: agent.leases() as u64,
                incidents: incidents.remove(name).unwrap_or_default(),
                ..AgentSample::default()
            };
            if let Some(counts) = gates.get(&agent.index) {
                sample.gate = gate_sample(counts);
            }
            if let Some(counts) = gateways.get(&agent.index) {
                sample.gateway = gateway_sample(counts);
            }
            sample
        })
        .collect();
    // Of nobody, or of an agent that the policy does not have any more.
    let mut rest = [0; IncidentKind::COUNT];
    for (sum, kind) in rest.iter_mut().zip(IncidentKind::ALL) {
        *sum = incidents.values().map(|counts| counts[kind.index()]).sum();
    }
    samples.push(AgentSample {
        name: UNKNOWN.to_owned(),
        incidents: rest,
        stats: engine.kernel.stats(NO_AGENT).unwrap_or_default(),
        ..AgentSample::default()
    });
    samples
}

fn gateway_sample(counts: &GatewayStats) -> GatewaySample {
    let mut sample = GatewaySample {
        open: counts.open.load(Relaxed),
        sent: counts.sent.load(Relaxed),
        received: counts.received.load(Relaxed),
        requests: counts.requests.load(Relaxed),
        records_lost: counts.records_lost.load(Relaxed),
        ..GatewaySample::default()
    };
    for (count, outcome) in sample.outcomes.iter_mut().zip(Outcome::ALL) {
        *count = counts.outcomes(*outcome);
    }
    sample
}

fn gate_sample(counts: &GateStats) -> GateSample {
    let mut sample = GateSample::default();
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
            | gate::Verdict::Ignored
            | gate::Verdict::Asked
            | gate::Verdict::Denied => DnsVerdict::Deny,
        };
        sample.queries[side.index()][code.index()] += counts.queries(verdict, rcode);
    }
    sample.outcomes = gate::Verdict::ALL.map(|verdict| counts.verdicts(verdict));
    sample.budgets_crossed = counts.budgets_crossed.load(Relaxed);
    sample.drops = GateDrop::ALL.map(|drop| {
        let count = match drop {
            GateDrop::Reply => &counts.replies_lost,
            GateDrop::Connection => &counts.connections_refused,
            GateDrop::Message => &counts.oversized,
        };
        count.load(Relaxed)
    });
    sample
}

fn dns(shared: &Shared, engine: &Engine) -> DnsSample {
    let stats = &shared.dns;
    let (entries, bytes) = shared.resolver.cached_now();
    DnsSample {
        cache: CacheSample {
            hits: stats.cache.hits.load(Relaxed),
            misses: stats.cache.misses.load(Relaxed),
            stale: stats.cache.stale.load(Relaxed),
            prefetches: stats.cache.prefetches.load(Relaxed),
            entries,
            bytes,
            max_bytes: MAX_CACHE_BYTES,
        },
        upstreams: upstreams(shared),
        grants: (&stats.grants).into(),
        rebind_dropped: stats.rebind_dropped.load(Relaxed)
            + engine.leases.counters().rebind_dropped,
    }
}

/// Every server that was ever asked or could be; of those in force also whether they are well
/// and the ways to them that were not taken yet.
fn upstreams(shared: &Shared) -> Vec<UpstreamSample> {
    // Before the counters, which it makes for servers that are new.
    let servers = shared.resolver.servers();
    let sample = |(label, counts): (Arc<str>, Arc<UpstreamStats>)| {
        let server = servers.iter().find(|server| server.label == label);
        let mut failures = [0; UpstreamFailure::COUNT];
        for kind in FailKind::ALL {
            failures[upstream_failure(kind).index()] += counts.failures[kind.index()].load(Relaxed);
        }
        let takes = |transport: &Transport| {
            counts.durations(*transport).count() > 0
                || server.is_some_and(|server| server.transports.contains(transport))
        };
        UpstreamSample {
            requests: Transport::ALL
                .into_iter()
                .filter(takes)
                .map(|transport| (transport, counts.durations(transport).into()))
                .collect(),
            label: label.to_string(),
            well: server.map(|server| server.well),
            failures,
        }
    };
    shared.dns.upstreams().into_iter().map(sample).collect()
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
