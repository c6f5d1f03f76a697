//! `exeat report`: what the agents did in a period, for somebody who was not there.
//!
//! ```text
//! status, events, grants, history, summary ─ gather ─► Report ─ html ─► one file
//! ```

mod assemble;
mod gather;
mod html;
mod model;
mod parts;
mod plot;
#[cfg(test)]
mod tests;
mod words;

pub use gather::{Asked, gather};
pub use html::page;
pub use model::{
    AgentPart, Amounts, Completeness, Destination, Hour, MissingWall, NewDestination, Refused,
    RefusedPart, Report,
};
pub use words::{Words, of_incident, of_reason, of_wall};
