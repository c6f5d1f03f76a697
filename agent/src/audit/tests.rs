use std::fs;

use serde_json::json;

use super::log::{Log, Settings};
use super::*;
use crate::incident::{Incident, IncidentKind};
use crate::ocsf;

pub(crate) const SETTINGS: Settings = Settings {
    max_bytes: 8_000,
    keep: 100,
};

/// A folder that goes away, though its files may only be appended to.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("dir"))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        release(self.0.path());
    }
}

fn event(n: u64) -> serde_json::Value {
    let mut incident = Incident::new(IncidentKind::Detected, "build-bot", format!("event {n}"));
    incident.seq = n;
    ocsf::event(
        &Record::Incident(incident.with("kind", "\",\"kind\":\"event\",\"prev\":\"")),
        &ocsf::tests::device(),
    )
}

pub(crate) fn open(folder: &std::path::Path, settings: Settings) -> Log {
    let key = Key::open(folder, None).expect("key");
    Log::open(folder, settings, key, "boot").expect("log")
}

/// A log of `count` events in several files, closed as it should be.
pub(crate) fn written(folder: &std::path::Path, count: u64, settings: Settings) {
    written_of(folder, count, settings, event);
}

/// The same of other events.
pub(crate) fn written_of(
    folder: &std::path::Path,
    count: u64,
    settings: Settings,
    event: fn(u64) -> serde_json::Value,
) {
    let mut log = open(folder, settings);
    for n in 0..count {
        log.events(vec![event(n)]).expect("written");
        if n % 7 == 6 {
            log.checkpoint("boot", false).expect("checkpoint");
        }
        log.rotate("boot").expect("rotated");
    }
    log.checkpoint("boot", true).expect("closed");
}

pub(crate) fn check(folder: &std::path::Path) -> Report {
    verify_folder(folder, &[]).expect("verified")
}

fn kinds(report: &Report) -> Vec<FaultKind> {
    report.faults.iter().map(|fault| fault.kind).collect()
}

#[test]
fn a_log_over_several_files_and_starts_is_sound() {
    let dir = Scratch::new();
    written(dir.path(), 20, SETTINGS);
    written(dir.path(), 20, SETTINGS);
    let report = check(dir.path());
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.events, report.first_seq), (40, 1));
    assert_eq!(report.records, report.last_seq);
    assert!(report.files > 4 && report.signed > 10, "{report:?}");
    let key = Key::open(dir.path(), None).expect("key").public();
    assert!(verify_folder(dir.path(), &[key]).expect("report").sound);
    let files = list(dir.path()).expect("files");
    let some: Vec<_> = files[1..3].iter().map(|file| file.path.clone()).collect();
    assert!(verify_files(&some, &[key]).expect("report").sound);
    // Not with another key, nor with none.
    let other = Key::parse(Key::generate().expect("key").as_bytes()).expect("key");
    let report = verify_folder(dir.path(), &[other.public()]).expect("report");
    assert!(kinds(&report).contains(&FaultKind::UnknownKey));
    assert!(matches!(verify_files(&some, &[]), Err(VerifyError::NoKey)));
}

#[test]
fn each_line_is_canonical_and_short() {
    let dir = Scratch::new();
    written(dir.path(), 3, SETTINGS);
    for file in list(dir.path()).expect("files") {
        for line in Lines::open(&file.path).expect("file") {
            let line = line.expect("line");
            assert!(line.len() < 8192);
            let value: serde_json::Value = serde_json::from_slice(&line).expect("json");
            assert_eq!(
                serde_json_canonicalizer::to_vec(&value).expect("json"),
                line
            );
        }
    }
}

#[test]
fn what_is_deleted_for_its_age_is_anchored_and_what_is_cut_is_not() {
    let dir = Scratch::new();
    let settings = Settings {
        keep: 3,
        ..SETTINGS
    };
    written(dir.path(), 60, settings);
    let files = list(dir.path()).expect("files");
    assert_eq!(files.len(), 3);
    assert!(files[0].number > 3);
    let report = check(dir.path());
    assert!(report.sound, "{report:#?}");
    assert!(report.first_seq > 1);
    // One more than the daemon deleted.
    super::files::append_only(&fs::File::open(&files[0].path).expect("file"), false);
    fs::remove_file(&files[0].path).expect("removed");
    let report = check(dir.path());
    assert_eq!(kinds(&report), [FaultKind::MissingFile], "{report:#?}");
    assert_eq!(report.faults[0].file, files[1].name());
}

