//! The audit log: what is in it, and that it stays whole whatever happens to the daemon, the
//! disk, and the files.

use exeat::audit::{AuditSink, Options, Report, release, verify_folder};
use exeat::incident::{Incident, IncidentKind};
use exeat::ocsf::Device;
use exeat::sink::{Record, Sink};
use exeat_tests::daemon::Daemon;
use exeat_tests::disk::TinyDisk;
use exeat_tests::ns::Ns;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::wait;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn folder(daemon: &Daemon) -> PathBuf {
    daemon.state_dir().join("audit")
}

/// What `exeat audit verify` says, and its code.
fn verify(daemon: &Daemon) -> (Option<i32>, Value) {
    let output = daemon
        .cli(&["audit", "verify", "--output", "json"])
        .output()
        .expect("verify");
    let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), said)
}

/// The events in the log.
fn events(daemon: &Daemon) -> Vec<Value> {
    let output = daemon
        .cli(&["audit", "show", "--output", "json"])
        .output()
        .expect("show");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|record| record.get("event").cloned())
        .collect()
}

fn has(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) {
    let found = wait::until("the event in the log", wait::patience(), || {
        events(daemon).iter().any(&wanted).then_some(())
    });
    if let Err(error) = found {
        panic!("{error:#}: {:#?}", events(daemon));
    }
}

fn of_kind<'a>(kind: &'a str, text: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| event["unmapped"]["kind"] == kind && event["unmapped"].to_string().contains(text)
}

#[test]
fn a_refusal_a_reload_and_a_restart_are_in_the_log_and_an_edit_by_root_is_found() {
    let mut stage = Stage::new(POLICY, "audit: {checkpoint_seconds: 1}\n").expect("stage");
    let code = stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    assert_eq!(code, Some(7));
    has(&stage.daemon, |event| {
        event["class_uid"] == 4001
            && event["dst_endpoint"]["ip"] == "203.0.113.20"
            && event["disposition"] == "Blocked"
            && event["actor"]["app_name"] == AGENT
    });
    let daemon = &mut stage.daemon;
    daemon
        .enforce(&POLICY.replace("mode: enforce", "mode: monitor"))
        .expect("enforce");
    has(
        daemon,
        of_kind("policy_loaded", "worker: enforce to monitor"),
    );
    daemon.write_policy("nothing").expect("write");
    assert!(!daemon.reload().expect("reload").status.success());
    has(daemon, of_kind("policy_refused", "policy.d"));
    daemon.write_policy(POLICY).expect("write");
    assert_eq!(verify(daemon).0, Some(0), "{:#}", verify(daemon).1);

    daemon.restart().expect("restart");
    has(daemon, of_kind("daemon_stopped", ""));
    has(daemon, of_kind("daemon_started", "\"last_stop\":\"clean\""));
    daemon.kill9().expect("kill");
    daemon.restart().expect("restart");
    has(
        daemon,
        of_kind("daemon_started", "\"last_stop\":\"unclean\""),
    );
    let records = daemon
        .metric("exeat_audit_records_total", &[])
        .expect("metric");
    assert!(records >= 2.0, "{records}");
    let failures = daemon.metric("exeat_audit_write_failures_total", &[]);
    assert_eq!(failures.expect("metric"), 0.0);
    daemon.stop().expect("stop");
    let (code, report) = verify(daemon);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["sound"], true);

    release(&folder(daemon));
    let file = folder(daemon).join("audit-0000000001.jsonl");
    let text = std::fs::read_to_string(&file).expect("log");
    let edited = text.replacen("203.0.113.20", "203.0.113.10", 1);
    assert_ne!(text, edited);
    std::fs::write(&file, edited).expect("edit");
    let (code, report) = verify(daemon);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["faults"][0]["kind"], "altered", "{report:#}");
    assert!(report["faults"][0]["line"].as_u64().is_some());
}

