//! `cargo xtask fuzz`: random input against a part of the product, for a time.

use anyhow::Result;

use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

/// Throw random input at a part of the product until the time is over or a fault is found
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to fuzz
    target: Target,
    /// For how long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Begin with this number, to see a fault again; otherwise another one each time
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// The messages that agents send to the DNS gate, and the answers behind it
    Gate,
}

impl Target {
    /// The test that runs for as long as it is told.
    fn test(self) -> &'static str {
        match self {
            Self::Gate => "dns::gate::fuzz::for_a_time",
        }
    }
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    // The library includes the object.
    build::object(project, &setup::bpf(project, Tell::Changes)?)?;
    let mut cargo = project.cargo();
    // Without optimisation, so that overflow and debug assertions are faults too.
    cargo.args(["test", "--package", "exeat", "--lib", "--"]);
    cargo.args(["--ignored", "--exact", "--nocapture", args.target.test()]);
    cargo.env("EXEAT_FUZZ_SECONDS", args.seconds.to_string());
    if let Some(seed) = args.seed {
        cargo.env("EXEAT_FUZZ_SEED", seed.to_string());
    }
    step::loud(&mut cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_test_that_exists() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src/");
        for target in <Target as clap::ValueEnum>::value_variants() {
            let (module, test) = target.test().rsplit_once("::").expect("a path");
            let file = format!("{root}{}.rs", module.replace("::", "/"));
            let source = std::fs::read_to_string(&file).expect("the module's file");
            assert!(source.contains(&format!("fn {test}()")), "{test} in {file}");
        }
    }
}
