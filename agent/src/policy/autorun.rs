//! What in a project runs by itself outside of the sandbox: on the next `git status`, when a
//! shell enters the folder, when an editor opens it. An agent that may change it speaks with
//! its user's rights a moment later.
//!
//! What a person starts by name (a build file, a test, `package.json`'s scripts) is not here:
//! nothing of a project would be left.

use std::path::{Component, Path};

/// One such file or folder, below any folder of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path. A folder stands for all that is in it.
    pub path: &'static str,
    /// What runs it.
    pub by: &'static str,
}

const fn entry(path: &'static str, by: &'static str) -> Entry {
    Entry { path, by }
}

/// All of them. At the top of a project each can be mounted read-only as it is.
pub const ENTRIES: &[Entry] = &[
    entry(".git/config", "Git"),
    entry(".git/config.worktree", "Git"),
    entry(".git/commondir", "Git"),
    entry(".git/hooks", "Git"),
    entry(".git/rebase-apply", "Git"),
    entry(".git/rebase-merge", "Git"),
    entry(".git/sequencer", "Git"),
    entry(".githooks", "Git"),
    entry(".git-hooks", "Git"),
    entry(".husky", "Husky"),
    entry(".lefthook", "Lefthook"),
    entry(".lefthook.yml", "Lefthook"),
    entry(".lefthook.yaml", "Lefthook"),
    entry(".lefthook-local.yml", "Lefthook"),
    entry("lefthook.yml", "Lefthook"),
    entry("lefthook.yaml", "Lefthook"),
    entry("lefthook-local.yml", "Lefthook"),
    entry(".overcommit.yml", "Overcommit"),
    entry(".pre-commit-config.yaml", "pre-commit"),
    entry(".hg/hgrc", "Mercurial"),
    entry(".jj/repo/config.toml", "Jujutsu"),
    entry(".envrc", "direnv"),
    entry(".autoenv", "autoenv"),
    entry(".autoenv.zsh", "autoenv"),
    entry(".mise.toml", "mise"),
    entry(".mise.local.toml", "mise"),
    entry("mise.toml", "mise"),
    entry("mise.local.toml", "mise"),
    entry(".mise", "mise"),
    entry("mise/config.toml", "mise"),
    entry(".config/mise", "mise"),
    entry(".config/mise.toml", "mise"),
    entry(".rtx.toml", "mise"),
    entry(".devcontainer", "development containers"),
    entry(".devcontainer.json", "development containers"),
    entry(".vscode", "VS Code"),
    entry(".cursor", "Cursor"),
    entry(".windsurf", "Windsurf"),
    entry(".zed", "Zed"),
    entry(".fleet", "Fleet"),
    entry(".idea", "JetBrains' editors"),
    entry(".run", "JetBrains' editors"),
    entry(".nvim.lua", "Neovim"),
    entry(".nvimrc", "Neovim"),
    entry(".exrc", "Vim"),
    entry(".vimrc", "Vim"),
    entry(".lvimrc", "Vim"),
    entry(".dir-locals.el", "Emacs"),
    entry(".dir-locals-2.el", "Emacs"),
    entry(".claude", "Claude Code"),
    entry(".mcp.json", "Claude Code"),
    entry(".codex", "Codex"),
    entry(".gemini", "Gemini CLI"),
    entry(".aider.conf.yml", "Aider"),
    entry(".cargo/config", "Cargo"),
    entry(".cargo/config.toml", "Cargo"),
    entry("rust-toolchain", "rustup"),
    entry("rust-toolchain.toml", "rustup"),
    entry(".npmrc", "npm"),
    entry(".pnpmfile.cjs", "pnpm"),
    entry(".yarnrc", "Yarn"),
    entry(".yarnrc.yml", "Yarn"),
    entry(".yarn/plugins", "Yarn"),
    entry(".yarn/releases", "Yarn"),
    entry(".mvn", "Maven"),
    entry(".bazelrc", "Bazel"),
    entry(".gdbinit", "GDB"),
    entry(".lldbinit", "LLDB"),
    // Those of a home that is the project, or that the project's files are linked into.
    entry(".bash_login", "the shell"),
    entry(".bash_logout", "the shell"),
    entry(".bash_profile", "the shell"),
    entry(".bashrc", "the shell"),
    entry(".profile", "the shell"),
    entry(".zlogin", "the shell"),
    entry(".zlogout", "the shell"),
    entry(".zprofile", "the shell"),
    entry(".zshenv", "the shell"),
    entry(".zshrc", "the shell"),
    entry(".config/fish", "the shell"),
    entry(".config/autostart", "the desktop"),
    entry(".config/environment.d", "systemd"),
    entry(".config/systemd", "systemd"),
    entry(".local/share/systemd", "systemd"),
    entry(".config/git", "Git"),
    entry(".gitconfig", "Git"),
    entry(".pam_environment", "the login"),
    entry(".ssh", "SSH"),
    entry(".xinitrc", "the desktop"),
    entry(".xprofile", "the desktop"),
    entry(".xsession", "the desktop"),
    entry(".xsessionrc", "the desktop"),
];

