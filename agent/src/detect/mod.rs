//! Detection: rules over the stream of records, in the Common Expression Language.
//!
//! Pure but for [`sink`] and [`seen`]: a rule sees records and their own times, so what it finds
//! in a recorded stream is what it would have found live.

mod engine;
mod facts;
mod file;
mod rule;
mod seen;
mod sink;
mod window;

#[cfg(test)]
mod tests;

pub use engine::{Detection, Engine, EngineCounts, is_for_people};
pub use file::{Action, LoadError, Severity, load};
pub use rule::Rule;
pub use seen::Seen;
pub use sink::{DetectSink, Found};

/// The starter set, compiled in.
pub const STARTER: &str = include_str!("../../../policies/detect/starter.yaml");
