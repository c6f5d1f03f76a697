//! Debian roots of their own, in which packages are checked, signed and installed: nothing of
//! it touches the machine that builds.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

const LIMIT: Duration = Duration::from_secs(1800);

/// The programs that check packages and make repositories, and dnf with rpm.
const PROGRAMS: [&str; 11] = [
    "lintian",
    "rpmlint",
    "rpm",
    "dnf",
    "createrepo-c",
    "apt-utils",
    "gnupg",
    "systemd",
    "apparmor",
    "man-db",
    "ca-certificates",
];

/// What an installation on Debian meets.
const TARGET: [&str; 3] = ["systemd", "e2fsprogs", "gpgv"];

/// A root, and the way into it.
pub(super) struct Yard {
    pub(super) root: PathBuf,
}

/// The yard with all programs.
pub(super) fn ensure(project: &Project) -> Result<Yard> {
    make(project, "programs", "trixie", &PROGRAMS)
}

/// A root of a release with nothing of ours in it, anew each time.
pub(super) fn fresh(project: &Project, suite: &str, at: &Path) -> Result<Yard> {
    let kept = make(project, "target", suite, &TARGET)?;
    copy_of(&kept, at)
}

/// A copy that may be changed.
pub(super) fn copy_of(yard: &Yard, at: &Path) -> Result<Yard> {
    remove(at)?;
    let mut copy = as_root()?;
    copy.args(["cp", "-a", "--reflink=auto"])
        .arg(&yard.root)
        .arg(at);
    step::capture(&mut copy)?;
    Ok(Yard {
        root: at.to_path_buf(),
    })
}

/// Removes a root, which may have files of many owners.
pub(super) fn remove(root: &Path) -> Result<()> {
    let mut remove = as_root()?;
    remove.args(["rm", "-rf", "--one-file-system"]).arg(root);
    step::capture(&mut remove).map(drop)
}

fn make(project: &Project, name: &str, suite: &str, packages: &[&str]) -> Result<Yard> {
    let list = packages.join(",");
    let sum = Sha256::digest(list.as_bytes());
    let short: String = sum[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = project.cache.join("package");
    let root = folder.join(format!("{name}-{suite}-{short}"));
    if root.is_dir() {
        return Ok(Yard { root });
    }
    setup::vm_packages(Tell::Changes)?;
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let started = Instant::now();
    let half = root.with_extension(format!("half-{}", std::process::id()));
    let mut bootstrap = as_root()?;
    let mut path = std::ffi::OsString::from("PATH=");
    path.push(setup::path_variable()?);
    bootstrap
        .arg(path)
        .args(["mmdebstrap", "--mode=root", "--variant=minbase"])
        .arg(format!("--include={list}"))
        .arg(suite)
        .arg(&half)
        .arg(setup::mirror_of(suite));
    step::quiet(&format!("{name} on {suite}"), &mut bootstrap, LIMIT)?;
    let mut name_it = as_root()?;
    step::capture(name_it.arg("mv").arg("-T").arg(&half).arg(&root))?;
    let took = step::seconds(started.elapsed());
    step::done(
        &format!("root {name} of {suite}"),
        &format!("made ({took})"),
    );
    Ok(Yard { root })
}

impl Yard {
    /// A command inside: with `/proc` and `/dev`, without a network, and without any process of
    /// the machine.
    pub(super) fn command<I>(&self, words: I) -> Result<Command>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = as_root()?;
        command
            .args(["unshare", "--mount", "--net", "--ipc", "--pid", "--fork"])
            .args(["--kill-child", "sh", "-ec", INSIDE, "sh"])
            .arg(&self.root)
            .args(words);
        Ok(command)
    }

    /// What a command inside says.
    pub(super) fn says(&self, words: &[&str]) -> Result<String> {
        step::capture(&mut self.command(words)?)
    }

    /// What a shell inside says to a script.
    pub(super) fn script(&self, script: &str) -> Result<String> {
        self.says(&["sh", "-ec", script])
    }

    /// Copies files into a folder inside.
    pub(super) fn bring(&self, files: &[PathBuf], into: &str) -> Result<()> {
        let into = self.root.join(into.trim_start_matches('/'));
        let mut make = as_root()?;
        step::capture(make.args(["mkdir", "-p"]).arg(&into))?;
        let mut copy = as_root()?;
        copy.args(["cp", "-r", "-t"]).arg(&into).args(files);
        step::capture(&mut copy).map(drop)
    }
}

const INSIDE: &str = r#"root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
export HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot "$root" "$@""#;

/// Ends in `env`: roots hold files of many owners, and scripts run in them.
fn as_root() -> Result<Command> {
    if setup::is_root() {
        return Ok(Command::new("env"));
    }
    let mut sudo = Command::new("sudo");
    let may = step::capture(sudo.args(["-n", "true"]));
    ensure!(
        may.is_ok(),
        "packages are checked and installed in roots of their own, which needs root: run \
         `sudo -v` first, then the command again (or `cargo xtask package --no-lint`)"
    );
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "env"]);
    Ok(sudo)
}
