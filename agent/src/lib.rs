//! Exeat: nothing leaves without one.
#![allow(missing_docs)]

pub mod dns;
pub mod leases;
pub mod policy;
