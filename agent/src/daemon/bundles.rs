//! Policy bundles in force: taken, refused, waiting for their turn, and back to the one before.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Shared, adopt, engine::Engine, engine::EngineError, evidence, report};
use crate::{
    bundle::{
        MAX_BYTES, Refusal, RefusalKind,
        check::Verified,
        config::BundleConfig,
        keep::{Kept, Place, Store, read_bounded},
        layers::{self, Policies},
        machine::Machine,
        manifest::{Local, RollBack, Turn},
        pull::{self, Pulled},
    },
    config::Config,
    control::{
        protocol::BundleReport,
        status::{BundleInForce, BundleRefused, BundleStatus},
    },
    dns::clock,
    error::chain,
    incident::{DAEMON, Incident, IncidentKind},
    policy::{self, Diagnostic, PolicySet, PolicyText, diagnostic::Report},
};

/// How often it is looked whether a turn has come, health is worse, or a file is another.
const PACE: Duration = Duration::from_secs(5);

/// The bundle in force.
struct Loaded {
    verified: Verified,
    kept: Kept,
    /// What it says to this laptop.
    policies: Policies,
    /// What the one before it said, for a step that monitors.
    before: Policies,
    turn: Turn,
}

/// Health is compared with what it was.
struct Probation {
    until: Instant,
    before: BTreeSet<String>,
    worse_since: Option<Instant>,
    rules: RollBack,
}

/// What the engine knows of bundles.
#[derive(Default)]
pub(super) struct Bundles {
    config: BundleConfig,
    machine: Machine,
    store: Option<Store>,
    current: Option<Loaded>,
    waiting: Option<u32>,
    /// Why what was kept cannot be used.
    trouble: Option<String>,
    refused: Option<BundleRefused>,
    rolled_back: Option<u32>,
    /// What of the laptop's own policy is not in force.
    left_out: Vec<String>,
    probation: Option<Probation>,
    /// Refusals since the start, by kind.
    pub(super) refusals: [u64; RefusalKind::COUNT],
    looked: Option<Instant>,
    /// The file as it was last time.
    file: Option<(u64, i64, i64, u64)>,
}

impl Bundles {
    /// What was kept is in force again.
    pub(super) fn open(config: &Config) -> Self {
        let folder = BundleConfig::folder(&config.state_dir);
        let mut bundles = Self {
            config: config.bundle.clone(),
            machine: Machine::here(&config.bundle),
            ..Self::default()
        };
        let store = match Store::open(&folder, &config.bundle.trust) {
            Ok(store) => store,
            Err(error) => {
                bundles.trouble = Some(error.to_string());
                return bundles;
            }
        };
        let said = |loaded: &Verified| layers::of_bundle(loaded, &bundles.machine);
        if let Some(loaded) = store.load(Place::Current) {
            let policies = loaded.and_then(|(verified, kept)| {
                let policies = said(&verified)?;
                Ok((verified, kept, policies))
            });
            match policies {
                Ok((verified, kept, policies)) => {
                    let previous = store.load(Place::Previous).and_then(Result::ok);
                    let before = previous.and_then(|(verified, _)| said(&verified).ok());
                    let turn = turn(&verified, &bundles.machine);
                    bundles.current = Some(Loaded {
                        verified,
                        kept,
                        policies,
                        before: before.unwrap_or_default(),
                        // It was in force, so its turn has come, whatever the clock says now.
                        turn: if turn == Turn::Wait {
                            Turn::Monitor
                        } else {
                            turn
                        },
                    });
                }
                Err(error) => {
                    bundles.trouble = Some(format!("the bundle in force cannot be read: {error}"));
                }
            }
        }
        if let Some(Ok((verified, _))) = store.load(Place::Waiting) {
            bundles.waiting = Some(verified.version);
        }
        bundles.store = Some(store);
        bundles
    }

    /// Where the policy in force came from, beside files.
    pub(super) fn source(&self) -> Option<String> {
        let current = self.current.as_ref()?;
        let (name, version) = (&current.verified.manifest.name, current.verified.version);
        Some(format!("bundle {name}@{version}"))
    }

