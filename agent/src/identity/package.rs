//! Which package a file is of, by what the system's package manager has noted.
//!
//! dpkg's notes are read here: `/var/lib/dpkg/info/NAME.list` has the paths of a package,
//! `NAME.md5sums` the MD5 of each. rpm's are in a database of one of several kinds, so the
//! system's own `rpm` is asked. Both are root's. A name that a file is found under proves
//! nothing; that it holds what the package's file does, proves it. MD5 suffices for that: whoever wants
//! other contents with the digest of a file of a distribution would have to find a second
//! preimage, which nobody can.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Sha256;

/// dpkg's notes.
const DPKG: &str = "/var/lib/dpkg/info";
/// The program of rpm.
const RPM: &str = "/usr/bin/rpm";
/// Bytes that are read of one file of notes, or of an answer.
const MOST: u64 = 64 << 20;
/// Folders that are links into `/usr` where a distribution has merged them; packages may name
/// their files by either.
const MERGED: [&str; 6] = ["bin/", "sbin/", "lib/", "lib32/", "lib64/", "libx32/"];

/// What is noted of a file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Their MD5.
    Md5([u8; 16]),
    /// Their SHA-256.
    Sha256(Sha256),
    /// Nothing: a configuration file.
    Nothing,
}

/// A package that has a file of this path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name of the package.
    pub package: String,
    /// What the file should hold.
    pub noted: Noted,
}

/// Where packages are noted.
#[derive(Clone, Debug)]
pub struct Packages {
    dpkg: PathBuf,
    rpm: PathBuf,
}

impl Default for Packages {
    fn default() -> Self {
        Self {
            dpkg: DPKG.into(),
            rpm: RPM.into(),
        }
    }
}

impl Packages {
    /// Other folders and programs.
    pub fn at(dpkg: impl Into<PathBuf>, rpm: impl Into<PathBuf>) -> Self {
        Self {
            dpkg: dpkg.into(),
            rpm: rpm.into(),
        }
    }

    /// The packages with a file of this path (absolute, without links), of those that are meant.
    pub fn claims(&self, path: &Path, meant: impl Fn(&str) -> bool) -> Vec<Claim> {
        if !path.is_absolute() || path.as_os_str().as_bytes().contains(&b'\n') {
            return Vec::new();
        }
        let mut claims = self.by_dpkg(path, &meant);
        claims.extend(
            self.by_rpm(path)
                .into_iter()
                .filter(|claim| meant(&claim.package)),
        );
        claims
    }

    fn by_dpkg(&self, path: &Path, meant: &impl Fn(&str) -> bool) -> Vec<Claim> {
        let Ok(entries) = fs::read_dir(&self.dpkg) else {
            return Vec::new();
        };
        let names = spellings(path);
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let list = entry.path();
                let file = list.file_name()?.to_str()?.strip_suffix(".list")?;
                // Another architecture's of the same name: `libc6:i386`.
                let package = file.split(':').next()?;
                if !meant(package) {
                    return None;
                }
                let paths = read(&list)?;
                if !lines(&paths).any(|line| names.iter().any(|name| name == line)) {
                    return None;
                }
                let sums = read(&list.with_file_name(format!("{file}.md5sums")));
                let noted = sums.and_then(|sums| {
                    let sum = lines(&sums).find_map(|line| {
                        let (sum, name) = line.split_at_checked(32)?;
                        let name = name.strip_prefix(b"  ")?;
                        names.iter().any(|known| &known[1..] == name).then_some(sum)
                    })?;
                    let sum = data_encoding::HEXLOWER_PERMISSIVE.decode(sum).ok()?;
                    Some(Noted::Md5(sum.try_into().ok()?))
                });
                Some(Claim {
                    package: package.to_owned(),
                    noted: noted.unwrap_or(Noted::Nothing),
                })
            })
            .collect()
    }

    /// Asks the system's `rpm`, if it is root's and nobody else may change it. It is given no
    /// environment, and reads its database alone.
    fn by_rpm(&self, path: &Path) -> Vec<Claim> {
        const FORMAT: &str = "[%{=NAME}\\t%{=FILEDIGESTALGO}\\t%{FILEDIGESTS}\\t%{FILENAMES}\\n]";
        let ours = |found: fs::Metadata| found.uid() == 0 && found.mode() & 0o022 == 0;
        if !fs::metadata(&self.rpm).is_ok_and(ours) {
            return Vec::new();
        }
        let child = Command::new(&self.rpm)
            .args(["-q", "--queryformat", FORMAT, "-f"])
            .arg(path)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            return Vec::new();
        };
        let mut answer = Vec::new();
        let read = child
            .stdout
            .take()
            .map(|out| out.take(MOST).read_to_end(&mut answer));
        let ended = child.wait();
        match (read, ended) {
            (Some(Ok(_)), Ok(status)) if status.success() => answered(&answer, path),
            _ => Vec::new(),
        }
    }
}

