//! Whether a file is one that a policy identifies.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use minisign_verify::{PublicKey, Signature, StreamVerifier};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::fstatfs;
use serde::{Deserialize, Serialize};

use super::digest::{Measured, Sha256, measure, read_with};
use super::package::{Claim, Noted, Packages};
use crate::policy::Identity;

/// What the signature of a file is called, after the file's own name.
pub const SIGNATURE: &str = ".minisig";
/// Bytes of the largest signature.
const MAX_SIGNATURE: u64 = 64 << 10;

/// A program that was found to be what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Where it was.
    pub path: PathBuf,
    /// What it held.
    pub sha256: Sha256,
    /// What it was accepted by: `sha256`, `package NAME`, `minisign KEY`.
    pub by: Vec<String>,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, by) = (self.path.display(), self.by.join(", "));
        write!(f, "{path} (SHA-256 {}, by {by})", self.sha256)
    }
}

/// A program that is not what it should be, or cannot be shown to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it was.
    pub path: PathBuf,
    /// What it held, where that could be read.
    pub sha256: Option<Sha256>,
    /// Why.
    pub why: Vec<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(sha256) = self.sha256 {
            write!(f, " (SHA-256 {sha256})")?;
        }
        write!(f, " is no program that the policy identifies: ")?;
        f.write_str(&self.why.join("; "))
    }
}

/// What became of a judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be started.
    Accepted(Judged),
    /// It may not.
    Refused(Refused),
}

/// Judges an open file that is at `path` (absolute, without links) below the folder `root`:
/// `/`, or `/proc/PID/root` for what a process sees. It is read and never executed; its
/// signature is looked for beside it. Where the policy identifies nothing every file that can
/// be read is accepted, by nothing. It blocks for as long as the reading takes.
pub fn judge(identity: &Identity, file: &File, path: &Path, root: &Path) -> Verdict {
    judge_with(identity, file, path, root, &Packages::default())
}

/// [`judge`], with other notes of packages.
pub fn judge_with(
    identity: &Identity,
    file: &File,
    path: &Path,
    root: &Path,
    packages: &Packages,
) -> Verdict {
    let refused = |sha256, why| {
        Verdict::Refused(Refused {
            path: path.to_owned(),
            sha256,
            why,
        })
    };
    let measured = match measure(file) {
        Ok(measured) => measured,
        Err(error) => return refused(None, vec![format!("it cannot be read ({error})")]),
    };
    let sha256 = measured.sha256;
    if identity.says_something() && is_fuse(file) {
        let why = "it lies on a FUSE file system, where a program says what it holds each time it is read";
        return refused(Some(sha256), vec![why.to_owned()]);
    }
    let mut by = Vec::new();
    let mut why = Vec::new();
    let mut asked = 0;
    let enough = |by: &Vec<String>| !identity.all && !by.is_empty();
    let mut hear = |answer: Result<String, String>, by: &mut Vec<String>| {
        asked += 1;
        match answer {
            Ok(reason) => by.push(reason),
            Err(reason) => why.push(reason),
        }
    };
    if !identity.sha256.is_empty() {
        let answer = match identity.sha256.contains(&sha256) {
            true => Ok("sha256".to_owned()),
            false => Err("its SHA-256 is not listed".to_owned()),
        };
        hear(answer, &mut by);
    }
    if !identity.package.is_empty() && !enough(&by) {
        let claims = packages.claims(path, |name| identity.means_package(name));
        let answer = match unchanged(&claims, file, &measured) {
            Ok(Some(package)) => Ok(format!("package {package}")),
            Ok(None) if claims.is_empty() => {
                Err("no package that is named has a file of this path".to_owned())
            }
            Ok(None) => {
                let names: Vec<&str> = claims.iter().map(|claim| &*claim.package).collect();
                let names = names.join(", ");
                Err(format!("it is not as package {names} has noted it"))
            }
            Err(error) => Err(format!("it cannot be read ({error})")),
        };
        hear(answer, &mut by);
    }
    if !identity.minisign.is_empty() && !enough(&by) {
        let answer = signed(identity, file, path, root, &measured);
        hear(answer.map(|key| format!("minisign {key}")), &mut by);
    }
    if asked == 0 || enough(&by) || (identity.all && why.is_empty()) {
        let path = path.to_owned();
        return Verdict::Accepted(Judged { path, sha256, by });
    }
    refused(Some(sha256), why)
}

