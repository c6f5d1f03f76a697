//! The walls of BPF LSM: tried, loaded, attached, pinned.
//!
//! Not every kernel has them: some are built without, some are booted without `bpf` among their
//! security modules and take programs that they never call, and some refuse such programs. Which
//! it is is found by trying, and a wall that cannot stand says why.

use std::{collections::BTreeMap, fs, io, os::fd::AsFd as _};

use agent_common::layout::wall;
use aya::{
    Btf, Ebpf,
    maps::Array,
    programs::{Lsm, ProgramError},
};
use tracing::{debug, info, warn};

use super::{
    fields::{Fields, WallFields},
    pins::Pins,
    rejection::Rejection,
    sys,
};
use crate::error::chain;

/// One wall, of one program or more.
#[derive(Debug, PartialEq, Eq)]
pub struct LsmWall {
    /// Its name in status, metrics and policies.
    pub name: &'static str,
    /// Its bit in [`wall`].
    pub bit: u16,
    /// What it closes, in words.
    pub closes: &'static str,
    /// Its programs, each with its hook.
    programs: &'static [Program],
}

impl LsmWall {
    /// The hooks that it stands at.
    pub fn hooks(&self) -> String {
        let hooks: Vec<&str> = self.programs.iter().map(|(_, hook)| *hook).collect();
        hooks.join(", ")
    }
}

/// Name of the function in `agent-ebpf`, and the hook's name in the kernel.
type Program = (&'static str, &'static str);

/// Every wall.
pub const WALLS: [LsmWall; 7] = [
    LsmWall {
        name: "lsm_unix",
        bit: wall::UNIX,
        closes: "Unix sockets of others that the policy does not name",
        programs: &[
            ("exeat_wall_unix_connect", "unix_stream_connect"),
            ("exeat_wall_unix_send", "unix_may_send"),
        ],
    },
    LsmWall {
        name: "lsm_passing",
        bit: wall::PASSING,
        closes: "sockets that are passed into an agent or out of it",
        programs: &[("exeat_wall_receive", "file_receive")],
    },
    LsmWall {
        name: "lsm_cgroup",
        bit: wall::CGROUP,
        closes: "the way into another cgroup",
        programs: &[
            ("exeat_wall_open", "file_open"),
            ("exeat_wall_clone", "task_alloc"),
        ],
    },
    LsmWall {
        name: "lsm_ptrace",
        bit: wall::PTRACE,
        closes: "tracing and reading processes of others",
        programs: &[
            ("exeat_wall_ptrace", "ptrace_access_check"),
            ("exeat_wall_traceme", "ptrace_traceme"),
        ],
    },
    LsmWall {
        name: "lsm_families",
        bit: wall::FAMILIES,
        closes: "sockets of other families than Unix, IPv4, IPv6 and routing netlink",
        programs: &[("exeat_wall_socket", "socket_create")],
    },
    LsmWall {
        name: "lsm_bpf",
        bit: wall::BPF,
        closes: "bpf(2)",
        programs: &[("exeat_wall_bpf", "bpf")],
    },
    LsmWall {
        name: "lsm_mount",
        bit: wall::MOUNT,
        closes: "mounting and unmounting",
        programs: &[
            ("exeat_wall_mount", "sb_mount"),
            ("exeat_wall_move_mount", "move_mount"),
            ("exeat_wall_umount", "sb_umount"),
            ("exeat_wall_pivot", "sb_pivotroot"),
        ],
    },
];

/// Sees that a run is set up. Without it no wall can let a launcher work, so no wall stands.
const EXEC: Program = ("exeat_wall_exec", "bprm_committed_creds");
/// The names of all programs that are attached.
pub(super) fn programs() -> Vec<&'static str> {
    let programs = WALLS.iter().flat_map(|wall| wall.programs);
    programs.chain([&EXEC]).map(|(name, _)| *name).collect()
}

/// Sees that it is called.
const TRIAL: Program = ("exeat_wall_trial", "bpf");

