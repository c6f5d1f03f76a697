//! The daemon: config, then build, serve, and a bounded end.
//!
//! ```text
//! lock ─► maps and programs ─► state and leases ─► policy ─► tables ─► links ─► ready
//! ```
//!
//! Nothing is attached before its tables are filled, and nothing is detached when the
//! daemon ends: only `exeat teardown` does that.

mod adopt;
mod agents;
mod arrest;
mod asking;
mod backlog;
mod bundles;
mod containers;
mod cut;
mod detecting;
mod directory;
mod engine;
mod evidence;
mod fd_store;
mod gates;
mod gateway_desk;
mod gateway_records;
mod gateways;
mod handle;
mod hold;
mod holding;
mod identities;
mod life;
mod limits;
mod lookup;
mod names;
mod outsiders;
mod polkit;
mod portal;
mod report;
mod runs;
mod scrape;
mod serving;
mod state;
mod trust;
mod wake;
mod walls;
mod watch;
mod watchdog;

use std::{
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch as channel},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    directory::Directory,
    engine::{Engine, Ways},
    fd_store::FdStore,
    gates::{Gates, Means},
    gateways::Gateways,
    handle::{Handle, Launches},
    holding::Holding,
    serving::Tasks,
    state::Keeper,
    trust::Trust,
    watch::EventCounts,
};
pub use engine::EngineError;
pub use state::last_good_policy;

use crate::{
    config::{Config, Metrics},
    control::{DaemonLock, ReloadReport, Server, server::Limits},
    dns::{
        clock,
        resolver::{Pace, RefreshHandle, Refresher, Resolution, Resolver, Upstreams},
        stats::DnsStats,
    },
    error::chain,
    gateway::GatewayConfig,
    kernel::{
        Kernel,
        cgroup::{Slice, cgroup2_root},
        events::EventReader,
        object::Throttle,
        pins::Pins,
    },
    leases::LeaseConfig,
    sink::{FileSink, Hub, Sink},
    sockets::{Aborter, InUse, Sockets},
    store::Store,
};

/// How often ended runs are collected and leases ended.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long tasks may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Resolutions that may wait for the engine.
const RESOLUTION_QUEUE: usize = 256;
/// How long a daemon that serves one run waits for it to begin.
const FIRST_RUN: Duration = Duration::from_secs(30);

/// How long the daemon lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is told to stop; what it enforces outlives it.
    Service,
    /// Until its first run has ended; then it takes everything down.
    OneRun,
}

/// What the tasks share.
struct Shared {
    config: Config,
    engine: Mutex<Engine>,
    hub: Arc<Hub>,
    /// What was recorded, if it is kept.
    store: Option<Arc<Store>>,
    /// Why events are not written to the configured file.
    file_error: Option<String>,
    /// Why no detection rule is in force.
    detect_error: Option<String>,
    dns: Arc<DnsStats>,
    resolver: Arc<Resolver>,
    refresh: RefreshHandle,
    sockets: Sockets,
    events: Arc<EventCounts>,
    launches: Launches,
    desk: crate::asking::Desk,
    started: Timestamp,
    started_at: Instant,
}

impl Shared {
    /// Works with the engine. Its work may block (map fills, RCU), so the runtime is told.
    fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        tokio::task::block_in_place(|| {
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut engine)
        })
    }

    /// The same for work of microseconds, when nobody else has the engine at this moment:
    /// telling the runtime would cost more than such work does. `None`, and nothing was done,
    /// where somebody has it or the work says so.
    fn try_with<T>(&self, work: impl FnOnce(&mut Engine) -> Option<T>) -> Option<T> {
        let mut engine = match self.engine.try_lock() {
            Ok(engine) => engine,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        work(&mut engine)
    }

    /// Puts the policy files in force, and has every name resolved anew: who reloads expects
    /// the new truth of names too.
    fn reload(&self) -> Result<ReloadReport, EngineError> {
        let report = self.with(|engine| engine.reload(clock::now()));
        tokio::task::block_in_place(|| adopt::judge_earlier(self));
        self.refresh.refresh_now();
        report
    }
}

/// Lifts the soft limit of open files to the hard one: an agent takes eight descriptors for
/// its gate and tables, and the usual soft limit of 1024 would end at half of the agents.
fn lift_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let lifted = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = lifted {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// Runs the daemon until it is told to stop.
pub fn run(config: Config, lifetime: Lifetime) -> anyhow::Result<()> {
    lift_file_limit();
    let store = match lifetime {
        // SAFETY: the runtime's threads are not started yet, and this process has opened
        // nothing at the numbers that were handed to it.
        Lifetime::Service => unsafe { FdStore::take_over() },
        Lifetime::OneRun => FdStore::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config, lifetime, store))
}

