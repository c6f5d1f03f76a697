//! Starting a program, and what the daemon needs to be there.

use crate::Settings;
use crate::report::{Section, Target, number, ratio};
use crate::stats::Series;
use anyhow::{Context, ensure};
use exeat_tests::daemon::Daemon;
use exeat_tests::world::World;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Instant;

const AGENTS: usize = 10;

/// Makes a command anew.
type Make<'a> = Box<dyn Fn() -> Command + 'a>;

fn policy() -> String {
    let mut text = String::from("version: 1\nagents:\n");
    for agent in 0..AGENTS {
        text += &format!(
            "  bench-{agent}:\n    allow:\n      - cidr: 203.0.113.0/24\n        ports: [443]\n"
        );
    }
    text
}

/// Others that confine a program; each with the arguments that come before it.
const OTHERS: &[(&str, &[&str])] = &[
    (
        "bwrap",
        &[
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--unshare-net",
        ],
    ),
    (
        "systemd-run",
        &["--scope", "--quiet", "-p", "IPAddressDeny=any"],
    ),
];

/// Runs it.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let world = World::new()?;
    let daemon = Daemon::start(&world, &policy())?;
    let words = ["true".to_owned()];
    let mut commands: Vec<(&str, Make<'_>)> = vec![
        ("exec", Box::new(|| world.laptop.command("true"))),
        (
            "exeat run",
            Box::new(|| daemon.run_command("bench-0", 0, &words)),
        ),
    ];
    let mut absent = String::new();
    for &(program, before) in OTHERS {
        let laptop = &world.laptop;
        let make = move || {
            let mut command = laptop.command(program);
            command.args(before).arg("true");
            command
        };
        match once(make()) {
            Ok(_) => commands.push((program, Box::new(make))),
            Err(why) => absent += &format!(" {program} is absent: {why:#}."),
        }
    }
    let mut seen: BTreeMap<&str, Series> = BTreeMap::new();
    for round in 0..settings.pick(10, 60) {
        for turn in 0..commands.len() {
            let (name, make) = &commands[(turn + round) % commands.len()];
            seen.entry(name).or_default().push(once(make())?);
        }
    }
    let base = &seen["exec"];
    let rows = commands
        .iter()
        .map(|(name, _)| {
            let one = &seen[name];
            vec![
                (*name).to_owned(),
                number(one.median()),
                number(one.min()),
                number(one.less(base).median()),
                ratio(&one.over(base)),
            ]
        })
        .collect();
    // Every agent has had a process, so that nothing is still to be made.
    for agent in 0..AGENTS {
        let run = daemon.run_as(&format!("bench-{agent}"), 0, &["true"])?;
        ensure!(
            run.status.success(),
            "bench-{agent}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
    let resident = resident_mib(daemon.pid().context("the daemon has ended")?)?;
    Ok(vec![Section {
        name: "launch",
        title: "Launching a program, and the daemon's memory",
        note: format!(
            "`true` from fork to its end, in ms; `exeat run` through a running daemon with \
             {AGENTS} agents, which keeps {resident:.1} MiB resident (the BPF object and \
             everything mapped from the binary included).{absent}"
        ),
        columns: ["launcher", "median", "min", "over exec", "×"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        targets: vec![
            Target::at_most(
                "launch of `true` over exec",
                10.0,
                seen["exeat run"].less(base).median(),
                "ms",
            ),
            Target::at_most(
                format!("resident with {AGENTS} agents"),
                25.0,
                resident,
                "MiB",
            ),
        ],
    }])
}

/// Milliseconds from the start of a command to its good end.
fn once(mut command: Command) -> anyhow::Result<f64> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let output = command
        .spawn()
        .context("it cannot be started")?
        .wait_with_output()?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "it ended with {}: {}",
        output.status,
        said.lines().next().unwrap_or_default()
    );
    Ok(took)
}

fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = procfs::process::Process::new(pid as i32)?.status()?;
    let kib = status.vmrss.context("no VmRSS in /proc/PID/status")?;
    Ok(kib as f64 / 1024.0)
}
