//! The sandbox of `exeat run`: what it hides is hidden, what a policy opens works and opens
//! nothing else, and whoever starts a command sees it behave as without.

mod files;
mod openings;
mod outcome;
mod processes;
mod terminal;

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::world::open_to_all;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An ordinary user and root.
const BOTH: [u32; 2] = [PLAIN_USER, 0];

/// A person's home with a project in it.
struct Scene {
    stage: Stage,
    user: u32,
    home: PathBuf,
    project: PathBuf,
}

const HOME: &[(&str, &str)] = &[
    (".ssh/id_ed25519", "secret: an SSH key"),
    (".ssh/known_hosts", "hosts"),
    (".aws/credentials", "secret: of a cloud"),
    (".gnupg/private", "secret: a PGP key"),
    (".config/gcloud/credentials.db", "secret: of a cloud"),
    (".config/tool/settings", "settings"),
    (".mozilla/cookies", "secret: sessions"),
    (".local/share/keyrings/login", "secret: a keyring"),
    (".netrc", "secret: passwords"),
    (".npmrc", "secret: a token"),
    (".git-credentials", "secret: passwords"),
    (".cargo/credentials.toml", "secret: a token"),
    (".cargo/bin/tool", "#!/bin/sh\necho tool\n"),
    (".cargo/registry/source", "as it was"),
    (
        ".gitconfig",
        "[user]\n\tname = A\n\temail = a@example.com\n",
    ),
    (".bashrc", "start-up"),
    ("notes/a", "notes"),
    ("project/file", "text"),
    ("project/.envrc", "start-up"),
];

impl Scene {
    /// Under the usual policy with more lines for the agent.
    fn new(user: u32, more: &str) -> Self {
        Self::with(user, &format!("{POLICY}{more}"), "sandbox: true\n")
    }

    fn with(user: u32, policy: &str, config: &str) -> Self {
        let stage = Stage::new(policy, config).expect("stage");
        let home = stage.world.folder().join("home");
        let own = |path: &Path| chown(path, Some(user), Some(user)).expect("chown");
        std::fs::create_dir(&home).expect("home");
        own(&home);
        for (name, text) in HOME {
            let path = home.join(name);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folders");
            let above = path.ancestors().skip(1);
            above.take_while(|above| *above != home).for_each(own);
            std::fs::write(&path, text).expect("write");
            own(&path);
            let mode = if name.contains("bin/") { 0o755 } else { 0o600 };
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("mode");
        }
        open_to_all(stage.world.folder()).expect("mode");
        let scene = Self {
            project: home.join("project"),
            stage,
            user,
            home,
        };
        let mut git = Command::new("git");
        git.args(["init", "-q"])
            .env("HOME", &scene.home)
            .current_dir(&scene.project)
            .uid(user)
            .gid(user);
        assert!(git.status().expect("git").success());
        scene
    }

    /// `exeat run` of a command in the project, by the scene's user.
    fn command(&self, argv: &[&str]) -> Command {
        self.command_in(&self.project, argv)
    }

    fn command_in(&self, folder: &Path, argv: &[&str]) -> Command {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut command = self.stage.daemon.run_command(AGENT, self.user, &argv);
        self.prepare(&mut command, folder);
        command
    }

    fn prepare(&self, command: &mut Command, folder: &Path) {
        command
            .stdin(Stdio::null())
            .env("HOME", &self.home)
            .env("PATH", "/usr/bin:/bin");
        let folder = folder.to_owned();
        // Here and not by `current_dir`, because entering the laptop's mounts resets it.
        let enter = move || Ok(nix::unistd::chdir(folder.as_path())?);
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(enter) };
    }

    fn sh(&self, script: &str) -> Output {
        self.command(&["sh", "-c", script]).output().expect("run")
    }

    /// What a script prints; it must not fail.
    fn said(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Whether a script succeeds.
    fn works(&self, script: &str) -> bool {
        self.sh(script).status.success()
    }

    fn in_home(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
