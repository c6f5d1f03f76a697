//! `exeat bundle`: signed policy bundles, from the keys to what is in force.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, print, print_json};
use super::term::printable;
use crate::bundle::archive::Archive;
use crate::bundle::check::{Seen, Verified, check};
use crate::bundle::config::BundleConfig;
use crate::bundle::keep::{Place, Store, read_bounded};
use crate::bundle::layers::of_bundle;
use crate::bundle::machine::Machine;
use crate::bundle::make::{self, BundlePlan, MakeError, RootPlan, SigningKey};
use crate::bundle::manifest::{Manifest, Turn};
use crate::bundle::{MAX_BYTES, MAX_METADATA, Refusal};
use crate::config::Config;
use crate::control::protocol::BundleReport;
use crate::control::{Client, ClientError, DaemonLock, Request, Response};

/// What follows the help.
pub const AFTER_HELP: &str = "Where policy is written:\n  exeat bundle key root.key; exeat bundle key \
    policy.key\n  exeat bundle root trust --root-key root.key.pub --key policy.key.pub --sign \
    root.key\n  exeat bundle build policies --trust trust --sign policy.key --output \
    acme.bundle\n\nOn a laptop, with trust/1.root.json as /etc/exeat/bundle/root.json:\n  exeat \
    bundle verify acme.bundle\n  sudo exeat bundle install acme.bundle\n\nExit codes: 0 done, 1 the \
    bundle is refused, 2 wrong usage, 5 not permitted.";

/// Signed policy bundles
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BundleArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BundleCommand,
}

/// The subcommands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum BundleCommand {
    /// Make a key: FILE is its private half, FILE.pub the other
    Key {
        /// Where to, which must not be there yet
        file: PathBuf,
    },
    /// Make the first root, or the next one: who may sign roots, and who bundles
    Root(RootArgs),
    /// Make a bundle of a folder with `bundle.yaml`
    Build(BuildArgs),
    /// Add a signature to a bundle or a root
    Sign {
        /// The bundle, or a root
        file: PathBuf,
        /// Private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check a bundle as a laptop that never saw one, without a network
    Verify(LookArgs),
    /// Show what is in a bundle, whether or not it is to be believed
    Show(LookArgs),
    /// Take a bundle on this laptop: by the daemon, or for its next start
    Install {
        /// The bundle
        file: PathBuf,
        /// Text or JSON.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Go back to the bundle before; the one in force is not taken again
    RollBack(OutputArgs),
}

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RootArgs {
    /// The folder of roots: N.root.json; the last one there is followed
    pub folder: PathBuf,
    /// A public key that may sign roots (again for more)
    #[arg(long, value_name = "FILE", required = true)]
    pub root_key: Vec<PathBuf>,
    /// How many of them have to
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub root_threshold: u32,
    /// A public key that may sign bundles (again for more)
    #[arg(long, value_name = "FILE", required = true)]
    pub key: Vec<PathBuf>,
    /// How many of them have to
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threshold: u32,
    /// Private key to sign with (again for more; others can `exeat bundle sign` later)
    #[arg(long, value_name = "FILE")]
    pub sign: Vec<PathBuf>,
    /// For how long it holds
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = time)]
    pub expires: SignedDuration,
}

/// A bundle to be made.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BuildArgs {
    /// The folder with `bundle.yaml` and the policy files that it names
    pub folder: PathBuf,
    /// The folder of roots
    #[arg(long, value_name = "FOLDER")]
    pub trust: PathBuf,
    /// Private key to sign with (again for more; others can `exeat bundle sign` later)
    #[arg(long, value_name = "FILE")]
    pub sign: Vec<PathBuf>,
    /// Where to
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Its version, above those before [default: the seconds since 1970]
    #[arg(long, value_name = "N")]
    pub version: Option<u32>,
    /// For how long it is to be believed
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = time)]
    pub expires: SignedDuration,
}

