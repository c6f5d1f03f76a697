//! SHA-256 of an open file.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::statfs::fstatfs;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

use super::cache::{Cache, Moment, Version};

/// Bytes of the largest file that is hashed: a program is smaller, and who names a larger one
/// keeps nobody waiting.
pub const MAX_FILE: u64 = 1 << 30;
/// Digests that are remembered; about 120 bytes each.
const REMEMBERED: usize = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// fcntl(2); the libc crate lacks it. The same on every architecture that the product is built for.
const F_SETSIG: libc::c_int = 10;

static KNOWN: LazyLock<Mutex<Cache>> = LazyLock::new(|| Mutex::new(Cache::new(REMEMBERED)));

/// A SHA-256; 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl From<[u8; 32]> for Sha256 {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text that is no SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 hexadecimal digits")]
pub struct NoSha256;

impl FromStr for Sha256 {
    type Err = NoSha256;

    fn from_str(text: &str) -> Result<Self, NoSha256> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| NoSha256)?;
        bytes.try_into().map(Self).map_err(|_| NoSha256)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A digest, and the version of the file that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The digest.
    pub sha256: Sha256,
    /// Of this version.
    pub version: Version,
}

/// The digest of a regular file that is open for reading, at whatever offset. What is
/// remembered of the same version is not read again.
///
/// # Errors
/// Where it is no regular file, is larger than [`MAX_FILE`], cannot be read, or is changed
/// while it is read.
pub fn digest(file: &File) -> io::Result<Sha256> {
    Ok(measure(file)?.sha256)
}

/// [`digest`], with the version.
///
/// # Errors
/// As [`digest`].
pub fn measure(file: &File) -> io::Result<Measured> {
    measure_with(file, &KNOWN)
}

fn measure_with(file: &File, known: &Mutex<Cache>) -> io::Result<Measured> {
    let version = version(file)?;
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sha256) = known().get(&version) {
        return Ok(Measured { sha256, version });
    }
    // Whoever changes it from now on leaves a later ctime; what was changed before is read.
    let begun = now()?;
    let quiet = keeps_times(file) && has_no_writer(file);
    let sha256 = read_with(file, |_| ())?;
    if self::version(file)? != version {
        return Err(io::Error::other("the file was changed while it was read"));
    }
    if quiet {
        known().put(version, begun, sha256);
    }
    Ok(Measured { sha256, version })
}

/// The version of an open file that can be hashed.
fn version(file: &File) -> io::Result<Version> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > MAX_FILE {
        let text = format!("it is larger than {} MiB", MAX_FILE >> 20);
        return Err(io::Error::other(text));
    }
    Ok(Version::of(&metadata))
}

