//! The reader of ClientHellos against hostile ones, against real ones, and against rustls.

mod attacks;
mod client;
mod flights;
mod fuzz;
mod mutants;
mod names;
mod parts;
mod reference;
