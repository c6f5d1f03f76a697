//! `exeat identify`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{Format, OutputArgs, print_json};
use super::term::printable;
use crate::identity::{self, SIGNATURE, Sha256, package::Packages, script};

/// Say which program a file is: what the `identity` of a policy could say of it
///
/// A script is followed by its interpreter, and by the program that `env` starts for it: a
/// policy has to mean each of them. The files are read, and nothing is executed.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct IdentifyArgs {
    /// Files, or names of commands
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<OsString>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What one file is.
#[derive(Debug, Serialize)]
struct Found {
    path: PathBuf,
    /// Whether the kernel starts it; else it is a script of what follows.
    starts: bool,
    sha256: Sha256,
    /// The package whose file it is, unchanged.
    package: Option<String>,
    /// Packages that have a file of this path with other contents, or have not noted any.
    changed_from: Vec<String>,
    /// Where a signature is.
    signature: Option<PathBuf>,
}

/// Shows them all; the code is 1 where one cannot be identified.
pub fn run(args: &IdentifyArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let packages = Packages::default();
    let mut found: Vec<Found> = Vec::new();
    for file in &args.files {
        let failed = |error: std::io::Error| {
            let text = format!("{} cannot be identified: {error}", file.to_string_lossy());
            Failure::new(Exit::Failed, text)
        };
        for part in script::parts(file).map_err(failed)? {
            if found.iter().any(|known| known.path == part.path) {
                continue;
            }
            found.push(identify(part, &packages).map_err(failed)?);
        }
    }
    match args.output.output {
        Format::Json => print_json(&found)?,
        Format::Text => write!(out, "{}", render(&found))?,
    }
    Ok(Exit::Ok)
}

fn identify(part: script::Part, packages: &Packages) -> std::io::Result<Found> {
    let measured = identity::measure(&part.file)?;
    let (package, changed_from) = identity::owner(&part.file, &part.path, &measured, packages)?;
    let mut name = part.path.clone().into_os_string();
    name.push(SIGNATURE);
    let signature = PathBuf::from(name);
    Ok(Found {
        path: part.path,
        starts: part.starts,
        sha256: measured.sha256,
        package,
        changed_from,
        signature: signature.is_file().then_some(signature),
    })
}

/// Comments on each file, and lines for the policy of an agent: the package where there is
/// one, because that outlives an update, else the digest.
fn render(found: &[Found]) -> String {
    let shown = |path: &Path| printable(&path.display().to_string()).into_owned();
    let mut text = String::new();
    for file in found {
        let what = match file.starts {
            true => "a program",
            false => "a script",
        };
        text += &format!("# {}: {what}", shown(&file.path));
        if let Some(package) = &file.package {
            text += &format!(" of package {package}, unchanged");
        } else if !file.changed_from.is_empty() {
            let packages = file.changed_from.join(", ");
            text += &format!(", NOT as package {packages} has noted it");
        } else {
            text += " of no package";
        }
        if let Some(signature) = &file.signature {
            text += &format!(", signed in {} (write the key)", shown(signature));
        }
        text += &format!("\n#   sha256 {}\n", file.sha256);
    }
    text += "    identity:\n";
    let alone: Vec<&Found> = found.iter().filter(|file| file.package.is_none()).collect();
    if !alone.is_empty() {
        text += "      sha256:\n";
        for file in alone {
            text += &format!("        - \"{}\" # {}\n", file.sha256, shown(&file.path));
        }
    }
    let mut packages: Vec<&str> = found
        .iter()
        .filter_map(|file| file.package.as_deref())
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        text += &format!("      package: [\"{}\"]\n", packages.join("\", \""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_pasted_into_a_policy() {
        let file = |path: &str, package: Option<&str>| Found {
            path: path.into(),
            starts: package.is_some(),
            sha256: Sha256::of(b"abc"),
            package: package.map(str::to_owned),
            changed_from: Vec::new(),
            signature: None,
        };
        let found = [
            file("/home/u/tool # x", None),
            file("/usr/bin/env", Some("coreutils")),
            file("/usr/bin/node", Some("nodejs")),
        ];
        let text = render(&found);
        let policy = format!("version: 1\nagents:\n  a:\n{text}");
        let set = crate::policy::parse("p.yaml", &policy).expect(&policy);
        let policy = set.agents.values().next().expect("agent");
        let identity = &policy.identity;
        assert_eq!(identity.sha256, [Sha256::of(b"abc")].into());
        assert!(identity.means_package("coreutils") && identity.means_package("nodejs"));
        assert_eq!(identity.package.len(), 2);
        assert!(text.contains("a script of no package"), "{text}");
    }
}
