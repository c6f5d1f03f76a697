//! What crosses the boundary between the daemon and the BPF programs, and the
//! verdict itself.
//!
//! ```text
//!  policy ──compile──► tables (maps) ──look-up──► verdict ──► return code
//!                                                    └──────► FlowEvent
//! ```
//!
//! The same [`verdict::judge`] is compiled into the BPF programs (over maps), into
//! the daemon (over host tables, for `exeat explain`) and into the tests. Nothing
//! here allocates, blocks or knows about time.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod event;
pub mod hello;
pub mod layout;
pub mod protocol;
pub mod reason;
pub mod verdict;

pub use addr::Addr;
pub use event::FlowEvent;
pub use hello::Hello;
pub use protocol::Protocol;
pub use reason::{Hook, Reason};
