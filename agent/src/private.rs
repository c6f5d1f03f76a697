//! Files with secrets.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The most bytes of such a file.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads a file that nobody but its owner can open, and nobody but root and this user owns.
///
/// # Errors
/// In words, and of [`io::ErrorKind::InvalidInput`] when the file is there and others could
/// have read or written it.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let odd = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return odd("it is no file");
    }
    if meta.mode() & 0o077 != 0 {
        return odd("others than its owner can open it: chmod 600");
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return odd("it belongs to another user");
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file whole or not at all. It has its mode before it has a byte.
pub(crate) fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(beside)?;
    // Whatever the umask leaves of it.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    match path.parent() {
        // A name alone has a parent without a name.
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
