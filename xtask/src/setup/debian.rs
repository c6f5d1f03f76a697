//! Debian's `rust-src` package of exactly the compiler's version, from the
//! mirror that this system is set up with. Nothing is installed and the
//! system's own package lists stay as they are: apt works on private ones,
//! checking the archive's signature and the package's sum.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::step;

/// Where newer compilers than a release's own are kept, most stable first.
const SUITES: [&str; 3] = ["trixie-backports", "testing", "unstable"];

/// Signs every suite, where a release's own keyring signs only that release.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

const APT_LIMIT: Duration = Duration::from_secs(300);

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
    let folder = work.join(suite);
    let apt = PrivateApt::new(&folder, mirror, suite)?;
    let what = format!("rust-src from Debian's {suite}");
    step::quiet(&what, apt.get().arg("update"), APT_LIMIT)?;
    let listed = step::capture(apt.cache().args(["madison", "rust-src"]))?;
    let version = pick(&listed, wanted)
        .with_context(|| format!("it has rust-src {}, not {wanted}", versions(&listed)))?
        .to_owned();
    let mut get = apt.get();
    get.arg("download").arg(format!("rust-src={version}"));
    step::quiet(&what, get.current_dir(&folder), APT_LIMIT)?;
    let file = fs::read_dir(&folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get download left no .deb")?;
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

/// apt with lists, cache and sources of its own.
struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    fn new(folder: &Path, mirror: &str, suite: &str) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("could not make {}", part.display()))?;
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        let sources = folder.join("one.sources");
        fs::write(&sources, stanza(mirror, suite, keyring))
            .with_context(|| format!("could not write {}", sources.display()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
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
        let folder = self.folder.display();
        let mut apt = Command::new(program);
        apt.env("LC_ALL", "C");
        for option in [
            format!("Dir::Etc::sourcelist={folder}/one.sources"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            "Acquire::Languages=none".to_owned(),
        ] {
            apt.arg("-o").arg(option);
        }
        apt
    }
}

fn stanza(mirror: &str, suite: &str, keyring: Option<&str>) -> String {
    let signed = keyring.map_or(String::new(), |path| format!("Signed-By: {path}\n"));
    format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n{signed}")
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

/// What one entry of apt's sources says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
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
        let text = stanza(
            "http://a.invalid/debian",
            "trixie-backports",
            Some("/k.gpg"),
        );
        assert!(text.ends_with("Signed-By: /k.gpg\n"));
        let sources = deb822_sources(&text);
        assert_eq!(sources[0].suites, ["trixie-backports"]);
    }
}
