//! The daemon's state as `exeat status` shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::Judged;

/// Everything that `exeat status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon itself.
    pub daemon: DaemonStatus,
    /// Whether, and by which walls, anything is enforced.
    pub enforcement: Enforcement,
    /// Agents, by name.
    pub agents: Vec<AgentStatus>,
    /// Names of the policy, by name.
    pub names: Vec<NameStatus>,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// The resolver.
    pub resolver: ResolverStatus,
    /// Events and their losses.
    pub events: EventsStatus,
    /// Where records go, beside memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkStatus>,
    /// The signed policy bundle; none where bundles are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleStatus>,
    /// The portal that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<PortalStatus>,
    /// The summary.
    pub health: Health,
}

/// A portal that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalStatus {
    /// For which agent; none for the daemon's resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// When it closes.
    pub until: Timestamp,
}

impl Status {
    /// Whether everything that should hold holds.
    pub fn is_healthy(&self) -> bool {
        self.health.state == HealthState::Ok && self.enforcement.active
    }
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Process id.
    pub pid: u32,
    /// Version.
    pub version: String,
    /// Source revision that it was built from.
    pub revision: String,
    /// When it started.
    pub started: Timestamp,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// Name of the slice that holds the agents.
    pub slice: String,
}

/// What is enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// Every required wall is up.
    pub active: bool,
    /// The walls, required and optional.
    pub walls: Vec<Wall>,
}

/// One enforcing mechanism.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall {
    /// Name, such as `connect4`.
    pub name: String,
    /// Where it is attached, such as `cgroup/connect4 at /sys/fs/cgroup`.
    pub hook: String,
    /// Whether it stands.
    pub state: WallState,
    /// Why not; empty if there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What it does not learn on this kernel and does on newer ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves_out: Vec<String>,
}

/// Whether a wall stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WallState {
    /// It stands.
    Up,
    /// This kernel or machine cannot have it.
    Missing,
    /// It should stand and does not.
    Failed,
}

impl WallState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Up, Self::Missing, Self::Failed];

    /// The word in status and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

/// One agent. Counters are since its maps were made, which may be before the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Name.
    pub name: String,
    /// Index in the kernel's tables.
    pub index: u32,
    /// `enforce` or `monitor`.
    pub mode: String,
    /// Generation of its policy.
    pub generation: u32,
    /// Rules of its policy.
    pub rules: u32,
    /// Its cgroup, from the file system's root.
    pub cgroup: PathBuf,
    /// Runs with a live process.
    pub runs: Vec<RunStatus>,
    /// Cgroups and programs that a selector of its policy matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<AdoptedStatus>,
    /// Leases in force.
    pub leases: u32,
    /// Refusals, by reason, then protocol. Zeroes are left out.
    pub blocked: BTreeMap<String, BTreeMap<String, u64>>,
    /// Flows let out, by protocol. Zeroes are left out.
    pub allowed: BTreeMap<String, u64>,
    /// Bytes let out, IP header included.
    pub sent_bytes: u64,
    /// Fill of its maps, by name.
    pub maps: BTreeMap<String, Fill>,
    /// Since when it is frozen; none if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Timestamp>,
    /// Whether the kernel refuses every flow of it, whatever its policy says.
    #[serde(default)]
    pub isolated: bool,
    /// Questions about it that stand.
    #[serde(default)]
    pub questions: u32,
    /// Answers that hold.
    #[serde(default)]
    pub grants: u32,
    /// Its limits, in the order of the documentation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitStatus>,
    /// Its walls beside the hooks of cgroups, which are those of all ([`Enforcement::walls`]).
    #[serde(default)]
    pub walls: Vec<Wall>,
    /// By what a program of it may reach the user's screen or session bus, and so click for a
    /// person; none where it cannot. That it was adopted is not said here: see
    /// [`AgentStatus::adopted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clicks: Option<String>,
}

