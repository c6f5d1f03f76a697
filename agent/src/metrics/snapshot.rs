//! What a scrape shows: plain numbers, absolute since they began to count.

use agent_common::layout::Stats;

use super::dns::{DnsSample, GateSample};
use super::gateway::GatewaySample;
use crate::control::status::Wall;
use crate::incident::IncidentKind;
use crate::sink::{HubCounts, SinkState};

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Index in an array of [`Self::COUNT`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use labels;

labels! {
    /// What the gate did with a query.
    DnsVerdict {
        /// The policy names it.
        Allow = "allow",
        /// It does not.
        Deny = "deny",
    }
}

labels! {
    /// What the gate answered (RFC 1035 section 4.1.1).
    Rcode {
        /// Answered, perhaps with no address.
        NoError = "noerror",
        /// The query could not be read.
        FormErr = "formerr",
        /// The name has no usable address now, or the maps could not take it.
        ServFail = "servfail",
        /// No such name.
        NxDomain = "nxdomain",
        /// A kind of query that the gate does not do.
        NotImp = "notimp",
        /// The policy does not name it.
        Refused = "refused",
    }
}

labels! {
    /// How a query to an upstream failed.
    UpstreamFailure {
        /// No answer in time.
        Timeout = "timeout",
        /// It could not be sent or received.
        Network = "network",
        /// SERVFAIL, REFUSED or another error code.
        Rcode = "rcode",
        /// The name does not exist, or has no address.
        NoRecords = "no_records",
        /// The answer cannot be trusted or read.
        Invalid = "invalid",
    }
}

labels! {
    /// What a rule does.
    RuleKind {
        /// Lets out.
        Allow = "allow",
        /// Refuses.
        Deny = "deny",
        /// Lets a local port answer.
        Listen = "listen",
    }
}

labels! {
    /// Why a policy did not come into force.
    LoadFailure {
        /// The files are not a policy.
        Invalid = "invalid",
        /// It does not fit into the maps.
        TooLarge = "too_large",
        /// The kernel did not take it.
        Kernel = "kernel",
    }
}

labels! {
    /// Where events are lost.
    LossStage {
        /// No room in the kernel's ring.
        Kernel = "kernel",
        /// Unreadable in the ring, or missing by their numbers.
        Ring = "ring",
        /// A queue of the daemon was full.
        Queue = "queue",
        /// A follower was too slow.
        Follower = "follower",
    }
}

labels! {
    /// How a launch ended.
    Launch {
        /// The program was let go, governed.
        Ok = "ok",
        /// What the policy requires could not be enforced, or it named no such agent.
        Refused = "refused",
        /// A call failed.
        Failed = "failed",
    }
}

labels! {
    /// What became of what people were asked.
    Decision {
        /// A person allowed it, asked or ahead.
        Allowed = "allowed",
        /// A person denied it, asked or ahead.
        Denied = "denied",
        /// Nobody answered in time.
        TimedOut = "timed_out",
        /// Denied without a question: too many of them, or nobody answered the same before.
        Throttled = "throttled",
        /// The question was of no use any more.
        Withdrawn = "withdrawn",
    }
}

labels! {
    /// What an answer is about.
    Scope {
        /// One host.
        Name = "name",
        /// A domain and all below it.
        Domain = "domain",
        /// One address.
        Address = "address",
        /// Nothing: no person decided.
        None = "none",
    }
}

/// One scrape. Every number is absolute; [`super::encode`] makes the text.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Version of the daemon.
    pub version: String,
    /// Source revision that it was built from.
    pub revision: String,
    /// Every required wall is up.
    pub enforcing: bool,
    /// Why health is not `ok`; empty if it is. Shown at `/healthz`.
    pub degraded: Vec<String>,
    /// The walls.
    pub walls: Vec<Wall>,
    /// Agents that a policy governs.
    pub governed: u64,
    /// Their samples, and one for processes in the slice that belong to no agent.
    pub agents: Vec<AgentSample>,
    /// Names.
    pub dns: DnsSample,
    /// Digest of the policy in force; empty if there is none.
    pub policy_digest: String,
    /// Files of the policy in force.
    pub policy_sources: Vec<String>,
    /// Rules in force.
    pub policy_rules: [u64; RuleKind::COUNT],
    /// Failed loads.
    pub policy_load_failures: [u64; LoadFailure::COUNT],
    /// Version of the policy bundle in force; 0 without one.
    pub bundle_version: u64,
    /// Until when it is to be believed, Unix seconds; 0 without one.
    pub bundle_expires_at: f64,
    /// Bundles that were refused, by reason.
    pub bundle_refusals: [u64; crate::bundle::RefusalKind::COUNT],
    /// When the policy in force was loaded, Unix seconds; 0 if never.
    pub policy_loaded_at: f64,
    /// BPF programs attached, by hook.
    pub programs: Vec<(String, u64)>,
    /// The bounded maps. Of maps that every agent has, the fullest.
    pub maps: Vec<MapSample>,
    /// Events lost, by stage.
    pub events_lost: [u64; LossStage::COUNT],
    /// Counts of the hub.
    pub sinks: HubCounts,
    /// The other places where records go.
    pub places: Vec<SinkState>,
    /// Records in the audit log.
    pub audit_records: u64,
    /// Records that it should have and does not.
    pub audit_write_failures: u64,
    /// Launches.
    pub launches: [u64; Launch::COUNT],
    /// What people decided, by what about.
    pub approvals: [[u64; Scope::COUNT]; Decision::COUNT],
    /// Questions that stand.
    pub approvals_pending: u64,
    /// The daemon's own use of resources.
    pub process: Option<ProcessSample>,
}

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentSample {
    /// Its name.
    pub name: String,
    /// What the kernel counted, summed over CPUs.
    pub stats: Stats,
    /// What its gate counted.
    pub gate: GateSample,
    /// What its gateway counted.
    pub gateway: GatewaySample,
    /// Leases in force.
    pub leases: u64,
    /// Incidents, by kind.
    pub incidents: [u64; IncidentKind::COUNT],
}

/// One bounded map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapSample {
    /// Its name.
    pub map: String,
    /// Entries in use.
    pub entries: u64,
    /// The most entries that it takes.
    pub max_entries: u64,
}

/// A process's use of resources, by the names that every Prometheus client uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessSample {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Open descriptors.
    pub open_fds: u64,
    /// The most descriptors; 0 if there is no bound.
    pub max_fds: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Memory in use.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Start, Unix seconds.
    pub start_time_seconds: f64,
}

impl ProcessSample {
    /// This process now. `None` if `/proc` cannot be read.
    pub fn read() -> Option<Self> {
        use procfs::process::{LimitValue, Process};
        let me = Process::myself().ok()?;
        let stat = me.stat().ok()?;
        let ticks = procfs::ticks_per_second().max(1);
        let start_ns = u128::from(stat.starttime) * 1_000_000_000 / u128::from(ticks);
        let clock = crate::process::boot_clock().ok()?;
        let start = clock.at(u64::try_from(start_ns).ok()?);
        Some(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks as f64,
            open_fds: me.fd_count().ok()? as u64,
            max_fds: match me.limits().ok()?.max_open_files.soft_limit {
                LimitValue::Value(n) => n,
                LimitValue::Unlimited => 0,
            },
            virtual_bytes: stat.vsize,
            resident_bytes: stat.rss * procfs::page_size(),
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            start_time_seconds: start.as_millisecond() as f64 / 1000.0,
        })
    }
}
