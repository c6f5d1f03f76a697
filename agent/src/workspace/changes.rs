//! What an overlay's upper layer says that its program changed.
//!
//! The layer is one of a mount with `userxattr`: redirects and metadata-only copies are off
//! there, so each changed object is in it whole (overlayfs in the kernel's documentation).
//! What was deleted is a whiteout: a device 0:0, or an empty file with
//! `user.overlay.whiteout`. A folder with `user.overlay.opaque` hides the project's.
//!
//! The project is compared as it is now, and not as it was: what is the same already, because
//! it was only touched or taken over before, is no change.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::FileType;
use serde::Serialize;

use super::{
    Workspace,
    tree::{Found, Tree, is_missing},
};
use crate::policy::autorun::{self, InRepository};

/// The kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Special,
}

/// An object on one of the two sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-ID bits.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lossy")]
    pub target: Option<PathBuf>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The project has nothing there.
    Added,
    /// Another content, target or kind.
    Changed,
    /// Only other permissions.
    Mode,
    /// It is gone, with all that is in it.
    Removed,
}

/// What happened to it in the project since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// It, or something in it, was changed or came to be.
    Changed,
    /// It was taken away.
    Removed,
}

/// One change.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Where, relative to the project.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// What.
    pub what: What,
    /// What the project has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Thing>,
    /// What the workspace has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Thing>,
    /// How many objects are in a folder that the project has and the workspace has not.
    #[serde(skip_serializing_if = "is_zero")]
    pub inside: u64,
    /// What happened to it meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// What runs it by itself outside ([`autorun`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<&'static str>,
    /// A link that leads out of the project.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leads_out: bool,
    /// What the project has, to be known again.
    #[serde(skip)]
    pub(super) found: Option<Found>,
}

/// A part that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// Where, relative to the project.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

fn lossy_path<S: serde::Serializer>(path: &Path, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&path.to_string_lossy())
}

