//! From the initramfs to a Debian with everything mounted.

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The kernel finds its disks while this program starts.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// The disks besides the root, and what the boot is told from.
const DISKS: [Mount; 3] = [
    ("/dev/vdb", "/payload", "ext4", ""),
    ("/dev/vdc", "/usr/lib/modules", "ext4", ""),
    ("security", "/sys/kernel/security", "securityfs", ""),
];

/// Device, place, kind, options.
type Mount = (&'static str, &'static str, &'static str, &'static str);

/// What is mounted in a Debian without an init of its own. In this order.
const MOUNTS: [Mount; 8] = [
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
    ("bpf", "/sys/fs/bpf", "bpf", "mode=700"),
    ("trace", "/sys/kernel/tracing", "tracefs", ""),
    ("pts", "/dev/pts", "devpts", "mode=620,ptmxmode=666"),
    ("shm", "/dev/shm", "tmpfs", "mode=1777"),
    ("tmp", "/tmp", "tmpfs", "mode=1777"),
    RUN,
    ("out", "/out", "tmpfs", "mode=755"),
];

const RUN: Mount = ("run", "/run", "tmpfs", "mode=755");

/// Mounts what the kernel itself serves.
pub(crate) fn kernel_file_systems() -> anyhow::Result<()> {
    attach("proc", "/proc", "proc", "")?;
    attach("sys", "/sys", "sysfs", "")?;
    attach("dev", "/dev", "devtmpfs", "")
}

/// Inserts what lies in `/modules`, in the order of the names.
pub(crate) fn insert_modules() -> anyhow::Result<()> {
    let mut modules: Vec<PathBuf> = fs::read_dir("/modules")
        .context("list /modules")?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .context("list /modules")?;
    modules.sort();
    for module in modules {
        let file = File::open(&module).with_context(|| format!("open {}", module.display()))?;
        // SAFETY: an open descriptor, a C string that lives on, and no flags.
        let inserted =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        Errno::result(inserted).with_context(|| format!("insert {}", module.display()))?;
    }
    Ok(())
}

/// Makes the first disk the root, with the kernel's file systems in it.
pub(crate) fn root() -> anyhow::Result<()> {
    let started = Instant::now();
    while !Path::new("/dev/vda").exists() {
        if started.elapsed() > DISK_PATIENCE {
            let seen = fs::read_to_string("/proc/partitions").unwrap_or_default();
            bail!("no /dev/vda after {DISK_PATIENCE:?}; the kernel sees: {seen}");
        }
        // The pause between two looks.
        std::thread::sleep(Duration::from_millis(5));
    }
    attach("/dev/vda", "/root", "ext4", "")?;
    for part in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{part}"), format!("/root/{part}"));
        shift(&from, &to)?;
    }
    std::env::set_current_dir("/root").context("chdir /root")?;
    shift(".", "/")?;
    // The kernel's own threads share this process's root, so modprobe is found by them too.
    nix::unistd::chroot(".").context("chroot into the disk")?;
    std::env::set_current_dir("/").context("chdir /")
}

/// Mounts the rest, and brings the loopback up; for systemd only what it does not do itself
/// and what it is handed things in.
pub(crate) fn system(systemd: bool) -> anyhow::Result<()> {
    let own: &[Mount] = if systemd { &[RUN] } else { &MOUNTS };
    for &(device, place, kind, options) in DISKS.iter().chain(own) {
        fs::create_dir_all(place)
            // Folders of the kernel's file systems are there or cannot be made.
            .or_else(|error| match Path::new(place).is_dir() {
                true => Ok(()),
                false => Err(error),
            })
            .with_context(|| format!("mkdir {place}"))?;
        attach(device, place, kind, options)?;
    }
    if systemd {
        return Ok(());
    }
    let status = Command::new("/usr/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("run ip")?;
    anyhow::ensure!(status.success(), "ip link set lo up: {status}");
    fs::write("/proc/sys/kernel/hostname", "exeat-guest").context("set the host name")
}

/// What this kernel is, and how long it took.
pub(crate) fn boot() -> anyhow::Result<serde_json::Value> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read osrelease")?;
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").context("read the list of LSMs")?;
    let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).context("clock_gettime")?);
    Ok(serde_json::json!({ "boot": {
        "kernel": release.trim(),
        "lsm": lsm.trim(),
        "ms": up.as_millis(),
    } }))
}

fn attach(device: &str, place: &str, kind: &str, options: &str) -> anyhow::Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(device), place, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mount {device} ({kind}) on {place}"))
}

fn shift(from: &str, to: &str) -> anyhow::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("move the mount {from} to {to}"))
}
