//! The standard library's sources. The BPF target has no prebuilt `core`, so
//! cargo builds it, and the sources must be those of the compiler in use.
//!
//! They come from the compiler's own folders, from an archive that the
//! environment names, from rustup, or from Debian's `rust-src` package of the
//! same version. Only rustup writes into the compiler's folders: files of
//! anyone else there make a later `rustup component add rust-src` stop with
//! "detected conflict". The rest goes to the cache.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::{Tell, debian};
use crate::project::Project;
use crate::step;

/// A `library` folder to use before all others.
const DIR: &str = "EXEAT_RUST_SRC_DIR";
/// A tar archive with `library/` at its top.
const ARCHIVE: &str = "EXEAT_RUST_SRC_ARCHIVE";
/// The archive's SHA-256, in hexadecimal.
const ARCHIVE_SUM: &str = "EXEAT_RUST_SRC_SHA256";

/// rustup answers within seconds or has no way to its server.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);
const UNPACK_LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Place {
    /// The archive that EXEAT_RUST_SRC_ARCHIVE names
    Archive,
    /// Debian's rust-src package, by the system's own mirror
    Debian,
}

/// Where the sources are.
pub(crate) enum Found {
    /// Where cargo looks by itself.
    Sysroot,
    /// Elsewhere: cargo has to be told.
    Elsewhere(PathBuf),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysroot => f.write_str("in the compiler's own folders"),
            Self::Elsewhere(path) => write!(f, "in {}", path.display()),
        }
    }
}

impl Found {
    fn library(self) -> Option<PathBuf> {
        match self {
            Self::Sysroot => None,
            Self::Elsewhere(path) => Some(path),
        }
    }
}

/// Looks without fetching.
pub(crate) fn find(project: &Project) -> Result<Found> {
    if let Some(folder) = env::var_os(DIR).map(PathBuf::from) {
        ensure!(
            is_library(&folder),
            "{DIR} names {}, which has no core/src/lib.rs and Cargo.lock: name the \
             `library` folder of Rust's sources or unset {DIR}",
            folder.display()
        );
        return Ok(Found::Elsewhere(folder));
    }
    let own = own_library(project);
    if is_library(&own) {
        return Ok(Found::Sysroot);
    }
    let cached = project.cached_library();
    if is_library(&cached) {
        return Ok(Found::Elsewhere(cached));
    }
    bail!(
        "neither {} nor {} has Rust's sources",
        own.display(),
        cached.display()
    )
}

/// Where rustup puts them and cargo looks by itself.
fn own_library(project: &Project) -> PathBuf {
    project.compiler.lib().join("rustlib/src/rust/library")
}

/// Finds the sources or fetches them. Returns the folder that cargo has to be
/// told about, if it has to be.
pub(crate) fn ensure(project: &Project, tell: Tell) -> Result<Option<PathBuf>> {
    let version = &project.compiler.version;
    if env::var_os(DIR).is_some() || find(project).is_ok() {
        let found = find(project)?;
        if tell == Tell::All {
            step::done(&format!("rust-src {version}"), &format!("there, {found}"));
        }
        return Ok(found.library());
    }
    if env::var_os(ARCHIVE).is_some() {
        // Whoever names an archive means it: a bad one is an error, not a
        // reason to look elsewhere.
        from_archive(project)?;
        return Ok(find(project)?.library());
    }
    let mut tried = Vec::new();
    for (place, fetch) in [
        ("rustup", from_rustup as fn(&Project) -> Result<()>),
        ("Debian", from_debian),
    ] {
        match fetch(project) {
            Ok(()) => return Ok(find(project)?.library()),
            Err(why) => tried.push(format!("{place}: {why:#}")),
        }
    }
    bail!(
        "found no rust-src for rustc {version}. Tried:\n- {}\nPut an archive of Rust {version}'s \
         `library` folder (tar.xz) somewhere and set {ARCHIVE} to its path, and {ARCHIVE_SUM} to \
         its SHA-256, then run `cargo xtask setup` again",
        tried.join("\n- ")
    )
}

/// Fetches into the cache from the place that was asked for.
pub(crate) fn fetch_from(project: &Project, place: Place) -> Result<()> {
    match place {
        Place::Archive => from_archive(project),
        Place::Debian => from_debian(project),
    }
}

fn from_rustup(project: &Project) -> Result<()> {
    let sysroot = &project.compiler.sysroot;
    let toolchain = toolchain_name(sysroot).with_context(|| {
        format!(
            "{} is not one of rustup's toolchains",
            sysroot.to_string_lossy()
        )
    })?;
    let started = Instant::now();
    let mut rustup = Command::new("rustup");
    rustup
        .args(["component", "add", "rust-src", "--toolchain", toolchain])
        // With its three tries rustup takes minutes to say that it cannot.
        .env("RUSTUP_MAX_RETRIES", "0")
        .env("RUST_BACKTRACE", "0");
    step::quiet("rust-src from rustup", &mut rustup, RUSTUP_LIMIT)?;
    // It goes by its own list of components and does not look at the files.
    let own = own_library(project);
    ensure!(
        is_library(&own),
        "it takes rust-src for installed, and {} does not hold it: `rustup component remove \
         rust-src` lets it be added again",
        own.display()
    );
    step::done(
        &format!("rust-src {}", project.compiler.version),
        &format!(
            "added by rustup, which checked its sum ({})",
            step::seconds(started.elapsed())
        ),
    );
    Ok(())
}