fn lossy<S: serde::Serializer>(path: &Option<PathBuf>, out: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy_path(path, out),
        None => out.serialize_none(),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A workspace beside its project, open for reading.
#[derive(Debug)]
pub struct View {
    pub(super) id: String,
    pub(super) upper: Tree,
    pub(super) lower: Tree,
    started: Timestamp,
    /// Sorted by path: what holds a thing comes before it.
    pub changes: Vec<Change>,
    /// What is not among them.
    pub unread: Vec<Unread>,
    /// Every folder of the upper layer.
    pub(super) folders: Vec<PathBuf>,
}

impl View {
    /// Reads it.
    ///
    /// # Errors
    /// When one of the two folders cannot be opened, or the project is another folder now.
    pub fn open(workspace: &Workspace) -> io::Result<Self> {
        let meta = &workspace.meta;
        let found = fs::metadata(&meta.project)?;
        if (found.dev(), found.ino()) != (meta.device, meta.inode) {
            return Err(io::Error::other(
                "the project is not the folder that the run began in: it was moved or made anew",
            ));
        }
        let mut view = Self {
            id: workspace.id.clone(),
            upper: Tree::open(&workspace.upper())?,
            lower: Tree::open(&meta.project)?,
            started: meta.started,
            changes: Vec::new(),
            unread: Vec::new(),
            folders: Vec::new(),
        };
        view.read();
        Ok(view)
    }

    fn read(&mut self) {
        let mut folders = vec![Folder::default()];
        while let Some(folder) = folders.pop() {
            if let Err(error) = self.read_folder(&folder, &mut folders) {
                self.cannot_read(folder.path.clone(), &error);
            }
            self.folders.push(folder.path);
        }
        self.changes.sort_by(|a, b| a.path.cmp(&b.path));
        self.unread.sort_by(|a, b| a.path.cmp(&b.path));
    }

    fn cannot_read(&mut self, path: PathBuf, error: &io::Error) {
        let why = error.to_string();
        self.unread.push(Unread { path, why });
    }

    fn read_folder(&mut self, folder: &Folder, folders: &mut Vec<Folder>) -> io::Result<()> {
        let path = &folder.path;
        let opaque = self.upper.attribute(path, "user.overlay.opaque")?;
        let hides = folder.hides || opaque.is_some_and(|value| value == b"y");
        let names = self.upper.names(path)?;
        let in_repository = match self.is_repository(path) {
            true => folder.in_repository.and_top(),
            false => folder.in_repository,
        };
        let enter = |name: &OsString| Folder {
            path: path.join(name),
            hides,
            in_repository: in_repository.enter(&name.to_string_lossy()),
        };
        for name in &names {
            let one = enter(name);
            match self.read_one(&one) {
                Ok(true) => folders.push(one),
                Ok(false) => {}
                Err(error) => self.cannot_read(one.path, &error),
            }
        }
        if hides {
            let in_project = match self.lower.names(path) {
                Err(error) if is_missing(&error) => Vec::new(),
                names => names?,
            };
            let kept: BTreeSet<_> = names.into_iter().collect();
            for name in in_project.iter().filter(|name| !kept.contains(*name)) {
                let one = enter(name);
                if let Err(error) = self.removed(&one) {
                    self.cannot_read(one.path, &error);
                }
            }
        }
        Ok(())
    }

    /// One object of the upper layer; whether it is a folder to be read.
    fn read_one(&mut self, one: &Folder) -> io::Result<bool> {
        let path = &one.path;
        let Some(new) = self.upper.look(path)? else {
            return Ok(false);
        };
        if self.is_whiteout(path, &new)? {
            self.removed(one)?;
            return Ok(false);
        }
        let mut refused = ["user.overlay.redirect", "user.overlay.metacopy"].into_iter();
        if matches!(new.kind, FileType::RegularFile | FileType::Directory)
            && refused.any(|name| !matches!(self.upper.attribute(path, name), Ok(None)))
        {
            return Err(io::Error::other(
                "it is only a reference to another object, which no mount of Exeat's makes",
            ));
        }
        let found = self.lower.look(path)?;
        let after = thing(&self.upper, path, &new)?;
        let before = found
            .as_ref()
            .map(|found| thing(&self.lower, path, found))
            .transpose()?;
        let what = match &before {
            None => Some(What::Added),
            Some(before) => self.compare(path, before, &after)?,
        };
        let is_folder = after.kind == Kind::Folder;
        let Some(what) = what else {
            return Ok(is_folder);
        };
        let (mut inside, mut since) = (0, None);
        match &found {
            // Folders that were one and stay one are judged by what is in them.
            Some(found) if !(found.is_folder() && is_folder) => {
                let (count, changed) = self.inside(path, found)?;
                inside = count;
                since = changed.then_some(Since::Changed);
            }
            Some(_) => {}
            // What overlayfs copied up was there when the run began.
            None => {
                let origin = after.kind == Kind::File
                    && self.upper.attribute(path, "user.overlay.origin")?.is_some();
                since = origin.then_some(Since::Removed);
            }
        }
        let target = after.target.as_deref();
        let leads_out = target.is_some_and(|target| leads_out(path, target));
        self.changes.push(Change {
            path: path.to_owned(),
            what,
            inside,
            since,
            runs: one.runs(before.as_ref(), Some(&after)),
            before,
            after: Some(after),
            leads_out,
            found,
        });
        Ok(is_folder)
    }

    fn is_whiteout(&self, path: &Path, found: &Found) -> io::Result<bool> {
        Ok(match found.kind {
            FileType::CharacterDevice => found.special == 0,
            FileType::RegularFile if found.size == 0 => {
                let mark = self.upper.attribute(path, "user.overlay.whiteout")?;
                mark.is_some()
            }
            _ => false,
        })
    }

    fn removed(&mut self, one: &Folder) -> io::Result<()> {
        let path = &one.path;
        let Some(found) = self.lower.look(path)? else {
            return Ok(());
        };
        let (inside, changed) = self.inside(path, &found)?;
        let before = thing(&self.lower, path, &found)?;
        self.changes.push(Change {
            path: path.to_owned(),
            what: What::Removed,
            inside,
            since: changed.then_some(Since::Changed),
            runs: one.runs(Some(&before), None),
            before: Some(before),
            after: None,
            leads_out: false,
            found: Some(found),
        });
        Ok(())
    }

    fn compare(&self, path: &Path, before: &Thing, after: &Thing) -> io::Result<Option<What>> {
        if before.kind != after.kind {
            return Ok(Some(What::Changed));
        }
        let same = match after.kind {
            Kind::Folder => true,
            Kind::Link => return Ok((before.target != after.target).then_some(What::Changed)),
            Kind::File => before.size == after.size && self.same_content(path)?,
            Kind::Special => false,
        };
        // Set-ID bits are never taken over, and what lacks only these is taken over already.
        let bits = |mode: u32| mode & 0o1777;
        Ok(match same {
            false => Some(What::Changed),
            true => (bits(before.mode) != bits(after.mode)).then_some(What::Mode),
        })
    }

    fn same_content(&self, path: &Path) -> io::Result<bool> {
        let mut files = [self.lower.file(path)?, self.upper.file(path)?];
        let mut buffers = [vec![0; 65_536], vec![0; 65_536]];
        loop {
            let mut lengths = [0; 2];
            for ((file, buffer), length) in files.iter_mut().zip(&mut buffers).zip(&mut lengths) {
                while *length < buffer.len() {
                    match file.read(&mut buffer[*length..]) {
                        Ok(0) => break,
                        Ok(more) => *length += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            let [a, b] = lengths;
            if a != b || buffers[0][..a] != buffers[1][..b] {
                return Ok(false);
            }
            if a == 0 {
                return Ok(true);
            }
        }
    }

    /// How many objects are in one of the project's, and whether it or any of them was
    /// changed since the run began.
    fn inside(&self, path: &Path, found: &Found) -> io::Result<(u64, bool)> {
        let (count, changed) = self.inside_folder(path, found)?;
        Ok((count, changed || self.is_younger(found)))
    }

    /// The same, without the object itself.
    pub(super) fn inside_folder(&self, path: &Path, found: &Found) -> io::Result<(u64, bool)> {
        let (mut count, mut changed) = (0, false);
        let mut folders = match found.is_folder() {
            true => vec![path.to_owned()],
            false => Vec::new(),
        };
        while let Some(folder) = folders.pop() {
            for name in self.lower.names(&folder)? {
                let path = folder.join(name);
                let Some(found) = self.lower.look(&path)? else {
                    continue;
                };
                count += 1;
                changed |= self.is_younger(&found);
                if found.is_folder() {
                    folders.push(path);
                }
            }
        }
        Ok((count, changed))
    }

    /// Whether it was changed in any way since the run began. A ctime cannot be set back; an
    /// equal one is of the same tick, before or after.
    fn is_younger(&self, found: &Found) -> bool {
        let (seconds, nanoseconds) = found.ctime;
        let latest = match nanoseconds {
            // A file system that counts in seconds, or in two.
            0 => (seconds.saturating_add(2), 0),
            _ => (seconds, nanoseconds),
        };
        let started = self.started.as_nanosecond();
        i128::from(latest.0) * 1_000_000_000 + i128::from(latest.1) >= started
    }

    /// Whether the merged folder is one that Git takes for a repository.
    fn is_repository(&self, folder: &Path) -> bool {
        ["HEAD", "objects", "refs"].iter().all(|name| {
            let path = folder.join(name);
            let there = |tree: &Tree| !matches!(tree.look(&path), Ok(None));
            there(&self.upper) || there(&self.lower)
        })
    }
}

/// A place in the upper layer.
#[derive(Clone, Debug, Default)]
struct Folder {
    path: PathBuf,
    /// It hides the project's folder at its place.
    hides: bool,
    in_repository: InRepository,
}

impl Folder {
    /// See [`Change::runs`].
    fn runs(&self, before: Option<&Thing>, after: Option<&Thing>) -> Option<&'static str> {
        let is_dot_git = self
            .path
            .file_name()
            .is_some_and(|name| name.eq_ignore_ascii_case(".git"));
        let is_folder = after.is_some_and(|after| after.kind == Kind::Folder);
        match self.in_repository.runs {
            true => Some("Git"),
            // As a new folder it is a repository like any other, judged by what is in it.
            false if is_dot_git && is_folder && before.is_none() => None,
            false => autorun::by(&self.path),
        }
    }
}

fn thing(tree: &Tree, path: &Path, found: &Found) -> io::Result<Thing> {
    let kind = match found.kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Special,
    };
    Ok(Thing {
        kind,
        mode: found.mode,
        size: if kind == Kind::File { found.size } else { 0 },
        target: match kind {
            Kind::Link => Some(tree.link(path)?),
            _ => None,
        },
    })
}

/// Whether a link at `path` of a project leads out of it, as far as its words say.
fn leads_out(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return true,
            },
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod leads {
    use super::*;

    #[test]
    fn out_is_by_the_root_or_by_too_many_steps_up() {
        for (path, target, out) in [
            ("a", "b", false),
            ("a", "..", true),
            ("d/a", "..", false),
            ("d/a", "../x/../..", true),
            ("d/a", "../../x", true),
            ("d/e/a", "../../x", false),
            ("a", "/etc/passwd", true),
            ("a", "./b/../c", false),
        ] {
            assert_eq!(
                leads_out(Path::new(path), Path::new(target)),
                out,
                "{path} → {target}"
            );
        }
    }
}
