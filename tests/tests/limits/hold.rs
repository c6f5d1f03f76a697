//! `exeat freeze`, `exeat thaw`, `exeat kill`.

use anyhow::Context;
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, ALLOWED_V4, Stage};
use exeat_tests::wait;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.10, ports: [9], protocol: udp }
      - { cidr: 203.0.113.10, ports: [80] }
  other: {}
";

/// Datagrams all the time, and bytes on one connection that was opened at the beginning.
const TRAFFIC: &str = "
import socket, time
t = socket.create_connection(('203.0.113.10', 80), 10)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.connect(('203.0.113.10', 9))
t.setblocking(False)
while True:
    for s in (u, t):
        try:
            s.send(b'GET ')
        except OSError:
            pass
    time.sleep(0.002)
";

/// A program of the agent that sends all the time; ended when dropped.
struct Traffic(Child);

impl Traffic {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        Self::of(stage, TRAFFIC)
    }

    fn of(stage: &Stage, program: &str) -> anyhow::Result<Self> {
        let argv = ["/usr/bin/python3", "-I", "-c", program].map(str::to_owned);
        let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
        let traffic = Self(command.stdin(Stdio::null()).spawn()?);
        traffic.flows(stage, "traffic")?;
        Ok(traffic)
    }

    /// Waits until some more has left.
    fn flows(&self, stage: &Stage, what: &str) -> anyhow::Result<()> {
        let before = sent(stage);
        wait::until(what, wait::patience(), || {
            (sent(stage) > before + 20).then_some(())
        })
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sent(stage: &Stage) -> usize {
    let to: IpAddr = ALLOWED_V4.parse().expect("address");
    stage.sniffer.count(|p| p.is_to(to))
}

/// That nothing leaves, from what has left by now on.
fn quiet(stage: &Stage) {
    stage.world.settle(&stage.sniffer).expect("settle");
    let before = sent(stage);
    // A time to wait on purpose: what would leak would do so in it.
    std::thread::sleep(Duration::from_millis(300));
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(sent(stage), before, "packets left");
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}

fn hold(stage: &Stage, how: &str, agent: &str) -> anyhow::Result<Value> {
    let output = stage
        .daemon
        .cli(&[how, "--agent", agent, "--output", "json"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).context(said)
}

fn folder(stage: &Stage) -> PathBuf {
    stage.daemon.slice().expect("slice").join(AGENT)
}

fn frozen(stage: &Stage) -> bool {
    let text = std::fs::read_to_string(folder(stage).join("cgroup.events")).expect("events");
    text.lines().any(|line| line == "frozen 1")
}

fn status(stage: &Stage) -> Value {
    let status = stage.daemon.status().expect("status");
    let agents = status["agents"].as_array().expect("agents");
    let agent = agents.iter().find(|agent| agent["name"] == AGENT);
    agent.expect("the agent").clone()
}

/// That it starts nothing, and says how it would.
fn starts_nothing(stage: &Stage) {
    let output = stage
        .daemon
        .run_as(AGENT, PLAIN_USER, &["/bin/true"])
        .expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("is frozen since"), "{said}");
    assert!(said.contains("sudo exeat thaw --agent worker"), "{said}");
}

#[test]
fn a_connection_of_before_goes_on_after_a_thaw() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let _traffic = Traffic::start(&stage).expect("traffic");
    hold(&stage, "freeze", AGENT).expect("freeze");
    hold(&stage, "thaw", AGENT).expect("thaw");
    let tcp = |stage: &Stage| {
        stage
            .sniffer
            .count(|p| p.protocol == 6 && p.ports.is_some_and(|(_, to)| to == 80))
    };
    let before = tcp(&stage);
    wait::until("the connection to go on", wait::patience(), || {
        (tcp(&stage) > before + 3).then_some(())
    })
    .expect("goes on");
}

