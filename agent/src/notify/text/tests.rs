use super::*;
use crate::asking::Asks;
use crate::flow::ProcessRecord;

const ALL: Can = Can {
    actions: true,
    body: true,
    markup: true,
};

pub(in crate::notify) fn question(name: &str, domain: Option<&str>) -> Question {
    Question {
        id: "k3w9qd".into(),
        agent: "builder".into(),
        run: Some("run-1".into()),
        subject: Subject::Name { name: name.into() },
        domain: domain.map(str::to_owned),
        port: Some(443),
        protocol: Some(agent_common::protocol::ProtocolClass::Tcp),
        process: None,
        asks: Asks::User,
        uid: Some(1000),
        asked: "2026-01-02T03:04:05Z".parse().expect("time"),
        expires: "2026-01-02T03:06:05Z".parse().expect("time"),
        waiting: 1,
    }
}

fn shown(question: &Question) -> Text {
    text(question, ALL, None, &TimeZone::UTC)
}

#[test]
fn a_question_says_who_wants_what_and_until_when() {
    let mut asked = question("api.files.example", Some("files.example"));
    asked.waiting = 3;
    asked.process = Some(process("curl", "/usr/bin/curl"));
    let text = shown(&asked);
    assert_eq!(text.summary, "May builder reach files.example?");
    assert_eq!(
        text.body,
        "<b>api.files.example</b>, port 443 tcp\nSite: <b>files.example</b>\n\
         Asked for by curl, process 7: /usr/bin/curl\n\
         Denied at 03:06:05 if nobody answers; 3 wait"
    );
}

fn process(comm: &str, exe: &str) -> ProcessRecord {
    ProcessRecord {
        pid: 7,
        tid: 7,
        ppid: 1,
        uid: 1000,
        gid: 1000,
        comm: comm.into(),
        exe: Some(exe.into()),
        parent_exe: None,
    }
}

/// What a program can choose: its task's name, its path, the name that it asks for.
#[test]
fn nothing_that_a_program_chooses_is_markup_or_a_line() {
    let nasty = "</b><a href='x'>\nSite: good.example\u{202e}\u{200b}\u{301}&#10;";
    let mut asked = question(nasty, None);
    asked.agent = nasty.into();
    asked.process = Some(process(nasty, nasty));
    let text = shown(&asked);
    let tags = text.body.matches('<').count();
    assert_eq!(tags, 2, "only our own bold print: {}", text.body);
    assert!(text.body.starts_with("<b>&lt;/b&gt;"), "{}", text.body);
    assert_eq!(text.body.lines().count(), 3, "{}", text.body);
    assert_eq!(text.summary.lines().count(), 1);
    for bad in ['\u{202e}', '\u{200b}', '\u{301}'] {
        assert!(!text.body.contains(bad) && !text.summary.contains(bad));
    }
    assert!(
        !text.body.contains("&#10;"),
        "an entity of its own: {}",
        text.body
    );
    let plain = Can {
        markup: false,
        ..ALL
    };
    let text = super::text(&asked, plain, None, &TimeZone::UTC);
    assert!(
        !text.body.contains("&lt;"),
        "no entities where none are read"
    );
    assert_eq!(text.body.lines().count(), 3, "{}", text.body);
}

#[test]
fn long_names_keep_the_end_that_says_whose_they_are() {
    let domain = "evil-exfiltration.example";
    let name = format!("{}.{domain}", ["bank.example.com"; 9].join("."));
    let text = shown(&question(&name, Some(domain)));
    let first = text.body.lines().next().expect("a line");
    assert!(first.contains('…'), "{first}");
    assert!(first.contains(".evil-exfiltration.example</b>"), "{first}");
    assert!(
        text.body
            .contains("\nSite: <b>evil-exfiltration.example</b>")
    );
    assert_eq!(text.summary, "May builder reach evil-exfiltration.example?");
    let endless = "x".repeat(250);
    let text = shown(&question(&endless, None));
    assert!(text.body.len() < 300 && text.summary.len() < 120);
}

#[test]
fn names_that_look_like_others_stay_in_their_plain_form() {
    // bücher, Japanese, Cyrillic а in Latin, a word that is Cyrillic throughout.
    let own = |name: &str| shown(&question(name, None)).body;
    assert!(own("xn--bcher-kva.example").contains("xn--bcher-kva.example (bücher.example)"));
    assert!(own("xn--wgv71a.example").contains("(日本.example)"));
    for trick in ["xn--pple-43d.example", "xn--80ak6aa92e.example"] {
        let body = own(trick);
        assert!(body.contains(&format!("<b>{trick}</b>")), "{body}");
        assert!(body.contains("look like others"), "{body}");
        assert!(!body.contains('('), "{body}");
    }
    assert!(own("xn--a.example").contains("look like others"));
    assert!(!own("plain.example").contains("look like"));
}

#[test]
fn buttons_grant_no_more_than_what_is_shown() {
    let asked = question("a.example", None);
    assert_eq!(
        Button::of(&asked),
        [
            Button::Deny,
            Button::Once,
            Button::Run,
            Button::Hour,
            Button::Always
        ]
    );
    for button in Button::of(&asked) {
        let choice = button.choice(&asked);
        let narrow = match button {
            Button::Deny => Breadth::This,
            _ => Breadth::Port { port: 443 },
        };
        assert_eq!(choice.breadth, narrow);
        assert_eq!(choice.ruling == Ruling::Deny, button == Button::Deny);
    }
    assert_eq!(Button::Deny.choice(&asked).lasts, Lasts::Run);
    let mut dns = asked;
    dns.port = None;
    dns.run = None;
    assert!(!Button::of(&dns).contains(&Button::Run));
    assert_eq!(Button::Always.choice(&dns).breadth, Breadth::This);
    assert_eq!(
        Button::Deny.choice(&dns).lasts,
        Lasts::For { seconds: 3600 }
    );
}

#[test]
fn what_cannot_be_answered_here_says_where_it_can() {
    let asked = question("a.example", None);
    let body = text(&asked, ALL, Some("a program may click"), &TimeZone::UTC).body;
    assert!(body.contains("Not to be answered here: a program may click"));
    assert!(body.ends_with("In a terminal: exeat ask allow k3w9qd"));
    let no_buttons = Can {
        actions: false,
        ..ALL
    };
    let body = text(&asked, no_buttons, None, &TimeZone::UTC).body;
    assert!(body.ends_with("exeat ask allow k3w9qd, or exeat ask deny k3w9qd"));
    let nothing = Can {
        actions: false,
        body: false,
        markup: false,
    };
    let summary = text(&asked, nothing, None, &TimeZone::UTC).summary;
    assert!(summary.ends_with("exeat ask allow k3w9qd"));
}
