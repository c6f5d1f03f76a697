//! Python: pip from an index, with the code that a source package runs at installation.

use crate::scene::{HOST, OTHER, Scene, outside};
use exeat_tests::clients;

/// Makes a package of source whose `setup.py` looks for a secret, and whose module is used.
fn package(scene: &Scene) {
    let workshop = scene.workshop();
    let root = workshop.join("greeting-1.0");
    std::fs::create_dir(&root).expect("folder");
    let setup = format!(
        "import os, socket\n\
         from setuptools import setup\n\
         seen = []\n\
         try:\n    open({secret:?}).read(); seen.append('secret')\nexcept OSError: pass\n\
         try:\n    socket.create_connection(({OTHER:?}, 443), 3); seen.append('network')\nexcept OSError: pass\n\
         if 'GITHUB_TOKEN' in os.environ: seen.append('environment')\n\
         setup(name='greeting', version='1.0', py_modules=['greeting'])\n\
         open('greeting.py', 'a').write(f'seen = {{seen!r}}\\n')\n",
        secret = scene.secret.display().to_string()
    );
    // What was seen is written before the module is packed.
    let (before, after) = setup.split_once("setup(name").expect("setup");
    let (call, write) = after.split_once('\n').expect("lines");
    let setup = format!("{before}{write}setup(name{call}\n");
    std::fs::write(root.join("setup.py"), setup).expect("write");
    std::fs::write(root.join("greeting.py"), "word = 'hello'\n").expect("write");
    outside(
        &workshop,
        &["tar", "czf", "greeting-1.0.tar.gz", "greeting-1.0"],
    );
    let archive = std::fs::read(workshop.join("greeting-1.0.tar.gz")).expect("archive");
    scene.files.put("/files/greeting-1.0.tar.gz", archive);
    scene.files.put(
        "/simple/greeting/",
        "<!DOCTYPE html><a href=\"/files/greeting-1.0.tar.gz\">greeting-1.0.tar.gz</a>\n",
    );
}

#[test]
fn pip_installs_a_package_and_its_code_reaches_nothing_else() {
    let Some(python) = clients::find("python3") else {
        return;
    };
    let python = python.display().to_string();
    let scene = Scene::new();
    package(&scene);
    let index = format!("https://{HOST}/simple/");
    let authority = scene.authority.display().to_string();
    let target = scene.project.join("packages").display().to_string();
    scene.says(&[
        &python,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--cert",
        &authority,
        "install",
        "--no-build-isolation",
        "--index-url",
        &index,
        "--target",
        &target,
        "greeting",
    ]);
    let script = "import sys; sys.path.insert(0, 'packages'); import greeting; \
                  print(greeting.word, greeting.seen)";
    assert_eq!(scene.says(&[&python, "-c", script]), "hello []\n");
    assert!(
        scene
            .files
            .asked()
            .iter()
            .any(|path| path == "/files/greeting-1.0.tar.gz")
    );
    // What an index lists elsewhere is not fetched.
    let output = scene.run(&[
        &python,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--cert",
        &authority,
        "--retries=0",
        "download",
        "--index-url",
        &format!("https://{OTHER}/simple/"),
        "greeting",
    ]);
    assert!(!output.status.success());
}

#[test]
fn an_environment_of_its_own_is_made_in_the_project() {
    let Some(python) = clients::find("python3") else {
        return;
    };
    let python = python.display().to_string();
    let scene = Scene::new();
    scene.says(&[&python, "-m", "venv", "--without-pip", "environment"]);
    let script = "import multiprocessing, sys; \
                  print(sys.prefix.endswith('environment'), \
                  multiprocessing.get_context('fork').Pool(2).map(abs, [-1, 2]))";
    assert_eq!(
        scene.says(&["environment/bin/python", "-c", script]),
        "True [1, 2]\n"
    );
}
