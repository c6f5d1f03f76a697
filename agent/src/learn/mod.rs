//! `exeat learn`: from what was seen of an agent to the rules that would allow it.
//!
//! ```text
//! records, answers of the DNS ─► Lesson ─write─► rules with their reasons ─merge─► policy file
//!                                   └─suspect─► what a person should look at
//! ```
//!
//! Pure, but for [`wire`], which listens to the machine's answers of the DNS: a monitored agent
//! asks its own servers, so that nothing else tells which name an address was. Nothing here
//! widens: a rule is for one name or address and for ports that were seen.

mod lesson;
mod merge;
mod suspect;
#[cfg(test)]
mod tests;
pub mod wire;
mod write;

pub use lesson::{Lesson, Seen, Target, Want};
pub use merge::{MergeError, insert};
pub use suspect::{Suspicion, suspicions};
pub use write::{How, Written, write};
