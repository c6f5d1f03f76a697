//! Taking changes over into the project, as its user, outside of the sandbox.
//!
//! Nothing is lost, whenever it is broken off: new files are written beside the old ones and
//! reach the disk before any of them takes its place, each takes it in one rename, and the
//! workspace stays until all of that has reached the disk. Applied again it goes on, because
//! what is the same already is no change.
//!
//! What the project had is taken away only when it is seen, after the rename, to be what was
//! looked at before; else it is put back.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat, renameat_with, symlinkat,
        unlinkat,
    },
    io::Errno,
};
use serde::Serialize;

use super::{
    changes::{Change, Kind, Since, View, What},
    tree::{Found, look, remove_at},
};
use crate::policy::autorun;

/// What names of files on their way begin with.
const OWN: &str = ".exeat-apply-";

/// What is taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only these, and what is in them; everything if there are none.
    pub paths: Vec<PathBuf>,
    /// Also what was changed in the project meanwhile.
    pub force: bool,
}

/// Why a change is not taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum Held {
    /// It was not asked for.
    NotNamed,
    /// The project has something else there than when the run began.
    Conflict(Since),
    /// It would run by itself: what would run it.
    Runs(&'static str),
    /// A link out of the project.
    LeadsOut,
    /// It never is: a device, a pipe, a socket, or a name of ours.
    Never,
    /// It failed.
    Failed(String),
}

/// What became of the changes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Taken over.
    pub taken: Vec<Taken>,
    /// Left in the workspace.
    pub held: Vec<Left>,
}

/// A change that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Where, relative to the project.
    pub path: String,
    /// It lost its set-ID bits on the way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub set_id_lost: bool,
}

/// A change that was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Where, relative to the project.
    pub path: String,
    /// Why.
    pub held: Held,
}

impl Choice {
    /// Why this change is not among what is chosen, if it is not.
    pub fn holds(&self, change: &Change) -> Option<Held> {
        let path = &change.path;
        let chosen = self.paths.is_empty() || self.paths.iter().any(|one| path.starts_with(one));
        if !chosen {
            return Some(Held::NotNamed);
        }
        let special = change
            .after
            .as_ref()
            .is_some_and(|t| t.kind == Kind::Special);
        let own = |part: &OsStr| part.as_encoded_bytes().starts_with(OWN.as_bytes());
        if special || path.iter().any(own) {
            return Some(Held::Never);
        }
        // By its own name, or by that of a folder whose every file runs; not all of `.git` do.
        let all_run = |folder: &Path| !folder.ends_with(".git") && autorun::by(folder).is_some();
        let named = |one: &PathBuf| path == one || (path.starts_with(one) && all_run(one));
        let named = self.paths.iter().any(named);
        match change.runs {
            Some(by) if !named => return Some(Held::Runs(by)),
            _ if change.leads_out && !named => return Some(Held::LeadsOut),
            _ => {}
        }
        change.since.filter(|_| !self.force).map(Held::Conflict)
    }
}

impl View {
    /// Takes over what is chosen.
    ///
    /// # Errors
    /// When the disk does not take what was written: then nothing, or a part, was taken over,
    /// and the workspace still has all of it.
    pub fn apply(&self, choice: &Choice) -> io::Result<Outcome> {
        self.clear()?;
        let mut outcome = Outcome::default();
        let (mut files, mut removals, mut folders) = (Vec::new(), Vec::new(), Vec::new());
        for (number, change) in self.changes.iter().enumerate() {
            let part = match choice.holds(change) {
                Some(held) => Err(held),
                None => self.first_part(change, number).map_err(failed),
            };
            match part {
                Err(held) => outcome.held.push(left(change, held)),
                Ok(Part::Folder) => folders.push(change),
                Ok(Part::Placed(file)) => files.push((change, file)),
                Ok(Part::Removal) => removals.push((change, number)),
                Ok(Part::Done) => outcome.taken.push(taken(change)),
            }
        }
        if let Err(error) = self.sync() {
            self.clear()?;
            return Err(error);
        }
        for (change, file) in files {
            let done = self.place(change, &file);
            outcome.note(change, done);
        }
        for (change, number) in removals {
            let done = self.take_away(change, number);
            outcome.note(change, done);
        }
        // Only now: a folder may be one that its user may not write in.
        for change in folders.into_iter().rev() {
            let mode = change
                .after
                .as_ref()
                .map_or(0o700, |after| after.mode & 0o1777);
            outcome.note(change, self.lower.set_mode(&change.path, mode));
        }
        self.sync()?;
        outcome.taken.sort_by(|a, b| a.path.cmp(&b.path));
        outcome.held.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(outcome)
    }

