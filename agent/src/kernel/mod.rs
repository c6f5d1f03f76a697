//! The kernel: the only room that knows aya.
//!
//! ```text
//! load ──► maps (pinned) ──► tables filled ──► attach or update links (pinned)
//!                                   ▲                       │
//!                         leases, policies          events, stats ──► daemon
//! ```
//!
//! Nothing here knows a name: agents are indices, rules are numbers.

pub mod adopted;
pub mod cgroup;
pub mod events;
mod fields;
mod helpers;
pub mod limits;
pub mod links;
pub mod object;
pub mod pins;
pub mod probe;
pub mod rejection;
mod steered;
mod sys;
pub mod tables;
pub mod trial;
pub mod walls;

use std::{io, path::PathBuf};

pub use object::Kernel;
pub use rejection::Rejection;
pub use steered::Steered;

/// What went wrong in the kernel room: the operation and the object.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file or folder operation.
    #[error("cannot {action} {path}")]
    Path {
        /// What was tried ("create", "read", …).
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No cgroup2 hierarchy is mounted.
    #[error(
        "no cgroup2 file system is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NoCgroup2,
    /// The object did not load: a map could not be made, or it does not parse.
    #[error("cannot load the BPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The verifier, or the kernel, refused a program.
    #[error("the kernel refused the BPF program {program}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Why.
        source: Rejection,
    },
    /// A map operation.
    #[error("cannot {action} the BPF map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A link operation.
    #[error("cannot {action} the BPF link of {program}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// Name of the program.
        program: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This kernel does not say where its fields lie.
    #[error(
        "cannot read from {file} where this kernel keeps what programs need: boot a kernel that is built with CONFIG_DEBUG_INFO_BTF"
    )]
    Fields {
        /// The kernel's type information.
        file: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// More agents than there is room for.
    #[error("more than {max} agents: put some under one policy")]
    TooManyAgents {
        /// The bound.
        max: u32,
    },
}

impl KernelError {
    fn map(
        action: &'static str,
        map: &'static str,
    ) -> impl FnOnce(aya::maps::MapError) -> KernelError {
        move |source| KernelError::Map {
            action,
            map,
            source: source.into(),
        }
    }

    fn path(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path {
            action,
            path,
            source,
        }
    }
}
