//! Where things are: the workspace, the compiler and the user's cache.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step;

/// What every subcommand starts from.
pub(crate) struct Project {
    /// The workspace's folder.
    pub(crate) root: PathBuf,
    /// Holds what set-up fetched or built. Outside the workspace, so that a
    /// fresh clone finds it again.
    pub(crate) cache: PathBuf,
    pub(crate) compiler: Compiler,
}

/// What `rustc` says about itself.
pub(crate) struct Compiler {
    /// For example `1.95.0`.
    pub(crate) version: String,
    /// The host's target triple.
    pub(crate) host: String,
    /// For example `22`: bpf-linker is built against the very LLVM that writes
    /// the bitcode, because an older one cannot read it.
    pub(crate) llvm_major: u32,
    pub(crate) sysroot: PathBuf,
}

impl Project {
    /// Asks the compiler and reads the environment. Creates nothing.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask's own folder has no parent: build it anew in the workspace")?
            .to_path_buf();
        let mut rustc = Command::new("rustc");
        rustc.current_dir(&root);
        let verbose = step::capture(rustc.arg("-vV"))?;
        let mut rustc = Command::new("rustc");
        rustc.current_dir(&root);
        let sysroot = step::capture(rustc.args(["--print", "sysroot"]))?;
        let compiler = Compiler::parse(&verbose, Path::new(sysroot.trim()))?;
        let cache = cache_folder(&root, |name| env::var_os(name).map(PathBuf::from));
        Ok(Self {
            root,
            cache,
            compiler,
        })
    }

    /// A cargo command in the workspace, free of what the outer `cargo run`
    /// put into the environment.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            let Some(text) = name.to_str() else { continue };
            if is_leftover(text) {
                cargo.env_remove(name);
            }
        }
        cargo
    }

    /// The tools that belong to this compiler.
    pub(crate) fn tools(&self) -> PathBuf {
        self.cache.join(format!("tools-{}", self.compiler.version))
    }

    /// Where set-up puts rust-src when the compiler's own folders have none.
    pub(crate) fn cached_library(&self) -> PathBuf {
        self.cache
            .join(format!("rust-src-{}", self.compiler.version))
            .join("library")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }
}

impl Compiler {
    fn parse(verbose: &str, sysroot: &Path) -> Result<Self> {
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` has no line `{name}: …`"))
        };
        let llvm = field("LLVM version")?;
        let llvm_major = llvm
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("`rustc -vV` gives the LLVM version {llvm:?}"))?;
        ensure!(
            sysroot.is_absolute(),
            "`rustc --print sysroot` gives {sysroot:?}"
        );
        Ok(Self {
            version: field("release")?.to_owned(),
            host: field("host")?.to_owned(),
            llvm_major,
            sysroot: sysroot.to_path_buf(),
        })
    }

    /// The folder of the compiler's shared libraries, libLLVM among them.
    pub(crate) fn lib(&self) -> PathBuf {
        self.sysroot.join("lib")
    }
}

/// Flags would reach the BPF target too, and the package's variables would make
/// build scripts that watch them (ring's does) run again at each change between
/// `cargo build` and `cargo xtask build`.
fn is_leftover(name: &str) -> bool {
    matches!(
        name,
        "RUSTFLAGS"
            | "CARGO_ENCODED_RUSTFLAGS"
            | "CARGO_BUILD_TARGET"
            | "CARGO_MANIFEST_DIR"
            | "CARGO_MANIFEST_PATH"
            | "CARGO_BIN_NAME"
            | "CARGO_CRATE_NAME"
            | "CARGO_PRIMARY_PACKAGE"
    ) || name.starts_with("CARGO_PKG_")
}

fn cache_folder(root: &Path, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("EXEAT_CACHE")
        .or_else(|| Some(absolute("XDG_CACHE_HOME")?.join("exeat")))
        .or_else(|| Some(absolute("HOME")?.join(".cache/exeat")))
        .unwrap_or_else(|| root.join(".cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\n\
        binary: rustc\n\
        commit-hash: 59807616e1fa2540724bfbac14d7976d7e4a3860\n\
        host: x86_64-unknown-linux-gnu\n\
        release: 1.95.0\n\
        LLVM version: 22.1.2\n";

    #[test]
    fn reads_the_compilers_words() {
        let compiler = Compiler::parse(VERBOSE, Path::new("/rust")).expect("parse");
        assert_eq!(compiler.version, "1.95.0");
        assert_eq!(compiler.host, "x86_64-unknown-linux-gnu");
        assert_eq!(compiler.llvm_major, 22);
        assert_eq!(compiler.lib(), Path::new("/rust/lib"));
    }

    #[test]
    fn names_the_missing_line() {
        let without = VERBOSE.replace("host: ", "guest: ");
        let error = Compiler::parse(&without, Path::new("/rust")).err();
        assert!(error.expect("an error").to_string().contains("`host: …`"));
        let bad = VERBOSE.replace("22.1.2", "none");
        assert!(Compiler::parse(&bad, Path::new("/rust")).is_err());
        assert!(Compiler::parse(VERBOSE, Path::new("")).is_err());
    }

    #[test]
    fn cache_prefers_the_explicit_variable() {
        let folder = |set: &[(&str, &str)]| {
            cache_folder(Path::new("/clone"), |name| {
                let (_, value) = set.iter().find(|(key, _)| *key == name)?;
                Some(PathBuf::from(value))
            })
        };
        let all = [
            ("EXEAT_CACHE", "/e"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(folder(&all), Path::new("/e"));
        assert_eq!(folder(&all[1..]), Path::new("/x/exeat"));
        assert_eq!(folder(&all[2..]), Path::new("/h/.cache/exeat"));
        assert_eq!(folder(&[("HOME", "")]), Path::new("/clone/.cache"));
    }

    #[test]
    fn leaves_the_users_own_variables() {
        assert!(is_leftover("RUSTFLAGS"));
        assert!(is_leftover("CARGO_PKG_NAME"));
        assert!(!is_leftover("CARGO_HOME"));
        assert!(!is_leftover("CARGO_TERM_COLOR"));
    }
}
