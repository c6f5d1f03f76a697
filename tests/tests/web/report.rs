//! The report of the real daemon's history, opened in a browser.

use exeat_tests::browser::Browser;
use exeat_tests::stage::{AGENT, OTHER_V4, POLICY, Stage};
use exeat_tests::wait;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

/// A question to the gate for whatever name, as no library asks it.
const ASK: &str = r#"
s = udp()
labels = b''.join(bytes([len(l)]) + l for l in [b'<script>alert(1)</script>', b'"onload="x', b'example'])
s.sendto(b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00' + labels + b'\x00\x00\x01\x00\x01', ('203.0.113.53', 53))
len(s.recv(512))
"#;

#[test]
fn a_report_of_what_happened_is_quiet_in_a_browser() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .ask("open('/proc/self/comm', 'w').write('<img src=x>')")
        .expect("a name");
    let code = format!("tcp('{OTHER_V4}', 443)");
    for _ in 0..3 {
        assert_eq!(puppet.errno(&code).expect("refused"), libc::EPERM);
    }
    puppet.ask(ASK).expect("asked");
    let report = |more: &[&str]| {
        let all: Vec<&str> = ["report", "--since", "1h"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        stage.daemon.cli(&all).output().expect("exeat report")
    };
    let json = wait::until("the history to have it", wait::patience(), || {
        let output = report(&["--output", "json"]);
        assert!(output.status.success(), "{output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        // Written in batches, behind what happens.
        (json["refused"].as_array()?.len() >= 2).then_some(json)
    })
    .expect("a report");
    assert_eq!(json["agents"][0]["agent"], AGENT);
    assert_eq!(json["complete"]["everybody"], true);

    let file = stage.world.folder().join("report.html");
    let path = file.display().to_string();
    let output = report(&["--html", &path]);
    assert!(output.status.success(), "{output:?}");
    let mode = std::fs::metadata(&file).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let Some(mut browser) =
        Browser::start(|program| stage.world.laptop.command(program)).expect("browser")
    else {
        return;
    };
    browser.open(&format!("file://{path}")).expect("page");
    for text in [
        "In short",
        "Not on the list",
        OTHER_V4,
        AGENT,
        "Unknown name looked up",
        "<script>alert(1)</script>",
    ] {
        let there = format!("document.body.innerText.includes({})", Value::from(text));
        browser.until(&there).expect(text);
    }
    let odd = "document.querySelectorAll('script, img, iframe, link, [onload], [onerror]').length";
    assert_eq!(browser.value(odd).expect("tags"), 0);
    let plots = "document.querySelectorAll('figure [role=img][aria-label] svg').length > 0";
    assert_eq!(browser.value(plots).expect("plots"), true);
    // The style is the page's own, and its policy lets it be.
    let styled = "getComputedStyle(document.querySelector('.tiles')).display";
    assert_eq!(browser.value(styled).expect("style"), "grid");
    browser.picture("report").expect("picture");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(browser.requests(), [format!("file://{path}")]);
}
