use super::*;
use crate::flow::tests::record;
use crate::flow::{FlowRecord, FlowVerdict, Traffic};
use crate::incident::tests::incident;
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;

const ROOMY: Bounds = Bounds {
    max_age: Duration::from_secs(30 * 86_400),
    max_bytes: 64 << 20,
};

fn flow(agent: &str, uid: u32, change: impl FnOnce(&mut FlowRecord)) -> FlowRecord {
    let mut flow = record();
    flow.agent = agent.into();
    flow.time = Timestamp::now();
    if let Some(process) = &mut flow.process {
        process.uid = uid;
    }
    change(&mut flow);
    flow
}

fn ended(flow: &mut FlowRecord) {
    (flow.verdict, flow.reason) = (FlowVerdict::Allow, None);
    flow.traffic = Some(Traffic {
        sent_bytes: 1000,
        sent_packets: 10,
        received_bytes: 2000,
        received_packets: 20,
        lasted_ms: 5,
    });
}

fn open(path: &Path, bounds: Bounds) -> Store {
    Store::start(path, bounds).expect("a thread")
}

/// Offers each, none of which may find the queue full.
fn fill(store: &Store, records: impl IntoIterator<Item = Record>) -> u64 {
    let mut offered = 0;
    for record in records {
        while store.state().queued as usize >= QUEUE / 2 {
            std::thread::yield_now();
        }
        store.offer(&Arc::new(record));
        offered += 1;
    }
    offered
}

/// Writes these and ends.
fn keep(path: &Path, bounds: Bounds, records: impl IntoIterator<Item = Record>) -> SinkState {
    let store = open(path, bounds);
    let offered = fill(&store, records);
    store.close();
    let state = store.state();
    assert_eq!(state.delivered + state.failed + state.dropped, offered);
    state
}

fn flows(records: Vec<FlowRecord>) -> impl Iterator<Item = Record> {
    records.into_iter().map(Record::Flow)
}

fn ask(path: &Path, wanted: &Wanted) -> Page {
    query::history(path, wanted, ANSWER).expect("an answer")
}

fn agents(page: &Page) -> Vec<&str> {
    page.records.iter().map(Record::agent).collect()
}

#[test]
fn records_come_back_as_they_were_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let (a, b) = (flow("a", 1, |_| {}), flow("b", 2, ended));
    keep(&path, ROOMY, flows(vec![a.clone()]));
    keep(
        &path,
        ROOMY,
        [Record::Flow(b.clone()), Record::Incident(incident())],
    );
    let all = Wanted {
        incidents: true,
        ..Wanted::default()
    };
    let page = ask(&path, &all);
    assert_eq!(
        page.records,
        [
            Record::Flow(a),
            Record::Flow(b),
            Record::Incident(incident())
        ]
    );
    assert_eq!(page.next, 0);
    assert_eq!(agents(&ask(&path, &Wanted::default())), ["a", "b"]);
    let mode = |name: &str| {
        let file = dir.path().join(name);
        std::fs::metadata(file).map(|meta| meta.permissions().mode() & 0o777)
    };
    assert_eq!(mode("h.sqlite").expect("the file"), 0o600);
}

#[test]
fn a_question_can_be_narrowed_in_every_way() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let at = |text: &str| text.parse::<Timestamp>().expect("time");
    let now = Timestamp::now();
    let old = now - jiff::SignedDuration::from_hours(5);
    let records = vec![
        flow("a", 1, |f| {
            f.time = old;
            f.names = vec!["api.example.com".into()];
        }),
        flow("b", 2, |f| {
            ended(f);
            f.server_name = Some("Files.Example.COM".into());
        }),
        flow("c", 3, |f| {
            f.verdict = FlowVerdict::WouldDeny;
            f.names = vec!["notexample.com".into()];
            f.dest = Some(
                "192.0.2.77:443"
                    .parse::<std::net::SocketAddr>()
                    .expect("addr")
                    .into(),
            );
        }),
    ];
    keep(&path, ROOMY, flows(records));
    let found = |change: &dyn Fn(&mut Wanted)| {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        agents(&ask(&path, &wanted)).join("")
    };
    assert_eq!(found(&|_| {}), "abc");
    assert_eq!(found(&|w| w.agent = Some("b".into())), "b");
    assert_eq!(found(&|w| w.uid = Some(3)), "c");
    let hour = jiff::SignedDuration::from_hours(1);
    assert_eq!(found(&|w| w.since = Some(now - hour)), "bc");
    assert_eq!(found(&|w| w.until = Some(now - hour)), "a");
    assert_eq!(found(&|w| w.since = Some(at("2999-01-01T00:00:00Z"))), "");
    assert_eq!(found(&|w| w.verdict = Some(FlowVerdict::WouldDeny)), "c");
    let named = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        found(&|w| w.names = names.clone())
    };
    assert_eq!(named(&["*.example.com"]), "ab");
    assert_eq!(named(&["API.example.com."]), "a");
    assert_eq!(named(&["example.com"]), "");
    assert_eq!(named(&["192.0.2.77", "files.example.com"]), "bc");
    assert_eq!(named(&["' OR 1 --", "%"]), "");
    assert_eq!(found(&|w| w.limit = Some(1)), "c");
    assert_eq!(found(&|w| w.limit = Some(0)), "");
}

