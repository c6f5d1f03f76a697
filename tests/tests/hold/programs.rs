//! Programs as people use them.

use super::*;
use exeat_tests::stage::OTHER;
use std::process::{Child, Output, Stdio};

fn start(stage: &Stage, argv: &[String]) -> Child {
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, argv);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("start")
}

fn done(child: Child) -> Output {
    child.wait_with_output().expect("an end")
}

#[test]
fn curl_and_python_wait_for_the_person_and_then_get_their_page() {
    let stage = stage();
    let python =
        "import urllib.request as u; print(u.urlopen('http://other.example/', timeout=30).status)";
    let curl = [
        "/usr/bin/curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--noproxy",
        "*",
        "--max-time",
        "30",
    ];
    let mut curl: Vec<String> = curl.map(str::to_owned).into();
    curl.push(format!("http://{OTHER}/"));
    let python: Vec<String> = ["/usr/bin/python3", "-I", "-c", python]
        .map(str::to_owned)
        .into();
    let programs = [start(&stage, &curl), start(&stage, &python)];
    let asked = question(&stage, OTHER);
    assert_eq!(left(&stage), [""; 0]);
    answer(&stage, &asked, Ruling::Allow);
    for program in programs {
        let output = done(program);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            said.trim(),
            "200",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn curl_is_told_at_once_that_it_was_denied() {
    let stage = stage();
    let mut argv = stage.curl(&format!("http://{OTHER_V4}/"));
    let wait = argv
        .iter()
        .position(|a| a == "--max-time")
        .expect("a time-out");
    argv[wait + 1] = "40".to_owned();
    let program = start(&stage, &argv);
    let asked = question(&stage, OTHER_V4);
    let answered = answer(&stage, &asked, Ruling::Deny);
    let output = done(program);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(monotonic() - answered < 2.0);
    assert_eq!(left(&stage), [""; 0]);
}
