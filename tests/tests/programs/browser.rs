//! A browser without a window, inside its own sandbox inside Exeat's.

use crate::scene::{HOST, Scene, said};
use exeat_tests::clients;
use std::path::Path;

const PAGE: &str = "<!DOCTYPE html><html><body><h1 id=word>before</h1><img src=http://203.0.113.20/pixel>\
    <script>fetch('http://other.example/').then(() => 'reached', () => 'refused').then(how => {\
    document.getElementById('word').textContent = 'the script ran and was ' + how })</script></body></html>";

fn load(sandbox: &str, flags: &str) {
    let Some(program) = clients::find("chromium-headless-shell") else {
        return;
    };
    let folder = program.parent().expect("a folder");
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let scene = Scene::new(&format!(
        "    sandbox:\n      read: [\"{}\"]\n{sandbox}",
        folder.display()
    ));
    scene.serve("page.html", PAGE);
    let program = folder.join(program.file_name().unwrap_or_default());
    let output = scene.try_sh(&browse(&program, flags));
    let said = said(&output);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let page = scene.read("page");
    assert!(
        page.contains("the script ran and was refused"),
        "{page}\n{said}"
    );
    let reached = scene.hosts.iter().flat_map(|host| host.requests());
    assert!(
        reached
            .map(|request| request.head)
            .any(|head| head.starts_with("GET /page.html"))
    );
    scene.nothing_else_was_reached();
}

fn browse(program: &Path, flags: &str) -> String {
    format!(
        "\"{}\" {flags} --user-data-dir=\"$PWD/profile\" --virtual-time-budget=5000 \
            --dump-dom http://{HOST}/page.html > page",
        program.display()
    )
}

#[test]
fn chromium_loads_a_page_with_its_own_sandbox() {
    load("      user_namespaces: true\n", "");
}

#[test]
fn chromium_loads_a_page_without_its_own_sandbox() {
    load("", "--no-sandbox");
}