#[test]
fn pages_hold_everything_once() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let name = |n: u32| format!("agent-{n}");
    keep(
        &path,
        ROOMY,
        flows((0..25).map(|n| flow(&name(n), 1, |_| {})).collect()),
    );
    let mut wanted = Wanted {
        limit: Some(10),
        ..Wanted::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = ask(&path, &wanted);
        let names: Vec<String> = agents(&page).into_iter().map(str::to_owned).collect();
        seen.splice(0..0, names);
        if page.next == 0 {
            break;
        }
        wanted.before = Some(page.next);
    }
    assert_eq!(seen, (0..25).map(name).collect::<Vec<_>>());
}

#[test]
fn a_summary_adds_up_and_counts_each_flow_once() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let host = |f: &mut FlowRecord, name: &str| f.names = vec![name.into()];
    let records = vec![
        flow("a", 1, |f| host(f, "x.example")),
        flow("a", 1, |f| {
            host(f, "x.example");
            ended(f);
        }),
        flow("a", 1, |f| {
            host(f, "y.example");
            ended(f);
        }),
        // Told by its name when it began, and again at its end.
        flow("b", 2, |f| {
            host(f, "y.example");
            (f.verdict, f.reason) = (FlowVerdict::Allow, None);
        }),
        flow("b", 2, |f| {
            host(f, "y.example");
            ended(f);
            f.suppressed = 3;
        }),
    ];
    let last = records.last().expect("one").time;
    keep(&path, ROOMY, flows(records));
    let rows = |by, wanted: &Wanted| query::summary(&path, wanted, by, ANSWER).expect("rows");
    let all = Wanted::default();
    let (hosts, more) = rows(SummaryBy::Destination, &all);
    let brief = |rows: &[SummaryRow]| -> Vec<(String, u64, u64, u64, u64)> {
        rows.iter()
            .map(|r| {
                (
                    r.key.clone(),
                    r.allowed,
                    r.denied,
                    r.sent_bytes,
                    r.suppressed,
                )
            })
            .collect()
    };
    assert!(!more);
    assert_eq!(
        brief(&hosts),
        [
            ("y.example".into(), 2, 0, 2000, 3),
            ("x.example".into(), 1, 1, 1000, 0)
        ]
    );
    assert_eq!(hosts[0].received_packets, 40);
    assert_eq!(hosts[0].last.as_microsecond(), last.as_microsecond());
    let own = Wanted {
        uid: Some(2),
        ..Wanted::default()
    };
    let (rows_of_b, _) = rows(SummaryBy::Agent, &own);
    assert_eq!(brief(&rows_of_b), [("b".into(), 1, 0, 1000, 3)]);
    let (verdicts, _) = rows(SummaryBy::Verdict, &all);
    let words: Vec<_> = verdicts
        .iter()
        .map(|r| (r.key.as_str(), r.detail.is_some()))
        .collect();
    assert_eq!(words, [("allow", false), ("deny", true)]);
    let (hours, _) = rows(SummaryBy::Hour, &all);
    assert!(hours[0].key.ends_with(":00:00Z"), "{hours:?}");
    let one = Wanted {
        limit: Some(1),
        ..Wanted::default()
    };
    let (first, more) = rows(SummaryBy::Destination, &one);
    assert_eq!((brief(&first).len(), more), (1, true));
    assert_eq!(rows(SummaryBy::Process, &all).0.len(), 1);
}

#[test]
fn the_oldest_go_when_the_file_is_full() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let small = Bounds {
        max_bytes: MIN_BYTES,
        ..ROOMY
    };
    let many = (0..6000).map(|n| flow(&format!("agent-{n}"), 1, |_| {}));
    let state = keep(&path, small, flows(many.collect()));
    assert_eq!((state.failed, state.dropped, state.trouble), (0, 0, None));
    let size = std::fs::metadata(&path).expect("size").len();
    assert!(size <= MIN_BYTES, "{size}");
    let wanted = Wanted {
        limit: Some(MAX_LIMIT),
        ..Wanted::default()
    };
    let page = ask(&path, &wanted);
    let left = page.records.len();
    assert!((200..6000).contains(&left), "{left}");
    let newest: Vec<_> = (6000 - left..6000).map(|n| format!("agent-{n}")).collect();
    assert_eq!(agents(&page), newest);
    // A bound that is lowered is kept too, once something is written.
    let log = dir.path().join("h.sqlite-wal");
    let log = std::fs::metadata(log).map_or(0, |meta| meta.len());
    assert!(log <= 8 << 20, "{log}");
}