/// Folders of a repository whose names are those of branches and objects.
const NAMES_IN_GIT: [&str; 3] = ["logs", "objects", "refs"];

/// What runs `path` (relative to a project) by itself, if anything does: it is one of
/// [`ENTRIES`] or lies in one, in the project or in any folder of it. Letters are taken
/// without their case, as some file systems do.
pub fn by(path: &Path) -> Option<&'static str> {
    let parts: Vec<&[u8]> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_encoded_bytes()),
            _ => None,
        })
        .collect();
    let is = |part: &[u8], name: &str| part.eq_ignore_ascii_case(name.as_bytes());
    let entry = ENTRIES.iter().find(|entry| {
        let wanted: Vec<&str> = entry.path.split('/').collect();
        parts.windows(wanted.len()).any(|window| {
            window
                .iter()
                .zip(&wanted)
                .all(|(part, name)| is(part, name))
        })
    });
    if let Some(entry) = entry {
        return Some(entry.by);
    }
    let at = parts.iter().position(|part| is(part, ".git"))?;
    match &parts[at + 1..] {
        // As a file it names any folder as the repository.
        [] => Some("Git"),
        [first, ..] if NAMES_IN_GIT.iter().any(|name| is(first, name)) => None,
        below => in_repository(below).then_some("Git"),
    }
}

/// Whether the last of `parts`, relative to a repository's folder (`.git`, one of its
/// submodules or worktrees, or a bare one), is among what Git runs or reads commands from.
fn in_repository(parts: &[&[u8]]) -> bool {
    const FILES: [&str; 4] = ["commondir", "config", "config.worktree", "gitdir"];
    let is = |part: &[u8], name: &str| part.eq_ignore_ascii_case(name.as_bytes());
    parts.iter().any(|part| is(part, "hooks"))
        || parts
            .last()
            .is_some_and(|part| FILES.iter().any(|name| is(part, name)))
}

/// The same for `path` relative to a folder that is itself a repository (a bare one: Git
/// takes any folder with `HEAD`, `objects` and `refs` for one).
pub fn in_bare_repository(path: &Path) -> bool {
    let parts: Vec<&[u8]> = path
        .components()
        .map(|part| part.as_os_str().as_encoded_bytes())
        .collect();
    match parts.as_slice() {
        [first, ..] if NAMES_IN_GIT.iter().any(|name| first == &name.as_bytes()) => false,
        parts => in_repository(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_runs_by_itself_is_found_wherever_it_lies() {
        for (path, runs) in [
            (".git/hooks/post-checkout", Some("Git")),
            (".git/hooks", Some("Git")),
            (".GIT/Config", Some("Git")),
            ("vendor/lib/.git/config", Some("Git")),
            (".git/modules/a/b/hooks/x", Some("Git")),
            (".git/modules/a/config", Some("Git")),
            (".git/worktrees/w/config.worktree", Some("Git")),
            ("sub/.git", Some("Git")),
            (".git/index", None),
            (".git/HEAD", None),
            (".git/refs/heads/config", None),
            (".git/logs/refs/heads/hooks", None),
            (".git/objects/ab/cd", None),
            (".gitignore", None),
            (".envrc", Some("direnv")),
            ("a/b/.envrc", Some("direnv")),
            (".vscode/tasks.json", Some("VS Code")),
            ("vscode/tasks.json", None),
            (".cargo/config.toml", Some("Cargo")),
            (".cargo/registry", None),
            ("config", None),
            ("src/hooks/use.ts", None),
            ("src/main.rs", None),
            ("", None),
            ("Makefile", None),
        ] {
            assert_eq!(by(Path::new(path)), runs, "{path}");
        }
    }

    #[test]
    fn a_bare_repository_is_one_too() {
        for (path, runs) in [
            ("config", true),
            ("hooks/update", true),
            ("refs/heads/config", false),
            ("HEAD", false),
        ] {
            assert_eq!(in_bare_repository(Path::new(path)), runs, "{path}");
        }
    }

    #[test]
    fn every_entry_can_be_mounted() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in ENTRIES {
            let path = Path::new(entry.path);
            assert!(path.is_relative(), "{entry:?}");
            let plain = |part| matches!(part, Component::Normal(_));
            assert!(path.components().all(plain), "{entry:?}");
            assert!(seen.insert(entry.path), "twice: {entry:?}");
            assert_eq!(by(path), Some(entry.by));
        }
    }

    proptest! {
        #[test]
        fn nothing_in_an_entry_is_missed(
            entry in proptest::sample::select(ENTRIES),
            before in "([a-z]{1,4}/){0,3}",
            after in "(/[a-z.]{1,4}){0,3}",
        ) {
            let path = format!("{before}{}{after}", entry.path);
            prop_assert!(by(Path::new(&path)).is_some(), "{path}");
        }

        #[test]
        fn any_bytes_do(path in ".{0,40}") {
            by(Path::new(&path));
            in_bare_repository(Path::new(&path));
        }
    }
}
