//! What went where, kept: bytes as the kernel counts them, the end of each flow once, and a
//! history that outlives the daemon.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::Daemon;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::sniff::Packet;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::wait;
use exeat_tests::world::World;
use serde_json::Value;

const OPEN: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.0/24, ports: all }
      - { cidr: 203.0.113.0/24, protocol: udp, ports: all }
      - { cidr: '2001:db8::/64', ports: all }
      - { cidr: '2001:db8::/64', protocol: udp, ports: all }
";

/// Bytes of the headers that the kernel makes: TCP's with the options of a SYN, and with a time
/// stamp in every packet behind it.
const TCP_SYN: u64 = 40;
const TCP: u64 = 32;
const UDP: u64 = 8;

fn ip(host: &str) -> u64 {
    if host.contains(':') { 40 } else { 20 }
}

/// `exeat flows` with these words, as JSON lines.
fn flows(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    flows_as(daemon, 0, words)
}

fn flows_as(daemon: &Daemon, uid: u32, words: &[&str]) -> Vec<Value> {
    let mut command = daemon.cli_as(uid, &["flows", "--output", "json", "--limit", "100000"]);
    let output = command.args(words).output().expect("exeat flows");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", daemon.log());
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect()
}

/// Waits until as many flows to a port have ended, and gives them.
fn ended(daemon: &Daemon, port: u16, count: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    wait::until("the end of a flow", wait::patience(), || {
        seen = flows(daemon, &[]);
        seen.retain(|f| f["hook"] == "flow_end" && f["dest"]["port"] == port);
        (seen.len() >= count).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}: {seen:#?}"));
    assert_eq!(seen.len(), count, "{seen:#?}");
    seen
}

fn number(flow: &Value, what: &str) -> u64 {
    flow["traffic"][what]
        .as_u64()
        .unwrap_or_else(|| panic!("{what}: {flow:#}"))
}

/// Bytes of TCP data in a packet of the wire.
fn data(packet: &Packet) -> u64 {
    let length = |at: usize| usize::from(packet.frame[at]) << 8 | usize::from(packet.frame[at + 1]);
    let (ip, whole) = match packet.ether_type {
        0x0800 => (20, length(16)),
        _ => (40, 40 + length(18)),
    };
    let tcp = usize::from(packet.frame[14 + ip + 12] >> 4) * 4;
    (whole - ip - tcp) as u64
}

fn scene() -> (World, Daemon, Puppet) {
    let world = World::new().expect("world");
    let daemon = Daemon::start(&world, OPEN).expect("daemon");
    let agent = daemon.puppet(AGENT).expect("puppet");
    (world, daemon, agent)
}

#[test]
fn tcp_is_counted_to_the_byte_with_what_leaves_after_the_close() {
    let (world, daemon, mut agent) = scene();
    for (host, port) in [("203.0.113.10", 7001), ("2001:db8::10", 7002)] {
        let at = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let sink = world.tcp_sink(&at).expect("sink");
        let sniffer = world.sniffer().expect("sniffer");
        // More than fits into the socket: the program is gone from it while data still leaves.
        let payload = 3_000_000_u64;
        agent
            .value(&format!(
                "s = tcp({host:?}, {port}); s.settimeout(30); s.sendall(b'x' * {payload}); s.close()"
            ))
            .expect("send");
        let flow = ended(&daemon, port, 1).remove(0);
        let arrived: usize = sink.arrivals().iter().map(|a| a.bytes.len()).sum();
        assert_eq!(arrived as u64, payload);
        let (bytes, packets) = (number(&flow, "sent_bytes"), number(&flow, "sent_packets"));
        let headers = (ip(host) + TCP_SYN) + (packets - 1) * (ip(host) + TCP);
        // What was sent twice is on the wire twice.
        world.settle(&sniffer).expect("settle");
        let to = |p: &Packet| p.ports.is_some_and(|(_, to)| to == port);
        let wire: u64 = sniffer.packets(to).iter().map(data).sum();
        assert!(wire >= payload, "{wire}");
        assert_eq!(bytes, wire + headers, "{flow:#}");
        let (bytes, packets) = (
            number(&flow, "received_bytes"),
            number(&flow, "received_packets"),
        );
        let headers = (ip(host) + TCP_SYN) + (packets - 1) * (ip(host) + TCP);
        assert!(packets > 2, "{flow:#}");
        // Acknowledgements may hold a list of what has come out of order.
        assert!(
            (headers..headers + 36 * packets).contains(&bytes),
            "{bytes} {headers} {flow:#}"
        );
        assert_eq!(flow["verdict"], "allow");
        assert_eq!(flow["agent"], AGENT);
        assert_eq!(flow["protocol"], "tcp");
        assert_eq!(flow["reason"], Value::Null);
        assert!(
            flow["source"]["port"].as_u64().is_some_and(|p| p > 1024),
            "{flow:#}"
        );
        assert_eq!(flow["process"]["uid"], PLAIN_USER, "{flow:#}");
    }
}

#[test]
fn udp_is_counted_both_ways_and_by_destination() {
    let (world, daemon, mut agent) = scene();
    for (host, port) in [("203.0.113.10", 7011), ("2001:db8::10", 7012)] {
        let at = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let echo = world.udp_sink(&at).expect("sink");
        let code = format!(
            "s = udp({host:?}, {port})\nfor n in range(50): s.send(b'y' * (n + 1))\ns.close()"
        );
        agent.value(&code).expect("send");
        let flow = ended(&daemon, port, 1).remove(0);
        let payload: u64 = (1..=50).sum();
        assert_eq!(number(&flow, "sent_packets"), 50);
        assert_eq!(number(&flow, "sent_bytes"), payload + 50 * (ip(host) + UDP));
        wait::until("what was sent", wait::patience(), || {
            (echo.arrivals().len() == 50).then_some(())
        })
        .expect("datagrams");
        assert_eq!(flow["process"]["uid"], PLAIN_USER, "{flow:#}");
    }
    // One socket that talks to two: a flow each, told when it turns away.
    let code = "s = udp('203.0.113.10')\n\
                for n in range(3): s.sendto(b'abc', ('203.0.113.10', 7021))\n\
                for n in range(4): s.sendto(b'abcd', ('203.0.113.20', 7022))\ns.close()";
    agent.value(code).expect("send");
    for (port, count, payload) in [(7021, 3, 9), (7022, 4, 16)] {
        let flow = ended(&daemon, port, 1).remove(0);
        assert_eq!(number(&flow, "sent_packets"), count, "{flow:#}");
        assert_eq!(
            number(&flow, "sent_bytes"),
            payload + count * 28,
            "{flow:#}"
        );
    }
}

#[test]
fn what_comes_back_is_counted() {
    let stage = Stage::new(POLICY, "").expect("stage");
    assert_eq!(
        stage
            .curl_as(AGENT, "http://allowed.example/")
            .expect("curl"),
        Some(0)
    );
    let flow = ended(&stage.daemon, 80, 1).remove(0);
    assert_eq!(flow["names"][0], "allowed.example", "{flow:#}");
    assert!(number(&flow, "received_bytes") > 100, "{flow:#}");
    assert_eq!(
        stage
            .curl_as(AGENT, "https://allowed.example/")
            .expect("curl"),
        Some(0)
    );
    let flow = ended(&stage.daemon, 443, 1).remove(0);
    assert!(number(&flow, "received_bytes") > 500, "{flow:#}");
    // The sum of all is no more than what the agent sent as a whole.
    let sent = stage
        .daemon
        .metric("exeat_sent_bytes_total", &["agent=\"worker\""])
        .expect("metric");
    assert!(sent >= number(&flow, "sent_bytes") as f64);
    // Questions are told one by one, so the flow that carried them is not.
    let all = flows(&stage.daemon, &[]);
    assert!(all.iter().any(|f| f["hook"] == "dns"), "{all:#?}");
    assert!(
        all.iter()
            .all(|f| f["hook"] != "flow_end" || f["dest"]["port"] != 53),
        "{all:#?}"
    );
}

#[test]
fn a_connection_that_is_refused_or_reset_ends_once() {
    let (_world, daemon, mut agent) = scene();
    // Nobody listens: the SYN was let out, and its flow ends with the answer.
    let errno = agent.errno("tcp('203.0.113.10', 7031)").expect("ask");
    assert_eq!(errno, libc::ECONNREFUSED);
    let flow = ended(&daemon, 7031, 1).remove(0);
    assert_eq!(number(&flow, "sent_packets"), 1, "{flow:#}");
    assert_eq!(number(&flow, "sent_bytes"), 20 + TCP_SYN, "{flow:#}");
    assert_eq!(number(&flow, "received_packets"), 1, "{flow:#}");
    // Refused by the policy: nothing was let out, so nothing ends.
    assert_eq!(
        agent.errno("tcp('198.51.100.1', 7032)").expect("ask"),
        libc::EPERM
    );
    let denied = daemon.event(|e| e["dest"]["port"] == 7032).expect("event");
    assert_eq!(denied["verdict"], "deny");
    wait::until("the refusal in the history", wait::patience(), || {
        (flows(&daemon, &["--verdict", "deny"]).len() == 1).then_some(())
    })
    .expect("one refusal");
    assert!(flows(&daemon, &["--name", "198.51.100.1", "--verdict", "allow"]).is_empty());
}

#[test]
fn the_history_survives_a_restart_and_a_kill() {
    let (world, mut daemon, mut agent) = scene();
    let _sink = world.tcp_sink("203.0.113.10:7041").expect("sink");
    agent
        .value("tcp('203.0.113.10', 7041).close()")
        .expect("connect");
    ended(&daemon, 7041, 1);
    daemon.restart().expect("restart");
    ended(&daemon, 7041, 1);
    agent
        .value("tcp('203.0.113.10', 7041).close()")
        .expect("connect");
    ended(&daemon, 7041, 2);
    daemon.kill9().expect("kill");
    // What ends meanwhile waits in the ring, which is pinned.
    agent
        .value("tcp('203.0.113.10', 7041).close()")
        .expect("connect");
    daemon.restart().expect("restart");
    ended(&daemon, 7041, 3);
    let path = daemon.state_dir().join("history.sqlite");
    use std::os::unix::fs::PermissionsExt;
    for file in ["history.sqlite", "history.sqlite-wal"] {
        let meta = std::fs::metadata(path.with_file_name(file)).expect(file);
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{file}");
    }
    // A file that was destroyed while the daemon was away.
    daemon.stop().expect("stop");
    std::fs::write(&path, [0x55; 9000]).expect("destroy");
    daemon.restart().expect("restart");
    let status = daemon.status().expect("status");
    let reasons = status["health"]["reasons"].to_string();
    assert!(reasons.contains("put aside as"), "{reasons}");
    assert!(path.with_file_name("history.sqlite.damaged").exists());
    agent
        .value("tcp('203.0.113.10', 7041).close()")
        .expect("connect");
    ended(&daemon, 7041, 1);
}

#[test]
fn a_user_sees_own_flows_only() {
    let (world, daemon, mut agent) = scene();
    let _sink = world.tcp_sink("203.0.113.10:7051").expect("sink");
    let mut root =
        Puppet::start(daemon.run_command(AGENT, 0, &puppet::arguments())).expect("puppet");
    agent
        .value("tcp('203.0.113.10', 7051).close()")
        .expect("connect");
    root.value("tcp('203.0.113.10', 7051).close()")
        .expect("connect");
    ended(&daemon, 7051, 2);
    let own = flows_as(&daemon, PLAIN_USER, &[]);
    assert_eq!(own.len(), 1, "{own:#?}");
    assert_eq!(own[0]["process"]["uid"], PLAIN_USER);
    assert!(flows_as(&daemon, PLAIN_USER + 1, &[]).is_empty());
    let summary = |uid| -> Value {
        let words = ["flows", "--summary", "agent", "--output", "json"];
        let output = daemon.cli_as(uid, &words).output().expect("exeat flows");
        serde_json::from_slice(&output.stdout).expect("rows")
    };
    assert_eq!(summary(0)["rows"][0]["allowed"], 2);
    assert_eq!(summary(PLAIN_USER)["rows"][0]["allowed"], 1);
    assert_eq!(
        summary(PLAIN_USER + 1)["rows"].as_array().map(Vec::len),
        Some(0)
    );
    // Whoever is governed is told nothing, and cannot read the file.
    let file = daemon.state_dir().join("history.sqlite");
    let said = agent
        .errno(&format!("open({:?})", file.display().to_string()))
        .expect("ask");
    assert_eq!(said, libc::EACCES);
}

#[test]
fn simulate_finds_exactly_the_change() {
    let stage = Stage::new(POLICY, "").expect("stage");
    assert_eq!(
        stage
            .curl_as(AGENT, "http://allowed.example/")
            .expect("curl"),
        Some(0)
    );
    assert_eq!(
        stage.curl_as(AGENT, "https://203.0.113.20/").expect("curl"),
        Some(7)
    );
    ended(&stage.daemon, 80, 1);
    wait::until("the refusal in the history", wait::patience(), || {
        let denied = flows(
            &stage.daemon,
            &["--name", "203.0.113.20", "--verdict", "deny"],
        );
        (!denied.is_empty()).then_some(())
    })
    .expect("a refusal");
    let simulate = |policy: &str| {
        let path = stage.world.folder().join("new.yaml");
        std::fs::write(&path, policy).expect("write");
        let path = path.display().to_string();
        let words = [
            "simulate", "--policy", &path, "--since", "1h", "--output", "json",
        ];
        let output = stage.daemon.cli(&words).output().expect("exeat simulate");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report["changes"].clone())
    };
    let (code, changes) = simulate(POLICY);
    assert_eq!((code, changes), (Some(0), Value::Array(vec![])));
    let (code, changes) = simulate(&POLICY.replace("ports: [443, 80]", "ports: [443]"));
    assert_eq!(
        (code, changes.as_array().map(Vec::len)),
        (Some(1), Some(1)),
        "{changes:#}"
    );
    assert_eq!(changes[0]["change"], "newly_refused");
    assert_eq!(changes[0]["name"], "allowed.example");
    assert_eq!(
        (&changes[0]["port"], &changes[0]["flows"]),
        (&80.into(), &1.into())
    );
    let wider = format!("{POLICY}      - {{ cidr: 203.0.113.20, ports: [443] }}\n");
    let (code, changes) = simulate(&wider);
    assert_eq!(
        (code, changes.as_array().map(Vec::len)),
        (Some(1), Some(1)),
        "{changes:#}"
    );
    assert_eq!(changes[0]["change"], "newly_allowed");
    assert_eq!(changes[0]["address"], "203.0.113.20");
    assert_eq!(simulate("version: 1\nagents: [").0, Some(2));
}

#[test]
fn a_burst_is_accounted_for_to_the_last_event() {
    let world = World::new().expect("world");
    let config = "events: {rate: 1000000, burst: 1000000, keep: 1000}\n";
    let daemon = Daemon::start_with(&world, OPEN, config).expect("daemon");
    let mut agent = daemon.puppet(AGENT).expect("puppet");
    const BURST: u64 = 30_000;
    let code = format!(
        "s = udp()\nrefused = 0\nfor n in range({BURST}):\n\x20 try: s.sendto(b'x', ('198.51.100.1', 9))\n\
         \x20 except PermissionError: refused += 1\nrefused"
    );
    assert_eq!(agent.value(&code).expect("burst"), BURST);
    let metric = |name: &str, label: &str| -> u64 {
        let labels = [label];
        let labels = if label.is_empty() {
            &[][..]
        } else {
            &labels[..]
        };
        daemon.metric(name, labels).expect("metric") as u64
    };
    assert_eq!(
        metric("exeat_flows_blocked_total", "agent=\"worker\""),
        BURST
    );
    let mut last = (0, 0, 0, 0);
    wait::until("every event to be somewhere", wait::patience(), || {
        let words = ["flows", "--summary", "destination", "--output", "json"];
        let output = daemon.cli(&words).output().expect("exeat flows");
        let rows: Value = serde_json::from_slice(&output.stdout).expect("rows");
        let kept = rows["rows"][0]["denied"].as_u64().unwrap_or(0);
        let throttled = metric("exeat_events_throttled_total", "");
        let in_kernel = metric("exeat_events_lost_total", "stage=\"kernel\"");
        let of_history = lost_by_history(&daemon);
        last = (kept, throttled, in_kernel, of_history);
        (kept + throttled + in_kernel + of_history == BURST).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}: {last:?} of {BURST}"));
    println!("kept, throttled, lost in the kernel, lost by the history: {last:?} of {BURST}");
}

/// Records that the history has lost, as health says it.
fn lost_by_history(daemon: &Daemon) -> u64 {
    let status = daemon.status().expect("status");
    let reasons = status["health"]["reasons"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    reasons
        .iter()
        .filter_map(|reason| reason.as_str()?.strip_prefix("the history has lost "))
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