/// What `rpm` says of a path, among all files of the packages that have it.
fn answered(answer: &[u8], path: &Path) -> Vec<Claim> {
    let names = spellings(path);
    lines(answer)
        .filter_map(|line| {
            let mut fields = line.splitn(4, |byte| *byte == b'\t');
            let package = std::str::from_utf8(fields.next()?).ok()?.to_owned();
            let (algorithm, digest, name) = (fields.next()?, fields.next()?, fields.next()?);
            if !names.iter().any(|known| known == name) {
                return None;
            }
            let digest = data_encoding::HEXLOWER_PERMISSIVE.decode(digest).ok();
            // RFC 9580's numbers of hashes; none is said by packages of old, whose are MD5.
            let noted = match (algorithm, digest) {
                (b"8", Some(digest)) => {
                    let bytes: Option<[u8; 32]> = digest.try_into().ok();
                    bytes.map(|bytes| Noted::Sha256(bytes.into()))
                }
                (b"1" | b"(none)", Some(digest)) => digest.try_into().ok().map(Noted::Md5),
                _ => None,
            };
            Some(Claim {
                package,
                noted: noted.unwrap_or(Noted::Nothing),
            })
        })
        .collect()
}

/// The path, and the other one by which a package may name the same file.
fn spellings(path: &Path) -> Vec<Vec<u8>> {
    let path = path.as_os_str().as_bytes();
    let mut all = vec![path.to_vec()];
    let merged = |rest: &[u8]| {
        MERGED
            .iter()
            .any(|folder| rest.starts_with(folder.as_bytes()))
    };
    if let Some(rest) = path.strip_prefix(b"/usr/")
        && merged(rest)
    {
        all.push([b"/", rest].concat());
    } else if let Some(rest) = path.strip_prefix(b"/")
        && merged(rest)
    {
        all.push([b"/usr/", rest].concat());
    }
    all
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(MOST).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC_MD5: [u8; 16] = [
        0x90, 0x01, 0x50, 0x98, 0x3c, 0xd2, 0x4f, 0xb0, 0xd6, 0x96, 0x3f, 0x7d, 0x28, 0xe1, 0x7f,
        0x72,
    ];

    fn claims(packages: &Packages, path: &str) -> Vec<(String, Noted)> {
        let found = packages.claims(Path::new(path), |_| true);
        let mut found: Vec<_> = found
            .into_iter()
            .map(|claim| (claim.package, claim.noted))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    #[test]
    fn dpkg_knows_a_file_by_either_of_its_paths() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("write");
        };
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        write("a.list", "/.\n/bin\n/bin/one\n/usr/bin/two\n/etc/conf\n");
        write(
            "a.md5sums",
            &format!("{md5}  bin/one\n{md5}  usr/bin/two\nbad  x\n"),
        );
        write("b:amd64.list", "/usr/bin/two\n/usr/bin/two-more\n");
        write("b:amd64.md5sums", "0\n");
        write("c.list", "");
        let packages = Packages::at(folder.path(), "/no/rpm");
        let abc = Noted::Md5(ABC_MD5);
        let both = [("a".to_owned(), abc), ("b".to_owned(), Noted::Nothing)];
        for (path, expected) in [
            ("/usr/bin/one", &both[..1]),
            ("/bin/one", &both[..1]),
            ("/usr/bin/two", &both),
            ("/bin/two", &both),
            ("/usr/bin/tw", &[]),
            ("bin/one", &[]),
            ("/usr/local/bin/one", &[]),
            ("", &[]),
        ] {
            assert_eq!(claims(&packages, path), expected, "{path}");
        }
        let conf = [("a".to_owned(), Noted::Nothing)];
        assert_eq!(claims(&packages, "/etc/conf"), conf);
        let meant = packages.claims(Path::new("/bin/two"), |name| name == "b");
        assert_eq!(meant.len(), 1);
        assert_eq!(meant[0].package, "b");
    }

    #[test]
    fn what_rpm_answers_is_read_for_the_one_path() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let answer = format!(
            "coreutils\t8\t{abc}\t/usr/bin/cat\ncoreutils\t8\t\t/usr/share/doc\n\
             old\t(none)\t900150983cd24fb0d6963f7d28e17f72\t/bin/cat\n\
             new\t10\t{abc}{abc}\t/usr/bin/cat\nnoise\n"
        );
        let found = answered(answer.as_bytes(), Path::new("/usr/bin/cat"));
        let claim = |package: &str, noted| Claim {
            package: package.to_owned(),
            noted,
        };
        assert_eq!(
            found,
            [
                claim("coreutils", Noted::Sha256(Sha256::of(b"abc"))),
                claim("old", Noted::Md5(ABC_MD5)),
                claim("new", Noted::Nothing),
            ]
        );
    }

    #[test]
    fn a_program_that_is_not_roots_alone_is_not_asked() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("folder");
        let rpm = folder.path().join("rpm");
        let text = "#!/bin/sh\nprintf 'p\\t8\\t\\t/usr/bin/x\\n'\n";
        std::fs::write(&rpm, text).expect("write");
        let packages = Packages::at("/no/dpkg", &rpm);
        let mode = |mode| {
            std::fs::set_permissions(&rpm, PermissionsExt::from_mode(mode)).expect("mode");
        };
        mode(0o777);
        assert_eq!(claims(&packages, "/usr/bin/x"), []);
        if nix::unistd::geteuid().is_root() {
            mode(0o755);
            let expected = [("p".to_owned(), Noted::Nothing)];
            assert_eq!(claims(&packages, "/usr/bin/x"), expected);
        }
    }
}
