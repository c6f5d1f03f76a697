//! `exeat top` at a terminal, against a daemon: what it shows is true, keys do what they say, and
//! the terminal is given back as it was.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use exeat_tests::pty::Pty;
use exeat_tests::stage::{AGENT, OTHER_V4, POLICY, Stage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};

/// A shell that starts it, as a person would: what is there before and after can be compared.
fn shell(stage: &Stage, options: &str) -> Command {
    let mut command = stage.world.laptop.command_as(0, "/bin/sh");
    let line = format!(
        "printf 'before\\n'; {} --config {} top --interval 0.2 {options}; \
         printf 'left=%s\\n' $?; read end",
        program().display(),
        stage.daemon.config().display(),
    );
    command.args(["-c", &line]).env("TERM", "xterm-256color");
    command
}

fn at_a_terminal(stage: &Stage, options: &str) -> Pty {
    let mut pty = Pty::start_on(shell(stage, options), Some((120, 30))).expect("terminal");
    has(&mut pty, "enforcing  ok");
    pty
}

fn has(pty: &mut Pty, text: &str) {
    pty.shows(text, |screen| screen.contents().contains(text))
        .expect("shown");
}

fn refuse(stage: &Stage) {
    let code = stage.curl_as(AGENT, &format!("http://{OTHER_V4}/"));
    assert_ne!(code.expect("curl"), Some(0));
}

/// The screen from before is back, with the cursor, and the next line of the shell is on it.
fn left(pty: &mut Pty, code: u8) {
    let end = format!("left={code}");
    pty.shows(&end, |screen| {
        let contents = screen.contents();
        !screen.alternate_screen()
            && !screen.hide_cursor()
            && contents.contains("before")
            && contents.contains(&end)
            && !contents.contains("AGENT")
    })
    .expect("the terminal is given back");
}

#[test]
fn agents_and_refusals_are_shown_and_the_terminal_is_given_back() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let modes = {
        let idle = Pty::start(Command::new("cat")).expect("terminal");
        idle.modes().expect("modes")
    };
    let mut pty = at_a_terminal(&stage, "");
    has(&mut pty, AGENT);
    has(&mut pty, "daemon_started");
    has(&mut pty, "allowed.example");
    assert_ne!(
        pty.modes().expect("modes"),
        modes,
        "it reads keys by itself"
    );

    refuse(&stage);
    has(
        &mut pty,
        &format!("deny  tcp {OTHER_V4}:80  no_rule  curl["),
    );
    // The counter of the kernel, by the next look at it.
    pty.shows("a counted refusal", |screen| {
        let contents = screen.contents();
        let row = contents.lines().find(|line| line.contains("enforce  "));
        row.is_some_and(|row| row.contains(" 1 "))
    })
    .expect("counted");

    pty.keys("?").expect("type");
    has(&mut pty, "allow the selected question once");
    pty.keys("x").expect("type");
    pty.resize(70, 20).expect("resize");
    pty.shows("a picture of the new size", |screen| {
        let contents = screen.contents();
        contents.contains("Refusals and incidents")
            && contents.lines().all(|l| l.chars().count() <= 70)
    })
    .expect("resized");

    pty.keys("q").expect("type");
    left(&mut pty, 0);
    assert_eq!(pty.modes().expect("modes"), modes);
}

/// The event source that crossterm takes by default lost sight of one key in a dozen here.
#[test]
fn a_key_typed_while_the_window_changes_counts() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut pty = at_a_terminal(&stage, "");
    let help = "allow the selected question once";
    for round in 0..40 {
        let open = round % 2 == 0;
        pty.resize(100 + round, 30).expect("resize");
        pty.keys(if open { "?" } else { "x" }).expect("type");
        pty.shows(&format!("help {open} in round {round}"), |screen| {
            screen.contents().contains(help) == open
        })
        .expect("the key counts");
    }
    pty.keys("q").expect("type");
    left(&mut pty, 0);
}

#[test]
fn ctrl_c_and_signals_give_the_terminal_back() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut pty = at_a_terminal(&stage, "");
    pty.keys("\x03").expect("type");
    left(&mut pty, 0);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut pty = at_a_terminal(&stage, "");
        let top = pty.child_called("exeat").expect("the program");
        kill(Pid::from_raw(top), signal).expect("kill");
        left(&mut pty, 0);
    }
}

#[test]
fn a_daemon_that_goes_away_is_said_and_found_again() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let mut pty = at_a_terminal(&stage, &format!("--agent {AGENT}"));
    stage.daemon.kill9().expect("kill");
    has(&mut pty, "the daemon does not answer");
    has(&mut pty, "what was enforced stays enforced");
    stage.daemon.restart().expect("restart");
    has(&mut pty, "enforcing  ok");
    refuse(&stage);
    has(&mut pty, &format!("deny  tcp {OTHER_V4}:80"));
    pty.keys("q").expect("type");
    left(&mut pty, 0);
}

#[test]
fn a_user_sees_the_state_and_own_refusals_only() {
    let stage = Stage::new(POLICY, "").expect("stage");
    refuse(&stage);
    let line = format!(
        "{} --config {} top --interval 0.2; read end",
        program().display(),
        stage.daemon.config().display()
    );
    let mut command = stage.world.laptop.command_as(PLAIN_USER + 1, "/bin/sh");
    command.args(["-c", &line]).env("TERM", "xterm");
    let mut pty = Pty::start_on(command, Some((100, 30))).expect("terminal");
    has(&mut pty, AGENT);
    has(&mut pty, "none yet");
    pty.keys("q").expect("type");
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let output = stage
        .daemon
        .cli(&["top"])
        .stdin(Stdio::null())
        .output()
        .expect("top");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("exeat status --output json"), "{said}");
    assert!(output.stdout.is_empty());
}

/// The program is the agent's: the control socket is closed to it, and so are the questions.
#[test]
fn an_agent_that_starts_it_sees_nothing() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let argv = [
        program().display().to_string(),
        "--config".into(),
        stage.daemon.config().display().to_string(),
        "top".into(),
    ];
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    command.env("TERM", "xterm");
    let mut pty = Pty::start_on(command, Some((100, 30))).expect("terminal");
    has(&mut pty, "the daemon does not answer");
    pty.keys("ay").expect("type");
    pty.keys("q").expect("type");
    assert!(pty.end().expect("end").success());
}