/// The slice that a configuration speaks of.
pub fn slice_of(config: &Config) -> anyhow::Result<Slice> {
    let root = match &config.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup2_root()?,
    };
    Ok(Slice::new(root, config.slice.as_str()))
}

async fn serve(config: Config, lifetime: Lifetime, store: FdStore) -> anyhow::Result<()> {
    let lock = DaemonLock::acquire(&config.runtime_dir)?;
    let cancel = CancellationToken::new();
    let (names, names_wanted) = channel::channel(Arc::default());
    let dns = Arc::new(DnsStats::default());
    let directory = Arc::new(Directory::default());
    let leases = lease_config(&config);

    let pins = Pins::new(&config.bpffs);
    let taken_over = pins.exist();
    let throttle = Throttle {
        per_second: config.events.rate,
        burst: config.events.burst,
    };
    let mut kernel = Kernel::load(slice_of(&config)?, pins.clone(), throttle)?;
    let ring = kernel.take_ring().context("the event ring is taken")?;
    let mut file_error = None;
    let file = config.events.file.as_ref().and_then(|path| {
        // No verdict waits for a log: without its file the daemon enforces all the same, and
        // says so.
        FileSink::open(path, config.events.file_max_bytes)
            .inspect_err(|e| {
                error!(error = chain(e), "events are not written to the file");
                file_error = Some(chain(e));
            })
            .ok()
    });
    let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
    let store_past = config.history.start(&config.state_dir, lifetime)?;
    sinks.extend(
        store_past
            .iter()
            .map(|store| Arc::clone(store) as Arc<dyn Sink>),
    );
    let (mut findings, mut detect_error) = (None, None);
    if lifetime == Lifetime::Service {
        match detecting::start(&config) {
            Ok((sink, found)) => {
                sinks.push(Arc::new(sink));
                findings = Some(found);
            }
            Err(error) => {
                error!(error, "no detection rule is in force");
                detect_error = Some(error);
            }
        }
        sinks.extend(crate::ship::start(&config.ship, &config.state_dir));
    }
    sinks.extend(evidence::audit(&config, lifetime));
    let hub = Arc::new(Hub::new(config.events.keep as usize, file).with_sinks(sinks));
    let resolver = Arc::new(Resolver::new(config.resolver.settings(), Arc::clone(&dns))?);
    let means = Means::new(Arc::clone(&resolver));
    let store = Arc::new(Mutex::new(store));
    let gates = Gates::new(
        Arc::clone(&directory),
        Arc::clone(&hub),
        throttle,
        Arc::clone(&dns),
        means.clone(),
        cancel.clone(),
        Arc::clone(&store),
    );
    let gate_tasks = gates.tasks();
    let gateways = Gateways::new(
        Arc::clone(&directory),
        Arc::clone(&hub),
        throttle,
        GatewayConfig {
            roots: config.gateway.authorities.clone(),
            ..GatewayConfig::default()
        },
        means.clone(),
        cancel.clone(),
        gate_tasks.clone(),
        Arc::clone(&store),
    );
    let desk = asking::desk(&hub);
    let keeper = Keeper::new(&config.runtime_dir, &config.state_dir);
    let mut engine = Engine::new(
        kernel,
        config.policy.clone(),
        leases.clone(),
        keeper.clone(),
        Ways {
            gates,
            gateways,
            trust: Trust::new(&config),
            hub: Arc::clone(&hub),
            desk: desk.clone(),
        },
        Arc::clone(&directory),
        names,
    )?;
    engine.adoption.off = lifetime == Lifetime::OneRun;
    engine.sandbox = config.sandbox;
    if lifetime == Lifetime::Service {
        engine.bundles = bundles::Bundles::open(&config);
    }
    if lifetime == Lifetime::Service && config.scopes {
        engine.systemd = crate::systemd::Systemd::find(engine.kernel.slice());
    }
    engine.nothing_pinned = !taken_over;

    let now = clock::now();
    engine.remember_last_leases();
    if let Err(error) = engine.begin(now) {
        // With nothing pinned there is nothing to go on enforcing, so having no policy at all
        // is the end. Otherwise the old policy stays in force, untouched.
        if !taken_over {
            return Err(error.into());
        }
        // Tables of another layout are not to be had: to attach now would refuse everything.
        if !engine.kernel.continues() {
            return Err(anyhow::Error::from(error).context(
                "the policy does not load, and what is enforced is of a build with other tables: it stays in force, and this daemon does not start. Mend the policy (`exeat check` says what is wrong) and start the daemon again, or install the build before and start that",
            ));
        }
        error!(
            error = chain(&error),
            "the policy does not load; what the last daemon enforced stays in force"
        );
    }
    engine.close_old_portal();
    // Before what nobody takes is closed.
    let programs = adopt::Kept::open(&store);
    engine.gates.settle();
    engine.kernel.enforce()?;
    engine.show_sockets();
    let slice = engine.kernel.slice().path().to_owned();
    // Before the first name is resolved, so that every lease from now on is written down.
    let snapshot = engine.unsaved(now);
    if let Some(json) = snapshot
        && let Err(error) = keeper
            .save_leases(&json)
            .and_then(|()| keeper.drop_old_journal())
    {
        warn!(%error, "the leases could not be saved; a restart will resolve names anew");
    }

    let pace = Pace::new(&config.resolver.settings(), &leases);
    let upstreams = Arc::new(Upstreams::of(Arc::clone(&resolver)));
    let (results, resolutions) = mpsc::channel(RESOLUTION_QUEUE);
    let (refresher, refresh) =
        Refresher::new(upstreams, pace, clock::boottime(), names_wanted, results);

    let shared = Arc::new(Shared {
        engine: Mutex::new(engine),
        hub,
        store: store_past,
        file_error,
        detect_error,
        dns,
        resolver,
        refresh,
        sockets: Sockets::default(),
        events: Arc::default(),
        launches: Launches::default(),
        desk,
        started: Timestamp::now(),
        started_at: Instant::now(),
        config,
    });
    means.connect(&shared);
    asking::connect(&shared);
    let config = &shared.config;
    let mut tasks = JoinSet::new();

    let aborter =
        Aborter::start().context("cannot start a thread that ends refused connections")?;
    let holding = Holding::new(
        shared.desk.clone(),
        Arc::clone(&directory),
        aborter,
        means.clone(),
        &slice,
    );
    means.ask_by(Arc::clone(&holding));

    let reader = EventReader::new(ring).context("cannot watch the event ring")?;
    let (hub, counts) = (Arc::clone(&shared.hub), Arc::clone(&shared.events));
    let events = watch::Events::new(directory, hub, counts, slice, holding)
        .context("no boot clock: events cannot be read")?;
    tasks.spawn(events.run(reader, cancel.clone()));

    if let Some(findings) = findings {
        tasks.spawn(detecting::act(
            Arc::clone(&shared),
            findings,
            cancel.clone(),
        ));
    }
    tasks.spawn(refresher.run(cancel.clone()));
    tasks.spawn(apply_resolutions(
        Arc::clone(&shared),
        resolutions,
        cancel.clone(),
    ));

    // Before anybody can know that it is there, and tell it to stop.
    let signals = Signals::catch()?;
    let standing = shared.with(|engine| engine.adoption.wards.reader(engine.kernel.slice()));
    let server = Server::bind_with(
        &lock,
        config.slice.as_str(),
        config.admin_gid()?,
        standing,
        Limits::default(),
    )?;
    info!(socket = %server.path().display(), "control");
    let handle = Arc::new(Handle {
        shared: Arc::clone(&shared),
    });
    tasks.spawn(server.serve(handle, cancel.clone()));
    if let Metrics::At(addr) = config.metrics {
        let page = crate::metrics::Page::bind(addr).await?;
        info!(url = format!("http://{}/metrics", page.addr()), "metrics");
        let snapshots = Arc::clone(&shared);
        tasks.spawn(page.serve(cancel.clone(), move || {
            let shared = Arc::clone(&snapshots);
            async move { shared.with(|engine| scrape::snapshot(&shared, engine)) }
        }));
    }
    tasks.spawn(housekeeping(Arc::clone(&shared), lifetime, cancel.clone()));
    tasks.spawn(watchdog::feed(Arc::clone(&shared), cancel.clone()));
    outsiders::start(&config.asking, &shared.desk, &mut tasks, &cancel);
    if lifetime == Lifetime::Service {
        adopt::begin(&shared, programs, &mut tasks, &cancel)?;
    }
    if lifetime == Lifetime::Service {
        tasks.spawn(bundles::follow(Arc::clone(&shared), cancel.clone()));
    }
    tasks.spawn(containers::watch(Arc::clone(&shared), cancel.clone()));
    tasks.spawn(life::watch(Arc::clone(&shared), cancel.clone()));

    let last_stop = evidence::LastStop::begin(&shared.config.state_dir);
    shared.with(|engine| evidence::started(&shared.hub, engine, last_stop));

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    crate::launch::standalone::say_ready();
    info!(
        slice = config.slice.as_str(),
        version = report::VERSION,
        "ready"
    );
    until_stopped(&shared, signals, &cancel).await?;

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    cancel.cancel();
    shared.desk.close();
    drain(tasks, gate_tasks).await;
    shared.with(|engine| evidence::stopped(&shared.hub, engine));
    save_leases(&shared, |engine| engine.snapshot());
    if lifetime == Lifetime::OneRun {
        shared.with(|engine| {
            engine.collect();
            pins.remove()?;
            engine.kernel.slice().remove().map(drop)
        })?;
        // Made for this run alone, and holds nothing that anybody wants.
        let _ = std::fs::remove_dir_all(&shared.config.runtime_dir);
    } else {
        evidence::LastStop::end(&shared.config.state_dir);
        info!("stopped; what was enforced stays enforced");
    }
    // Every task has ended, so this is the last one who has it.
    if let Some(Shared { hub, engine, .. }) = Arc::into_inner(shared) {
        drop(engine);
        if let Some(hub) = Arc::into_inner(hub) {
            hub.close();
        }
    }
    Ok(())
}

