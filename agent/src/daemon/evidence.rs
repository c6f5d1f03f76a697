//! What the daemon tells of itself: its start and its end, policies that came into force or
//! did not, and losses. And the audit log, where all of it goes.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{Lifetime, Shared, engine::Engine, report};
use crate::{
    audit::{AuditSink, Options},
    config::Config,
    control::protocol::ReloadReport,
    incident::{DAEMON, Incident, IncidentKind},
    ocsf::Device,
    policy::mode_str,
    sink::{Hub, Sink},
};

/// The file that is there while a daemon runs.
const MARK: &str = "running";
/// Losses are told at most so often; what is lost meanwhile is added up.
const TELL_LOSSES: Duration = Duration::from_secs(60);

/// The audit log as a place for records, if there shall be one. A daemon of one run has none:
/// its folders go with it.
pub(super) fn audit(config: &Config, lifetime: Lifetime) -> Option<Arc<dyn Sink>> {
    let audit = &config.audit;
    if !audit.enabled || lifetime == Lifetime::OneRun {
        return None;
    }
    let options = Options {
        folder: config.audit_folder(),
        max_bytes: audit.max_bytes,
        keep: audit.keep,
        checkpoint: Duration::from_secs(audit.checkpoint_seconds.into()),
        allowed: audit.allowed,
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
    };
    match AuditSink::start(options, Device::here()) {
        Ok(sink) => Some(Arc::new(sink)),
        Err(e) => {
            error!(error = %e, "there is no audit log: its thread cannot be started");
            None
        }
    }
}

/// How the daemon before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastStop {
    /// It was told to.
    Clean,
    /// It was killed, or the power went.
    Unclean,
    /// There was none, or that is not known.
    Unknown,
}

impl LastStop {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Unclean => "unclean",
            Self::Unknown => "unknown",
        }
    }

    /// Looks for the last daemon's mark, and leaves one.
    pub(super) fn begin(state_dir: &Path) -> Self {
        let mark = state_dir.join(MARK);
        let last = match std::fs::read_to_string(&mark) {
            Ok(text) if text.trim() == Self::Clean.as_str() => Self::Clean,
            Ok(_) => Self::Unclean,
            Err(_) => Self::Unknown,
        };
        if let Err(error) = write_mark(&mark, "running") {
            warn!(%error, "the next start cannot know how this daemon ended");
        }
        last
    }

    /// The daemon ends as it should.
    pub(super) fn end(state_dir: &Path) {
        if let Err(error) = write_mark(&state_dir.join(MARK), Self::Clean.as_str()) {
            warn!(%error, "the next start cannot know how this daemon ended");
        }
    }
}

fn write_mark(mark: &Path, word: &str) -> io::Result<()> {
    crate::private::write(mark, 0o600, format!("{word}\n").as_bytes())
}

/// Tells that the daemon started, with what is in force.
pub(super) fn started(hub: &Hub, engine: &Engine, last: LastStop) {
    let version = report::VERSION;
    let message = match last {
        LastStop::Clean => format!("version {version}"),
        LastStop::Unclean => format!("version {version}; the one before ended without a word"),
        LastStop::Unknown => format!("version {version}; of one before nothing is known"),
    };
    let incident = Incident::new(IncidentKind::DaemonStarted, DAEMON, message)
        .with("version", version)
        .with("revision", report::REVISION)
        .with("digest", &*engine.digest)
        .with("generation", engine.generation.to_string())
        .with("last_stop", last.as_str());
    hub.incident(incident);
}

/// Tells that the daemon was told to stop.
pub(super) fn stopped(hub: &Hub, engine: &Engine) {
    let message = "what was enforced stays enforced";
    let incident = Incident::new(IncidentKind::DaemonStopped, DAEMON, message)
        .with("version", report::VERSION)
        .with("digest", &*engine.digest)
        .with("generation", engine.generation.to_string());
    hub.incident(incident);
}

/// The modes of agents, to be held against those after a load.
pub(super) fn modes(engine: &Engine) -> BTreeMap<String, &'static str> {
    let mode = |agent: &super::agents::Agent| mode_str(agent.policy.mode);
    (engine.agents.iter())
        .map(|(name, agent)| (name.clone(), mode(agent)))
        .collect()
}