/// One limit of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Its key, such as `memory` or `io.read`.
    pub limit: String,
    /// Its value, as people write it.
    pub value: String,
    /// Whether it holds.
    pub holds: bool,
    /// Why not, or what is used of it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl AgentStatus {
    /// Refusals of every reason and protocol.
    pub fn blocked_total(&self) -> u64 {
        let all = self.blocked.values().flat_map(BTreeMap::values);
        all.fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Flows let out, of every protocol.
    pub fn allowed_total(&self) -> u64 {
        self.allowed
            .values()
            .fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// One run of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Name.
    pub run: String,
    /// Live processes.
    pub processes: u32,
    /// The files that it was started from, where the policy identifies programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Judged>,
}

/// What is an agent's that no run began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedStatus {
    /// The cgroup that is governed where it is, or the program that was moved.
    pub what: PathBuf,
    /// The selector that matched it; none of one that an earlier daemon found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The run that a program was moved into; none of a cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Live processes.
    pub processes: u32,
}

/// How full a bounded thing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// In use.
    pub used: u64,
    /// The bound.
    pub max: u64,
}

/// One name of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// Whether it resolves.
    pub state: NameState,
    /// Usable addresses.
    pub addresses: Vec<IpAddr>,
    /// Seconds until the first of them ends, if nothing renews it.
    pub expires_in_seconds: Option<u64>,
    /// Failures since the last success.
    pub failures: u32,
    /// The last failure.
    pub last_error: Option<String>,
}

/// Whether a name resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameState {
    /// Asked for the first time; no answer yet.
    Pending,
    /// Resolves.
    Ok,
    /// Fails, and lives on addresses whose grace runs.
    Stale,
    /// Fails, and has no address left.
    Failed,
}

impl NameState {
    /// The word in status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ok => "ok",
            Self::Stale => "stale",
            Self::Failed => "failed",
        }
    }
}

/// The policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Files that it was read from.
    pub sources: Vec<PathBuf>,
    /// Generation.
    pub generation: u32,
    /// When it came into force.
    pub loaded_at: Timestamp,
    /// Why the last reload changed nothing; none if it succeeded.
    pub last_error: Option<String>,
}

/// The resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverStatus {
    /// Servers that are asked.
    pub upstreams: Vec<String>,
    /// Queries asked.
    pub queries: u64,
    /// Queries that failed.
    pub failures: u64,
}

/// Events and their losses. Absolute counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsStatus {
    /// Received from the kernel.
    pub received: u64,
    /// Found no room in the kernel's ring.
    pub lost_kernel: u64,
    /// Left the ring in no readable form, or missing by their numbers.
    pub lost_ring: u64,
    /// Found a queue of the daemon full.
    pub lost_queue: u64,
    /// Kept back by the throttle, and counted.
    pub throttled: u64,
}

/// What is known of policy bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStatus {
    /// The one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<BundleInForce>,
    /// Version of one whose turn in its roll-out has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    /// The last one that was not taken, until one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<BundleRefused>,
    /// Version of the one that was rolled back, until a newer one is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<u32>,
    /// What of the laptop's own policy is not in force beside it, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// The bundle in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleInForce {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Version of the root that it is believed by.
    pub root_version: u32,
    /// When it was built.
    pub published: Timestamp,
    /// Until when it is to be believed.
    pub expires: Timestamp,
    /// Whether that is past: it stays in force, and a newer one should have come.
    pub expired: bool,
    /// `monitor` or `enforce`.
    pub stage: String,
    /// When it came into force.
    pub installed: Timestamp,
    /// The file or address that it came from.
    pub source: String,
}

/// A bundle that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRefused {
    /// In one word, as in the documentation of bundles.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// The file or address that it came from.
    pub source: String,
}

/// One place where records go. Absolute counts since the start, but for the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Records that arrived.
    pub delivered: u64,
    /// Records that wait.
    pub queued: u64,
    /// Records that a full queue cost.
    pub dropped: u64,
    /// Records that were not taken, and never will be.
    pub failed: u64,
    /// When one last arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// From when the oldest record is that was not taken; none while records are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// Why it does not work at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl From<crate::sink::SinkState> for SinkStatus {
    fn from(state: crate::sink::SinkState) -> Self {
        Self {
            name: state.name,
            delivered: state.delivered,
            queued: state.queued,
            dropped: state.dropped,
            failed: state.failed,
            last_success: state.last_success,
            waiting_since: state.waiting_since,
            trouble: state.trouble,
        }
    }
}