/// The signals that the daemon knows, from the moment that they are caught.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Handles signals until one of them, or a task, says stop.
async fn until_stopped(
    shared: &Shared,
    mut signals: Signals,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                // The outcome is logged, and shown by status.
                let _ = shared.reload();
            }
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            () = cancel.cancelled() => return Ok(()),
        }
    }
}

async fn apply_resolutions(
    shared: Arc<Shared>,
    mut resolutions: mpsc::Receiver<Resolution>,
    cancel: CancellationToken,
) {
    loop {
        let resolution = tokio::select! {
            () = cancel.cancelled() => return,
            resolution = resolutions.recv() => match resolution {
                Some(resolution) => resolution,
                None => return,
            },
        };
        shared.with(|engine| engine.resolved(&resolution, clock::now()));
    }
}

async fn housekeeping(shared: Arc<Shared>, lifetime: Lifetime, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut begun = false;
    let mut losses = evidence::Losses::default();
    loop {
        tokio::select! {
            () = cancel.cancelled() => {
                losses.tell(&shared, true);
                return;
            }
            _ = ticks.tick() => losses.tell(&shared, false),
        }
        asking::tend(&shared);
        bundles::tend(&shared);
        portal::tend(&shared);
        end_leases(&shared).await;
        save_leases(&shared, |engine| engine.unsaved(clock::now()));
        let empty = shared.with(|engine| {
            begun |= !engine.admitted.is_empty();
            engine.watch_limits(clock::now());
            engine.mend();
            engine.show_sockets();
            engine.tend_adopted();
            engine.collect()
        });
        if lifetime == Lifetime::OneRun
            && empty
            && (begun || shared.started_at.elapsed() > FIRST_RUN)
        {
            cancel.cancel();
        }
    }
}

