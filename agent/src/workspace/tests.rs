//! On real folders, with upper layers made by hand as overlayfs makes them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use rustix::fs::{FileType, Mode, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

use super::{
    Store, Workspace,
    apply::{Choice, Held, Outcome},
    changes::{Since, View, What},
    file_clock,
    text::Shown,
};

struct Scene {
    _dir: TempDir,
    store: Store,
    project: PathBuf,
}

/// The clock of a run's start lags behind the one that a file system may stamp with by up to
/// two ticks, and what is not surely older than the start counts as changed since.
fn tick() {
    let now = jiff::Timestamp::now();
    while file_clock().expect("clock") <= now {
        std::thread::yield_now();
    }
}

impl Scene {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let project = dir.path().join("project");
        fs::create_dir(&project).expect("project");
        for (path, text) in files {
            write(&project.join(path), text);
        }
        tick();
        let store = Store::at(&dir.path().join("state")).expect("store");
        let project = fs::canonicalize(project).expect("path");
        Self {
            _dir: dir,
            store,
            project,
        }
    }

    /// A workspace whose run is over.
    fn workspace(&self) -> Workspace {
        let layers = self
            .store
            .prepare(&self.project, "a", "r")
            .expect("prepared");
        let id = layers.id.clone();
        drop(layers);
        tick();
        self.store.find(&id).expect("found")
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.project.join(path)).ok()
    }

    /// Nothing of a half-done apply is left.
    fn assert_clean(&self) {
        let all = files(&self.project);
        let ours = all
            .keys()
            .find(|path| path.to_string_lossy().contains(".exeat-"));
        assert_eq!(ours, None);
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("parent")).expect("folders");
    fs::write(path, text).expect("write");
}

fn whiteout(path: &Path) {
    fs::create_dir_all(path.parent().expect("parent")).expect("folders");
    // As root and, since Linux 5.8, as anybody.
    mknodat(
        rustix::fs::CWD,
        path,
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .expect("mknod");
}

fn mark(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).expect("user.* attributes");
}

/// Every path with its kind, its permissions and its content.
fn files(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            let meta = fs::symlink_metadata(&path).expect("meta");
            let mode = meta.permissions().mode() & 0o7777;
            let what = if meta.is_dir() {
                folders.push(path.clone());
                format!("folder {mode:o}")
            } else if meta.is_symlink() {
                format!("link {:?}", fs::read_link(&path).expect("link"))
            } else {
                format!("{mode:o} {:?}", fs::read(&path).expect("file"))
            };
            all.insert(path.strip_prefix(root).expect("inside").to_owned(), what);
        }
    }
    all
}

fn seen(view: &View) -> Vec<(String, What)> {
    assert_eq!(view.unread, []);
    let changes = view.changes.iter();
    changes
        .map(|c| (c.path.display().to_string(), c.what))
        .collect()
}

fn change<'a>(view: &'a View, path: &str) -> &'a super::changes::Change {
    let found = view.changes.iter().find(|c| c.path == Path::new(path));
    found.unwrap_or_else(|| panic!("no change of {path}: {:?}", seen(view)))
}

fn apply(workspace: &Workspace, paths: &[&str], force: bool) -> Outcome {
    let paths = paths.iter().map(PathBuf::from).collect();
    let view = View::open(workspace).expect("view");
    view.apply(&Choice { paths, force }).expect("applied")
}

fn held(outcome: &Outcome) -> Vec<(&str, &Held)> {
    outcome
        .held
        .iter()
        .map(|left| (left.path.as_str(), &left.held))
        .collect()
}

