//! A file a subcommand. Each has its arguments and a function `run` that prints to any
//! writer and returns the exit code.

pub mod check;
pub mod explain;
pub mod schema;

/// How a command prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}
