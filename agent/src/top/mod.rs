//! `exeat top`: what is on the screen, and why.
//!
//! ```text
//! feed (threads: status, events, questions, keys) ─Update→ App ─→ view::draw ─→ terminal
//!                                                          └─Act→ feed (an answer), or the end
//! ```
//!
//! [`App`] and [`view`] know no clock, socket or terminal. It talks to the daemon over the control
//! socket, as the user, and can do nothing that the user cannot.

mod answer;
mod brief;
pub mod feed;
mod help;
mod panes;
mod rates;
pub mod screen;
mod state;
#[cfg(test)]
mod tests;
pub mod view;

pub use state::{Act, App, Pane, Update};