#[test]
fn every_kind_of_change_is_seen_and_taken_over() {
    let scene = Scene::new(&[
        ("changed", "one\n"),
        ("touched", "same\n"),
        ("gone", "x"),
        ("mode.sh", "#!/bin/sh\n"),
        ("folder/inside", "x"),
        ("folder/deep/er", "x"),
        ("opaque/old", "x"),
        ("opaque/kept", "x"),
        ("marked", "x"),
        ("to-folder", "x"),
        ("to-file/inside", "x"),
    ]);
    let workspace = scene.workspace();
    let upper = workspace.upper();
    write(&upper.join("changed"), "two\n");
    write(&upper.join("touched"), "same\n");
    whiteout(&upper.join("gone"));
    write(&upper.join("mode.sh"), "#!/bin/sh\n");
    fs::set_permissions(upper.join("mode.sh"), fs::Permissions::from_mode(0o755)).expect("mode");
    whiteout(&upper.join("folder"));
    write(&upper.join("opaque/kept"), "x");
    write(&upper.join("opaque/new"), "n");
    mark(&upper.join("opaque"), "user.overlay.opaque", b"y");
    write(&upper.join("marked"), "");
    mark(&upper.join("marked"), "user.overlay.whiteout", b"y");
    write(&upper.join("to-folder/inside"), "y");
    write(&upper.join("to-file"), "y");
    symlink("changed", upper.join("link")).expect("link");
    write(&upper.join("new/deep/file"), "n");
    fs::set_permissions(upper.join("new"), fs::Permissions::from_mode(0o555)).expect("mode");
    let view = View::open(&workspace).expect("view");
    let expected = [
        ("changed", What::Changed),
        ("folder", What::Removed),
        ("gone", What::Removed),
        ("link", What::Added),
        ("marked", What::Removed),
        ("mode.sh", What::Mode),
        ("new", What::Added),
        ("new/deep", What::Added),
        ("new/deep/file", What::Added),
        ("opaque/new", What::Added),
        ("opaque/old", What::Removed),
        ("to-file", What::Changed),
        ("to-folder", What::Changed),
        ("to-folder/inside", What::Added),
    ];
    assert_eq!(
        seen(&view),
        expected.map(|(path, what)| (path.to_owned(), what))
    );
    assert_eq!(change(&view, "folder").inside, 3);
    assert_eq!(
        view.text(change(&view, "changed")).expect("text"),
        Shown::Lines("@@ -1 +1 @@\n-one\n+two\n".into())
    );
    let outcome = apply(&workspace, &[], false);
    assert_eq!(held(&outcome), []);
    assert_eq!(outcome.taken.len(), expected.len());
    assert_eq!(scene.read("changed").as_deref(), Some("two\n"));
    assert_eq!(scene.read("new/deep/file").as_deref(), Some("n"));
    assert_eq!(scene.read("to-folder/inside").as_deref(), Some("y"));
    assert_eq!(scene.read("to-file").as_deref(), Some("y"));
    assert_eq!(scene.read("link").as_deref(), Some("two\n"));
    assert_eq!(scene.read("opaque/kept").as_deref(), Some("x"));
    for gone in ["gone", "folder", "marked", "opaque/old"] {
        assert!(!scene.project.join(gone).exists(), "{gone}");
    }
    let all = files(&scene.project);
    assert_eq!(all[Path::new("new")], "folder 555");
    assert!(all[Path::new("mode.sh")].starts_with("755 "));
    scene.assert_clean();
    // Taken over is no change, and a second time does nothing.
    assert_eq!(seen(&View::open(&workspace).expect("view")), []);
    fs::set_permissions(scene.project.join("new"), fs::Permissions::from_mode(0o755))
        .expect("mode");
}

#[test]
fn what_changed_meanwhile_is_not_taken_over_unasked() {
    let scene = Scene::new(&[
        ("mine", "old"),
        ("deleted", "old"),
        ("folder/a", "old"),
        ("same", "old"),
        ("yours", "old"),
    ]);
    let workspace = scene.workspace();
    let upper = workspace.upper();
    for path in ["mine", "new", "same", "yours"] {
        write(&upper.join(path), "theirs");
    }
    write(&upper.join("deleted"), "theirs");
    mark(&upper.join("deleted"), "user.overlay.origin", b"x");
    whiteout(&upper.join("folder"));
    write(&scene.project.join("mine"), "mine");
    // A time that was set back does not hide it.
    let past = std::time::SystemTime::UNIX_EPOCH;
    let file = fs::File::options()
        .write(true)
        .open(scene.project.join("mine"))
        .expect("file");
    file.set_modified(past).expect("time");
    write(&scene.project.join("new"), "mine");
    write(&scene.project.join("same"), "theirs");
    write(&scene.project.join("folder/b"), "mine");
    fs::remove_file(scene.project.join("deleted")).expect("removed");
    let outcome = apply(&workspace, &[], false);
    assert_eq!(
        held(&outcome),
        [
            ("deleted", &Held::Conflict(Since::Removed)),
            ("folder", &Held::Conflict(Since::Changed)),
            ("mine", &Held::Conflict(Since::Changed)),
            ("new", &Held::Conflict(Since::Changed)),
        ]
    );
    assert_eq!(scene.read("mine").as_deref(), Some("mine"));
    assert_eq!(scene.read("yours").as_deref(), Some("theirs"));
    assert_eq!(scene.read("folder/b").as_deref(), Some("mine"));
    let outcome = apply(&workspace, &["mine", "folder"], true);
    assert_eq!(outcome.taken.len(), 2, "{outcome:?}");
    assert_eq!(scene.read("mine").as_deref(), Some("theirs"));
    assert_eq!(scene.read("folder/b"), None);
    assert_eq!(scene.read("new").as_deref(), Some("mine"));
    scene.assert_clean();
}

