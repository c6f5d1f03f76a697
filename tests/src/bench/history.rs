//! How many events a second are kept, in bursts and for long, and that those which are not are
//! counted to the last.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use exeat_tests::daemon::Daemon;
use exeat_tests::wait;
use exeat_tests::world::{NAME_SERVER, World};
use serde_json::Value;

use crate::Settings;
use crate::report::{Section, Target, number};
use crate::sock::Socket;

/// How often what is due is sent: no rate below is a burst of more than a hundredth of it.
const PACE: Duration = Duration::from_millis(1);

/// Is refused at a rate; the hidden subcommand that the daemon's agent runs.
pub(crate) fn paced(milliseconds: u64, rate: u64) -> anyhow::Result<ExitCode> {
    let socket = Socket::udp()?;
    let to = Ipv4Addr::new(198, 51, 100, 7);
    let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
    let total = milliseconds * rate / 1000;
    let mut count = 0;
    while count < total {
        let passed = start.elapsed().min(time);
        let due = (passed.as_micros() as u64 * rate / 1_000_000).min(total);
        while count < due {
            let said = socket.connect(to);
            ensure!(
                said == libc::EPERM,
                "a connect that was to be refused ended with {said}"
            );
            count += 1;
        }
        if count < total {
            std::thread::sleep(PACE);
        }
    }
    // How long it took tells whether the machine could send at that rate at all.
    println!("{}", start.elapsed().as_millis());
    Ok(ExitCode::SUCCESS)
}

/// What became of the refusals of one run.
struct Kept {
    refused: u64,
    kept: u64,
    in_kernel: u64,
    by_history: u64,
    /// Events a second that were really sent.
    rate: f64,
}

/// Bursts of a second, and a longer run.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<Section> {
    let long = settings.pick(3_000, 20_000);
    let runs = [
        (20_000, 1_000, "burst"),
        (50_000, 1_000, "burst"),
        (100_000, 1_000, "burst"),
        (200_000, 1_000, "burst"),
        (5_000, long, "sustained"),
    ];
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (rate, milliseconds, what) in runs {
        let kept = one(rate, milliseconds)?;
        let lost = kept.in_kernel + kept.by_history;
        rows.push(vec![
            format!(
                "{what}, {} a second for {} s",
                number(rate as f64),
                milliseconds / 1000
            ),
            number(kept.rate),
            kept.refused.to_string(),
            kept.kept.to_string(),
            kept.in_kernel.to_string(),
            kept.by_history.to_string(),
        ]);
        if matches!(rate, 100_000 | 5_000) {
            let name = match what {
                "burst" => "events lost of a burst of 100,000 in a second",
                _ => "events lost of 5,000 a second sustained",
            };
            targets.push(Target::at_most(name, 0.0, lost as f64, "events"));
        }
    }
    Ok(Section {
        name: "history",
        title: "Events that are kept",
        note: "One process is refused at a rate, with the throttle at its loosest; the daemon \
               names each refusal and writes it into the history. Every refusal is in the history, \
               or counted as lost in the kernel's ring or by the history: the benchmark fails \
               where the sum is not exact."
            .to_owned(),
        columns: [
            "run",
            "events/s",
            "refused",
            "kept",
            "lost in the ring",
            "lost by the history",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        targets,
    })
}

fn one(rate: u64, milliseconds: u64) -> anyhow::Result<Kept> {
    let world = World::new()?;
    let policy = format!(
        "version: 1\nagents:\n  bench:\n    allow:\n      - cidr: {NAME_SERVER}\n        ports: [443]\n"
    );
    let config = "events: {rate: 1000000, burst: 10000000}\n";
    let daemon = Daemon::start_with(&world, &policy, config)?;
    let me = std::env::current_exe()?.display().to_string();
    let argv = [&me, "paced", &milliseconds.to_string(), &rate.to_string()];
    let run = daemon.run_as("bench", 0, &argv)?;
    let said = String::from_utf8_lossy(&run.stdout);
    ensure!(
        run.status.success(),
        "it ended badly: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    let took: f64 = said.trim().parse().context("how long it took")?;
    let labels = ["agent=\"bench\""];
    let refused = daemon.metric("exeat_flows_blocked_total", &labels)? as u64;
    let mut last = (0, 0, 0);
    wait::until("every event to be somewhere", wait::patience(), || {
        let in_kernel = daemon
            .metric("exeat_events_lost_total", &["stage=\"kernel\""])
            .ok()? as u64;
        last = (
            stored(&daemon).ok()?,
            in_kernel,
            lost_by_history(&daemon).ok()?,
        );
        (last.0 + last.1 + last.2 == refused).then_some(())
    })
    .with_context(|| format!("{last:?} of {refused}"))?;
    let (kept, in_kernel, by_history) = last;
    Ok(Kept {
        refused,
        kept,
        in_kernel,
        by_history,
        rate: refused as f64 * 1000.0 / took.max(1.0),
    })
}

/// Refusals in the history.
fn stored(daemon: &Daemon) -> anyhow::Result<u64> {
    let words = ["flows", "--summary", "agent", "--output", "json"];
    let output = daemon.cli(&words).output()?;
    let rows: Value = serde_json::from_slice(&output.stdout)?;
    Ok(rows["rows"][0]["denied"].as_u64().unwrap_or(0))
}

/// Records that the history has lost, as health says it.
fn lost_by_history(daemon: &Daemon) -> anyhow::Result<u64> {
    let status = daemon.status()?;
    let reasons = status["health"]["reasons"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let lost = reasons
        .iter()
        .filter_map(|reason| reason.as_str()?.strip_prefix("the history has lost "))
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    Ok(lost.sum())
}
