//! Kernels from Debian's signed suites into the cache, by the lock.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::arch::Arch;
use super::lock::{Locked, Package};
use super::series::Series;
use super::unpack::{self, Unpacked};
use crate::project::Project;
use crate::setup::{
    self,
    apt::{Listed, Of, PrivateApt},
};
use crate::step;

/// A kernel that lies in the cache, ready to boot.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What it was made of.
    pub(super) packages: Locked,
    /// Whether these are the packages that the lock names.
    pub(super) locked: bool,
    pub(super) files: Unpacked,
}

/// The kernel of `series`: from the cache, by the lock, or, where the locked version has
/// left the mirror, the newest of the series.
pub(super) fn kernel(
    project: &Project,
    series: &Series,
    locked: Option<&Locked>,
) -> Result<Kernel> {
    if let Some(locked) = locked {
        if let Some(files) = unpack::find(&folder(project, locked)) {
            return Ok(ready(locked.clone(), true, files));
        }
        let apt = suite(project, series)?;
        match packages(project, &apt, locked) {
            Ok(files) => return Ok(ready(locked.clone(), true, files)),
            Err(Gone::Left(name)) => step::done(
                &format!("kernel {}", series.name),
                &format!(
                    "NOT LOCKED: {name} has left {}; the newest of the series is taken. `cargo \
                     xtask vm-test --relock` makes it the locked one",
                    series.suite
                ),
            ),
            Err(Gone::Other(why)) => return Err(why),
        }
    } else {
        step::done(
            &format!("kernel {}", series.name),
            "NOT LOCKED: xtask/kernels.lock.toml does not name it; the newest of the series is \
             taken. `cargo xtask vm-test --relock` locks it",
        );
    }
    let apt = suite(project, series)?;
    let newest = newest(&apt, series)?;
    let files = match unpack::find(&folder(project, &newest)) {
        Some(files) => files,
        None => packages(project, &apt, &newest).map_err(Gone::into_error)?,
    };
    Ok(ready(newest, false, files))
}

fn ready(packages: Locked, locked: bool, files: Unpacked) -> Kernel {
    Kernel {
        packages,
        locked,
        files,
    }
}

/// What the suite has today.
pub(super) fn lock_newest(project: &Project, series: &Series) -> Result<Locked> {
    newest(&suite(project, series)?, series)
}

/// Why locked packages cannot be had.
enum Gone {
    /// The suite has this one no more.
    Left(String),
    Other(anyhow::Error),
}

impl Gone {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Left(name) => anyhow::anyhow!("{name} is listed and cannot be downloaded"),
            Self::Other(why) => why,
        }
    }
}

impl From<anyhow::Error> for Gone {
    fn from(why: anyhow::Error) -> Self {
        Self::Other(why)
    }
}

/// Downloads and unpacks exactly these.
fn packages(project: &Project, apt: &PrivateApt, wanted: &Locked) -> Result<Unpacked, Gone> {
    let mut debs = Vec::new();
    for package in &wanted.package {
        let listed = apt.show(&package.name)?;
        if !listed.iter().any(|one| one.version == package.version) {
            return Err(Gone::Left(format!("{} {}", package.name, package.version)));
        }
        let deb = apt.download(&package.name, &package.version)?;
        check(&deb, package)?;
        debs.push(deb);
    }
    let folder = folder(project, wanted);
    let files = unpack::unpack(&debs, &folder)
        .with_context(|| format!("kernel {} into {}", wanted.name, folder.display()))?;
    for deb in debs {
        // A cache of the unpacked is enough.
        let _ = fs::remove_file(deb);
    }
    Ok(files)
}

/// apt has checked the sum that the suite signs; this is the lock's.
fn check(deb: &Path, package: &Package) -> Result<()> {
    let sum = setup::sha256(deb)?;
    ensure!(
        sum == package.sha256,
        "{} {} has the SHA-256 {sum}, and the lock says {}: the mirror and \
         xtask/kernels.lock.toml disagree about one version. Look into it before `cargo xtask \
         vm-test --relock`",
        package.name,
        package.version,
        package.sha256
    );
    Ok(())
}

fn folder(project: &Project, kernel: &Locked) -> PathBuf {
    let version = kernel.package.first().map_or("", |image| &image.version);
    let sums = kernel.package.iter().map(|one| one.sha256.as_str());
    let short: String = sums.map(|sum| sum.get(..4).unwrap_or(sum)).collect();
    project.cache.join("vm").join(format!(
        "kernel-{}-{version}-{}-{short}",
        kernel.name,
        kernel.arch.debian()
    ))
}

