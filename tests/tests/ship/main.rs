//! Records to receivers, live: journald and rsyslog are the real programs; Splunk,
//! Elasticsearch and the OpenTelemetry collector are doubles that read strictly what those
//! document, because no registry that the set-up uses carries them.

mod doubles;
mod full;
mod journald;
mod outage;
mod rsyslog;

use exeat_tests::daemon::Daemon;
use exeat_tests::puppet::Puppet;
use exeat_tests::wait;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// One agent that may reach one address, and nothing else.
const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { cidr: 203.0.113.10/32, ports: [443] }
";
const AGENT: &str = "worker";

/// The throttle of events stands out of the way.
const EVENTS: &str = "events: {rate: 1000000, burst: 10000000, keep: 100000}\n";

/// Has the agent refused `count` datagrams.
fn refuse(agent: &mut Puppet, count: usize) {
    let code = format!(
        "
refused = 0
s = udp()
for n in range({count}):
    try:
        s.sendto(b'x', ('203.0.113.20', 1000 + n % 60000))
    except PermissionError:
        refused += 1
refused
"
    );
    let refused = agent.value(&code).expect("refusals");
    assert_eq!(refused, count, "the policy has no such address");
}

/// A place where records go, as status shows it.
fn sink(daemon: &Daemon, name: &str) -> Option<Value> {
    let status = daemon.status().ok()?;
    let sinks = status["sinks"].as_array()?;
    sinks.iter().find(|sink| sink["name"] == name).cloned()
}

/// Waits until what status shows of a receiver is as wanted.
fn sink_until(daemon: &Daemon, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait::until(&format!("{name} in status"), wait::patience() * 2, || {
        last = sink(daemon, name)?;
        wanted(&last).then(|| last.clone())
    })
    .unwrap_or_else(|error| panic!("{error}: {last}\n{}", daemon.log()))
}

/// Records in a receiver's queue on the disk, past the daemon: what is in its memory ends with
/// it.
fn rows(daemon: &Daemon, name: &str) -> Option<u64> {
    let path = daemon.state_dir().join("ship").join(name);
    let db = rusqlite::Connection::open(path.join("queue.sqlite")).ok()?;
    let count = "SELECT COUNT(*) FROM waiting";
    let found: i64 = db.query_row(count, [], |row| row.get(0)).ok()?;
    u64::try_from(found).ok()
}

/// Waits until this many are there.
fn on_disk(daemon: &Daemon, name: &str, wanted: u64) {
    let mut found = None;
    wait::until("records in the queue", wait::patience() * 2, || {
        found = rows(daemon, name);
        (found >= Some(wanted)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {found:?} of {wanted}"));
}

/// Ids of JSON lines, in order.
fn ids(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|record| id_of(&record))
        .collect()
}

/// Where OCSF has it.
fn id_of(record: &Value) -> String {
    let id = record["metadata"]["uid"].as_str();
    id.unwrap_or_else(|| panic!("no id: {record}")).to_owned()
}

fn set(ids: &[String]) -> BTreeSet<String> {
    ids.iter().cloned().collect()
}

/// A file that nobody but root can read.
fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    path
}
