//! The walls of BPF LSM. Where the kernel has none, status, doctor and `require` say so; where
//! it has them, each refuses what it is there for, to root too, and leaves everybody else alone.

mod absent;
mod held;
mod scene;
