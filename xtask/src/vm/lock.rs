//! `xtask/kernels.lock.toml`: the exact packages of every kernel, so that a run today and
//! one next month mean the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::arch::Arch;

const HEAD: &str = "# The kernels that `cargo xtask vm-test` boots. Written by `cargo xtask vm-test \
    --relock`,\n# which takes the newest of each series that its signed suite has.\n\n";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    #[serde(default)]
    pub(super) kernel: Vec<Locked>,
}

/// One kernel and its packages, the image first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Locked {
    /// The series, `5.10`.
    pub(super) name: String,
    pub(super) arch: Arch,
    pub(super) suite: String,
    pub(super) package: Vec<Package>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// Of the .deb, in hexadecimal.
    pub(super) sha256: String,
}

impl Locked {
    /// `linux-image-5.10.0-46-cloud-amd64 5.10.262-1`.
    pub(super) fn image(&self) -> String {
        self.package.first().map_or_else(String::new, |image| {
            format!("{} {}", image.name, image.version)
        })
    }
}

pub(super) fn path(root: &Path) -> PathBuf {
    root.join("xtask/kernels.lock.toml")
}

/// The lock; an empty one where there is no file.
pub(super) fn read(root: &Path) -> Result<Lock> {
    let path = path(root);
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).with_context(|| {
            format!(
                "{} cannot be read: `cargo xtask vm-test --relock` writes it anew",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Lock::default()),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

pub(super) fn write(root: &Path, lock: &Lock) -> Result<()> {
    let path = path(root);
    let text = toml::to_string(lock).context("the lock cannot be written as TOML")?;
    fs::write(&path, format!("{HEAD}{text}"))
        .with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::series;
    use super::*;

    #[test]
    fn the_committed_lock_has_every_series() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let lock = read(root.expect("the workspace")).expect("the lock");
        for series in &series::ALL {
            let is = |one: &&Locked| one.name == series.name && one.arch == series.arch;
            let found = lock.kernel.iter().find(is);
            let found = found.unwrap_or_else(|| panic!("{} is not locked", series.name));
            assert_eq!(found.suite, series.suite);
            assert!(series.has(&found.package[0].name), "{}", found.image());
            for package in &found.package {
                assert_eq!(package.sha256.len(), 64, "{}", package.name);
            }
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let lock = Lock {
            kernel: vec![Locked {
                name: "5.10".to_owned(),
                arch: Arch::X86_64,
                suite: "bullseye-security".to_owned(),
                package: vec![Package {
                    name: "linux-image-5.10.0-46-cloud-amd64".to_owned(),
                    version: "5.10.262-1".to_owned(),
                    sha256: "00".to_owned(),
                }],
            }],
        };
        let text = toml::to_string(&lock).expect("TOML");
        assert_eq!(toml::from_str::<Lock>(&text).expect("a lock"), lock);
        assert!(toml::from_str::<Lock>(&format!("{text}more = 1\n")).is_err());
    }
}
