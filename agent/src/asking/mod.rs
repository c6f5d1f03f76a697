//! Asking a person: questions about destinations that no rule decides, answers to them, and the
//! grants that answers become.
//!
//! No socket and no kernel here: `book` decides which questions stand, `desk` lets callers wait
//! for them, `grants` says how long an answer holds and which rules it is. The daemon puts
//! grants in force.

mod book;
mod desk;
pub mod grants;
pub mod hook;
mod model;
pub mod outside;
pub mod webhook;

pub use book::{Bounds, Counts};
pub use desk::{AnswerError, Asked, Desk, Force, Tell};
pub(crate) use desk::{WHY, grant_incident, grant_text, name_of, new_id, until, with_who};
pub use model::{
    Asks, Breadth, Choice, DeskEvent, Grant, GrantSubject, Lasts, Outcome, Question, Ruling,
    Settlement, Subject, Who,
};
