//! Queues, threads and receivers together.

use super::*;
use crate::flow::tests::record;
use std::time::Instant;

fn config(text: &str) -> ReceiverConfig {
    config::tests::receiver(text)
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn flow(seq: u64) -> Arc<Record> {
    let mut flow = record();
    flow.seq = seq;
    Arc::new(Record::Flow(flow))
}

fn seqs(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("json");
            value["seq"].as_u64().expect("seq")
        })
        .collect()
}

#[test]
fn records_pass_the_queue_in_order_and_are_counted() {
    let dir = tempfile::tempdir().expect("dir");
    let to = dir.path().join("out.json");
    let text = format!("{{name: a, to: 'file:{}', format: native}}", to.display());
    let sinks = start(&[config(&text)], dir.path());
    for seq in 1..=1200 {
        sinks[0].offer(&flow(seq));
    }
    let mut allowed = record();
    allowed.verdict = crate::flow::FlowVerdict::Allow;
    sinks[0].offer(&Arc::new(Record::Flow(allowed)));
    wait("all to arrive", || sinks[0].state().delivered == 1200);
    let state = sinks[0].state();
    assert_eq!((state.queued, state.dropped, state.failed), (0, 0, 0));
    assert!(state.last_success.is_some() && state.trouble.is_none());
    sinks[0].close();
    sinks[0].close();
    assert_eq!(seqs(&to), (1..=1200).collect::<Vec<_>>());
    sinks[0].offer(&flow(9));
    assert_eq!(sinks[0].state().dropped, 1, "nobody takes it any more");
}

#[test]
fn what_a_receiver_does_not_take_waits_over_a_restart_and_stops_no_other() {
    let dir = tempfile::tempdir().expect("dir");
    let (good, bad) = (
        dir.path().join("good.json"),
        dir.path().join("not/yet.json"),
    );
    let receivers = [("good", &good), ("bad", &bad)].map(|(name, path)| {
        config(&format!(
            "{{name: {name}, to: 'file:{}', format: native}}",
            path.display()
        ))
    });
    let sinks = start(&receivers, dir.path());
    for seq in 1..=50 {
        for sink in &sinks {
            sink.offer(&flow(seq));
        }
    }
    wait("the good one", || sinks[0].state().delivered == 50);
    wait("the bad one to say so", || {
        sinks[1].state().trouble.is_some()
    });
    wait("the bad one's queue", || sinks[1].state().queued == 50);
    let trouble = sinks[1].state().trouble.expect("trouble");
    assert!(trouble.contains("yet.json"), "{trouble}");
    let began = Instant::now();
    for sink in &sinks {
        sink.close();
    }
    assert!(began.elapsed() < DRAIN + WRITERS_END * 2);
    std::fs::create_dir(dir.path().join("not")).expect("mkdir");
    let sinks = start(&receivers, dir.path());
    wait("those of before", || sinks[1].state().delivered == 50);
    sinks[0].close();
    assert_eq!(seqs(&bad), (1..=50).collect::<Vec<_>>());
    assert_eq!(seqs(&good).len(), 50);
}

#[test]
fn a_receiver_without_a_disk_says_so_and_counts() {
    let sinks = start(
        &[config("{name: a, to: 'file:/f'}")],
        Path::new("/proc/exeat"),
    );
    wait("trouble", || sinks[0].state().trouble.is_some());
    for seq in 0..(MEMORY as u64 + 700) {
        sinks[0].offer(&flow(seq));
    }
    let state = sinks[0].state();
    assert!(state.dropped >= 200, "{state:?}");
    assert!(state.trouble.expect("trouble").contains("/proc/exeat"));
    assert_eq!(state.queued + state.dropped, MEMORY as u64 + 700);
    sinks[0].close();
}

#[test]
fn with_a_token_there_are_no_core_dumps() {
    let dir = tempfile::tempdir().expect("dir");
    let text = "{name: a, to: 'splunk+https://127.0.0.1:1', token_file: /nowhere/token}";
    let sinks = start(&[config(text)], dir.path());
    assert!(!nix::sys::prctl::get_dumpable().expect("prctl"));
    sinks[0].offer(&flow(1));
    wait("trouble", || sinks[0].state().trouble.is_some());
    let trouble = sinks[0].state().trouble.expect("trouble");
    assert!(trouble.contains("the token in /nowhere/token"), "{trouble}");
    sinks[0].close();
    assert_eq!(sinks[0].state().queued, 1);
}