/// How a wall stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Up.
    Up,
    /// This kernel cannot have it.
    Missing(String),
    /// It should be up and is not.
    Failed(String),
}

/// The walls of one instance.
pub(super) struct Walls {
    /// Why there is none.
    absent: Option<String>,
    /// Why a program was not taken.
    refused: BTreeMap<&'static str, String>,
    /// Why a program of those could not be attached.
    unattached: BTreeMap<&'static str, String>,
}

impl Walls {
    /// Tries whether this kernel has walls, and has every program checked.
    pub(super) fn load(ebpf: &mut Ebpf, fields: &Fields) -> Self {
        let mut walls = Self {
            absent: None,
            refused: BTreeMap::new(),
            unattached: BTreeMap::new(),
        };
        let loaded = match &fields.walls {
            Ok(fields) => walls.load_all(ebpf, fields),
            Err(reason) => Err(reason.clone()),
        };
        if let Err(reason) = loaded {
            info!(reason, "no walls of BPF LSM");
            walls.absent = Some(reason);
        }
        walls
    }

    fn load_all(&mut self, ebpf: &mut Ebpf, fields: &WallFields) -> Result<(), String> {
        sys::lsm_loads(fields.first_hook)
            .map_err(|error| format!("the kernel refuses programs of BPF LSM: {error}"))?;
        let btf = Btf::from_sys_fs().map_err(|error| chain(&error))?;
        attempt(ebpf, &btf)?;
        load(ebpf, EXEC, &btf).map_err(|reason| format!("{} is refused: {reason}", EXEC.0))?;
        for program in WALLS.iter().flat_map(|wall| wall.programs) {
            match load(ebpf, *program, &btf) {
                Ok(()) => debug!(program = program.0, "loaded"),
                Err(reason) => {
                    warn!(program = program.0, reason, "a wall is missing");
                    self.refused.insert(program.0, reason);
                }
            }
        }
        Ok(())
    }

    /// Why there is no wall at all.
    pub(super) fn absent(&self) -> Option<&str> {
        self.absent.as_deref()
    }

    /// Puts up every wall that can stand. A link that is pinned already is replaced: the new one
    /// stands before the old one goes, and what one of the two refuses is refused.
    pub(super) fn put(&mut self, ebpf: &Ebpf, pins: &Pins) {
        if self.absent.is_some() {
            return;
        }
        self.unattached.clear();
        if let Err(error) = attach(ebpf, EXEC.0, pins) {
            let error = format!("{} cannot be attached: {error}", EXEC.0);
            warn!(error, "no walls of BPF LSM");
            self.absent = Some(error);
            return;
        }
        for wall in &WALLS {
            if let Some((name, reason)) = self.lost(wall) {
                debug!(wall = wall.name, program = name, reason, "not put up");
                continue;
            }
            for (name, _) in wall.programs {
                if let Err(error) = attach(ebpf, name, pins) {
                    warn!(program = name, %error, "a wall is missing");
                    self.unattached
                        .insert(name, format!("it cannot be attached: {error}"));
                }
            }
        }
        let up = self.prospects().into_iter();
        let up = up.filter(|(_, standing)| *standing == Standing::Up).count();
        info!(walls = up, "walls of BPF LSM are up");
    }

    /// The program that a wall lacks, and why.
    fn lost(&self, wall: &LsmWall) -> Option<(&'static str, &str)> {
        wall.programs.iter().find_map(|(name, hook)| {
            let why = self
                .refused
                .get(name)
                .or_else(|| self.unattached.get(name))?;
            Some((*hook, why.as_str()))
        })
    }

    /// How every wall stands, as the kernel has it now.
    pub(super) fn standing(&self, pins: &Pins) -> Vec<(&'static LsmWall, Standing)> {
        let gone = |(name, _): &&Program| sys::object_get(&pins.walls().join(name)).is_err();
        let exec = [EXEC];
        self.prospects()
            .into_iter()
            .map(|(wall, standing)| {
                let fallen = || exec.iter().chain(wall.programs).find(gone);
                let standing = match standing {
                    Standing::Up => fallen().map_or(Standing::Up, |(_, hook)| {
                        Standing::Failed(format!("its program at {hook} is not attached"))
                    }),
                    other => other,
                };
                (wall, standing)
            })
            .collect()
    }