#[test]
fn what_runs_by_itself_must_be_named() {
    let scene = Scene::new(&[(".git/config", "[core]\n"), ("src/a", "x")]);
    let workspace = scene.workspace();
    let upper = workspace.upper();
    for path in [
        ".envrc",
        ".git/HEAD",
        ".git/config",
        ".git/hooks/post-checkout",
        ".vscode/tasks.json",
        "bare/HEAD",
        "bare/config",
        "bare/objects/x",
        "bare/refs/x",
        "src/.git",
        "src/b",
    ] {
        write(&upper.join(path), "theirs");
    }
    symlink("/etc", upper.join("out")).expect("link");
    symlink("../..", upper.join("src/up")).expect("link");
    symlink("../src", upper.join("src/in")).expect("link");
    // A folder that holds them does not name them.
    let outcome = apply(
        &workspace,
        &[".", "src", ".git"].map(|p| if p == "." { "" } else { p }),
        false,
    );
    assert_eq!(
        held(&outcome),
        [
            (".envrc", &Held::Runs("direnv")),
            (".git/config", &Held::Runs("Git")),
            (".git/hooks", &Held::Runs("Git")),
            (".git/hooks/post-checkout", &Held::Runs("Git")),
            (".vscode", &Held::Runs("VS Code")),
            (".vscode/tasks.json", &Held::Runs("VS Code")),
            ("bare/config", &Held::Runs("Git")),
            ("out", &Held::LeadsOut),
            ("src/.git", &Held::Runs("Git")),
            ("src/up", &Held::LeadsOut),
        ]
    );
    assert_eq!(scene.read(".git/HEAD").as_deref(), Some("theirs"));
    assert_eq!(scene.read(".git/config").as_deref(), Some("[core]\n"));
    let outcome = apply(
        &workspace,
        &[".git/hooks", ".envrc", "bare/config", "out"],
        false,
    );
    assert_eq!(outcome.taken.len(), 5, "{outcome:?}");
    assert_eq!(
        scene.read(".git/hooks/post-checkout").as_deref(),
        Some("theirs")
    );
    assert!(scene.project.join("out").is_symlink());
}

#[test]
fn no_link_is_followed_out_of_either_tree() {
    let scene = Scene::new(&[("a/file", "old"), ("b/file", "old"), ("c", "old")]);
    let outside = scene.project.with_file_name("outside");
    write(&outside.join("file"), "precious");
    let workspace = scene.workspace();
    let upper = workspace.upper();
    write(&upper.join("a/file"), "theirs");
    write(&upper.join("a/new"), "theirs");
    symlink(outside.join("file"), upper.join("c")).expect("link");
    // The folder is a link in the project by now.
    fs::remove_dir_all(scene.project.join("a")).expect("removed");
    symlink(&outside, scene.project.join("a")).expect("link");
    // And one of the workspace was swapped for a link.
    symlink(&outside, upper.join("b")).expect("link");
    let outcome = apply(&workspace, &["a", "b", "c"], true);
    assert_eq!(
        fs::read_to_string(outside.join("file")).expect("file"),
        "precious"
    );
    assert_eq!(fs::read_dir(&outside).expect("folder").count(), 1);
    assert!(scene.project.join("b").is_symlink(), "{outcome:?}");
    assert!(scene.project.join("c").is_symlink(), "{outcome:?}");
    scene.assert_clean();
    // A discard does not follow them either.
    let lock = workspace.lock().expect("lock");
    workspace.discard(lock).expect("discarded");
    assert_eq!(
        fs::read_to_string(outside.join("file")).expect("file"),
        "precious"
    );
}

