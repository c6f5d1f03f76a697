//! Answers by key: `exeat ask watch` and `exeat top`.

use super::Scene;
use exeat_tests::asked::{self, FAR, FAR6};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use exeat_tests::pty::Pty;
use exeat_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::Termios;
use nix::unistd::Pid;
use std::process::Command;

/// `exeat ARGS` in a shell that stays: what it leaves behind can be looked at.
fn shell(scene: &Scene, uid: u32, args: &str) -> Pty {
    let line = format!(
        "printf 'before\\n'; {} --config {} {args}; printf 'left=%s\\n' $?; read end",
        program().display(),
        scene.stage.daemon.config().display()
    );
    let mut command = scene.stage.world.laptop.command_as(uid, "/bin/sh");
    command.args(["-c", &line]).env("TERM", "xterm-256color");
    Pty::start_on(command, Some((120, 30))).expect("terminal")
}

/// What a terminal is like that nobody has touched.
fn usual() -> Termios {
    let idle = Pty::start(Command::new("cat")).expect("terminal");
    idle.modes().expect("modes")
}

fn has(pty: &mut Pty, text: &str) {
    pty.shows(text, |screen| screen.contents().contains(text))
        .expect("shown");
}

/// Types until it has an effect: for a moment no key counts.
fn press(pty: &mut Pty, key: &str, effect: &str) {
    let start = std::time::Instant::now();
    loop {
        pty.keys(key).expect("type");
        if pty.shows_within(std::time::Duration::from_millis(200), effect) {
            return;
        }
        assert!(
            start.elapsed() < wait::patience(),
            "{key} does not lead to {effect}"
        );
    }
}

#[test]
fn watch_answers_by_key_and_gives_the_terminal_back() {
    let mut scene = Scene::new("user", "");
    let usual = usual();
    let mut pty = shell(&scene, PLAIN_USER, "ask watch");
    has(&mut pty, "waiting for questions");
    // Typed ahead: there is nothing yet that it could be meant for.
    pty.keys("ohwrd").expect("type");
    scene.begin();
    has(&mut pty, &format!("agent worker wants {FAR} port 7000"));
    has(&mut pty, "[o] allow once");
    let id = asked::question(&scene.stage).expect("a question");
    has(&mut pty, &id);
    // Keys that are pressed by habit.
    pty.keys("\r ya\t").expect("type");
    scene.still_waits();
    press(&mut pty, "h", "may reach");
    assert_eq!(scene.ended(), 0);
    let grant = scene.grant();
    assert_eq!(grant["by"]["uid"], PLAIN_USER, "{grant}");
    assert_eq!(grant["by"]["via"], "cli", "{grant}");
    assert_eq!(grant["lasts"]["seconds"], 3600, "{grant}");

    // The next one is put away, and answered by somebody else: the watcher is told.
    scene.begin_to(FAR6);
    has(&mut pty, &format!("wants {FAR6} port 7000"));
    let id = asked::question(&scene.stage).expect("a question");
    scene.exeat_ask(&["deny", &id, "--once"]);
    assert_ne!(scene.ended(), 0);
    has(&mut pty, &format!("{id}  denied"));
    press(&mut pty, "q", "left=0");
    assert_eq!(pty.modes().expect("modes"), usual);
}

#[test]
fn watch_denies_by_key() {
    let mut scene = Scene::new("user", "");
    let mut pty = shell(&scene, 0, "ask watch --agent worker");
    scene.begin();
    has(&mut pty, "[d] deny");
    press(&mut pty, "d", "may not reach");
    assert_ne!(scene.ended(), 0);
    scene.answered("denied", "cli");
}

#[test]
fn watch_gives_the_terminal_back_whatever_ends_it() {
    let mut scene = Scene::new("user", "");
    let usual = usual();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut pty = shell(&scene, 0, "ask watch");
        has(&mut pty, "waiting for questions");
        assert_ne!(pty.modes().expect("modes"), usual, "keys come one by one");
        let watch = pty.child_called("exeat").expect("the program");
        kill(Pid::from_raw(watch), signal).expect("kill");
        has(&mut pty, "left=");
        assert_eq!(pty.modes().expect("modes"), usual, "{signal}");
    }
    let mut pty = shell(&scene, 0, "ask watch");
    has(&mut pty, "waiting for questions");
    pty.keys("\x03").expect("type");
    has(&mut pty, "left=0");
    assert_eq!(pty.modes().expect("modes"), usual, "Ctrl-C");

    let mut pty = shell(&scene, 0, "ask watch");
    has(&mut pty, "waiting for questions");
    scene.stage.daemon.kill9().expect("kill -9");
    has(&mut pty, "left=");
    assert_eq!(pty.modes().expect("modes"), usual, "the daemon is gone");
}

