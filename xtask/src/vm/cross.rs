//! Programs for a machine of another architecture.
//!
//! rustup's ready standard library for it would have to be downloaded; its sources are here
//! already for the BPF target, so it is built. Debian has the linker and the C library.

use std::process::Command;

use anyhow::{Result, ensure};

use super::arch::Arch;
use super::fetch;
use crate::project::Project;
use crate::setup::{self, BpfTools, Tell};

/// What the names of Debian's cross tools for aarch64 begin with.
const TOOLS: &str = "aarch64-linux-gnu-";

/// The `strip` that knows programs of `arch`: each machine's own knows only its own.
pub(crate) fn strip(arch: Arch) -> Command {
    Command::new(if fetch::host_arch() == Some(arch) {
        "strip".to_owned()
    } else {
        TOOLS.to_owned() + "strip"
    })
}

/// Makes a cargo command that names `arch` as its target able to build for it, by tools that
/// it installs where they are missing.
pub(crate) fn prepare(
    project: &Project,
    tools: &BpfTools,
    arch: Arch,
    cargo: &mut Command,
) -> Result<()> {
    ensure!(
        (fetch::host_arch(), arch) == (Some(Arch::X86_64), Arch::Aarch64),
        "programs for {arch} are built on {arch} or, those for aarch64, on x86_64: run it there"
    );
    setup::cross_packages(Tell::Changes)?;
    cargo
        // panic_unwind: a test that fails ends by a panic that the test program catches.
        .args(["-Z", "build-std=std,panic_unwind"])
        // RUSTC_BOOTSTRAP would make everything of the host's be built anew.
        .arg("--target-dir")
        .arg(project.target().join(arch.debian()))
        .env("RUSTC_BOOTSTRAP", "1")
        .env(linker_variable(arch.triple()), TOOLS.to_owned() + "gcc");
    if let Some(library) = &tools.library {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    Ok(())
}

/// `CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER`
fn linker_variable(triple: &str) -> String {
    let name = triple.to_uppercase().replace('-', "_");
    format!("CARGO_TARGET_{name}_LINKER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cargos_variable() {
        assert_eq!(
            linker_variable(Arch::Aarch64.triple()),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"
        );
    }
}
