use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::dns::clock::Clock;
use crate::leases::{FailKind, LeaseConfig, Name};

/// Answers after `takes`, as `answer` says, and notes when it was asked for what.
struct Scripted {
    answer: fn(&str) -> Found,
    takes: Duration,
    asked: Mutex<Vec<(Duration, Name)>>,
    begun: Instant,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    gate: Semaphore,
}

impl Lookup for Scripted {
    async fn lookup(&self, name: Name) -> Resolution {
        self.asked
            .lock()
            .expect("lock")
            .push((self.begun.elapsed(), name.clone()));
        let now = self.at_once.fetch_add(1, SeqCst) + 1;
        self.most_at_once.fetch_max(now, SeqCst);
        tokio::time::sleep(self.takes).await;
        let permit = self.gate.acquire().await.expect("open");
        drop(permit);
        self.at_once.fetch_sub(1, SeqCst);
        let result = (self.answer)(&name);
        Resolution {
            name,
            result,
            upstream: "test".to_owned(),
            elapsed: self.takes,
        }
    }
}

fn set(list: &[&str]) -> Arc<BTreeSet<Name>> {
    Arc::new(list.iter().map(|s| Name::from(*s)).collect())
}

struct Running {
    script: Arc<Scripted>,
    names: watch::Sender<Arc<BTreeSet<Name>>>,
    results: mpsc::Receiver<Resolution>,
    handle: RefreshHandle,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn start(
    names: Arc<BTreeSet<Name>>,
    permits: usize,
    takes: Duration,
    answer: fn(&str) -> Found,
) -> Running {
    start_at(names, permits, takes, answer, |clock| clock)
}

fn start_at(
    names: Arc<BTreeSet<Name>>,
    permits: usize,
    takes: Duration,
    answer: fn(&str) -> Found,
    clock: impl FnOnce(Clock) -> Clock,
) -> Running {
    let begun = Instant::now();
    let script = Arc::new(Scripted {
        answer,
        takes,
        asked: Mutex::default(),
        begun,
        at_once: AtomicUsize::new(0),
        most_at_once: AtomicUsize::new(0),
        gate: Semaphore::new(permits),
    });
    let (names, receiver) = watch::channel(names);
    let (sender, results) = mpsc::channel(1024);
    let pace = Pace::new(&ResolverConfig::default(), &LeaseConfig::default());
    let clock = clock(Arc::new(move || begun.elapsed()));
    let (refresher, handle) = Refresher::new(script.clone(), pace, clock, receiver, sender);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(refresher.run(cancel.clone()));
    Running {
        script,
        names,
        results,
        handle,
        cancel,
        task,
    }
}

impl Running {
    async fn next(&mut self) -> Resolution {
        self.results.recv().await.expect("a result")
    }

