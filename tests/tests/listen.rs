//! What an agent may listen on, and whom it may answer.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::world::{LAPTOP_V4, LAPTOP_V6, World};

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.40, ports: [80] }
    deny:
      - { cidr: 203.0.113.66 }
      - { cidr: 203.0.113.67, ports: [1-1000] }
    listen:
      - { cidr: 203.0.113.0/24, ports: [8080] }
      - { cidr: '2001:db8:1::/48', ports: [8080] }
";

fn stage(policy: &str) -> Stage {
    Stage::new(policy, "").expect("stage")
}

/// Somebody of the internet.
fn peer(world: &World) -> Puppet {
    let argv = puppet::arguments();
    let mut command = world.internet.command(&argv[0]);
    command.args(&argv[1..]);
    Puppet::start(command).expect("puppet")
}

/// A connection from `source` to the laptop, tried without waiting for its outcome.
fn knock(peer: &mut Puppet, source: &str, laptop: &str, port: u64) {
    let code = format!(
        "c = socket(AF_INET6 if ':' in {source:?} else AF_INET, SOCK_STREAM)\n\
         c.setblocking(False); c.bind(({source:?}, 0)); c.connect_ex(({laptop:?}, {port}))"
    );
    peer.value(&code).expect("knock");
}

/// Packets of TCP that left the laptop from this port for this address.
fn replies(stage: &Stage, port: u64, to: &str) -> usize {
    stage.world.settle(&stage.sniffer).expect("settle");
    let to = to.parse().expect("address");
    stage
        .sniffer
        .count(|p| p.is_to(to) && p.ports.is_some_and(|(from, _)| u64::from(from) == port))
}

/// Waits until a knock has been refused, at the door.
fn refused(stage: &Stage, to: &str, reason: &str) {
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == to && e["hook"] == "ingress")
        .unwrap_or_else(|e| panic!("{to}: {e:#}"));
    assert_eq!(event["reason"], reason, "{to}: {event}");
}

#[test]
fn a_listener_answers_the_peers_of_its_rule_and_nobody_else() {
    let stage = stage(POLICY);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let mut peer = peer(&stage.world);
    agent
        .value("l = listener('0.0.0.0', 8080)")
        .expect("listen");
    agent.value("l6 = socket(AF_INET6); l6.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1); l6.bind(('::', 8080)); l6.listen(); l6.settimeout(5)").expect("listen");
    for (source, laptop, listener) in [
        ("203.0.113.30", LAPTOP_V4, "l"),
        // Denied for single far ports only: the port of a client is its own to choose.
        ("203.0.113.67", LAPTOP_V4, "l"),
        ("2001:db8:1::30", LAPTOP_V6, "l6"),
    ] {
        peer.value(&format!("c = tcp({laptop:?}, 8080, ({source:?}, 0))"))
            .unwrap_or_else(|e| panic!("{source}: {e:#}"));
        agent
            .value(&format!(
                "s, who = {listener}.accept(); s.settimeout(5); s.sendall(b'welcome' * 10000)"
            ))
            .expect("accept");
        assert_eq!(agent.value("who[0]").expect("who"), source);
        assert_eq!(
            peer.value("len(take(c, 70000))").expect("read"),
            70_000,
            "{source}"
        );
        peer.value("c.sendall(b'thanks')").expect("send");
        assert_eq!(agent.value("take(s, 6).decode()").expect("read"), "thanks");
    }
    for (source, laptop, reason) in [
        ("198.51.100.7", LAPTOP_V4, "listen"),
        ("203.0.113.66", LAPTOP_V4, "deny_rule"),
        ("2001:db8:2::7", LAPTOP_V6, "listen"),
    ] {
        knock(&mut peer, source, laptop, 8080);
        refused(&stage, source, reason);
        assert_eq!(replies(&stage, 8080, source), 0, "{source}");
    }
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}

#[test]
fn a_port_without_a_rule_cannot_be_bound() {
    let stage = stage(POLICY);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    for (code, expected) in [
        ("listener('0.0.0.0', 9090)", libc::EPERM),
        ("listener('127.0.0.1', 9090)", libc::EPERM),
        ("listener('::', 9090)", libc::EPERM),
        ("listener('::1', 9090)", libc::EPERM),
        ("listener('::ffff:0.0.0.0', 9090)", libc::EPERM),
        ("listener('0.0.0.0', 8080).close()", 0),
        ("listener('::', 8080).close()", 0),
        // Clients bind too; what they send is judged by where it goes.
        ("udp('0.0.0.0').bind(('0.0.0.0', 9090))", 0),
        ("udp('::').bind(('::', 9091))", 0),
        ("socket().bind(('0.0.0.0', 0))", 0),
    ] {
        assert_eq!(agent.errno(code).expect("ask"), expected, "{code}");
    }
    let event = stage
        .daemon
        .event(|e| e["hook"] == "bind4" && e["dest"]["port"] == 9090)
        .expect("event");
    assert_eq!(event["reason"], "listen");
    assert_eq!(event["process"]["comm"], "python3");
}