#[test]
fn whole_records_cut_off_the_end_are_missed() {
    let dir = Scratch::new();
    written(
        dir.path(),
        5,
        Settings {
            max_bytes: 1 << 20,
            keep: 2,
        },
    );
    let file = &list(dir.path()).expect("files")[0];
    let text = fs::read_to_string(&file.path).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let kept = lines.len() - 3;
    rewrite(&file.path, (lines[..kept].join("\n") + "\n").as_bytes());
    let report = check(dir.path());
    assert_eq!(kinds(&report), [FaultKind::Truncated], "{report:#?}");
    assert!(
        report.faults[0]
            .message
            .contains(&format!("{} to {}", kept + 1, lines.len()))
    );
    // And still when the daemon went on.
    drop(open(dir.path(), SETTINGS));
    let report = check(dir.path());
    assert_eq!(kinds(&report), [FaultKind::Missing], "{report:#?}");
    assert_eq!(report.faults[0].line, Some(kept as u64 + 1));
    // And when head went too.
    rewrite(&file.path, (lines[..kept].join("\n") + "\n").as_bytes());
    fs::remove_file(dir.path().join("head")).expect("removed");
    assert_eq!(kinds(&check(dir.path())), [FaultKind::Head]);
    drop(open(dir.path(), SETTINGS));
    assert_eq!(kinds(&check(dir.path())), [FaultKind::Head]);
}

pub(crate) fn rewrite(path: &std::path::Path, bytes: &[u8]) {
    if let Ok(file) = fs::File::open(path) {
        super::files::append_only(&file, false);
    }
    fs::write(path, bytes).expect("rewritten");
}

#[test]
fn a_torn_line_is_put_aside_and_marked() {
    let dir = Scratch::new();
    let mut log = open(dir.path(), SETTINGS);
    log.events(vec![event(1), event(2)]).expect("written");
    drop(log);
    let file = list(dir.path()).expect("files").remove(0);
    let bytes = fs::read(&file.path).expect("bytes");
    rewrite(&file.path, &bytes[..bytes.len() - 9]);
    let report = check(dir.path());
    assert!(report.sound && report.events == 1, "{report:#?}");
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("ends inside a line"))
    );
    written(dir.path(), 1, SETTINGS);
    let report = check(dir.path());
    assert!(report.sound && report.events == 2, "{report:#?}");
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("half written"))
    );
    let aside = file.path.with_file_name(format!("{}.torn", file.name()));
    let torn = fs::read(aside).expect("aside");
    assert!(bytes.ends_with(&[&torn[..], &bytes[bytes.len() - 9..]].concat()));
}

#[test]
fn a_file_that_was_begun_and_no_more_is_used() {
    let settings = Settings {
        max_bytes: 1 << 20,
        keep: 2,
    };
    for begun in ["", "{\"event\":{\"act"] {
        let dir = Scratch::new();
        written(dir.path(), 3, settings);
        rewrite(&AuditFile::of(dir.path(), 2).path, begun.as_bytes());
        written(dir.path(), 1, settings);
        let report = check(dir.path());
        assert!(report.sound, "{begun}: {report:#?}");
        assert_eq!(report.files, 2);
    }
}

#[test]
fn losses_are_counted_and_in_the_log() {
    let dir = Scratch::new();
    let mut log = open(dir.path(), SETTINGS);
    log.lost(3, 4).expect("written");
    log.checkpoint("boot", true).expect("closed");
    let report = check(dir.path());
    assert_eq!((report.lost, report.sound), (7, true));
}

#[test]
fn a_new_key_goes_on_where_the_old_one_ended() {
    let dir = Scratch::new();
    written(dir.path(), 3, SETTINGS);
    let old = Key::open(dir.path(), None).expect("key").public();
    let credentials = tempfile::tempdir().expect("dir");
    let pem = Key::generate().expect("key");
    fs::write(credentials.path().join(CREDENTIAL), pem).expect("written");
    let key = Key::open(dir.path(), Some(credentials.path())).expect("key");
    let new = key.public();
    assert_ne!(old, new);
    let mut log = Log::open(dir.path(), SETTINGS, key, "boot").expect("log");
    log.checkpoint("boot", true).expect("closed");
    assert!(check(dir.path()).sound);
    assert!(
        verify_folder(dir.path(), &[old, new])
            .expect("report")
            .sound
    );
    assert!(!verify_folder(dir.path(), &[new]).expect("report").sound);
}

