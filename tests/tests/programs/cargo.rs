//! Cargo: a dependency from a registry, and a build script, which is any program.

use crate::scene::{HOST, OTHER, Scene, outside};
use std::path::Path;

/// The compiler that these tests were built with lies in root's home, where only root gets to.
fn scene() -> Scene {
    Scene::of(0, "")
}

/// Makes the crate `greeting` and the index of a registry that has it.
fn registry(scene: &Scene) {
    let workshop = scene.workshop();
    let root = workshop.join("greeting-1.0.0");
    std::fs::create_dir_all(root.join("src")).expect("folder");
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).expect("write");
    write(
        "Cargo.toml",
        "[package]\nname = \"greeting\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
    );
    write(
        "src/lib.rs",
        "pub fn word() -> &'static str { \"hello\" }\n",
    );
    let script = format!(
        "fn main() {{\n\
         let mut seen = Vec::new();\n\
         if std::fs::read({secret:?}).is_ok() {{ seen.push(\"secret\"); }}\n\
         if std::env::var_os(\"GITHUB_TOKEN\").is_some() {{ seen.push(\"environment\"); }}\n\
         if std::net::TcpStream::connect((\"{OTHER}\", 443)).is_ok() {{ seen.push(\"network\"); }}\n\
         println!(\"cargo:rustc-env=SEEN={{seen:?}}\");\n}}\n",
        secret = scene.secret.display().to_string()
    );
    write("build.rs", &script);
    write(
        "src/lib.rs",
        "pub fn word() -> &'static str { concat!(\"hello \", env!(\"SEEN\")) }\n",
    );
    outside(
        &workshop,
        &["tar", "czf", "greeting-1.0.0.crate", "greeting-1.0.0"],
    );
    let digest = outside(&workshop, &["sha256sum", "greeting-1.0.0.crate"]);
    let digest = digest.split(' ').next().expect("digest");
    let archive = std::fs::read(workshop.join("greeting-1.0.0.crate")).expect("crate");
    scene.files.put("/crates/greeting/1.0.0/download", archive);
    scene.files.put(
        "/index/config.json",
        format!(r#"{{"dl": "https://{HOST}/crates/{{crate}}/{{version}}/download"}}"#),
    );
    scene.files.put(
        "/index/gr/ee/greeting",
        format!(
            "{{\"name\":\"greeting\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{digest}\",\
             \"features\":{{}},\"yanked\":false}}\n"
        ),
    );
}

#[test]
fn cargo_builds_with_a_dependency_whose_build_script_reaches_nothing_else() {
    let scene = scene();
    registry(&scene);
    scene.write(
        ".cargo/config.toml",
        &format!(
            "[registries.stub]\nindex = \"sparse+https://{HOST}/index/\"\n\
             [net]\nretry = 0\n[http]\ncainfo = {:?}\nmultiplexing = false\n",
            scene.authority.display().to_string()
        ),
    );
    scene.write(
        "Cargo.toml",
        "[package]\nname = \"work\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\
         [dependencies]\ngreeting = { version = \"1\", registry = \"stub\" }\n[workspace]\n",
    );
    scene.write(
        "src/main.rs",
        "fn main() { println!(\"{}\", greeting::word()); }\n",
    );
    let cargo = Path::new(env!("CARGO")).display().to_string();
    // Cargo's own home is the person's; what it keeps of registries is the project's here.
    let home = scene.project.join("cargo-home");
    let argv = [cargo.as_str(), "run", "--quiet"];
    let output = scene
        .command(&argv)
        .env("CARGO_HOME", &home)
        .env("PATH", path_of(&cargo))
        .output()
        .expect("start exeat run");
    assert_eq!(crate::scene::said(&output, &argv), "hello []\n");
}

/// The folder of the compiler before the usual ones.
fn path_of(cargo: &str) -> String {
    let folder = Path::new(cargo).parent().expect("folder");
    format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display())
}
