//! The static programs of a guest: the product, the guest program and every live test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::arch::Arch;
use super::cross;
use super::fetch;
use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

/// By name: binaries, and test programs by their suite's name.
pub(super) type Programs = BTreeMap<String, PathBuf>;

/// What is in the payload besides the suites.
pub(super) const BINARIES: [&str; 3] = ["exeat", "hostile", "guest"];

/// One message of `cargo build --message-format=json`, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds all of them, or all but the suites.
pub(super) fn build(project: &Project, arch: Arch, suites: bool) -> Result<Programs> {
    let tools = setup::bpf(project, Tell::Changes)?;
    // One object for all: it holds nothing of a processor.
    build::object(project, &tools)?;
    let mut cargo = build::static_cargo(project, "build", arch.triple());
    if fetch::host_arch() != Some(arch) {
        cross::prepare(project, &tools, arch, &mut cargo)?;
    }
    cargo
        .args(["--package", "exeat", "--package", "exeat-tests"])
        .arg("--bins")
        .arg("--message-format=json-render-diagnostics");
    if suites {
        // Not --tests: unit tests take minutes to build and no guest runs them.
        cargo.args(["--test", "*"]);
    }
    let mut programs = Programs::new();
    let mut unread = None;
    step::lines(&mut cargo, |line| match read(line) {
        Ok(Some((name, path))) => {
            programs.insert(name, path);
        }
        Ok(None) => {}
        Err(why) => unread = Some(why),
    })?;
    if let Some(why) = unread {
        return Err(why).context("cargo's messages cannot be read");
    }
    for name in BINARIES {
        if !programs.contains_key(name) {
            bail!("cargo built no program {name}");
        }
    }
    Ok(programs)
}

/// The program that a message tells of, if it goes into the payload. Unit tests of the
/// libraries and of the binaries have no suite's name and stay out.
fn read(line: &str) -> Result<Option<(String, PathBuf)>> {
    let message: Message = serde_json::from_str(line)?;
    let (Some(target), Some(path)) = (message.target, message.executable) else {
        return Ok(None);
    };
    let in_deps = path.parent().is_some_and(|folder| folder.ends_with("deps"));
    let is = |kind: &str| target.kind.iter().any(|one| one == kind);
    let suite = is("test");
    let binary = is("bin") && !in_deps && BINARIES.contains(&target.name.as_str());
    Ok((message.reason == "compiler-artifact" && (suite || binary)).then_some((target.name, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_binaries_and_suites() {
        let message = |kind: &str, name: &str, path: &str| {
            let line = format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":"{path}","fresh":true}}"#
            );
            read(&line).expect("a message").map(|(name, _)| name)
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(message("test", "gate", "/t/deps/gate-1"), some("gate"));
        assert_eq!(message("bin", "exeat", "/t/debug/exeat"), some("exeat"));
        assert_eq!(message("bin", "exeat", "/t/debug/deps/exeat-1"), None);
        assert_eq!(message("bin", "bench", "/t/debug/bench"), None);
        assert_eq!(message("lib", "exeat", "/t/debug/deps/exeat-2"), None);
        let other = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(read(other).expect("a message"), None);
        assert!(read("Compiling").is_err());
    }
}
