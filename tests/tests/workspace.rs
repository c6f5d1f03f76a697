//! `exeat workspace` on overlays that the kernel itself wrote.

use exeat::workspace::{Layers, Store};
use exeat_tests::daemon::program;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A user without an account.
const PLAIN: u32 = 64_242;

/// What an agent does to the project, in the merged folder.
const AGENT: &str = "\
set -e
echo two > changed
touch touched
rm gone
rm -r folder
mkdir folder
echo n > folder/new
mv moved renamed
chmod 755 tool
ln -s changed link
ln -s /etc/passwd out
mkdir -p deep/er
echo x > deep/er/file
chmod 700 deep
rm file-to-folder
mkdir file-to-folder
echo x > file-to-folder/in
rm -r folder-to-file
echo x > folder-to-file
echo '[core] fsmonitor = evil' >> .git/config
echo '#!/bin/sh' > .git/hooks/post-checkout
printf '\\0\\1' > binary
mkfifo pipe
";

/// A folder in words: kinds, modes, links, contents. Pipes are never taken over.
const PICTURE: &str = "\
find . -mindepth 1 ! -type p -printf '%P %y %m %l\\n' | LC_ALL=C sort
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
";

struct Scene {
    dir: TempDir,
    uid: u32,
}

impl Scene {
    fn new(uid: u32) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let scene = Self { dir, uid };
        fs::create_dir(scene.project()).expect("project");
        for (path, text) in [
            (".git/config", "[core]\n"),
            (".git/hooks/sample", "x\n"),
            ("changed", "one\n"),
            ("file-to-folder", "x\n"),
            ("folder-to-file/in", "x\n"),
            ("folder/in", "x\n"),
            ("gone", "x\n"),
            ("moved/a/b", "x\n"),
            ("tool", "x\n"),
            ("touched", "x\n"),
        ] {
            let path = scene.project().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        own(&scene.project(), uid);
        scene
    }

    fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The layers of a run, which is in use as long as they are held.
    fn layers(&self) -> Layers {
        // What is not surely older than the run's start counts as changed since.
        let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("clock");
        while clock_gettime(ClockId::CLOCK_REALTIME_COARSE).expect("clock") <= now {
            std::thread::yield_now();
        }
        let store = Store::at(&self.state().join("exeat/workspaces")).expect("store");
        let layers = store
            .prepare(&self.project(), "agent", "run-1")
            .expect("layers");
        own(&self.state(), self.uid);
        layers
    }

    fn as_user(&self, uid: u32, mut command: Command) -> Output {
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        command
            .current_dir(self.project())
            .env("HOME", "/nonexistent")
            .env("XDG_STATE_HOME", self.state())
            .output()
            .expect("start")
    }

