//! A laptop: Debian with systemd, D-Bus, resolved and a plain user, in which the scripts of
//! `tests/systemd` run.
//!
//! The guest program mounts the disks as always and then becomes systemd, which starts it
//! again as a service that runs the plan.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::arch::Arch;
use super::disk;
use super::plan::{self, Plan};
use super::programs::Programs;
use super::rootfs::{self, Recipe};
use crate::step;

/// Which Debian, and so which systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Release {
    /// systemd 252
    Bookworm,
    /// systemd 257
    Trixie,
}

impl Release {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// The kernel that it is booted with where none is named: the release's own, and for the
    /// newer one the newest that its backports have.
    pub(super) fn kernel(self) -> &'static str {
        match self {
            Self::Bookworm => "6.1",
            Self::Trixie => "7.3",
        }
    }

    pub(super) fn recipe(self) -> Recipe {
        Recipe {
            name: "systemd",
            suite: self.name(),
            arch: Arch::X86_64,
            packages: &PACKAGES,
            hooks: &HOOKS,
        }
    }
}

/// The programs that a payload needs.
pub(super) const PROGRAMS: [&str; 2] = ["exeat", "guest"];

/// Kernel words: no login prompt waits for a port that tests do not use, and the modules that
/// emulation's processor seems to want are not loaded for a minute.
pub(super) const APPEND: &str = "systemd.mask=serial-getty@ttyS0.service \
    systemd.mask=getty@tty1.service systemd.show_status=0 \
    modprobe.blacklist=kvm,kvm_amd,kvm_intel,powernow_k8";

const PACKAGES: [&str; 18] = [
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    // A plain user's session, and systemd-run --machine=alice@.
    "libpam-systemd",
    "dbus",
    "dbus-user-session",
    // Without it units that wait for devices wait for ever.
    "udev",
    "kmod",
    "iproute2",
    "nftables",
    // Hosts to reach.
    "python3",
    "curl",
    "procps",
    "util-linux",
    // A container to adopt, of the root that is there already.
    "podman",
    "crun",
    // The audit log's flag, for who removes the package.
    "e2fsprogs",
    // The scripts'.
    "mawk",
];

const HOOKS: [&str; 5] = [
    "echo laptop > \"$1/etc/hostname\"",
    // The first boot makes one.
    ": > \"$1/etc/machine-id\"",
    "chroot \"$1\" useradd --create-home --shell /bin/bash alice",
    "mkdir -p \"$1/payload\" \"$1/out\" \"$1/usr/lib/modules\"",
    "rm -rf \"$1/usr/share/doc\" \"$1/usr/share/locale\"",
];

/// The folder of the scripts that install packages.
const PACKAGE: &str = "package";

/// A limit for emulation on a busy machine, not the time that a script takes.
const SECONDS: u64 = 1800;

/// Every script of `tests/systemd` whose name contains `filter`, in the order of the names.
/// The first one waits for the end of the boot, so it always runs. Those of `package` need
/// packages and come last.
pub(super) fn scripts(root: &Path, filter: Option<&str>, packages: bool) -> Result<Vec<PathBuf>> {
    let folder = folder(root);
    let mut found = Vec::new();
    for folder in [Some(folder.clone()), packages.then(|| folder.join(PACKAGE))] {
        let Some(folder) = folder else { continue };
        let mut here: Vec<PathBuf> = fs::read_dir(&folder)
            .with_context(|| format!("could not list {}", folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "sh"))
            .collect();
        here.sort();
        found.extend(here);
    }
    let all = found.len();
    let mut first = true;
    found.retain(|path| {
        let name = step_name(path);
        std::mem::take(&mut first) || filter.is_none_or(|filter| name.contains(filter))
    });
    ensure!(
        all > 1 && (filter.is_none() || found.len() > 1),
        "no script of {} has {:?} in its name",
        folder.display(),
        filter.unwrap_or_default()
    );
    Ok(found)
}

pub(super) fn plan(lines: &str, scripts: &[PathBuf]) -> Plan {
    let steps = scripts
        .iter()
        .map(|path| {
            let name = step_name(path);
            let folder = match path
                .parent()
                .is_some_and(|folder| folder.ends_with(PACKAGE))
            {
                true => format!("{PACKAGE}/"),
                false => String::new(),
            };
            let script = format!("/payload/systemd/{folder}{name}.sh");
            plan::step(&name, &["bash", &script], SECONDS)
        })
        .collect();
    Plan {
        lines: lines.to_owned(),
        systemd: true,
        steps,
    }
}

/// Makes the disk with the programs and the scripts.
pub(super) fn payload(
    work: &Path,
    root: &Path,
    programs: &Programs,
    debs: &[PathBuf],
) -> Result<PathBuf> {
    let made = work.join("payload-systemd");
    let image = work.join("payload-systemd.img");
    // Two programs and a few scripts: made anew each time.
    let _ = fs::remove_dir_all(&made);
    fs::create_dir_all(&made).with_context(|| format!("could not make {}", made.display()))?;
    for (name, path) in programs {
        let into = made.join(name);
        fs::copy(path, into).with_context(|| format!("could not copy {}", path.display()))?;
    }
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(folder(root)).arg(made.join("systemd"));
    step::capture(&mut copy)?;
    // What is installed by hand where no package is.
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(root.join("dist")).arg(made.join("dist"));
    step::capture(&mut copy)?;
    for (deb, name) in debs.iter().zip(["old.deb", "new.deb"]) {
        let into = made.join(name);
        fs::copy(deb, into).with_context(|| format!("could not copy {}", deb.display()))?;
    }
    disk::ext4(&made, &image)?;
    Ok(image)
}

/// Finds the userland or makes it.
pub(super) fn userland(project: &crate::project::Project, release: Release) -> Result<PathBuf> {
    rootfs::ensure(project, &release.recipe())
}

fn folder(root: &Path) -> PathBuf {
    root.join("tests/systemd")
}

fn step_name(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filter: Option<&str>) -> Result<Vec<String>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = scripts(&root, filter, true)?;
        Ok(found.iter().map(|path| step_name(path)).collect())
    }

    #[test]
    fn the_first_script_always_runs() {
        let all = names(None).expect("scripts");
        assert!(all.len() > 2, "{all:?}");
        let some = names(Some("limits")).expect("scripts");
        assert_eq!(some.len(), 2, "{some:?}");
        assert_eq!(some[0], all[0]);
        let why = names(Some("no such")).expect_err("no script");
        assert!(format!("{why}").contains("no such"), "{why}");
    }

    #[test]
    fn scripts_of_packages_come_last_and_only_with_packages() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let without = scripts(&root, None, false).expect("scripts");
        let with = scripts(&root, None, true).expect("scripts");
        assert!(with.starts_with(&without) && with.len() > without.len());
        let made = plan("/dev/ttyS1", &with);
        let last = &made.steps[made.steps.len() - 1].argv[1];
        assert!(last.starts_with("/payload/systemd/package/"), "{last}");
    }

    #[test]
    fn a_plan_of_systemd_says_so() {
        let made = plan("/dev/ttyS1", &["/a/10-boot.sh".into()]);
        assert!(made.systemd);
        assert_eq!(made.steps[0].name, "10-boot");
        assert_eq!(made.steps[0].argv, ["bash", "/payload/systemd/10-boot.sh"]);
    }
}
