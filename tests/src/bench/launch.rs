//! Starting a program, and what the daemon needs to be there.

use crate::Settings;
use crate::peer::Program;
use crate::report::{Section, Target, number, ratio};
use crate::stats::Series;
use anyhow::{Context, ensure};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::Daemon;
use exeat_tests::world::World;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const AGENTS: usize = 10;

/// Makes a command anew.
type Make<'a> = Box<dyn Fn() -> anyhow::Result<Command> + 'a>;

/// The agent whose programs run without the sandbox.
const BARE: &str = "bench-bare";

fn policy() -> String {
    let mut text = String::from("version: 1\nagents:\n");
    let mut agent = |name: &str, more: &str| {
        text += &format!(
            "  {name}:\n    allow:\n      - cidr: 203.0.113.0/24\n        ports: [443]\n{more}"
        );
    };
    for number in 1..AGENTS {
        agent(&format!("bench-{number}"), "");
    }
    agent(BARE, "    sandbox: none\n");
    text
}

/// As much of bubblewrap as it takes to hide what Exeat's sandbox hides.
const BWRAP: &[&str] = &[
    "--ro-bind",
    "/usr",
    "/usr",
    "--ro-bind",
    "/etc",
    "/etc",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/run",
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
    "--new-session",
];

/// Anthropic's sandbox-runtime, where `cargo xtask bench` brought it: it starts bubblewrap, a
/// proxy and two relays.
fn srt(world: &World) -> anyhow::Result<Command> {
    let program = std::env::var_os("EXEAT_SRT").context("it was not brought")?;
    let mut folders = Vec::new();
    for needed in ["bwrap", "socat", "rg"] {
        folders.extend(Program::find(needed)?.path().parent().map(Path::to_owned));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    // With the libraries that were unpacked with the others.
    let needed = Program::find("socat")?.command(&world.laptop);
    let mut command = world.laptop.command(program);
    for (name, value) in needed.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    command.env("PATH", std::env::join_paths(folders)?);
    Ok(command)
}

/// Runs it.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let world = World::new()?;
    let daemon = Daemon::start_with(&world, &policy(), "sandbox: true\n")?;
    let words = ["true".to_owned()];
    let mut commands: Vec<(&str, Make<'_>)> = vec![
        ("exec", Box::new(|| Ok(world.laptop.command("true")))),
        (
            "exeat run, `sandbox: none`",
            Box::new(|| Ok(daemon.run_command(BARE, 0, &words))),
        ),
        (
            "exeat run",
            Box::new(|| Ok(daemon.run_command("bench-1", 0, &words))),
        ),
        (
            "exeat run, no root",
            Box::new(|| Ok(daemon.run_command("bench-1", PLAIN_USER, &words))),
        ),
    ];
    let others: [(&str, Make<'_>); 3] = [
        (
            "bwrap",
            Box::new(|| {
                let program = Program::find("bwrap")?;
                let mut command = program.command(&world.laptop);
                command.args(BWRAP).arg("true");
                Ok(command)
            }),
        ),
        (
            "systemd-run",
            Box::new(|| {
                let mut command = world.laptop.command("systemd-run");
                command.args(["--scope", "--quiet", "-p", "IPAddressDeny=any", "true"]);
                Ok(command)
            }),
        ),
        (
            "sandbox-runtime",
            Box::new(|| {
                let mut command = srt(&world)?;
                command.arg("true");
                Ok(command)
            }),
        ),
    ];
    let mut absent = String::new();
    for (name, make) in others {
        match make().and_then(once) {
            Ok(_) => commands.push((name, make)),
            Err(why) => absent += &format!(" {name} is absent: {why:#}."),
        }
    }
    let mut seen: BTreeMap<&str, Series> = BTreeMap::new();
    for round in 0..settings.pick(10, 60) {
        for turn in 0..commands.len() {
            let (name, make) = &commands[(turn + round) % commands.len()];
            seen.entry(name).or_default().push(once(make()?)?);
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
    for agent in 1..AGENTS {
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
                "launch of `true` over exec, in the sandbox",
                15.0,
                seen["exeat run"].less(base).median(),
                "ms",
            ),
            Target::at_most(
                "launch of `true` over exec, in the sandbox, no root",
                15.0,
                seen["exeat run, no root"].less(base).median(),
                "ms",
            ),
            Target::at_most(
                "launch of `true` over exec, `sandbox: none`",
                10.0,
                seen["exeat run, `sandbox: none`"].less(base).median(),
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
