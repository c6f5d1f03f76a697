//! A question is answered by a click.

use crate::double::{Double, question};
use exeat::asking::{Breadth, Choice, Lasts, Ruling};
use exeat::control::Request;
use exeat::flow::ProcessRecord;
use exeat_tests::browser::Browser;
use exeat_tests::ui::Running;
use std::process::Command;

fn answer(request: Request) -> (String, Choice, String) {
    match request {
        Request::Answer {
            question,
            choice,
            via,
            why: None,
        } => (question, choice, via),
        other => panic!("{other:?}"),
    }
}

fn choice(ruling: Ruling, lasts: Lasts, breadth: Breadth) -> Choice {
    Choice {
        ruling,
        lasts,
        breadth,
    }
}

const HOSTILE: &str =
    "<img src=x onerror=alert(1)>\u{202e}</bdi><script>alert(2)</script>.example.net";

#[test]
fn a_person_is_asked_answers_by_clicks_and_revokes() {
    let Some(mut browser) = Browser::start(|program| Command::new(program)).expect("browser")
    else {
        return;
    };
    let double = Double::new();
    let ui = Running::of(double.folder()).expect("ui");
    browser.open(&ui.url).expect("page");
    // No daemon yet: the page says so and what to do.
    browser
        .until("document.querySelector('#notice').innerText.includes('exeat daemon')")
        .expect("a notice");
    assert_eq!(browser.value("location.hash").expect("hash"), "");
    assert_eq!(
        browser.value("document.cookie").expect("cookie"),
        "",
        "HttpOnly"
    );

    double.ask(question("q00001", "registry.example.net"));
    double.listen();
    browser
        .until("document.querySelector('#agents').innerText.includes('build-bot')")
        .expect("agents");
    browser
        .until("document.querySelector('#walls').innerText.includes('lsm_unix')")
        .expect("walls");
    let mut second = question("q00002", HOSTILE);
    second.process = Some(ProcessRecord {
        pid: 7,
        tid: 7,
        ppid: 1,
        uid: 1000,
        gid: 1000,
        comm: HOSTILE.into(),
        exe: None,
        parent_exe: None,
    });
    double.ask(second);
    double.ask(question("q00003", "late.example.net"));
    let there = "document.querySelectorAll('.question').length === 3";
    browser.until(there).expect("questions");
    browser
        .until("document.querySelector('[data-question=q00002]').innerText.includes('\\\\u{202e}')")
        .expect("what acts is spelled out");
    browser.picture("ui-questions").expect("picture");

    // A new question is deaf for a moment, so that no click meant for something else answers it.
    let can = |id: &str| format!("!document.querySelector('[data-question={id}] button').disabled");
    browser.until(&can("q00001")).expect("ready");
    browser
        .click("[data-question=q00001] [data-answer=allow-for]")
        .expect("click");
    let hour = Lasts::For { seconds: 3600 };
    let expected = choice(Ruling::Allow, hour, Breadth::This);
    assert_eq!(
        answer(double.told()),
        ("q00001".into(), expected, "web".into())
    );
    browser
        .until("document.querySelector('#grants').innerText.includes('registry.example.net')")
        .expect("the grant");

    // A denial is confirmed; the whole domain.
    browser.until(&can("q00002")).expect("ready");
    browser
        .value("document.querySelector('[data-question=q00002] select').selectedIndex = 2")
        .expect("choice");
    browser
        .click("[data-question=q00002] [data-answer=deny]")
        .expect("click");
    assert!(double.was_told_no_more(), "not yet confirmed");
    browser
        .click("[data-question=q00002] [data-answer=deny-always]")
        .expect("click");
    let expected = choice(Ruling::Deny, Lasts::Always, Breadth::Domain);
    assert_eq!(
        answer(double.told()),
        ("q00002".into(), expected, "web".into())
    );

    // Somebody else, or the time, settles one: it goes here too.
    double.time_out("q00003");
    browser
        .until("document.querySelectorAll('.question').length === 0")
        .expect("settled");

    browser.click("[data-revoke=g-q00001]").expect("click");
    match double.told() {
        Request::Revoke { grant, agent: None } => assert_eq!(grant.as_deref(), Some("g-q00001")),
        other => panic!("{other:?}"),
    }
    browser
        .until("!document.querySelector('[data-revoke=g-q00001]')")
        .expect("revoked");
    assert!(double.was_told_no_more());

    // The same address again opens nothing, and a reload goes on.
    browser
        .open(&format!("http://{}/", ui.address()))
        .expect("reload");
    browser
        .until("document.querySelector('#agents').innerText.includes('build-bot')")
        .expect("still in the session");
    let origin = format!("http://{}/", ui.address());
    for url in browser.requests() {
        assert!(url.starts_with(&origin), "{url}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let ended = ui.interrupt().expect("end");
    assert!(ended.success(), "{ended}");
}

#[test]
fn an_address_is_good_once() {
    let start = || Browser::start(|program| Command::new(program)).expect("browser");
    let (Some(mut first), Some(mut second)) = (start(), start()) else {
        return;
    };
    let double = Double::new();
    double.listen();
    let ui = Running::of(double.folder()).expect("ui");
    first.open(&ui.url).expect("page");
    first
        .until("document.querySelector('#agents').innerText.includes('build-bot')")
        .expect("agents");
    second.open(&ui.url).expect("page");
    second
        .until("document.querySelector('#notice').innerText.includes('used already')")
        .expect("refused");
    assert_eq!(
        second
            .value("document.querySelector('#agents').innerText")
            .expect("agents"),
        ""
    );
}
