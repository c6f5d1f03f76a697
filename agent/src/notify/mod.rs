//! `exeat notify`: questions as notifications on the user's desktop.
//!
//! ```text
//! daemon ─ questions ─► follow (a thread) ─► run ─ Notify ─► notification server ─► person
//! daemon ◄──── answer ──── a new connection ◄─ board ◄─ ActionInvoked ─────────────────┘
//! ```
//!
//! A process of the user's session: what it may see and answer is what the user may. Nothing on
//! the session bus is believed for what it says: `board` knows which clicks are ours to believe,
//! `trust` whether a governed program could be behind one.

mod board;
mod bus;
mod findings;
mod follow;
mod run;
pub mod text;
mod trust;

pub use run::{Options, run};
