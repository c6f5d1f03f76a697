//! Finds the BPF object that the binary holds, and the revision it is built from.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = match bpf_object(manifest) {
        Ok(object) => object,
        Err(why) => {
            // Not returned: that would print it as Rust writes a string.
            eprintln!("{why}");
            std::process::exit(1);
        }
    };
    println!("cargo:rustc-env=EXEAT_BPF_OBJECT={object}");
    println!("cargo:rustc-env=EXEAT_REVISION={}", revision(manifest));
}

/// The object's absolute path, for `include_bytes!`.
fn bpf_object(manifest: &Path) -> Result<String, String> {
    println!("cargo:rerun-if-env-changed=EXEAT_BPF_OBJECT");
    let object = match env::var_os("EXEAT_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => manifest
            .parent()
            .unwrap_or(manifest)
            .join("target/bpf/exeat-ebpf"),
    };
    // A path that does not exist makes cargo run this again at every build,
    // which is right: it may come.
    println!("cargo:rerun-if-changed={}", object.display());
    let found = object.canonicalize().map_err(|error| {
        format!(
            "the BPF object {} cannot be used ({error}): run `cargo xtask build` first, which \
             makes it, or set EXEAT_BPF_OBJECT to its path",
            object.display()
        )
    })?;
    found
        .into_os_string()
        .into_string()
        .map_err(|path| format!("the BPF object's path {path:?} is not UTF-8"))
}

/// The short commit hash, or `unknown` outside a repository.
fn revision(manifest: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(manifest)
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // HEAD's log changes exactly when HEAD's commit does; the file HEAD itself
    // names a branch and stays the same at a commit.
    for name in ["logs/HEAD", "HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && let watched = manifest.join(path)
            && watched.exists()
        {
            println!("cargo:rerun-if-changed={}", watched.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}
