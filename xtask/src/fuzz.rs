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
    /// The ClientHellos that agents send, held against rustls
    Hello,
}

/// Where a target's test is.
struct Place {
    package: &'static str,
    /// What of the package cargo builds.
    part: &'static [&'static str],
    /// The test that runs for as long as it is told.
    test: &'static str,
}

impl Target {
    const fn place(self) -> Place {
        match self {
            Self::Gate => Place {
                package: "exeat",
                part: &["--lib"],
                test: "dns::gate::fuzz::for_a_time",
            },
            Self::Hello => Place {
                package: "agent-common",
                part: &["--test", "hello"],
                test: "fuzz::for_a_time",
            },
        }
    }
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let place = args.target.place();
    if args.target == Target::Gate {
        // The library includes the object.
        build::object(project, &setup::bpf(project, Tell::Changes)?)?;
    }
    let mut cargo = project.cargo();
    // Without optimisation, so that overflow and debug assertions are faults too.
    cargo.args(["test", "--package", place.package]);
    cargo.args(place.part).arg("--");
    cargo.args(["--ignored", "--exact", "--nocapture", place.test]);
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
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        for target in <Target as clap::ValueEnum>::value_variants() {
            let folder = match target {
                Target::Gate => "agent/src",
                Target::Hello => "agent-common/tests/hello",
            };
            let place = target.place();
            let (module, test) = place.test.rsplit_once("::").expect("a path");
            let file = format!("{root}/{folder}/{}.rs", module.replace("::", "/"));
            let source = std::fs::read_to_string(&file).expect("the module's file");
            assert!(source.contains(&format!("fn {test}()")), "{test} in {file}");
        }
    }
}