#[test]
fn set_id_bits_devices_and_references_stay_behind() {
    let scene = Scene::new(&[("tool", "x")]);
    let workspace = scene.workspace();
    let upper = workspace.upper();
    write(&upper.join("tool"), "y");
    fs::set_permissions(upper.join("tool"), fs::Permissions::from_mode(0o6755)).expect("mode");
    nix::unistd::mkfifo(&upper.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("pipe");
    write(&upper.join("reference"), "");
    mark(
        &upper.join("reference"),
        "user.overlay.redirect",
        b"/etc/passwd",
    );
    write(&upper.join(".exeat-apply-x"), "ours");
    let view = View::open(&workspace).expect("view");
    assert_eq!(view.unread.len(), 1);
    assert_eq!(view.unread[0].path, Path::new("reference"));
    let outcome = apply(&workspace, &[], true);
    let never = [(".exeat-apply-x", &Held::Never), ("pipe", &Held::Never)];
    assert_eq!(held(&outcome), never);
    assert!(outcome.taken[0].set_id_lost);
    assert_eq!(files(&scene.project)[Path::new("tool")], "755 [121]");
    assert!(
        !View::open(&workspace)
            .expect("view")
            .changes
            .iter()
            .any(|c| c.path == Path::new("tool"))
    );
}

#[test]
fn an_apply_that_was_broken_off_goes_on() {
    let scene = Scene::new(&[("a", "old"), ("folder/b", "old")]);
    let workspace = scene.workspace();
    let upper = workspace.upper();
    write(&upper.join("a"), "new");
    write(&upper.join("d/c"), "new");
    whiteout(&upper.join("folder"));
    // As it looks after a kill: one in place, one beside it, a folder on its way out.
    write(&scene.project.join("a"), "new");
    let own = format!(".exeat-apply-{}-", workspace.id);
    write(&scene.project.join(format!("{own}7.new")), "half");
    fs::rename(
        scene.project.join("folder"),
        scene.project.join(format!("{own}8.old")),
    )
    .expect("move");
    fs::create_dir(scene.project.join("d")).expect("folder");
    let outcome = apply(&workspace, &[], false);
    assert_eq!(held(&outcome), []);
    assert_eq!(scene.read("d/c").as_deref(), Some("new"));
    assert!(!scene.project.join("folder").exists());
    scene.assert_clean();
}

#[test]
fn holes_stay_holes_and_large_files_are_named_only() {
    use std::os::unix::fs::MetadataExt as _;
    let scene = Scene::new(&[("binary", "x")]);
    let workspace = scene.workspace();
    let upper = workspace.upper();
    let file = fs::File::create(upper.join("sparse")).expect("file");
    file.set_len(1 << 40).expect("length");
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (1 << 40) - 3).expect("write");
    fs::write(upper.join("binary"), b"\0\xff").expect("write");
    let view = View::open(&workspace).expect("view");
    let text = |path| view.text(change(&view, path)).expect("text");
    assert_eq!(text("sparse"), Shown::TooLarge);
    assert_eq!(text("binary"), Shown::Binary);
    assert_eq!(held(&apply(&workspace, &[], false)), []);
    let meta = fs::metadata(scene.project.join("sparse")).expect("meta");
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
}

#[test]
fn a_workspace_is_in_use_as_long_as_its_layers_are_held() {
    let scene = Scene::new(&[]);
    let layers = scene
        .store
        .prepare(&scene.project, "a", "r")
        .expect("prepared");
    let workspace = scene.store.find(&layers.id).expect("found");
    assert!(workspace.in_use());
    assert!(workspace.lock().expect("lock").is_none());
    // It is empty, and is left alone for being in use.
    let other = scene
        .store
        .prepare(&scene.project, "a", "r")
        .expect("prepared");
    assert_eq!(scene.store.list().expect("list").len(), 2);
    drop((layers, other));
    assert!(!workspace.in_use());
    let meta = &workspace.meta;
    assert_eq!((meta.agent.as_str(), meta.run.as_str()), ("a", "r"));
    assert_eq!(meta.project, scene.project);
    // Empty ones that nobody uses go with the next.
    let third = scene.workspace();
    assert_eq!(scene.store.list().expect("list"), [third]);
}

#[test]
fn names_are_found_by_their_beginning() {
    let scene = Scene::new(&[]);
    let one = scene
        .store
        .prepare(&scene.project, "a", "r")
        .expect("prepared");
    let two = scene
        .store
        .prepare(&scene.project, "a", "r")
        .expect("prepared");
    assert_eq!(scene.store.find(&one.id).expect("found").id, one.id);
    assert!(matches!(
        scene.store.find("20"),
        Err(super::Error::Ambiguous(_))
    ));
    for unknown in ["", "../state", "x"] {
        assert!(
            matches!(scene.store.find(unknown), Err(super::Error::Unknown(_))),
            "{unknown}"
        );
    }
    drop(two);
}

