//! `cargo xtask vm-test`: the live tests on other kernels.
//!
//! ```text
//! kernels.lock.toml → fetch → unpack ─ kernel, modules ┐
//! cargo (static) → programs → payload disk             ├→ machine (QEMU) → lines → results
//! mmdebstrap → rootfs disk                             │        one a kernel        │
//! suites → plan → initramfs (with the guest program) ──┘                            ↓
//!                        docs/kernels.json ← record → page → docs/kernels.md     report
//! ```

mod arch;
mod args;
pub(crate) mod cross;
mod disk;
mod fetch;
mod initramfs;
mod lines;
mod lock;
mod machine;
mod page;
mod payload;
mod plan;
mod programs;
mod progress;
mod qemu;
mod record;
mod report;
mod results;
mod rootfs;
mod series;
mod suites;
mod systemd;
mod unpack;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

pub(crate) use arch::Arch;
pub(crate) use args::Args;
use args::{Lsm, choose, cores};
use fetch::Kernel;
pub(crate) use fetch::host_arch;
use lines::Line;
use machine::Machine;
use progress::{Bar, Progress};
use report::Run;
use results::Results;
use series::Series;
use suites::Suite;

use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

/// What a guest is given. The tests need no more; QEMU takes what is used.
const MEGABYTES: u32 = 1536;

/// What `cargo xtask test` boots: the oldest, a middle and the newest kernel, core suites.
pub(crate) fn few(project: &Project) -> Result<()> {
    run(
        project,
        &Args {
            kernel: series::FEW.map(str::to_owned).to_vec(),
            lsm: None,
            arch: Arch::X86_64,
            systemd: None,
            deb: vec![],
            test: None,
            core: true,
            jobs: cores(),
            save: false,
            relock: false,
            keep: false,
            accel: "tcg".to_owned(),
        },
    )
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let started = Instant::now();
    ensure!(args.jobs > 0, "--jobs 0 boots nothing");
    let chosen = choose(args)?;
    let filter = args.test.as_deref();
    let (suites, filter, scripts) = match args.systemd {
        Some(_) => (
            vec![],
            None,
            systemd::scripts(&project.root, filter, !args.deb.is_empty())?,
        ),
        None => {
            let (suites, filter) = suites::choose(args.core, filter)?;
            (suites, filter, vec![])
        }
    };
    setup::vm_packages(Tell::Changes)?;
    let work = project.target().join("vm");
    fs::create_dir_all(&work).with_context(|| format!("could not make {}", work.display()))?;
    fs::create_dir_all(project.cache.join("vm")).context("could not make the cache")?;
    // Two runs would write the same disks.
    let turn = File::create(work.join("turn")).context("could not make target/vm/turn")?;
    if turn.try_lock().is_err() {
        step::done("vm-test", "another one runs here; waiting for its end");
        turn.lock().context("could not lock target/vm/turn")?;
    }
    if args.relock {
        return relock(project, &chosen);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    // A handler that is there already is one of ours, of an earlier step.
    let _ = ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            // Asked twice: the kernel kills the guests with us.
            std::process::exit(130);
        }
    });
    let run = Setting {
        args,
        suites,
        filter,
        scripts,
        stop,
        work,
    };
    let (kernels, ground) = run.prepare(project, &chosen)?;
    run.interrupted()?;
    step::done(
        "ready",
        &format!("disks and kernels ({})", step::seconds(started.elapsed())),
    );
    let mut runs = run.boot_all(&kernels, &ground);
    run.interrupted()?;
    conclude(project, args, &mut runs)?;
    println!("in all: {}", step::seconds(started.elapsed()));
    let failed = runs.iter().filter(|run| !run.failures().is_empty()).count();
    if failed > 0 {
        bail!("{failed} of {} kernels failed", runs.len());
    }
    Ok(())
}

