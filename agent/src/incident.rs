//! What happened to an agent and is no flow: it hit a limit, was frozen, runs a program that
//! nobody knows. Incidents go where flows go, numbered with them ([`crate::sink::Hub::incident`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::flow::printable;
use crate::metrics::labels;

/// The agent of an incident that is of none, as of flows whose agent is not known.
pub const NO_AGENT: &str = "(unknown)";

/// In place of an agent where it is about the daemon or the whole machine.
pub const DAEMON: &str = "(daemon)";

labels! {
    /// What happened.
    #[derive(PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    IncidentKind {
        /// A limit of the policy was hit.
        LimitHit = "limit_hit",
        /// Cut off from the network, then stopped.
        Frozen = "frozen",
        /// Let go on.
        Thawed = "thawed",
        /// Cut off from the network, then ended.
        Killed = "killed",
        /// A program is not the one that the policy identifies.
        IdentityMismatch = "identity_mismatch",
        /// A program that was started by somebody else was put under its agent's policy.
        Adopted = "adopted",
        /// A wall that the policy requires does not stand.
        WallMissing = "wall_missing",
        /// A program that no agent's policy describes.
        UnknownProgram = "unknown_program",
        /// A person is asked about a destination.
        Asked = "asked",
        /// A question ended: allowed, denied, or not answered in time.
        Answered = "answered",
        /// An answer holds from now on.
        Granted = "granted",
        /// A grant ended: by its time, with its run, or revoked.
        GrantEnded = "grant_ended",
        /// Cut off from the network by a person or a rule; its processes go on.
        Isolated = "isolated",
        /// Connected again.
        Rejoined = "rejoined",
        /// A detection rule fired.
        Detected = "detected",
        /// A policy is in force that was not before.
        PolicyLoaded = "policy_loaded",
        /// A policy was not valid; the one before stays.
        PolicyRefused = "policy_refused",
        /// A signed policy bundle was taken.
        BundleInstalled = "bundle_installed",
        /// A bundle was not taken; the last good one stays.
        BundleRefused = "bundle_refused",
        /// The bundle before is in force again.
        BundleRolledBack = "bundle_rolled_back",
        /// The daemon started.
        DaemonStarted = "daemon_started",
        /// The daemon was told to stop; what it enforces stays.
        DaemonStopped = "daemon_stopped",
        /// Events were lost on their way.
        EventsLost = "events_lost",
        /// A network's portal was opened for a time, for an agent or the daemon's resolver.
        PortalOpened = "portal_opened",
        /// It is closed.
        PortalClosed = "portal_closed",
        /// The clock was set, or the machine slept.
        ClockJumped = "clock_jumped",
        /// The network is another one: addresses, routes or name servers.
        NetworkChanged = "network_changed",
    }
}

impl IncidentKind {
    /// Whether it is part of a quiet day, so that the daemon's log says it without a warning.
    pub const fn is_routine(self) -> bool {
        use IncidentKind as K;
        matches!(
            self,
            K::Thawed
                | K::Adopted
                | K::Asked
                | K::Answered
                | K::Granted
                | K::GrantEnded
                | K::Rejoined
                | K::PolicyLoaded
                | K::BundleInstalled
                | K::DaemonStarted
                | K::DaemonStopped
                | K::PortalClosed
                | K::ClockJumped
                | K::NetworkChanged
        )
    }
}

impl std::fmt::Display for IncidentKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number, in the same row as those of flows. Given by [`crate::sink::Hub::incident`];
    /// 0 before.
    pub seq: u64,
    /// When it happened.
    pub time: Timestamp,
    /// Name of the agent, or [`NO_AGENT`] or [`DAEMON`].
    pub agent: String,
    /// What happened.
    pub kind: IncidentKind,
    /// The same in a sentence, with what it was about and what was done.
    pub message: String,
    /// Name of the run, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The process, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its user, or who asked for it: that user may see the incident without administering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The particulars, for programs: words of the kind's own, such as `question` or `digest`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Incident {
    /// One that happens now, of an agent ([`NO_AGENT`] where there is none).
    pub fn new(kind: IncidentKind, agent: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            seq: 0,
            time: Timestamp::now(),
            agent: agent.into(),
            kind,
            message: message.into(),
            run: None,
            pid: None,
            uid: None,
            facts: BTreeMap::new(),
        }
    }

    /// Whether it is about an agent that has a name.
    pub fn is_of_agent(&self) -> bool {
        !matches!(self.agent.as_str(), "" | NO_AGENT | DAEMON)
    }

    /// It is about a run.
    #[must_use]
    pub fn of_run(mut self, run: impl Into<String>) -> Self {
        self.run = Some(run.into());
        self
    }

    /// It is about a process.
    #[must_use]
    pub fn of_process(mut self, pid: u32, uid: Option<u32>) -> Self {
        (self.pid, self.uid) = (Some(pid), uid);
        self
    }

    /// With one of its particulars.
    #[must_use]
    pub fn with(mut self, fact: &str, value: impl Into<String>) -> Self {
        self.facts.insert(fact.to_owned(), value.into());
        self
    }

    /// Seen by this user too, though it is about no process.
    #[must_use]
    pub fn of_user(mut self, uid: Option<u32>) -> Self {
        self.uid = uid;
        self
    }

    /// The incident in one line, safe to show on a terminal; times in `zone`.
    pub fn line(&self, zone: &TimeZone) -> String {
        let time = self.time.to_zoned(zone.clone()).strftime("%H:%M:%S");
        let (agent, kind) = (printable(&self.agent), self.kind);
        let mut line = format!("{time} {agent}  {kind}  {}", printable(&self.message));
        // Writing to a String cannot fail.
        if let Some(run) = &self.run {
            let _ = write!(line, "  run {}", printable(run));
        }
        if let Some(pid) = self.pid {
            let _ = write!(line, "  [{pid}]");
        }
        if let Some(uid) = self.uid {
            let _ = write!(line, " uid {uid}");
        }
        line
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn incident() -> Incident {
        Incident {
            time: "2026-03-04T12:00:00Z".parse().expect("time"),
            ..Incident::new(
                IncidentKind::LimitHit,
                "build-bot",
                "memory: a process was ended",
            )
        }
    }

    #[test]
    fn it_reads_as_one_line() {
        let line = incident().of_run("r1").of_process(7, Some(1000));
        assert_eq!(
            line.line(&TimeZone::UTC),
            "12:00:00 build-bot  limit_hit  memory: a process was ended  run r1  [7] uid 1000"
        );
        let mut hostile = incident();
        hostile.message = "\u{1b}[2J".into();
        assert!(!hostile.line(&TimeZone::UTC).contains('\u{1b}'));
    }

    #[test]
    fn json_has_the_words_and_comes_back() {
        let json = serde_json::to_string(&incident()).expect("json");
        assert_eq!(
            json,
            r#"{"seq":0,"time":"2026-03-04T12:00:00Z","agent":"build-bot","kind":"limit_hit","message":"memory: a process was ended"}"#
        );
        for kind in IncidentKind::ALL {
            let word = serde_json::to_string(&kind).expect("json");
            assert_eq!(word, format!("\"{kind}\""));
        }
        assert_eq!(
            serde_json::from_str::<Incident>(&json).expect("back"),
            incident()
        );
    }
}
