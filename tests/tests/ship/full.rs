//! A queue that is full.

use super::{AGENT, EVENTS, POLICY, ids, refuse, rows, set, sink_until};
use exeat_tests::daemon::Daemon;
use exeat_tests::wait;
use exeat_tests::world::World;

const ALL: &str = "only: [deny, would_deny, allow, incidents]";

#[test]
fn a_full_queue_loses_the_oldest_and_counts_every_one() {
    let world = World::new().expect("world");
    let folder = world.folder().join("not-yet");
    let (lines, late) = (world.folder().join("lines.json"), folder.join("late.json"));
    let config = format!(
        "{EVENTS}ship:
  - {{name: lines, to: 'file:{}', {ALL}}}
  - {{name: late, to: 'file:{}', {ALL}, queue_bytes: 1048576}}
",
        lines.display(),
        late.display(),
    );
    let mut daemon = Daemon::start_with(&world, POLICY, &config).expect("daemon");
    let mut agent = daemon.puppet(AGENT).expect("puppet");
    refuse(&mut agent, 1500);
    let whole = sink_until(&daemon, "lines", |sink| {
        sink["delivered"].as_u64() >= Some(1500) && sink["queued"] == 0
    });
    let number = |sink: &serde_json::Value, key: &str| sink[key].as_u64().expect("number");
    let published = number(&whole, "delivered");
    let late_state = sink_until(&daemon, "late", |sink| {
        rows(&daemon, "late") == Some(number(sink, "queued"))
    });
    assert_eq!(
        number(&late_state, "queued") + number(&late_state, "dropped"),
        published,
        "{late_state}"
    );
    let dropped = number(&late_state, "dropped");
    assert!(dropped > 100, "{late_state}");
    let status = daemon.status().expect("status");
    let reasons = status["health"]["reasons"].to_string();
    assert!(
        reasons.contains(&format!("{dropped} records for late found no room")),
        "{reasons}"
    );
    daemon.kill9().expect("kill");
    std::fs::create_dir(&folder).expect("mkdir");
    daemon.restart().expect("restart");
    sink_until(&daemon, "late", |sink| {
        number(sink, "delivered") >= published - dropped && number(sink, "queued") == 0
    });
    // The youngest, all of them, in order, each once. What was told of the losses themselves
    // came behind them, and pushed as many out again.
    let late = ids(&late);
    assert!(late.len() as u64 >= published - dropped, "{}", late.len());
    let (all, end) = wait::until("the last one at both", wait::patience(), || {
        let all = ids(&lines);
        let last = all.iter().rposition(|id| Some(id) == late.last())?;
        Some((all, last + 1))
    })
    .expect("the same records at both");
    let first = all.iter().position(|id| id == &late[0]);
    let there = set(&late);
    let span = &all[first.expect("in both")..end];
    let both: Vec<_> = span.iter().filter(|id| there.contains(*id)).collect();
    assert!(both.into_iter().eq(&late), "another order");
    // What is being sent stays, so that what pushes in then takes the place of the next. Counted
    // anew since the restart.
    let state = sink_until(&daemon, "late", |_| true);
    let more = number(&state, "dropped");
    let gaps = (span.len() - late.len()) as u64;
    assert!(gaps <= more, "{gaps} gaps, {more} pushed out since");
    assert_eq!(set(&all).len(), all.len());
}
