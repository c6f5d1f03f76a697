//! Questions on a desktop: a person's click answers, and nothing else on the bus does. The bus,
//! the display and the notification servers are real; the daemon's end of the control socket is
//! a double, but in `whole` and `detected`.

mod detected;
mod whole;

use exeat::asking::{Breadth, Lasts, Outcome, Ruling};
use exeat::control::{Code, Problem};
use exeat_tests::cgroup::CgroupGuard;
use exeat_tests::desktop::{Control, Desktop, Notifier, Notify, question};
use exeat_tests::wait;
use serde_json::{Value, json};
use std::process::Command;

const ALL: [&str; 3] = ["actions", "body", "body-markup"];

fn notifier(desktop: &Desktop, capabilities: &[&str]) -> Notifier {
    let mut command = desktop.command(env!("CARGO_BIN_EXE_notifier"));
    command.args(capabilities);
    Notifier::start(command).expect("notifier")
}

fn server(desktop: &Desktop, capabilities: &[&str]) -> Notifier {
    let mut server = notifier(desktop, capabilities);
    server.order("own").expect("the name");
    server
}

/// The next notification about something, as its number, its text and its keys by label.
struct Seen {
    number: u64,
    body: String,
    actions: Vec<(String, String)>,
}

impl Seen {
    fn key(&self, label: &str) -> &str {
        let found = self.actions.iter().find(|(_, text)| text == label);
        &found
            .unwrap_or_else(|| panic!("{label} in {:?}", self.actions))
            .0
    }
}

#[track_caller]
fn seen(server: &mut Notifier, about: &str) -> Seen {
    let wanted = |said: &Value| {
        let text = |n: usize| said[n].as_str().unwrap_or_default().contains(about);
        said[0] == "notify" && (text(2) || text(3))
    };
    let said = server.until(wanted).expect("a notification");
    let words: Vec<String> = serde_json::from_value(said[4].clone()).expect("actions");
    Seen {
        number: said[1].as_u64().expect("a number"),
        body: said[3].as_str().expect("a body").to_owned(),
        actions: words
            .chunks(2)
            .map(|w| (w[0].clone(), w[1].clone()))
            .collect(),
    }
}

fn follows(control: &Control, notify: &Notify) {
    let followed = || control.is_followed().then_some(());
    wait::until("a follower", wait::patience(), followed)
        .unwrap_or_else(|e| panic!("{e}: {}", notify.log()));
}

fn start(desktop: &Desktop, control: &Control) -> Notify {
    let notify = desktop.notify(control.runtime_dir(), &[]).expect("notify");
    follows(control, &notify);
    notify
}

/// Clicks until it counts: not before somebody could have read it.
fn click(server: &mut Notifier, control: &Control, seen: &Seen, label: &str) {
    let order = format!("act {} {}", seen.number, seen.key(label));
    wait::until("the answer", wait::patience(), || {
        server.order(&order).expect("click");
        (!control.answers().is_empty()).then_some(())
    })
    .expect("an answer");
}

/// An agent as status tells of it.
fn agent(more: Value) -> Value {
    let mut agent = json!({
        "name": "builder", "index": 0, "mode": "enforce", "generation": 1, "rules": 1,
        "cgroup": "/none", "runs": [], "leases": 0, "blocked": {}, "allowed": {},
        "sent_bytes": 0, "maps": {},
    });
    let more = more.as_object().expect("an object").clone();
    agent.as_object_mut().expect("an object").extend(more);
    json!([agent])
}

fn slice_of(cgroup: &CgroupGuard) -> String {
    let name = cgroup.path().file_name().expect("a name");
    name.to_str().expect("text").to_owned()
}

