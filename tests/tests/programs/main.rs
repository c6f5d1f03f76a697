//! Programs of other people in the sandbox, end to end: package managers with what packages run
//! at installation, Git, interpreters, a compiler, an editor, a browser. The hosts that they ask are stubs;
//! the programs are those of the machine.

mod browser;
mod cargo;
mod git;
mod interpreters;
mod node;
mod python;
mod scene;
mod terminal;