    /// For status; nothing where bundles are not used.
    pub(super) fn status(&self) -> Option<BundleStatus> {
        let unused = self.current.is_none()
            && self.trouble.is_none()
            && self.refused.is_none()
            && self.waiting.is_none()
            && !self.config.expects();
        if unused {
            return None;
        }
        let now = Timestamp::now();
        Some(BundleStatus {
            current: self.current.as_ref().map(|loaded| BundleInForce {
                name: loaded.verified.manifest.name.clone(),
                version: loaded.verified.version,
                root_version: loaded.verified.root_version,
                published: loaded.verified.published,
                expires: loaded.verified.expires,
                expired: loaded.verified.expires <= now,
                stage: loaded.turn.as_str().to_owned(),
                installed: loaded.kept.accepted,
                source: loaded.kept.source.clone(),
            }),
            waiting: self.waiting,
            refused: self.refused.clone(),
            rolled_back: self.rolled_back,
            left_out: self.left_out.clone(),
        })
    }

    /// What is wrong, for health. Every reason begins with `bundle`.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        reasons.extend(self.trouble.iter().map(|why| format!("bundle: {why}")));
        if let Some(loaded) = &self.current
            && loaded.verified.expires <= Timestamp::now()
        {
            reasons.push(format!(
                "bundle {} expired at {}; it stays in force, and no newer one came",
                loaded.verified.manifest.name, loaded.verified.expires
            ));
        }
        if let Some(refused) = &self.refused {
            let (reason, message) = (&refused.reason, &refused.message);
            reasons.push(format!("bundle refused ({reason}): {message}"));
        }
        if let Some(version) = self.rolled_back {
            reasons.push(format!("bundle version {version} was rolled back"));
        }
        if self.current.is_none() && self.config.expects() && self.refused.is_none() {
            reasons.push("bundle: none has come yet".to_owned());
        }
        reasons.extend(
            self.left_out
                .iter()
                .map(|what| format!("bundle: of this laptop's own policy is not in force: {what}")),
        );
        reasons
    }
}

fn turn(verified: &Verified, machine: &Machine) -> Turn {
    verified
        .manifest
        .turn(machine, verified.published, Timestamp::now())
}

/// Numbers differ from one look to the next; the sentence around them does not.
fn gist(reason: &str) -> String {
    reason
        .chars()
        .map(|c| if c.is_ascii_digit() { '#' } else { c })
        .collect()
}

/// What health says beside bundles.
fn ailments(shared: &Shared, engine: &Engine) -> BTreeSet<String> {
    let reasons = report::status(shared, engine).health.reasons;
    let others = reasons
        .iter()
        .filter(|reason| !reason.starts_with("bundle"));
    others.map(|reason| gist(reason)).collect()
}

impl Engine {
    /// The policies that shall be in force, and the texts of the laptop's own. With `strict` a
    /// mistake in those is an error; else what is wrong is left out, the bundle holds, and
    /// health says it.
    pub(super) fn compose(
        &mut self,
        strict: bool,
    ) -> Result<(PolicySet, Vec<PolicyText>), EngineError> {
        let Some(loaded) = &self.bundles.current else {
            self.bundles.left_out.clear();
            if self.none_yet() {
                return Ok((PolicySet::new(Policies::new(), Vec::new()), Vec::new()));
            }
            return Ok(policy::load_with_texts(&self.paths)?);
        };
        let mut left_out = Vec::new();
        let mut own = || -> Result<_, EngineError> {
            match local(&self.paths) {
                Ok(own) => Ok(own),
                Err(errors) if strict => Err(errors.into()),
                Err(errors) => {
                    left_out.push(format!(
                        "it does not load, and the last good one holds: {errors}"
                    ));
                    let texts = self.keeper.load_policy().unwrap_or_default();
                    let set = policy::parse_all(&texts).ok().filter(|_| !texts.is_empty());
                    Ok((set.unwrap_or_else(empty), texts))
                }
            }
        };
        let (own, texts) = own()?;
        let policies = match loaded.turn {
            Turn::Monitor | Turn::Wait => {
                layers::monitored(&loaded.before, loaded.policies.clone())
            }
            Turn::Enforce => loaded.policies.clone(),
        };
        let may = loaded.verified.manifest.local;
        let (set, more) = layers::with_local(policies, own, may);
        if strict && may != Local::Ignore && !more.is_empty() {
            let mut report = Report::default();
            for what in more {
                let help = "take it out, or ask who signs the bundle for `local: allow`";
                report.error(Diagnostic::about_file("", what, help));
            }
            return match report.finish() {
                Err(errors) => Err(errors.into()),
                Ok(_) => Ok((set, texts)),
            };
        }
        left_out.extend(more);
        self.bundles.left_out = left_out;
        Ok((set, texts))
    }

    /// Whether a bundle is in force.
    pub(super) fn has_bundle(&self) -> bool {
        self.bundles.current.is_some()
    }

