//! `cargo xtask build`: the BPF object, then the binary that holds it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::project::Project;
use crate::setup::{self, BpfTools, Tell};
use crate::step;

/// Build target/release/exeat, with the BPF object inside
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the BPF object only (target/bpf/exeat-ebpf): what a plain `cargo build` needs
    #[arg(long)]
    bpf_only: bool,
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let started = Instant::now();
    let tools = setup::bpf(project, Tell::Changes)?;
    let mut built = object(project, &tools)?;
    if !args.bpf_only {
        built = binary(project)?;
    }
    let took = step::seconds(started.elapsed());
    println!("{} is ready ({took})", built.display());
    Ok(())
}

/// Builds `target/bpf/exeat-ebpf`, and beside it `target/bpf/empty`, the programs that do
/// nothing, which the benchmarks measure against, and for a test each `target/bpf/broken`, the
/// programs that a kernel refuses, and `target/bpf/hello`, the reader of ClientHellos alone.
pub(crate) fn object(project: &Project, tools: &BpfTools) -> Result<PathBuf> {
    step::loud(&mut bpf_cargo(project, tools, "build"))?;
    let target = bpf_target();
    let folder = project.target().join("bpf");
    let built = folder.join(target).join("release");
    let object = folder.join("exeat-ebpf");
    copy_if_changed(&built.join("exeat-ebpf"), &object)?;
    copy_if_changed(&built.join("exeat-empty"), &folder.join("empty"))?;
    copy_if_changed(&built.join("exeat-broken"), &folder.join("broken"))?;
    copy_if_changed(&built.join("exeat-hello"), &folder.join("hello"))?;
    Ok(object)
}

/// Builds `target/release/exeat`.
pub(crate) fn binary(project: &Project) -> Result<PathBuf> {
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "--package", "exeat", "--target-dir"]);
    step::loud(cargo.arg(project.target()))?;
    Ok(project.target().join("release/exeat"))
}

/// A cargo subcommand on what runs on `target` (the host, as a rule), linked statically: such
/// test programs run as they are in the guests of `cargo xtask vm-test`, and the tests here
/// are the same files, so that nothing is built for the guests alone but `exeat`. Level 1
/// because an unoptimized `exeat` reads the BPF object and the kernel's types four times
/// slower, and emulation ten times slower again.
pub(crate) fn static_cargo(project: &Project, subcommand: &str, target: &str) -> Command {
    let mut cargo = project.cargo();
    cargo
        // With a target named, the flags leave build scripts and macros alone, which could
        // not be loaded.
        .args([subcommand, "--target", target])
        .args(["--config", "profile.dev.opt-level=1"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo
}

/// A cargo subcommand on `agent-ebpf` for the BPF target. It has a target
/// folder of its own: `RUSTC_BOOTSTRAP` and the flags would make everything
/// else be built anew.
pub(crate) fn bpf_cargo(project: &Project, tools: &BpfTools, subcommand: &str) -> Command {
    let mut cargo = project.cargo();
    cargo
        .args([subcommand, "--release", "--package", "agent-ebpf"])
        .args(["-Z", "build-std=core", "--target", bpf_target()])
        .arg("--target-dir")
        .arg(project.target().join("bpf"))
        // build-std is unstable, and the compiler a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "RUSTFLAGS",
            format!(
                "-C debuginfo=2 -C link-arg=--btf --cfg bpf_target_arch=\"{}\"",
                std::env::consts::ARCH
            ),
        )
        .env("PATH", prepended(&tools.bin, std::env::var_os("PATH")))
        // bpf-linker is linked to the compiler's LLVM.
        .env("LD_LIBRARY_PATH", project.compiler.lib());
    if let Some(library) = &tools.library {
        // Meant for cargo's own tests, and the only way to name sources
        // outside the compiler's folders.
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    cargo
}

/// BPF has the byte order of the machine it runs on.
fn bpf_target() -> &'static str {
    if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

/// Leaves an equal file alone: its time tells cargo whether `exeat` has to be
/// built again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("could not write {}", to.display()))
}

fn prepended(folder: &Path, path: Option<OsString>) -> OsString {
    let mut all = folder.as_os_str().to_owned();
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        all.push(":");
        all.push(path);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_only_what_changed() {
        let folder = std::env::temp_dir().join(format!("exeat-copy-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let (from, to) = (folder.join("from"), folder.join("to"));
        fs::write(&from, "one").expect("write");
        copy_if_changed(&from, &to).expect("copy");
        assert_eq!(fs::read_to_string(&to).expect("read"), "one");
        // A read-only folder entry cannot stop root, a time can be compared.
        let old = std::time::SystemTime::UNIX_EPOCH;
        let file = fs::File::options().append(true).open(&to).expect("open");
        file.set_modified(old).expect("set the time");
        copy_if_changed(&from, &to).expect("nothing to do");
        let time = || fs::metadata(&to).and_then(|data| data.modified());
        assert_eq!(time().expect("time"), old);
        fs::write(&from, "two").expect("write");
        copy_if_changed(&from, &to).expect("copy");
        assert_ne!(time().expect("time"), old);
        fs::remove_dir_all(&folder).expect("remove");
    }

    #[test]
    fn an_empty_path_adds_no_current_folder() {
        let tools = Path::new("/t");
        assert_eq!(prepended(tools, None), "/t");
        assert_eq!(prepended(tools, Some("".into())), "/t");
        assert_eq!(prepended(tools, Some("/a:/b".into())), "/t:/a:/b");
    }
}