#[test]
fn a_project_with_exeats_own_files_is_refused() {
    let scene = Scene::new(&[]);
    let above = scene.project.parent().expect("parent");
    for project in [above, &above.join("state")] {
        let error = scene.store.prepare(project, "a", "r").expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn another_project_at_the_same_path_is_not_written_to() {
    let scene = Scene::new(&[("a", "old")]);
    let workspace = scene.workspace();
    fs::rename(&scene.project, scene.project.with_file_name("moved")).expect("moved");
    fs::create_dir(&scene.project).expect("folder");
    assert!(View::open(&workspace).is_err());
}

#[test]
fn the_deepest_tree_is_discarded() {
    use rustix::fs::{CWD, OFlags, mkdirat, openat};
    let scene = Scene::new(&[]);
    let workspace = scene.workspace();
    let mut folder =
        openat(CWD, workspace.upper(), OFlags::DIRECTORY, Mode::empty()).expect("open");
    for _ in 0..2500 {
        mkdirat(&folder, "d", Mode::RWXU).expect("mkdir");
        folder = openat(&folder, "d", OFlags::DIRECTORY, Mode::empty()).expect("open");
    }
    drop(folder);
    // What is too deep to be named is said, and does not stop the rest.
    let view = View::open(&workspace).expect("view");
    assert_eq!(view.unread.len(), 1);
    assert!(view.changes.len() > 1000);
    let locked = workspace.folder.join("work/work");
    fs::create_dir(&locked).expect("folder");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).expect("mode");
    let lock = workspace.lock().expect("lock");
    workspace.discard(lock).expect("discarded");
    assert!(!workspace.folder.exists());
}

/// One step of an agent.
#[derive(Clone, Debug)]
enum Step {
    Write(String, String),
    Remove(String),
    Link(String, String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    "[ab](/[ab]){0,2}"
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (path(), "[xy]{0,3}").prop_map(|(path, text)| Step::Write(path, text)),
        path().prop_map(Step::Remove),
        (path(), "[ab](/[ab])?").prop_map(|(path, target)| Step::Link(path, target)),
        path().prop_map(Step::Opaque),
    ]
}

/// Does a step on an upper layer, where its place is free, and on a plain copy of the merged
/// folder, as the kernel would.
fn act(step: &Step, project: &Path, upper: &Path, model: &Path) {
    let (Step::Write(path, _) | Step::Remove(path) | Step::Link(path, _) | Step::Opaque(path)) =
        step;
    let parent = Path::new(path).parent().expect("parent");
    let plain =
        |root: &Path, path: &Path| fs::symlink_metadata(root.join(path)).is_ok_and(|m| m.is_dir());
    // Only where the merged folder has the parent, and nothing was made there before.
    if !plain(model, parent) || fs::symlink_metadata(upper.join(path)).is_ok() {
        return;
    }
    let mut above = PathBuf::new();
    for part in parent {
        above.push(part);
        if !plain(upper, &above) {
            if fs::create_dir(upper.join(&above)).is_err() {
                return;
            }
            if !plain(project, &above) {
                mark(&upper.join(&above), "user.overlay.opaque", b"y");
            }
        }
    }
    let there = model.join(path);
    match fs::symlink_metadata(&there) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(&there).expect("removed"),
        Ok(_) => fs::remove_file(&there).expect("removed"),
        Err(_) => {}
    }
    match step {
        Step::Write(_, text) => {
            write(&there, text);
            write(&upper.join(path), text);
        }
        Step::Remove(_) => whiteout(&upper.join(path)),
        Step::Link(_, target) => {
            symlink(target, &there).expect("link");
            symlink(target, upper.join(path)).expect("link");
        }
        Step::Opaque(_) => {
            fs::create_dir(&there).expect("folder");
            fs::create_dir(upper.join(path)).expect("folder");
            mark(&upper.join(path), "user.overlay.opaque", b"y");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was changed, applying it makes the project what its agent saw.
    #[test]
    fn the_project_becomes_what_the_agent_saw(
        before in proptest::collection::btree_map(path(), "[xy]{0,3}", 0..6),
        steps in proptest::collection::vec(step(), 0..8),
    ) {
        let scene = Scene::new(&[]);
        let model = scene.project.with_file_name("model");
        fs::create_dir(&model).expect("folder");
        for root in [&scene.project, &model] {
            for (path, text) in &before {
                let path = root.join(path);
                if fs::create_dir_all(path.parent().expect("parent")).is_ok() {
                    let _ = fs::write(&path, text);
                }
            }
        }
        tick();
        let workspace = scene.workspace();
        for step in &steps {
            act(step, &scene.project, &workspace.upper(), &model);
        }
        let paths: Vec<PathBuf> = View::open(&workspace).expect("view").changes.into_iter().map(|c| c.path).collect();
        let outcome = View::open(&workspace).expect("view").apply(&Choice { paths, force: false }).expect("applied");
        prop_assert_eq!(held(&outcome), []);
        prop_assert_eq!(files(&scene.project), files(&model));
        prop_assert_eq!(seen(&View::open(&workspace).expect("view")), []);
    }
}