    /// Takes a bundle, or says why not; then everything is as it was.
    fn install_bundle(&mut self, bytes: &[u8], source: &str) -> Result<BundleReport, Refusal> {
        let at = Timestamp::now();
        let bundles = &mut self.bundles;
        let Some(store) = &mut bundles.store else {
            let why = bundles.trouble.clone().unwrap_or_default();
            return Err(Refusal::Storage(format!("nothing can be kept: {why}")));
        };
        let (verified, anchor) = store.check(bytes, at)?;
        let turn = turn(&verified, &bundles.machine);
        let report = |verified: &Verified, turn: Turn, changed, changes| BundleReport {
            name: verified.manifest.name.clone(),
            version: verified.version,
            expires: verified.expires,
            stage: turn.as_str().to_owned(),
            changed,
            changes,
        };
        if let Some(current) = &bundles.current
            && current.verified.digest == verified.digest
            && current.verified.version == verified.version
        {
            return Ok(report(&verified, current.turn, false, Vec::new()));
        }
        let policies = layers::of_bundle(&verified, &bundles.machine)?;
        let proof = (&verified, anchor.as_slice());
        if turn == Turn::Wait {
            store.accept(bytes, proof, source, Place::Waiting, at)?;
            bundles.waiting = Some(verified.version);
            return Ok(report(&verified, turn, true, Vec::new()));
        }
        let kept = Kept {
            sha256: crate::bundle::sha256(bytes),
            accepted: at,
            source: source.to_owned(),
        };
        let before = bundles.current.as_ref().map(|old| old.policies.clone());
        let loaded = Loaded {
            verified: verified.clone(),
            kept,
            policies,
            before: before.unwrap_or_default(),
            turn,
        };
        let old = bundles.current.replace(loaded);
        let kept = self
            .enforce_bundle()
            .map_err(|e| Refusal::Policy(chain(&e)))
            .and_then(|done| {
                let store = self.bundles.store.as_mut();
                let store = store.ok_or_else(|| Refusal::Storage("it is gone".into()))?;
                store.accept(bytes, proof, source, Place::Current, at)?;
                Ok(done)
            });
        match kept {
            Ok(changes) => {
                let bundles = &mut self.bundles;
                (bundles.waiting, bundles.rolled_back, bundles.trouble) = (None, None, None);
                Ok(report(&verified, turn, true, changes))
            }
            Err(refusal) => {
                self.bundles.current = old;
                self.enforce_again();
                Err(refusal)
            }
        }
    }

    /// Puts what `bundles` says in force; gives what changed.
    fn enforce_bundle(&mut self) -> Result<Vec<String>, EngineError> {
        let modes = evidence::modes(self);
        let (set, texts) = self.compose(false)?;
        let report = self.put_in_force(set, clock::now())?;
        if let Err(error) = self.keeper.save_policy(&texts) {
            warn!(%error, "the policy could not be kept for a later start");
        }
        self.last_error = None;
        self.tell_loaded(&report, &modes, false);
        Ok(report.changes)
    }

    /// After a bundle that came into force only in part, or could not be kept.
    fn enforce_again(&mut self) {
        if let Err(error) = self.enforce_bundle() {
            warn!(
                error = chain(&error),
                "the policy before is not in force as a whole"
            );
            self.last_error = Some(chain(&error));
        }
    }

    /// The bundle before is in force again.
    fn roll_back(&mut self, why: &str) -> Result<BundleReport, Refusal> {
        let bundles = &mut self.bundles;
        let none = || Refusal::Storage("there is no bundle before the one in force".into());
        let bad = bundles.current.as_ref().ok_or_else(none)?.verified.version;
        let store = bundles.store.as_mut().ok_or_else(none)?;
        let (verified, kept) = store.load(Place::Previous).ok_or_else(none)??;
        let policies = layers::of_bundle(&verified, &bundles.machine)?;
        let report = BundleReport {
            name: verified.manifest.name.clone(),
            version: verified.version,
            expires: verified.expires,
            stage: Turn::Enforce.as_str().to_owned(),
            changed: true,
            changes: Vec::new(),
        };
        let loaded = Loaded {
            verified,
            kept,
            policies,
            before: Policies::new(),
            turn: Turn::Enforce,
        };
        let old = bundles.current.replace(loaded);
        bundles.probation = None;
        let result = self
            .enforce_bundle()
            .map_err(|e| Refusal::Policy(chain(&e)));
        let result = result.and_then(|changes| {
            let store = self.bundles.store.as_mut().ok_or_else(none)?;
            store.roll_back(bad)?;
            Ok(BundleReport { changes, ..report })
        });
        match result {
            Ok(report) => {
                self.bundles.rolled_back = Some(bad);
                let message = format!("version {bad}: {why}; {} is in force again", report.version);
                let incident = Incident::new(IncidentKind::BundleRolledBack, DAEMON, message)
                    .with("bundle", &*report.name)
                    .with("version", bad.to_string())
                    .with("now", report.version.to_string());
                self.incident(incident);
                Ok(report)
            }
            Err(refusal) => {
                self.bundles.current = old;
                self.enforce_again();
                Err(refusal)
            }
        }
    }
}

