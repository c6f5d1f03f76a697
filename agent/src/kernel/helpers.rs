//! Which helpers the programs may call here.
//!
//! Helpers come to program types one by one, and distributions carry such changes back, so
//! each is tried and no version is compared.

use agent_common::layout::helper;
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use super::KernelError;

/// What is tried, with its bit.
const TRIED: [(u64, BpfHelper); 5] = [
    (
        helper::ANCESTOR,
        BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
    ),
    (helper::CGROUP, BpfHelper::BPF_FUNC_get_current_cgroup_id),
    (helper::PROCESS, BpfHelper::BPF_FUNC_get_current_pid_tgid),
    (helper::USER, BpfHelper::BPF_FUNC_get_current_uid_gid),
    (helper::NAME, BpfHelper::BPF_FUNC_get_current_comm),
];

/// Helpers by type of program, in bits of [`helper`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Helpers {
    pub(super) packet: u64,
    pub(super) sockopt: u64,
}

impl Helpers {
    /// Tries them all.
    pub(super) fn probe() -> Result<Self, KernelError> {
        Ok(Self {
            packet: of(ProgramType::CgroupSkb)?,
            sockopt: of(ProgramType::CgroupSockopt)?,
        })
    }

    /// What a hook's program does without on this kernel.
    pub(super) fn leaves_out(self, hook: &str) -> Vec<&'static str> {
        let has = |set: u64, bits: u64| set & bits == bits;
        let mut lost = Vec::new();
        if hook == "egress" && !has(self.packet, helper::ANCESTOR | helper::PROCESS) {
            lost.push("which process sent a refused packet: its event names none");
        }
        if hook == "setsockopt" && !has(self.sockopt, helper::ANCESTOR) {
            lost.push(
                "whose a cgroup below a run is: to programs there the socket options that \
                 carry data are refused in monitor mode too",
            );
        }
        if hook == "setsockopt" && !has(self.sockopt, helper::PROCESS) {
            lost.push("which process set a refused socket option: its event names none");
        }
        lost
    }
}

fn of(kind: ProgramType) -> Result<u64, KernelError> {
    let mut found = 0;
    for (bit, helper) in TRIED {
        let there = is_helper_supported(kind, helper).map_err(|source| KernelError::Program {
            program: "that tries helpers",
            source: source.into(),
        })?;
        if there {
            found |= bit;
        }
    }
    Ok(found)
}
