//! `exeat ui`: a page on loopback that shows what happens and answers questions.
//!
//! ```text
//! browser ─ wire ─ server (who may?) ─ Live ─ control socket ─ daemon
//!                     └ guard: is the peer governed?
//! ```
//!
//! It is a program of the user's session and a client of the control socket: it has that user's
//! rights and no others, and the daemon knows nothing of it. What guards it, each by itself:
//! it listens on loopback alone; a peer whose socket belongs to an agent, or cannot be shown not
//! to, is refused; `Host` and `Origin` are its own; a session begins with a token that is good
//! once; a session is a cookie, which browsers keep by host, and a key, which they keep by port.

mod guard;
mod live;
mod page;
mod server;
mod session;
mod wire;

pub use guard::Guard;
pub use live::Live;
pub use server::{App, Ui};
