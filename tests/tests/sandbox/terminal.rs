//! A person at a terminal does not see that there is a sandbox.

use super::Scene;
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::pty::Pty;
use exeat_tests::wait;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

fn at_terminal(scene: &Scene, argv: &[&str]) -> Pty {
    let mut command = scene.command(argv);
    command.env("PS1", "ready> ").env("TERM", "dumb");
    Pty::start(command).expect("terminal")
}

const SHELL: [&str; 4] = ["/bin/bash", "--norc", "--noprofile", "-i"];

fn foreground(pty: &Pty, name: &str) {
    wait::until(
        &format!("{name} in the foreground"),
        wait::patience(),
        || {
            let leader = pty.foreground().unwrap_or_default();
            let comm = std::fs::read_to_string(format!("/proc/{leader}/comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name).then_some(())
        },
    )
    .expect("foreground");
}

/// A program in the foreground of a shell is interrupted, stopped and continued.
fn job_control(pty: &mut Pty, start: &str, name: &str) {
    pty.keys(&format!("{start}\n")).expect("type");
    foreground(pty, name);
    pty.keys("\x03").expect("Ctrl-C");
    pty.until("ready> ").expect("prompt");
    pty.keys("echo code=$?\n").expect("type");
    pty.until("code=130").expect("killed by Ctrl-C");
    pty.until("ready> ").expect("prompt");

    pty.keys(&format!("{start}\n")).expect("type");
    foreground(pty, name);
    pty.keys("\x1a").expect("Ctrl-Z");
    pty.until("Stopped").expect("stopped");
    pty.until("ready> ").expect("prompt");
    pty.keys("fg\n").expect("type");
    foreground(pty, name);
    pty.keys("\x1a").expect("Ctrl-Z");
    pty.until("Stopped").expect("stopped again");
    pty.until("ready> ").expect("prompt");
    pty.keys("fg\n").expect("type");
    foreground(pty, name);
    pty.keys("\x03").expect("Ctrl-C");
    pty.until("ready> ").expect("prompt");
}

#[test]
fn a_shell_in_it_has_job_control() {
    let scene = Scene::new(PLAIN_USER, "");
    let mut pty = at_terminal(&scene, &SHELL);
    pty.until("ready> ").expect("prompt");
    pty.keys("tty; echo user=$(id -u)\n").expect("type");
    pty.until("/dev/console").expect("the terminal's name");
    pty.until(&format!("user={PLAIN_USER}")).expect("user");
    pty.until("ready> ").expect("prompt");
    job_control(&mut pty, "sleep 1000", "sleep");
    pty.keys("exit 42\n").expect("type");
    assert_eq!(pty.end().expect("end").code(), Some(42));
}

/// A shell outside at a terminal, which starts agents.
fn shell_outside(scene: &Scene) -> Pty {
    let mut shell: Command = scene.stage.world.laptop.command_as(PLAIN_USER, SHELL[0]);
    shell.args(&SHELL[1..]);
    scene.prepare(&mut shell, &scene.project);
    shell.env("PS1", "ready> ").env("TERM", "dumb");
    let mut pty = Pty::start(shell).expect("terminal");
    pty.until("ready> ").expect("prompt");
    let run = scene.command(&[]);
    let words: Vec<_> = std::iter::once(run.get_program())
        .chain(run.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    pty.keys(&format!("e='{}'\n", words.join(" ")))
        .expect("type");
    pty.until("ready> ").expect("prompt");
    pty
}

#[test]
fn it_is_a_job_of_a_shell_outside() {
    let scene = Scene::new(PLAIN_USER, "");
    let mut pty = shell_outside(&scene);
    job_control(&mut pty, "$e sleep 1000", "sleep");
    // What reads the terminal beside others in a pipe.
    job_control(
        &mut pty,
        "$e python3 -I -c 'import time; open(\"/dev/tty\").readline()' | cat",
        "python3",
    );
    pty.keys("$e sh -c 'exit 5'; echo code=$?\n").expect("type");
    pty.until("code=5").expect("exit code");
    pty.until("ready> ").expect("prompt");
    pty.keys("$e sh -c 'kill -9 $$'; echo code=$?\n")
        .expect("type");
    pty.until("code=137").expect("signal");
    pty.until("ready> ").expect("prompt");
    pty.keys("$e sh -c 'read line </dev/tty; echo got-$line' & sleep 0.3; jobs\n")
        .expect("type");
    pty.until("Stopped").expect("it waits in the background");
    pty.until("ready> ").expect("prompt");
    pty.keys("fg\n").expect("type");
    pty.until("read line").expect("continued");
    pty.keys("words\n").expect("type");
    pty.until("got-words").expect("it has the terminal");
    pty.until("ready> ").expect("prompt");
    pty.keys("exit 9\n").expect("type");
    assert_eq!(pty.end().expect("end").code(), Some(9));
}

#[test]
fn the_keys_reach_a_program_that_is_not_a_shell() {
    let scene = Scene::new(PLAIN_USER, "");
    let mut pty = at_terminal(&scene, &["cat"]);
    pty.keys("echoed\n").expect("type");
    // Once by the terminal, once by the program.
    pty.until("echoed").expect("typed");
    pty.until("echoed").expect("echoed");
    pty.keys("\x03").expect("Ctrl-C");
    assert_eq!(pty.end().expect("end").signal(), Some(libc::SIGINT));
}

#[test]
fn a_full_screen_program_works() {
    let scene = Scene::new(PLAIN_USER, "");
    let mut command = scene.command(&["less", "file"]);
    command.env("TERM", "xterm");
    let mut pty = Pty::start(command).expect("terminal");
    pty.until("text").expect("the file");
    pty.keys("q").expect("type");
    assert_eq!(pty.end().expect("end").code(), Some(0));
}

#[test]
fn nothing_is_typed_into_the_terminal() {
    let scene = Scene::new(PLAIN_USER, "");
    let script = "import fcntl, termios\ntry:\n fcntl.ioctl(0, termios.TIOCSTI, b'x')\n print('typed')\nexcept OSError as e:\n print('refused', e.errno)\n";
    let mut pty = at_terminal(&scene, &["python3", "-I", "-c", script]);
    pty.until("refused 1").expect("refused");
    assert_eq!(pty.end().expect("end").code(), Some(0));
}
