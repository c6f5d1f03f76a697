//! Answers on the page of `exeat ui`, in a browser.

use super::{Folder, Scene, chmod};
use exeat_tests::asked::{FAR, FAR6};
use exeat_tests::browser::Browser;
use exeat_tests::ui::Running;
use exeat_tests::{asked, wait};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

fn browser(scene: &Scene) -> Option<Browser> {
    Browser::start(|program| scene.stage.world.laptop.command(program)).expect("browser")
}

/// A question is deaf for a moment; then its buttons are there.
fn ready(browser: &mut Browser, id: &str) -> String {
    let card = format!("[data-question=\"{id}\"]");
    let can = format!("!document.querySelector('{card} button').disabled");
    browser
        .until(&can)
        .expect("a question that can be answered");
    card
}

#[test]
fn the_page_answers_and_revokes_in_the_kernel() {
    let mut scene = Scene::new("user", "");
    let Some(mut browser) = browser(&scene) else {
        return;
    };
    let ui = Running::start(scene.stage.daemon.cli(&["ui"])).expect("ui");
    browser.open(&ui.url).expect("page");
    browser
        .until("document.querySelector('#agents').innerText.includes('worker')")
        .expect("the agent");
    scene.begin();
    let id = asked::question(&scene.stage).expect("a question");
    let card = ready(&mut browser, &id);
    let shown = browser
        .value(&format!("document.querySelector('{card}').innerText"))
        .expect("text");
    let shown = shown.as_str().expect("text");
    assert!(shown.contains(FAR) && shown.contains("7000"), "{shown}");
    browser.picture("answer-question").expect("picture");
    scene.still_waits();
    browser
        .click(&format!("{card} [data-answer=allow-for]"))
        .expect("click");
    assert_eq!(scene.ended(), 0);
    let grant = scene.grant();
    assert_eq!(grant["by"]["via"], "web", "{grant}");
    assert_eq!(grant["question"], id.as_str(), "{grant}");
    scene.answered("allowed", "web");
    // Revoked by a click: the program, which waits for an answer of the host, is told.
    let grant = grant["id"].as_str().expect("an id").to_owned();
    let revoke = format!("[data-revoke=\"{grant}\"]");
    browser
        .until(&format!("!!document.querySelector('{revoke}')"))
        .expect("the grant is listed");
    browser.click(&revoke).expect("click");
    let errno = scene.puppet.errno("held.settimeout(30); held.recv(1)");
    assert_eq!(errno.expect("answer"), libc::ECONNABORTED);
    assert!(asked::grants(&scene.stage).expect("grants").is_empty());

    // What is answered elsewhere goes from the page; a denial takes two clicks.
    scene.begin_to(FAR6);
    let id = asked::question(&scene.stage).expect("a question");
    ready(&mut browser, &id);
    scene.exeat_ask(&["deny", &id]);
    assert_ne!(scene.ended(), 0);
    browser
        .until("document.querySelectorAll('.question').length === 0")
        .expect("settled");
    scene.begin_to("203.0.113.32");
    let id = asked::question(&scene.stage).expect("a question");
    let card = ready(&mut browser, &id);
    browser
        .click(&format!("{card} [data-answer=deny]"))
        .expect("click");
    assert!(asked::waits(&mut scene.puppet).expect("puppet"));
    browser
        .click(&format!("{card} [data-answer=deny-always]"))
        .expect("click");
    assert_ne!(scene.ended(), 0);
    scene.answered("denied", "web");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert!(ui.interrupt().expect("end").success());
}

#[test]
fn open_shows_the_page_and_tells_the_token_to_nobody_else() {
    let mut scene = Scene::new("user", "");
    let Some(mut browser) = browser(&scene) else {
        return;
    };
    // What desktops have as xdg-open, as far as we go: it is given one argument.
    let folder = Folder::new();
    let at = folder.0.path().display().to_string();
    let script = format!(
        "#!/bin/sh\ntr '\\0' '\\n' < /proc/$$/cmdline > {at}/words.new\nmv {at}/words.new {at}/words\n"
    );
    folder.write("xdg-open", &script, 0o755);
    std::fs::create_dir(folder.path("session")).expect("folder");
    chmod(&folder.path("session"), 0o700);
    let mut command = scene.stage.daemon.cli(&["ui", "--open"]);
    let path = std::env::var("PATH").expect("PATH");
    command
        .env("PATH", format!("{at}:{path}"))
        .env("XDG_RUNTIME_DIR", folder.path("session"));
    let ui = Running::start(command).expect("ui");
    let words = folder.read("words");
    let file = words.lines().last().expect("an argument").to_owned();
    assert!(file.starts_with(&format!("{at}/session/")), "{words}");
    let text = std::fs::read_to_string(&file).expect("the file");
    let mode = std::fs::metadata(&file).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for the user alone");
    // Everybody on the machine can read what is on a command line.
    let link = text
        .split("url=")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let link = link.expect("an address");
    let token = link.split('#').nth(1).expect("a token");
    assert!(token.len() > 20, "{text}");
    assert!(!words.contains(token) && !words.contains("http"), "{words}");
    assert_ne!(token, ui.token(), "the one that was printed is another");

    browser.open(&format!("file://{file}")).expect("page");
    browser
        .until("document.querySelector('#agents')?.innerText.includes('worker')")
        .expect("in session");
    assert_eq!(browser.value("location.hash").expect("hash"), "");
    scene.begin();
    let id = asked::question(&scene.stage).expect("a question");
    let card = ready(&mut browser, &id);
    browser
        .click(&format!("{card} [data-answer=allow-once]"))
        .expect("click");
    assert_eq!(scene.ended(), 0);
    assert!(ui.interrupt().expect("end").success());
    assert!(!std::path::Path::new(&file).exists(), "the file is gone");
}

#[test]
fn open_says_what_is_missing() {
    let scene = Scene::new("user", "");
    let output = scene
        .stage
        .daemon
        .cli(&["ui", "--open"])
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null())
        .output()
        .expect("ui");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("leave out --open"), "{said}");

    // No xdg-open: the address is printed all the same, and the page is served.
    let folder = Folder::new();
    let mut command = scene.stage.daemon.cli(&["ui", "--open"]);
    command
        .env("PATH", folder.0.path())
        .env("XDG_RUNTIME_DIR", folder.0.path());
    let ui = Running::start(command).expect("ui");
    let at = ui.address();
    let connect = || Ok(std::net::TcpStream::connect(at)?);
    wait::until("the page", wait::patience(), || {
        scene.stage.world.laptop.run(connect).ok()
    })
    .expect("served");
    assert!(ui.interrupt().expect("end").success());
}
