//! Exeat: nothing leaves without one.
#![allow(missing_docs)]

pub mod leases;
pub mod policy;
