//! Policies: from YAML as people write it to the tables that verdicts are made from.
//!
//! ```text
//! text ─tree─► nodes with places ─read─► PolicyFile ─validate─► PolicySet ─compile─► Compiled
//! ```
//!
//! Only [`load`] touches the file system; nothing here knows the time.

pub mod compile;
pub mod diagnostic;
pub mod file;
mod host;
mod lint;
mod load;
mod model;
mod name;
mod net;
mod ports;
mod read;
mod schema;
mod tree;
mod validate;

#[cfg(test)]
mod tests;

pub use compile::{Change, CompileError, Compiled};
pub use diagnostic::{Diagnostic, PolicyErrors, Pos};
pub use host::{HostError, HostName};
pub use load::{PolicyText, load, load_with_texts, parse, parse_all};
pub use model::{Origin, Policy, PolicySet, Rule, RuleProtocol, Selector, action_str, mode_str};
pub use name::{AgentName, NameError};
pub use ports::{ALL_PORTS, PortRange};
pub use schema::{SCHEMA_ID, schema};