/// Ends leases whose time has come, but not those that live sockets use. The sockets are read
/// without the engine's lock.
async fn end_leases(shared: &Shared) {
    let when = clock::now();
    let Some(doubts) = shared.with(|engine| engine.doubts(when)) else {
        return;
    };
    let used = shared.sockets.ask(doubts.clone()).await;
    let used = used.unwrap_or_else(|error| {
        warn!(
            error = chain(&error),
            "which addresses live sockets use is not known; their leases end"
        );
        InUse::new()
    });
    shared.with(|engine| engine.end_leases(&doubts, &used, when, clock::now()));
}

/// Saves what `unsaved` gives, if anything; the file is written without the engine's lock.
fn save_leases(shared: &Shared, unsaved: impl FnOnce(&mut Engine) -> Option<String>) {
    let Some((json, keeper)) =
        shared.with(|engine| Some((unsaved(engine)?, engine.keeper.clone())))
    else {
        return;
    };
    let saved = tokio::task::block_in_place(|| {
        keeper.save_leases(&json)?;
        keeper.drop_old_journal()
    });
    if let Err(error) = saved {
        warn!(%error, "the leases could not be saved; a restart will resolve names anew");
    }
}

async fn drain(mut tasks: JoinSet<()>, gates: Tasks) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a task failed");
            }
        }
        let mut gates = gates.take();
        while gates.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        warn!("some tasks did not end in time and were cut off");
    }
}

fn lease_config(config: &Config) -> LeaseConfig {
    LeaseConfig {
        grace: Duration::from_secs(config.resolver.grace_seconds.into()),
        min_ttl: Duration::from_secs(config.resolver.min_ttl_seconds.into()),
        max_ttl: Duration::from_secs(config.resolver.max_ttl_seconds.into()),
        ..LeaseConfig::default()
    }
}
