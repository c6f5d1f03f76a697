//! Node and npm: a package with a script that runs at installation, and a program of its own.

use crate::scene::{HOST, OTHER, Scene, outside};
use exeat_tests::clients;

/// Makes a package with a command and a script that runs after its installation.
fn package(scene: &Scene) {
    let workshop = scene.workshop();
    let root = workshop.join("package");
    std::fs::create_dir(&root).expect("folder");
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).expect("write");
    write(
        "package.json",
        r#"{"name": "greeting", "version": "1.0.0", "bin": {"greeting": "cli.js"},
            "scripts": {"postinstall": "node install.js"}}"#,
    );
    write(
        "cli.js",
        "#!/usr/bin/env node\nconsole.log('hello', JSON.stringify(require('./seen.json')));\n",
    );
    write(
        "install.js",
        &format!(
            "const fs = require('fs'), net = require('net'), seen = [];\n\
             try {{ fs.readFileSync({secret:?}); seen.push('secret'); }} catch {{}}\n\
             if ('GITHUB_TOKEN' in process.env) seen.push('environment');\n\
             const end = () => {{ fs.writeFileSync('seen.json', JSON.stringify(seen)); process.exit(0); }};\n\
             const socket = net.connect(443, {OTHER:?}, () => {{ seen.push('network'); end(); }});\n\
             socket.on('error', end); setTimeout(end, 5000);\n",
            secret = scene.secret.display().to_string()
        ),
    );
    outside(&workshop, &["tar", "czf", "greeting-1.0.0.tgz", "package"]);
    let archive = std::fs::read(workshop.join("greeting-1.0.0.tgz")).expect("archive");
    scene.files.put("/greeting-1.0.0.tgz", archive);
    scene.files.put(
        "/greeting",
        format!(
            r#"{{"name": "greeting", "dist-tags": {{"latest": "1.0.0"}},
                "versions": {{"1.0.0": {{"name": "greeting", "version": "1.0.0",
                "bin": {{"greeting": "cli.js"}}, "hasInstallScript": true,
                "scripts": {{"postinstall": "node install.js"}},
                "dist": {{"tarball": "https://{HOST}/greeting-1.0.0.tgz"}}}}}}}}"#
        ),
    );
}

#[test]
fn npm_installs_a_package_and_its_script_reaches_nothing_else() {
    let (Some(node), Some(npm)) = (clients::find("node"), clients::find("npm")) else {
        return;
    };
    let (node, npm) = (node.display().to_string(), npm.display().to_string());
    let scene = Scene::new();
    package(&scene);
    scene.write("package.json", r#"{"name": "work", "version": "1.0.0"}"#);
    let registry = format!("--registry=https://{HOST}/");
    let authority = format!("--cafile={}", scene.authority.display());
    let mut words = vec![
        npm.as_str(),
        "install",
        &registry,
        &authority,
        "--fetch-retries=0",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--foreground-scripts",
        "greeting",
    ];
    // From its eleventh version on npm asks before it runs what a package brings.
    let version = scene.says(&[&npm, "--version"]);
    let major: u32 = version
        .split('.')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("version");
    if major >= 11 {
        words.push("--ignore-scripts=false");
    }
    scene.says(&words);
    assert_eq!(scene.read("node_modules/greeting/seen.json"), "[]");
    assert_eq!(
        scene.says(&[&node, "node_modules/.bin/greeting"]),
        "hello []\n"
    );
}

#[test]
fn node_has_threads_children_and_the_allowed_host() {
    let Some(node) = clients::find("node") else {
        return;
    };
    let node = node.display().to_string();
    let scene = Scene::new();
    scene.files.put("/file", "a file\n");
    let script = format!(
        "const {{Worker}} = require('worker_threads'); \
         new Worker('require(\"worker_threads\").parentPort.postMessage(5)', {{eval: true}}) \
           .on('message', async n => {{ \
             const child = require('child_process').execFileSync('/bin/echo', ['child']); \
             const got = await (await fetch('https://{HOST}/file')).text(); \
             const refused = await fetch('https://{OTHER}/').then(() => 'reached', () => 'refused'); \
             console.log(n, String(child).trim(), got.trim(), refused); }});"
    );
    assert_eq!(
        scene.says(&[&node, "-e", &script]),
        "5 child a file refused\n"
    );
}