/// Reads a file from its beginning, and hands each piece on.
pub(super) fn read_with(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<Sha256> {
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        match file.read_at(&mut chunk, offset) {
            Ok(0) => return Ok(Sha256(hash.finalize().into())),
            // It grows as fast as it is read.
            Ok(_) if offset > MAX_FILE => {
                return Err(io::Error::other("the file was changed while it was read"));
            }
            Ok(length) => {
                hash.update(&chunk[..length]);
                each(&chunk[..length]);
                offset += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The clock of file systems, or one that is at most a tick ahead of it.
fn now() -> io::Result<Moment> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
    Ok(Moment {
        seconds: now.tv_sec(),
        nanos: now.tv_nsec(),
    })
}

/// File systems of this kernel's own that give every change its time, those through mappings
/// too. tmpfs does not (a page that was mapped by a read is written without a word), FUSE and network file systems say
/// what somebody else likes, and an overlay is as good as what lies below.
fn keeps_times(file: &File) -> bool {
    const SURE: [i64; 6] = [
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683E, // btrfs
        0xF2F5_2010, // F2FS
        0x7371_7368, // squashfs
        0xE0F5_E1E2, // EROFS
    ];
    fstatfs(file).is_ok_and(|found| SURE.contains(&found.filesystem_type().0))
}

/// Whether nobody has the file open for writing: whoever has may have it mapped, and writes to
/// a mapping that was written before change no time. A read lease is given exactly then
/// (fcntl(2), `F_SETLEASE`), to the owner of the file and to root.
fn has_no_writer(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // Who opens it for writing within this moment has the lease's holder told by SIGIO, which
    // would end it; SIGURG is ignored.
    // SAFETY: these commands take integers and touch no memory of ours.
    let given = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    if !given {
        return false;
    }
    // SAFETY: as above.
    let back = Errno::result(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) });
    back.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::time::Duration;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn cache() -> Mutex<Cache> {
        Mutex::new(Cache::new(8))
    }

    fn entries(cache: &Mutex<Cache>) -> usize {
        cache.lock().expect("cache").len()
    }

    /// A folder on a file system whose times are trusted, beside the build's other files.
    fn folder() -> tempfile::TempDir {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
        tempfile::tempdir_in(target).expect("folder")
    }

    #[test]
    fn digests_are_those_of_the_standard_whatever_the_offset() {
        let folder = folder();
        let path = folder.path().join("f");
        for (contents, expected) in [("", EMPTY), ("abc", ABC)] {
            std::fs::write(&path, contents).expect("write");
            let mut file = File::open(&path).expect("open");
            assert_eq!(digest(&file).expect("digest").to_string(), expected);
            std::io::Seek::seek(&mut file, io::SeekFrom::End(0)).expect("seek");
            assert_eq!(digest(&file).expect("digest").to_string(), expected);
        }
        let long: Vec<u8> = (0..CHUNK as u32 * 2 + 77).map(|n| n as u8).collect();
        std::fs::write(&path, &long).expect("write");
        let file = File::open(&path).expect("open");
        assert_eq!(digest(&file).expect("digest"), Sha256::of(&long));
    }

    #[test]
    fn text_is_sixty_four_digits() {
        let parsed: Sha256 = ABC.parse().expect("digest");
        assert_eq!(parsed, Sha256::of(b"abc"));
        assert_eq!(ABC.to_uppercase().parse(), Ok(parsed));
        let json = serde_json::to_string(&parsed).expect("json");
        assert_eq!(json, format!("\"{ABC}\""));
        assert_eq!(serde_json::from_str::<Sha256>(&json).ok(), Some(parsed));
        for text in [
            "",
            "ba",
            &ABC[1..],
            &format!("{ABC}0"),
            &ABC.replace('a', "g"),
        ] {
            assert_eq!(text.parse::<Sha256>(), Err(NoSha256), "{text}");
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let folder = folder();
        assert!(digest(&File::open(folder.path()).expect("open")).is_err());
        assert!(digest(&File::open("/dev/zero").expect("open")).is_err());
        let file = File::create(folder.path().join("sparse")).expect("create");
        file.set_len(MAX_FILE + 1).expect("length");
        let file = File::open(folder.path().join("sparse")).expect("open");
        assert!(
            digest(&file)
                .expect_err("large")
                .to_string()
                .contains("larger")
        );
    }

    #[test]
    fn a_file_that_is_rewritten_within_the_same_tick_is_hashed_anew() {
        let folder = folder();
        let path = folder.path().join("f");
        let known = cache();
        let mut same_times = 0;
        for round in 0..200_u32 {
            std::fs::write(&path, format!("one {round:04}")).expect("write");
            let file = File::open(&path).expect("open");
            let first = measure_with(&file, &known).expect("digest");
            std::fs::write(&path, format!("two {round:04}")).expect("write");
            let second = measure_with(&File::open(&path).expect("open"), &known).expect("digest");
            same_times += u32::from(first.version.ctime == second.version.ctime);
            assert_eq!(
                second.sha256,
                Sha256::of(format!("two {round:04}").as_bytes()),
                "round {round}"
            );
        }
        // Kernels from 6.13 on give finer times once somebody has looked, so it may be none.
        eprintln!("{same_times} of 200 rewrites left the ctime as it was");
    }

    #[test]
    fn a_settled_file_is_read_once_and_a_change_is_seen() {
        let folder = folder();
        let path = folder.path().join("f");
        std::fs::write(&path, "abc").expect("write");
        let file = File::open(&path).expect("open");
        let known = cache();
        std::thread::sleep(Duration::from_millis(50));
        let first = measure_with(&file, &known).expect("digest");
        let trusted = keeps_times(&file);
        assert_eq!(entries(&known), usize::from(trusted));
        if trusted {
            // Something that no file holds, so that it can only come from memory.
            let told = Sha256::of(b"told");
            let later = Moment {
                seconds: i64::MAX / 2,
                nanos: 0,
            };
            assert!(known.lock().expect("cache").put(first.version, later, told));
            assert_eq!(measure_with(&file, &known).expect("digest").sha256, told);
        }
        // Same length, and the old mtime again.
        let before = file.metadata().expect("metadata").modified().expect("time");
        let writer = File::options().write(true).open(&path).expect("open");
        writer.write_all_at(b"abd", 0).expect("write");
        writer.set_modified(before).expect("time");
        drop(writer);
        let changed = measure_with(&file, &known).expect("digest");
        assert_eq!(changed.sha256, Sha256::of(b"abd"));
    }

    #[test]
    fn what_somebody_has_open_for_writing_is_not_remembered() {
        let folder = folder();
        let path = folder.path().join("f");
        let mut writer = File::create(&path).expect("create");
        writer.write_all(b"abc").expect("write");
        std::thread::sleep(Duration::from_millis(50));
        let known = cache();
        let file = File::open(&path).expect("open");
        measure_with(&file, &known).expect("digest");
        assert_eq!(entries(&known), 0);
        drop(writer);
        measure_with(&file, &known).expect("digest");
        assert_eq!(entries(&known), usize::from(keeps_times(&file)));
    }

    #[test]
    fn a_file_in_memory_is_never_remembered() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let path = folder.path().join("f");
        std::fs::write(&path, "abc").expect("write");
        std::thread::sleep(Duration::from_millis(50));
        let known = cache();
        measure_with(&File::open(&path).expect("open"), &known).expect("digest");
        assert_eq!(entries(&known), 0);
    }
}
