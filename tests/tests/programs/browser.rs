//! A browser without a window, with its own sandbox inside Exeat's and without.

use crate::scene::{HOST, OTHER, Scene, said};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients;

fn load(openings: &str, flags: &[&str]) {
    let Some(program) = clients::find("chromium-headless-shell") else {
        return;
    };
    let program = program.canonicalize().expect("its path");
    let scene = Scene::of(PLAIN_USER, openings);
    let page = format!(
        "<!DOCTYPE html><html><body><h1 id=word>before</h1><img src=https://{OTHER}/pixel>\
         <script>fetch('https://{OTHER}/').then(() => 'reached', () => 'refused').then(how => {{\
         document.getElementById('word').textContent = 'the script ran and was ' + how }})\
         </script></body></html>"
    );
    scene.files.put("/page/", page);
    let profile = format!("--user-data-dir={}/profile", scene.project.display());
    let url = format!("https://{HOST}/page/");
    let program = program.display().to_string();
    let mut argv = vec![program.as_str(), &profile, "--dump-dom"];
    // The test's authority is not among those that it brings.
    argv.extend(["--ignore-certificate-errors", "--virtual-time-budget=5000"]);
    argv.extend(flags);
    argv.push(&url);
    let output = scene.run(&argv);
    let page = said(&output, &argv);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        page.contains("the script ran and was refused"),
        "{page}\n{errors}"
    );
    assert!(scene.files.asked().contains(&"/page/".to_owned()));
    assert!(scene.other.asked().is_empty());
}

#[test]
fn chromium_loads_a_page_with_its_own_sandbox() {
    load("      user_namespaces: true\n", &[]);
}

#[test]
fn chromium_loads_a_page_without_its_own_sandbox() {
    load("", &["--no-sandbox"]);
}