/// A bundle to look at.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LookArgs {
    /// The bundle
    pub file: PathBuf,
    /// The trusted root [default: `bundle: trust:` of the configuration]
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn time(text: &str) -> Result<SignedDuration, String> {
    let seconds = crate::policy::limits::parse_time(text)
        .ok_or("write a time with its unit, such as 30d or 12h")?;
    Ok(SignedDuration::from_secs(
        seconds.min(i64::MAX as u64) as i64
    ))
}

impl From<MakeError> for Failure {
    fn from(error: MakeError) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let word = refusal.kind();
        Self::new(
            Exit::Failed,
            format!("the bundle is refused ({}): {refusal}", word.as_str()),
        )
    }
}

/// Does it.
pub fn run(
    config: &dyn Fn() -> Result<Config, Failure>,
    args: &BundleArgs,
) -> Result<Exit, Failure> {
    match &args.command {
        BundleCommand::Key { file } => key(file),
        BundleCommand::Root(args) => root(args),
        BundleCommand::Build(args) => build(args),
        BundleCommand::Sign { file, key } => sign(file, key),
        BundleCommand::Verify(args) => look(config, args, true),
        BundleCommand::Show(args) => look(config, args, false),
        BundleCommand::Install { file, output } => install(&config()?, file, *output),
        BundleCommand::RollBack(output) => {
            let answer =
                Client::connect(&config()?.socket_path())?.ask(&Request::Bundle { file: None })?;
            report(answer, *output)
        }
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn key(file: &Path) -> Result<Exit, Failure> {
    let public = beside(file, ".pub");
    if file.exists() || public.exists() {
        return Err(failed(
            file,
            &"it is there already, and a key is not written over",
        ));
    }
    let (pem, key) = SigningKey::generate()?;
    crate::private::write(file, 0o600, pem.as_bytes()).map_err(|e| failed(file, &e))?;
    fs::write(&public, key.public_pem()?).map_err(|e| failed(&public, &e))?;
    print(&format!("key {}\n", key.id()))?;
    Ok(Exit::Ok)
}

fn keys(paths: &[PathBuf]) -> Result<Vec<SigningKey>, MakeError> {
    paths.iter().map(|path| SigningKey::read(path)).collect()
}

/// `N.root.json` of a folder.
fn roots(folder: &Path) -> Result<BTreeMap<u32, Vec<u8>>, Failure> {
    let mut roots = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(roots);
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_suffix(".root.json")
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            roots.insert(number, read_bounded(&entry.path(), MAX_METADATA)?);
        }
    }
    Ok(roots)
}

fn root(args: &RootArgs) -> Result<Exit, Failure> {
    let public = |paths: &[PathBuf]| -> Result<Vec<_>, MakeError> {
        paths.iter().map(|path| make::read_public(path)).collect()
    };
    let plan = RootPlan {
        root_keys: public(&args.root_key)?,
        root_threshold: args.root_threshold,
        keys: public(&args.key)?,
        threshold: args.threshold,
        lasts: args.expires,
    };
    let before = roots(&args.folder)?;
    let before = before.last_key_value().map(|(_, root)| root.as_slice());
    let (version, root) = make::root(before, &plan, &keys(&args.sign)?, Timestamp::now())?;
    fs::create_dir_all(&args.folder).map_err(|e| failed(&args.folder, &e))?;
    let path = args.folder.join(format!("{version}.root.json"));
    fs::write(&path, root).map_err(|e| failed(&path, &e))?;
    print(&format!("{}\n", path.display()))?;
    Ok(Exit::Ok)
}

/// Every file below a folder, by its name from there; hidden ones are left out.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).map_err(|e| failed(&next, &e))? {
            let path = entry.map_err(|e| failed(&next, &e))?.path();
            let hidden = path
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if hidden {
                continue;
            }
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path);
            let name = name
                .to_str()
                .ok_or_else(|| failed(&path, &"its name is not UTF-8"))?;
            found.insert(name.to_owned(), read_bounded(&path, MAX_BYTES)?);
        }
    }
    Ok(found)
}