#[test]
fn a_daemon_that_is_killed_while_it_writes_leaves_a_chain() {
    let mut stage = Stage::new(POLICY, "audit: {checkpoint_seconds: 1}\n").expect("stage");
    for round in 0..4_u64 {
        let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
        // Refusals one after the other, and the end at another place each time.
        for port in 0..40 * (round + 1) {
            let connect = format!("tcp('203.0.113.20', {})", 2000 + port);
            agent.errno(&connect).expect("refused");
        }
        stage.daemon.kill9().expect("kill");
        let (code, report) = verify(&stage.daemon);
        assert_eq!(code, Some(0), "round {round}: {report:#}");
        stage.daemon.restart().expect("restart");
    }
    stage.daemon.stop().expect("stop");
    let (code, report) = verify(&stage.daemon);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["lost"], 0, "{report:#}");
}

fn options(folder: PathBuf) -> Options {
    Options {
        folder,
        max_bytes: 64 << 20,
        keep: 2,
        checkpoint: Duration::from_secs(60),
        allowed: false,
        credentials: None,
    }
}

fn record(n: u64) -> Arc<Record> {
    let mut incident = Incident::new(IncidentKind::Asked, AGENT, "a question");
    incident.seq = n;
    Arc::new(Record::Incident(incident))
}

#[test]
fn on_a_full_disk_losses_are_exact_and_the_chain_stays() {
    let ns = Ns::new().expect("namespaces");
    let dir = tempfile::tempdir().expect("dir");
    let disk = TinyDisk::mount(&ns, dir.path(), 8 << 20).expect("disk");
    let (lost, report) = ns
        .run_inside(|| {
            let folder = dir.path().join("audit");
            let sink = AuditSink::start(options(folder.clone()), Device::here())?;
            let mut offered = 0;
            let settle = |sink: &AuditSink, offered: u64| {
                wait::until("the writer", wait::patience(), || {
                    let state = sink.state();
                    (state.delivered + state.failed + state.dropped == offered).then_some(state)
                })
            };
            // More than fits, then room, and the same again.
            for _ in 0..3 {
                for _ in 0..600 {
                    offered += 1;
                    sink.offer(&record(offered));
                }
                settle(&sink, offered)?;
                disk.fill()?;
                for _ in 0..50 {
                    offered += 1;
                    sink.offer(&record(offered));
                }
                let state = settle(&sink, offered)?;
                anyhow::ensure!(state.failed > 0, "nothing was lost: {state:?}");
                anyhow::ensure!(state.trouble.is_some(), "no trouble: {state:?}");
                std::fs::remove_file(dir.path().join("filler"))?;
            }
            sink.close();
            let state = sink.state();
            let report = verify_folder(&folder, &[])?;
            anyhow::ensure!(state.delivered + state.failed + state.dropped == offered);
            Ok((state.failed + state.dropped, report))
        })
        .expect("run");
    assert!(report.sound, "{report:#?}");
    assert_eq!(report.lost, lost, "{report:#?}");
}

/// What `5,000 records a second` asks of the log, with the counters that say so. A debug build
/// on a busy machine is slower than a laptop: the rate is printed, and the loss is asserted at
/// what this build takes.
#[test]
fn what_the_queue_takes_is_written_without_loss() {
    let dir = tempfile::tempdir().expect("dir");
    let folder = dir.path().join("audit");
    let sink = AuditSink::start(options(folder.clone()), Device::here()).expect("sink");
    let count = 5_000;
    let start = Instant::now();
    for n in 0..count {
        sink.offer(&record(n));
    }
    sink.close();
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} records a second");
    let state = sink.state();
    assert_eq!(
        (state.delivered, state.dropped, state.failed),
        (count, 0, 0)
    );
    let report: Report = verify_folder(&folder, &[]).expect("report");
    assert!(report.sound && report.events == count, "{report:#?}");
    release(&folder);
}
