//! Clients that the live tests run as agents and that are no program of a usual machine: Go's
//! own resolver and TLS, musl's resolver, two tunnels, the programs of four TLS libraries, an SSH
//! server and client, a browser, and Java where there is none. Debian's packages are unpacked into the cache, nothing is
//! installed, and the programs lie in `target/clients` in the end.

mod carried;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Tell;
use super::apt::{Of, PrivateApt};
use super::debian::mirror_of;
use crate::project::Project;
use crate::step;

/// Go compiles its own library the first time.
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// What is unpacked together.
struct Kit {
    name: &'static str,
    /// Where the packages come from, whatever system this is.
    suite: &'static str,
    packages: Packages,
    /// The programs that it makes in `target/clients`.
    make: fn(&Project, &Path, &Path) -> Result<()>,
    programs: &'static [&'static str],
}

enum Packages {
    /// These.
    Named(&'static [&'static str]),
    /// Those that a look at the lists finds.
    Found(fn(&PrivateApt) -> Result<Vec<String>>),
    /// These and all that they need, the C library too.
    Whole(&'static [&'static str]),
}

/// Where the tests look for a client before they look into `target/clients`
/// (`exeat_tests::clients::find`).
const FOLDERS: [&str; 5] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin", "/sbin"];

const KITS: [Kit; 8] = [
    Kit {
        name: "Go",
        suite: "trixie",
        packages: Packages::Found(go_packages),
        make: make_go,
        programs: &["ask-go", "tls-go"],
    },
    Kit {
        name: "musl",
        // 1.2.4 is the first that asks again by TCP, and Debian 12 has 1.2.3.
        suite: "trixie",
        packages: Packages::Named(&["musl-dev"]),
        make: make_musl,
        programs: &["ask-musl"],
    },
    Kit {
        name: "dns2tcp",
        suite: "trixie",
        packages: Packages::Named(&["dns2tcp"]),
        make: |_, tree, into| copy(tree, into, &["dns2tcpc", "dns2tcpd"]),
        programs: &["dns2tcpc", "dns2tcpd"],
    },
    Kit {
        name: "iodine",
        // Newer ones want the C library of Debian 13.
        suite: "bookworm",
        packages: Packages::Named(&["iodine"]),
        make: |_, tree, into| copy(tree, into, &["iodine", "iodined"]),
        programs: &["iodine", "iodined"],
    },
    Kit {
        name: "TLS",
        // The first whose NSS and OpenSSL know ML-KEM.
        suite: "trixie",
        packages: Packages::Whole(&[
            "libnss3-tools",
            "gnutls-bin",
            "openssl",
            "android-boringssl",
        ]),
        make: |_, tree, into| carried::tls(tree, into),
        programs: &carried::TLS,
    },
    Kit {
        name: "Java",
        // Runs with the C library of Debian 12 and newer ones.
        suite: "bookworm",
        packages: Packages::Named(&[
            "openjdk-17-jre-headless",
            "zlib1g",
            "libstdc++6",
            "libgcc-s1",
        ]),
        make: |_, tree, into| carried::java(tree, into),
        programs: &["java"],
    },
    Kit {
        name: "Chromium",
        // Runs with the C library of Debian 12 and newer ones.
        suite: "bookworm",
        packages: Packages::Whole(&["chromium-headless-shell"]),
        make: |_, tree, into| carried::chromium(tree, into),
        programs: &["chromium-headless-shell"],
    },
    Kit {
        name: "SSH",
        // Runs with the C library of Debian 12 and newer ones.
        suite: "bookworm",
        packages: Packages::Named(&["dropbear-bin", "libtomcrypt1", "libtommath1"]),
        make: |_, tree, into| carried::ssh(tree, into),
        programs: &carried::SSH,
    },
];

/// Says that all are there.
pub(super) fn check(project: &Project) -> Result<String> {
    let missing: Vec<_> = KITS
        .iter()
        .filter(|kit| !is_made(project, kit))
        .map(|kit| kit.name)
        .collect();
    ensure!(missing.is_empty(), "no programs of {}", missing.join(", "));
    Ok(format!("there, in {}", folder(project).display()))
}

/// Brings what is missing. What cannot be had is said and stops nothing: the tests say which
/// client they went without, and fail for it in CI.
pub(super) fn ensure(project: &Project, tell: Tell) {
    for kit in &KITS {
        let what = format!("client {}", kit.name);
        let started = Instant::now();
        match bring(project, kit) {
            Ok(None) if tell == Tell::Changes => {}
            Ok(None) => step::done(&what, "there"),
            Ok(Some(how)) => {
                let took = step::seconds(started.elapsed());
                step::done(&what, &format!("{how} ({took})"));
            }
            Err(why) => step::done(&what, &format!("NOT THERE, {why:#}")),
        }
    }
}