fn build(args: &BuildArgs) -> Result<Exit, Failure> {
    let roots = roots(&args.trust)?;
    if roots.is_empty() {
        return Err(failed(
            &args.trust,
            &"it has no N.root.json; `exeat bundle root` makes one",
        ));
    }
    let now = Timestamp::now();
    let seconds = u32::try_from(now.as_second()).unwrap_or(u32::MAX);
    let plan = BundlePlan {
        version: args.version.unwrap_or(seconds),
        lasts: args.expires,
        now,
    };
    let archive = make::bundle(files(&args.folder)?, roots, &plan, &keys(&args.sign)?)?;
    let bytes = archive.write().map_err(|e| failed(&args.output, &e))?;
    // What no laptop would read is not made.
    Archive::read(&bytes)?;
    fs::write(&args.output, bytes).map_err(|e| failed(&args.output, &e))?;
    print(&format!(
        "{}: version {}\n",
        args.output.display(),
        plan.version
    ))?;
    Ok(Exit::Ok)
}

fn sign(file: &Path, key: &Path) -> Result<Exit, Failure> {
    let key = SigningKey::read(key)?;
    let bytes = read_bounded(file, MAX_BYTES)?;
    let signed = match make::is_root(&bytes) {
        true => make::sign_root(&bytes, &key)?,
        false => {
            let mut archive = Archive::read(&bytes)?;
            make::sign(&mut archive, &key)?;
            archive.write().map_err(|e| failed(file, &e))?
        }
    };
    let new = beside(file, ".new");
    fs::write(&new, signed)
        .and_then(|()| fs::rename(&new, file))
        .map_err(|e| failed(file, &e))?;
    print(&format!("{}: signed by {}\n", file.display(), key.id()))?;
    Ok(Exit::Ok)
}

fn look(
    config: &dyn Fn() -> Result<Config, Failure>,
    args: &LookArgs,
    strict: bool,
) -> Result<Exit, Failure> {
    let trust = match &args.trust {
        Some(path) => path.clone(),
        None => config()?.bundle.trust,
    };
    let archive = Archive::read(&read_bounded(&args.file, MAX_BYTES)?)?;
    let anchor = read_bounded(&trust, MAX_METADATA)
        .map_err(|error| Refusal::NoTrust(format!("{error}; name one by --trust")));
    let result =
        anchor.and_then(|anchor| check(&archive, &anchor, &Seen::default(), Timestamp::now()));
    if strict && let Err(refusal) = result {
        return Err(refusal.into());
    }
    match args.output.output {
        Format::Json => print_json(&in_json(&archive, &result))?,
        Format::Text => print(&in_text(&archive, &result))?,
    }
    Ok(Exit::Ok)
}

fn in_json(archive: &Archive, result: &Result<Verified, Refusal>) -> serde_json::Value {
    let files: Vec<&String> = archive.files.keys().collect();
    let roots: Vec<&u32> = archive.roots.keys().collect();
    match result {
        Ok(sound) => serde_json::json!({
            "verified": true,
            "name": sound.manifest.name,
            "version": sound.version,
            "root_version": sound.root_version,
            "published": sound.published,
            "expires": sound.expires,
            "local": sound.manifest.local,
            "keys": sound.keys,
            "files": files,
            "roots": roots,
        }),
        Err(refusal) => serde_json::json!({
            "verified": false,
            "reason": refusal.kind().as_str(),
            "message": refusal.to_string(),
            "files": files,
            "roots": roots,
        }),
    }
}

