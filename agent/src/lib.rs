//! Exeat: nothing leaves without one.
#![allow(missing_docs)]

pub mod kernel;
pub mod launch;
pub mod policy;
