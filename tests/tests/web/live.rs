//! The page over the real daemon: what is refused appears while one looks.

use exeat_tests::browser::Browser;
use exeat_tests::stage::{AGENT, OTHER_V4, POLICY, Stage};
use exeat_tests::ui::Running;

#[test]
fn a_refusal_appears_while_one_looks() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let Some(mut browser) =
        Browser::start(|program| stage.world.laptop.command(program)).expect("browser")
    else {
        return;
    };
    let ui = Running::start(stage.daemon.cli(&["ui"])).expect("ui");
    browser.open(&ui.url).expect("page");
    browser
        .until(&format!(
            "document.querySelector('#agents').innerText.includes('{AGENT}')"
        ))
        .expect("the agent");
    browser
        .until("document.querySelector('#state').innerText.startsWith('Enforcing')")
        .expect("the state");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .ask("open('/proc/self/comm', 'w').write('<b>oops</b>')")
        .expect("a name");
    let code = format!("tcp('{OTHER_V4}', 443)");
    assert_eq!(puppet.errno(&code).expect("refused"), libc::EPERM);
    let row = "[...document.querySelectorAll('#records tr')].some((row) => \
               row.innerText.includes('refused') && row.innerText.includes('203.0.113.20') \
               && row.innerText.includes('<b>oops</b>'))";
    browser.until(row).expect("the refusal");
    assert_eq!(
        browser
            .value("document.querySelectorAll('#records b').length")
            .expect("markup"),
        0
    );
    browser.picture("ui-live").expect("picture");
    browser.click("[data-show=incident]").expect("click");
    browser
        .until("[...document.querySelectorAll('#records tr')].every((row) => row.dataset.kind === 'incident' || row.hidden)")
        .expect("the filter");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert!(ui.interrupt().expect("end").success());
}
