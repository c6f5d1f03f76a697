//! Exeat: nothing leaves without one.
#![allow(missing_docs)]

pub mod cli;
pub mod config;
pub mod control;
pub mod flow;
pub mod metrics;
pub mod policy;
pub mod process;
pub mod sink;
