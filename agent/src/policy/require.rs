//! `require:` of an agent: walls without which `exeat run` starts nothing.

use crate::metrics::labels;
use serde::Serialize;

labels! {
    /// A wall that a policy may require. Those that every agent has (the hooks of cgroups) are
    /// always required, and have no word here.
    #[derive(PartialOrd, Ord, Serialize)]
    #[serde(rename_all = "snake_case")]
    Wall {
        /// BPF LSM: Unix sockets of others.
        LsmUnix = "lsm_unix",
        /// BPF LSM: sockets that are passed in or out.
        LsmPassing = "lsm_passing",
        /// BPF LSM: the way into another cgroup.
        LsmCgroup = "lsm_cgroup",
        /// BPF LSM: processes of others.
        LsmPtrace = "lsm_ptrace",
        /// BPF LSM: families of sockets.
        LsmFamilies = "lsm_families",
        /// BPF LSM: `bpf(2)`.
        LsmBpf = "lsm_bpf",
        /// BPF LSM: mounts.
        LsmMount = "lsm_mount",
        /// The launcher: namespaces, with file systems of the agent's own in them.
        Namespaces = "namespaces",
        /// The launcher: Landlock.
        Landlock = "landlock",
        /// The launcher: no capability.
        Capabilities = "capabilities",
        /// The launcher: the list of system calls.
        Seccomp = "seccomp",
    }
}

impl Wall {
    /// Whether only `exeat run` puts it up, so that what is adopted does not have it.
    pub(crate) fn is_of_the_launcher(self) -> bool {
        matches!(
            self,
            Self::Namespaces | Self::Landlock | Self::Capabilities | Self::Seccomp
        )
    }
}

/// The words of a policy, each with its wall.
pub(crate) fn words() -> Vec<(&'static str, Wall)> {
    Wall::ALL
        .iter()
        .map(|wall| (wall.as_str(), *wall))
        .collect()
}
