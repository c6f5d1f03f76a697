//! What is said about the programs of an agent.

use super::super::file::{At, IdentityFile, PackagesFile};
use super::super::identity::Identity;
use std::collections::BTreeSet;

pub(super) fn identity(file: Option<&At<IdentityFile>>) -> Identity {
    let Some(At { value: file, .. }) = file else {
        return Identity::default();
    };
    let names = |packages: &At<PackagesFile>| -> BTreeSet<String> {
        let packages = packages.value.0.iter();
        packages.map(|package| package.value.clone()).collect()
    };
    Identity {
        sha256: file
            .sha256
            .iter()
            .flat_map(|digests| digests.value.0.iter().copied())
            .collect(),
        package: file.package.as_ref().map(names).unwrap_or_default(),
        minisign: file
            .minisign
            .iter()
            .flat_map(|keys| keys.value.0.iter().cloned())
            .collect(),
        all: file.all.as_ref().is_some_and(|all| all.value),
    }
}
