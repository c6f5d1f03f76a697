//! The same with a whole daemon: a program's connection becomes a question, a person's click an
//! answer in the kernel; and what the program itself can do about it.

use super::*;
use exeat::asking::{Choice, Question};
use exeat::control::client::Client;
use exeat::control::{Request, Response};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::desktop::Running;
use exeat_tests::stage::{AGENT, OTHER, Stage};
use std::process::Stdio;

const POLICY: &str = "version: 1\nagents:\n  worker:\n    ask: {who: user, timeout: 100s}\n\
    \x20   allow:\n      - { host: allowed.example, ports: [443, 80] }\n";

/// curl as the agent, in the background.
fn curl(stage: &Stage) -> Running {
    let argv = stage.curl(&format!("http://{OTHER}/"));
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running(command.spawn().expect("exeat run"))
}

fn questions(stage: &Stage) -> Vec<Question> {
    let socket = stage.daemon.control_socket().expect("socket");
    let mut client = Client::connect(&socket).expect("connect");
    let request = Request::Questions {
        follow: false,
        agent: None,
    };
    client.send(&request).expect("send");
    let mut all = Vec::new();
    while let Some(Response::Question(one)) = client.next().expect("answer") {
        all.push(*one);
    }
    all
}

fn standing(stage: &Stage) -> Question {
    let first = || questions(stage).into_iter().next();
    wait::until("a question", wait::patience(), first).expect("a question")
}

#[test]
fn a_program_asks_a_person_clicks_and_it_goes_on() {
    let stage = Stage::new(POLICY, "sandbox: true\n").expect("stage");
    let desktop = Desktop::with_display().expect("desktop");
    let _server = desktop.dunst().expect("server");
    let notify = desktop
        .notify_with(&stage.daemon.config(), &[])
        .expect("notify");
    notify
        .says("follows the daemon's questions")
        .expect("it follows");
    let first = curl(&stage);
    let asked = standing(&stage);
    assert_eq!(asked.agent, AGENT);
    desktop
        .click_dunst("end-to-end", "1 hour", || questions(&stage).is_empty())
        .unwrap_or_else(|error| panic!("{error}: {}", notify.log()));
    drop(first);
    let reached = || {
        let code = stage.curl_as(AGENT, &format!("http://{OTHER}/")).ok()?;
        (code == Some(0)).then_some(())
    };
    wait::until("the host to be reached", wait::patience(), reached).expect("it goes on");
    // Who, through what, and for how long.
    let out = stage
        .daemon
        .cli(&["grants", "--output", "json"])
        .output()
        .expect("grants");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let grants: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(grants[0]["by"]["via"], "notification", "{text}");
    assert_eq!(grants[0]["lasts"]["seconds"], 3600, "{text}");
    assert_eq!(grants[0]["subject"]["name"], OTHER, "{text}");
}

/// A program of the agent, of the user that the desktop is of, with its variables.
pub(super) fn governed(desktop: &Desktop, stage: &Stage, program: &str, words: &[&str]) -> Command {
    let argv: Vec<String> = [program]
        .iter()
        .chain(words)
        .map(|one| (*one).to_owned())
        .collect();
    let mut command = stage.daemon.run_command(AGENT, 0, &argv);
    for (name, value) in desktop.command("true").get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

#[test]
fn a_program_cannot_answer_its_own_question_in_any_way() {
    // Without a sandbox: it is root's, and reaches the bus.
    let stage = Stage::new(POLICY, "").expect("stage");
    let desktop = Desktop::new().expect("desktop");
    let _asking = curl(&stage);
    let asked = standing(&stage);
    let exeat = exeat_tests::daemon::program()
        .canonicalize()
        .expect("the binary");
    let exeat = exeat.to_str().expect("text");
    let config = stage.daemon.config();
    let config = config.to_str().expect("text");
    // The command line, and the process of the desktop.
    for words in [
        &["ask"] as &[&str],
        &["ask", "allow", &asked.id],
        &["grant", "--agent", AGENT, "--host", OTHER],
        &["notify"],
    ] {
        let words = [&["--config", config], words].concat();
        let out = governed(&desktop, &stage, exeat, &words)
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(5), "{words:?}: {said}");
        assert!(
            said.contains("does not talk to governed programs"),
            "{said}"
        );
    }
    // The socket itself.
    let choice = Choice {
        ruling: Ruling::Allow,
        lasts: Lasts::Always,
        breadth: Breadth::This,
    };
    let request = Request::Answer {
        question: asked.id.clone(),
        choice,
        via: "notification".to_owned(),
        why: None,
    };
    let line = String::from_utf8(request.to_line().expect("line")).expect("text");
    // It is turned away at its connect, so that sending may fail before the answer is read.
    let code = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
        try: s.sendall(sys.argv[2].encode())\n\
        except BrokenPipeError: pass\n\
        print(s.recv(65536).decode())";
    let socket = stage.daemon.control_socket().expect("socket");
    let words = ["-c", code, socket.to_str().expect("text"), &line];
    let out = governed(&desktop, &stage, "/usr/bin/python3", &words)
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("\"code\":\"governed\""), "{out:?}");
    // The bus: it is the notification server, and clicks whatever it is shown.
    let notifier = env!("CARGO_BIN_EXE_notifier");
    let mut fake = Notifier::start(governed(&desktop, &stage, notifier, &ALL)).expect("notifier");
    fake.order("answer").expect("it clicks");
    fake.order("own").expect("the name");
    let notify = desktop
        .notify_with(&stage.daemon.config(), &[])
        .expect("notify");
    notify
        .says("is not used: it is governed by Exeat itself")
        .expect("refused");
    for number in 1..5 {
        fake.order(&format!("act {number} default")).expect("act");
    }
    let rest = fake.rest();
    assert!(
        !rest.iter().any(|said| said[0] == "notify"),
        "it was shown {rest:?}"
    );
    // An honest server takes over: while the program runs, it shows and no click counts.
    let mut honest = server(&desktop, &ALL);
    let shown = seen(&mut honest, OTHER);
    assert!(shown.actions.is_empty(), "{:?}", shown.actions);
    assert!(
        shown.body.contains("worker (the configuration says"),
        "{}",
        shown.body
    );
    fake.order(&format!("act {} once", shown.number))
        .expect("act");
    notify.says("does not count").expect("refused");
    let still = questions(&stage);
    assert_eq!(
        still.first().map(|one| &one.id),
        Some(&asked.id),
        "it stands"
    );
    let out = stage
        .daemon
        .cli(&["grants", "--output", "json"])
        .output()
        .expect("grants");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "[]");
}
