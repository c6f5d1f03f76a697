//! The guests' userland: a small Debian on an ext4 image, made once and only read from then
//! on (every guest writes into a snapshot).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::arch::Arch;
use super::disk;
use super::fetch;
use crate::project::Project;
use crate::setup;
use crate::step;

const LIMIT: Duration = Duration::from_secs(900);

/// What an image is made of.
pub(super) struct Recipe {
    /// Part of the image's name.
    pub(super) name: &'static str,
    /// Which Debian.
    pub(super) suite: &'static str,
    pub(super) arch: Arch,
    pub(super) packages: &'static [&'static str],
    /// Shell commands that come last, with the image's root in `$1`.
    pub(super) hooks: &'static [&'static str],
}

/// The userland of the suites. Its C library is of no matter: what is tested is linked
/// statically.
pub(super) fn plain(arch: Arch) -> Recipe {
    Recipe {
        name: "rootfs",
        suite: "bookworm",
        arch,
        packages: &PACKAGES,
        hooks: &OWN,
    }
}

/// What the suites run, and what a person needs who looks into a guest.
const PACKAGES: [&str; 14] = [
    // Network namespaces and links of the fixtures.
    "iproute2",
    "iputils-ping",
    "nftables",
    // A governed interpreter: the whole one, python3-minimal has no sockets.
    "python3",
    "curl",
    "openssl",
    "ca-certificates",
    "bind9-dnsutils",
    "iperf3",
    // The demo's second eye.
    "bpftool",
    "git",
    "procps",
    // The kernel loads modules by its modprobe.
    "kmod",
    "util-linux",
];

/// Shell commands that make it ours: names are not those of the machine where this runs.
pub(super) const OWN: [&str; 4] = [
    "echo exeat-guest > \"$1/etc/hostname\"",
    "echo nameserver 127.0.0.1 > \"$1/etc/resolv.conf\"",
    "mkdir -p \"$1/payload\" \"$1/out\" \"$1/usr/lib/modules\"",
    "rm -rf \"$1/usr/share/doc\" \"$1/usr/share/locale\"",
];

// A userland of another architecture: no script of its packages can run here (that would need
// an emulator registered with this machine's kernel), so packages are unpacked and no more.
// What their scripts would have done is done here as far as a guest needs it.

/// What nothing depends on because every Debian has it.
const ESSENTIAL: [&str; 13] = [
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "hostname",
    "libc-bin",
    "login",
    "mount",
    "sed",
];

/// Before anything is unpacked.
const MERGED_USR: [&str; 2] = [
    "mkdir -p \"$1/usr/bin\" \"$1/usr/sbin\" \"$1/usr/lib\"",
    "for f in bin sbin lib; do ln -s usr/$f \"$1/$f\"; done",
];

const UNCONFIGURED: [&str; 3] = [
    "for f in passwd group; do cp \"$1/usr/share/base-passwd/$f.master\" \"$1/etc/$f\"; done",
    "cp \"$1/usr/share/libc-bin/nsswitch.conf\" \"$1/etc/\"",
    "echo 127.0.0.1 localhost > \"$1/etc/hosts\"",
];

/// Finds the image or makes it.
pub(super) fn ensure(project: &Project, recipe: &Recipe) -> Result<PathBuf> {
    let Recipe {
        name, suite, arch, ..
    } = recipe;
    let packages = recipe.packages.join(",");
    // The number is raised where this file changes what it makes of a recipe.
    let text = format!("3 {suite} {arch} {packages} {}", recipe.hooks.join("\n"));
    let sum = Sha256::digest(text.as_bytes());
    let short: String = sum[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let image = project
        .cache
        .join("vm")
        .join(format!("{name}-{suite}-{}-{short}.img", arch.debian()));
    if image.is_file() {
        return Ok(image);
    }
    let started = Instant::now();
    let half = image.with_extension(format!("half-{}", std::process::id()));
    let tree = half.with_extension("tree");
    let outcome = make(recipe, &tree, &half)
        .and_then(|()| {
            fs::rename(&half, &image).with_context(|| format!("could not name {}", image.display()))
        })
        .context("the guests' userland could not be made");
    let _ = fs::remove_file(&half);
    // Made by root, perhaps through sudo.
    let _ = step::capture(
        as_root()?
            .args(["rm", "-rf", "--one-file-system"])
            .arg(&tree),
    );
    outcome?;
    let took = step::seconds(started.elapsed());
    step::done("userland of the guests", &format!("made ({took})"));
    Ok(image)
}

fn make(recipe: &Recipe, tree: &Path, image: &Path) -> Result<()> {
    let mut bootstrap = as_root()?;
    let path = setup::path_variable()?;
    let mut word = std::ffi::OsString::from("PATH=");
    word.push(path);
    bootstrap.arg(word).args(["mmdebstrap", "--mode=root"]);
    let mut packages = recipe.packages.to_vec();
    // Hooks of a stage that mmdebstrap has in this way of making one.
    let hook = if fetch::host_arch() == Some(recipe.arch) {
        bootstrap.arg("--variant=minbase");
        "--customize-hook"
    } else {
        packages.extend(ESSENTIAL);
        bootstrap.arg("--variant=extract");
        for command in MERGED_USR {
            bootstrap.arg(format!("--setup-hook={command}"));
        }
        for command in UNCONFIGURED {
            bootstrap.arg(format!("--extract-hook={command}"));
        }
        "--extract-hook"
    };
    for command in recipe.hooks {
        bootstrap.arg(format!("{hook}={command}"));
    }
    bootstrap
        .arg(format!("--architectures={}", recipe.arch.debian()))
        .arg(format!("--include={}", packages.join(",")))
        .arg(recipe.suite)
        .arg(tree)
        .arg(setup::mirror_of(recipe.suite));
    step::quiet(
        "userland of the guests by mmdebstrap",
        &mut bootstrap,
        LIMIT,
    )?;
    let said = step::capture(as_root()?.args(["du", "-sk"]).arg(tree))?;
    let kilobytes = said.split_whitespace().next().unwrap_or_default();
    let kilobytes: u64 = kilobytes
        .parse()
        .with_context(|| format!("`du -sk` said {said:?}"))?;
    disk::ext4_by(as_root()?, tree, image, kilobytes * 1024)
}

/// Ends in `env`: a userland is made of files of many owners, device nodes and scripts that
/// run in it.
fn as_root() -> Result<Command> {
    if setup::is_root() {
        return Ok(Command::new("env"));
    }
    let mut sudo = Command::new("sudo");
    step::capture(sudo.args(["-n", "true"])).context(
        "mmdebstrap needs root here, and sudo does not let this user in without a password: run \
         `sudo -v` first, then the command again. It is needed once; the image is kept",
    )?;
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "env"]);
    Ok(sudo)
}
