//! What runs in a guest of `cargo xtask vm-test`.
//!
//! As the first process it makes a system of the disks, runs the plan, tells what happened on
//! a serial port, and powers the machine off. Where the plan is for systemd it becomes systemd
//! instead, which starts it again as a service (`guest service`) that does the rest.
//!
//! A mistake of its own ends it, and so the kernel, and the machine: the run then lacks its
//! last line, and the console says why.

mod init;
mod lines;
mod steps;
mod systemd;

use anyhow::Context;
use lines::Lines;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use steps::{Leavings, Steps};

/// What xtask has put into the initramfs.
#[derive(Deserialize)]
struct Plan {
    /// The device to speak by.
    lines: String,
    /// Whether the steps are for a machine with systemd.
    systemd: bool,
    steps: Vec<steps::Step>,
}

fn main() -> ExitCode {
    let service = std::env::args()
        .nth(1)
        .is_some_and(|word| word == "service");
    let outcome = match (std::process::id(), service) {
        (1, _) => first_process(),
        (_, true) => systemd::service().context("as a service"),
        (_, false) => {
            eprintln!("guest: it is a part of the guests of `cargo xtask vm-test`, or nothing");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = outcome {
        eprintln!("guest: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn first_process() -> anyhow::Result<()> {
    let text = std::fs::read("/plan.json").context("read /plan.json")?;
    let plan = Plan::parse(&text)?;
    init::kernel_file_systems()?;
    let lines = Lines::open(&plan.lines)?;
    init::insert_modules()?;
    init::root()?;
    init::system(plan.systemd)?;
    lines.say(&init::boot()?)?;
    if plan.systemd {
        systemd::become_it(&lines, &plan, &text)
    } else {
        perform(&lines, &plan, 0, Leavings::OfAll)
    }
}

impl Plan {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(text).context("parse the plan")
    }
}

/// Runs the steps, but for the first `done`, and powers the machine off; or boots it anew, where
/// a step has asked for that.
fn perform(lines: &Lines, plan: &Plan, done: usize, leavings: Leavings) -> anyhow::Result<()> {
    let mut steps = Steps::new(lines, leavings)?;
    for (number, step) in plan.steps.iter().enumerate().skip(done) {
        steps.run(step)?;
        if systemd::reboot_wanted() {
            return systemd::reboot(lines, number + 1);
        }
    }
    lines.say(&json!({ "done": true }))?;
    lines.drain()?;
    power_off()
}

/// Everything on the disks is a snapshot that goes with the machine, so nothing is written
/// back and nobody is asked.
fn power_off() -> anyhow::Result<()> {
    // SAFETY: it takes a number.
    let off = unsafe { libc::reboot(libc::RB_POWER_OFF) };
    nix::errno::Errno::result(off).context("power off")?;
    Ok(())
}
