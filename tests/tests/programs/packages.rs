//! Package managers, with what packages run when they are installed.

use crate::registry;
use crate::scene::{HOST, Scene};
use exeat_tests::clients;

#[test]
fn pip_installs_from_an_index() {
    let scene = Scene::new("");
    registry::python(&scene);
    scene.sh(&format!(
        "/usr/bin/python3 -m venv venv
         venv/bin/pip install --disable-pip-version-check --retries 0 --cert ca.pem \
            --index-url https://{HOST}/simple/ demo
         venv/bin/python -c 'import demo; print(demo.word)' > word"
    ));
    assert_eq!(scene.read("word"), "from the wheel\n");
    scene.nothing_else_was_reached();
}

#[test]
fn npm_installs_and_a_packages_script_cannot_call_home() {
    if clients::find("npm").is_none() {
        return;
    }
    let scene = Scene::new("");
    registry::node(&scene);
    scene.put("package.json", r#"{"name":"project","version":"1.0.0"}"#);
    scene.sh(&format!(
        "npm install --no-audit --no-fund --fetch-retries 0 --cache \"$PWD/cache\" \
            --cafile ca.pem --registry https://{HOST}/ demo
         node -p 'require(\"demo\")' > word"
    ));
    assert_eq!(scene.read("word"), "from the package\n");
    assert_eq!(scene.read("node_modules/demo/installed"), "by the script");
    assert_eq!(scene.read("node_modules/demo/call-home"), "EPERM");
    scene.nothing_else_was_reached();
}

#[test]
fn cargo_builds_with_a_dependency_and_a_build_script() {
    // A toolchain of rustup's is its user's alone.
    let scene = Scene::of(0, &toolchain_policy());
    registry::rust(&scene);
    scene.put(
        "Cargo.toml",
        "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         [dependencies]\ndemo = \"1\"\n[workspace]\n",
    );
    scene.put(
        "src/main.rs",
        "fn main() { println!(\"{} {}\", demo::WORD, env!(\"FROM_SCRIPT\")) }\n",
    );
    scene.put(
        "build.rs",
        "fn main() {\n\
         let out = std::env::var(\"OUT_DIR\").unwrap();\n\
         let call = std::net::TcpStream::connect(\"203.0.113.20:443\");\n\
         std::fs::write(out + \"/made\", \"here\").unwrap();\n\
         println!(\"cargo:rustc-env=FROM_SCRIPT={:?}\", call.map(drop).unwrap_err().kind());\n}\n",
    );
    scene.put(
        ".cargo/config.toml",
        &format!(
            "[source.crates-io]\nreplace-with = \"own\"\n\
             [source.own]\nregistry = \"sparse+https://{HOST}/index/\"\n\
             [http]\ncainfo = \"ca.pem\"\n[net]\nretry = 0\n"
        ),
    );
    let toolchain = toolchain();
    scene.sh(&format!(
        "export CARGO_HOME=\"$PWD/cargo-home\" PATH=\"{toolchain}/bin:$PATH\"
         cargo build
         target/debug/project > word"
    ));
    assert_eq!(scene.read("word"), "from the crate PermissionDenied\n");
    scene.nothing_else_was_reached();
}

/// The toolchain that these tests were built with.
fn toolchain() -> String {
    let output = std::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .expect("rustc");
    String::from_utf8(output.stdout)
        .expect("a path")
        .trim()
        .to_owned()
}

/// Opens it, wherever it is.
fn toolchain_policy() -> String {
    format!("    sandbox:\n      read: [\"{}\"]\n", toolchain())
}
