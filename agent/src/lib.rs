//! Exeat: nothing leaves without one.

pub mod adopt;
pub mod asking;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dns;
mod error;
pub mod flow;
pub mod gateway;
pub mod identity;
pub mod import;
pub mod incident;
pub mod kernel;
pub mod launch;
pub mod learn;
pub mod leases;
pub mod metrics;
pub mod policy;
mod private;
pub mod process;
pub mod sink;
pub mod sockets;
pub mod store;
mod throttle;
pub mod top;
pub mod workspace;
