//! An agent whose policy lets it reach the page's very port is refused there.

use crate::http::{Said, send};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::ui::Running;
use std::net::{SocketAddr, TcpListener};

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - cidr: 127.0.0.1
        ports: [PORT]
";

fn outside(stage: &Stage, at: SocketAddr) -> Said {
    let ask = || Ok(send(at, &["GET / HTTP/1.1", &format!("Host: {at}")], ""));
    stage.world.laptop.run(ask).expect("asked")
}

#[test]
fn an_agent_is_refused_whatever_its_policy_and_its_token() {
    let stage = Stage::new("version: 1\nagents: { worker: {} }\n", "").expect("stage");
    // A port that nobody has: another test may not take it, in a network of our own.
    let free = || Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let port = stage.world.laptop.run(free).expect("port").to_string();
    stage
        .daemon
        .enforce(&POLICY.replace("PORT", &port))
        .expect("policy");
    // The page is of the same user as the agent: only the cgroup tells them apart.
    let ui = stage.daemon.cli_as(PLAIN_USER, &["ui", "--port", &port]);
    let ui = Running::start(ui).expect("ui");
    let at = ui.address();
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let ask = |request: &str, body: &str| {
        format!(
            "s = tcp('127.0.0.1', {port})\n\
             s.sendall(b'{request} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nOrigin: http://127.0.0.1:{port}\\r\\n\
             Content-Type: application/json\\r\\nContent-Length: {}\\r\\n\\r\\n{body}')\n\
             ''.join(iter(lambda: s.recv(65536).decode(), ''))",
            body.len()
        )
    };
    let said = agent.value(&ask("GET /", "")).expect("it may connect");
    let said = said.as_str().expect("text");
    assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
    assert!(said.contains("it belongs to an agent"), "{said}");
    // With the token itself, stolen from the person's terminal.
    let token = format!("{{\"token\":\"{}\"}}", ui.token());
    let said = agent.value(&ask("POST /session", &token)).expect("asked");
    assert!(
        said.as_str().expect("text").starts_with("HTTP/1.1 403 "),
        "{said}"
    );

    // Another user of the machine is refused too, root among them; the person is not.
    let said = outside(&stage, at);
    assert_eq!(said.status, 403, "{said:?}");
    assert!(said.body.contains("of another user (0)"), "{said:?}");
    let script = format!(
        "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:{port}/').status)"
    );
    let mut person = stage
        .world
        .laptop
        .command_as(PLAIN_USER, "/usr/bin/python3");
    let person = person.args(["-I", "-c", &script]).output().expect("python");
    assert_eq!(
        String::from_utf8_lossy(&person.stdout).trim(),
        "200",
        "{person:?}"
    );
}