    fn exeat(&self, words: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.arg("workspace").args(words);
        self.as_user(self.uid, command)
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.exeat(&[words, &["--output", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Does what the agent does, as the user in a user namespace, and pictures the result.
    fn run(&self, layers: &Layers) -> String {
        let mount = format!(
            "mount -t overlay overlay -o lowerdir={p},upperdir={u},workdir={w},userxattr {p}",
            p = self.project().display(),
            u = layers.upper.display(),
            w = layers.work.display(),
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        let script = format!(
            "{mount} && cd {} && {AGENT}{PICTURE}",
            self.project().display()
        );
        command.arg(script);
        let output = self.as_user(self.uid, command);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn picture(&self) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", PICTURE]);
        String::from_utf8(self.as_user(0, command).stdout).expect("text")
    }
}

fn own(path: &Path, uid: u32) {
    let status = Command::new("chown")
        .args(["-R", &format!("{uid}:{uid}")])
        .arg(path)
        .status();
    assert!(status.expect("chown").success());
}

fn text(output: &Output) -> String {
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn through(uid: u32) {
    let scene = Scene::new(uid);
    let before = scene.picture();
    let layers = scene.layers();
    let seen = scene.run(&layers);
    assert_ne!(seen, before);
    assert_eq!(scene.picture(), before, "the project is as it was");

    // In use, it is left alone.
    assert_eq!(scene.json(&["list"])[0]["in_use"], true);
    for command in ["apply", "discard"] {
        let output = scene.exeat(&[command, &layers.id]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output).contains("is in use"), "{output:?}");
    }
    assert_eq!(scene.picture(), before);
    let id = layers.id.clone();
    drop(layers);
    let list = scene.json(&["list"]);
    assert_eq!(list[0]["in_use"], false);
    assert_eq!(list[0]["agent"], "agent");
    assert_eq!(list[0]["project"], scene.project().to_str().expect("text"));

    let shown = text(&scene.exeat(&["diff"]));
    for part in [
        "changed changed\n--- a/changed\n+++ b/changed\n@@ -1 +1 @@\n-one\n+two\n",
        "removed gone\n",
        "removed folder/in\n",
        "mode tool (644 → 755)\n",
        "added link (link to changed)\n",
        "! it leads out of the project\n",
        "! it runs by itself: Git\n",
        "added binary (no text, 2 B)\n",
        "added pipe (device, pipe or socket: never taken over)\n",
        "removed moved (folder with 2 inside)\n",
        "changed file-to-folder (file → folder)\n",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    assert!(!shown.contains("touched"), "{shown}");

    // Without names: all but what runs by itself, leads out, or is no file.
    let output = scene.exeat(&["apply"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let left = scene.json(&["diff"]);
    let left: Vec<&str> = left["changes"]
        .as_array()
        .expect("list")
        .iter()
        .map(|change| change["path"].as_str().expect("path"))
        .collect();
    assert_eq!(
        left,
        [".git/config", ".git/hooks/post-checkout", "out", "pipe"]
    );
    let config = fs::read_to_string(scene.project().join(".git/config")).expect("file");
    assert_eq!(config, "[core]\n");
    let named = ["apply", &id, ".git/config", ".git/hooks", "out"];
    let output = scene.exeat(&named);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(scene.picture(), seen, "the project is what the agent saw");

    let output = scene.exeat(&["discard", &id]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(scene.json(&["list"]), Value::Array(Vec::new()));
    assert!(!scene.state().join("exeat/workspaces").join(&id).exists());
}

#[test]
fn an_overlay_of_roots_is_read_and_taken_over() {
    through(0);
}

#[test]
fn an_overlay_of_a_plain_users_is_read_and_taken_over() {
    through(PLAIN);
}

#[test]
fn what_changed_meanwhile_stays_and_all_taken_over_is_the_end() {
    let scene = Scene::new(PLAIN);
    let layers = scene.layers();
    scene.run(&layers);
    let id = layers.id.clone();
    drop(layers);
    fs::write(scene.project().join("changed"), "mine\n").expect("write");
    fs::write(scene.project().join("folder/mine"), "mine\n").expect("write");
    let conflict = |held: &Value, path: &str| {
        held.as_array()
            .expect("list")
            .iter()
            .any(|left| left["path"] == path && left["held"]["reason"] == "conflict")
    };
    let outcome = scene.json(&["apply"]);
    for path in ["changed", "folder/mine"] {
        assert!(conflict(&outcome["held"], path), "{path}: {outcome}");
    }
    let read = |path: &str| fs::read_to_string(scene.project().join(path)).expect("file");
    assert_eq!(
        (read("changed").as_str(), read("folder/mine").as_str()),
        ("mine\n", "mine\n")
    );
    let upper = scene
        .state()
        .join("exeat/workspaces")
        .join(&id)
        .join("upper");
    fs::remove_file(upper.join("pipe")).expect("removed");
    let all = [
        "apply",
        "--force",
        &id,
        ".",
        ".git/config",
        ".git/hooks",
        "out",
    ];
    let output = scene.exeat(&all);
    assert!(
        text(&output).contains("nothing is left in workspace"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(read("changed"), "two\n");
    assert_eq!(scene.json(&["list"]), Value::Array(Vec::new()));
}

#[test]
fn workspaces_are_their_owners_alone() {
    let scene = Scene::new(PLAIN);
    let layers = scene.layers();
    scene.run(&layers);
    let home = scene.dir.path().join("other");
    fs::create_dir(&home).expect("folder");
    chown(&home, Some(PLAIN + 1), Some(PLAIN + 1)).expect("chown");
    for (uid, home) in [(PLAIN + 1, home.as_path()), (0, scene.dir.path())] {
        for words in [
            &["list"][..],
            &["diff", &layers.id],
            &["discard", "--force", &layers.id],
        ] {
            let mut command = Command::new(program());
            command.arg("workspace").args(words);
            if uid != 0 {
                command.uid(uid).gid(uid);
            }
            // As by a sudo that keeps the environment.
            let output = command
                .current_dir("/")
                .env("HOME", home)
                .env("XDG_STATE_HOME", scene.state())
                .output()
                .expect("start");
            assert!(!text(&output).contains("run-1"), "{output:?}");
            if words != ["list"] {
                assert_eq!(output.status.code(), Some(2), "{output:?}");
            }
        }
    }
    assert_eq!(scene.json(&["list"])[0]["id"], layers.id.as_str());
}