/// apt on the series' suite, its lists fresh.
fn suite(project: &Project, series: &Series) -> Result<PrivateApt> {
    let mirror = setup::mirror_of(series.suite);
    let architecture = series.arch.debian();
    let folder = project
        .cache
        .join("vm/apt")
        .join(format!("{}-{architecture}", series.suite));
    let own = host_arch() == Some(series.arch);
    let of = Of {
        mirror: &mirror,
        suite: series.suite,
        architecture: (!own).then_some(architecture),
        // So that a package of this system does not look like one of the suite.
        bare: true,
    };
    let apt = PrivateApt::new(&folder, &of)?;
    apt.update().with_context(|| {
        format!(
            "kernel {} comes from {mirror} {}, which cannot be read: look whether the mirror \
             is reachable, and run the command again",
            series.name, series.suite
        )
    })?;
    Ok(apt)
}

pub(crate) fn host_arch() -> Option<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Arch::X86_64),
        "aarch64" => Some(Arch::Aarch64),
        _ => None,
    }
}

/// The newest image of a series, and what it is split into.
fn newest(apt: &PrivateApt, series: &Series) -> Result<Locked> {
    let mut best: Option<Listed> = None;
    for name in apt.names(&series.prefix())? {
        if !series.has(&name) {
            continue;
        }
        for one in apt.show(&name)? {
            let newer = match &best {
                Some(best) => newer(&one, best)?,
                None => true,
            };
            if newer {
                best = Some(one);
            }
        }
    }
    let Some(image) = best else {
        bail!(
            "{} has no package {}*-cloud-{}: the series has left the suite; change it in \
             xtask/src/vm/series.rs",
            series.suite,
            series.prefix(),
            series.arch.debian()
        );
    };
    let mut all = vec![image.clone()];
    for name in parts(&image) {
        let listed = apt.show(name)?;
        let same = listed.into_iter().find(|one| one.version == image.version);
        all.push(same.with_context(|| {
            format!(
                "{} needs {name} {}, which {} has not",
                image.name, image.version, series.suite
            )
        })?);
    }
    Ok(Locked {
        name: series.name.to_owned(),
        arch: series.arch,
        suite: series.suite.to_owned(),
        package: all
            .into_iter()
            .map(|one| Package {
                name: one.name,
                version: one.version,
                sha256: one.sha256,
            })
            .collect(),
    })
}

/// Newer kernels' image packages are empty, and what they need has the same end to its name:
/// `linux-binary-7.3.4+deb13-cloud-amd64`.
fn parts(image: &Listed) -> Vec<&str> {
    let release = image.name.trim_start_matches("linux-image-");
    let wanted = ["linux-binary-", "linux-modules-"].map(|kind| format!("{kind}{release}"));
    image
        .depends
        .iter()
        .filter(|name| wanted.contains(name))
        .map(String::as_str)
        .collect()
}

/// dpkg alone knows how versions are ordered.
fn newer(one: &Listed, other: &Listed) -> Result<bool> {
    if one.version.cmp(&other.version) == Ordering::Equal {
        // Two names at one version: ABI numbers, of which the higher is the newer.
        return Ok(one.name > other.name);
    }
    let status = Command::new("dpkg")
        .args(["--compare-versions", &one.version, "gt", &other.version])
        .status()
        .context("could not start dpkg")?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, depends: &[&str]) -> Listed {
        Listed {
            name: name.to_owned(),
            version: "7.3.4-1~bpo13+1".to_owned(),
            sha256: String::new(),
            depends: depends.iter().map(|&one| one.to_owned()).collect(),
        }
    }

    #[test]
    fn finds_the_parts_of_a_split_kernel() {
        let image = listed(
            "linux-image-7.3.4+deb13-cloud-amd64",
            &[
                "dracut",
                "linux-base-7.3.4+deb13-cloud-amd64",
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64",
            ],
        );
        assert_eq!(
            parts(&image),
            [
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64"
            ]
        );
        let whole = listed("linux-image-6.1.0-56-cloud-amd64", &["kmod", "linux-base"]);
        assert!(parts(&whole).is_empty());
    }

    #[test]
    fn a_changed_package_has_a_folder_of_its_own() {
        let project = Project {
            root: PathBuf::new(),
            cache: PathBuf::from("/c"),
            compiler: crate::project::Compiler {
                version: String::new(),
                host: String::new(),
                llvm_major: 0,
                sysroot: PathBuf::new(),
            },
        };
        let with = |sum: &str| {
            folder(
                &project,
                &Locked {
                    name: "5.10".to_owned(),
                    arch: Arch::X86_64,
                    suite: String::new(),
                    package: vec![Package {
                        name: "linux-image-5.10.0-46-cloud-amd64".to_owned(),
                        version: "5.10.262-1".to_owned(),
                        sha256: sum.to_owned(),
                    }],
                },
            )
        };
        assert_eq!(
            with("abcdef"),
            Path::new("/c/vm/kernel-5.10-5.10.262-1-amd64-abcd")
        );
        assert_ne!(with("abcdef"), with("bbcdef"));
    }
}