fn empty() -> PolicySet {
    PolicySet::new(Policies::new(), Vec::new())
}

/// Whether a path is a folder without policies, or nothing at all.
fn is_empty(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else {
        return !path.exists();
    };
    !entries.flatten().any(|entry| {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        !hidden && path.extension().is_some_and(|e| e == "yaml" || e == "yml")
    })
}

/// The laptop's own policy; beside a bundle it need not be there.
fn local(
    paths: &[std::path::PathBuf],
) -> Result<(PolicySet, Vec<PolicyText>), policy::PolicyErrors> {
    let there: Vec<_> = paths
        .iter()
        .filter(|path| !is_empty(path))
        .cloned()
        .collect();
    match there.is_empty() {
        true => Ok((empty(), Vec::new())),
        false => policy::load_with_texts(&there),
    }
}

impl Shared {
    /// Takes a bundle; what became of it is told.
    pub(super) fn take_bundle(&self, bytes: &[u8], source: &str) -> Result<BundleReport, Refusal> {
        let result = self.with(|engine| {
            let before = ailments(self, engine);
            let result = engine.install_bundle(bytes, source);
            match &result {
                Ok(report) => {
                    engine.bundles.refused = None;
                    let rules = engine
                        .bundles
                        .current
                        .as_ref()
                        .map(|l| l.verified.manifest.roll_back);
                    if let Some(rules) = rules
                        && report.changed
                        && report.stage != Turn::Wait.as_str()
                        && !rules.within.is_zero()
                    {
                        engine.bundles.probation = Some(Probation {
                            until: Instant::now() + rules.within,
                            before,
                            worse_since: None,
                            rules,
                        });
                    }
                    if report.changed {
                        tell_installed(engine, report, source);
                    }
                }
                Err(refusal) => tell_refused(engine, refusal, source),
            }
            result
        });
        if result.as_ref().is_ok_and(|report| report.changed) {
            tokio::task::block_in_place(|| adopt::judge_earlier(self));
            self.refresh.refresh_now();
        }
        result
    }

    /// Reads a bundle from a file and takes it.
    pub(super) fn take_bundle_file(&self, path: &Path) -> Result<BundleReport, Refusal> {
        let source = path.display().to_string();
        let bytes = tokio::task::block_in_place(|| read_bounded(path, MAX_BYTES));
        match bytes {
            Ok(bytes) => self.take_bundle(&bytes, &source),
            Err(refusal) => {
                self.with(|engine| tell_refused(engine, &refusal, &source));
                Err(refusal)
            }
        }
    }

    /// Goes back to the bundle before.
    pub(super) fn roll_bundle_back(&self, why: &str) -> Result<BundleReport, Refusal> {
        let result = self.with(|engine| engine.roll_back(why));
        self.refresh.refresh_now();
        result
    }
}

fn tell_installed(engine: &Engine, report: &BundleReport, source: &str) {
    let (name, version, stage) = (&*report.name, report.version, &*report.stage);
    info!(name, version, stage, source, "bundle");
    let message = match stage {
        "wait" => format!("{name} version {version} waits for its turn in the roll-out"),
        "monitor" => format!("{name} version {version} is in force, new agents monitored"),
        _ => format!("{name} version {version} is in force"),
    };
    let incident = Incident::new(IncidentKind::BundleInstalled, DAEMON, message)
        .with("bundle", name)
        .with("version", version.to_string())
        .with("stage", stage)
        .with("source", source)
        .with("expires", report.expires.to_string());
    engine.incident(incident);
}