    fn asked(&self) -> Vec<(Duration, String)> {
        let asked = self.script.asked.lock().expect("lock");
        asked
            .iter()
            .map(|(at, name)| (*at, name.to_string()))
            .collect()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic");
    }
}

fn one(ttl: u32) -> Found {
    Ok(vec![(IpAddr::from([192, 0, 2, 1]), ttl)])
}

const FREE: usize = Semaphore::MAX_PERMITS;

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_at_once_and_again_before_its_ttl_ends() {
    let mut running = start(set(&["a.example"]), FREE, Duration::ZERO, |_| one(100));
    for _ in 0..20 {
        assert_eq!(running.next().await.result, one(100));
    }
    let asked = running.asked();
    assert!(asked[0].0 < Duration::from_millis(10));
    for pair in asked.windows(2) {
        let gap = pair[1].0 - pair[0].0;
        assert!((80.0..100.1).contains(&gap.as_secs_f64()), "{gap:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_shortest_ttl_of_an_answer_counts_and_no_ttl_makes_it_spin() {
    let mut running = start(set(&["a.example"]), FREE, Duration::ZERO, |_| {
        Ok(vec![
            (IpAddr::from([192, 0, 2, 1]), 300),
            (IpAddr::from([192, 0, 2, 2]), 0),
        ])
    });
    for _ in 0..10 {
        running.next().await;
    }
    for pair in running.asked().windows(2) {
        let gap = (pair[1].0 - pair[0].0).as_secs_f64();
        assert!((5.0..5.1).contains(&gap), "{gap}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_name_is_asked_ever_more_rarely_and_at_least_every_minute() {
    let mut running = start(set(&["a.example"]), FREE, Duration::ZERO, |_| {
        Err(FailKind::ServFail)
    });
    for _ in 0..15 {
        assert_eq!(running.next().await.result, Err(FailKind::ServFail));
    }
    let asked = running.asked();
    for (n, pair) in asked.windows(2).enumerate() {
        let gap = (pair[1].0 - pair[0].0).as_secs_f64();
        let full = 60f64.min(f64::from(1u32 << n));
        assert!((full * 0.5..full + 0.1).contains(&gap), "{n}: {gap}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn new_names_are_asked_at_once_and_names_that_left_no_more() {
    let mut running = start(set(&["a.example"]), FREE, Duration::ZERO, |_| one(100));
    running.next().await;
    running.names.send(set(&["b.example"])).expect("running");
    let before = running.script.begun.elapsed();
    assert_eq!(&*running.next().await.name, "b.example");
    assert!(running.script.begun.elapsed() - before < Duration::from_millis(10));
    for _ in 0..5 {
        assert_eq!(&*running.next().await.name, "b.example");
    }
    assert_eq!(
        running
            .asked()
            .iter()
            .filter(|(_, name)| name == "a.example")
            .count(),
        1
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_a_name_that_left_is_dropped() {
    let mut running = start(set(&["a.example"]), FREE, Duration::from_secs(2), |_| {
        one(1000)
    });
    while running.script.at_once.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    running.names.send(set(&["b.example"])).expect("running");
    assert_eq!(&*running.next().await.name, "b.example");
    assert_eq!(
        running.script.at_once.load(SeqCst),
        0,
        "the other ended too"
    );
    assert!(running.results.try_recv().is_err());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_comes_back_while_asked_is_not_asked_twice_at_once() {
    let mut running = start(set(&["a.example"]), 0, Duration::ZERO, |_| one(1000));
    while running.script.at_once.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    running.names.send(set(&["b.example"])).expect("running");
    while running.script.at_once.load(SeqCst) == 1 {
        tokio::task::yield_now().await;
    }
    running
        .names
        .send(set(&["a.example", "b.example"]))
        .expect("running");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.asked().len(), 2);
    running.script.gate.add_permits(FREE);
    let mut got = [running.next().await.name, running.next().await.name];
    got.sort();
    assert_eq!(got, [Name::from("a.example"), Name::from("b.example")]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hurry_asks_every_name_now() {
    let mut running = start(
        set(&["a.example", "b.example"]),
        FREE,
        Duration::ZERO,
        |_| one(3600),
    );
    running.next().await;
    running.next().await;
    let before = running.script.begun.elapsed();
    running.handle.refresh_now();
    running.next().await;
    running.next().await;
    assert!(running.script.begun.elapsed() - before < Duration::from_millis(10));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_names_are_asked_a_few_at_a_time() {
    let names: BTreeSet<Name> = (0..500)
        .map(|n| Name::from(format!("n{n}.example")))
        .collect();
    let mut running = start(Arc::new(names), FREE, Duration::from_millis(100), |_| {
        one(3600)
    });
    for _ in 0..500 {
        running.next().await;
    }
    assert_eq!(running.script.most_at_once.load(SeqCst), MAX_LOOKUPS);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_names_are_asked_soon() {
    // Time since boot runs on while the runtime's clock stands still: an hour's jump.
    let jump = Arc::new(Mutex::new(Duration::ZERO));
    let seen = jump.clone();
    let mut running = start_at(
        set(&["a.example"]),
        FREE,
        Duration::ZERO,
        |_| one(3600),
        move |clock| Arc::new(move || clock() + *seen.lock().expect("lock")),
    );
    running.next().await;
    *jump.lock().expect("lock") = Duration::from_secs(3600);
    let before = running.script.begun.elapsed();
    running.next().await;
    assert!(running.script.begun.elapsed() - before <= Duration::from_secs(6));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_panics_is_a_failure_of_its_name() {
    let mut running = start(
        set(&["a.example", "bad.example"]),
        FREE,
        Duration::ZERO,
        |name| {
            assert_ne!(name, "bad.example");
            one(3600)
        },
    );
    let mut got = [running.next().await, running.next().await];
    got.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(got[0].result, one(3600));
    assert_eq!(got[1].result, Err(FailKind::BadAnswer));
    assert_eq!(&*running.next().await.name, "bad.example", "asked again");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_at_once_with_look_ups_under_way_or_without_an_engine() {
    let running = start(set(&["a.example"]), 0, Duration::ZERO, |_| one(1));
    while running.script.at_once.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    running.stop().await;

    let Running { names, task, .. } = start(set(&["a.example"]), 0, Duration::ZERO, |_| one(1));
    drop(names);
    task.await.expect("ends without names");

    let running = start(set(&["a.example"]), FREE, Duration::ZERO, |_| one(1));
    drop(running.results);
    running.task.await.expect("ends without a receiver");
    drop(running.names);
}
