//! What became of a batch.

use std::time::Duration;

/// What a receiver said of a batch that it read. What is in neither list has arrived.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Places in the batch of records that it will take later, perhaps.
    pub(super) again: Vec<usize>,
    /// Places of records that it will never take, and why.
    pub(super) dead: Vec<(usize, String)>,
    /// Records of the rest that it threw away without saying which.
    pub(super) refused: u64,
    /// Why, where something is not well.
    pub(super) why: Option<String>,
    /// When to come again, if it said so.
    pub(super) after: Option<Duration>,
}

/// Why a batch did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may be well later: try again, with growing pauses or when the receiver says so.
    Later {
        why: String,
        after: Option<Duration>,
    },
    /// It will not be well until somebody changes something. Records are kept, and a try is
    /// made now and then.
    Parked { why: String },
    /// The receiver does not take this batch; perhaps its parts.
    Indigestible { why: String },
}

impl Trouble {
    pub(super) fn later(why: impl Into<String>) -> Self {
        Self::Later {
            why: why.into(),
            after: None,
        }
    }

    pub(super) fn parked(why: impl Into<String>) -> Self {
        Self::Parked { why: why.into() }
    }

    pub(super) fn why(&self) -> &str {
        match self {
            Self::Later { why, .. } | Self::Parked { why } | Self::Indigestible { why } => why,
        }
    }
}

pub(super) type Delivery = Result<Outcome, Trouble>;