#[test]
fn what_is_too_old_goes_at_the_start() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let days = |n: i64| Timestamp::now() - jiff::SignedDuration::from_hours(24 * n);
    let old = (0..5000).map(|n| flow("old", 1, |f| f.time = days(31 + n % 5)));
    let mut records: Vec<_> = old.collect();
    records.push(flow("young", 1, |f| f.time = days(29)));
    keep(&path, ROOMY, flows(records));
    keep(&path, ROOMY, []);
    assert_eq!(agents(&ask(&path, &Wanted::default())), ["young"]);
}

#[test]
fn a_broken_file_is_put_aside_and_said() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    std::fs::write(&path, vec![7; 100_000]).expect("garbage");
    let state = keep(&path, ROOMY, flows(vec![flow("a", 1, |_| {})]));
    assert_eq!(state.delivered, 1);
    let trouble = state.trouble.expect("said");
    assert!(trouble.contains("put aside as"), "{trouble}");
    assert!(dir.path().join("h.sqlite.damaged").exists());
    assert_eq!(agents(&ask(&path, &Wanted::default())), ["a"]);
}

#[test]
fn a_file_that_breaks_under_the_daemon_is_put_aside() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    keep(
        &path,
        ROOMY,
        flows((0..3000).map(|_| flow("a", 1, |_| {})).collect()),
    );
    // Pages in the middle, which nothing reads before they are needed.
    let mut bytes = std::fs::read(&path).expect("file");
    let end = bytes.len();
    bytes[8192..end].fill(0xee);
    std::fs::write(&path, bytes).expect("write");
    let state = keep(&path, ROOMY, flows(vec![flow("b", 1, |_| {})]));
    assert_eq!((state.delivered, state.failed), (1, 0));
    assert!(state.trouble.is_some());
    assert_eq!(agents(&ask(&path, &Wanted::default())), ["b"]);
}

#[test]
fn a_file_of_a_later_version_is_put_aside() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let later = Connection::open(&path).expect("open");
    later.pragma_update(None, "user_version", 99).expect("set");
    drop(later);
    let state = keep(&path, ROOMY, flows(vec![flow("a", 1, |_| {})]));
    assert!(state.trouble.expect("said").contains("later Exeat"));
    assert_eq!(agents(&ask(&path, &Wanted::default())), ["a"]);
}

#[test]
fn a_link_or_a_folder_is_never_written_through() {
    let dir = tempfile::tempdir().expect("dir");
    let target = dir.path().join("target");
    std::fs::write(&target, "precious").expect("write");
    let path = dir.path().join("h.sqlite");
    std::os::unix::fs::symlink(&target, &path).expect("link");
    let state = keep(&path, ROOMY, flows(vec![flow("a", 1, |_| {})]));
    assert_eq!((state.failed, state.delivered), (1, 0));
    assert!(state.trouble.expect("said").contains("cannot be kept"));
    assert_eq!(std::fs::read(&target).expect("read"), b"precious");
}

#[test]
fn a_queue_that_is_full_loses_and_counts() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Store::start_with(&dir.path().join("h.sqlite"), ROOMY, 4, ANSWER).expect("start");
    let record = Arc::new(Record::Flow(flow("a", 1, |_| {})));
    for _ in 0..1000 {
        store.offer(&record);
    }
    store.close();
    let state = store.state();
    assert_eq!(state.delivered + state.dropped, 1000);
    assert!(state.dropped > 0, "{state:?}");
    assert_eq!(state.queued, 0);
}

#[tokio::test]
async fn a_slow_question_ends_and_the_writer_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("h.sqlite");
    let store = Store::start_with(&path, ROOMY, QUEUE, Duration::ZERO).expect("start");
    fill(
        &store,
        flows((0..4000).map(|_| flow("a", 1, |_| {})).collect()),
    );
    while store.state().delivered < 4000 {
        tokio::task::yield_now().await;
    }
    let slow = query::history(
        &path,
        &Wanted {
            names: vec!["nowhere.example".into()],
            ..Wanted::default()
        },
        Duration::ZERO,
    );
    assert!(matches!(slow, Err(QueryError::TooSlow(_))), "{slow:?}");
    store.offer(&Arc::new(Record::Flow(flow("b", 1, |_| {}))));
    store.close();
    assert_eq!(store.state().delivered, 4001);
}
