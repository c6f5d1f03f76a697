//! What in a project runs by itself outside of the sandbox: on the next `git status`, when a
//! shell enters the folder, when an editor opens it. An agent that may change it speaks with
//! its user's rights a moment later.
//!
//! What a person starts by name (a build file, a test, `package.json`'s scripts) is not here:
//! nothing of a project would be left.

use std::{
    collections::HashMap,
    path::{Component, Path},
    sync::LazyLock,
};

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

/// Files of a repository that Git reads commands, or other repositories' places, from.
const FILES_IN_GIT: [&str; 4] = ["commondir", "config", "config.worktree", "gitdir"];

/// By their first part: each with its parts, and what it is for.
type ByFirst = HashMap<&'static str, Vec<(Vec<&'static str>, &'static str)>>;

/// [`ENTRIES`] by their first part.
static BY_FIRST: LazyLock<ByFirst> = LazyLock::new(|| {
    let mut all: HashMap<&str, Vec<_>> = HashMap::new();
    for entry in ENTRIES {
        let parts: Vec<&str> = entry.path.split('/').collect();
        all.entry(parts[0]).or_default().push((parts, entry.by));
    }
    all
});

/// What runs `path` (relative to a project) by itself, if anything does: it is one of
/// [`ENTRIES`] or lies in one, in the project or in any folder of it. Letters are taken
/// without their case, as some file systems do.
pub fn by(path: &Path) -> Option<&'static str> {
    let parts: Vec<String> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let mut repository = None;
    for at in 0..parts.len() {
        let fitting = BY_FIRST.get(parts[at].as_str()).into_iter().flatten();
        for (wanted, by) in fitting {
            let is = |(part, name): (&String, &&str)| part == name;
            let there = &parts[at..];
            if there.len() >= wanted.len() && there.iter().zip(wanted).all(is) {
                return Some(by);
            }
        }
        if let Some(repository) = &mut repository {
            *repository = InRepository::enter(*repository, &parts[at]);
        } else if parts[at] == ".git" {
            repository = Some(InRepository::top());
        }
    }
    match repository {
        // As a file it names any folder as the repository.
        Some(at) if at.is_top => Some("Git"),
        Some(at) => at.runs.then_some("Git"),
        None => None,
    }
}

/// How far a path has come into repositories: `.git`, a submodule's or a worktree's in it, or
/// a bare one (Git takes any folder with `HEAD`, `objects` and `refs` for one).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InRepository {
    /// It is the repository's folder itself.
    is_top: bool,
    /// It is in one, and not among the names of branches and objects.
    is_inside: bool,
    /// Git runs it, or reads commands from it.
    pub runs: bool,
    /// All that is below runs too.
    below_runs: bool,
}

impl InRepository {
    /// The folder of a repository.
    pub const fn top() -> Self {
        Self {
            is_top: true,
            is_inside: false,
            runs: false,
            below_runs: false,
        }
    }

    /// The same place, when its folder turns out to be a repository.
    #[must_use]
    pub const fn and_top(mut self) -> Self {
        self.is_top = true;
        self
    }

    /// What is in it by that name.
    #[must_use]
    pub fn enter(self, name: &str) -> Self {
        let is = |one: &&str| one.eq_ignore_ascii_case(name);
        let is_inside = self.is_inside || (self.is_top && !NAMES_IN_GIT.iter().any(is));
        let below_runs = self.below_runs || (is_inside && is(&"hooks"));
        Self {
            is_top: false,
            is_inside,
            runs: below_runs || (is_inside && FILES_IN_GIT.iter().any(is)),
            below_runs,
        }
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
            ("modules/a/config", true),
            ("refs/heads/config", false),
            ("HEAD", false),
        ] {
            let end = path
                .split('/')
                .fold(InRepository::top(), InRepository::enter);
            assert_eq!(end.runs, runs, "{path}");
        }
        // A repository within the hooks of another changes nothing of that.
        let hooks = InRepository::top().enter("hooks").and_top();
        assert!(hooks.enter("post-update").runs);
        assert!(!InRepository::default().enter("hooks").enter("config").runs);
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
        }
    }
}
