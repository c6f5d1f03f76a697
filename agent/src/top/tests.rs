//! Pictures, compared with those in `pictures/`. `EXEAT_WRITE_PICTURES=1` writes them anew.

use std::path::Path;
use std::time::Duration;

use agent_common::protocol::ProtocolClass;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::view::{Now, draw};
use super::{Act, App, Pane, Update};
use crate::asking::{
    Asks, Breadth, Choice, Lasts, Outcome, Question, Ruling, Settlement, Subject, Who,
};
use crate::control::status::tests::status;
use crate::control::status::{AgentStatus, Health, NameState, NameStatus, Status, Wall, WallState};
use crate::flow::tests::record;
use crate::incident::{Incident, IncidentKind};
use crate::sink::Record;

fn time(text: &str) -> Timestamp {
    text.parse().expect("time")
}

fn now() -> Now {
    Now {
        time: time("2026-03-04T12:00:30Z"),
        zone: TimeZone::UTC,
        colour: true,
    }
}

fn draw_on(app: &App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("terminal");
    terminal
        .draw(|frame| draw(frame, app, &now()))
        .expect("drawn");
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    buffer
        .content()
        .chunks(width)
        .map(|row| {
            let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            format!("{}\n", row.trim_end())
        })
        .collect()
}

fn compare(name: &str, app: &App, width: u16, height: u16) {
    let drawn = text(&draw_on(app, width, height));
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/top/pictures")
        .join(format!("{name}.txt"));
    if std::env::var_os("EXEAT_WRITE_PICTURES").is_some() {
        std::fs::write(&path, &drawn).expect("write");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(drawn == known, "{} is now:\n{drawn}", path.display());
}

fn agent(name: &str, flows: u64, refused: u64, sent: u64) -> AgentStatus {
    let mut agent = status().agents.remove(0);
    agent.name = name.into();
    agent.allowed = [("tcp".to_owned(), flows)].into();
    agent.blocked = [("no_rule".to_owned(), [("tcp".to_owned(), refused)].into())].into();
    agent.sent_bytes = sent;
    agent
}

fn step(n: u64) -> Status {
    let mut status = status();
    let busy = [0, 4, 4, 9, 30, 31, 60, 75][..=n as usize].iter().sum();
    status.agents = vec![
        agent("build-bot", busy, 7, busy * 50_000),
        agent("browser", 100 * n, 3 + n, 2_000_000 * n),
        agent("quiet", 0, 0, 0),
    ];
    status.agents[2].mode = "monitor".into();
    status.names.push(NameStatus {
        name: "cdn.example.net".into(),
        state: NameState::Stale,
        addresses: ["192.0.2.8", "192.0.2.9"]
            .map(|a| a.parse().expect("address"))
            .into(),
        expires_in_seconds: Some(5),
        failures: 2,
        last_error: None,
    });
    status.enforcement.walls.push(Wall {
        name: "file_receive".into(),
        hook: "lsm".into(),
        state: WallState::Missing,
        detail: String::new(),
        leaves_out: Vec::new(),
    });
    status
}

fn busy() -> App {
    let mut app = App::new(None);
    for n in 0..8 {
        let at = Duration::from_secs(n);
        assert_eq!(app.apply(Update::Status(Box::new(step(n)), at)), None);
    }
    app.apply(Update::Records);
    app.apply(flow(Some("api.example.com")));
    app.apply(flow(None));
    let mut incident = Incident::new(
        IncidentKind::LimitHit,
        "browser",
        "memory: a process was ended",
    );
    incident.time = time("2026-03-04T12:00:05Z");
    app.apply(Update::Record(Box::new(Record::Incident(incident))));
    app
}

fn flow(name: Option<&str>) -> Update {
    let mut flow = record();
    flow.names = name.map(str::to_owned).into_iter().collect();
    Update::Record(Box::new(Record::Flow(flow)))
}

fn question(id: &str, name: &str) -> Question {
    Question {
        id: id.into(),
        agent: "build-bot".into(),
        run: Some("r1".into()),
        subject: Subject::Name { name: name.into() },
        domain: Some("example.org".into()),
        port: Some(443),
        protocol: Some(ProtocolClass::Tcp),
        process: record().process,
        asks: Asks::User,
        uid: Some(1000),
        asked: time("2026-03-04T12:00:00Z"),
        expires: time("2026-03-04T12:01:00Z"),
        waiting: 2,
    }
}

fn asked() -> App {
    let mut app = busy();
    app.apply(Update::Questions);
    for (id, name) in [("aaaaaa", "files.example.org"), ("bbbbbb", "x.example.org")] {
        app.apply(Update::Question(Box::new(question(id, name))));
    }
    app
}

fn key(app: &mut App, code: KeyCode) -> Option<Act> {
    app.apply(Update::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn keys(app: &mut App, keys: &str) -> Option<Act> {
    let mut last = None;
    for one in keys.chars() {
        last = key(app, KeyCode::Char(one));
    }
    last
}

#[test]
fn nothing_is_known_yet() {
    compare("empty", &App::new(None), 80, 24);
    let mut app = App::new(None);
    let mut status = status();
    (status.agents, status.names) = (vec![], vec![]);
    app.apply(Update::Status(Box::new(status), Duration::ZERO));
    compare("no_agents", &app, 80, 24);
}

#[test]
fn busy_agents() {
    compare("busy", &busy(), 140, 30);
}

#[test]
fn a_narrow_terminal_shows_the_same_by_turns() {
    let mut app = busy();
    compare("narrow", &app, 80, 24);
    app.focus = Pane::Names;
    compare("narrow_names", &app, 80, 24);
    for (width, height) in [(59, 24), (80, 13), (1, 1)] {
        let picture = text(&draw_on(&app, width, height));
        assert!(width == 1 || picture.contains("too small"), "{picture}");
    }
}

#[test]
fn questions_and_an_answer() {
    let mut app = asked();
    compare("questions", &app, 120, 30);
    assert_eq!(keys(&mut app, "r"), None);
    compare("answer", &app, 80, 24);
}

#[test]
fn help_has_every_key() {
    let mut app = busy();
    keys(&mut app, "?");
    compare("help", &app, 80, 24);
    assert_eq!(keys(&mut app, "q"), None, "any key closes it");
    assert!(!app.help);
}

#[test]
fn a_daemon_that_is_gone_is_said_and_comes_back() {
    let mut app = asked();
    let gone = || {
        let why = "the daemon is not running (nobody answers at /run/exeat/control.sock)";
        Update::Gone(why.into(), time("2026-03-04T12:00:10Z"))
    };
    app.apply(gone());
    app.apply(gone());
    compare("gone", &app, 100, 24);
    assert_eq!(keys(&mut app, "ay"), None, "there is nothing to answer");
    app.apply(Update::Status(Box::new(step(7)), Duration::from_secs(60)));
    let back = text(&draw_on(&app, 100, 24));
    assert!(back.contains("enforcing  ok"), "{back}");
    // What happened meanwhile is no rate of this second.
    assert_eq!(app.rates["browser"].flows, 0.0);
}

#[test]
fn what_is_wrong_is_in_colour_and_in_words() {
    let mut app = busy();
    let mut bad = step(7);
    bad.enforcement.active = false;
    bad.enforcement.walls[0].state = WallState::Failed;
    bad.health = Health::from_reasons(vec!["connect4 fell".into(), "more".into()]);
    app.apply(Update::Status(Box::new(bad), Duration::from_secs(9)));
    let buffer = draw_on(&app, 100, 24);
    let picture = text(&buffer);
    for part in [
        "NOT ENFORCING",
        "connect4 fell (and 1 more: exeat status)",
        "not up: connect4, file_receive",
    ] {
        assert!(picture.contains(part), "{part}:\n{picture}");
    }
    let at = picture.find("NOT").expect("said");
    assert_eq!(buffer.content()[at].fg, Color::Red);
}

#[test]
fn a_key_and_a_yes_answer_the_selected_question() {
    for (typed, ruling, lasts, breadth) in [
        ("ay", Ruling::Allow, Lasts::Once, Breadth::This),
        ("ry", Ruling::Allow, Lasts::Run, Breadth::This),
        (
            "hby",
            Ruling::Allow,
            Lasts::For { seconds: 3600 },
            Breadth::Port { port: 443 },
        ),
        ("Abby", Ruling::Allow, Lasts::Always, Breadth::Domain),
        ("dbbby", Ruling::Deny, Lasts::Once, Breadth::This),
        ("Dy", Ruling::Deny, Lasts::Always, Breadth::This),
    ] {
        let act = keys(&mut asked(), typed);
        let choice = Choice {
            ruling,
            lasts,
            breadth,
        };
        let question = "aaaaaa".to_owned();
        assert_eq!(act, Some(Act::Answer { question, choice }), "{typed}");
    }
    for typed in ["a", "an", "aq", "a\n", "ax", "y", "aa", "z"] {
        assert_eq!(keys(&mut asked(), typed), None, "{typed:?}");
    }
}

/// The confined program chooses when it asks: it must not choose what a person's next key is
/// about.
#[test]
fn questions_that_come_or_go_do_not_change_what_is_answered() {
    let mut app = asked();
    app.focus = Pane::Questions;
    keys(&mut app, "j");
    assert_eq!(app.selected().map(|(_, q)| q.id.as_str()), Some("bbbbbb"));
    for n in 0..50 {
        app.apply(Update::Question(Box::new(question(
            &format!("new{n:03}"),
            "evil.example",
        ))));
    }
    keys(&mut app, "a");
    let end = |id: &str| {
        Update::Settled(Box::new(Settlement {
            question: id.into(),
            agent: "build-bot".into(),
            outcome: Outcome::Allowed,
            by: Some(Who {
                uid: 7,
                name: Some("eve\u{1b}[m".into()),
                via: "cli".into(),
            }),
        }))
    };
    app.apply(end("aaaaaa"));
    assert!(app.proposal.is_some(), "another one was settled");
    app.apply(end("bbbbbb"));
    assert_eq!(app.proposal, None, "this one is settled");
    let notice = app.notice.clone().expect("said");
    assert_eq!(
        notice.text,
        "not sent: eve\\u{1b}[m allowed it meanwhile, by cli"
    );
    assert_eq!(keys(&mut app, "y"), None, "a late yes is about nothing");
    app.apply(Update::Question(Box::new(question(
        "aaaaaa",
        "other.example",
    ))));
    assert_eq!(keys(&mut app, "y"), None);
}

#[test]
fn the_agent_that_is_entered_is_the_only_one_shown() {
    let mut app = asked();
    key(&mut app, KeyCode::Down);
    key(&mut app, KeyCode::Enter);
    assert_eq!(app.only.as_deref(), Some("browser"));
    let picture = text(&draw_on(&app, 120, 30));
    assert!(!picture.contains("build-bot"), "{picture}");
    assert!(picture.contains("limit_hit"), "{picture}");
    assert_eq!(
        keys(&mut app, "ay"),
        None,
        "a question that is not seen is not answered"
    );
    key(&mut app, KeyCode::Enter);
    assert!(text(&draw_on(&app, 120, 30)).contains("files.example.org"));
}

#[test]
fn nothing_that_a_program_chose_reaches_the_terminal_as_it_is() {
    let hostile = "a\u{1b}]0;x\u{7}\u{202e}\u{9b}2J\nb";
    let mut app = asked();
    let mut status = step(7);
    status.agents[0].name = hostile.into();
    status.agents[0].mode = hostile.into();
    status.names[0].name = hostile.into();
    status.policy.digest = hostile.into();
    status.enforcement.walls[1].name = hostile.into();
    status.health = Health::from_reasons(vec![hostile.into()]);
    app.apply(Update::Status(Box::new(status), Duration::from_secs(9)));
    app.apply(flow(Some(hostile)));
    let mut asking = question("cccccc", hostile);
    asking.agent = hostile.into();
    asking.run = Some(hostile.into());
    asking.domain = Some(hostile.into());
    let process = asking.process.as_mut().expect("a process");
    process.exe = Some(hostile.into());
    app.apply(Update::Question(Box::new(asking)));
    app.apply(Update::Answered(Err(hostile.into())));
    app.focus = Pane::Questions;
    key(&mut app, KeyCode::End);
    for typed in ["", "r", "b", "b"] {
        keys(&mut app, typed);
        let picture = text(&draw_on(&app, 200, 40));
        let lines: String = picture.lines().collect();
        assert!(!lines.chars().any(crate::flow::is_unsafe), "{picture:?}");
        assert!(picture.contains(r"\u{1b}]0;x"), "{picture}");
    }
    app.apply(Update::Gone(hostile.into(), now().time));
    let lines: String = text(&draw_on(&app, 200, 40)).lines().collect();
    assert!(!lines.chars().any(crate::flow::is_unsafe), "{lines:?}");
}

#[test]
fn memory_is_bounded_and_what_is_looked_at_stays() {
    let mut app = busy();
    app.focus = Pane::News;
    key(&mut app, KeyCode::Home);
    let oldest = text(&draw_on(&app, 120, 30));
    app.apply(flow(Some("new.example.com")));
    let still = text(&draw_on(&app, 120, 30));
    let line = |picture: &str| {
        picture
            .lines()
            .find(|l| l.contains("(api"))
            .map(str::to_owned)
    };
    assert_eq!(
        (line(&oldest).is_some(), line(&oldest)),
        (true, line(&still))
    );
    key(&mut app, KeyCode::End);
    assert!(text(&draw_on(&app, 120, 30)).contains("new.example.com"));
    for _ in 0..10_000 {
        app.apply(flow(None));
    }
    assert_eq!(app.news.len(), super::state::KEPT);
}

#[test]
fn it_is_left_by_its_keys() {
    assert_eq!(keys(&mut busy(), "q"), Some(Act::Quit));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for mut app in [busy(), asked()] {
        keys(&mut app, "a?");
        assert_eq!(app.apply(Update::Key(control)), Some(Act::Quit));
    }
    assert_eq!(busy().apply(Update::End), Some(Act::Quit));
}

#[test]
fn any_size_and_any_state_can_be_drawn() {
    for mut app in [App::new(None), busy(), asked()] {
        for typed in ["", "?", "x", "a"] {
            keys(&mut app, typed);
            for width in [1, 59, 60, 61, 89, 110, 300] {
                for height in [1, 13, 14, 15, 24, 90] {
                    draw_on(&app, width, height);
                }
            }
        }
    }
}
