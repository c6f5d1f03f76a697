//! Programs that the tests run and cargo cannot build. They are installed
//! where that needs no question: as root, by apt or dnf, and only those that
//! are missing.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Tell;
use super::debian::os_field;
use crate::step;

const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Says which services may start when a package is installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by `cargo xtask setup` of Exeat \
    while it installs packages; remove it if no set-up runs.\nexit 101\n";

/// A program, and the package (or packages, with spaces between) that has it.
pub(super) struct Need {
    program: &'static str,
    debian: &'static str,
    fedora: &'static str,
    /// What for.
    why: &'static str,
}

/// What the live tests, the demo and the benchmarks run.
pub(super) const TESTS: [Need; 27] = [
    Need {
        program: "ip",
        debian: "iproute2",
        fedora: "iproute",
        why: "network namespaces of tests and demo",
    },
    Need {
        program: "nft",
        debian: "nftables",
        fedora: "nftables",
        why: "the benchmark's comparison",
    },
    Need {
        program: "bpftool",
        debian: "bpftool",
        fedora: "bpftool",
        why: "what the kernel holds, seen by another eye",
    },
    Need {
        program: "prometheus",
        debian: "prometheus",
        fedora: "golang-github-prometheus",
        why: "a real scrape",
    },
    Need {
        program: "promtool",
        debian: "prometheus",
        fedora: "golang-github-prometheus",
        why: "the metrics page's grammar",
    },
    Need {
        program: "dig",
        debian: "bind9-dnsutils",
        fedora: "bind-utils",
        why: "questions to the gate",
    },
    Need {
        program: "curl",
        debian: "curl",
        fedora: "curl",
        why: "a governed client",
    },
    Need {
        program: "openssl",
        debian: "openssl",
        fedora: "openssl",
        why: "TLS hosts and clients",
    },
    Need {
        program: "python3",
        debian: "python3",
        fedora: "python3",
        why: "a governed interpreter",
    },
    Need {
        program: "node",
        debian: "nodejs",
        fedora: "nodejs",
        why: "a governed client, by libuv and by c-ares",
    },
    Need {
        program: "npm",
        debian: "npm",
        fedora: "npm",
        why: "packages in the sandbox, and an agent to run there",
    },
    Need {
        program: "git",
        debian: "git",
        fedora: "git",
        why: "a clone in the sandbox",
    },
    Need {
        program: "ssh",
        debian: "openssh-client",
        fedora: "openssh-clients",
        why: "the same by SSH",
    },
    Need {
        program: "vim",
        debian: "vim",
        fedora: "vim-enhanced",
        why: "an editor in the sandbox",
    },
    Need {
        program: "ifconfig",
        debian: "net-tools",
        fedora: "net-tools",
        why: "a DNS tunnel calls it",
    },
    Need {
        program: "iperf3",
        debian: "iperf3",
        fedora: "iperf3",
        why: "throughput",
    },
    Need {
        program: "xdg-dbus-proxy",
        debian: "xdg-dbus-proxy",
        fedora: "xdg-dbus-proxy",
        why: "D-Bus that is filtered",
    },
    Need {
        program: "dbus-daemon",
        debian: "dbus",
        fedora: "dbus-daemon",
        why: "a bus to be filtered",
    },
    Need {
        // Beside polkitd, whose program is on nobody's PATH.
        program: "pkaction",
        debian: "polkitd",
        fedora: "polkit",
        why: "who may answer for administrators",
    },
    Need {
        program: "rsyslogd",
        debian: "rsyslog rsyslog-openssl",
        fedora: "rsyslog rsyslog-openssl",
        why: "a receiver of records over TLS",
    },
    Need {
        program: "journalctl",
        debian: "systemd",
        fedora: "systemd",
        why: "journald, and what reads its files",
    },
    Need {
        program: "Xvfb",
        // A notification server with buttons, whose program is on nobody's PATH.
        debian: "xvfb notification-daemon",
        fedora: "xorg-x11-server-Xvfb notification-daemon",
        why: "a display without a screen",
    },
    Need {
        program: "dunst",
        debian: "dunst",
        fedora: "dunst",
        why: "a notification server",
    },
    Need {
        program: "xdotool",
        debian: "xdotool",
        fedora: "xdotool",
        why: "a person's clicks",
    },
    Need {
        program: "import",
        debian: "imagemagick",
        fedora: "ImageMagick",
        why: "pictures of a display",
    },
    Need {
        program: "ansible-playbook",
        debian: "ansible-core",
        fedora: "ansible-core",
        why: "the role of dist/mdm",
    },
    Need {
        program: "puppet",
        debian: "puppet-agent",
        fedora: "puppet",
        why: "the module of dist/mdm",
    },
];

