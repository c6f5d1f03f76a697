//! Which kernels there are: the series, and the signed suite that each comes from.

use super::arch::Arch;

/// One line of kernels, of which the newest in `suite` is taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) arch: Arch,
    pub(super) suite: &'static str,
}

/// Long-lived kernels of what fleets run, from the oldest that has all that the walls need
/// (ring buffers, socket storage in every hook) to Debian's newest. Cloud kernels: a third of
/// the modules, the same code.
pub(super) const ALL: [Series; 8] = [
    Series {
        name: "5.10",
        arch: Arch::X86_64,
        suite: "bullseye-security",
    },
    Series {
        name: "6.1",
        arch: Arch::X86_64,
        suite: "bookworm-security",
    },
    Series {
        name: "6.12",
        arch: Arch::X86_64,
        suite: "bookworm-security",
    },
    Series {
        name: "6.18",
        arch: Arch::X86_64,
        suite: "trixie-backports",
    },
    Series {
        name: "7.3",
        arch: Arch::X86_64,
        suite: "trixie-backports",
    },
    Series {
        name: "5.10",
        arch: Arch::Aarch64,
        suite: "bullseye-security",
    },
    Series {
        name: "6.12",
        arch: Arch::Aarch64,
        suite: "bookworm-security",
    },
    Series {
        name: "7.3",
        arch: Arch::Aarch64,
        suite: "trixie-backports",
    },
];

/// The oldest, one in the middle and the newest: what every `cargo xtask test` boots.
pub(super) const FEW: [&str; 3] = ["5.10", "6.1", "7.3"];

impl Series {
    /// What the names of its image packages begin with.
    pub(super) fn prefix(&self) -> String {
        format!("linux-image-{}.", self.name)
    }

    /// Whether a package is an image of it, and not its symbols or an unsigned twin.
    pub(super) fn has(&self, package: &str) -> bool {
        package.starts_with(&self.prefix())
            && package.ends_with(&format!("-cloud-{}", self.arch.debian()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_images() {
        let series = &ALL[1];
        assert!(series.has("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!series.has("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(!series.has("linux-image-6.1.0-56-amd64"));
        assert!(!series.has("linux-image-6.1.0-56-cloud-amd64-dbg"));
        assert!(!series.has("linux-image-6.1.0-56-cloud-arm64"));
    }

    #[test]
    fn a_name_is_told_once_an_architecture() {
        for (index, one) in ALL.iter().enumerate() {
            let mut others = ALL[index + 1..].iter();
            assert!(!others.any(|other| (other.name, other.arch) == (one.name, one.arch)));
        }
        let known = |name| ALL.iter().any(|one| one.name == name);
        assert!(FEW.into_iter().all(known));
    }
}
