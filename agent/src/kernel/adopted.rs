//! Cgroups outside the slice that are governed where they are: whoever made them, systemd or a
//! container engine, keeps them, and nothing is moved. The slice's programs are attached to
//! each one too, by links of its own.

use std::{fs, io, path::Path};

use agent_common::layout::{MAX_ADOPTED, MAX_ADOPTED_LEVEL};

use super::{
    KernelError, cgroup,
    links::{self, ATTACHMENTS, Attachment, LinkState, Place},
    object::Kernel,
    pins::Pins,
    sys,
    tables::absent_is_fine,
};

fn at_slice() -> impl Iterator<Item = &'static Attachment> {
    ATTACHMENTS
        .iter()
        .filter(|attachment| attachment.place == Place::Slice)
}

/// Depth of a cgroup below the root, by its path below it.
pub fn level(below_root: &Path) -> u32 {
    u32::try_from(below_root.components().count()).unwrap_or(u32::MAX)
}

/// The programs that are attached to each cgroup that is governed, as their links are called.
pub fn programs() -> impl Iterator<Item = &'static str> {
    at_slice().map(|attachment| attachment.program)
}

/// Whether links of every program are held at a cgroup, as the pins say.
pub fn is_held(pins: &Pins, id: u64) -> bool {
    let folder = pins.adopted().join(id.to_string());
    programs().all(|program| folder.join(program).exists())
}

impl Kernel {
    /// The cgroups that the maps know, and their agents.
    pub fn adopted(&self) -> Vec<(u64, u32)> {
        self.adopted.iter().filter_map(Result::ok).collect()
    }

    /// From now on tasks in a cgroup, and in what is below it, are the agent's. Its path is
    /// given from the file system's root.
    ///
    /// # Errors
    /// Where it lies too deep, there is no room, or the kernel refuses.
    pub fn admit_adopted(&mut self, path: &Path, agent: u32) -> Result<u64, KernelError> {
        let below = path.strip_prefix(self.slice().root()).unwrap_or(path);
        let level = level(below);
        let refuse = |why: io::Error| KernelError::path("govern the cgroup", path)(why);
        if level == 0 || level > MAX_ADOPTED_LEVEL {
            return Err(refuse(io::Error::other(format!(
                "it lies {level} levels below the root, and 1 to {MAX_ADOPTED_LEVEL} can be looked for"
            ))));
        }
        let id = cgroup::id(path)?;
        if self.adopted.get(&id, 0).is_err() && self.adopted.keys().count() >= MAX_ADOPTED as usize
        {
            return Err(refuse(io::Error::other(format!(
                "{MAX_ADOPTED} cgroups are governed already"
            ))));
        }
        self.adopted
            .insert(id, agent, 0)
            .map_err(KernelError::map("write to", "ADOPTED"))?;
        self.set_levels(self.levels() | 1 << level)?;
        Ok(id)
    }

    /// The same, with the slice's programs attached to it. The maps know it before a link
    /// stands, so nothing is refused that the policy allows.
    ///
    /// # Errors
    /// As [`Kernel::admit_adopted`].
    pub fn govern(&mut self, path: &Path, agent: u32) -> Result<u64, KernelError> {
        let id = self.admit_adopted(path, agent)?;
        let pins = self.pins.adopted().join(id.to_string());
        fs::create_dir_all(&pins).map_err(KernelError::path("create", &pins))?;
        for attachment in at_slice() {
            let pin = pins.join(attachment.program);
            links::hold(&self.ebpf, attachment, path, &pin)?;
        }
        Ok(id)
    }

    /// A cgroup that was governed is gone.
    ///
    /// # Errors
    /// Those of the maps and pins.
    pub fn release(&mut self, id: u64) -> Result<(), KernelError> {
        let pins = self.pins.adopted().join(id.to_string());
        match fs::remove_dir_all(&pins) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(KernelError::path("remove", &pins)(e)),
        }
        absent_is_fine(self.adopted.remove(&id)).map_err(KernelError::map("write to", "ADOPTED"))
    }

    /// A bit for each level that the programs look at.
    pub fn levels(&self) -> u64 {
        self.levels.get(&0, 0).unwrap_or(0)
    }

    /// Has the programs look at these levels.
    ///
    /// # Errors
    /// Those of the map.
    pub fn set_levels(&mut self, levels: u64) -> Result<(), KernelError> {
        self.levels
            .set(0, levels, 0)
            .map_err(KernelError::map("write to", "LEVELS"))
    }

    /// Ids of the cgroups that links are held at.
    pub fn adopted_links(&self) -> Vec<u64> {
        self.pins.adopted_ids()
    }

    /// Whether every program stands at a cgroup that is governed.
    pub fn stands_at(&self, id: u64) -> bool {
        let pins = self.pins.adopted().join(id.to_string());
        at_slice().all(|attachment| {
            let state = links::state_at(&pins.join(attachment.program));
            matches!(state, LinkState::Up { cgroup, .. } if cgroup == id)
        })
    }

    /// Puts the programs of this daemon into the links that an earlier one left. A link whose
    /// cgroup is gone holds nothing.
    pub(super) fn update_adopted(&mut self) -> Result<(), KernelError> {
        for id in self.pins.adopted_ids() {
            let pins = self.pins.adopted().join(id.to_string());
            for attachment in at_slice() {
                let Ok(link) = sys::object_get(&pins.join(attachment.program)) else {
                    continue;
                };
                links::update(&self.ebpf, attachment, &link)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_below_the_root() {
        for (path, wanted) in [("", 0), ("a", 1), ("a/b.slice/c", 3)] {
            assert_eq!(level(Path::new(path)), wanted, "{path}");
        }
    }
}
