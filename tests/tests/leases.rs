//! What the end of a lease takes away, and what it does not: an address that a live socket
//! uses stays with the agent until the socket is gone.

use exeat_tests::puppet::{self, Puppet};
use exeat_tests::sink::{TcpSink, UdpSink};
use exeat_tests::stage::{AGENT, ALLOWED, Stage};
use exeat_tests::{unique, wait};
use serde_json::Value;

const FIRST: &str = "203.0.113.41";
const SECOND: &str = "203.0.113.42";
const OTHER_AGENT: &str = "second";

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [7000] }
      - { host: allowed.example, protocol: udp, ports: [7000] }
  second:
    allow:
      - { host: allowed.example, ports: [7000] }
";

/// A lease lives for three seconds after the answer: TTL and grace.
const SHORT: &str = "  min_ttl_seconds: 1\n  grace_seconds: 2\n";

struct Scene {
    tcp: TcpSink,
    udp: UdpSink,
    _second: TcpSink,
    stage: Stage,
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new(POLICY, SHORT).expect("stage");
        let world = &stage.world;
        let scene = Self {
            tcp: world.tcp_sink(&format!("{FIRST}:7000")).expect("sink"),
            udp: world.udp_sink(&format!("{FIRST}:7000")).expect("sink"),
            _second: world.tcp_sink(&format!("{SECOND}:7000")).expect("sink"),
            stage,
        };
        scene.stage.dns.set(ALLOWED, &[FIRST], 1);
        // What it stood for before had a minute to live: a reload has it asked anew.
        scene.stage.daemon.enforce(POLICY).expect("reload");
        for agent in [AGENT, OTHER_AGENT] {
            scene.until(agent, "the first address", |lease| !lease.is_null());
        }
        scene
    }

    /// The lease of an address; null if there is none.
    fn lease(&self, agent: &str, address: &str) -> Value {
        let output = self
            .stage
            .daemon
            .cli(&["leases", "--agent", agent, "--output", "json"])
            .output()
            .expect("exeat leases");
        let leases: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let leases = leases.as_array().expect("a list");
        for lease in leases {
            assert_eq!(lease["agent"], agent, "{lease}");
        }
        let found = leases.iter().find(|lease| lease["address"] == address);
        found.cloned().unwrap_or_default()
    }

    /// Waits for the lease of the first address to be as it should.
    fn until(&self, agent: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
        wait::until(what, wait::patience(), || {
            wanted(&self.lease(agent, FIRST)).then_some(())
        })
        .unwrap_or_else(|e| panic!("{e:#}: {}", self.lease(agent, FIRST)));
    }

    /// Sends over both sockets of the puppet, and waits for it to arrive.
    fn moves(&self, agent: &mut Puppet, when: &str) {
        let token = unique::token();
        agent
            .value(&format!("t.sendall(b'{token}'); u.send(b'{token}')"))
            .unwrap_or_else(|e| panic!("{when}: {e:#}"));
        wait::until("the bytes at both sinks", wait::patience(), || {
            (self.tcp.holds(&token) && self.udp.holds(&token)).then_some(())
        })
        .unwrap_or_else(|e| panic!("{when}: {e:#}"));
    }
}

fn connect(agent: &mut Puppet, address: &str) -> i32 {
    agent
        .errno(&format!("tcp({address:?}, 7000).close()"))
        .expect("ask")
}

#[test]
fn an_address_in_use_stays_with_its_agent_until_the_socket_is_gone() {
    let mut scene = Scene::new();
    let mut agent = scene.stage.daemon.puppet(AGENT).expect("puppet");
    let mut other = scene.stage.daemon.puppet(OTHER_AGENT).expect("puppet");
    agent
        .value(&format!(
            "t = tcp({FIRST:?}, 7000); u = udp({FIRST:?}, 7000)"
        ))
        .expect("open");
    assert_eq!(connect(&mut other, FIRST), 0);
    scene.moves(&mut agent, "while the lease lasts");

    scene.stage.dns.set(ALLOWED, &[SECOND], 1);
    scene.until(AGENT, "the address to be kept for its sockets", |lease| {
        lease["in_use"] == true
    });
    scene.until(
        OTHER_AGENT,
        "the other agent's lease to end",
        Value::is_null,
    );
    scene.moves(&mut agent, "after the end of the lease");
    assert_eq!(
        connect(&mut other, FIRST),
        libc::EPERM,
        "a lease that ended"
    );
    assert_eq!(connect(&mut other, SECOND), 0, "the address of now");
    assert_eq!(connect(&mut agent, SECOND), 0, "the address of now");

    scene
        .stage
        .daemon
        .enforce(&POLICY.replace("version: 1", "version: 1 # again"))
        .expect("reload");
    scene.moves(&mut agent, "after a reload");
    scene.stage.daemon.kill9().expect("kill");
    scene.stage.daemon.restart().expect("restart");
    scene.moves(&mut agent, "after a restart");
    assert_eq!(connect(&mut other, FIRST), libc::EPERM, "after a restart");
    scene.until(AGENT, "the address to be kept again", |lease| {
        lease["in_use"] == true
    });

    agent.value("t.close(); u.close()").expect("close");
    scene.until(AGENT, "the lease to end", Value::is_null);
    assert_eq!(
        connect(&mut agent, FIRST),
        libc::EPERM,
        "nothing uses it now"
    );
    assert_eq!(connect(&mut agent, SECOND), 0, "the address of now");
}

#[test]
fn a_socket_in_another_network_namespace_is_seen() {
    let scene = Scene::new();
    let mut argv = vec!["/usr/bin/unshare".to_owned(), "--net".to_owned()];
    argv.extend(puppet::arguments());
    let daemon = &scene.stage.daemon;
    let mut agent = Puppet::start(daemon.run_command(AGENT, 0, &argv)).expect("puppet");
    // An address of its own, so that there is a route.
    let open = format!(
        "import subprocess\n\
         subprocess.check_call(['ip', 'link', 'set', 'lo', 'up'])\n\
         subprocess.check_call(['ip', 'addr', 'add', '{FIRST}/32', 'dev', 'lo'])\n\
         u = udp({FIRST:?}, 7000)"
    );
    agent.value(&open).expect("open");
    scene.stage.dns.set(ALLOWED, &[SECOND], 1);
    scene.until(AGENT, "the address to be kept for its socket", |lease| {
        lease["in_use"] == true
    });
    scene.until(
        OTHER_AGENT,
        "the other agent's lease to end",
        Value::is_null,
    );
    drop(agent);
    scene.until(AGENT, "the lease to end", Value::is_null);
}

#[test]
fn leases_that_did_not_change_are_not_written_again() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let file = stage.daemon.runtime_dir().join("leases.json");
    let text = wait::until("the leases to be saved", wait::patience(), || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains(ALLOWED).then_some(text)
    })
    .expect("leases");
    let saved: Value = serde_json::from_str(&text).expect("JSON");
    for agent in [AGENT, OTHER_AGENT] {
        let leases = saved["agents"][agent][ALLOWED].as_array();
        assert_eq!(leases.map(Vec::len), Some(1), "{text}");
    }
    let id = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).expect("file");
        (metadata.ino(), metadata.mtime_nsec())
    };
    let before = id(&file);
    // The housekeeping goes round meanwhile; the name is asked again after the better part of
    // a minute.
    let begun = std::time::Instant::now();
    wait::until("three seconds", wait::patience(), || {
        (begun.elapsed().as_secs() >= 3).then_some(())
    })
    .expect("time");
    assert_eq!(id(&file), before);
}