#[test]
fn a_frozen_agent_sends_nothing_whatever_becomes_of_the_daemon() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let traffic = Traffic::start(&stage).expect("traffic");

    let report = hold(&stage, "freeze", AGENT).expect("freeze");
    quiet(&stage);
    for (key, value) in [
        ("did", Value::from("frozen")),
        ("changed", true.into()),
        ("confirmed", true.into()),
        ("frozen", true.into()),
        ("processes", 1.into()),
    ] {
        assert_eq!(report[key], value, "{report}");
    }
    assert!(frozen(&stage));
    assert!(status(&stage)["frozen"].is_string() && status(&stage)["isolated"] == true);
    let text = stage.daemon.cli(&["status"]).output().expect("status");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("worker is frozen since"), "{text}");
    let incident = stage
        .daemon
        .event(|event| event["type"] == "incident" && event["kind"] == "frozen")
        .expect("an incident");
    assert_eq!(incident["agent"], AGENT);
    let labels = ["agent=\"worker\"", "kind=\"frozen\""];
    let count = stage.daemon.metric("exeat_incidents_total", &labels);
    assert_eq!(count.expect("metric"), 1.0);
    starts_nothing(&stage);
    let again = hold(&stage, "freeze", AGENT).expect("freeze");
    assert_eq!(again["changed"], false, "{again}");

    // Whatever becomes of the daemon and the policy.
    stage.daemon.kill9().expect("kill");
    quiet(&stage);
    assert!(frozen(&stage));
    stage.daemon.restart().expect("restart");
    quiet(&stage);
    assert!(frozen(&stage) && status(&stage)["frozen"].is_string());
    assert!(stage.daemon.reload().expect("reload").status.success());
    stage.daemon.restart().expect("restart");
    quiet(&stage);
    assert!(frozen(&stage) && status(&stage)["isolated"] == true);
    starts_nothing(&stage);

    let report = hold(&stage, "thaw", AGENT).expect("thaw");
    assert_eq!(report["confirmed"], true, "{report}");
    assert!(!frozen(&stage) && status(&stage)["frozen"].is_null());
    assert_eq!(status(&stage)["isolated"], false);
    traffic
        .flows(&stage, "traffic after the thaw")
        .expect("flows");
    stage
        .daemon
        .event(|event| event["type"] == "incident" && event["kind"] == "thawed")
        .expect("an incident");
    let again = hold(&stage, "thaw", AGENT).expect("thaw");
    assert_eq!(again["changed"], false, "{again}");
}

/// The network is cut by itself, not by the programs having stopped.
fn cut_without_the_freezer(mode: &str) {
    let policy = POLICY.replace("  worker:\n", &format!("  worker:\n    mode: {mode}\n"));
    let stage = Stage::new(&policy, "").expect("stage");
    let traffic = Traffic::start(&stage).expect("traffic");
    hold(&stage, "freeze", AGENT).expect("freeze");
    // As a freezer that lets a process go.
    std::fs::write(folder(&stage).join("cgroup.freeze"), "0").expect("write");
    quiet(&stage);
    // Its live sockets try, and are refused.
    let event = stage
        .daemon
        .event(|event| event["reason"] == "isolated" && event["hook"] == "egress")
        .expect("a refusal");
    assert_eq!(
        (&event["verdict"], &event["agent"]),
        (&Value::from("deny"), &Value::from(AGENT))
    );
    hold(&stage, "thaw", AGENT).expect("thaw");
    traffic
        .flows(&stage, "traffic after the thaw")
        .expect("flows");
}

#[test]
fn the_network_is_cut_whether_or_not_the_processes_stop() {
    cut_without_the_freezer("enforce");
}

#[test]
fn a_monitored_agent_is_cut_off_too() {
    cut_without_the_freezer("monitor");
}

#[test]
fn new_sockets_of_who_is_cut_off_are_refused() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .value("udp('203.0.113.10', 9).send(b'x')")
        .expect("sent");
    puppet.ask("s = udp()").expect("socket");
    hold(&stage, "freeze", AGENT).expect("freeze");
    std::fs::write(folder(&stage).join("cgroup.freeze"), "0").expect("write");
    for code in [
        "udp('203.0.113.10', 9)",
        "tcp('203.0.113.10', 80)",
        "s.sendto(b'x', ('203.0.113.10', 9))",
        "s.sendto(b'x', ('203.0.113.53', 53))",
    ] {
        assert_eq!(puppet.errno(code).expect("step"), libc::EPERM, "{code}");
    }
    quiet(&stage);
}

#[test]
fn what_is_killed_is_gone_and_may_be_started_anew() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut traffic = Traffic::start(&stage).expect("traffic");
    let report = hold(&stage, "kill", AGENT).expect("kill");
    quiet(&stage);
    assert_eq!(
        (&report["did"], &report["confirmed"], &report["processes"]),
        (&"killed".into(), &true.into(), &1.into()),
        "{report}"
    );
    assert!(!folder(&stage).exists(), "the cgroup stays");
    use std::os::unix::process::ExitStatusExt;
    let end = traffic.0.wait().expect("ended");
    assert_eq!(end.signal(), Some(libc::SIGKILL));
    stage
        .daemon
        .event(|event| event["type"] == "incident" && event["kind"] == "killed")
        .expect("an incident");
    assert_eq!(status(&stage)["isolated"], false);
    drop(Traffic::start(&stage).expect("started anew"));

    // Who was frozen stays so.
    let _traffic = Traffic::start(&stage).expect("traffic");
    hold(&stage, "freeze", AGENT).expect("freeze");
    let report = hold(&stage, "kill", AGENT).expect("kill");
    assert_eq!(
        (&report["confirmed"], &report["frozen"]),
        (&true.into(), &true.into()),
        "{report}"
    );
    starts_nothing(&stage);
    hold(&stage, "thaw", AGENT).expect("thaw");
    drop(Traffic::start(&stage).expect("started anew"));
}

