//! What the page says of names: gates, cache, upstream servers, grants.

use std::collections::HashMap;

use prometheus::Result;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::Builder;
use super::snapshot::{DnsVerdict, Rcode, Snapshot, UpstreamFailure};
use crate::dns::gate::Verdict;
use crate::dns::stats::{Durations, Transport};

/// What all agents share of names.
#[derive(Debug, Clone, Default)]
pub struct DnsSample {
    /// The resolver's cache.
    pub cache: CacheSample,
    /// Every upstream server that was ever in force.
    pub upstreams: Vec<UpstreamSample>,
    /// How long answers waited until the kernel held their addresses.
    pub grants: HistogramSample,
    /// Addresses left out of answers because a public name may not stand for them.
    pub rebind_dropped: u64,
}

/// The resolver's cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheSample {
    /// Look-ups answered from it.
    pub hits: u64,
    /// Look-ups that it had no good answer to.
    pub misses: u64,
    /// Look-ups answered with what had ended, because no server answered.
    pub stale: u64,
    /// Answers fetched anew before they ended.
    pub prefetches: u64,
    /// Answers in it.
    pub entries: u64,
    /// Their weight, which is what bounds it.
    pub bytes: u64,
    /// The most weight.
    pub max_bytes: u64,
}

/// One upstream server.
#[derive(Debug, Clone, Default)]
pub struct UpstreamSample {
    /// As in the configuration but for the path of an HTTPS one, or `other` for all beyond those that are counted apart.
    pub label: String,
    /// Whether its last request was answered; none when it is in force no more.
    pub well: Option<bool>,
    /// Requests by each way to it.
    pub requests: Vec<(Transport, HistogramSample)>,
    /// Questions that gave no answer.
    pub failures: [u64; UpstreamFailure::COUNT],
}

/// Durations, counted.
#[derive(Debug, Clone, Default)]
pub struct HistogramSample {
    /// How many took no longer than a bound in seconds, by bound.
    pub within: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum: f64,
}

impl From<&Durations> for HistogramSample {
    fn from(durations: &Durations) -> Self {
        let within = durations.within().into_iter();
        let within: Vec<(f64, u64)> = within
            .map(|(micros, count)| (micros as f64 / 1e6, count))
            .collect();
        // What was added between the two reads is in the count alone.
        let count = durations.count();
        Self {
            within,
            count,
            sum: durations.sum().as_secs_f64(),
        }
    }
}

/// What one agent's gate counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GateSample {
    /// Queries by verdict and answer.
    pub queries: [[u64; Rcode::COUNT]; DnsVerdict::COUNT],
    /// Queries by what became of them, in the order of [`Verdict::ALL`].
    pub outcomes: [u64; Verdict::ALL.len()],
    /// Budgets of a domain that were crossed.
    pub budgets_crossed: u64,
    /// What its bounds cut off.
    pub drops: [u64; GateDrop::COUNT],
}

super::snapshot::labels! {
    /// What a bound of the gate, or the system, cut off.
    GateDrop {
        /// A reply that could not be sent.
        Reply = "reply",
        /// A TCP connection beyond those that an agent may have.
        Connection = "connection",
        /// A TCP message longer than the gate reads.
        Message = "message",
    }
}

