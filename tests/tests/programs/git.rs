//! Git: a clone over HTTPS, work in it, and what of a repository runs outside.

use crate::scene::{HOST, OTHER, Scene, outside};
use exeat_tests::clients;

/// A repository with one commit, served as files.
fn repository(scene: &Scene) {
    let workshop = scene.workshop();
    let run = |words: &[&str]| {
        let mut argv = vec!["git", "-c", "user.name=a", "-c", "user.email=a@b.example"];
        argv.extend(words);
        outside(&workshop, &argv)
    };
    run(&["init", "-q", "-b", "main", "work"]);
    std::fs::write(workshop.join("work/file"), "a file\n").expect("write");
    run(&["-C", "work", "add", "file"]);
    run(&["-C", "work", "commit", "-q", "-m", "first"]);
    run(&["clone", "-q", "--bare", "work", "work.git"]);
    run(&["-C", "work.git", "update-server-info"]);
    scene
        .files
        .put_folder("/work.git", &workshop.join("work.git"))
        .expect("files");
}

#[test]
fn git_clones_over_https_and_works() {
    let Some(git) = clients::find("git") else {
        return;
    };
    let git = git.display().to_string();
    let scene = Scene::new();
    repository(&scene);
    scene.says(&[&git, "clone", "-q", &format!("https://{HOST}/work.git")]);
    assert_eq!(scene.read("work/file"), "a file\n");
    let in_it = |words: &[&str]| {
        let mut argv = vec![
            git.as_str(),
            "-C",
            "work",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.example",
        ];
        argv.extend(words);
        scene.says(&argv)
    };
    in_it(&["checkout", "-q", "-b", "topic"]);
    in_it(&["commit", "-q", "--allow-empty", "-m", "second"]);
    in_it(&["gc", "-q"]);
    assert_eq!(in_it(&["log", "--format=%s"]), "second\nfirst\n");
    let output = scene.run(&[&git, "clone", "-q", &format!("https://{OTHER}/work.git")]);
    assert!(!output.status.success());
}
