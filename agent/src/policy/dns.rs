//! What a policy says about the DNS of its agent.

use std::{collections::BTreeSet, fmt};

/// What an allow rule for a host says about answers, beyond addresses and the types that
/// are always there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Answers {
    /// Types of records that are answered besides [`super::BASE_TYPES`].
    pub types: BTreeSet<u16>,
    /// Private, loopback and other special addresses in answers are not removed.
    pub private: bool,
    /// ECH keys and address hints stay in SVCB and HTTPS records.
    pub keep_ech: bool,
}

/// How the gate answers an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DnsPolicy {
    /// The answer to a name that the policy does not allow.
    pub refuse: Refuse,
    /// Whether answers must pass DNSSEC validation where their zone is signed.
    pub validate: bool,
    /// What names below wildcards may cost.
    pub budget: BudgetLimits,
    /// What happens beyond it.
    pub over_budget: OverBudget,
}

/// The answer to a name that the policy does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Refuse {
    /// REFUSED: programs report that the server would not answer.
    #[default]
    Refused,
    /// NXDOMAIN: programs report that there is no such name.
    NxDomain,
}

impl Refuse {
    /// The code as the DNS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "REFUSED",
            Self::NxDomain => "NXDOMAIN",
        }
    }
}

/// What an agent may ask for below wildcards, in an hour and for each registered domain
/// ([`super::NameRule::budget_of`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetLimits {
    /// Different names.
    pub names: u32,
    /// Bytes of the names before the domain.
    pub bytes: u32,
    /// Bits of entropy in them.
    pub entropy_bits: u32,
    /// Bits that the choice among names already paid for may carry, each time one of them is
    /// asked upstream again. A sixth of it may be used at once.
    pub repeat_bits: u32,
}

impl Default for BudgetLimits {
    /// Far above what programs ask of a CDN in an hour, far below what a tunnel needs.
    fn default() -> Self {
        Self {
            names: 300,
            bytes: 8 * 1024,
            entropy_bits: 24_000,
            repeat_bits: 24_000,
        }
    }
}

impl fmt::Display for BudgetLimits {
    /// All of them, without the time that they are for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            names,
            bytes,
            entropy_bits,
            repeat_bits,
        } = self;
        write!(
            f,
            "{names} names, {bytes} bytes, {entropy_bits} bits of entropy, {repeat_bits} bits of repeats"
        )
    }
}

/// What happens to a question beyond the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OverBudget {
    /// It is refused, and an event.
    #[default]
    Block,
    /// It is answered, and an event.
    Report,
}

impl OverBudget {
    /// The word in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Report => "report",
        }
    }
}
