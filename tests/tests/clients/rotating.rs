//! Names that stand for other addresses each second.

use exeat_tests::stage::{AGENT, Stage};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const ROUNDS: usize = 10_000;
const THREADS: usize = 8;
const PORT: u16 = 8080;

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: moving.example, ports: [8080] }
      - { host: '*.moving.example', ports: [8080] }
";

/// Answers are kept for no longer than the second that they are given: most of the names move
/// while others are being looked up.
const SECOND: &str = "  min_ttl_seconds: 1\n";

/// Threads that look a name up and connect to one of its addresses. After every fourth
/// round they try an address of the whole network, whether or not any name stands for it.
const WORK: &str = "
import random
NETWORK = ['198.51.100.%d' % n for n in range(1, 255)]
trouble, strays = [], {'in': 0, 'kept out': 0}
guard = threading.Lock()

def knock(address):
    s = socket()
    s.settimeout(PATIENCE)
    # No connection that lingers: the ports would run out.
    s.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack('ii', 1, 0))
    try:
        s.connect((address, PORT))
    finally:
        s.close()

def work(numbers):
    for n in numbers:
        name = 'moving.example' if n % 2 else 'n%d.moving.example' % (n % 32)
        try:
            found = {r[4][0] for r in getaddrinfo(name, PORT, AF_INET, SOCK_STREAM)}
            knock(random.choice(sorted(found)))
        except OSError as e:
            with guard:
                trouble.append([name, repr(e)])
        if n % 4 == 0:
            try:
                knock(random.choice(NETWORK))
                what = 'in'
            except PermissionError:
                what = 'kept out'
            with guard:
                strays[what] += 1

def rounds(begin, count, threads):
    all = [threading.Thread(target=work, args=(range(begin + t, begin + count, threads),))
           for t in range(threads)]
    [t.start() for t in all]
    [t.join() for t in all]
    return trouble
";

/// A CDN that hands out 8 of 200 addresses with a TTL of one second: whatever is looked up can
/// be connected to at once, and no connection is made to an address before it was leased.
#[test]
fn what_is_looked_up_is_reached_and_nothing_else() {
    let stage = Stage::new(POLICY, SECOND).expect("stage");
    let addresses: Vec<String> = (1..=200).map(|n| format!("198.51.100.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for name in ["moving.example", "*.moving.example"] {
        stage.dns.set(name, &addresses, 1);
    }
    stage.dns.show(Some(8));
    let doors = stage.world.doors(PORT).expect("doors");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    agent
        .ask(&format!("PORT = {PORT}\n{WORK}"))
        .expect("functions");
    let part = ROUNDS / 20;
    for begin in (0..ROUNDS).step_by(part) {
        let code = format!("rounds({begin}, {part}, {THREADS})");
        let trouble = agent.value(&code).expect("rounds");
        assert_eq!(trouble, Value::Array(Vec::new()), "of {begin} and more");
    }

    let leased = leased(&stage);
    let opened = doors.opened();
    assert!(opened.len() >= ROUNDS, "{} connections", opened.len());
    for (address, at) in &opened {
        let given = stage.dns.given(*address);
        assert!(
            given.is_some_and(|given| given <= *at) && leased.contains(address),
            "a connection to {address}, given {given:?}, at {at:?}"
        );
    }
    let strays = agent.value("strays").expect("strays");
    assert!(strays["kept out"].as_u64() > Some(0), "{strays}");
    let moved = opened.iter().map(|(a, _)| a).collect::<BTreeSet<_>>().len();
    assert!(moved > 8, "{moved} addresses");
    let asked = stage.dns.asked("moving.example");
    println!("{moved} addresses, moving.example asked {asked} times upstream, strays: {strays}");
}

/// What the agent holds. The grace is ten minutes, so nothing has ended since.
fn leased(stage: &Stage) -> BTreeSet<IpAddr> {
    let output = stage
        .daemon
        .cli(&["leases", "--agent", AGENT, "--output", "json"])
        .output()
        .expect("exeat leases");
    let leases: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let address = |lease: &Value| lease["address"].as_str()?.parse().ok();
    leases.iter().filter_map(address).collect()
}
