//! Programs as people use them.

use super::*;
use exeat_tests::cgroup::{self, CgroupGuard};
use exeat_tests::puppet;
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

#[test]
fn what_is_governed_where_it_is_is_held_too_and_its_sockets_from_before_are_not() {
    let guard = CgroupGuard::new("exeat-hold").expect("cgroup");
    let name = guard.path().file_name().expect("a name").to_string_lossy();
    let policy = policy("user").replace(
        "    ask:",
        &format!("    match: [{{ cgroup: \"{name}\" }}]\n    ask:"),
    );
    let stage = Stage::new(&policy, "").expect("stage");
    let argv = puppet::arguments();
    let mut command = stage.world.laptop.command_as(PLAIN_USER, &argv[0]);
    command.args(&argv[1..]);
    let mut program = Puppet::start(command).expect("puppet");
    program.ask(BACKGROUND).expect("functions");
    program
        .ask("BEFORE = socket(AF_INET, SOCK_STREAM)")
        .expect("socket");
    cgroup::add(guard.path(), program.pid()).expect("move");
    wait::until("it to be adopted", wait::patience(), || {
        let step = "socket(AF_INET, SOCK_STREAM, 262)";
        (program.errno(step).ok()? == libc::EPERM).then_some(())
    })
    .expect("adopted");
    // No hook sees the packets of a socket that was made elsewhere.
    let before = format!("BEFORE.connect(({OTHER_V4:?}, 80))");
    assert_eq!(program.errno(&before).expect("ask"), libc::EPERM);
    program
        .ask(&format!("begin(lambda: blocking({OTHER_V4:?}, 80))"))
        .expect("begin");
    let asked = question(&stage, OTHER_V4);
    assert_eq!(left(&stage), [""; 0]);
    answer(&stage, &asked, Ruling::Allow);
    assert_eq!(ended(&mut program, -1)["value"], "HTTP");
}
