//! Floods and full tables: verdicts stay what they are, and every loss is counted.

use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, ALLOWED, ALLOWED_V4, OTHER_V4, Stage};
use exeat_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;

const TWO: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.40, protocol: udp, ports: [4000] }
  quiet: {}
";

/// Sends that many refused datagrams and gives the number that were refused.
const FLOOD: &str = "
def flood(count, host='203.0.113.66'):
    s, refused = socket(AF_INET, SOCK_DGRAM), 0
    for i in range(count):
        try: s.sendto(b'x', (host, 4000))
        except PermissionError: refused += 1
    return refused
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
";

fn puppet(stage: &Stage, agent: &str) -> Puppet {
    let mut puppet = stage.daemon.puppet(agent).expect("puppet");
    puppet.value(FLOOD).expect("define");
    puppet
}

fn blocked(stage: &Stage, agent: &str) -> f64 {
    stage
        .daemon
        .metric(
            "exeat_flows_blocked_total",
            &[&format!("agent=\"{agent}\"")],
        )
        .expect("metrics")
}

fn events_of(stage: &Stage, key: &str) -> u64 {
    let status = stage.daemon.status().expect("status");
    status["events"][key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {status}"))
}

#[test]
fn a_flood_of_one_agent_is_throttled_exactly_and_hides_nothing_of_another() {
    const COUNT: u64 = 120_000;
    let stage = Stage::new(TWO, "").expect("stage");
    let mut noisy = puppet(&stage, AGENT);
    let mut quiet = puppet(&stage, "quiet");
    let flood = format!(
        "refused = []; t = threading.Thread(target=lambda: refused.append(flood({COUNT}))); t.start()"
    );
    noisy.value(&flood).expect("flood");
    // While it goes on: every refusal of the other is to be told, by its own port.
    for port in 5000..5050 {
        let errno = quiet
            .errno(&format!("udp().sendto(b'x', ('203.0.113.66', {port}))"))
            .expect("ask");
        assert_eq!(errno, libc::EPERM);
    }
    let refused = wait::until("the end of the flood", wait::patience(), || {
        noisy.value("refused").ok()?[0].as_u64()
    });
    assert_eq!(refused.expect("flood"), COUNT, "verdicts under a flood");
    assert_eq!(blocked(&stage, AGENT), COUNT as f64);
    assert_eq!(blocked(&stage, "quiet"), 50.0);

    let throttled = stage
        .daemon
        .metric("exeat_events_throttled_total", &["agent=\"worker\""])
        .expect("metrics");
    assert!(
        throttled > COUNT as f64 * 0.5,
        "{throttled}: no flood at all"
    );
    let of = |events: &[serde_json::Value], agent: &str| -> Vec<serde_json::Value> {
        events
            .iter()
            .filter(|e| e["agent"] == agent)
            .cloned()
            .collect()
    };
    // The bucket fills again, and the next event that passes says what was kept back.
    let all = wait::until("everything suppressed to be told", wait::patience(), || {
        noisy.value("flood(1)").ok()?;
        let output = stage
            .daemon
            .cli(&["events", "--output", "json", "-n", "10000"])
            .output()
            .ok()?;
        let events: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let told: u64 = of(&events, AGENT)
            .iter()
            .filter_map(|e| e["suppressed"].as_u64())
            .sum();
        let kept_back = stage
            .daemon
            .metric("exeat_events_throttled_total", &["agent=\"worker\""])
            .ok()?;
        let count = of(&events, AGENT).len() as f64;
        let whole = told as f64 == kept_back && count + kept_back == blocked(&stage, AGENT);
        whole.then_some(events)
    })
    .expect("events");
    let ports: BTreeSet<u64> = of(&all, "quiet")
        .iter()
        .filter_map(|e| e["dest"]["port"].as_u64())
        .collect();
    assert_eq!(ports, (5000..5050).collect(), "events of the quiet agent");
    // Every refusal was told or kept back, and nothing twice: so nothing was lost.
    assert_eq!(events_of(&stage, "lost_kernel"), 0);
}

#[test]
fn a_full_ring_changes_no_verdict_and_every_loss_is_counted() {
    // More than the ring holds, with a throttle that lets all of it through.
    const COUNT: u64 = 60_000;
    let config = "events:\n  rate: 1000000\n  burst: 10000000\n";
    let stage = Stage::new(TWO, config).expect("stage");
    let sink = stage.world.udp_sink("203.0.113.40:4000").expect("sink");
    let mut agent = puppet(&stage, AGENT);
    let daemon = Pid::from_raw(stage.daemon.pid().expect("pid") as i32);
    kill(daemon, Signal::SIGSTOP).expect("stop");
    // Each thread stops when it next leaves the kernel: until then it may read the ring.
    wait::until("every thread to have stopped", wait::patience(), || {
        let threads = std::fs::read_dir(format!("/proc/{daemon}/task")).ok()?;
        threads
            .flatten()
            .all(|thread| {
                std::fs::read_to_string(thread.path().join("status"))
                    .is_ok_and(|status| status.contains("State:\tT"))
            })
            .then_some(())
    })
    .expect("the daemon stops");
    let refused = agent.value(&format!("flood({COUNT})"));
    let allowed = agent.value("udp().sendto(b'still allowed', ('203.0.113.40', 4000))");
    kill(daemon, Signal::SIGCONT).expect("continue");
    assert_eq!(refused.expect("flood"), COUNT);
    allowed.expect("allowed");
    wait::until("the allowed datagram", wait::patience(), || {
        sink.holds("still allowed").then_some(())
    })
    .expect("sink");
    let (received, lost) = wait::until("the ring to be read", wait::patience(), || {
        let (received, lost) = (
            events_of(&stage, "received"),
            events_of(&stage, "lost_kernel"),
        );
        // The end of the flow that was allowed is one more.
        (received + lost == COUNT + 1).then_some((received, lost))
    })
    .unwrap_or_else(|e| panic!("{e}: {}", stage.daemon.status().expect("status")["events"]));
    // 2 MiB of 152 bytes each.
    assert!((13_000..=13_797).contains(&received), "{received}");
    assert!(lost > 0);
    assert_eq!(blocked(&stage, AGENT), COUNT as f64);
    assert_eq!(
        stage
            .daemon
            .metric("exeat_events_lost_total", &["stage=\"kernel\""])
            .expect("metrics"),
        lost as f64
    );
    // And the ring works on.
    agent.errno("tcp('203.0.113.20', 4444)").expect("ask");
    stage
        .daemon
        .event(|e| e["dest"]["ip"] == OTHER_V4 && e["dest"]["port"] == 4444)
        .expect("event");
}

#[test]
fn a_full_ring_of_a_daemon_that_is_gone_changes_no_verdict() {
    let config = "events:\n  rate: 1000000\n  burst: 10000000\n";
    let mut stage = Stage::new(TWO, config).expect("stage");
    let mut agent = puppet(&stage, AGENT);
    stage.daemon.kill9().expect("kill");
    assert_eq!(agent.value("flood(30000)").expect("flood"), 30_000);
    stage.daemon.restart().expect("restart");
    // The ring is pinned: the next daemon tells what the dead one could not.
    let received = wait::until("the ring to be read", wait::patience(), || {
        let (received, lost) = (
            events_of(&stage, "received"),
            events_of(&stage, "lost_kernel"),
        );
        (received + lost == 30_000).then_some(received)
    });
    assert!(received.expect("events") >= 13_000);
    assert_eq!(blocked(&stage, AGENT), 30_000.0);
}

#[test]
fn a_name_with_too_many_addresses_is_bounded_and_what_is_left_out_is_refused() {
    let policy = "version: 1\nagents:\n  worker:\n    allow:\n      - { host: allowed.example, ports: [80], http: none }\n";
    let stage = Stage::new(policy, "").expect("stage");
    // The address that it had is among them: it is promised, whatever else comes.
    let many: Vec<String> = (100..236)
        .map(|n| format!("198.51.100.{n}"))
        .chain([ALLOWED_V4.to_owned()])
        .chain((100..235).map(|n| format!("203.0.113.{n}")))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    stage.dns.set(ALLOWED, &many, 60);
    stage.daemon.reload().expect("reload");
    let leased = wait::until("the leases", wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        let addresses = status["names"][0]["addresses"].as_array()?.clone();
        (addresses.len() > 1).then_some(addresses)
    })
    .expect("leases");
    assert_eq!(leased.len(), 256, "the bound of a name");
    let leased: BTreeSet<String> = leased
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    for address in many {
        let errno = agent.errno(&format!("tcp({address:?}, 80)")).expect("ask");
        let expected = if address == ALLOWED_V4 {
            0
        } else if leased.contains(address) {
            libc::ECONNREFUSED
        } else {
            libc::EPERM
        };
        assert_eq!(errno, expected, "{address}");
    }
    let health = stage.daemon.status().expect("status")["health"].to_string();
    assert!(
        health.contains("allowed.example has 16 more addresses than the 256"),
        "status does not say that addresses were left out: {health}"
    );
}