    /// How every wall would stand once it is put up.
    pub(super) fn prospects(&self) -> Vec<(&'static LsmWall, Standing)> {
        WALLS
            .iter()
            .map(|wall| {
                let lost = self.lost(wall);
                let lost = lost.map(|(hook, why)| format!("its program at {hook}: {why}"));
                let missing = self.absent.clone().or(lost);
                (wall, missing.map_or(Standing::Up, Standing::Missing))
            })
            .collect()
    }
}

/// Attaches a program that counts, and does what it is called for.
fn attempt(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), String> {
    load(ebpf, TRIAL, btf)?;
    let link = program_fd(ebpf, TRIAL.0)
        .and_then(|program| sys::lsm_attach(program))
        .map_err(|error| format!("the kernel does not attach programs of BPF LSM: {error}"))?;
    // Any call will do; that there is no such pin is what it says.
    let _ = sys::object_get("/".as_ref());
    drop(link);
    let map = ebpf.map("TRIAL").ok_or("there is no map of the trial")?;
    let calls = Array::<_, u64>::try_from(map)
        .and_then(|calls| calls.get(&0, 0))
        .map_err(|error| chain(&error))?;
    match calls {
        0 => Err("the kernel takes programs of BPF LSM and never calls them: boot it with `bpf` among the words of `lsm=`".to_owned()),
        _ => Ok(()),
    }
}

fn load(ebpf: &mut Ebpf, (name, hook): Program, btf: &Btf) -> Result<(), String> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(<&mut Lsm>::try_from)
        .and_then(|program| program.load(hook, btf))
        .map_err(|error| chain(&Rejection::from(error)))
}

fn program_fd<'a>(ebpf: &'a Ebpf, name: &str) -> io::Result<std::os::fd::BorrowedFd<'a>> {
    ebpf.program(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(|program| program.fd())
        .map(|fd| fd.as_fd())
        .map_err(io::Error::other)
}

/// Attaches a program and pins its link in the place of the one that is there.
fn attach(ebpf: &Ebpf, name: &str, pins: &Pins) -> io::Result<()> {
    let link = sys::lsm_attach(program_fd(ebpf, name)?)?;
    let folder = pins.walls();
    // A dot is no letter of a name in a bpffs (`bpf_lookup`).
    let (new, pin) = (folder.join(format!("{name}-new")), folder.join(name));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sys::object_pin(link.as_fd(), &new)?;
    fs::rename(&new, &pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wall_has_a_bit_a_name_and_programs_of_its_own() {
        let all = WALLS.iter().fold(0, |all, one| {
            assert_eq!(all & one.bit, 0, "{}", one.name);
            all | one.bit
        });
        assert_eq!(all, wall::ALL);
        let programs = WALLS.iter().flat_map(|wall| wall.programs);
        let names: std::collections::BTreeSet<&str> =
            programs.clone().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), programs.count());
    }

    #[test]
    fn one_program_less_is_a_wall_less() {
        let mut walls = Walls {
            absent: None,
            refused: BTreeMap::from([("exeat_wall_clone", "no such hook".to_owned())]),
            unattached: BTreeMap::new(),
        };
        let of = |walls: &Walls, name| {
            let found = walls
                .prospects()
                .into_iter()
                .find(|(wall, _)| wall.name == name);
            found.expect("a wall").1
        };
        assert_eq!(of(&walls, "lsm_bpf"), Standing::Up);
        let Standing::Missing(why) = of(&walls, "lsm_cgroup") else {
            panic!("it stands");
        };
        assert_eq!(why, "its program at task_alloc: no such hook");
        walls.absent = Some("not here".to_owned());
        assert_eq!(
            of(&walls, "lsm_bpf"),
            Standing::Missing("not here".to_owned())
        );
    }
}