fn tell_refused(engine: &mut Engine, refusal: &Refusal, source: &str) {
    let (reason, message) = (refusal.kind().as_str(), refusal.to_string());
    warn!(
        reason,
        source, message, "a bundle was refused; the last good one stays in force"
    );
    engine.bundles.refusals[refusal.kind().index()] += 1;
    let incident = Incident::new(IncidentKind::BundleRefused, DAEMON, message.as_str())
        .with("reason", reason)
        .with("source", source)
        .with(
            "in_force",
            engine.bundles.source().unwrap_or_else(|| "none".to_owned()),
        );
    engine.incident(incident);
    engine.bundles.refused = Some(BundleRefused {
        reason: reason.to_owned(),
        message,
        at: Timestamp::now(),
        source: source.to_owned(),
    });
}

/// Looks after bundles: turns that have come, health that is worse, a file that is another.
pub(super) fn tend(shared: &Shared) {
    let mut changed = None;
    let mut waiting = None;
    shared.with(|engine| {
        let now = Instant::now();
        if engine.bundles.looked.is_some_and(|at| now - at < PACE) {
            return;
        }
        engine.bundles.looked = Some(now);
        changed = another_file(&mut engine.bundles);
        waiting = due(&mut engine.bundles);
        if turn_has_come(&mut engine.bundles) {
            engine.enforce_again();
        }
        if is_worse(shared, engine, now) {
            let why = "health was worse than before it";
            if let Err(error) = engine.roll_back(why) {
                warn!(%error, "the bundle could not be rolled back");
                engine.bundles.probation = None;
            }
        }
    });
    if let Some(path) = changed {
        // The outcome is told.
        let _ = shared.take_bundle_file(&path);
    }
    if let Some((bytes, source)) = waiting {
        let _ = shared.take_bundle(&bytes, &source);
    }
}

/// The file that somebody else puts there, when it is another than last time.
fn another_file(bundles: &mut Bundles) -> Option<std::path::PathBuf> {
    let path = bundles.config.file.clone()?;
    let meta = std::fs::metadata(&path).ok()?;
    let mark = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size());
    (bundles.file.replace(mark) != Some(mark)).then_some(path)
}

/// A bundle whose turn has come.
fn due(bundles: &mut Bundles) -> Option<(Vec<u8>, String)> {
    bundles.waiting?;
    let store = bundles.store.as_ref()?;
    let (verified, kept) = store.load(Place::Waiting)?.ok()?;
    if turn(&verified, &bundles.machine) == Turn::Wait {
        return None;
    }
    let bytes = store.bytes(Place::Waiting).ok()?;
    bundles.waiting = None;
    Some((bytes, kept.source))
}

/// From monitored to enforced, never back.
fn turn_has_come(bundles: &mut Bundles) -> bool {
    let machine = &bundles.machine;
    let Some(loaded) = &mut bundles.current else {
        return false;
    };
    let come = loaded.turn != Turn::Enforce && turn(&loaded.verified, machine) == Turn::Enforce;
    if come {
        loaded.turn = Turn::Enforce;
    }
    come
}

fn is_worse(shared: &Shared, engine: &mut Engine, now: Instant) -> bool {
    if engine.bundles.probation.is_none() {
        return false;
    }
    let ailments = ailments(shared, engine);
    let Some(probation) = &mut engine.bundles.probation else {
        return false;
    };
    let worse = ailments
        .iter()
        .any(|reason| !probation.before.contains(reason));
    if !worse {
        probation.worse_since = None;
        if now >= probation.until {
            engine.bundles.probation = None;
        }
        return false;
    }
    let since = *probation.worse_since.get_or_insert(now);
    now - since >= probation.rules.worse_for
}

/// Pulls bundles until the daemon ends.
pub(super) async fn follow(shared: Arc<Shared>, cancel: CancellationToken) {
    let config = shared.config.bundle.clone();
    let Some(url) = config.url.clone() else {
        return;
    };
    let source = url.to_string();
    let (mut tag, mut failures) = (None, 0);
    loop {
        let answer = tokio::select! {
            () = cancel.cancelled() => return,
            answer = pull::pull(&config, &url, tag.as_ref()) => answer,
        };
        match answer {
            Ok(Pulled::Same) => failures = 0,
            Ok(Pulled::New(bytes, new)) => {
                failures = 0;
                let result = shared.take_bundle(&bytes, &source);
                // What is refused for what it is need not be fetched again.
                let lasting = result
                    .as_ref()
                    .err()
                    .is_none_or(|r| r.kind() != RefusalKind::Storage);
                tag = new.filter(|_| lasting);
            }
            Err(why) => {
                failures += 1;
                warn!(why, url = source, failures, "no bundle could be pulled");
            }
        }
        let pause = pull::pause(config.every, failures, rand::random());
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
