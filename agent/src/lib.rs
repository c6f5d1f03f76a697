//! Exeat: nothing leaves without one.
#![allow(missing_docs)]

pub mod kernel;
pub mod policy;