    /// What can be done before anything of the project is touched but for its folders.
    fn first_part(&self, change: &Change, number: usize) -> io::Result<Part> {
        let Some(after) = &change.after else {
            return Ok(Part::Removal);
        };
        let path = &change.path;
        match after.kind {
            Kind::Folder => {
                let was_folder = change
                    .before
                    .as_ref()
                    .is_some_and(|b| b.kind == Kind::Folder);
                if !was_folder {
                    self.make_parents(path)?;
                    if change.before.is_some() {
                        self.take_away(change, number)?;
                    }
                    let (parent, name) = self.lower.parent(path)?;
                    // Still its user's alone; its own mode comes last.
                    mkdirat(&parent, name, Mode::RWXU)?;
                }
                Ok(Part::Folder)
            }
            Kind::File if change.what == What::Mode => {
                self.unchanged(change)?;
                self.lower.set_mode(path, after.mode & 0o1777)?;
                Ok(Part::Done)
            }
            Kind::File => {
                self.make_parents(path)?;
                let (parent, _) = self.lower.parent(path)?;
                let source = self.upper.file(path)?;
                let beside = self.beside(number, "new");
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let target = File::from(openat(&parent, &beside, flags | OFlags::CLOEXEC, mode)?);
                copy(source, &target)?;
                let mode = Mode::from_raw_mode(after.mode & 0o1777);
                rustix::fs::fchmod(&target, mode)?;
                Ok(Part::Placed(beside))
            }
            Kind::Link => {
                self.make_parents(path)?;
                let (parent, _) = self.lower.parent(path)?;
                let beside = self.beside(number, "new");
                let target = after.target.as_deref().unwrap_or(Path::new(""));
                symlinkat(target, &parent, &beside)?;
                Ok(Part::Placed(beside))
            }
            Kind::Special => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Makes the folders that hold `path`, where the workspace has them and the project lacks
    /// them: a path may be named without its folders.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        for folder in path
            .ancestors()
            .skip(1)
            .filter(|f| !f.as_os_str().is_empty())
        {
            match self.lower.look(folder)? {
                Some(found) if found.is_folder() => break,
                Some(_) => {
                    return Err(io::Error::other(format!(
                        "{} is no folder",
                        folder.display()
                    )));
                }
                None => missing.push(folder),
            }
        }
        for folder in missing.into_iter().rev() {
            let mode = match self.upper.look(folder)? {
                Some(found) if found.is_folder() => found.mode & 0o777,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            let (parent, name) = self.lower.parent(folder)?;
            mkdirat(&parent, name, Mode::RWXU)?;
            self.lower.set_mode(folder, mode | 0o700)?;
        }
        Ok(())
    }

    /// Puts a file that is ready in the place of what the project has.
    fn place(&self, change: &Change, file: &OsStr) -> io::Result<()> {
        let (parent, name) = self.lower.parent(&change.path)?;
        let placed = match &change.found {
            None => rename_to_free(&parent, file, name),
            Some(found) if found.is_folder() => {
                let mut away = file.to_owned();
                away.push(".old");
                self.move_away(&parent, change, found, &away)
                    .and_then(|()| rename_to_free(&parent, file, name))
                    .and_then(|()| remove_at(&parent, &away))
            }
            Some(found) => exchange(&parent, file, name, found),
        };
        if placed.is_err() {
            // It is in the workspace still.
            let _ = unlinkat(&parent, file, AtFlags::empty());
        }
        placed
    }

    /// Takes away what the project has.
    fn take_away(&self, change: &Change, number: usize) -> io::Result<()> {
        let Some(found) = &change.found else {
            return Ok(());
        };
        let (parent, _) = self.lower.parent(&change.path)?;
        let away = self.beside(number, "old");
        self.move_away(&parent, change, found, &away)?;
        remove_at(&parent, &away)
    }

    fn move_away(
        &self,
        parent: &OwnedFd,
        change: &Change,
        found: &Found,
        away: &OsStr,
    ) -> io::Result<()> {
        let name = change.path.file_name().unwrap_or_default();
        rename_to_free(parent, name, away)?;
        let moved = change.path.with_file_name(away);
        let same = match look(parent, away)? {
            // A folder is the same when what is in it is: none of it younger than the run
            // and as much as before. What was forced is not asked.
            Some(now) if found.is_folder() => {
                let (inside, changed) = self.inside_folder(&moved, &now)?;
                now.inode == found.inode
                    && (change.since.is_some() || (inside == change.inside && !changed))
            }
            Some(now) => now.same(found),
            None => false,
        };
        if same {
            return Ok(());
        }
        rename_to_free(parent, away, name)?;
        Err(meanwhile())
    }

    fn unchanged(&self, change: &Change) -> io::Result<()> {
        let now = self.lower.look(&change.path)?;
        match (&now, &change.found) {
            (Some(now), Some(found)) if now.same(found) => Ok(()),
            _ => Err(meanwhile()),
        }
    }

    fn beside(&self, number: usize, what: &str) -> OsString {
        format!("{OWN}{}-{number}.{what}", self.id).into()
    }

    /// Takes away what an apply that was broken off left beside.
    fn clear(&self) -> io::Result<()> {
        let own = format!("{OWN}{}-", self.id);
        for path in &self.folders {
            let Ok(names) = self.lower.names(path) else {
                continue;
            };
            for name in names {
                if name.as_encoded_bytes().starts_with(own.as_bytes()) {
                    remove_at(&self.lower.folder(path)?, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until the project's file system has written everything.
    fn sync(&self) -> io::Result<()> {
        let root = self.lower.folder(Path::new(""))?;
        // syncfs(2) takes no O_PATH descriptor.
        let root = File::open(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
        Ok(rustix::fs::syncfs(&root)?)
    }
}

/// How far the first part of a change came.
enum Part {
    /// The folder is there, without its mode.
    Folder,
    /// This file is ready beside its place.
    Placed(OsString),
    /// Nothing was done yet.
    Removal,
    /// All.
    Done,
}

impl Outcome {
    fn note(&mut self, change: &Change, done: io::Result<()>) {
        match done {
            Ok(()) => self.taken.push(taken(change)),
            Err(error) => self.held.push(left(change, failed(error))),
        }
    }
}

fn taken(change: &Change) -> Taken {
    Taken {
        path: change.path.to_string_lossy().into_owned(),
        set_id_lost: change
            .after
            .as_ref()
            .is_some_and(|after| after.kind == Kind::File && after.mode & 0o6000 != 0),
    }
}

fn left(change: &Change, held: Held) -> Left {
    let path = change.path.to_string_lossy().into_owned();
    Left { path, held }
}

fn failed(error: io::Error) -> Held {
    Held::Failed(error.to_string())
}

fn meanwhile() -> io::Error {
    io::Error::other("it changed in the project at this moment: look again")
}

/// Renames in a folder, to a name that is free.
fn rename_to_free(folder: &OwnedFd, from: &OsStr, to: &OsStr) -> io::Result<()> {
    match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Err(meanwhile()),
        // A file system that cannot do both in one.
        Err(Errno::INVAL | Errno::NOSYS) => match look(folder, to)? {
            Some(_) => Err(meanwhile()),
            None => Ok(renameat(folder, from, folder, to)?),
        },
        renamed => Ok(renamed?),
    }
}

/// Puts `file` in the place of `name`, which must be what was `found`, and takes that away.
fn exchange(folder: &OwnedFd, file: &OsStr, name: &OsStr, found: &Found) -> io::Result<()> {
    let is_found =
        |name: &OsStr| look(folder, name).map(|now| now.is_some_and(|now| now.same(found)));
    match renameat_with(folder, file, folder, name, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => Err(meanwhile()),
        Err(Errno::INVAL | Errno::NOSYS) => match is_found(name)? {
            true => Ok(renameat(folder, file, folder, name)?),
            false => Err(meanwhile()),
        },
        Err(error) => Err(error.into()),
        Ok(()) if is_found(file)? => Ok(unlinkat(folder, file, AtFlags::empty())?),
        Ok(()) => {
            renameat_with(folder, file, folder, name, RenameFlags::EXCHANGE)?;
            Err(meanwhile())
        }
    }
}

/// Copies a file with its holes: one of a terabyte that holds a line must not fill the disk.
fn copy(mut from: File, mut to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data))?.min(size);
        if hole <= data {
            break;
        }
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        let copied = io::copy(&mut from.by_ref().take(hole - data), &mut to)?;
        if copied < hole - data {
            return Err(io::Error::other("it shrank while it was copied"));
        }
        at = hole;
    }
    to.set_len(size)
}