#[test]
fn a_key_that_openssl_made_is_taken() {
    let pem = "-----BEGIN PRIVATE KEY-----\n\
               MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
               -----END PRIVATE KEY-----\n";
    // RFC 8410 section 10.3 and 10.1.
    let key = Key::parse(pem.as_bytes()).expect("key");
    let public = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    assert_eq!(key.public().to_string(), public);
    assert_eq!(public.parse(), Ok(key.public()));
    assert!(Key::parse(b"nothing").is_none());
    assert!("ed25519:AAAA".parse::<PublicKey>().is_err());
}

#[test]
fn the_sink_takes_what_is_of_note_and_closes_the_log() {
    let dir = Scratch::new();
    let options = Options {
        folder: dir.path().join("audit"),
        max_bytes: 1 << 20,
        keep: 2,
        checkpoint: Duration::from_secs(60),
        allowed: false,
        credentials: None,
    };
    let sink = AuditSink::start(options.clone(), ocsf::tests::device()).expect("sink");
    let mut allowed = crate::flow::tests::record();
    allowed.verdict = FlowVerdict::Allow;
    let incident = Incident::new(IncidentKind::Granted, "a", "m");
    for record in [
        Record::Flow(crate::flow::tests::record()),
        Record::Flow(allowed),
        Record::Incident(incident),
    ] {
        sink.offer(&Arc::new(record));
    }
    sink.close();
    let state = sink.state();
    assert_eq!((state.delivered, state.queued, state.dropped), (2, 0, 0));
    assert_eq!(state.trouble, None);
    let report = check(&options.folder);
    assert!(report.sound && report.events == 2, "{report:#?}");
}

#[test]
fn without_a_place_to_write_it_counts_and_says_so_when_there_is_one() {
    let dir = Scratch::new();
    let folder = dir.path().join("audit");
    fs::write(&folder, "in the way").expect("written");
    let options = Options {
        folder: folder.clone(),
        max_bytes: 1 << 20,
        keep: 2,
        checkpoint: Duration::from_secs(60),
        allowed: false,
        credentials: None,
    };
    let sink = AuditSink::start(options, ocsf::tests::device()).expect("sink");
    let record = Arc::new(Record::Flow(crate::flow::tests::record()));
    for _ in 0..5 {
        sink.offer(&record);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while sink.state().failed < 5 {
        assert!(std::time::Instant::now() < deadline, "{:?}", sink.state());
        std::thread::yield_now();
    }
    assert!(sink.state().trouble.is_some());
    fs::remove_file(&folder).expect("removed");
    sink.offer(&record);
    sink.close();
    assert_eq!((sink.state().delivered, sink.state().failed), (1, 5));
    let report = check(&folder);
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.lost, report.events), (5, 1));
}

#[test]
fn the_queue_overflows_exactly() {
    let dir = Scratch::new();
    let options = Options {
        folder: dir.path().join("audit"),
        max_bytes: 256 << 20,
        keep: 2,
        checkpoint: Duration::from_secs(60),
        allowed: false,
        credentials: None,
    };
    let sink = AuditSink::start_with(options.clone(), ocsf::tests::device(), 32).expect("sink");
    let record = Arc::new(Record::Incident(Incident::new(
        IncidentKind::Asked,
        "a",
        "m",
    )));
    let offered = 500_u64;
    for _ in 0..offered {
        sink.offer(&record);
    }
    sink.close();
    let state = sink.state();
    assert_eq!(state.delivered + state.dropped, offered);
    assert!(state.dropped > 0, "{state:?}");
    let report = check(&options.folder);
    assert!(report.sound, "{report:#?}");
    assert_eq!(
        (report.events, report.lost),
        (state.delivered, state.dropped)
    );
}

#[test]
fn a_change_while_it_is_open_is_noticed() {
    let dir = Scratch::new();
    let mut log = open(dir.path(), SETTINGS);
    log.events(vec![event(1)]).expect("written");
    assert_eq!(log.disturbed(), None);
    let file = list(dir.path()).expect("files").remove(0);
    rewrite(&file.path, b"");
    assert!(log.disturbed().expect("noticed").contains("bytes"));
    fs::remove_file(&file.path).expect("removed");
    assert!(log.disturbed().expect("noticed").contains("not there"));
}

#[test]
fn a_report_reads_as_json() {
    let dir = Scratch::new();
    written(dir.path(), 2, SETTINGS);
    fs::remove_file(dir.path().join("head")).expect("removed");
    let report = serde_json::to_value(check(dir.path())).expect("json");
    assert_eq!(report["sound"], json!(false));
    assert_eq!(report["faults"][0]["kind"], json!("head"));
}
