//! Files below a folder, and never outside of it: every path is resolved by the kernel beneath
//! the folder's descriptor, without links and without crossing into another file system
//! (openat2(2)).

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat, unlinkat},
    io::Errno,
};

/// A folder, open.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kind: FileType,
    /// Permissions and set-ID bits.
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) special: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u64),
    pub(super) ctime: (i64, u64),
}

impl From<Stat> for Found {
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the types of these fields differ between architectures"
    )]
    fn from(stat: Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode as u32 & 0o7777,
            size: stat.st_size as u64,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            special: stat.st_rdev as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

impl Found {
    pub(super) fn is_folder(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether it is the same object with the same content. A rename changes neither.
    pub(super) fn same(&self, other: &Self) -> bool {
        let what = |one: &Self| (one.device, one.inode, one.size, one.mtime, one.mode);
        what(self) == what(other)
    }
}

impl Tree {
    /// The folder at `path`, whose own links are followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root })
    }

    fn at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        loop {
            let opened = openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::empty(),
                ResolveFlags::BENEATH
                    | ResolveFlags::NO_MAGICLINKS
                    | ResolveFlags::NO_SYMLINKS
                    | ResolveFlags::NO_XDEV,
            );
            match opened {
                // A rename elsewhere came in between.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// A folder in it, to work in.
    pub(super) fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.at(path, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    /// The folder that holds `path`, and the name in it.
    pub(super) fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.folder(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// What is there, unless nothing is.
    pub(super) fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        match self.parent(path) {
            Ok((folder, name)) => look(&folder, name),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file's content. A pipe or device is never opened.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Where a link leads.
    pub(super) fn link(&self, path: &Path) -> io::Result<PathBuf> {
        let (folder, name) = self.parent(path)?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The names in a folder, in order.
    pub(super) fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let folder = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = names(folder)?;
        names.sort();
        Ok(names)
    }

    /// The value of an extended attribute, unless there is none. Of a link there is none.
    pub(super) fn attribute(&self, path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
        let object = match self.at(path, OFlags::PATH) {
            Ok(object) => object,
            Err(Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut value = vec![0; 256];
        match rustix::fs::getxattr(through(&object), name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            // Longer than any whose content matters.
            Err(Errno::RANGE) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            // Only who may read a file may read these of it.
            Err(Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the permissions of what is there, which is no link.
    pub(super) fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let object = self.at(path, OFlags::PATH)?;
        set_mode(&object, mode)
    }
}

/// The same object by a path, for calls that take no `O_PATH` descriptor.
fn through(object: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", object.as_raw_fd()).into()
}

fn set_mode(object: &OwnedFd, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(through(object), std::fs::Permissions::from_mode(mode))
}

/// What is in an open folder by that name, unless nothing is.
pub(super) fn look(folder: impl AsFd, name: &OsStr) -> io::Result<Option<Found>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a path cannot be there, as far as the error tells: a part of it is missing or is
/// no folder.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The names in an open folder.
fn names(folder: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Takes away `name` in `folder` with all that is in it, however deep, and whatever modes it
/// has; also when it is not there.
pub(super) fn remove(folder: &Path, name: &OsStr) -> io::Result<()> {
    remove_at(&Tree::open(folder)?.root, name)
}

/// The same in an open folder. A tree may be deeper than any path may be long: folders are
/// moved up before they are emptied, so none is ever deeper than two.
pub(super) fn remove_at(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match look(parent, name)? {
        None => return Ok(()),
        Some(found) if !found.is_folder() => return Ok(unlinkat(parent, name, AtFlags::empty())?),
        Some(_) => {}
    }
    let top = open_folder(parent, name)?;
    let mut number = 0u64;
    loop {
        let below = names(&top)?;
        if below.is_empty() {
            return Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?);
        }
        for one in below {
            if !look(&top, &one)?.is_some_and(|found| found.is_folder()) {
                unlinkat(&top, &one, AtFlags::empty())?;
                continue;
            }
            let folder = open_folder(&top, &one)?;
            for inner in names(&folder)? {
                if !look(&folder, &inner)?.is_some_and(|found| found.is_folder()) {
                    unlinkat(&folder, &inner, AtFlags::empty())?;
                    continue;
                }
                // A folder that is moved has its `..` written.
                open_folder(&folder, &inner)?;
                loop {
                    let free = OsString::from(number.to_string());
                    number += 1;
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(&folder, &inner, &top, &free, flags) {
                        Err(Errno::EXIST) => {}
                        moved => break moved?,
                    }
                }
            }
            unlinkat(&top, &one, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Opens a folder to be emptied, whatever its mode was.
fn open_folder(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    let mode = u32::from(rustix::fs::fstat(&found)?.st_mode as u16);
    if mode & 0o700 != 0o700 {
        set_mode(&found, 0o700)?;
    }
    Ok(rustix::fs::openat(
        &found,
        ".",
        flags | OFlags::RDONLY,
        Mode::empty(),
    )?)
}
