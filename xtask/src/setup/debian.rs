//! Debian's `rust-src` package of exactly the compiler's version, from the
//! mirror that this system is set up with, by a private apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{Of, PrivateApt};

/// Where newer compilers than a release's own are kept, most stable first.
const SUITES: [&str; 3] = ["trixie-backports", "testing", "unstable"];

/// A package that apt fetched and checked.
pub(crate) struct Package {
    pub(crate) file: PathBuf,
    pub(crate) version: String,
    pub(crate) suite: &'static str,
}

/// Fetches `rust-src` of the Rust version `wanted` into `work`.
pub(crate) fn download_rust_src(work: &Path, wanted: &str) -> Result<Package> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    ensure!(
        os_field(&release, "ID").as_deref() == Some("debian"),
        "this system is not Debian"
    );
    let codename = os_field(&release, "VERSION_CODENAME").unwrap_or_default();
    let mirror = mirror(&read_sources()?, &codename)
        .with_context(|| format!("apt's sources name no mirror of Debian {codename}"))?;
    let mut tried = Vec::new();
    for suite in SUITES {
        match download_from(work, &mirror, suite, wanted) {
            Ok(package) => return Ok(package),
            Err(why) => tried.push(format!("{suite}: {why:#}")),
        }
    }
    bail!("{}", tried.join("; "))
}

fn download_from(work: &Path, mirror: &str, suite: &'static str, wanted: &str) -> Result<Package> {
    let of = Of {
        mirror,
        suite,
        architecture: None,
        bare: false,
    };
    let apt = PrivateApt::new(&work.join(suite), &of)?;
    apt.update()?;
    let listed = apt.madison("rust-src")?;
    let version = pick(&listed, wanted)
        .with_context(|| format!("it has rust-src {}, not {wanted}", versions(&listed)))?
        .to_owned();
    let file = apt.download("rust-src", &version)?;
    Ok(Package {
        file,
        version,
        suite,
    })
}

/// Unpacks only `library/` of the package: all of it is five times as much.
pub(crate) fn unpack_library(package: &Path, into: &Path, version: &str) -> Result<PathBuf> {
    // Debian's sources are in the first; a package laid out like rustup's
    // component would have them in the second.
    let places = [
        format!("usr/src/rustc-{version}/library"),
        "usr/lib/rustlib/src/rust/library".to_owned(),
    ];
    let mut tried = Vec::new();
    for place in &places {
        match unpack(package, into, place) {
            Ok(()) => return Ok(into.join(place)),
            Err(why) => tried.push(format!("{why:#}")),
        }
    }
    bail!("{}", tried.join("; "))
}

fn unpack(package: &Path, into: &Path, place: &str) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("could not start dpkg-deb")?;
    let pipe = dpkg.stdout.take().context("dpkg-deb has no output")?;
    let tar = Command::new("tar")
        .args(["--extract", "--no-same-owner", "--directory"])
        .arg(into)
        .arg(format!("./{place}"))
        .stdin(pipe)
        .output();
    let dpkg = dpkg.wait().context("could not wait for dpkg-deb")?;
    let tar = tar.context("could not start tar")?;
    ensure!(
        tar.status.success(),
        "the package has no {place}: {}",
        String::from_utf8_lossy(&tar.stderr).trim()
    );
    ensure!(
        dpkg.success(),
        "dpkg-deb could not read {}",
        package.display()
    );
    Ok(())
}

/// The package's version whose upstream part is `wanted`, in the lines of
/// `apt-cache madison`: `rust-src | 1.95.0+dfsg1-2~bpo13+1 | …`.
fn pick<'a>(madison: &'a str, wanted: &str) -> Option<&'a str> {
    listed(madison).find(|version| upstream(version) == wanted)
}

fn versions(madison: &str) -> String {
    let all: Vec<_> = listed(madison).map(upstream).collect();
    if all.is_empty() {
        "in no version".to_owned()
    } else {
        all.join(", ")
    }
}

fn listed(madison: &str) -> impl Iterator<Item = &str> {
    madison
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim()))
}

/// `1.95.0` of `1.95.0+dfsg1-2~bpo13+1`; an epoch goes too.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// A variable of `/etc/os-release`, without its quotes.
pub(crate) fn os_field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The name of this Debian's release, `None` on another system.
pub(crate) fn codename() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let debian = os_field(&release, "ID").as_deref() == Some("debian");
    os_field(&release, "VERSION_CODENAME").filter(|_| debian)
}

/// What one entry of apt's sources says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
}

/// Where this system takes Debian's suite `suite` from, and Debian's own host where its sources
/// do not tell.
pub(crate) fn mirror_of(suite: &str) -> String {
    let sources = read_sources().unwrap_or_default();
    let security = suite.ends_with("-security");
    let of_the_same_archive = |source: &&Source| {
        let one = source.suites.iter().any(|name| name.ends_with("-security"));
        one == security && source.uris.iter().any(|uri| uri.contains("/debian"))
    };
    let own = sources.iter().find(of_the_same_archive);
    let own = own.and_then(|source| source.uris.iter().find(|uri| uri.contains("/debian")));
    own.map_or_else(
        || {
            let archive = if security {
                "debian-security"
            } else {
                "debian"
            };
            format!("http://deb.debian.org/{archive}")
        },
        |uri| uri.trim_end_matches('/').to_owned(),
    )
}

