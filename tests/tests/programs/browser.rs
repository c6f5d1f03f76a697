//! A browser without a window, with its own sandbox inside of the agent's.

use crate::scene::{HOST, OTHER, Scene};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients;

#[test]
fn a_browser_loads_a_page_and_its_own_sandbox_stands() {
    let Some(browser) = clients::find("chromium-headless-shell") else {
        return;
    };
    // The sandbox shows the folder by its own path alone.
    let browser = browser.canonicalize().expect("path").display().to_string();
    let scene = Scene::of(PLAIN_USER, "      user_namespaces: true\n");
    scene.files.put(
        "/page/",
        format!(
            "<!DOCTYPE html><title>loading</title><p>a page</p><script>\n\
             const image = new Image();\n\
             image.onload = () => {{ document.title = 'reached'; }};\n\
             image.onerror = () => {{ document.title = 'ended'; }};\n\
             image.src = 'https://{OTHER}/';\n\
             </script>\n"
        ),
    );
    let output = scene.run(&[
        &browser,
        "--ignore-certificate-errors",
        "--disable-gpu",
        "--timeout=20000",
        "--dump-dom",
        &format!("https://{HOST}/page/"),
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("<p>a page</p>"), "{text}{errors}");
    // What the policy does not name is not reached from a page either.
    assert!(text.contains("<title>ended</title>"), "{text}");
    let asked = scene.files.asked();
    assert!(asked.iter().any(|path| path == "/page/"), "{asked:?}");
}