#[test]
fn without_a_rule_a_listener_on_a_port_of_the_kernels_choice_answers_nobody() {
    let stage = stage("version: 1\nagents:\n  worker: {}\n");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let mut peer = peer(&stage.world);
    // A listen without a bind takes a port too, and no bind hook sees it.
    for (code, source) in [
        ("l = listener('0.0.0.0', 0)", "203.0.113.30"),
        ("l = socket(); l.listen()", "203.0.113.31"),
    ] {
        agent.value(code).expect("listen");
        let port = agent.value("l.getsockname()[1]").expect("port");
        let port = port.as_u64().expect("a number");
        knock(&mut peer, source, LAPTOP_V4, port);
        refused(&stage, source, "listen");
        assert_eq!(replies(&stage, port, source), 0, "{code}");
    }
}

#[test]
fn a_listen_rule_is_no_way_out() {
    let stage = stage(POLICY);
    let allowed = stage.world.http("203.0.113.40:80").expect("host");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let forbidden = "203.0.113.41";
    for code in [
        // From the listen port as its own, to a peer of the rule and to anybody.
        format!("tcp({forbidden:?}, 80, ('0.0.0.0', 8080))"),
        "tcp('198.51.100.7', 80, ('0.0.0.0', 8080))".to_owned(),
        "tcp('2001:db8:1::9', 80, ('::', 8080))".to_owned(),
        // Data in the SYN goes by another path in the kernel.
        format!(
            "s = socket(); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1); s.bind(('0.0.0.0', 8080))\n\
             s.sendto(b'x', 0x20000000, ({forbidden:?}, 80))"
        ),
        // A listener that turns client.
        format!("s = listener('0.0.0.0', 8080); s.shutdown(2); s.connect(({forbidden:?}, 80))"),
        format!(
            "s = socket(AF_INET, SOCK_DGRAM); s.bind(('0.0.0.0', 8080)); s.sendto(b'x', ({forbidden:?}, 80))"
        ),
    ] {
        assert_eq!(agent.errno(&code).expect("ask"), libc::EPERM, "{code}");
    }
    agent
        .value("tcp('203.0.113.40', 80, ('0.0.0.0', 8080)).close()")
        .expect("the place that is allowed, from the same port");
    let left = stage
        .forbidden(|p| p.is_to("203.0.113.40".parse().expect("address")))
        .expect("settle");
    assert!(left.is_empty(), "{left:?}");
    drop(allowed);
}

#[test]
fn a_development_server_on_loopback_serves_the_agent_itself() {
    let policy = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 127.0.0.1, ports: [3000] }
    listen:
      - { cidr: 127.0.0.1, ports: [3000] }
  neighbour:
    allow:
      - { cidr: 127.0.0.1, ports: [3001] }
";
    let stage = stage(policy);
    std::fs::write(stage.world.folder().join("index.html"), "it works\n").expect("write");
    let words = [
        "/usr/bin/python3",
        "-m",
        "http.server",
        "3000",
        "--bind",
        "127.0.0.1",
        "--directory",
    ];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.push(stage.world.folder().display().to_string());
    let mut server = stage
        .daemon
        .run_command(AGENT, PLAIN_USER, &words)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("server");
    let url = "http://127.0.0.1:3000/index.html";
    let page = exeat_tests::wait::until("the server", exeat_tests::wait::patience(), || {
        let output = stage
            .daemon
            .run_as(AGENT, PLAIN_USER, &["curl", "-sS", "--noproxy", "*", url])
            .ok()?;
        output.status.success().then_some(output.stdout)
    });
    let neighbour = stage.curl_as("neighbour", url).expect("run");
    // Whoever is not governed reaches it as well: the rule names the peer, not the program.
    let argv = stage.curl(url);
    let free = stage
        .world
        .laptop
        .command(&argv[0])
        .args(&argv[1..])
        .output()
        .expect("curl");
    server.kill().expect("kill");
    server.wait().expect("wait");
    assert_eq!(page.expect("page"), b"it works\n");
    assert_eq!(neighbour, Some(7), "another agent without a rule");
    assert_eq!(free.stdout, b"it works\n");
}