/// The first mirror that serves this release's main component.
fn mirror(sources: &[Source], codename: &str) -> Option<String> {
    sources
        .iter()
        .find(|source| {
            let is = |suite: &String| {
                suite == codename
                    || matches!(suite.as_str(), "stable" | "testing" | "unstable" | "sid")
            };
            source.suites.iter().any(is) && source.components.iter().any(|name| name == "main")
        })
        .and_then(|source| source.uris.first().cloned())
}

fn read_sources() -> Result<Vec<Source>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.append(&mut more);
    }
    let mut sources = Vec::new();
    for file in files {
        let Some(end) = file.extension().and_then(|end| end.to_str()) else {
            continue;
        };
        let parse = match end {
            "list" => one_line_sources,
            "sources" => deb822_sources,
            _ => continue,
        };
        match fs::read_to_string(&file) {
            Ok(text) => sources.extend(parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("could not read {}", file.display()));
            }
        }
    }
    Ok(sources)
}

/// `deb [options] URI SUITE COMPONENT…`, a line an entry.
fn one_line_sources(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let rest = line.strip_prefix("deb")?;
            let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace().map(str::to_owned);
            Some(Source {
                uris: vec![words.next()?],
                suites: vec![words.next()?],
                components: words.collect(),
            })
        })
        .collect()
}

/// `Field: values`, a paragraph an entry.
fn deb822_sources(text: &str) -> Vec<Source> {
    let uncommented: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::trim_end)
        .collect();
    uncommented
        .split(|line| line.is_empty())
        .filter_map(|paragraph| {
            let field = |name: &str| -> Vec<String> {
                let mut words = Vec::new();
                let mut inside = false;
                for line in paragraph {
                    let value = if line.starts_with([' ', '\t']) {
                        inside.then_some(*line)
                    } else {
                        let (key, value) = line.split_once(':').unwrap_or((line, ""));
                        inside = key.eq_ignore_ascii_case(name);
                        inside.then_some(value)
                    };
                    words.extend(value.unwrap_or("").split_whitespace().map(str::to_owned));
                }
                words
            };
            let disabled = field("Enabled")
                .first()
                .is_some_and(|word| word.eq_ignore_ascii_case("no"));
            if disabled || !field("Types").iter().any(|kind| kind == "deb") {
                return None;
            }
            Some(Source {
                uris: field("URIs"),
                suites: field("Suites"),
                components: field("Components"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::apt;
    use super::*;

    const MADISON: &str = "\
  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://mirror.invalid/debian trixie-backports/main amd64
  rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror.invalid/debian trixie-backports/main amd64
";

    #[test]
    fn picks_the_compilers_version_and_no_other() {
        assert_eq!(pick(MADISON, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(pick(MADISON, "1.95"), None);
        assert_eq!(pick(MADISON, "1.95.1"), None);
        assert_eq!(pick("", "1.95.0"), None);
        assert_eq!(versions(MADISON), "1.96.1, 1.95.0");
        assert_eq!(versions(""), "in no version");
    }

    #[test]
    fn cuts_debians_part_off() {
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0");
        assert_eq!(upstream("2:1.95.0-1"), "1.95.0");
        assert_eq!(upstream("1.95.0~beta.3-1"), "1.95.0");
        assert_eq!(upstream("1.95.0"), "1.95.0");
    }

    #[test]
    fn reads_one_line_sources() {
        let text = "# deb http://no.invalid/debian trixie main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://a.invalid/debian bookworm main contrib # x\n\
            deb-src http://src.invalid/debian bookworm main\n\
            deb http://b.invalid/debian-security bookworm-security main\n";
        let sources = one_line_sources(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(
            mirror(&sources, "bookworm").as_deref(),
            Some("http://a.invalid/debian")
        );
        assert_eq!(mirror(&sources, "trixie"), None);
    }

    #[test]
    fn reads_deb822_sources() {
        let text = "Types: deb\n# a comment\nURIs: http://sec.invalid/debian-security\n\
            Suites: bookworm-security\nComponents: main\n\n\
            Types: deb\nEnabled: no\nURIs: http://off.invalid/debian\nSuites: bookworm\n\
            Components: main\n\n\
            types: deb deb-src\nuris:\n http://on.invalid/debian\n http://second.invalid/debian\n\
            suites: bookworm-updates bookworm\ncomponents: main\nSigned-By: /k.gpg\n";
        let sources = deb822_sources(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[1].uris.len(), 2);
        assert_eq!(
            mirror(&sources, "bookworm").as_deref(),
            Some("http://on.invalid/debian")
        );
    }

    #[test]
    fn a_mirror_needs_main() {
        let sources = one_line_sources("deb http://a.invalid/debian bookworm contrib\n");
        assert_eq!(mirror(&sources, "bookworm"), None);
    }

    #[test]
    fn reads_os_release() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(os_field(text, "ID").as_deref(), Some("debian"));
        assert_eq!(os_field(text, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_field(text, "ID_LIKE"), None);
    }

    #[test]
    fn writes_a_stanza_that_it_reads() {
        let text = apt::stanza(
            "http://a.invalid/debian",
            "trixie-backports",
            Some("/k.gpg"),
        );
        assert!(text.ends_with("Signed-By: /k.gpg\n"));
        let sources = deb822_sources(&text);
        assert_eq!(sources[0].suites, ["trixie-backports"]);
    }
}
