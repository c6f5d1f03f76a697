//! `cargo xtask test`: every check and every test, with all the set-up.

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;
use crate::tally::Count;
use crate::vm;

/// The database of known holes is fetched within seconds or not at all.
const FETCH_LIMIT: Duration = Duration::from_secs(90);

/// Run every check and every test, with all the set-up they need
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this, and no other check
    filter: Option<String>,
    /// Leave out what needs root or the network: cargo-deny, live-kernel tests, other kernels
    #[arg(long)]
    quick: bool,
    /// Run only this step
    #[arg(long, value_name = "STEP", conflicts_with = "quick")]
    only: Option<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// cargo fmt --check
    Format,
    /// clippy, warnings denied, for the host and for the BPF target
    Clippy,
    /// Licences, banned crates, sources and known holes of dependencies
    Deny,
    /// Tests that need nothing of the kernel
    Unit,
    /// Live-kernel and end-to-end tests, as root
    Live,
    /// The core live tests on the oldest, a middle and the newest kernel, in virtual machines
    Vm,
}

const ALL: [Step; 6] = [
    Step::Format,
    Step::Clippy,
    Step::Deny,
    Step::Unit,
    Step::Live,
    Step::Vm,
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "format",
            Self::Clippy => "clippy",
            Self::Deny => "deny",
            Self::Unit => "unit",
            Self::Live => "live",
            Self::Vm => "vm",
        })
    }
}

impl Step {
    /// Whether it needs the BPF object, which the binary's crate includes.
    fn compiles(self) -> bool {
        matches!(self, Self::Clippy | Self::Unit | Self::Live | Self::Vm)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Clippy => "clippy",
            Self::Deny => "dependencies",
            Self::Unit => "unit tests",
            Self::Live => "live-kernel and end-to-end tests",
            Self::Vm => "core tests on other kernels",
        }
    }
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let started = Instant::now();
    let mut times = Vec::new();
    let mut count = Count::default();

    let steps = steps(args);
    step::heading("set-up");
    let mark = Instant::now();
    set_up(project, &steps)?;
    times.push(("set-up", mark.elapsed()));
    if steps.iter().any(|one| one.compiles()) {
        step::heading("BPF object");
        let mark = Instant::now();
        build::object(project, &setup::bpf(project, Tell::Changes)?)?;
        times.push(("BPF object", mark.elapsed()));
    }

    for one in steps {
        step::heading(one.title());
        let mark = Instant::now();
        let outcome = match one {
            Step::Format => format(project),
            Step::Clippy => clippy(project),
            Step::Deny => deny(project),
            Step::Unit => unit(project, args, &mut count),
            Step::Live => live(project, args, &mut count),
            Step::Vm => vm::few(project),
        };
        outcome.with_context(|| {
            let filter = args.filter.as_deref().unwrap_or_default();
            let again = format!("cargo xtask test --only {one} {filter}");
            format!("step `{one}`; run it again with `{}`", again.trim())
        })?;
        times.push((one.title(), mark.elapsed()));
    }

    if let Some(filter) = &args.filter {
        ensure!(
            count.passed + count.ignored > 0,
            "no test's name contains {filter:?}"
        );
    }
    step::heading("times");
    for (title, took) in times {
        println!("{:>12}  {title}", step::seconds(took));
    }
    println!("{:>12}  in all", step::seconds(started.elapsed()));
    if args.quick {
        println!(
            "left out by --quick: dependencies, live-kernel and end-to-end tests, other kernels"
        );
    }
    if count != Count::default() {
        println!("{}", closing(count));
    }
    Ok(())
}

fn steps(args: &Args) -> Vec<Step> {
    ALL.into_iter()
        .filter(|&one| match args.only {
            Some(only) => one == only,
            None => {
                let tests = matches!(one, Step::Unit | Step::Live);
                let heavy = matches!(one, Step::Deny | Step::Live | Step::Vm);
                (tests || args.filter.is_none()) && !(heavy && args.quick)
            }
        })
        .collect()
}

/// Gets what the chosen steps need: a step that needs no root shall not stop
/// for want of a package that only root can install.
fn set_up(project: &Project, steps: &[Step]) -> Result<()> {
    if steps.contains(&Step::Live) {
        setup::packages(Tell::All)?;
        setup::clients(project, Tell::All);
    }
    if steps.contains(&Step::Vm) {
        setup::vm_packages(Tell::All)?;
    }
    if steps.iter().any(|one| one.compiles()) {
        setup::bpf(project, Tell::All)?;
    }
    if steps.contains(&Step::Deny) {
        setup::cargo_deny(project, Tell::All)?;
    }
    Ok(())
}

fn format(project: &Project) -> Result<()> {
    let mut cargo = project.cargo();
    step::loud(cargo.args(["fmt", "--all", "--check"]))
        .context("the sources are not formatted: `cargo fmt --all` does it")
}

fn clippy(project: &Project) -> Result<()> {
    let tools = setup::bpf(project, Tell::Changes)?;
    let mut host = project.cargo();
    host.args(["clippy", "--all-targets", "--", "-D", "warnings"]);
    step::loud(&mut host)?;
    let mut bpf = build::bpf_cargo(project, &tools, "clippy");
    step::loud(bpf.args(["--", "-D", "warnings"]))
}

