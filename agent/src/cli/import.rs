//! `exeat import`: a plugin's permission manifest as a policy.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::print;
use super::term::printable_lines;
use crate::import::{How, MAX_BYTES, import};

/// What to import, and how.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ImportArgs {
    /// The manifest (JSON)
    #[arg(value_name = "MANIFEST")]
    pub manifest: PathBuf,
    /// Name of the agent [default: the plugin's]
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Write the policy into this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The publisher's key (minisign): a file, or the key itself. Then an unsigned manifest, or
    /// one signed by another, is refused
    #[arg(long, value_name = "KEY")]
    pub public_key: Option<String>,
    /// Take permissions for every destination (`*`, `<all_urls>`)
    #[arg(long)]
    pub allow_any: bool,
    /// Leave cloud permissions out: a policy has hosts, no providers
    #[arg(long)]
    pub without_cloud: bool,
}

/// Imports.
pub fn run(args: &ImportArgs) -> Result<Exit, Failure> {
    let shown = args.manifest.display();
    let failed = |exit, text: String| Failure::new(exit, format!("{shown}: {text}"));
    let file = std::fs::File::open(&args.manifest)
        .map_err(|error| failed(Exit::Failed, error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(Exit::Failed, error.to_string()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed(
            Exit::Usage,
            format!("it is longer than {MAX_BYTES} bytes"),
        ));
    }
    let key = args.public_key.as_ref().map(|key| {
        // A key has no slash at its beginning and is no file; a file that cannot be read is one.
        std::fs::read_to_string(key).unwrap_or_else(|_| key.clone())
    });
    let imported = import(
        &text,
        &How {
            agent: args.agent.as_deref(),
            allow_any: args.allow_any,
            without_cloud: args.without_cloud,
            public_key: key.as_deref(),
        },
    )
    .map_err(|error| failed(Exit::Usage, error.to_string()))?;
    for warning in &imported.warnings {
        eprintln!("exeat: {}", printable_lines(warning));
    }
    match &args.output {
        None => print(&printable_lines(&imported.policy))?,
        Some(path) => {
            let new = std::fs::File::options()
                .write(true)
                .create_new(true)
                .open(path);
            new.and_then(|mut file| file.write_all(imported.policy.as_bytes()))
                .map_err(|error| {
                    let text = format!("cannot write {}: {error}", path.display());
                    Failure::new(Exit::Failed, text)
                })?;
        }
    }
    Ok(Exit::Ok)
}