#[test]
fn what_is_frozen_is_so_after_a_reboot_and_a_lost_file() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    hold(&stage, "freeze", AGENT).expect("freeze");
    // All that a reboot forgets: pins, cgroups, the runtime folder.
    stage.daemon.stop().expect("stop");
    stage.daemon.teardown().expect("teardown");
    for entry in std::fs::read_dir(stage.daemon.runtime_dir()).expect("folder") {
        std::fs::remove_file(entry.expect("entry").path()).expect("remove");
    }
    stage.daemon.restart().expect("restart");
    starts_nothing(&stage);
    assert_eq!(status(&stage)["isolated"], true);
    hold(&stage, "thaw", AGENT).expect("thaw");

    // The kernel knows it too.
    let _traffic = Traffic::start(&stage).expect("traffic");
    hold(&stage, "freeze", AGENT).expect("freeze");
    stage.daemon.kill9().expect("kill");
    std::fs::remove_file(stage.daemon.state_dir().join("frozen.json")).expect("remove");
    stage.daemon.restart().expect("restart");
    quiet(&stage);
    assert!(frozen(&stage));
    starts_nothing(&stage);
}

#[test]
fn only_root_may_and_only_what_there_is() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let _holder = stage.daemon.hold(AGENT).expect("a process of the agent");
    for how in ["freeze", "thaw", "kill"] {
        let output = stage
            .daemon
            .cli_as(PLAIN_USER, &[how, "--agent", AGENT])
            .output()
            .expect("asked");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("use sudo"), "{said}");
        let output = stage.daemon.cli(&[how, "--agent", "nobody"]).output();
        let output = output.expect("asked");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("there is no agent `nobody`"), "{said}");
    }
    assert!(!frozen(&stage));
    // Another agent is not touched by it, and one that runs nothing can be frozen.
    let report = hold(&stage, "freeze", "other").expect("freeze");
    assert_eq!(report["processes"], 0, "{report}");
    assert!(!frozen(&stage) && status(&stage)["isolated"] == false);
}

/// One request after the other, through the gateway.
const REQUESTS: &str = "
import socket, time
while True:
    try:
        s = socket.create_connection(('allowed.example', 80), 5)
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: allowed.example\\r\\nConnection: close\\r\\n\\r\\n')
        s.recv(4096)
        s.close()
    except OSError:
        pass
    time.sleep(0.01)
";

#[test]
fn the_gateway_of_a_frozen_agent_carries_nothing_and_opens_again() {
    let policy = "version: 1\nagents:\n  worker:\n    allow:\n      - { host: allowed.example, ports: [80] }\n";
    let stage = Stage::new(policy, "").expect("stage");
    let traffic = Traffic::of(&stage, REQUESTS).expect("traffic");
    let through = |stage: &Stage| {
        let events = stage.daemon.events().expect("events");
        events
            .iter()
            .filter(|event| event["hook"] == "gateway")
            .count()
    };
    assert!(through(&stage) > 0, "it does not go through the gateway");
    hold(&stage, "freeze", AGENT).expect("freeze");
    // The ends of connections that the gateway had are sent by the kernel, not by the agent.
    std::thread::sleep(Duration::from_millis(300));
    quiet(&stage);
    hold(&stage, "thaw", AGENT).expect("thaw");
    let before = through(&stage);
    traffic
        .flows(&stage, "requests after the thaw")
        .expect("flows");
    wait::until("the gateway", wait::patience(), || {
        (through(&stage) > before).then_some(())
    })
    .expect("goes through the gateway again");
}

#[test]
fn what_sockets_of_a_killed_agent_still_hold_does_not_leave() {
    use std::io::Read;
    let policy = "version: 1\nagents:\n  worker:\n    allow:\n      - { cidr: 203.0.113.10, ports: [4433] }\n";
    let stage = Stage::new(policy, "").expect("stage");
    let at = format!("{ALLOWED_V4}:4433").parse().expect("address");
    let listener = exeat_tests::sink::listen(&stage.world.internet, at).expect("listener");
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet
        .ask("s = tcp('203.0.113.10', 4433)\ns.setblocking(False)")
        .expect("connected");
    let (mut peer, _) = listener.accept().expect("accepted");
    // Nobody reads, so most of it waits in the agent's socket.
    let fill = "
def fill():
    sent = 0
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            sent += s.send(b'x' * 65536)
        except BlockingIOError:
            time.sleep(0.01)
    return sent
";
    puppet.ask(fill).expect("function");
    let sent = puppet
        .value("fill()")
        .expect("sent")
        .as_u64()
        .expect("bytes");
    let report = hold(&stage, "kill", AGENT).expect("kill");
    assert_eq!(report["confirmed"], true, "{report}");
    assert_eq!(status(&stage)["isolated"], false);
    stage.world.settle(&stage.sniffer).expect("settle");
    let before = self::sent(&stage);
    peer.set_read_timeout(Some(Duration::from_secs(1)))
        .expect("time-out");
    let (mut got, mut chunk) = (0, vec![0; 1 << 16]);
    while let Ok(n) = peer.read(&mut chunk) {
        assert!(n > 0, "the connection ended: its last packet left");
        got += n as u64;
    }
    assert!(got < sent, "all of {sent} bytes left");
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(self::sent(&stage), before, "packets left after the kill");
}
