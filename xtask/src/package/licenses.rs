//! The licence texts of what is linked into the program, which its licences ask to be given on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Job, stage};
use crate::step;

/// How names of such files begin.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"];

/// Of `cargo metadata`, what matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
}

#[derive(Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// Nothing for what is linked; `build` and `dev` are not given on.
    kind: Option<String>,
}

pub(super) fn write(job: &Job<'_>, tree: &Path) -> Result<()> {
    let mut cargo = job.project.cargo();
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--filter-platform", job.arch.triple()]);
    let said = step::capture(&mut cargo)?;
    let metadata = serde_json::from_str(&said).context("cargo metadata cannot be read")?;
    let plain = job.work.join("third-party-licenses");
    fs::write(&plain, text(&metadata)?)
        .with_context(|| format!("could not write {}", plain.display()))?;
    stage::gzip(
        &plain,
        &tree.join("usr/share/doc/exeat/third-party-licenses.gz"),
    )
}

/// Each package, and each text once with those who share it.
fn text(metadata: &Metadata) -> Result<String> {
    let linked = linked(metadata);
    let mut out = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in &metadata.packages {
        if !linked.contains(package.id.as_str()) || package.source.is_none() {
            continue;
        }
        let title = format!("{} {}", package.name, package.version);
        let license = package.license.as_deref().unwrap_or("see its text");
        let _ = writeln!(out, "{title}: {license}");
        let folder = package.manifest_path.parent().unwrap_or(Path::new("/"));
        for file in stage::list(folder)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let upper = name.to_uppercase();
            if file.is_file() && NAMES.iter().any(|begin| upper.starts_with(begin)) {
                let words = fs::read(&file)
                    .with_context(|| format!("could not read {}", file.display()))?;
                let words = String::from_utf8_lossy(&words).trim().to_owned();
                texts.entry(words).or_default().push(title.clone());
            }
        }
    }
    for (words, mut of) in texts {
        of.dedup();
        let _ = write!(out, "\n{}\n{}\n\n{words}\n", "=".repeat(72), of.join(", "));
    }
    Ok(out)
}

fn linked(metadata: &Metadata) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let own = metadata.packages.iter().find(|one| one.name == "exeat");
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = own.map(|one| one.id.as_str()).into_iter().collect();
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let deps = nodes.get(id).map_or(&[][..], |node| node.deps.as_slice());
        open.extend(
            deps.iter()
                .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .map(|dep| dep.pkg.as_str()),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_linked_is_given_on() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"packages":[{"id":"e","name":"exeat","version":"1","license":null,
                "manifest_path":"/x","source":null}],
            "resolve":{"nodes":[
              {"id":"e","deps":[{"pkg":"a","dep_kinds":[{"kind":null}]},
                                {"pkg":"t","dep_kinds":[{"kind":"dev"}]}]},
              {"id":"a","deps":[{"pkg":"b","dep_kinds":[{"kind":"build"},{"kind":null}]}]},
              {"id":"b","deps":[]},{"id":"t","deps":[]}]}}"#,
        )
        .expect("metadata");
        let found: Vec<_> = linked(&metadata).into_iter().collect();
        assert_eq!(found, ["a", "b", "e"]);
    }
}
