//! The metrics page. Every name is in this file; `docs/metrics.md` is made from it.
//!
//! A scrape builds a registry of its own from a [`Snapshot`]: what the kernel counts is
//! absolute already, and a counter that is copied cannot drift. Labels are closed words,
//! agent names, names of our own objects, and DNS servers (at most 33); never hosts, other
//! addresses or pids.

mod dns;
mod gateway;
mod reference;
mod server;
mod snapshot;

use agent_common::Reason;
use agent_common::protocol::ProtocolClass;
use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, Result, TextEncoder,
};

pub use dns::{CacheSample, DnsSample, GateDrop, GateSample, HistogramSample, UpstreamSample};
pub use gateway::GatewaySample;
pub use reference::reference;
pub use server::{Page, PageError};
pub use snapshot::{
    AgentSample, Decision, DnsVerdict, Launch, LoadFailure, LossStage, MapSample, ProcessSample,
    Rcode, RuleKind, Scope, Snapshot, UpstreamFailure,
};

pub(crate) use snapshot::labels;

use crate::control::status::WallState;
use crate::incident::IncidentKind;

/// The page's text.
pub fn encode(snapshot: &Snapshot) -> Result<String> {
    TextEncoder::new().encode_to_string(&registry(snapshot)?.gather())
}

/// A registry that holds this snapshot.
fn registry(s: &Snapshot) -> Result<Registry> {
    let r = Builder(Registry::new());
    daemon(&r, s)?;
    agents(&r, s)?;
    dns::register(&r, s)?;
    gateway::register(&r, s)?;
    policy(&r, s)?;
    approvals(&r, s)?;
    kernel(&r, s)?;
    events(&r, s)?;
    process(&r, s)?;
    Ok(r.0)
}