fn folder(project: &Project) -> PathBuf {
    project.target().join("clients")
}

/// Whether the machine has the programs, or they are made, of the sources as they are now.
fn is_made(project: &Project, kit: &Kit) -> bool {
    let sources = project.root.join("tests/clients");
    kit.programs.iter().all(|program| {
        let on_the_machine = |folder: &str| Path::new(folder).join(program).is_file();
        if FOLDERS.iter().any(|folder| on_the_machine(folder)) {
            return true;
        }
        let made = folder(project).join(program);
        let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
        time(&made).is_ok_and(|made| {
            source_of(program)
                .is_none_or(|source| time(&sources.join(source)).is_ok_and(|source| source <= made))
        })
    })
}

fn source_of(program: &str) -> Option<&'static str> {
    match program {
        "ask-go" => Some("ask.go"),
        "tls-go" => Some("tls.go"),
        "ask-musl" => Some("ask.c"),
        _ => None,
    }
}

/// What was done, if anything had to be.
fn bring(project: &Project, kit: &Kit) -> Result<Option<String>> {
    if is_made(project, kit) {
        return Ok(None);
    }
    let tree = project.cache.join("clients").join(kit.suite).join(kit.name);
    let fetched = match tree.is_dir() {
        true => String::new(),
        false => unpack(project, kit, &tree)? + ", ",
    };
    let folder = folder(project);
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    (kit.make)(project, &tree, &folder)?;
    let programs = kit.programs.join(" and ");
    Ok(Some(format!("{fetched}{programs} made")))
}

/// Downloads and unpacks; says what and how much.
fn unpack(project: &Project, kit: &Kit, tree: &Path) -> Result<String> {
    let suite = kit.suite;
    let mirror = mirror_of(suite);
    let work = project.cache.join("clients").join(suite).join("apt");
    let of = Of {
        mirror: &mirror,
        suite,
        architecture: None,
        bare: true,
    };
    let apt = PrivateApt::new(&work, &of)?;
    apt.update()
        .with_context(|| format!("{mirror} {suite} cannot be read: is the mirror reachable?"))?;
    let half = tree.with_extension(format!("half-{}", std::process::id()));
    let _ = fs::remove_dir_all(&half);
    fs::create_dir_all(&half).with_context(|| format!("could not make {}", half.display()))?;
    let (debs, what) = download(&apt, kit)?;
    let mut bytes = 0;
    for deb in debs {
        bytes += fs::metadata(&deb).map_or(0, |data| data.len());
        step::capture(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&half))?;
        // What was unpacked is needed no more.
        let _ = fs::remove_file(&deb);
    }
    fs::rename(&half, tree).with_context(|| format!("could not name {}", tree.display()))?;
    let megabytes = f64::from(u32::try_from(bytes)?) / 1e6;
    Ok(format!(
        "{what} of Debian's {suite} unpacked ({megabytes:.1} MB fetched)"
    ))
}

/// The files, and what they are.
fn download(apt: &PrivateApt, kit: &Kit) -> Result<(Vec<PathBuf>, String)> {
    let packages = match kit.packages {
        Packages::Named(packages) => packages.iter().map(|&name| name.to_owned()).collect(),
        Packages::Found(find) => find(apt)?,
        Packages::Whole(packages) => {
            let debs = apt.closure(packages)?;
            let what = format!("{} and what they need", packages.join(", "));
            return Ok((debs, what));
        }
    };
    let (mut debs, mut names) = (Vec::new(), Vec::new());
    for package in packages {
        let listed = apt.show(&package)?;
        let newest = listed
            .first()
            .with_context(|| format!("{} has no package {package}", kit.suite))?;
        debs.push(apt.download(&package, &newest.version)?);
        names.push(format!("{package} {}", newest.version));
    }
    Ok((debs, names.join(", ")))
}

/// `golang-go` is an empty package that needs the one of the release's version.
fn go_packages(apt: &PrivateApt) -> Result<Vec<String>> {
    let part = |package: &str, end: &str| {
        let listed = apt.show(package)?;
        let listed = listed
            .first()
            .with_context(|| format!("there is no package {package}"))?;
        let found = listed.depends.iter().find(|name| is_go(name, end));
        found
            .cloned()
            .with_context(|| format!("{package} needs no golang-*{end}"))
    };
    Ok(vec![part("golang-go", "-go")?, part("golang-src", "-src")?])
}

