//! The demo of `cargo xtask demo`: the main job on a real kernel, told step by step.
//!
//! Nothing that it reports is taken for granted: each row of its table comes from the
//! sniffer and the hosts on the far side of the wire, and the end from a search for what
//! it might have left behind.

mod attempts;
mod follow;
mod kernel;
mod ledger;
mod scene;
mod shell;
mod show;
mod signals;
mod story;
mod traces;

use anyhow::{Context, bail};
use ledger::Ledger;
use show::{Show, Tone};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use traces::Traces;

/// Programs that are run by name.
const PROGRAMS: [&str; 2] = ["ip", "curl"];

/// Exit code of a demo that a signal ended, as shells have it.
const INTERRUPTED: u8 = 130;

/// Runs the demo: exit code 0 if everything was as expected and nothing is left, 130
/// after a signal, 1 otherwise.
pub fn main() -> ExitCode {
    let show = Arc::new(Show::stdout());
    match run(&show) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<signals::Interrupted>() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(show: &Arc<Show>) -> anyhow::Result<()> {
    let begun = Instant::now();
    check_needs()?;
    let original = crate::daemon::program();
    if !original.exists() {
        bail!(
            "{} does not exist; run `cargo xtask build` or set EXEAT_BIN",
            original.display()
        );
    }
    let mut traces = Traces::new()?;
    let folder = tempfile::Builder::new().prefix("exeat-demo-").tempdir()?;
    crate::world::open_to_all(folder.path())?;
    traces.folder(folder.path());
    let copy = folder.path().join("exeat");
    crate::programs::copy(&original, &copy, 0o755)?;
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("EXEAT_BIN", &copy) };
    signals::catch()?;

    let mut ledger = Ledger::default();
    // Ctrl-C reaches the daemon too, whose end may be noticed first.
    let told = story::tell(show, &mut ledger, &mut traces)
        .or_else(|error| signals::check().and(Err(error)));
    // Everything that the story made has been dropped here, whatever came of it.
    let removed = folder.close().context("remove the demo's folder");
    match &told {
        Err(error) if error.is::<signals::Interrupted>() => {
            show.text("\nInterrupted: cleaning up.");
        }
        Err(error) => eprintln!("demo: {error:#}"),
        Ok(()) => {}
    }
    show.step("What is left behind?");
    let left = traces.left()?;
    for thing in &left {
        show.text(&format!("  {}", show.paint(Tone::Bad, thing)));
    }
    if left.is_empty() {
        show.text(&format!("  Nothing. Looked for: {}.", traces.tally()));
    }
    removed?;
    if told.is_ok() {
        ledger.note(
            "after the clean-up",
            "nothing left",
            format!("{} things left", left.len()),
            left.is_empty(),
        );
        show.step("What happened");
        ledger.print(show);
        let took = begun.elapsed().as_secs_f64();
        show.text(&format!(
            "\n  {} of {} as expected, in {took:.1} s.",
            ledger.len() - ledger.failed(),
            ledger.len()
        ));
        if ledger.failed() == 0 {
            show.step("What to try next");
            show.text(&next(&original));
        }
    }
    told?;
    if !left.is_empty() {
        bail!("{} things are left behind", left.len());
    }
    if ledger.failed() > 0 {
        bail!("{} expectations failed", ledger.failed());
    }
    Ok(())
}

fn check_needs() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("it loads BPF programs and makes network namespaces: run it as root");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|name| !std::env::split_paths(&path).any(|folder| folder.join(name).exists()))
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} not found; install iproute2 and curl, or run `sudo -E cargo xtask setup`",
            missing.join(" and ")
        );
    }
    Ok(())
}

/// Commands for someone who stands in the repository.
fn next(binary: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let binary: PathBuf = binary.strip_prefix(&here).unwrap_or(binary).to_owned();
    let binary = binary.display();
    format!(
        "  Can this machine enforce everything?
      sudo {binary} doctor
  Would a flow be allowed, and by which rule?
      {binary} explain --policy policies/demo.yaml --agent demo tcp://{api}:443
  Check a ready-made policy, then write your own beside it:
      {binary} check policies/*.yaml
  Put a real program under a policy, for this one run (refused: pip's policy does not name the host):
      sudo {binary} run --policy policies/pip.yaml -- curl -sS https://example.com/
  What holds the walls up: docs/architecture.md. Every metric: docs/metrics.md.",
        api = scene::API
    )
}
