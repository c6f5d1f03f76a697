//! Tools that cargo builds from crates.io, at fixed versions and with the lock
//! files they were published with, so that cargo checks every sum. They go to
//! the cache, not to `~/.cargo/bin`: what a person has installed there stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Tell;
use crate::project::Project;
use crate::step;

/// Two loaded cores need five minutes at most.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// A tool and the one version of it that is used.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    version: &'static str,
    /// How long the build takes on two cores.
    about: &'static str,
    /// Links to the compiler's own LLVM.
    llvm: bool,
}

/// Links BPF programs. The version that aya-ebpf 0.2 is tested with and that
/// knows the LLVM of rustc 1.95.
pub(crate) const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    about: "about a minute",
    llvm: true,
};

/// Checks the dependencies' licences, sources and known holes.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    about: "about two minutes",
    llvm: false,
};

/// Writes .deb packages.
pub(crate) const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
    about: "about a minute",
    llvm: false,
};

/// Writes .rpm packages.
pub(crate) const CARGO_GENERATE_RPM: Tool = Tool {
    name: "cargo-generate-rpm",
    version: "0.21.1",
    about: "about two minutes",
    llvm: false,
};

/// Lists what a program is made of.
pub(crate) const CARGO_CYCLONEDX: Tool = Tool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
    about: "about a minute",
    llvm: false,
};

/// Says that the tool is there, in its version, and starts.
pub(crate) fn find(project: &Project, tool: &Tool) -> Result<String> {
    let path = project.tools().join("bin").join(tool.name);
    let mut command = Command::new(&path);
    // Where it is linked to it; the path stays true when the compiler moves.
    command.env("LD_LIBRARY_PATH", project.compiler.lib());
    // It knows no options but those of its subcommand.
    if tool.name == CARGO_CYCLONEDX.name {
        command.arg("cyclonedx");
    }
    let said = step::capture(command.arg("--version"))?;
    let found = version_in(&said).with_context(|| {
        format!(
            "`{} --version` names no version: {}",
            path.display(),
            said.trim()
        )
    })?;
    ensure!(
        found == tool.version,
        "{} is {found}, not {}",
        path.display(),
        tool.version
    );
    Ok(format!("there, in {}", path.display()))
}

/// Finds the tool or builds it. Returns the folder that it is in.
pub(crate) fn ensure(project: &Project, tool: &Tool, tell: Tell) -> Result<PathBuf> {
    let title = format!("{} {}", tool.name, tool.version);
    match find(project, tool) {
        Ok(found) => {
            if tell == Tell::All {
                step::done(&title, &found);
            }
        }
        Err(_) => {
            let started = Instant::now();
            step::done(&title, &format!("building it takes {} …", tool.about));
            install(project, tool)?;
            find(project, tool)
                .with_context(|| format!("{title} was built but does not work here"))?;
            let took = step::seconds(started.elapsed());
            step::done(&title, &format!("built, sums checked by cargo ({took})"));
        }
    }
    Ok(project.tools().join("bin"))
}

fn install(project: &Project, tool: &Tool) -> Result<()> {
    let tools = project.tools();
    fs::create_dir_all(&tools).with_context(|| format!("could not make {}", tools.display()))?;
    let mut cargo = project.cargo();
    // Outside the workspace: its cargo settings are not meant for the tools.
    cargo.current_dir(&tools);
    cargo.args(["install", tool.name, "--version", tool.version]);
    cargo.args(["--locked", "--force", "--root"]).arg(&tools);
    // cargo-deny is published with full link-time optimisation: 4 min 38 s to
    // build on two cores. These tools run for seconds.
    cargo
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env_remove("CARGO_TARGET_DIR");
    let prefix = tools.join("llvm");
    if tool.llvm {
        point_at_own_llvm(&project.compiler.lib(), &prefix)?;
        cargo
            .arg("--no-default-features")
            .arg(format!("--features=llvm-{}", project.compiler.llvm_major))
            .env("LLVM_PREFIX", &prefix);
    }
    step::quiet(tool.name, &mut cargo, INSTALL_LIMIT)
}

/// Makes `prefix/lib/libLLVM.so`, a link to the compiler's own library: no
/// LLVM has to be installed, and reader and writer of bitcode are the same.
fn point_at_own_llvm(lib: &Path, prefix: &Path) -> Result<()> {
    let names = fs::read_dir(lib)
        .with_context(|| format!("could not list {}", lib.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let Some(name) = own_llvm(names) else {
        bail!(
            "{} has no libLLVM.so of the compiler's own, as rustup's toolchains have: use one \
             (rustup.rs), the version is in Cargo.toml under rust-version",
            lib.display()
        );
    };
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))
        .and_then(|()| match fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .and_then(|()| std::os::unix::fs::symlink(lib.join(name), &link))
        .with_context(|| format!("could not make the link {}", link.display()))
}

/// `libLLVM.so.22.1-rust-1.95.0-stable`. `libLLVM-22-rust-1.95.0-stable.so`
/// beside it is a linker script.
fn own_llvm(mut names: impl Iterator<Item = String>) -> Option<String> {
    names.find(|name| name.starts_with("libLLVM.so.") && name.contains("-rust-"))
}

/// `0.13.0` of `bpf-linker 0.13.0`.
fn version_in(said: &str) -> Option<&str> {
    said.lines().next()?.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(version_in("bpf-linker 0.13.0\n"), Some("0.13.0"));
        assert_eq!(version_in("cargo-deny 0.20.2 (abc)\nmore"), Some("0.20.2"));
        assert_eq!(version_in("bpf-linker"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn takes_the_library_not_the_linker_script() {
        let pick = |names: &[&str]| own_llvm(names.iter().map(|&name| name.to_owned()));
        assert_eq!(
            pick(&[
                "librustc_driver-6108105cd7e839cf.so",
                "libLLVM-22-rust-1.95.0-stable.so",
                "libLLVM.so.22.1-rust-1.95.0-stable",
            ])
            .as_deref(),
            Some("libLLVM.so.22.1-rust-1.95.0-stable")
        );
        assert_eq!(pick(&["libLLVM.so.22.1"]), None);
    }
}