impl Engine {
    /// Tells that a policy is in force; `before` are the modes until then.
    pub(super) fn tell_loaded(
        &self,
        report: &ReloadReport,
        before: &BTreeMap<String, &'static str>,
        kept: bool,
    ) {
        let changed: Vec<String> = modes(self)
            .iter()
            .filter_map(|(name, mode)| {
                let was = before.get(name)?;
                (was != mode).then(|| format!("{name}: {was} to {mode}"))
            })
            .collect();
        let generation = report.generation;
        let mut message = format!(
            "generation {generation}: {} agents, {} rules",
            report.agents, report.rules
        );
        if kept {
            message.push_str("; the last good one, because the files do not load");
        }
        if !changed.is_empty() {
            message.push_str(&format!("; mode of {}", changed.join(", ")));
        }
        let files: Vec<String> = (report.sources.iter())
            .map(|path| path.display().to_string())
            .collect();
        let incident = Incident::new(IncidentKind::PolicyLoaded, DAEMON, message)
            .with("generation", generation.to_string())
            .with("digest", &*report.digest)
            .with("files", files.join("; "))
            .with("changes", report.changes.join("; "))
            .with("modes", changed.join("; "));
        self.hub.incident(incident);
    }

    /// Tells that a policy did not come into force.
    pub(super) fn tell_refused(&self, why: &str) {
        let files: Vec<String> = self.paths.iter().map(|p| p.display().to_string()).collect();
        let incident = Incident::new(IncidentKind::PolicyRefused, DAEMON, why)
            .with("files", files.join("; "))
            .with("generation", self.generation.to_string())
            .with("digest", &*self.digest);
        self.hub.incident(incident);
    }
}

/// Counts of losses that were told.
#[derive(Debug, Default)]
pub(super) struct Losses {
    told: BTreeMap<String, u64>,
    last: Option<Instant>,
}

impl Losses {
    /// Tells what was lost since the last time, unless that is too young.
    pub(super) fn tell(&mut self, shared: &Shared, last_word: bool) {
        let status = shared.with(|engine| report::events(shared, engine));
        let mut now = BTreeMap::from([
            ("kernel".to_owned(), status.lost_kernel),
            ("ring".to_owned(), status.lost_ring),
            ("queue".to_owned(), status.lost_queue),
            ("follower".to_owned(), shared.hub.counts().follower_lost),
        ]);
        for sink in shared.hub.sinks() {
            now.insert(format!("sink {}", sink.name), sink.dropped + sink.failed);
        }
        let young = self.last.is_some_and(|at| at.elapsed() < TELL_LOSSES);
        if young && !last_word {
            return;
        }
        if let Some(incident) = self.incident(now) {
            self.last = Some(Instant::now());
            shared.hub.incident(incident);
        }
    }

    /// What rose, and by how much.
    fn incident(&mut self, now: BTreeMap<String, u64>) -> Option<Incident> {
        let rose: Vec<(String, u64)> = now
            .iter()
            .map(|(stage, count)| {
                let told = self.told.get(stage).copied().unwrap_or(0);
                (stage.clone(), count.saturating_sub(told))
            })
            .filter(|(_, new)| *new > 0)
            .collect();
        self.told = now;
        if rose.is_empty() {
            return None;
        }
        let text: Vec<String> = (rose.iter())
            .map(|(stage, new)| format!("{new} at {stage}"))
            .collect();
        let message = format!("events lost: {}", text.join(", "));
        let mut incident = Incident::new(IncidentKind::EventsLost, DAEMON, message);
        for (stage, new) in rose {
            incident = incident.with(&stage, new.to_string());
        }
        Some(incident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_last_daemon_ended_is_known() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(LastStop::begin(dir.path()), LastStop::Unknown);
        assert_eq!(LastStop::begin(dir.path()), LastStop::Unclean);
        LastStop::end(dir.path());
        assert_eq!(LastStop::begin(dir.path()), LastStop::Clean);
    }

    #[test]
    fn only_what_rose_is_told_and_by_how_much() {
        let mut losses = Losses::default();
        let at = |kernel, queue| {
            BTreeMap::from([("kernel".to_owned(), kernel), ("queue".to_owned(), queue)])
        };
        assert!(losses.incident(at(0, 0)).is_none());
        let told = losses.incident(at(5, 0)).expect("told");
        assert_eq!(told.message, "events lost: 5 at kernel");
        assert_eq!(told.facts["kernel"], "5");
        assert!(losses.incident(at(5, 0)).is_none());
        let told = losses.incident(at(6, 2)).expect("told");
        assert_eq!(told.message, "events lost: 1 at kernel, 2 at queue");
        // An agent that left takes its counts with it.
        assert!(losses.incident(at(1, 2)).is_none());
        assert!(losses.incident(at(2, 2)).is_some());
    }
}