/// The summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// Why it is not `ok`.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Which check of `exeat health` each reason belongs to, in the order of the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<crate::health::Check>,
}

/// Health in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Everything that should hold holds.
    Ok,
    /// Something does not; see the reasons.
    Degraded,
}

impl Health {
    /// `ok` without reasons, `degraded` with them.
    pub fn from_reasons(reasons: Vec<String>) -> Self {
        let state = match reasons.is_empty() {
            true => HealthState::Ok,
            false => HealthState::Degraded,
        };
        Self {
            state,
            reasons,
            checks: Vec::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A healthy daemon with one agent.
    pub(crate) fn status() -> Status {
        let blocked = [("tcp".to_owned(), 3), ("udp".to_owned(), 4)];
        let time = "2026-03-04T12:00:00Z".parse().expect("time");
        Status {
            daemon: DaemonStatus {
                pid: 42,
                version: "0.1.0".into(),
                revision: "abc123".into(),
                started: time,
                uptime_seconds: 93_784,
                slice: "exeat.slice".into(),
            },
            enforcement: Enforcement {
                active: true,
                walls: vec![Wall {
                    name: "connect4".into(),
                    hook: "cgroup/connect4 at /sys/fs/cgroup".into(),
                    state: WallState::Up,
                    detail: String::new(),
                    leaves_out: Vec::new(),
                }],
            },
            agents: vec![AgentStatus {
                name: "build-bot".into(),
                index: 0,
                mode: "enforce".into(),
                generation: 2,
                rules: 5,
                cgroup: "/sys/fs/cgroup/exeat.slice/build-bot".into(),
                runs: vec![RunStatus {
                    run: "r1".into(),
                    processes: 2,
                    programs: Vec::new(),
                }],
                adopted: Vec::new(),
                leases: 6,
                blocked: [("no_rule".to_owned(), blocked.into())].into(),
                allowed: [("tcp".to_owned(), 11)].into(),
                sent_bytes: 5_300_000,
                maps: [("exact".to_owned(), Fill { used: 6, max: 1024 })].into(),
                ..AgentStatus::default()
            }],
            names: vec![NameStatus {
                name: "api.example.com".into(),
                state: NameState::Ok,
                addresses: vec!["192.0.2.7".parse().expect("address")],
                expires_in_seconds: Some(61),
                failures: 0,
                last_error: None,
            }],
            policy: PolicyStatus {
                digest: "0123456789abcdef0123456789abcdef".into(),
                sources: vec!["/etc/exeat/policy.d/a.yaml".into()],
                generation: 2,
                loaded_at: time,
                last_error: None,
            },
            resolver: ResolverStatus {
                upstreams: vec!["192.0.2.53:53".to_owned()],
                queries: 9,
                failures: 1,
            },
            events: EventsStatus {
                received: 7,
                ..Default::default()
            },
            sinks: Vec::new(),
            bundle: None,
            portal: None,
            health: Health::from_reasons(vec![]),
        }
    }

    #[test]
    fn a_status_comes_back_from_json() {
        let json = serde_json::to_string(&status()).expect("json");
        assert_eq!(
            serde_json::from_str::<Status>(&json).expect("back"),
            status()
        );
    }

    #[test]
    fn healthy_means_ok_and_enforcing() {
        let mut s = status();
        assert!(s.is_healthy());
        s.enforcement.active = false;
        assert!(!s.is_healthy());
        s.enforcement.active = true;
        s.health = Health::from_reasons(vec!["a wall fell".into()]);
        assert!(!s.is_healthy());
    }

    #[test]
    fn totals_add_up() {
        let agent = &status().agents[0];
        assert_eq!((agent.blocked_total(), agent.allowed_total()), (7, 11));
    }
}