/// The package whose file this is, unchanged; and those that have a file of the path and noted
/// something else of it, or nothing.
///
/// # Errors
/// Where it cannot be read again as it was measured.
pub fn owner(
    file: &File,
    path: &Path,
    measured: &Measured,
    packages: &Packages,
) -> io::Result<(Option<String>, Vec<String>)> {
    let claims = packages.claims(path, |_| true);
    let owner = unchanged(&claims, file, measured)?;
    let others = match owner {
        Some(_) => Vec::new(),
        None => claims.into_iter().map(|claim| claim.package).collect(),
    };
    Ok((owner, others))
}

fn is_fuse(file: &File) -> bool {
    /// `FUSE_SUPER_MAGIC` of the kernel.
    const FUSE: i64 = 0x6573_5546;
    fstatfs(file).is_ok_and(|found| found.filesystem_type().0 == FUSE)
}

/// The package whose file this is, unchanged.
fn unchanged(claims: &[Claim], file: &File, measured: &Measured) -> io::Result<Option<String>> {
    let by_sha256 = |claim: &&Claim| claim.noted == Noted::Sha256(measured.sha256);
    if let Some(claim) = claims.iter().find(by_sha256) {
        return Ok(Some(claim.package.clone()));
    }
    if !claims
        .iter()
        .any(|claim| matches!(claim.noted, Noted::Md5(_)))
    {
        return Ok(None);
    }
    let mut md5 = Md5::new();
    again(file, measured, |chunk| md5.update(chunk))?;
    let noted = Noted::Md5(md5.finalize().into());
    let claim = claims.iter().find(|claim| claim.noted == noted);
    Ok(claim.map(|claim| claim.package.clone()))
}

/// The key of the policy that has signed the file.
fn signed(
    identity: &Identity,
    file: &File,
    path: &Path,
    root: &Path,
    measured: &Measured,
) -> Result<String, String> {
    let text = signature(path, root).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("it has no signature beside it ({SIGNATURE})"),
        _ => format!("its signature cannot be read ({error})"),
    })?;
    let signature =
        Signature::decode(&text).map_err(|_| "its signature is none of minisign".to_owned())?;
    let keys: Vec<(&String, PublicKey)> = identity
        .minisign
        .iter()
        .filter_map(|text| Some((text, PublicKey::from_base64(text).ok()?)))
        .collect();
    let mut verifiers: Vec<(&String, StreamVerifier<'_>)> = keys
        .iter()
        .filter_map(|(text, key)| Some((*text, key.verify_stream(&signature).ok()?)))
        .collect();
    if verifiers.is_empty() {
        return Err(
            "its signature is by another key, or of the old kind that is not over a hash"
                .to_owned(),
        );
    }
    again(file, measured, |chunk| {
        for (_, verifier) in &mut verifiers {
            verifier.update(chunk);
        }
    })
    .map_err(|error| format!("it cannot be read ({error})"))?;
    verifiers
        .iter_mut()
        .find_map(|(text, verifier)| verifier.finalize().ok().map(|()| (*text).clone()))
        .ok_or_else(|| "its signature does not fit what it holds".to_owned())
}

/// Reads the file once more; an error where it is not what was measured, so that everything
/// that is said of a file is said of the same bytes.
fn again(file: &File, measured: &Measured, each: impl FnMut(&[u8])) -> io::Result<()> {
    match read_with(file, each)? == measured.sha256 {
        true => Ok(()),
        false => Err(io::Error::other("the file was changed while it was read")),
    }
}

