//! Interpreters, a shell and an editor, also at a terminal.

use crate::scene::{HOST, Scene};
use exeat_tests::clients;
use exeat_tests::pty::Pty;

#[test]
fn node_and_python_reach_the_host_and_nothing_else() {
    let scene = Scene::new("");
    scene.serve("word", "from the host");
    scene.put(
        "ask.py",
        &format!(
            "import socket, ssl, urllib.request\n\
             context = ssl.create_default_context(cafile='ca.pem')\n\
             print(urllib.request.urlopen('https://{HOST}/word', context=context).read().decode())\n\
             try: socket.create_connection(('203.0.113.20', 443))\n\
             except OSError as error: print(error.errno)\n"
        ),
    );
    assert_eq!(scene.sh("/usr/bin/python3 ask.py"), "from the host\n1\n");
    scene.put(
        "ask.mjs",
        &format!(
            "import https from 'https'; import fs from 'fs'; import net from 'net'\n\
             https.get('https://{HOST}/word', {{ ca: fs.readFileSync('ca.pem') }}, answer => {{\n\
             answer.on('data', data => console.log(String(data)))\n\
             answer.on('end', () => net.connect(443, '203.0.113.20').on('error', e => console.log(e.code)))\n}})\n"
        ),
    );
    if clients::find("node").is_some() {
        assert_eq!(scene.sh("node ask.mjs"), "from the host\nEPERM\n");
    }
    scene.nothing_else_was_reached();
}

#[test]
fn a_shell_at_a_terminal_has_job_control() {
    let scene = Scene::new("");
    let mut command = scene.command(&["/bin/bash", "--norc", "--noprofile", "-i"]);
    command.env("PS1", "$ ");
    let mut terminal = Pty::start(command).expect("terminal");
    terminal.until("$ ").expect("a prompt");
    terminal.keys("echo $((6 * 7))\n").expect("type");
    terminal.until("\n42").expect("an answer");
    terminal.keys("sleep 1000\n").expect("type");
    terminal.until("sleep 1000\r\n").expect("its echo");
    // A job that a shell has put into the foreground stops, goes on, and ends by keys.
    scene.until_foreground_sleeps(&terminal);
    terminal.keys("\x1a").expect("control-z");
    terminal.until("Stopped").expect("a stopped job");
    terminal.keys("fg\n").expect("type");
    terminal.until("sleep 1000\r\n").expect("in the foreground");
    scene.until_foreground_sleeps(&terminal);
    terminal.keys("\x03").expect("control-c");
    terminal.keys("echo \"ended by $?\"\n").expect("type");
    terminal.until("ended by 130").expect("its end");
    terminal.keys("exit 7\n").expect("type");
    assert_eq!(terminal.end().expect("an end").code(), Some(7));
}

impl Scene {
    /// Returns when the foreground of the terminal is a `sleep`.
    fn until_foreground_sleeps(&self, terminal: &Pty) {
        use exeat_tests::wait;
        wait::until("sleep in the foreground", wait::patience(), || {
            let group = terminal.foreground().ok()?;
            let name = std::fs::read_to_string(format!("/proc/{group}/comm")).ok()?;
            (name.trim() == "sleep").then_some(())
        })
        .expect("it is");
    }
}

#[test]
fn an_editor_writes_a_file() {
    if clients::find("vim").is_none() {
        return;
    }
    let scene = Scene::new("");
    let mut command = scene.command(&["vim", "-u", "NONE", "-N", "text"]);
    command.env("TERM", "xterm");
    let mut terminal = Pty::start(command).expect("terminal");
    terminal.until("text").expect("its last line");
    terminal.keys("ityped by hand\x1b:wq\r").expect("type");
    let status = terminal.end().expect("an end");
    assert!(status.success(), "{status}");
    assert_eq!(scene.read("text"), "typed by hand\n");
}