fn in_text(archive: &Archive, result: &Result<Verified, Refusal>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let manifest = match result {
        Ok(sound) => {
            let (name, version) = (&sound.manifest.name, sound.version);
            let _ = writeln!(
                out,
                "sound      {name} version {version}, root {}",
                sound.root_version
            );
            let _ = writeln!(
                out,
                "built      {}, to be believed until {}",
                sound.published, sound.expires
            );
            for (role, ids) in &sound.keys {
                let short: Vec<String> =
                    ids.iter().map(|id| id.chars().take(16).collect()).collect();
                let _ = writeln!(out, "{role:<10} {}", short.join(" "));
            }
            Some(sound.manifest.clone())
        }
        Err(refusal) => {
            let why = refusal.to_string();
            let _ = writeln!(
                out,
                "NOT TO BE BELIEVED ({}): {}",
                refusal.kind().as_str(),
                printable(&why)
            );
            let text = archive.files.get(crate::bundle::archive::MANIFEST);
            text.and_then(|text| Manifest::parse(std::str::from_utf8(text).ok()?).ok())
        }
    };
    for (name, bytes) in &archive.files {
        let entry = manifest
            .as_ref()
            .and_then(|m| m.files.iter().find(|entry| entry.file == *name));
        let layer = entry.map(|entry| format!("{:?}", entry.layer).to_lowercase());
        let _ = writeln!(
            out,
            "  {:<8} {:>8}  {}",
            layer.unwrap_or_default(),
            bytes.len(),
            printable(name)
        );
    }
    out
}

fn install(config: &Config, file: &Path, output: OutputArgs) -> Result<Exit, Failure> {
    let path = fs::canonicalize(file).map_err(|e| failed(file, &e))?;
    let asked = Client::connect(&config.socket_path()).and_then(|mut client| {
        client.ask(&Request::Bundle {
            file: Some(path.clone()),
        })
    });
    match asked {
        Ok(answer) => report(answer, output),
        Err(ClientError::NotRunning(_)) => {
            let done = install_here(config, &path)?;
            show(&done, output)?;
            if output.output == Format::Text {
                print("the daemon is not running: it will be in force when it starts\n")?;
            }
            Ok(Exit::Ok)
        }
        Err(error) => Err(error.into()),
    }
}

/// Without a daemon, and with its lock, so that none comes in between.
fn install_here(config: &Config, path: &Path) -> Result<BundleReport, Failure> {
    if !nix::unistd::geteuid().is_root() {
        let text = "the daemon is not running, and without it only root installs bundles";
        return Err(Failure::new(Exit::NotPermitted, text));
    }
    let _lock = DaemonLock::acquire(&config.runtime_dir)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let folder = BundleConfig::folder(&config.state_dir);
    let mut store = Store::open(&folder, &config.bundle.trust)?;
    let bytes = read_bounded(path, MAX_BYTES)?;
    let now = Timestamp::now();
    let (sound, anchor) = store.check(&bytes, now)?;
    let machine = Machine::here(&config.bundle);
    of_bundle(&sound, &machine)?;
    let turn = sound.manifest.turn(&machine, sound.published, now);
    let place = match turn {
        Turn::Wait => Place::Waiting,
        Turn::Monitor | Turn::Enforce => Place::Current,
    };
    store.accept(
        &bytes,
        (&sound, &anchor),
        &path.display().to_string(),
        place,
        now,
    )?;
    Ok(BundleReport {
        name: sound.manifest.name.clone(),
        version: sound.version,
        expires: sound.expires,
        stage: turn.as_str().to_owned(),
        changed: true,
        changes: Vec::new(),
    })
}

fn report(answer: Response, output: OutputArgs) -> Result<Exit, Failure> {
    let Response::Bundle(report) = answer else {
        return Err(ClientError::Protocol("it is no report of a bundle".into()).into());
    };
    show(&report, output)?;
    Ok(Exit::Ok)
}

fn show(report: &BundleReport, output: OutputArgs) -> Result<(), Failure> {
    match output.output {
        Format::Json => print_json(report),
        Format::Text => Ok(print(&render(report))?),
    }
}

fn render(report: &BundleReport) -> String {
    let what = match (&*report.stage, report.changed) {
        (_, false) => "is in force already",
        ("wait", _) => "waits for its turn in the roll-out",
        ("monitor", _) => "is taken, new agents monitored",
        _ => "is taken",
    };
    let (name, version, expires) = (printable(&report.name), report.version, report.expires);
    let mut out = format!("{name} version {version} {what}; to be believed until {expires}\n");
    for change in &report.changes {
        let _ = writeln!(out, "  {}", printable(change));
    }
    out
}