#[test]
fn top_answers_by_two_keys() {
    let mut scene = Scene::new("user", "");
    let usual = usual();
    let mut pty = shell(&scene, PLAIN_USER, "top --interval 0.2");
    has(&mut pty, "enforcing");
    scene.begin();
    has(&mut pty, "Questions (1)");
    has(&mut pty, &format!("{FAR} port 7000"));
    // One key proposes, any other but `y` does not send it.
    pty.keys("h").expect("type");
    has(&mut pty, "any port");
    pty.keys("\r ").expect("type");
    scene.still_waits();
    pty.keys("b").expect("type");
    pty.shows("one port alone", |screen| {
        !screen.contents().contains("any port")
    })
    .expect("turned");
    pty.keys("y").expect("type");
    assert_eq!(scene.ended(), 0);
    let grant = scene.grant();
    assert_eq!(grant["by"]["uid"], PLAIN_USER, "{grant}");
    assert_eq!(grant["by"]["via"], "top", "{grant}");
    assert_eq!(grant["port"], asked::PORT, "{grant}");
    pty.shows("no question", |screen| {
        !screen.contents().contains("Questions (")
    })
    .expect("settled");

    // What somebody else answers meanwhile is not answered here.
    scene.begin_to(FAR6);
    has(&mut pty, "Questions (1)");
    pty.keys("A").expect("type");
    has(&mut pty, "Allow worker to reach");
    let id = asked::question(&scene.stage).expect("a question");
    scene.exeat_ask(&["deny", &id]);
    assert_ne!(scene.ended(), 0);
    pty.shows("the proposal is gone", |screen| {
        !screen.contents().contains("Allow worker to reach")
    })
    .expect("closed");
    pty.keys("y").expect("type");
    // A user may not open a door for good: what the daemon says is shown.
    scene.begin_to("203.0.113.32");
    has(&mut pty, "Questions (1)");
    pty.keys("A").expect("type");
    has(&mut pty, "always, until it is revoked");
    pty.keys("y").expect("type");
    has(&mut pty, "administrator");
    assert!(asked::waits(&mut scene.puppet).expect("puppet"));
    pty.keys("d").expect("type");
    has(&mut pty, "Deny worker to reach");
    pty.keys("y").expect("type");
    assert_ne!(scene.ended(), 0);
    pty.keys("q").expect("type");
    has(&mut pty, "left=0");
    assert_eq!(pty.modes().expect("modes"), usual);
}

/// The program that panics has the screen of `exeat top` and nothing else of it
/// (`tests/src/bin/panics.rs`).
#[test]
fn a_panic_gives_the_terminal_back_before_it_is_told() {
    let usual = usual();
    for how in ["drawing", "thread", "between"] {
        let program = env!("CARGO_BIN_EXE_panics");
        let line = format!("printf 'before\\n'; {program} {how}; printf 'left=%s\\n' $?; read end");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &line]).env("TERM", "xterm-256color");
        // A backtrace would push out of the picture what is looked for in it.
        command.env("RUST_BACKTRACE", "0");
        let mut pty = Pty::start_on(command, Some((100, 30))).expect("terminal");
        pty.shows("its picture", |screen| {
            screen.alternate_screen() && screen.contents().contains("a whole picture")
        })
        .expect("it has the terminal");
        pty.keys("!").expect("type");
        pty.shows("the shell's screen", |screen| {
            let contents = screen.contents();
            !screen.alternate_screen()
                && !screen.hide_cursor()
                && contents.contains("before")
                && contents.contains("a panic for the test")
                && contents.contains("left=")
                && !contents.contains("a whole picture")
        })
        .expect(how);
        assert_eq!(pty.modes().expect("modes"), usual, "{how}");
    }
}
