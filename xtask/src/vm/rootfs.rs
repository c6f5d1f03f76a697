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
use crate::project::Project;
use crate::setup;
use crate::step;

const LIMIT: Duration = Duration::from_secs(900);

/// Which Debian. The C library is of no matter: what is tested is linked statically.
const SUITE: &str = "bookworm";

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

/// Finds the image or makes it.
pub(super) fn ensure(project: &Project, arch: Arch) -> Result<PathBuf> {
    let recipe = format!("1 {SUITE} {} {}", arch.debian(), PACKAGES.join(","));
    let sum = Sha256::digest(recipe.as_bytes());
    let short: String = sum[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let image = project
        .cache
        .join("vm")
        .join(format!("rootfs-{SUITE}-{}-{short}.img", arch.debian()));
    if image.is_file() {
        return Ok(image);
    }
    let started = Instant::now();
    let half = image.with_extension(format!("half-{}", std::process::id()));
    let tree = half.with_extension("tree");
    let outcome = make(arch, &tree, &half)
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

fn make(arch: Arch, tree: &Path, image: &Path) -> Result<()> {
    let mut bootstrap = as_root()?;
    let path = std::env::join_paths(setup::search_path()).context("PATH cannot be used")?;
    let mut word = std::ffi::OsString::from("PATH=");
    word.push(path);
    bootstrap
        .arg(word)
        .args(["mmdebstrap", "--variant=minbase", "--mode=root"])
        .arg(format!("--architectures={}", arch.debian()))
        .arg(format!("--include={}", PACKAGES.join(",")))
        // Not those of the machine where this runs.
        .arg("--customize-hook=echo exeat-guest > \"$1/etc/hostname\"")
        .arg("--customize-hook=echo nameserver 127.0.0.1 > \"$1/etc/resolv.conf\"")
        .arg("--customize-hook=mkdir -p \"$1/payload\" \"$1/out\" \"$1/usr/lib/modules\"")
        .arg("--customize-hook=rm -rf \"$1/usr/share/doc\" \"$1/usr/share/locale\"")
        .arg(SUITE)
        .arg(tree)
        .arg(setup::mirror_of(SUITE));
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
