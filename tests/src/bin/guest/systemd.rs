//! A guest whose first process is systemd.

use super::{Plan, lines::Lines, perform, power_off, steps::Leavings};
use anyhow::Context;
use serde_json::json;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const PLAN: &str = "/run/exeat-vm/plan.json";
/// A step that makes this has the machine boot anew before the next one.
const REBOOT: &str = "/run/exeat-vm/reboot";
/// On the disk: how many steps came before the boot.
const DONE: &str = "/var/lib/exeat-vm/done";
const UNIT: &str = "/run/systemd/system/exeat-vm.service";
const WANTED: &str = "/run/systemd/system/multi-user.target.wants/exeat-vm.service";

/// Type=exec: what waits for the end of the boot must not be a part of it. After the target,
/// so that the steps meet a machine that is up.
const TEXT: &str = "\
[Unit]
Description=Tests of Exeat
After=multi-user.target

[Service]
Type=exec
ExecStart=/payload/guest service
StandardOutput=journal+console
StandardError=journal+console
";

/// Leaves the plan and a unit in `/run`, which systemd takes over as it is, and becomes
/// systemd. The first step begins here, because its time-out is to hold for systemd's start.
pub(super) fn become_it(lines: &Lines, plan: &Plan, text: &[u8]) -> anyhow::Result<()> {
    for file in [PLAN, WANTED] {
        if let Some(folder) = Path::new(file).parent() {
            fs::create_dir_all(folder).with_context(|| format!("mkdir {}", folder.display()))?;
        }
    }
    fs::write(PLAN, text).context("write the plan")?;
    fs::write(UNIT, TEXT).context("write the unit")?;
    symlink(UNIT, WANTED).context("link the unit")?;
    if let Some(first) = plan.steps.get(done()) {
        lines.say(&first.begins())?;
        lines.drain()?;
    }
    let systemd = CString::new("/sbin/init").context("a path")?;
    match nix::unistd::execv(&systemd, std::slice::from_ref(&systemd)) {
        Ok(never) => match never {},
        Err(error) => Err(error).context("become /sbin/init"),
    }
}

fn done() -> usize {
    let text = fs::read_to_string(DONE).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Whether the step that has ended asks for another boot.
pub(super) fn reboot_wanted() -> bool {
    Path::new(REBOOT).exists()
}

/// Has systemd boot the machine anew; the next boot goes on behind the steps that are done. The
/// disk is the same one as long as the machine's QEMU lives.
pub(super) fn reboot(lines: &Lines, done: usize) -> anyhow::Result<()> {
    if let Some(folder) = Path::new(DONE).parent() {
        fs::create_dir_all(folder).with_context(|| format!("mkdir {}", folder.display()))?;
    }
    fs::write(DONE, done.to_string()).context("write how many steps are done")?;
    lines.say(&json!({ "reboot": done }))?;
    lines.drain()?;
    let asked = Command::new("systemctl").arg("reboot").status();
    let asked = asked.context("run systemctl reboot")?;
    anyhow::ensure!(asked.success(), "systemctl reboot: {asked}");
    Ok(())
}

/// Runs the plan that the first process has left.
pub(super) fn service() -> anyhow::Result<()> {
    let plan = Plan::read(Path::new(PLAN))?;
    let lines = Lines::open(&plan.lines)?;
    let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("/proc/self/cgroup has no line of cgroup2")?;
    let cgroup = Path::new("/sys/fs/cgroup").join(own);
    let outcome = perform(&lines, &plan, done(), Leavings::Of(cgroup));
    if let Err(error) = &outcome {
        // Nobody would notice: the machine runs on without us.
        lines.say(&json!({ "out": format!("guest: {error:#}") }))?;
        power_off()?;
    }
    outcome
}
