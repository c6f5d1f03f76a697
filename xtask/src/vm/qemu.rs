//! QEMU: the machine's own, or one unpacked into the cache. Installing the package would
//! fail where parts of another version are there, and needs root; unpacking does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::arch::Arch;
use super::fetch;
use crate::project::Project;
use crate::setup::{
    self,
    apt::{self, Of, PrivateApt},
};
use crate::step;

/// The suite that the private one comes from, whatever system this is: it runs with its own
/// C library.
const SUITE: &str = "bookworm";
const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-system-arm"];

/// How to start a guest's machine.
#[derive(Clone, Debug)]
pub(super) enum Qemu {
    /// A program of this machine.
    Own(PathBuf),
    /// The folder that the packages were unpacked into.
    Unpacked(PathBuf),
}

impl Qemu {
    /// Finds one or fetches one.
    pub(super) fn ensure(project: &Project, arch: Arch) -> Result<Self> {
        let folders = setup::search_path();
        let mut own = folders.iter().map(|folder| folder.join(arch.qemu()));
        if let Some(own) = own.find(|path| path.is_file()) {
            return Ok(Self::Own(own));
        }
        ensure!(
            fetch::host_arch() == Some(Arch::X86_64),
            "{} is not on PATH: install QEMU",
            arch.qemu()
        );
        let root = project.cache.join("vm").join(format!("qemu-{SUITE}"));
        if !root.is_dir() {
            unpack(project, &root).with_context(|| {
                format!("{} is not on PATH, and none was unpacked", arch.qemu())
            })?;
        }
        Ok(Self::Unpacked(root))
    }

    /// A command that is to be given the machine.
    pub(super) fn command(&self, arch: Arch) -> Command {
        match self {
            Self::Own(program) => Command::new(program),
            Self::Unpacked(root) => {
                let libraries = root.join("usr/lib/x86_64-linux-gnu");
                let mut qemu = Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
                let paths = [
                    libraries.clone(),
                    root.join("lib/x86_64-linux-gnu"),
                    libraries.join("pulseaudio"),
                ];
                let paths = paths.map(|path| path.display().to_string()).join(":");
                qemu.arg("--library-path").arg(paths);
                qemu.arg(root.join("usr/bin").join(arch.qemu()));
                for data in ["usr/share/qemu", "usr/share/seabios"] {
                    qemu.arg("-L").arg(root.join(data));
                }
                qemu.env("QEMU_MODULE_DIR", libraries.join("qemu"));
                qemu
            }
        }
    }
}

fn unpack(project: &Project, root: &Path) -> Result<()> {
    let mirror = setup::mirror_of(SUITE);
    let folder = project.cache.join("vm/apt").join(format!("{SUITE}-qemu"));
    let of = Of {
        mirror: &mirror,
        suite: SUITE,
        architecture: None,
        bare: true,
    };
    let apt = PrivateApt::new(&folder, &of)?;
    apt.update()
        .with_context(|| format!("{mirror} {SUITE} cannot be read: is the mirror reachable?"))?;
    let debs = apt.closure(&PACKAGES)?;
    apt::unpack(&debs, root)?;
    // 50 MB that are needed no more.
    let _ = fs::remove_dir_all(&folder);
    step::done(
        "QEMU",
        &format!("{} packages unpacked into {}", debs.len(), root.display()),
    );
    Ok(())
}