fn relock(project: &Project, chosen: &[&Series]) -> Result<()> {
    let mut lock = lock::read(&project.root)?;
    for series in chosen {
        let newest = fetch::lock_newest(project, series)?;
        let name = format!("kernel {} {}", series.name, series.arch);
        let is = |one: &lock::Locked| one.name == series.name && one.arch == series.arch;
        match lock.kernel.iter_mut().find(|one| is(one)) {
            Some(old) if *old == newest => step::done(&name, &format!("stays {}", old.image())),
            Some(old) => {
                step::done(&name, &format!("{}, was {}", newest.image(), old.image()));
                *old = newest;
            }
            None => {
                step::done(&name, &newest.image());
                lock.kernel.push(newest);
            }
        }
    }
    lock::write(&project.root, &lock)?;
    step::done("lock", &lock::path(&project.root).display().to_string());
    Ok(())
}

/// What all guests of a run share.
struct Setting<'a> {
    args: &'a Args,
    suites: Vec<&'static Suite>,
    filter: Option<&'a str>,
    /// Of a laptop, instead of suites.
    scripts: Vec<PathBuf>,
    stop: Arc<AtomicBool>,
    work: PathBuf,
}

/// What they stand on.
struct Ground {
    qemu: qemu::Qemu,
    guest: PathBuf,
    rootfs: PathBuf,
    payload: PathBuf,
}