fn deny(project: &Project) -> Result<()> {
    let bin = setup::cargo_deny(project, Tell::Changes)?;
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(bin.join("cargo-deny"));
        command.current_dir(&project.root).args(arguments);
        command
    };
    // Without the graphs: every duplicate's would fill a screen.
    let check = ["check", "--hide-inclusion-graph"];
    let local = [check.as_slice(), &["bans", "licenses", "sources"]].concat();
    step::loud(&mut deny(&local))?;
    // The database lives on a host of its own, which a build machine may not
    // reach. What is reachable is checked; what is not is said.
    match step::quiet("advisories", &mut deny(&["fetch", "db"]), FETCH_LIMIT) {
        Ok(()) => {
            let holes = [check.as_slice(), &["advisories"]].concat();
            step::loud(&mut deny(&holes))
        }
        Err(why) => {
            println!(
                "advisories NOT CHECKED: the database of known holes could not be fetched. {why:#}"
            );
            Ok(())
        }
    }
}

fn unit(project: &Project, args: &Args, count: &mut Count) -> Result<()> {
    // Not static: glibc's look-up of a user or group crashes in a static program where the
    // machine's nsswitch.conf names a module (`systemd`).
    let mut cargo = project.cargo();
    // agent-ebpf builds only for the BPF target; exeat-tests wants root.
    cargo.args(["test", "--workspace"]);
    cargo.args(["--exclude", "agent-ebpf", "--exclude", "exeat-tests"]);
    tests(cargo, args, count)
}

fn live(project: &Project, args: &Args, count: &mut Count) -> Result<()> {
    let binary = build::binary(project)?;
    let path = setup::path_variable()?;
    // Not --release: link-time optimisation of two dozen test programs takes ten minutes on two
    // cores, and what is under test is the release binary that EXEAT_BIN names.
    let mut cargo = build::static_cargo(project, "test", &project.compiler.host);
    cargo.args(["--package", "exeat-tests"]);
    cargo.env("EXEAT_BIN", &binary).env("PATH", &path);
    if !setup::is_root() {
        let mut sudo = Command::new("sudo");
        step::capture(sudo.args(["-n", "true"])).context(
            "these tests load BPF programs and make network namespaces, so they need root, and \
             sudo does not let this user in without a password: run `sudo -v` first",
        )?;
        let path = path.to_str().context("PATH is not UTF-8")?;
        cargo
            .arg("--config")
            .arg(sudo_runner(&project.compiler.host, path));
    }
    tests(cargo, args, count)
}

/// Has cargo start the test programs, and only them, by sudo: what it builds
/// stays the user's own. sudo replaces PATH even with `-E`.
fn sudo_runner(host: &str, path: &str) -> String {
    let words = ["sudo", "-n", "-E", "env", &format!("PATH={path}")]
        .map(|word| format!("{:?}", word))
        .join(", ");
    format!("target.{host}.runner=[{words}]")
}

fn tests(mut cargo: Command, args: &Args, count: &mut Count) -> Result<()> {
    // One run tells of every suite that fails.
    cargo.arg("--no-fail-fast").args(&args.filter);
    let mut here = Count::default();
    let outcome = step::watched(&mut cargo, |line| here.add(line));
    count.passed += here.passed;
    count.failed += here.failed;
    count.ignored += here.ignored;
    outcome?;
    if args.filter.is_none() && here.passed == 0 {
        bail!("`{}` ran no test", step::shown(&cargo));
    }
    Ok(())
}

fn closing(count: Count) -> String {
    let Count {
        passed,
        failed,
        ignored,
    } = count;
    let mut line = format!("total: {passed} passed, {failed} failed");
    if ignored > 0 {
        line.push_str(&format!(", {ignored} skipped"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(filter: Option<&str>, quick: bool, only: Option<Step>) -> Vec<Step> {
        steps(&Args {
            filter: filter.map(str::to_owned),
            quick,
            only,
        })
    }

    #[test]
    fn chooses_the_steps() {
        assert_eq!(chosen(None, false, None), ALL);
        assert_eq!(chosen(None, false, Some(Step::Vm)), [Step::Vm]);
        assert_eq!(
            chosen(None, true, None),
            [Step::Format, Step::Clippy, Step::Unit]
        );
        assert_eq!(chosen(Some("dns"), false, None), [Step::Unit, Step::Live]);
        assert_eq!(chosen(Some("dns"), true, None), [Step::Unit]);
        assert_eq!(chosen(Some("dns"), false, Some(Step::Live)), [Step::Live]);
    }

    #[test]
    fn closes_with_what_was_counted() {
        let count = Count {
            passed: 7,
            failed: 3,
            ignored: 1,
        };
        assert_eq!(closing(count), "total: 7 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn sudo_runs_the_test_programs_only() {
        assert_eq!(
            sudo_runner("x86_64-unknown-linux-gnu", "/my bin:/bin"),
            "target.x86_64-unknown-linux-gnu.runner=\
             [\"sudo\", \"-n\", \"-E\", \"env\", \"PATH=/my bin:/bin\"]"
        );
    }
}