fn daemon(r: &Builder, s: &Snapshot) -> Result<()> {
    r.gauge(
        "exeat_build_info",
        "Version and source revision of the daemon; always 1.",
        &["version", "revision"],
    )?
    .with_label_values(&[s.version.as_str(), s.revision.as_str()])
    .set(1);
    r.gauge(
        "exeat_enforcement_active",
        "1 if every required wall is up.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .set(s.enforcing.into());
    let walls = r.gauge(
        "exeat_walls",
        "1 for the state that a wall is in, 0 for its other states.",
        &["wall", "state"],
    )?;
    for wall in &s.walls {
        for state in WallState::ALL {
            walls
                .with_label_values(&[wall.name.as_str(), state.as_str()])
                .set((state == wall.state).into());
        }
    }
    let launches = r.counter(
        "exeat_sandbox_launches_total",
        "Programs that were to be started under a policy, by outcome.",
        &["outcome"],
    )?;
    for launch in Launch::ALL {
        launches
            .with_label_values(&[launch.as_str()])
            .inc_by(s.launches[launch.index()]);
    }
    Ok(())
}

fn agents(r: &Builder, s: &Snapshot) -> Result<()> {
    r.gauge("exeat_agents", "Agents that have a policy.", &[])?
        .with_label_values::<&str>(&[])
        .set(gauge(s.governed));
    let blocked = r.counter(
        "exeat_flows_blocked_total",
        "Flows refused (in monitor mode: that would be), by reason and protocol.",
        &["agent", "reason", "protocol"],
    )?;
    let allowed = r.counter(
        "exeat_flows_allowed_total",
        "Flows let out, counted at their first packet.",
        &["agent", "protocol"],
    )?;
    let sent = r.counter(
        "exeat_sent_bytes_total",
        "Bytes let out, IP header included.",
        &["agent"],
    )?;
    let incidents = r.counter(
        "exeat_incidents_total",
        "Incidents since the daemon started, by what happened.",
        &["agent", "kind"],
    )?;
    let leases = r.gauge(
        "exeat_leases",
        "Addresses that names stand for now.",
        &["agent"],
    )?;
    let throttled = r.counter(
        "exeat_events_throttled_total",
        "Events that the throttle kept back. No verdict depends on them.",
        &["agent"],
    )?;
    for a in &s.agents {
        let name = a.name.as_str();
        for protocol in ProtocolClass::ALL {
            let slot = protocol as usize;
            for reason in Reason::ALL {
                blocked
                    .with_label_values(&[name, reason.as_str(), protocol.as_str()])
                    .inc_by(a.stats.blocked[usize::from(reason.number())][slot]);
            }
            allowed
                .with_label_values(&[name, protocol.as_str()])
                .inc_by(a.stats.allowed[slot]);
        }
        sent.with_label_values(&[name]).inc_by(a.stats.sent_bytes);
        for kind in IncidentKind::ALL {
            incidents
                .with_label_values(&[name, kind.as_str()])
                .inc_by(a.incidents[kind.index()]);
        }
        leases.with_label_values(&[name]).set(gauge(a.leases));
        throttled
            .with_label_values(&[name])
            .inc_by(a.stats.events_throttled);
    }
    Ok(())
}

fn policy(r: &Builder, s: &Snapshot) -> Result<()> {
    let info = r.gauge(
        "exeat_policy_info",
        "Digest and files of the policy in force; always 1.",
        &["digest", "source"],
    )?;
    for source in &s.policy_sources {
        info.with_label_values(&[s.policy_digest.as_str(), source.as_str()])
            .set(1);
    }
    let rules = r.gauge("exeat_policy_rules", "Rules in force.", &["kind"])?;
    for kind in RuleKind::ALL {
        rules
            .with_label_values(&[kind.as_str()])
            .set(gauge(s.policy_rules[kind.index()]));
    }
    let failures = r.counter(
        "exeat_policy_load_failures_total",
        "Loads that failed and changed nothing.",
        &["reason"],
    )?;
    for failure in LoadFailure::ALL {
        failures
            .with_label_values(&[failure.as_str()])
            .inc_by(s.policy_load_failures[failure.index()]);
    }
    r.gauge_float(
        "exeat_policy_last_load_success_timestamp_seconds",
        "When the policy in force was loaded, Unix time; 0 if never.",
    )?
    .with_label_values::<&str>(&[])
    .set(s.policy_loaded_at);
    r.gauge_float(
        "exeat_policy_expiry_timestamp_seconds",
        "Until when the policy bundle in force is to be believed, Unix time; 0 without one.",
    )?
    .with_label_values::<&str>(&[])
    .set(s.bundle_expires_at);
    r.gauge(
        "exeat_bundle_version",
        "Version of the policy bundle in force; 0 without one.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .set(gauge(s.bundle_version));
    let refused = r.counter(
        "exeat_bundles_refused_total",
        "Policy bundles that were not taken; the last good one stayed in force.",
        &["reason"],
    )?;
    for kind in crate::bundle::RefusalKind::ALL {
        refused
            .with_label_values(&[kind.as_str()])
            .inc_by(s.bundle_refusals[kind.index()]);
    }
    Ok(())
}

fn approvals(r: &Builder, s: &Snapshot) -> Result<()> {
    let decided = r.counter(
        "exeat_approvals_total",
        "What became of what people were asked, and grants given ahead, by what about.",
        &["decision", "scope"],
    )?;
    for decision in Decision::ALL {
        for scope in Scope::ALL {
            decided
                .with_label_values(&[decision.as_str(), scope.as_str()])
                .inc_by(s.approvals[decision.index()][scope.index()]);
        }
    }
    r.gauge(
        "exeat_approvals_pending",
        "Questions that wait for a person.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .set(gauge(s.approvals_pending));
    Ok(())
}

fn kernel(r: &Builder, s: &Snapshot) -> Result<()> {
    let programs = r.gauge(
        "exeat_bpf_programs_attached",
        "BPF programs of ours that are attached.",
        &["hook"],
    )?;
    for (hook, attached) in &s.programs {
        programs
            .with_label_values(&[hook.as_str()])
            .set(gauge(*attached));
    }
    let entries = r.gauge(
        "exeat_bpf_map_entries",
        "Entries in use. Of maps that every agent has, the fullest.",
        &["map"],
    )?;
    let max = r.gauge(
        "exeat_bpf_map_max_entries",
        "The most entries that a map takes.",
        &["map"],
    )?;
    for m in &s.maps {
        entries
            .with_label_values(&[m.map.as_str()])
            .set(gauge(m.entries));
        max.with_label_values(&[m.map.as_str()])
            .set(gauge(m.max_entries));
    }
    Ok(())
}

fn events(r: &Builder, s: &Snapshot) -> Result<()> {
    let lost = r.counter(
        "exeat_events_lost_total",
        "Events that were lost, by stage. No verdict depends on them.",
        &["stage"],
    )?;
    for stage in LossStage::ALL {
        lost.with_label_values(&[stage.as_str()])
            .inc_by(s.events_lost[stage.index()]);
    }
    r.counter(
        "exeat_audit_records_total",
        "Events in the audit log since the daemon started.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .inc_by(s.audit_records);
    r.counter(
        "exeat_audit_write_failures_total",
        "Events that the audit log should have and does not; it says how many itself.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .inc_by(s.audit_write_failures);
    let sinks = r.counter(
        "exeat_sink_events_total",
        "Events handed to a sink, by what became of them.",
        &["sink", "outcome"],
    )?;
    let file = &s.sinks.file;
    for (sink, outcome, count) in [
        ("memory", "ok", s.sinks.published),
        ("follower", "dropped", s.sinks.follower_lost),
        ("file", "ok", file.written),
        ("file", "dropped", file.dropped),
        ("file", "failed", file.failed),
    ] {
        sinks.with_label_values(&[sink, outcome]).inc_by(count);
    }
    let queued = r.gauge(
        "exeat_sink_queue_length",
        "Records that wait for a sink, in memory and on the disk.",
        &["sink"],
    )?;
    let last = r.add(GaugeVec::new(
        Opts::new(
            "exeat_sink_last_success_timestamp_seconds",
            "When a record last arrived at a sink, Unix time; 0 if never since the start.",
        ),
        &["sink"],
    )?)?;
    for place in &s.places {
        let name = place.name.as_str();
        for (outcome, count) in [
            ("ok", place.delivered),
            ("dropped", place.dropped),
            ("failed", place.failed),
        ] {
            sinks.with_label_values(&[name, outcome]).inc_by(count);
        }
        queued.with_label_values(&[name]).set(gauge(place.queued));
        let at = place.last_success.map_or(0, |at| at.as_millisecond());
        last.with_label_values(&[name]).set(at as f64 / 1000.0);
    }
    Ok(())
}

/// The names that every Prometheus client library uses, without our prefix.
fn process(r: &Builder, s: &Snapshot) -> Result<()> {
    let Some(p) = &s.process else { return Ok(()) };
    let cpu = CounterVec::new(
        Opts::new(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        ),
        &[],
    )?;
    cpu.with_label_values::<&str>(&[]).inc_by(p.cpu_seconds);
    r.0.register(Box::new(cpu))?;
    r.gauge_float(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
    )?
    .with_label_values::<&str>(&[])
    .set(p.start_time_seconds);
    for (name, help, value) in [
        (
            "process_open_fds",
            "Number of open file descriptors.",
            p.open_fds,
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            p.max_fds,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            p.virtual_bytes,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            p.resident_bytes,
        ),
        (
            "process_threads",
            "Number of OS threads in the process.",
            p.threads,
        ),
    ] {
        r.gauge(name, help, &[])?
            .with_label_values::<&str>(&[])
            .set(gauge(value));
    }
    Ok(())
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A registry that registers what it makes.
struct Builder(Registry);

impl Builder {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge_float(&self, name: &str, help: &str) -> Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), &[])?)
    }
}

#[cfg(test)]
mod cardinality;
#[cfg(test)]
mod tests;