#[test]
fn more_agents_than_there_is_room_for_is_a_clear_error_that_changes_nothing() {
    let stage = Stage::new(TWO, "").expect("stage");
    let mut agent = puppet(&stage, AGENT);
    let mut text = "version: 1\nagents:\n".to_owned();
    for number in 0..257 {
        text += &format!("  agent-{number}: {{}}\n");
    }
    stage.daemon.write_policy(&text).expect("write");
    let output = stage.daemon.reload().expect("reload");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("more than 256 agents"), "{said}");
    let status = stage.daemon.status().expect("status");
    assert_eq!(status["agents"].as_array().map(Vec::len), Some(2));
    assert_eq!(agent.value("flood(1)").expect("flood"), 1);
    agent
        .value("udp().sendto(b'x', ('203.0.113.40', 4000))")
        .expect("allowed");
}

#[test]
fn as_many_agents_as_there_is_room_for_work_within_the_usual_limit_of_open_files() {
    let stage = Stage::new(TWO, "").expect("stage");
    let mut text = TWO.to_owned();
    for number in 0..254 {
        text += &format!(
            "  agent-{number}:\n    allow:\n      - {{ cidr: 203.0.113.40, protocol: udp, ports: [{}] }}\n",
            4000 + number
        );
    }
    stage.daemon.enforce(&text).expect("enforce");
    for number in [0, 128, 253] {
        let mut agent = stage
            .daemon
            .puppet(&format!("agent-{number}"))
            .expect("puppet");
        for (port, expected) in [(4000 + number, 0), (4300, libc::EPERM)] {
            let code = format!("udp().sendto(b'x', ('203.0.113.40', {port}))");
            assert_eq!(
                agent.errno(&code).expect("ask"),
                expected,
                "{number} {port}"
            );
        }
    }
    let status = stage.daemon.status().expect("status");
    assert_eq!(status["agents"].as_array().map(Vec::len), Some(256));
}

