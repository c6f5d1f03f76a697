//! apt with lists, cache and sources of its own: nothing is installed and the system's own
//! package lists stay as they are, and yet apt checks the archive's signature and every
//! package's sum.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::step;

/// Signs every suite, where a release's own keyring signs only that release.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

const LIMIT: Duration = Duration::from_secs(300);

/// What a private apt looks at.
pub(crate) struct Of<'a> {
    /// `http://deb.debian.org/debian`
    pub(crate) mirror: &'a str,
    /// `trixie-backports`
    pub(crate) suite: &'a str,
    /// Debian's word for the machine (`arm64`), or the system's own.
    pub(crate) architecture: Option<&'a str>,
    /// Whether apt believes that nothing is installed: it then downloads the whole closure,
    /// where it otherwise leaves out what this system has.
    pub(crate) bare: bool,
}

/// apt on one suite.
pub(crate) struct PrivateApt {
    folder: PathBuf,
    options: Vec<String>,
    what: String,
}

/// A version of a package, as the suite lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) version: String,
    /// In hexadecimal, of the .deb.
    pub(crate) sha256: String,
    /// The names in `Depends`, first alternatives only.
    pub(crate) depends: Vec<String>,
}

impl PrivateApt {
    /// Below `folder`, which may hold the lists of an earlier run.
    pub(crate) fn new(folder: &Path, of: &Of<'_>) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("could not make {}", part.display()))?;
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        let sources = folder.join("one.sources");
        fs::write(&sources, stanza(of.mirror, of.suite, keyring))
            .with_context(|| format!("could not write {}", sources.display()))?;
        let at = folder.display();
        let mut options = vec![
            format!("Dir::Etc::sourcelist={at}/one.sources"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={at}/lists"),
            format!("Dir::Cache={at}/cache"),
            "Acquire::Languages=none".to_owned(),
        ];
        if let Some(architecture) = of.architecture {
            options.push(format!("APT::Architecture={architecture}"));
            options.push(format!("APT::Architectures={architecture}"));
        }
        if of.bare {
            let status = folder.join("status");
            fs::write(&status, "")
                .with_context(|| format!("could not write {}", status.display()))?;
            options.push(format!("Dir::State::status={}", status.display()));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            options,
            what: format!("Debian's {}", of.suite),
        })
    }

    /// Fetches the suite's lists.
    pub(crate) fn update(&self) -> Result<()> {
        let what = format!("package lists of {}", self.what);
        step::quiet(&what, self.get().arg("update"), LIMIT)
    }

    /// The versions of a package, newest first, as `apt-cache madison` tells them.
    pub(crate) fn madison(&self, package: &str) -> Result<String> {
        step::capture(self.cache().args(["madison", package]))
    }

    /// The names that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let said = step::capture(self.cache().args(["pkgnames", prefix]))?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// Every version of a package; none of an unknown one.
    pub(crate) fn show(&self, package: &str) -> Result<Vec<Listed>> {
        // It fails for a name that it has never met.
        if !self.names(package)?.iter().any(|name| name == package) {
            return Ok(Vec::new());
        }
        let said = step::capture(self.cache().args(["show", package]))?;
        Ok(said.split("\n\n").filter_map(listed).collect())
    }

    /// Downloads one version of a package and returns the file.
    pub(crate) fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let into = self.folder.join(format!("{package}.download"));
        // What a killed download left.
        let _ = fs::remove_dir_all(&into);
        fs::create_dir_all(&into).with_context(|| format!("could not make {}", into.display()))?;
        let mut get = self.get();
        get.arg("download").arg(format!("{package}={version}"));
        let what = format!("{package} {version} from {}", self.what);
        step::quiet(&what, get.current_dir(&into), LIMIT)?;
        let mut found = debs(&into)?;
        ensure!(found.len() == 1, "apt-get download left no .deb");
        Ok(found.remove(0))
    }

    /// Downloads packages with all that they need, and returns the files.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut get = self.get();
        get.args(["--yes", "--download-only", "--no-install-recommends"]);
        get.arg("install").args(packages);
        let what = format!("{} from {}", packages.join(", "), self.what);
        step::quiet(&what, &mut get, LIMIT)?;
        debs(&self.folder.join("cache/archives"))
    }

    fn get(&self) -> Command {
        let mut apt = self.command("apt-get");
        apt.args(["-q", "-o", "Acquire::http::Timeout=20"]);
        // An update that fails is only a warning otherwise.
        apt.args(["-o", "APT::Update::Error-Mode=any"]);
        apt
    }

    fn cache(&self) -> Command {
        self.command("apt-cache")
    }

    fn command(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.env("LC_ALL", "C");
        for option in &self.options {
            apt.arg("-o").arg(option);
        }
        apt
    }
}

/// Unpacks packages into `root`, which appears whole or not at all.
pub(crate) fn unpack(debs: &[PathBuf], root: &Path) -> Result<()> {
    let half = root.with_extension(format!("half-{}", std::process::id()));
    let _ = fs::remove_dir_all(&half);
    fs::create_dir_all(&half).with_context(|| format!("could not make {}", half.display()))?;
    for deb in debs {
        step::capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&half))?;
    }
    fs::rename(&half, root).with_context(|| format!("could not name {}", root.display()))
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    found.sort();
    Ok(found)
}

/// One stanza of `apt-cache show`.
fn listed(stanza: &str) -> Option<Listed> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let depends = field("Depends").unwrap_or_default();
    Some(Listed {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        sha256: field("SHA256")?.to_owned(),
        depends: depends
            .split(',')
            .filter_map(|one| one.split_whitespace().next())
            .map(str::to_owned)
            .collect(),
    })
}

pub(super) fn stanza(mirror: &str, suite: &str, keyring: Option<&str>) -> String {
    let signed = keyring.map_or(String::new(), |path| format!("Signed-By: {path}\n"));
    format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n{signed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_shows() {
        let text = "Package: linux-image-7.3.4+deb13-cloud-amd64\nVersion: 7.3.4-1~bpo13+1\n\
            Depends: dracut | initramfs-tools (>= 0.120), \
            linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)\n\
            Description: Linux\n SHA256: no field\nSHA256: 00ff\n";
        let found = listed(text).expect("a package");
        assert_eq!(found.version, "7.3.4-1~bpo13+1");
        assert_eq!(found.sha256, "00ff");
        assert_eq!(
            found.depends,
            ["dracut", "linux-binary-7.3.4+deb13-cloud-amd64"]
        );
        assert_eq!(listed("Package: x\nVersion: 1\n"), None);
    }

    #[test]
    fn an_unsigned_source_names_no_key() {
        let text = stanza("http://a.invalid/debian", "sid", None);
        assert!(!text.contains("Signed-By"), "{text}");
    }
}