/// What `cargo xtask vm-test` makes its disks with. QEMU is not here: the package conflicts
/// with parts of other versions that a machine may have, so vm-test can unpack one for itself.
pub(super) const VM: [Need; 6] = [
    Need {
        program: "apt-get",
        debian: "apt",
        fedora: "apt",
        why: "kernels from Debian's signed suites",
    },
    Need {
        program: "dpkg-deb",
        debian: "dpkg",
        fedora: "dpkg",
        why: "unpacking them",
    },
    Need {
        program: "mmdebstrap",
        debian: "mmdebstrap",
        fedora: "mmdebstrap",
        why: "the guests' userland",
    },
    Need {
        program: "mkfs.ext4",
        debian: "e2fsprogs",
        fedora: "e2fsprogs",
        why: "the guests' disks",
    },
    Need {
        program: "depmod",
        debian: "kmod",
        fedora: "kmod",
        why: "the order of a kernel's modules",
    },
    Need {
        program: "xz",
        debian: "xz-utils",
        fedora: "xz",
        why: "compressed modules",
    },
];

/// What builds programs for aarch64 guests on another machine.
pub(super) const CROSS_AARCH64: [Need; 1] = [Need {
    program: "aarch64-linux-gnu-gcc",
    // The compiler only recommends its C library.
    debian: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    fedora: "gcc-aarch64-linux-gnu",
    why: "linking programs for aarch64",
}];

/// Units that would run from the next boot on. Tests start these programs by
/// themselves.
const SERVICES: [(&str, &str); 3] = [
    ("prometheus", "prometheus.service"),
    ("rsyslog", "rsyslog.service"),
    ("puppet-agent", "puppet.service"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
}

/// Says that all are there, or which are not.
pub(super) fn check(needs: &'static [Need]) -> Result<String> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(format!("there, {} programs", needs.len()));
    }
    bail!("{}", advice(&missing, manager()))
}

/// Installs what is missing or says what to do.
pub(super) fn ensure(needs: &'static [Need], tell: Tell) -> Result<()> {
    let absent = missing(needs);
    if absent.is_empty() {
        if tell == Tell::All {
            step::done(
                "system packages",
                &format!("there, {} programs", needs.len()),
            );
        }
        return Ok(());
    }
    let manager = manager();
    let Some(manager) = manager.filter(|_| is_root()) else {
        bail!("{}", advice(&absent, manager));
    };
    let started = Instant::now();
    let packages = packages(&absent, Some(manager));
    let what = format!("system packages {}", packages.join(", "));
    install(&what, manager, &packages)?;
    let still = missing(needs);
    if !still.is_empty() {
        bail!(
            "{what} were installed, and yet: {}",
            advice(&still, Some(manager))
        );
    }
    step::done(
        &what,
        &format!("installed ({})", step::seconds(started.elapsed())),
    );
    Ok(())
}

fn install(what: &str, manager: Manager, packages: &[&str]) -> Result<()> {
    match manager {
        Manager::Dnf => {
            let mut dnf = Command::new("dnf");
            dnf.args(["install", "--assumeyes"]).args(packages);
            step::quiet(what, &mut dnf, INSTALL_LIMIT)
        }
        Manager::Apt => {
            let quiet_services = NoServices::new()?;
            let apt = || {
                let mut apt = Command::new("apt-get");
                apt.env("DEBIAN_FRONTEND", "noninteractive").args([
                    "-q",
                    "-o",
                    "DPkg::Lock::Timeout=120",
                ]);
                apt
            };
            step::quiet(what, apt().arg("update"), INSTALL_LIMIT)?;
            let mut get = apt();
            get.args(["install", "--yes", "--no-install-recommends"])
                .args(packages);
            step::quiet(what, &mut get, INSTALL_LIMIT)?;
            drop(quiet_services);
            disable_services(what, packages)
        }
    }
}

/// Debian enables a package's service besides starting it.
fn disable_services(what: &str, packages: &[&str]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for (package, service) in SERVICES {
        if packages.contains(&package) {
            let mut systemctl = Command::new("systemctl");
            systemctl.args(["disable", "--quiet", service]);
            step::quiet(what, &mut systemctl, INSTALL_LIMIT)?;
        }
    }
    Ok(())
}

