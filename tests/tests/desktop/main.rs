//! A laptop's life: its clock is set and it sleeps, its network is another one, names come from
//! a hotspot, and for a short time somebody opens that one's portal.

mod clocks;
mod networks;
mod portal;

use exeat_tests::dns::DnsHost;
use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, ALLOWED, Stage};
use exeat_tests::wait;
use serde_json::Value;

/// A port of its own, and no name in what is sent: this is about where packets may go.
const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [7000] }
";

/// Where `allowed.example` is on the first network, and on others.
const HERE: &str = "203.0.113.11";
const THERE: &str = "203.0.113.77";
/// Where nobody may go.
const NOWHERE: &str = "203.0.113.66";
/// Leases end at most three seconds after the last answer with them.
const SHORT: &str = "  min_ttl_seconds: 1\n  grace_seconds: 2\n";

fn connect(agent: &mut Puppet, address: &str, port: u16) -> i32 {
    let code = format!("tcp({address:?}, {port}).close()");
    agent.errno(&code).expect("connect")
}

/// Until a connection ends as it should.
fn until_connect(agent: &mut Puppet, address: &str, port: u16, wanted: i32) {
    let mut last = 0;
    wait::until("a connection to be as it should", wait::patience(), || {
        last = connect(agent, address, port);
        (last == wanted).then_some(())
    })
    .unwrap_or_else(|error| panic!("{address}: {error:#}: {last}"));
}

/// The incidents of a kind so far.
fn incidents(stage: &Stage, kind: &str) -> Vec<Value> {
    let all = stage.daemon.events().expect("events");
    all.into_iter()
        .filter(|event| event["kind"] == kind)
        .collect()
}

/// The next incident of a kind behind the first `seen`.
fn incident(stage: &Stage, kind: &str, seen: usize) -> Value {
    wait::until(kind, wait::patience(), || {
        incidents(stage, kind).into_iter().nth(seen)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", stage.daemon.log()))
}

/// The leases of the agent.
fn leases(stage: &Stage) -> Vec<Value> {
    let output = stage
        .daemon
        .cli(&["leases", "--agent", AGENT, "--output", "json"])
        .output()
        .expect("exeat leases");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// From now on `allowed.example` is at [`HERE`], for seconds only: what it stood for before had
/// a minute to live.
fn here_for_seconds(stage: &Stage) {
    stage.dns.set(ALLOWED, &[HERE], 1);
    stage.daemon.enforce(POLICY).expect("reload");
}

/// Until the agent holds an address, or does not any more.
fn until_leased(stage: &Stage, address: &str, wanted: bool) {
    wait::until("the leases to change", wait::patience(), || {
        let held = leases(stage).iter().any(|one| one["address"] == address);
        (held == wanted).then_some(())
    })
    .unwrap_or_else(|error| panic!("{address} {wanted}: {error:#}: {:?}", leases(stage)));
}

/// Another name server of the internet.
fn name_server(stage: &Stage, address: &str) -> DnsHost {
    let address = address.parse().expect("an address");
    DnsHost::start(&stage.world.internet, address).expect("a name server")
}

/// What the laptop's `/etc/resolv.conf` says from now on.
fn resolv_conf(stage: &Stage, server: &str) {
    let path = stage.world.folder().join("resolv.conf");
    // In place: it is bound over the laptop's.
    std::fs::write(path, format!("nameserver {server}\n")).expect("resolv.conf");
}

/// Starts the daemon anew without name servers of its own: it asks those of the network.
fn ask_the_systems_servers(stage: &mut Stage) {
    let path = stage.daemon.config();
    let text = std::fs::read_to_string(&path).expect("config");
    let without: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("upstreams:"))
        .collect();
    std::fs::write(path, without.join("\n") + "\n").expect("config");
    stage.daemon.restart().expect("restart");
}
