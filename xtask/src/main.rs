//! Set-up, build, demo, test and bench of Exeat: `cargo xtask --help`.
//!
//! A file a subcommand. To add one: `mod name;`, a variant of [`Task`] that
//! holds its `Args`, and an arm in [`main`].

mod bench;
mod build;
mod demo;
mod docs;
mod fuzz;
mod package;
mod project;
mod setup;
mod step;
mod tally;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use project::Project;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    Build(build::Args),
    Demo(demo::Args),
    Test(test::Args),
    Docs(docs::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    VmTest(vm::Args),
    Package(package::Args),
    Repository(package::RepositoryArgs),
    PackageTest(package::TrialArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = Project::find().and_then(|project| match cli.task {
        Task::Setup(args) => setup::run(&project, &args),
        Task::Build(args) => build::run(&project, &args),
        Task::Demo(args) => demo::run(&project, &args),
        Task::Test(args) => test::run(&project, &args),
        Task::Docs(args) => docs::run(&project, &args),
        Task::Bench(args) => bench::run(&project, &args),
        Task::Fuzz(args) => fuzz::run(&project, &args),
        Task::VmTest(args) => vm::run(&project, &args),
        Task::Package(args) => package::run(&project, &args),
        Task::Repository(args) => package::run_repository(&project, &args),
        Task::PackageTest(args) => package::run_trial(&project, &args),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