/// While it lives, installing a package starts no service (Debian's
/// invoke-rc.d and deb-systemd-invoke ask this file).
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        match fs::read_to_string(POLICY) {
            // Left by a set-up that was killed.
            Ok(text) if text == POLICY_TEXT => Ok(Self { ours: true }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::write(POLICY, POLICY_TEXT)
                    .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
                    .with_context(|| format!("could not write {POLICY}"))?;
                Ok(Self { ours: true })
            }
            // The machine's owner has decided already.
            Ok(_) | Err(_) => Ok(Self { ours: false }),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(POLICY).is_err() {
            eprintln!("  could not remove {POLICY}: remove it, it keeps services from starting");
        }
    }
}

fn missing(needs: &'static [Need]) -> Vec<&'static Need> {
    let folders = search_path();
    needs
        .iter()
        .filter(|need| {
            !folders
                .iter()
                .any(|folder| is_program(&folder.join(need.program)))
        })
        .collect()
}

/// `PATH`, and the folders of system programs, which a plain user of Debian has
/// not on it.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for folder in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        let folder = PathBuf::from(folder);
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The same as one value for a child's `PATH`.
pub(crate) fn path_variable() -> Result<OsString> {
    std::env::join_paths(search_path()).context("PATH cannot be used")
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn manager() -> Option<Manager> {
    manager_for(&fs::read_to_string("/etc/os-release").unwrap_or_default())
}

fn manager_for(os_release: &str) -> Option<Manager> {
    let mut kinds = os_field(os_release, "ID").unwrap_or_default();
    kinds.push(' ');
    kinds.push_str(&os_field(os_release, "ID_LIKE").unwrap_or_default());
    kinds.split_whitespace().find_map(|kind| match kind {
        "debian" | "ubuntu" => Some(Manager::Apt),
        "fedora" | "rhel" => Some(Manager::Dnf),
        _ => None,
    })
}

fn packages(needs: &[&Need], manager: Option<Manager>) -> Vec<&'static str> {
    let mut names: Vec<_> = needs
        .iter()
        .flat_map(|need| {
            let names = match manager {
                Some(Manager::Apt) => need.debian,
                Some(Manager::Dnf) => need.fedora,
                None => need.program,
            };
            names.split_whitespace()
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn advice(needs: &[&Need], manager: Option<Manager>) -> String {
    let programs: Vec<_> = needs
        .iter()
        .map(|need| format!("{} ({})", need.program, need.why))
        .collect();
    let packages = packages(needs, manager).join(" ");
    let command = match manager {
        Some(Manager::Apt) => {
            format!("run `sudo apt-get install --no-install-recommends {packages}`")
        }
        Some(Manager::Dnf) => format!("run `sudo dnf install {packages}`"),
        None => format!("install with your package manager what has {packages}"),
    };
    format!(
        "these programs are not on PATH: {}. To get them {command}",
        programs.join(", ")
    )
}

/// Whether this process may install packages and load BPF programs.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process's folder is its effective user; std has no geteuid.
    fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_package_manager() {
        assert_eq!(manager_for("ID=debian\n"), Some(Manager::Apt));
        assert_eq!(
            manager_for("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Some(Manager::Apt)
        );
        assert_eq!(manager_for("ID=fedora\n"), Some(Manager::Dnf));
        assert_eq!(
            manager_for("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            Some(Manager::Dnf)
        );
        assert_eq!(manager_for("ID=arch\n"), None);
        assert_eq!(manager_for(""), None);
    }

    #[test]
    fn advice_names_each_package_once() {
        let needs: Vec<&Need> = TESTS
            .iter()
            .filter(|need| matches!(need.program, "prometheus" | "promtool" | "dig"))
            .collect();
        let text = advice(&needs, Some(Manager::Apt));
        assert!(
            text.ends_with("--no-install-recommends bind9-dnsutils prometheus`"),
            "{text}"
        );
        assert!(text.contains("promtool (the metrics page's grammar)"));
        let text = advice(&needs, None);
        assert!(text.ends_with("what has dig prometheus promtool"), "{text}");
    }

    #[test]
    fn knows_programs_from_other_files() {
        assert!(is_program(Path::new("/bin/sh")));
        assert!(!is_program(Path::new("/etc/os-release")));
        assert!(!is_program(Path::new("/bin")));
        assert!(!is_program(Path::new("/nonexistent")));
    }

    #[test]
    fn every_service_belongs_to_a_package() {
        for (package, _) in SERVICES {
            let has = |need: &Need| need.debian.split_whitespace().any(|name| name == package);
            assert!(TESTS.iter().any(has), "{package}");
        }
    }
}
