//! Questions for names outside the policy, of every type.

use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const QUESTIONS: usize = 10_000;
/// How many before the test waits for their events: fewer than the daemon's queues hold, since
/// what finds one full is counted and not told.
const PART: usize = 1_000;

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [80], types: [TXT, MX, 65400] }
      - { host: '*.wild.example', ports: [80], types: [TXT] }
";

/// Every type that IANA has assigned (2025-11), those of the message itself among them.
const ASSIGNED: &[(u16, u16)] = &[
    (1, 53),
    (55, 70),
    (99, 109),
    (128, 128),
    (249, 264),
    (32768, 32769),
    (65535, 65535),
];

/// `KINDS` are the types, in turn. Fifty questions are under way at once by UDP, two hundred
/// by TCP.
const FLOOD: &str = "
def collect(counts, m, waiting):
    waiting.discard(struct.unpack('>H', m[:2])[0])
    code = str(m[3] & 15)
    counts[code] = counts.get(code, 0) + 1

def flood(begin, count, tcp_too):
    counts, window = {}, 200 if tcp_too else 50
    s = tcp('203.0.113.53', 53) if tcp_too else udp('203.0.113.53', 53)
    for start in range(begin, begin + count, window):
        waiting, out = set(range(start, min(start + window, begin + count))), b''
        for n in sorted(waiting):
            name = 'x%d-%s.%s' % (n, 'tcp' if tcp_too else 'udp', OUTSIDE[n % len(OUTSIDE)])
            q = question(name, KINDS[n % len(KINDS)], n)
            if tcp_too:
                out += struct.pack('>H', len(q)) + q
            else:
                s.send(q)
        if tcp_too:
            s.sendall(out)
        while waiting:
            try:
                m = take(s, struct.unpack('>H', take(s, 2))[0]) if tcp_too else s.recv(4096)
            except timeout:
                counts['lost'] = counts.get('lost', 0) + len(waiting)
                break
            collect(counts, m, waiting)
    return counts
";

/// Far from, beside, above and below what is allowed.
const OUTSIDE: [&str; 4] = [
    "outside.test",
    "allowed.example",
    "notwild.example",
    "alongname.allowed.example.evil.test",
];

fn kinds() -> Vec<u16> {
    let assigned = ASSIGNED.iter().flat_map(|&(first, last)| first..=last);
    let mut kinds: Vec<u16> = assigned.collect();
    let more = QUESTIONS - kinds.len();
    // Spread over all of 1 to 65535.
    let sampled = (0..more).map(|n| 1 + n * 65_534 / (more - 1));
    kinds.extend(sampled.map(|n| u16::try_from(n).expect("a type")));
    kinds
}

#[test]
fn none_of_ten_thousand_of_every_type_leaves_and_each_is_refused_and_told() {
    // No throttle, and a file of all events: each question is told by name.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let config = format!(
        "events: {{ rate: 1000000, burst: 1000000, file: {}, file_max_bytes: 1073741824 }}\n",
        file.path().display()
    );
    let stage = Stage::new(POLICY, &config).expect("stage");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let kinds = kinds();
    assert_eq!(kinds.len(), QUESTIONS);
    let (kinds, outside) = (json!(kinds), json!(OUTSIDE));
    agent
        .ask(&format!("KINDS = {kinds}\nOUTSIDE = {outside}\n{FLOOD}"))
        .expect("functions");
    let before = stage.dns.names();
    let mut asked = 0;
    for transport in ["False", "True"] {
        for begin in (0..QUESTIONS).step_by(PART) {
            let code = format!("flood({begin}, {PART}, {transport})");
            let counts = agent.value(&code).expect("flood");
            assert_eq!(counts, json!({"5": PART}), "tcp: {transport}, {begin}");
            asked += PART;
            wait::until("all of it to be told", wait::patience(), || {
                (lines(file.path()) >= asked).then_some(())
            })
            .unwrap_or_else(|e| panic!("{e:#}: {} of {asked}", lines(file.path())));
        }
    }
    let refused = ["agent=\"worker\"", "verdict=\"deny\"", "rcode=\"refused\""];
    let refused = stage.daemon.metric("exeat_dns_queries_total", &refused);
    assert_eq!(refused.expect("metrics"), 2.0 * QUESTIONS as f64);

    // Nothing of it was asked, of anybody.
    let mut after = stage.dns.names();
    after.retain(|name| !before.contains(name) && name != "allowed.example");
    assert_eq!(after, [""; 0]);
    stage.world.settle(&stage.sniffer).expect("settle");
    let left = stage
        .sniffer
        .count(|p| p.contains(b"-udp") || p.contains(b"-tcp"));
    assert_eq!(left, 0);
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);

    assert_eq!(names_told(file.path()).len(), 2 * QUESTIONS);
    let lost = stage.daemon.metric("exeat_events_lost_total", &[]);
    assert_eq!(lost.expect("metrics"), 0.0);
}

/// Lines that the events file has.
fn lines(path: &Path) -> usize {
    let text = std::fs::read(path).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// The names of refusals that the events file has.
fn names_told(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let events = text.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let name = event["dns"]["name"].as_str()?.to_owned();
        (event["reason"] == "name" && event["agent"] == AGENT).then_some(name)
    });
    events.collect()
}
