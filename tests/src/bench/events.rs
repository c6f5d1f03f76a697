//! How many refusals a second reach the daemon's reader, and what it costs.

use crate::Settings;
use crate::field::{Column, Field};
use crate::lists::Ask;
use crate::report::{Section, Target, number};
use crate::sock::Socket;
use crate::stats::Series;
use anyhow::{Context, ensure};
use exeat::kernel::events::EventReader;
use exeat::kernel::object::Throttle;
use exeat_tests::daemon::Daemon;
use exeat_tests::world::{NAME_SERVER, World};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Is refused as fast as it can be; the hidden subcommand that the daemon's agent runs.
pub(crate) fn flood(milliseconds: u64) -> anyhow::Result<ExitCode> {
    // Of another TEST-NET than the policy's.
    refuse(Duration::from_millis(milliseconds), |_| {
        Ipv4Addr::new(198, 51, 100, 7)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Connects to what is refused for a time; how many times.
fn refuse(time: Duration, to: impl Fn(usize) -> Ipv4Addr) -> anyhow::Result<u64> {
    let socket = Socket::udp()?;
    let start = Instant::now();
    let mut count = 0_u64;
    while start.elapsed() < time {
        for _ in 0..64 {
            let said = socket.connect(to(count as usize));
            ensure!(
                said == libc::EPERM,
                "a connect that was to be refused ended with {}",
                std::io::Error::from_raw_os_error(said)
            );
            count += 1;
        }
    }
    Ok(count)
}

/// One flood.
struct Flood {
    refused: u64,
    taken: u64,
    lost: u64,
    seconds: f64,
    reader_seconds: f64,
}

/// Runs it.
pub(crate) fn run(settings: &Settings, object: &Path) -> anyhow::Result<Vec<Section>> {
    let (mut rate, mut lost, mut cost) = (Series::default(), 0, Series::default());
    let mut total = 0;
    let throttle = Throttle {
        per_second: 0,
        burst: 1,
    };
    let mut field = Field::new(&[10], throttle, object, |_| false)?;
    let ring = field.kernel.take_ring().context("the ring is taken")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut reader = {
        let _inside = runtime.enter();
        EventReader::new(ring)?
    };
    for round in 0..settings.pick(2, 5) {
        let flood = to_reader(settings, &mut field, &runtime, &mut reader, round)?;
        rate.push(flood.taken as f64 / flood.seconds);
        cost.push(flood.reader_seconds * 1e9 / flood.taken.max(1) as f64);
        lost += flood.lost;
        total += flood.refused;
    }
    drop(reader);
    drop(field);
    let mut rows = vec![vec![
        "kernel room's reader".to_owned(),
        number(rate.median()),
        format!("{lost} of {total}"),
        number(cost.median()),
    ]];
    let mut targets = vec![Target::at_least(
        "events a second to the reader",
        800_000.0,
        rate.median(),
        "/s",
    )];
    targets.push(Target::at_most(
        "events lost on the way to the reader",
        0.0,
        lost as f64,
        "events",
    ));
    let daemon = to_daemon(settings)?;
    rows.push(vec![
        "daemon (names, log, journal, metrics)".to_owned(),
        number(daemon.taken as f64 / daemon.seconds),
        format!("{} of {}", daemon.lost, daemon.refused),
        number(daemon.reader_seconds * 1e9 / daemon.taken.max(1) as f64),
    ]);
    let kept = crate::history::run(settings)?;
    let events = Section {
        name: "events",
        title: "Events",
        note: "One process is refused as fast as it can be, with the throttle off (for the \
               daemon: at its loosest, a million events a second). Events a second that arrived, \
               those that the ring had no room for, and the processor time of whoever reads, in \
               ns an event."
            .to_owned(),
        columns: ["to", "events/s", "lost", "ns/event"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        targets,
    };
    Ok(vec![events, kept])
}

fn to_reader(
    settings: &Settings,
    field: &mut Field,
    runtime: &tokio::runtime::Runtime,
    reader: &mut EventReader,
    round: u64,
) -> anyhow::Result<Flood> {
    let time = Duration::from_millis(settings.pick(500, 1_500));
    let to = field.agents[0].list.addresses(Ask::Miss, round, 4096);
    let before = field.kernel.stats(0)?;
    let (taken, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (refused, took, reader_seconds) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let start = thread_seconds()?;
            let mut unreadable = 0;
            let mut check = |event: Result<_, _>| unreadable += u64::from(event.is_err());
            runtime.block_on(async {
                while !over.load(Ordering::Acquire) || taken.load(Ordering::Relaxed) == 0 {
                    let count = reader.read(&mut check).await?;
                    taken.fetch_add(count as u64, Ordering::Relaxed);
                }
                // What came between the last look and the end of the flood.
                let count = reader.read(&mut check).await?;
                taken.fetch_add(count as u64, Ordering::Relaxed);
                std::io::Result::Ok(())
            })?;
            ensure!(unreadable == 0, "{unreadable} events cannot be read");
            anyhow::Ok(thread_seconds()? - start)
        });
        let flooded = field.within(Column::Exeat, 0, |_, _, _| {
            let start = Instant::now();
            let refused = refuse(time, |at| to[at % to.len()])?;
            Ok((refused, start.elapsed()))
        });
        over.store(true, Ordering::Release);
        let seconds = reading
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        let (refused, took) = flooded?;
        anyhow::Ok((refused, took, seconds))
    })?;
    let after = field.kernel.stats(0)?;
    let flood = Flood {
        refused,
        taken: taken.into_inner(),
        lost: after.events_lost - before.events_lost,
        seconds: took.as_secs_f64(),
        reader_seconds,
    };
    ensure!(
        flood.taken + flood.lost == flood.refused,
        "{} refusals, {} events taken and {} lost: some are not accounted for",
        flood.refused,
        flood.taken,
        flood.lost
    );
    Ok(flood)
}

fn to_daemon(settings: &Settings) -> anyhow::Result<Flood> {
    let world = World::new()?;
    let policy = format!(
        "version: 1\nagents:\n  bench:\n    allow:\n      - cidr: {NAME_SERVER}\n        ports: [443]\n"
    );
    let daemon = Daemon::start_with(
        &world,
        &policy,
        "events: {rate: 1000000, burst: 10000000}\n",
    )?;
    let pid = daemon.pid().context("the daemon has ended")?;
    let me = std::env::current_exe()?.display().to_string();
    let time = settings.pick(500, 1_500).to_string();
    let labels = ["agent=\"bench\""];
    let blocked = || daemon.metric("exeat_flows_blocked_total", &labels);
    let before = (blocked()?, cpu_seconds(pid)?);
    let start = Instant::now();
    let run = daemon.run_as("bench", 0, &[&me, "flood", &time])?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        run.status.success(),
        "the flood ended badly: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    let refused = blocked()? - before.0;
    let lost = daemon.metric("exeat_events_lost_total", &[])?;
    let throttled = daemon.metric("exeat_events_throttled_total", &labels)?;
    Ok(Flood {
        refused: refused as u64,
        taken: (refused - lost - throttled).max(0.0) as u64,
        lost: lost as u64,
        seconds,
        reader_seconds: cpu_seconds(pid)? - before.1,
    })
}

/// Processor seconds of this thread.
fn thread_seconds() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

/// Processor seconds of a process.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = text
        .rsplit_once(") ")
        .context("no name in /proc/PID/stat")?;
    // Fields 14 and 15 of proc(5), utime and stime; the first after the name is the third.
    let ticks: u64 = after
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // SAFETY: no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second.max(1) as f64)
}
