//! What `cargo xtask vm-test` is asked for.

use std::path::PathBuf;
use std::thread;

use anyhow::{Result, bail};

use super::arch::Arch;
use super::series::{self, Series};
use super::systemd;

/// Run the live tests on other kernels, in virtual machines
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Only these kernels, `5.10,6.1`; all of the architecture otherwise
    #[arg(long, value_delimiter = ',', value_name = "KERNELS")]
    pub(super) kernel: Vec<String>,
    /// Boot with the BPF LSM active or not; what the kernel does by itself otherwise
    #[arg(long)]
    pub(super) lsm: Option<Lsm>,
    /// The guests' architecture
    #[arg(long, default_value_t = Arch::X86_64)]
    pub(super) arch: Arch,
    /// Boot a laptop of this Debian, with systemd and a plain user, and run the scripts of
    /// tests/systemd instead of the suites
    #[arg(long, value_name = "RELEASE", conflicts_with_all = ["save", "core", "relock", "arch"])]
    pub(super) systemd: Option<systemd::Release>,
    /// With --systemd: run the scripts of tests/systemd/package too, which install these packages;
    /// two versions, the older one first (`cargo xtask package --package-version`)
    #[arg(long, value_name = "FILE", requires = "systemd", num_args = 2)]
    pub(super) deb: Vec<PathBuf>,
    /// Only the suite of this name, or only tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    pub(super) test: Option<String>,
    /// Only the core suites: what a kernel can do differently
    #[arg(long)]
    pub(super) core: bool,
    /// So many guests at once
    #[arg(long, value_name = "N", default_value_t = cores())]
    pub(super) jobs: usize,
    /// Write docs/kernels.json and docs/kernels.md; without it the run is compared with them
    #[arg(long, conflicts_with = "test")]
    pub(super) save: bool,
    /// Lock the newest kernels that Debian's suites have, and boot nothing
    #[arg(long, conflicts_with_all = ["save", "core", "test", "lsm"])]
    pub(super) relock: bool,
    /// Keep the initramfs, so that the command in target/vm/KERNEL/command can be run by hand
    #[arg(long)]
    pub(super) keep: bool,
    /// QEMU's accelerator. A kvm that is itself virtual may hang
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    pub(super) accel: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Lsm {
    Bpf,
    NoBpf,
}

impl Lsm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::NoBpf => "no-bpf",
        }
    }

    /// A kernel leaves out names that it does not know.
    pub(super) fn append(self) -> &'static str {
        match self {
            Self::Bpf => "lsm=landlock,lockdown,yama,integrity,apparmor,bpf",
            Self::NoBpf => "lsm=landlock,lockdown,yama,integrity,apparmor",
        }
    }
}

pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The series that the arguments name.
pub(super) fn choose(args: &Args) -> Result<Vec<&'static Series>> {
    let of_the_arch = || series::ALL.iter().filter(|one| one.arch == args.arch);
    let mut chosen = Vec::new();
    let of_the_release = args.systemd.map(|release| release.kernel().to_owned());
    let named = match args.kernel.as_slice() {
        [] => of_the_release.as_slice(),
        named => named,
    };
    for name in named {
        let Some(found) = of_the_arch().find(|one| one.name == name) else {
            let known: Vec<_> = of_the_arch().map(|one| one.name).collect();
            bail!(
                "no kernel {name} for {}: there are {}",
                args.arch,
                known.join(", ")
            );
        };
        chosen.push(found);
    }
    if chosen.is_empty() {
        chosen.extend(of_the_arch());
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        let words = ["vm-test"].iter().chain(words);
        Cli::try_parse_from(words).expect("arguments").args
    }

    #[test]
    fn chooses_kernels_by_name_and_architecture() {
        let names = |words: &[&str]| -> Vec<_> {
            let chosen = choose(&args(words)).expect("kernels");
            chosen.iter().map(|one| (one.name, one.arch)).collect()
        };
        assert_eq!(names(&[]).len(), 5);
        assert_eq!(
            names(&["--kernel", "7.3,5.10"]),
            [("7.3", Arch::X86_64), ("5.10", Arch::X86_64)]
        );
        assert_eq!(
            names(&["--arch", "aarch64", "--kernel", "6.12"]),
            [("6.12", Arch::Aarch64)]
        );
        let why = choose(&args(&["--kernel", "4.19"])).expect_err("unknown");
        assert!(format!("{why}").contains("5.10, 6.1, 6.12, 6.18, 7.3"));
    }

    #[test]
    fn tests_of_one_name_are_no_record() {
        assert!(Cli::try_parse_from(["vm-test", "--save", "--test=dns"]).is_err());
    }
}
