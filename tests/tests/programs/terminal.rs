//! Programs at a terminal: job control, read-eval loops, and an editor's screen.

use crate::scene::Scene;
use exeat_tests::clients;
use exeat_tests::pty::Pty;

#[test]
fn a_shell_has_job_control() {
    let scene = Scene::new();
    let mut shell = scene.command(&["/bin/bash", "--norc", "--noprofile", "-i"]);
    shell.env("TERM", "dumb");
    let mut pty = Pty::start(shell).expect("terminal");
    pty.keys("PS1='ready'; PS1+='> '\n").expect("type");
    pty.until("ready> ").expect("prompt");
    pty.keys("sleep 600\n").expect("type");
    pty.until("sleep 600").expect("echo");
    // Once the line is echoed the shell may not have made it the foreground's yet: a key that
    // comes early is the shell's, so it is typed until the job is seen.
    std::thread::sleep(std::time::Duration::from_millis(500));
    pty.keys("\x1a").expect("type");
    pty.until("Stopped").expect("stopped");
    pty.until("ready> ").expect("prompt");
    pty.keys("fg\n").expect("type");
    pty.until("sleep 600").expect("foreground");
    std::thread::sleep(std::time::Duration::from_millis(500));
    pty.keys("\x03").expect("type");
    pty.until("ready> ").expect("prompt");
    pty.keys("echo $?; exit 7\n").expect("type");
    pty.until("130").expect("the signal");
    let status = pty.end().expect("end");
    assert_eq!(status.code(), Some(7));
}

#[test]
fn interpreters_read_from_a_terminal() {
    for (name, words, prompt, line, answer, end) in [
        (
            "python3",
            ["-q", "-i"].as_slice(),
            ">>> ",
            "6*7\n",
            "42",
            "exit(5)\n",
        ),
        ("node", &["-i"], "> ", "6*7\n", "42", "process.exit(5)\n"),
    ] {
        let Some(program) = clients::find(name) else {
            continue;
        };
        let program = program.display().to_string();
        let scene = Scene::new();
        let mut argv = vec![program.as_str()];
        argv.extend(words);
        let mut command = scene.command(&argv);
        command.env("TERM", "xterm");
        let mut pty = Pty::start(command).expect("terminal");
        pty.until(prompt).expect("prompt");
        pty.keys(line).expect("type");
        pty.until(answer).expect("answer");
        pty.until(prompt).expect("prompt");
        pty.keys(end).expect("type");
        assert_eq!(pty.end().expect("end").code(), Some(5), "{name}");
    }
}

#[test]
fn vim_has_the_screen() {
    let Some(vim) = clients::find("vim") else {
        return;
    };
    let vim = vim.display().to_string();
    let scene = Scene::new();
    scene.write("text", "the first line\n");
    let mut command = scene.command(&[&vim, "-u", "NONE", "text"]);
    command.env("TERM", "xterm");
    let mut pty = Pty::start(command).expect("terminal");
    pty.until("the first line").expect("screen");
    pty.keys("cwa\x1b:wq\n").expect("type");
    assert_eq!(pty.end().expect("end").code(), Some(0));
    assert_eq!(scene.read("text"), "a first line\n");
}