/// `golang-1.24-go`, `golang-1.24-src`
fn is_go(package: &str, end: &str) -> bool {
    let version = package.strip_prefix("golang-");
    let version = version.and_then(|rest| rest.strip_suffix(end));
    version.is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
}

fn make_go(project: &Project, tree: &Path, into: &Path) -> Result<()> {
    let root = only(&tree.join("usr/lib"), "go-", "")?;
    for (program, source) in [("ask-go", "ask.go"), ("tls-go", "tls.go")] {
        build_go(project, &root, &into.join(program), source)?;
    }
    Ok(())
}

fn build_go(project: &Project, root: &Path, program: &Path, source: &str) -> Result<()> {
    let mut go = Command::new(root.join("bin/go"));
    go.current_dir(project.root.join("tests/clients"))
        .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
        .args([program, Path::new(source)]);
    for (name, value) in [
        ("CGO_ENABLED", "0"),
        ("GO111MODULE", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOPROXY", "off"),
        ("GOTELEMETRY", "off"),
        ("GOFLAGS", ""),
        ("GOENV", "off"),
    ] {
        go.env(name, value);
    }
    let cache = project.cache.join("clients");
    go.env("GOROOT", root)
        .env("GOCACHE", cache.join("go-build"))
        .env("GOPATH", cache.join("go-path"));
    step::quiet("Go's clients", &mut go, BUILD_LIMIT)
}

/// The machine's compiler, and musl's headers, start-up files and library instead of its own.
fn make_musl(project: &Project, tree: &Path, into: &Path) -> Result<()> {
    let library = only(&tree.join("usr/lib"), "", "-linux-musl")?;
    let headers = only(&tree.join("usr/include"), "", "-linux-musl")?;
    let file = |name: &str| library.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-fno-pie"])
        .args(["-nostdinc", "-isystem"])
        .arg(&headers)
        .args(["-static", "-no-pie", "-nostdlib", "-o"])
        .args([into.join("ask-musl"), file("crt1.o"), file("crti.o")])
        .arg(project.root.join("tests/clients/ask.c"))
        .args([file("libc.a")])
        // The compiler's own, which calls nothing.
        .arg("-lgcc")
        .arg(file("crtn.o"));
    step::quiet("musl's client", &mut cc, BUILD_LIMIT)
}

/// Programs that run as they were packaged.
fn copy(tree: &Path, into: &Path, programs: &[&str]) -> Result<()> {
    for program in programs {
        let places = ["usr/bin", "usr/sbin"].map(|place| tree.join(place).join(program));
        let from = places.iter().find(|path| path.is_file());
        let from = from.with_context(|| format!("the package has no {program}"))?;
        let to = into.join(program);
        fs::copy(from, &to).with_context(|| format!("could not write {}", to.display()))?;
    }
    Ok(())
}

/// The one entry whose name begins and ends so.
fn only(folder: &Path, start: &str, end: &str) -> Result<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(start) && name.ends_with(end))
        })
        .collect();
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (None, _) => bail!("{} has no {start}*{end}", folder.display()),
        (Some(_), Some(_)) => bail!("{} has more than one {start}*{end}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_package_is_told_from_others() {
        assert!(is_go("golang-1.24-go", "-go"));
        assert!(is_go("golang-1.24-src", "-src"));
        assert!(!is_go("golang-src", "-src"));
        assert!(!is_go("golang-any-go", "-go"));
        assert!(!is_go("golang-1.24-go", "-src"));
    }

    #[test]
    fn one_folder_is_taken_and_two_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["go-1.24", "x86_64-linux-musl", "a-linux-gnu", "b-linux-gnu"];
        for name in names {
            fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        let of = |start, end| only(folder.path(), start, end);
        assert!(of("go-", "").expect("one").ends_with("go-1.24"));
        assert!(of("", "-linux-musl").is_ok());
        assert!(of("", "-linux-gnu").is_err());
        assert!(of("rust-", "").is_err());
    }

    #[test]
    fn every_program_of_ours_has_its_source() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients");
        for program in KITS.iter().flat_map(|kit| kit.programs) {
            match source_of(program) {
                Some(source) => assert!(sources.join(source).is_file(), "{source}"),
                None => assert!(!program.starts_with("ask-"), "{program}"),
            }
        }
    }
}