/// rustup keeps its toolchains in `…/toolchains/NAME`.
fn toolchain_name(sysroot: &Path) -> Option<&str> {
    let parent = sysroot.parent()?.file_name()?;
    (parent == "toolchains").then(|| sysroot.file_name()?.to_str())?
}

fn from_archive(project: &Project) -> Result<()> {
    let started = Instant::now();
    let path = env::var_os(ARCHIVE)
        .map(PathBuf::from)
        .with_context(|| format!("{ARCHIVE} is not set"))?;
    let sum = sha256(&path)?;
    let checked = match env::var(ARCHIVE_SUM) {
        Ok(wanted) => {
            same_sum(&wanted, &sum).with_context(|| {
                format!("{} is not what {ARCHIVE_SUM} promises", path.display())
            })?;
            "sum checked".to_owned()
        }
        Err(_) => format!("sum NOT checked, {ARCHIVE_SUM} is not set; it is {sum}"),
    };
    install(project, |folder| {
        let mut tar = Command::new("tar");
        // `-a` for an archive that is read means: by its contents.
        tar.args(["--extract", "--no-same-owner", "--file"])
            .arg(&path)
            .arg("--directory")
            .arg(folder)
            .arg("library");
        step::quiet("rust-src from the archive", &mut tar, UNPACK_LIMIT)?;
        Ok(folder.join("library"))
    })?;
    step::done(
        &format!("rust-src {}", project.compiler.version),
        &format!(
            "unpacked from {}, {checked} ({})",
            path.display(),
            step::seconds(started.elapsed())
        ),
    );
    Ok(())
}

fn from_debian(project: &Project) -> Result<()> {
    let started = Instant::now();
    let version = &project.compiler.version;
    let work = WorkFolder::new()?;
    let package = debian::download_rust_src(&work.0, version)?;
    install(project, |folder| {
        debian::unpack_library(&package.file, folder, version)
    })?;
    step::done(
        &format!("rust-src {version}"),
        &format!(
            "Debian's {} from {}, signature and sum checked by apt ({})",
            package.version,
            package.suite,
            step::seconds(started.elapsed())
        ),
    );
    Ok(())
}

/// Fills a new folder and puts its `library` in place by a rename, so that a
/// run cut short leaves nothing half done.
fn install(project: &Project, fill: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    let library = project.cached_library();
    let home = library.parent().context("the cache has no parent folder")?;
    fs::create_dir_all(home).with_context(|| format!("could not make {}", home.display()))?;
    let fresh = home.join(format!("new-{}", std::process::id()));
    let removal = Removal(&fresh);
    remove(&fresh)?;
    fs::create_dir(&fresh).with_context(|| format!("could not make {}", fresh.display()))?;
    let filled = fill(&fresh)?;
    ensure!(
        is_library(&filled),
        "what was unpacked has no core/src/lib.rs and Cargo.lock in `library`"
    );
    remove(&library)?;
    fs::rename(&filled, &library)
        .with_context(|| format!("could not move the sources to {}", library.display()))?;
    drop(removal);
    Ok(())
}

fn is_library(folder: &Path) -> bool {
    folder.join("core/src/lib.rs").is_file() && folder.join("Cargo.lock").is_file()
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

struct Removal<'a>(&'a Path);

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        // A leftover costs only room, and the next run removes it.
        let _ = remove(self.0);
    }
}

/// apt's private lists. Not in the cache: apt reads with a user of its own,
/// who cannot enter a home folder.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("exeat-setup-{}", std::process::id()));
        // `create_dir` fails on anything that is there, a planted link too.
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file =
        File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let read = file
            .read(&mut block)
            .with_context(|| format!("could not read {}", path.display()))?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn same_sum(wanted: &str, found: &str) -> Result<()> {
    let wanted = wanted.trim().to_ascii_lowercase();
    ensure!(
        wanted.len() == 64 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{wanted:?} is not a SHA-256 in hexadecimal"
    );
    ensure!(wanted == found, "its SHA-256 is {found}, not {wanted}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn sums_files() {
        let work = std::env::temp_dir().join(format!("exeat-sum-{}", std::process::id()));
        fs::write(&work, "abc").expect("write");
        let sum = sha256(&work);
        fs::remove_file(&work).expect("remove");
        assert_eq!(
            sum.expect("sum"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(sha256(Path::new("/dev/null")).expect("sum"), EMPTY);
        assert!(sha256(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn compares_sums() {
        same_sum(&format!(" {}\n", EMPTY.to_uppercase()), EMPTY).expect("the same");
        assert!(same_sum(&EMPTY.replace("e3", "e4"), EMPTY).is_err());
        assert!(same_sum(&EMPTY[1..], EMPTY).is_err());
        assert!(same_sum("", EMPTY).is_err());
    }

    #[test]
    fn knows_rustups_toolchains() {
        let own = Path::new("/home/a/.rustup/toolchains/stable-x86_64-unknown-linux-gnu");
        assert_eq!(toolchain_name(own), Some("stable-x86_64-unknown-linux-gnu"));
        assert_eq!(toolchain_name(Path::new("/usr")), None);
        assert_eq!(toolchain_name(Path::new("/")), None);
    }
}
