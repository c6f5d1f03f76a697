//! The first process of a guest of `cargo xtask vm-test`: makes a system of the disks, runs
//! the plan, tells what happened on a serial port, and powers the machine off.
//!
//! A mistake of its own ends it, and so the kernel, and the machine: the run then lacks its
//! last line, and the console says why.

mod init;
mod lines;
mod steps;

use anyhow::Context;
use serde::Deserialize;
use std::process::ExitCode;

/// What xtask has put into the initramfs.
#[derive(Deserialize)]
struct Plan {
    /// The device to speak by.
    lines: String,
    steps: Vec<steps::Step>,
}

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("guest: it is the first process of a guest of `cargo xtask vm-test`, or nothing");
        return ExitCode::from(2);
    }
    if let Err(error) = run() {
        eprintln!("guest: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> anyhow::Result<()> {
    let plan = std::fs::read("/plan.json").context("read /plan.json")?;
    let plan: Plan = serde_json::from_slice(&plan).context("parse /plan.json")?;
    init::kernel_file_systems()?;
    let lines = lines::Lines::open(&plan.lines)?;
    init::insert_modules()?;
    init::root()?;
    init::system()?;
    lines.say(&init::boot()?)?;
    let mut steps = steps::Steps::new(&lines)?;
    for step in &plan.steps {
        steps.run(step)?;
    }
    lines.say(&serde_json::json!({ "done": true }))?;
    lines.drain()?;
    // SAFETY: it takes a number. Everything on the disks is a snapshot that goes with the machine.
    let off = unsafe { libc::reboot(libc::RB_POWER_OFF) };
    nix::errno::Errno::result(off).context("power off")?;
    Ok(())
}
