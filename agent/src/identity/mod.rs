//! Who is running: the identity of a program by what its file holds.
//!
//! What is judged are the files that the kernel executes for a command: its own, and where
//! it is a script its interpreter's, and what `env` starts for one ([`script`]). Each is judged by itself
//! ([`judge()`]): by its digest, by the package that it is of ([`package`]), by a signature
//! beside it. What a program loads when it runs (libraries, modules, scripts that are its
//! arguments) is not judged.

pub mod cache;
mod digest;
mod judge;
pub mod package;
pub mod script;

pub use digest::{MAX_FILE, Measured, NoSha256, Sha256, digest, measure};
pub use judge::{Judged, Refused, SIGNATURE, Verdict, judge, judge_with, owner};
