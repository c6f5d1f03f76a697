//! The benchmarks: `cargo xtask bench` builds what they need and starts them.
//!
//! Everything is measured side by side in one run, in turns; [`field`] draws what stands
//! around the measured call. Needs root. The pins are in a mount namespace of its own and
//! the networks are held by descriptors, so nothing of them is left however it ends.

mod bpf;
mod dns;
mod events;
mod field;
mod history;
mod latency;
mod launch;
mod lists;
mod nft;
mod peer;
mod refusal;
mod remote;
mod report;
mod sock;
mod stats;
mod tables;
mod tls;
mod verdict;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use exeat::kernel::object::Throttle;
use field::Field;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use report::{NOISE, Report};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Measure Exeat beside nothing, empty programs, nftables, DNS forwarders and a proxy
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    /// Which ones (default: all)
    names: Vec<Name>,
    /// Fewer rounds: under a minute, and noisier
    #[arg(long)]
    quick: bool,
    /// How to print the results
    #[arg(long, default_value = "text")]
    output: Output,
    /// Write BENCHMARKS.md
    #[arg(long)]
    save: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Name {
    /// Nanoseconds a verdict
    Verdict,
    /// TCP connect and close
    Connect,
    /// UDP send
    Udp,
    /// TCP throughput
    Throughput,
    /// Processes that Exeat does not govern
    Outside,
    /// A refused connect
    Refusal,
    /// Filling and changing the tables
    Tables,
    /// Launching a program; the daemon's memory
    Launch,
    /// Events a second
    Events,
    /// Names: the gate beside plain forwarders
    Dns,
    /// TLS: the name check and the gateway beside a proxy
    Tls,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// How much to measure.
pub(crate) struct Settings {
    quick: bool,
}

impl Settings {
    /// One of two, by how quick it is to be.
    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    let outcome = match std::env::args().collect::<Vec<_>>().as_slice() {
        [_, word, milliseconds] if word == "flood" => milliseconds
            .parse()
            .context("flood MILLISECONDS")
            .and_then(events::flood),
        [_, word, milliseconds, rate] if word == "paced" => milliseconds
            .parse()
            .and_then(|milliseconds| Ok((milliseconds, rate.parse()?)))
            .context("paced MILLISECONDS RATE")
            .and_then(|(milliseconds, rate)| history::paced(milliseconds, rate)),
        [_, word, server] if word == "ask" => dns::ask(server),
        [_, word] if word == "shake" => tls::shake(),
        _ => run(&Cli::parse()),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("error: {why:#}");
        ExitCode::FAILURE
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the benchmarks load BPF programs and make network namespaces: run them as root");
    }
    if cli.save && !cli.names.is_empty() {
        bail!("--save writes the whole file, so it wants every benchmark: leave the names out");
    }
    own_mounts()?;
    let names: Vec<Name> = match cli.names.as_slice() {
        [] => Name::value_variants().to_vec(),
        some => some.to_vec(),
    };
    let settings = Settings { quick: cli.quick };
    let start = Instant::now();
    let mut report = Report::new();
    measure(&names, &settings, |sections| {
        if cli.output == Output::Text {
            for section in &sections {
                println!("{}", section.text());
            }
        }
        report.sections.extend(sections);
    })?;
    report.close(start.elapsed().as_secs_f64());
    match cli.output {
        Output::Text => println!("{}\n{NOISE}", report.head()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if cli.save {
        let path = root().join("BENCHMARKS.md");
        report
            .save(&path)
            .with_context(|| format!("write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(
    names: &[Name],
    settings: &Settings,
    mut done: impl FnMut(Vec<report::Section>),
) -> anyhow::Result<()> {
    let wants = |some: &[Name]| some.iter().any(|name| names.contains(name));
    let object = object();
    let shared = [
        Name::Verdict,
        Name::Connect,
        Name::Udp,
        Name::Throughput,
        Name::Outside,
        Name::Tables,
    ];
    if wants(&shared) {
        let beside = wants(&[Name::Connect, Name::Udp, Name::Throughput]);
        let large = wants(&[
            Name::Verdict,
            Name::Connect,
            Name::Udp,
            Name::Throughput,
            Name::Tables,
        ]);
        let sizes: &[usize] = if large {
            &[10, 10_000, 1_000_000]
        } else {
            &[10]
        };
        eprintln!("setting up: lists of {sizes:?} entries");
        // What the product has by default.
        let throttle = Throttle {
            per_second: 200,
            burst: 400,
        };
        // nft needs seconds for a million.
        let nft = |size| beside && (size < 1_000_000 || !settings.quick);
        let mut field = Field::new(sizes, throttle, &object, nft)?;
        type Part = fn(&mut Field, &Settings) -> anyhow::Result<Vec<report::Section>>;
        let parts: [(Name, Part); 6] = [
            (Name::Verdict, verdict::run),
            (Name::Connect, latency::connect),
            (Name::Udp, latency::udp),
            (Name::Throughput, latency::throughput),
            (Name::Outside, latency::outside),
            (Name::Tables, tables::run),
        ];
        for (name, part) in parts {
            if names.contains(&name) {
                done(timed(name, || part(&mut field, settings))?);
            }
        }
    }
    if wants(&[Name::Refusal]) {
        done(timed(Name::Refusal, || refusal::run(settings, &object))?);
    }
    if wants(&[Name::Launch]) {
        done(timed(Name::Launch, || launch::run(settings))?);
    }
    if wants(&[Name::Events]) {
        done(timed(Name::Events, || events::run(settings, &object))?);
    }
    if wants(&[Name::Dns]) {
        done(timed(Name::Dns, || dns::run(settings))?);
    }
    if wants(&[Name::Tls]) {
        done(timed(Name::Tls, || tls::run(settings, &object))?);
    }
    Ok(())
}

fn timed<T>(name: Name, part: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let word = name
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned());
    let start = Instant::now();
    let outcome = part().with_context(|| format!("benchmark `{word}`"));
    eprintln!("{word}: {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// A mount namespace with a bpffs of its own: what is pinned there goes with this process,
/// even if it is killed.
fn own_mounts() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("make / a private mount")?;
    mount(
        Some("bpf"),
        exeat_tests::disk::BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        none,
    )
    .context("mount a bpffs")
}

fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The object with the empty programs.
fn object() -> PathBuf {
    std::env::var_os("EXEAT_EMPTY_OBJECT")
        .map_or_else(|| root().join("target/bpf/empty"), PathBuf::from)
}
