//! Registries as files: the indexes that pip, npm and cargo read, each with one package `demo`.

use crate::scene::{HOST, Scene, outside};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

/// PEP 503: a wheel.
pub(crate) fn python(scene: &Scene) {
    const WHEEL: &str = "demo-1.0-py3-none-any.whl";
    const MAKE: &str = "\
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    wheel.writestr('demo.py', 'word = \"from the wheel\"\\n')
    info = 'demo-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', 'demo.py,,\\n' + ''.join(info + f + ',,\\n' for f in ('METADATA', 'WHEEL', 'RECORD')))
";
    scene.serve(
        "simple/demo/index.html",
        format!("<!DOCTYPE html><html><body><a href=\"/files/{WHEEL}\">{WHEEL}</a></body></html>"),
    );
    scene.serve("files/.keep", "");
    let wheel = scene.served.join("files").join(WHEEL);
    outside(
        Command::new("/usr/bin/python3")
            .args(["-c", MAKE])
            .arg(wheel),
    );
}

/// A package with a script that runs when it is installed, which tries to call home.
pub(crate) fn node(scene: &Scene) {
    let folder = scene.world.folder().join("npm");
    let package = serde_json::json!({
        "name": "demo",
        "version": "1.0.0",
        "main": "index.js",
        "scripts": { "postinstall": "node install.js" },
    });
    write(&folder, "package/package.json", &package.to_string());
    write(
        &folder,
        "package/index.js",
        "module.exports = 'from the package'\n",
    );
    write(
        &folder,
        "package/install.js",
        "const fs = require('fs'), net = require('net')\n\
         fs.writeFileSync('installed', 'by the script')\n\
         const end = why => { fs.writeFileSync('call-home', why); process.exit(0) }\n\
         const call = net.connect(443, '203.0.113.20', () => end('reached'))\n\
         call.on('error', error => end(error.code))\n",
    );
    let bytes = packed(&folder, "package");
    scene.serve("demo/-/demo-1.0.0.tgz", &bytes);
    let mut version = package;
    version["hasInstallScript"] = true.into();
    version["dist"] = serde_json::json!({
        "tarball": format!("https://{HOST}/demo/-/demo-1.0.0.tgz"),
        "integrity": format!("sha256-{}", data_encoding::BASE64.encode(&Sha256::digest(&bytes))),
    });
    let index = serde_json::json!({
        "name": "demo",
        "dist-tags": { "latest": "1.0.0" },
        "versions": { "1.0.0": version },
    });
    scene.serve("demo/index.html", index.to_string());
}

/// A sparse index with a library.
pub(crate) fn rust(scene: &Scene) {
    let folder = scene.world.folder().join("crates");
    write(
        &folder,
        "demo-1.0.0/Cargo.toml",
        "[package]\nname = \"demo\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
    );
    write(
        &folder,
        "demo-1.0.0/src/lib.rs",
        "pub const WORD: &str = \"from the crate\";\n",
    );
    let bytes = packed(&folder, "demo-1.0.0");
    scene.serve("crates/demo.crate", &bytes);
    scene.serve(
        "index/config.json",
        serde_json::json!({ "dl": format!("https://{HOST}/crates/{{crate}}.crate") }).to_string(),
    );
    let line = serde_json::json!({
        "name": "demo",
        "vers": "1.0.0",
        "deps": [],
        "cksum": data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)),
        "features": {},
        "yanked": false,
    });
    scene.serve("index/de/mo/demo", format!("{line}\n"));
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
    std::fs::write(path, text).expect("write");
}

fn packed(folder: &Path, name: &str) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).args(["-cz", name]);
    outside(&mut tar).stdout
}