impl Setting<'_> {
    fn prepare(&self, project: &Project, chosen: &[&Series]) -> Result<(Vec<Kernel>, Ground)> {
        let arch = self.args.arch;
        // First what needs the network, then what takes long.
        let qemu = qemu::Qemu::ensure(project, arch)?;
        let lock = lock::read(&project.root)?;
        let mut kernels = Vec::new();
        for series in chosen {
            self.interrupted()?;
            let is = |one: &&lock::Locked| one.name == series.name && one.arch == series.arch;
            let locked = lock.kernel.iter().find(is);
            kernels.push(fetch::kernel(project, series, locked)?);
        }
        self.interrupted()?;
        let rootfs = match self.args.systemd {
            Some(release) => systemd::userland(project, release)?,
            None => rootfs::ensure(project, &rootfs::plain(arch))?,
        };
        self.interrupted()?;
        let mut programs = programs::build(project, arch, self.args.systemd.is_none())?;
        self.interrupted()?;
        let needed = |name: &str| {
            programs::BINARIES.contains(&name) || self.suites.iter().any(|one| one.name == name)
        };
        for suite in &self.suites {
            ensure!(
                programs.contains_key(suite.name),
                "cargo built no test program {}: xtask/src/vm/suites.rs and tests/tests differ",
                suite.name
            );
        }
        programs.retain(|name, _| needed(name));
        let guest = programs.get("guest").context("no guest program")?.clone();
        let payload = match self.args.systemd {
            Some(_) => {
                programs.retain(|name, _| systemd::PROGRAMS.contains(&name.as_str()));
                systemd::payload(&self.work, &project.root, &programs, &self.args.deb)?
            }
            None => payload::make(&self.work, arch, &programs)?,
        };
        let ground = Ground {
            qemu,
            guest,
            rootfs,
            payload,
        };
        Ok((kernels, ground))
    }

    fn interrupted(&self) -> Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// As many at once as asked for; the results in the order of `kernels`.
    fn boot_all(&self, kernels: &[Kernel], ground: &Ground) -> Vec<Run> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((0..kernels.len()).collect());
        let done: Mutex<Vec<(usize, Run)>> = Mutex::new(Vec::new());
        let progress = Progress::new();
        thread::scope(|scope| {
            for _ in 0..self.args.jobs.min(kernels.len()) {
                scope.spawn(|| {
                    loop {
                        let next = queue
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .pop_front();
                        let Some(index) = next else { break };
                        if self.stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let run = self.boot(&kernels[index], ground, &progress);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.push((index, run));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, run)| run).collect()
    }

    fn boot(&self, kernel: &Kernel, ground: &Ground, progress: &Progress) -> Run {
        let started = Instant::now();
        let name = &kernel.packages.name;
        let mut results = Results::default();
        let folder = self.folder(kernel);
        // With the doctor, or as many scripts.
        let steps = match self.args.systemd {
            Some(_) => self.scripts.len(),
            None => self.suites.len() + 1,
        };
        let mut bar = progress.bar(name, steps);
        let outcome = self.boot_in(&folder, kernel, ground, &mut results, &mut bar);
        let broken = outcome.err().map(|why| format!("{why:#}"));
        if broken.is_some() {
            bar.say("FAILED, the guest did not come to its end");
        }
        Run {
            name: name.clone(),
            arch: self.args.arch,
            package: kernel.packages.image(),
            locked: kernel.locked,
            lsm: self.args.lsm.map_or("default", |lsm| lsm.name()).to_owned(),
            results,
            broken,
            wall: started.elapsed(),
            folder,
            left_out: match self.args.systemd {
                Some(_) => 0,
                None => suites::SUITES.len() + suites::LEFT_OUT.len() - self.suites.len(),
            },
            filtered: self.filter.is_some(),
            differs: Vec::new(),
        }
    }

    fn boot_in(
        &self,
        folder: &Path,
        kernel: &Kernel,
        ground: &Ground,
        results: &mut Results,
        bar: &mut Bar,
    ) -> Result<()> {
        // What an earlier run left would look like this one's.
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        let initramfs = folder.join("initramfs");
        let port = self.args.arch.lines();
        let plan = match self.args.systemd {
            Some(_) => systemd::plan(port, &self.scripts),
            None => plan::plan(port, &self.suites, self.filter),
        };
        initramfs::write(&initramfs, &ground.guest, &kernel.files.inserted, &plan)?;
        let machine = Machine {
            arch: self.args.arch,
            kernel: &kernel.files.image,
            initramfs: &initramfs,
            disks: &[&ground.rootfs, &ground.payload, &kernel.files.modules],
            append: &self.append(),
            megabytes: MEGABYTES,
            reboots: self.args.systemd.is_some(),
            accelerator: &self.args.accel,
            folder,
        };
        bar.start("boot");
        let outcome = machine.run(&ground.qemu, &self.stop, |line| {
            match &line {
                Line::Boot { boot } => bar.say(&format!(
                    "{} booted ({:.1} s)",
                    boot.kernel,
                    boot.ms as f64 / 1000.0
                )),
                Line::Start { start, .. } => bar.start(start),
                _ => {}
            }
            if let Some(outcome) = results.take(line, folder)? {
                bar.end(outcome);
            }
            Ok(())
        });
        if !self.args.keep {
            let _ = fs::remove_file(&initramfs);
        }
        outcome?;
        if let Some(boot) = &results.boot {
            ensure!(
                boot.kernel == kernel.files.release,
                "the guest runs {}, and {} was booted",
                boot.kernel,
                kernel.files.release
            );
        }
        Ok(())
    }

    fn append(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.args.lsm.map(Lsm::append));
        words.extend(self.args.systemd.map(|_| systemd::APPEND));
        words.join(" ")
    }

    fn folder(&self, kernel: &Kernel) -> PathBuf {
        let mut name = kernel.packages.name.clone();
        if self.args.arch != Arch::X86_64 {
            name = format!("{name}-{}", self.args.arch);
        }
        if let Some(lsm) = self.args.lsm {
            name = format!("{name}-lsm-{}", lsm.name());
        }
        if let Some(release) = self.args.systemd {
            name = format!("{name}-systemd-{}", release.name());
        }
        self.work.join(name)
    }
}

/// Compares with the record or writes it, and tells all.
fn conclude(project: &Project, args: &Args, runs: &mut [Run]) -> Result<()> {
    let date = step::capture(Command::new("date").args(["-u", "+%F"]))?;
    let mut record = record::read(&project.root)?;
    for run in runs.iter_mut() {
        let Some(now) = run.record(date.trim()) else {
            continue;
        };
        if args.save {
            record.put(now);
        } else if let Some(before) = record.find(&now) {
            run.differs = now.differs(before);
        } else {
            step::done(
                &format!("kernel {}", run.name),
                "docs/kernels.json has no such run to compare with; --save records it",
            );
        }
    }
    if args.save {
        record::write(&project.root, &record)?;
        step::done(
            "record",
            "docs/kernels.json and docs/kernels.md are written",
        );
    }
    for line in runs.iter().flat_map(Run::failures) {
        println!("  FAILED {line}");
    }
    println!("\n{}", report::table(runs));
    Ok(())
}
