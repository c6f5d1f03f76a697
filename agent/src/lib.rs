//! Exeat: nothing leaves without one.
#![allow(missing_docs)]

pub mod cli;
pub mod policy;
