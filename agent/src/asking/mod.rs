//! Asking a person: questions about destinations that no rule decides, answers to them, and the
//! grants that answers become.
//!
//! Pure: no clock, no socket and no kernel here. The daemon holds what waits, and puts grants in
//! force.

mod model;

pub use model::{
    Asks, Breadth, Choice, DeskEvent, Grant, GrantSubject, Lasts, Outcome, Question, Ruling,
    Settlement, Subject, Who,
};