#[test]
fn a_person_clicks_a_button_and_it_is_answered() {
    let desktop = Desktop::with_display().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let _server = desktop.buttons().expect("server");
    let notify = start(&desktop, &control);
    let mut asked = question("k3w9qd", "api.files.example");
    asked.domain = Some("files.example".to_owned());
    control.ask(&asked);
    let window = wait::until("the window", wait::patience(), || {
        let found = desktop
            .xdotool(&["search", "--onlyvisible", "--name", ""])
            .ok()?;
        found.lines().map(str::to_owned).find(|id| {
            let geometry = desktop.xdotool(&["getwindowgeometry", "--shell", id]);
            geometry.is_ok_and(|text| number(&text, "HEIGHT") > 100 && number(&text, "WIDTH") < 800)
        })
    })
    .unwrap_or_else(|error| panic!("{error}: {}", notify.log()));
    let geometry = desktop
        .xdotool(&["getwindowgeometry", "--shell", &window])
        .expect("geometry");
    desktop.screenshot("buttons").expect("picture");
    // The first of the row of buttons, above the lower edge.
    let x = (number(&geometry, "X") + 103).to_string();
    let y = (number(&geometry, "Y") + number(&geometry, "HEIGHT") - 38).to_string();
    desktop
        .xdotool(&["mousemove", &x, &y, "click", "1"])
        .expect("click");
    let answer = control.answer().unwrap_or_else(|error| {
        desktop.screenshot("buttons-missed").expect("picture");
        panic!("{error}: {geometry} {}", notify.log())
    });
    assert_eq!(answer.question, "k3w9qd");
    assert_eq!(answer.via, "notification");
    assert_eq!(answer.choice.ruling, Ruling::Deny);
    assert_eq!(answer.choice.lasts, Lasts::Run);
    assert_eq!(answer.choice.breadth, Breadth::This);
}