#[test]
fn addresses_that_no_name_may_stand_for_are_dropped_and_counted() {
    let policy = "version: 1\nagents:\n  worker:\n    allow:\n      - { host: allowed.example, ports: [9] }\n";
    let stage = Stage::new(policy, "").expect("stage");
    stage.dns.set(
        ALLOWED,
        &["127.0.0.1", "169.254.169.254", "::1", "203.0.113.12"],
        60,
    );
    stage.daemon.reload().expect("reload");
    let dropped = || {
        stage
            .daemon
            .metric("exeat_dns_rebind_answers_dropped_total", &[])
            .expect("metrics")
    };
    // The two families are asked apart from each other.
    wait::until(
        "the dropped addresses to be counted",
        wait::patience(),
        || (dropped() >= 3.0).then_some(()),
    )
    .expect("metric");
    wait::until("the address that is left", wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        let addresses = status["names"][0]["addresses"].as_array()?.clone();
        addresses.iter().any(|a| a == "203.0.113.12").then_some(())
    })
    .expect("lease");
    // Three in every look-up, and a look-up at the start may have met the new answer too.
    wait::until("each counted once a look-up", wait::patience(), || {
        (dropped() % 3.0 == 0.0).then_some(())
    })
    .expect("metric");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    for (address, expected) in [
        ("127.0.0.1", libc::EPERM),
        ("169.254.169.254", libc::EPERM),
        ("::1", libc::EPERM),
        ("203.0.113.12", libc::ECONNREFUSED),
    ] {
        let errno = agent.errno(&format!("tcp({address:?}, 9)")).expect("ask");
        assert_eq!(errno, expected, "{address}");
    }
}

#[test]
fn flows_that_are_let_out_are_counted_once_each_with_their_bytes() {
    let policy = "version: 1\nagents:\n  worker:\n    allow:\n\
        \x20     - { cidr: 203.0.113.40, ports: [4000] }\n\
        \x20     - { cidr: 203.0.113.40, protocol: udp, ports: [4000] }\n\
        \x20     - { cidr: 203.0.113.40, protocol: icmp }\n";
    let stage = Stage::new(policy, "").expect("stage");
    let _tcp = stage.world.tcp_sink("203.0.113.40:4000").expect("sink");
    let _udp = stage.world.udp_sink("203.0.113.40:4000").expect("sink");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let code = "
for i in range(10):
    s = tcp('203.0.113.40', 4000)
    for j in range(5): s.sendall(b'x' * 1000)
    s.close()
for i in range(7):
    s = udp('203.0.113.40', 4000)
    for j in range(5): s.send(b'x' * 1000)
    s = udp()
    for j in range(5): s.sendto(b'x' * 1000, ('203.0.113.40', 4000))
";
    agent.value(code).expect("flows");
    let allowed = |protocol: &str| {
        let labels = ["agent=\"worker\"", &format!("protocol=\"{protocol}\"")];
        stage
            .daemon
            .metric("exeat_flows_allowed_total", &labels)
            .expect("metrics")
    };
    assert_eq!(allowed("tcp"), 10.0);
    assert_eq!(allowed("udp"), 14.0);
    let sent = stage
        .daemon
        .metric("exeat_sent_bytes_total", &["agent=\"worker\""])
        .expect("metrics");
    // 50 pieces by TCP, 70 datagrams with headers of 28 bytes; TCP's own packets come on top.
    let least = 50_000.0 + 70.0 * 1028.0;
    assert!((least..least + 10_000.0).contains(&sent), "{sent}");
    assert_eq!(blocked(&stage, AGENT), 0.0);
}

#[test]
fn what_reading_the_kernels_types_took_is_given_back() {
    let stage = Stage::new(TWO, "").expect("stage");
    let pid = stage.daemon.pid().expect("the daemon runs");
    let process = procfs::process::Process::new(pid as i32).expect("the process");
    let status = process.status().expect("status");
    let kib = status.rssanon.expect("RssAnon in /proc/PID/status");
    // 3 MiB are its own; with what glibc keeps of types it was 24.
    assert!(kib < 10 << 10, "the daemon holds {kib} KiB of its own");
}