/// The signature beside a file. No link leads out of `root`.
fn signature(path: &Path, root: &Path) -> io::Result<String> {
    let mut name = path.as_os_str().to_owned();
    name.push(SIGNATURE);
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, Path::new(&name), how)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_SIGNATURE {
        return Err(io::Error::other("it is no small file"));
    }
    let mut text = String::new();
    file.take(MAX_SIGNATURE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Made once by `minisign`'s format with a key that was thrown away.
    pub(crate) const KEY: &str = "RWRleGVhdGtlecc4wvV+tu6yfYlkG0KCOcoZnlLAivsVCMwcorvy8dkU";
    pub(crate) const OTHER_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    pub(crate) const SIGNED: &str = "#!/bin/sh\necho signed\n";
    pub(crate) const SIGNATURE_OF_IT: &str = "untrusted comment: a test\nRURleGVhdGtleeXmuX6v5W9ujc5wW8PWFbWqAfxmaFPEODkVF5aXpNjbYxFy/12Ad8mdmrOTBnjjf2IO9Mh+9MXl0C51dH8IeAY=\ntrusted comment: file:signed hashed\nqr0iLMY4BI1uSUZnnPDGOSwZSmu3sNyrCqvUBKRnDt8g8luUZO9LT833aCe3LXvWkpakg+OswCp9HfRob6nWDg==\n";

    struct Scene {
        folder: tempfile::TempDir,
        packages: Packages,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let notes = folder.path().join("info");
            std::fs::create_dir(&notes).expect("folder");
            let packages = Packages::at(&notes, "/no/rpm");
            let scene = Self { folder, packages };
            scene.write("f", SIGNED);
            let path = scene.path("f");
            let path = path.to_str().expect("text");
            let sum = data_encoding::HEXLOWER.encode(&Md5::digest(SIGNED));
            scene.write("info/tool.list", &format!("{path}\n"));
            scene.write("info/tool.md5sums", &format!("{sum}  {}\n", &path[1..]));
            scene.write("info/other.list", "/x\n");
            scene
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).expect("write");
        }

        fn judge(&self, identity: &Identity) -> Result<Vec<String>, String> {
            let file = File::open(self.path("f")).expect("open");
            let root = Path::new("/");
            match judge_with(identity, &file, &self.path("f"), root, &self.packages) {
                Verdict::Accepted(judged) => Ok(judged.by),
                Verdict::Refused(refused) => Err(refused.to_string()),
            }
        }
    }

    fn set(text: &str) -> BTreeSet<String> {
        [text.to_owned()].into()
    }

    fn by_sha256(contents: &str) -> Identity {
        Identity {
            sha256: [Sha256::of(contents.as_bytes())].into(),
            ..Identity::default()
        }
    }

    fn by_package(name: &str) -> Identity {
        Identity {
            package: set(name),
            ..Identity::default()
        }
    }

    fn by_key(key: &str) -> Identity {
        Identity {
            minisign: set(key),
            ..Identity::default()
        }
    }

    #[track_caller]
    fn refused(judged: Result<Vec<String>, String>, why: &str) {
        let text = judged.expect_err(why);
        assert!(text.contains(why), "{text}");
    }

    #[test]
    fn a_digest_is_enough_and_another_is_not() {
        let scene = Scene::new();
        assert_eq!(scene.judge(&by_sha256(SIGNED)), Ok(vec!["sha256".into()]));
        refused(scene.judge(&by_sha256("x")), "SHA-256 is not listed");
        assert_eq!(scene.judge(&Identity::default()), Ok(vec![]));
    }

    #[test]
    fn a_packages_file_is_accepted_unless_it_was_changed() {
        let scene = Scene::new();
        for name in ["tool", "t*l"] {
            let by = vec!["package tool".to_owned()];
            assert_eq!(scene.judge(&by_package(name)), Ok(by));
        }
        refused(
            scene.judge(&by_package("other")),
            "no package that is named",
        );
        scene.write("f", &format!("{SIGNED} "));
        refused(
            scene.judge(&by_package("tool")),
            "not as package tool has noted",
        );
    }

    #[test]
    fn a_signature_is_of_the_key_and_of_what_the_file_holds() {
        let scene = Scene::new();
        refused(scene.judge(&by_key(KEY)), "no signature beside it");
        scene.write("f.minisig", "nonsense");
        refused(scene.judge(&by_key(KEY)), "none of minisign");
        scene.write("f.minisig", SIGNATURE_OF_IT);
        assert_eq!(
            scene.judge(&by_key(KEY)),
            Ok(vec![format!("minisign {KEY}")])
        );
        refused(scene.judge(&by_key(OTHER_KEY)), "by another key");
        scene.write("f", &SIGNED.replace("echo", "ECHO"));
        refused(scene.judge(&by_key(KEY)), "does not fit");
    }

    #[test]
    fn a_signature_that_leads_elsewhere_is_not_waited_for() {
        let scene = Scene::new();
        std::os::unix::fs::symlink("/dev/zero", scene.path("f.minisig")).expect("link");
        refused(scene.judge(&by_key(KEY)), "no small file");
        std::fs::remove_file(scene.path("f.minisig")).expect("remove");
        let fifo = scene.path("f.minisig");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        refused(scene.judge(&by_key(KEY)), "no small file");
    }

    #[test]
    fn one_kind_is_enough_unless_all_are_asked() {
        let scene = Scene::new();
        let mut identity = Identity {
            package: set("tool"),
            minisign: set(KEY),
            ..by_sha256("x")
        };
        assert!(scene.judge(&identity).is_ok());
        identity.all = true;
        refused(scene.judge(&identity), "SHA-256 is not listed");
        identity.sha256 = by_sha256(SIGNED).sha256;
        refused(scene.judge(&identity), "no signature beside it");
        scene.write("f.minisig", SIGNATURE_OF_IT);
        assert_eq!(scene.judge(&identity).expect("all").len(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let folder = File::open("/").expect("open");
        let verdict = judge(&by_sha256("x"), &folder, Path::new("/"), Path::new("/"));
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    }
}