pub(super) fn register(r: &Builder, s: &Snapshot) -> Result<()> {
    gates(r, s)?;
    cache(r, &s.dns.cache)?;
    upstreams(r, &s.dns.upstreams)?;
    r.counter(
        "exeat_dns_rebind_answers_dropped_total",
        "Addresses left out of answers because a public name may not stand for them.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .inc_by(s.dns.rebind_dropped);
    Histograms::new(
        "exeat_dns_grant_duration_seconds",
        "Time that an answer waited until the kernel held its addresses, the wait for the daemon's own work included. Answers that the kernel holds already do not wait.",
        &[],
    )?
    .with(vec![], &s.dns.grants)
    .register(r)
}

fn gates(r: &Builder, s: &Snapshot) -> Result<()> {
    let queries = r.counter(
        "exeat_dns_queries_total",
        "Queries at the gate, by verdict and answer.",
        &["agent", "verdict", "rcode"],
    )?;
    let outcomes = r.counter(
        "exeat_dns_outcomes_total",
        "Queries at the gate, by what became of them: the same words as in events.",
        &["agent", "outcome"],
    )?;
    let crossed = r.counter(
        "exeat_dns_budgets_crossed_total",
        "Budgets of names below a wildcard that were crossed; of one domain at most once an hour.",
        &["agent"],
    )?;
    let drops = r.counter(
        "exeat_dns_gate_drops_total",
        "What the gate's bounds cut off, or the system did not let it send.",
        &["agent", "kind"],
    )?;
    for a in &s.agents {
        let name = a.name.as_str();
        for verdict in DnsVerdict::ALL {
            for rcode in Rcode::ALL {
                queries
                    .with_label_values(&[name, verdict.as_str(), rcode.as_str()])
                    .inc_by(a.gate.queries[verdict.index()][rcode.index()]);
            }
        }
        for (verdict, count) in Verdict::ALL.iter().zip(a.gate.outcomes) {
            outcomes
                .with_label_values(&[name, verdict.as_str()])
                .inc_by(count);
        }
        crossed
            .with_label_values(&[name])
            .inc_by(a.gate.budgets_crossed);
        for drop in GateDrop::ALL {
            drops
                .with_label_values(&[name, drop.as_str()])
                .inc_by(a.gate.drops[drop.index()]);
        }
    }
    Ok(())
}

fn cache(r: &Builder, c: &CacheSample) -> Result<()> {
    for (name, help, count) in [
        (
            "exeat_dns_cache_hits_total",
            "Look-ups answered from the cache.",
            c.hits,
        ),
        (
            "exeat_dns_cache_misses_total",
            "Look-ups that the cache had no good answer to, so that servers were asked.",
            c.misses,
        ),
        (
            "exeat_dns_cache_stale_total",
            "Look-ups answered with what had ended, because no server answered.",
            c.stale,
        ),
        (
            "exeat_dns_cache_prefetches_total",
            "Answers in use that were fetched anew before they ended.",
            c.prefetches,
        ),
    ] {
        r.counter(name, help, &[])?
            .with_label_values::<&str>(&[])
            .inc_by(count);
    }
    for (name, help, value) in [
        (
            "exeat_dns_cache_entries",
            "Answers in the cache, ended ones that may still serve included.",
            c.entries,
        ),
        (
            "exeat_dns_cache_bytes",
            "What the answers in the cache weigh; the least used leave when it is full.",
            c.bytes,
        ),
        (
            "exeat_dns_cache_max_bytes",
            "The most that the cache holds.",
            c.max_bytes,
        ),
    ] {
        r.gauge(name, help, &[])?
            .with_label_values::<&str>(&[])
            .set(super::gauge(value));
    }
    Ok(())
}

fn upstreams(r: &Builder, upstreams: &[UpstreamSample]) -> Result<()> {
    let mut requests = Histograms::new(
        "exeat_dns_upstream_request_duration_seconds",
        "Time that a question to a server took by one transport, attempts included; what timed out counts with its time.",
        &["transport", "upstream"],
    )?;
    let failures = r.counter(
        "exeat_dns_upstream_failures_total",
        "Questions to a server that gave no answer. That there is no such name is an answer.",
        &["upstream", "reason"],
    )?;
    let up = r.gauge(
        "exeat_dns_upstream_up",
        "1 if the last request to a server in force was answered, or there was none yet; 0 while it is asked after the others.",
        &["upstream"],
    )?;
    for u in upstreams {
        let label = u.label.as_str();
        for (transport, sample) in &u.requests {
            requests = requests.with(
                vec![("transport", transport.as_str()), ("upstream", label)],
                sample,
            );
        }
        for failure in UpstreamFailure::ALL {
            failures
                .with_label_values(&[label, failure.as_str()])
                .inc_by(u.failures[failure.index()]);
        }
        if let Some(well) = u.well {
            up.with_label_values(&[label]).set(well.into());
        }
    }
    requests.register(r)
}

/// Histograms that were counted elsewhere.
struct Histograms {
    desc: Desc,
    family: MetricFamily,
}

impl Histograms {
    /// None yet. Labels are given in the order of their names.
    fn new(name: &str, help: &str, labels: &[&str]) -> Result<Self> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        Ok(Self { desc, family })
    }

    fn with(mut self, labels: Vec<(&str, &str)>, sample: &HistogramSample) -> Self {
        let pair = |(name, value): (&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(sample.within.iter().map(bucket).collect());
        histogram.set_sample_count(sample.count);
        histogram.set_sample_sum(sample.sum);
        let mut metric = Metric::from_label(labels.into_iter().map(pair).collect());
        metric.set_histogram(histogram);
        self.family.mut_metric().push(metric);
        self
    }

    fn register(self, r: &Builder) -> Result<()> {
        // A family without a metric is no family, and the registry says so by a panic.
        if self.family.get_metric().is_empty() {
            return Ok(());
        }
        r.0.register(Box::new(self))
    }
}

impl Collector for Histograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        vec![self.family.clone()]
    }
}