fn number(geometry: &str, name: &str) -> i64 {
    let found = geometry
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[test]
fn dunst_shows_it_and_its_menu_answers() {
    let desktop = Desktop::with_display().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let _server = desktop.dunst().expect("server");
    let notify = start(&desktop, &control);
    let name = format!(
        "{}.evil-exfiltration.example",
        ["bank.example.com"; 6].join(".")
    );
    let mut asked = question("k3w9qd", &name);
    asked.domain = Some("evil-exfiltration.example".to_owned());
    asked.process = Some(exeat::flow::ProcessRecord {
        pid: 4321,
        tid: 4321,
        ppid: 1,
        uid: 0,
        gid: 0,
        comm: "</b>\u{202e}lruc".to_owned(),
        exe: Some("/home/ann/.cache/<i>x</i>/node".into()),
        parent_exe: None,
    });
    control.ask(&asked);
    desktop
        .click_dunst("dunst", "Always", || !control.answers().is_empty())
        .unwrap_or_else(|error| panic!("{error}: {}", notify.log()));
    let answer = control.answer().expect("an answer");
    assert_eq!(answer.choice.ruling, Ruling::Allow);
    assert_eq!(answer.choice.lasts, Lasts::Always);
    assert_eq!(answer.choice.breadth, Breadth::Port { port: 443 });
}

#[test]
fn nothing_else_on_the_bus_can_click_for_a_person() {
    let desktop = Desktop::new().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let mut server = server(&desktop, &ALL);
    let notify = start(&desktop, &control);
    control.ask(&question("k3w9qd", "a.example"));
    let shown = seen(&mut server, "a.example");
    let (number, key) = (shown.number, shown.key("Once").to_owned());
    let mut attacker = notifier(&desktop, &ALL);
    let not_from = format!("a click from {} does not count", attacker.name);
    // It knows the number and even the key, and tells everybody.
    attacker.order(&format!("act {number} {key}")).expect("act");
    notify.says(&not_from).expect("refused");
    // The same to `exeat notify` alone: no match rule keeps that out. Whoever is on the bus
    // is counted, and each is tried.
    for connection in 0..20 {
        let order = format!("to :1.{connection} {number} {key}");
        attacker.order(&order).expect("act");
    }
    // The server itself, about others' notifications and with keys that are not ours.
    server
        .order(&format!("act {} {key}", number + 1))
        .expect("act");
    notify
        .says("it is not about a question that stands")
        .expect("refused");
    for key in ["default", "0", "once", "allow"] {
        server.order(&format!("act {number} {key}")).expect("act");
    }
    notify.says("it carries no key of ours").expect("refused");
    // A text of its own over ours: what the person clicks there is no key of ours.
    attacker
        .order(&format!("cover {number} fine allow"))
        .expect("cover");
    let covered = seen(&mut server, "New mail");
    assert_eq!(covered.number, number);
    server.order(&format!("act {number} fine")).expect("act");
    assert_eq!(control.answers(), [], "{}", notify.log());
    // The name taken over: what was shown by the other counts no more, and the new one gets
    // keys of its own.
    attacker.order("own").expect("the name");
    let anew = seen(&mut attacker, "a.example");
    assert_ne!(anew.key("Once"), key);
    server.order(&format!("act {number} {key}")).expect("act");
    notify
        .says(&format!(
            "a click from {} does not count: it is not from",
            server.name
        ))
        .expect("refused");
    assert_eq!(control.answers(), [], "{}", notify.log());
    click(&mut attacker, &control, &anew, "Deny");
    assert_eq!(control.answers()[0].choice.ruling, Ruling::Deny);
    // Once it is settled the same click is worth nothing.
    attacker
        .order(&format!("act {} {}", anew.number, anew.key("Once")))
        .expect("act");
    control.ask(&question("q2aaaa", "b.example"));
    seen(&mut attacker, "b.example");
    assert_eq!(control.answers().len(), 1, "{}", notify.log());
}

#[test]
fn a_governed_program_that_takes_the_servers_name_gets_nothing_and_answers_nothing() {
    let desktop = Desktop::new().expect("desktop");
    let governed = CgroupGuard::new("exeat-notify").expect("cgroup");
    let adopted = CgroupGuard::new("exeat-adopted").expect("cgroup");
    for (slice, agents, within) in [
        (slice_of(&governed), json!([]), &governed),
        // One that is governed where it is. Its processes are counted as none here, so that
        // it is the server that is refused, and not the click.
        (
            "none.slice".to_owned(),
            agent(json!({"adopted": [{"what": adopted.path(), "processes": 0}]})),
            &adopted,
        ),
    ] {
        let control = Control::new(&slice).expect("control");
        control.set_agents(agents);
        let mut fake = notifier(&desktop, &ALL);
        within.add(fake.pid()).expect("governed");
        fake.order("answer").expect("it clicks");
        fake.order("own").expect("the name");
        control.ask(&question("k3w9qd", "a.example"));
        let notify = start(&desktop, &control);
        let pid = fake.pid();
        notify
            .says(&format!(
                "the notification server (process {pid}) is not used: it is governed"
            ))
            .expect("refused");
        // Guesses are worth nothing.
        fake.order("act 1 default").expect("act");
        notify.says("does not count").expect("refused");
        assert_eq!(control.answers(), []);
        let rest = fake.rest();
        assert!(
            !rest.iter().any(|said| said[0] == "notify"),
            "it was shown {rest:?}"
        );
        // With another server it goes on.
        let mut honest = server(&desktop, &ALL);
        let shown = seen(&mut honest, "a.example");
        click(&mut honest, &control, &shown, "This run");
        assert_eq!(control.answers()[0].choice.lasts, Lasts::Run);
    }
}

#[test]
fn what_becomes_governed_after_it_was_shown_cannot_answer() {
    let desktop = Desktop::new().expect("desktop");
    let governed = CgroupGuard::new("exeat-notify").expect("cgroup");
    let control = Control::new(&slice_of(&governed)).expect("control");
    let mut server = server(&desktop, &ALL);
    let notify = start(&desktop, &control);
    control.ask(&question("k3w9qd", "a.example"));
    let shown = seen(&mut server, "a.example");
    governed.add(server.pid()).expect("governed");
    let order = format!("act {} {}", shown.number, shown.key("Always"));
    wait::until("a refusal", wait::patience(), || {
        server.order(&order).expect("act");
        let log = notify.log();
        let refused = log.contains("was not taken") || log.contains("is not used any more");
        refused.then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", notify.log()));
    assert_eq!(control.answers(), [], "{}", notify.log());
}

#[test]
fn while_a_program_that_could_click_runs_questions_are_only_shown() {
    let desktop = Desktop::new().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let run = |processes: u32| json!([{"run": "r", "processes": processes}]);
    let display = "its policy says `display: true`";
    let mut server = server(&desktop, &ALL);
    // One that has no process cannot click.
    control.set_agents(agent(json!({"clicks": display, "runs": run(0)})));
    let notify = start(&desktop, &control);
    control.ask(&question("k3w9qd", "a.example"));
    let shown = seen(&mut server, "a.example");
    assert_eq!(shown.actions.len(), 5);
    // It begins while the question stands.
    control.set_agents(agent(json!({"clicks": display, "runs": run(1)})));
    let order = format!("act {} {}", shown.number, shown.key("Once"));
    wait::until("a refusal", wait::patience(), || {
        server.order(&order).expect("act");
        // At the click, or because it was shown without buttons by then.
        let log = notify.log();
        let refused = log.contains("could click by itself") || log.contains("no key of ours");
        refused.then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", notify.log()));
    let again = seen(&mut server, "Not to be answered here");
    assert_eq!((again.number, again.actions.len()), (shown.number, 0));
    assert!(again.body.contains("display: true"), "{}", again.body);
    assert!(
        again.body.contains("exeat ask allow k3w9qd"),
        "{}",
        again.body
    );
    server.order(&order).expect("act");
    for agents in [
        agent(json!({"runs": run(1)})),
        agent(json!({"runs": run(1), "adopted": [{"what": "/x", "processes": 2}]})),
    ] {
        let adopted = agents[0].get("adopted").is_some();
        control.set_agents(agents);
        let id = format!("q{adopted}");
        control.ask(&question(&id, &format!("{adopted}.example")));
        let shown = seen(&mut server, &format!("{adopted}.example"));
        assert_eq!(shown.actions.is_empty(), adopted, "{}", shown.body);
    }
    assert_eq!(control.answers(), []);
}

#[test]
fn a_server_without_buttons_and_a_user_without_trust_get_the_command() {
    let desktop = Desktop::new().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let mut plain = server(&desktop, &["body"]);
    let notify = start(&desktop, &control);
    let mut asked = question("k3w9qd", "a&b.example");
    control.ask(&asked);
    let shown = seen(&mut plain, "a&b.example");
    assert!(shown.actions.is_empty());
    assert!(
        shown
            .body
            .contains("exeat ask allow k3w9qd, or exeat ask deny k3w9qd")
    );
    drop(notify);
    let _ = plain.rest();
    let notify = desktop
        .notify(control.runtime_dir(), &["--show-only"])
        .expect("notify");
    let mut rich = server(&desktop, &ALL);
    follows(&control, &notify);
    asked.waiting = 2;
    control.ask(&asked);
    let shown = seen(&mut rich, "a&amp;b.example");
    assert!(shown.actions.is_empty());
    assert!(
        shown.body.contains("Not to be answered here"),
        "{}",
        shown.body
    );
}

#[test]
fn it_follows_what_happens_to_a_question_and_to_everybody_else() {
    let mut desktop = Desktop::new().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let mut first = server(&desktop, &ALL);
    let notify = start(&desktop, &control);
    let mut asked = question("k3w9qd", "a.example");
    control.ask(&asked);
    let shown = seen(&mut first, "a.example");
    asked.waiting = 7;
    control.ask(&asked);
    let joined = seen(&mut first, "7 wait");
    assert_eq!(joined.number, shown.number, "the same one says so");
    assert_eq!(joined.actions, shown.actions);
    // Another way settled it.
    control.settle("k3w9qd", Outcome::Denied);
    let closes = |number: u64| move |said: &Value| said[0] == "close" && said[1] == number;
    first.until(closes(shown.number)).expect("closed");
    // Its time ended.
    control.ask(&question("q2aaaa", "b.example"));
    let shown = seen(&mut first, "b.example");
    control.settle("q2aaaa", Outcome::TimedOut);
    first.until(closes(shown.number)).expect("closed");
    // The server goes, and another comes.
    control.ask(&question("q3aaaa", "c.example"));
    seen(&mut first, "c.example");
    drop(first);
    let mut second = server(&desktop, &ALL);
    seen(&mut second, "c.example");
    // The daemon goes: nobody is there to answer to.
    let before = seen_again(&control, &mut second, "q4aaaa", "d.example");
    control.restart();
    second.until(closes(before.number)).expect("closed");
    follows(&control, &notify);
    let shown = seen_again(&control, &mut second, "q5aaaa", "e.example");
    // What the daemon refuses the person is told.
    control.refuse(Some(Problem::new(
        Code::NotPermitted,
        "only for <administrators>",
        "",
    )));
    let order = format!("act {} {}", shown.number, shown.key("Always"));
    wait::until("a refusal", wait::patience(), || {
        second.order(&order).expect("act");
        notify
            .log()
            .contains("only for <administrators>")
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", notify.log()));
    let told = seen(&mut second, "was not taken");
    assert!(
        told.body.contains("only for &lt;administrators&gt;"),
        "{}",
        told.body
    );
    // The bus goes, and everybody on it.
    desktop.stop_bus();
    notify.says("the session bus: it has ended").expect("said");
    // Not before: one more of the clicks above would be taken.
    control.refuse(None);
    drop(second);
    desktop.start_bus().expect("bus");
    let mut third = server(&desktop, &ALL);
    let shown = seen(&mut third, "e.example");
    click(&mut third, &control, &shown, "1 hour");
    assert_eq!(
        control.answers()[0].choice.lasts,
        Lasts::For { seconds: 3600 }
    );
}

fn seen_again(control: &Control, server: &mut Notifier, id: &str, name: &str) -> Seen {
    control.ask(&question(id, name));
    seen(server, name)
}

#[test]
fn what_clicks_before_anybody_can_have_read_it_allows_nothing() {
    let desktop = Desktop::new().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let mut server = server(&desktop, &ALL);
    // Every button as soon as it is there, the last first: the denial comes behind all others.
    server.order("answer").expect("it clicks");
    let _notify = start(&desktop, &control);
    control.ask(&question("k3w9qd", "a.example"));
    let answer = control.answer().expect("an answer");
    assert_eq!(answer.choice.ruling, Ruling::Deny);
}

#[test]
fn a_second_one_of_the_session_leaves_it_to_the_first() {
    let desktop = Desktop::new().expect("desktop");
    let control = Control::new("none.slice").expect("control");
    let _first = start(&desktop, &control);
    let mut second = desktop.notify(control.runtime_dir(), &[]).expect("notify");
    assert!(second.process.0.wait().expect("ended").success());
    assert!(second.log().contains("another one serves this session"));
}

#[test]
fn files_of_the_session_are_as_their_programs_want_them() {
    let dist = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist");
    let desktop = std::fs::read_to_string(format!("{dist}/exeat-notify.desktop")).expect("file");
    let lines: Vec<&str> = desktop.lines().collect();
    assert_eq!(lines[0], "[Desktop Entry]");
    for line in ["Type=Application", "Exec=exeat notify"] {
        assert!(lines.contains(&line), "{line}");
    }
    let unit = format!("{dist}/systemd/user/exeat-notify.service");
    let text = std::fs::read_to_string(&unit).expect("file");
    assert!(text.contains("ExecStart=exeat notify"));
    // Where systemd is there it judges for itself; it wants the program at its place.
    if let Ok(out) = Command::new("systemd-analyze")
        .args(["--user", "verify", &unit])
        .output()
    {
        let said = String::from_utf8_lossy(&out.stderr);
        let wrong: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("exeat-notify") && !line.contains("not executable"))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
