//! `ask:` of an agent: who is asked about a destination that no rule decides.

use serde::{Deserialize, Serialize};

use crate::asking::Asks;

/// How long a question stands where the policy does not say, seconds.
pub const DEFAULT_TIMEOUT: u32 = 120;

/// The shortest that a question may stand, seconds.
pub const SHORTEST: u32 = 5;
/// The longest, seconds.
pub const LONGEST: u32 = 600;

/// Whether a person is asked about what no rule of the agent decides, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Who.
    pub who: Asks,
    /// Seconds until a question that nobody answers is denied.
    pub timeout: u32,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            who: Asks::Nobody,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}
