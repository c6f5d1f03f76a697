use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

/// A desk whose clock is moved by hand, and what it told.
struct Table {
    desk: Desk,
    clock: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<Incident>>>,
    forced: Arc<Mutex<Vec<Grant>>>,
}

fn table(bounds: Bounds) -> Table {
    let clock = Arc::new(AtomicU64::new(1000));
    let told: Arc<Mutex<Vec<Incident>>> = Arc::default();
    let forced: Arc<Mutex<Vec<Grant>>> = Arc::default();
    let (seconds, tells, forces) = (clock.clone(), told.clone(), forced.clone());
    let desk = Desk::new(
        bounds,
        Arc::new(move || Duration::from_secs(seconds.load(SeqCst))),
        Box::new(move |incident| tells.lock().expect("told").push(incident)),
    );
    desk.put_in_force_by(Box::new(move |grant| {
        if grant.agent == "strict" {
            return Err(AnswerError::Forbidden("deny tcp x".to_owned()));
        }
        forces.lock().expect("forced").push(grant.clone());
        Ok(())
    }));
    Table {
        desk,
        clock,
        told,
        forced,
    }
}

impl Table {
    fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, SeqCst);
        self.desk.tend();
    }

    fn questions(&self) -> Vec<Question> {
        self.desk.subscribe().0
    }

    fn allow(&self, id: &str) -> Grant {
        self.answer(id, Ruling::Allow, Breadth::This)
            .expect("allowed")
    }

    fn answer(&self, id: &str, ruling: Ruling, breadth: Breadth) -> Result<Grant, AnswerError> {
        let choice = Choice {
            ruling,
            lasts: Lasts::For { seconds: 600 },
            breadth,
        };
        self.desk.answer(id, choice, me(), None)
    }
}

fn me() -> Who {
    Who {
        uid: 1000,
        name: None,
        via: "cli".to_owned(),
    }
}

fn asked(agent: &str, name: &str) -> Asked {
    Asked {
        agent: agent.to_owned(),
        run: Some("run-1".to_owned()),
        subject: Subject::Name {
            name: name.to_owned(),
        },
        port: None,
        protocol: None,
        process: None,
        asks: Asks::User,
        uid: Some(1000),
        timeout: 120,
    }
}

async fn ruling(wait: impl Future<Output = Ruling>) -> Ruling {
    timeout(Duration::from_secs(5), wait)
        .await
        .expect("settled")
}

#[tokio::test]
async fn many_wait_for_one_question_and_are_told_after_it_is_in_force() {
    let table = table(Bounds::default());
    let (_, mut events) = table.desk.subscribe();
    let first = table.desk.ask(asked("a", "x.example.com"));
    let second = table.desk.ask(asked("a", "x.example.com"));
    let other = table.desk.ask(asked("b", "x.example.com"));
    let standing = table.questions();
    assert_eq!(standing.len(), 2, "one for each agent");
    let question = standing.iter().find(|q| q.agent == "a").expect("a's");
    assert_eq!(question.waiting, 2);
    assert_eq!(question.domain.as_deref(), Some("example.com"));
    assert_eq!(question.id.len(), 6);

    let grant = table.allow(&question.id);
    assert_eq!(
        table.forced.lock().expect("forced").as_slice(),
        std::slice::from_ref(&grant)
    );
    assert_eq!(grant.question.as_ref(), Some(&question.id));
    assert_eq!(ruling(first).await, Ruling::Allow);
    assert_eq!(ruling(second).await, Ruling::Allow);
    assert!(timeout(Duration::from_millis(20), other).await.is_err());

    let kinds: Vec<IncidentKind> = table
        .told
        .lock()
        .expect("told")
        .iter()
        .map(|i| i.kind)
        .collect();
    use IncidentKind as K;
    assert_eq!(kinds, [K::Asked, K::Asked, K::Granted, K::Answered]);
    let mut settled = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let DeskEvent::Settled(settlement) = event {
            settled.push(settlement.outcome);
        }
    }
    assert_eq!(settled, [Outcome::Allowed]);
    // It is settled, and cannot be answered again.
    assert!(matches!(
        table.answer(&question.id, Ruling::Deny, Breadth::This),
        Err(AnswerError::NoQuestion(_))
    ));
}

#[tokio::test]
async fn nothing_in_force_lets_nobody_on() {
    let table = table(Bounds::default());
    let wait = table.desk.ask(asked("strict", "x.example.com"));
    let id = table.questions()[0].id.clone();
    assert_eq!(
        table.answer(&id, Ruling::Allow, Breadth::This),
        Err(AnswerError::Forbidden("deny tcp x".to_owned()))
    );
    assert_eq!(table.questions().len(), 1, "it stands on");
    table.pass(121);
    assert_eq!(ruling(wait).await, Ruling::Deny);

    let bare = Desk::new(
        Bounds::default(),
        Arc::new(|| Duration::ZERO),
        Box::new(|_| {}),
    );
    let _wait = bare.ask(asked("a", "x.example.com"));
    let id = bare.subscribe().0[0].id.clone();
    let choice = Choice {
        ruling: Ruling::Allow,
        lasts: Lasts::Always,
        breadth: Breadth::This,
    };
    assert!(matches!(
        bare.answer(&id, choice, me(), None),
        Err(AnswerError::Failed(_))
    ));
}

#[tokio::test]
async fn time_denies_and_what_nobody_answers_rests_longer_each_time() {
    let table = table(Bounds::default());
    for rest in [30, 60, 120, 240] {
        let wait = table.desk.ask(asked("a", "x.example.com"));
        assert_eq!(table.questions().len(), 1);
        table.pass(120);
        assert_eq!(ruling(wait).await, Ruling::Deny);
        assert!(table.questions().is_empty());
        table.pass(rest - 1);
        assert_eq!(
            ruling(table.desk.ask(asked("a", "x.example.com"))).await,
            Ruling::Deny
        );
        assert!(table.questions().is_empty(), "it rests {rest} s");
        table.pass(1);
    }
    assert_eq!(table.desk.counts().timed_out, 4);
    // Another subject does not wait for that.
    let _wait = table.desk.ask(asked("a", "y.example.com"));
    assert_eq!(table.questions().len(), 1);
}

#[tokio::test]
async fn a_denial_is_not_asked_again() {
    let table = table(Bounds::default());
    let wait = table.desk.ask(asked("a", "x.example.com"));
    let id = table.questions()[0].id.clone();
    let grant = table
        .answer(&id, Ruling::Deny, Breadth::This)
        .expect("denied");
    assert_eq!(grant.ruling, Ruling::Deny);
    assert_eq!(table.forced.lock().expect("forced").len(), 1);
    assert_eq!(ruling(wait).await, Ruling::Deny);
    assert_eq!(
        ruling(table.desk.ask(asked("a", "x.example.com"))).await,
        Ruling::Deny
    );
    assert!(table.questions().is_empty());
    // However long ago, for as long as it holds.
    table.desk.set_denials(vec![grant.clone()]);
    table.pass(100_000);
    assert_eq!(
        ruling(table.desk.ask(asked("a", "x.example.com"))).await,
        Ruling::Deny
    );
    assert!(table.questions().is_empty());
    // Until the denial is taken back.
    table.desk.set_denials(Vec::new());
    table.desk.forget("a", &grant.subject);
    let _wait = table.desk.ask(asked("a", "x.example.com"));
    assert_eq!(table.questions().len(), 1);
}

#[tokio::test]
async fn a_flood_is_denied_and_is_nobody_elses() {
    let bounds = Bounds::default();
    let table = table(bounds);
    let mut waits = Vec::new();
    for n in 0..1000 {
        let name = format!("n{n}.example.com");
        waits.push(table.desk.ask(asked("loud", &name)));
    }
    assert_eq!(table.questions().len(), bounds.per_agent);
    let denied = 1000 - bounds.per_agent as u64;
    assert_eq!(table.desk.counts().throttled, denied);
    // However many agents do so, each other one finds room.
    for n in 0..100 {
        let _wait = table.desk.ask(asked(&format!("loud{n}"), "x.example.com"));
        let _wait = table.desk.ask(asked(&format!("loud{n}"), "y.example.com"));
    }
    let _wait = table.desk.ask(asked("calm", "x.example.com"));
    assert_eq!(table.desk.pending(Some("calm")), 1);
    drop(waits);
    assert_eq!(table.desk.pending(Some("loud")), bounds.per_agent);
}

#[tokio::test]
async fn who_tires_people_may_ask_less_often() {
    let bounds = Bounds::default();
    let table = table(bounds);
    let mut put = Vec::new();
    let mut n = 0;
    for _minute in 0..20 {
        let before = table.desk.counts().asked;
        for _ in 0..30 {
            n += 1;
            let mut asked = asked("a", &format!("n{n}.example.com"));
            asked.timeout = 1;
            let _wait = table.desk.ask(asked);
            table.pass(2);
        }
        put.push(table.desk.counts().asked - before);
    }
    assert_eq!(
        put[0],
        12 / 2,
        "half after four that nobody answered: {put:?}"
    );
    assert!(put[19] <= 1, "{put:?}");
    // An answer shows that somebody is there.
    table.pass(60);
    let _wait = table.desk.ask(asked("a", "good.example.com"));
    let id = table.questions()[0].id.clone();
    table.allow(&id);
    table.pass(60);
    for n in 0..8 {
        let _wait = table.desk.ask(asked("a", &format!("g{n}.example.com")));
    }
    assert_eq!(table.questions().len(), 8);
}

#[tokio::test]
async fn an_answer_settles_what_it_covers() {
    let table = table(Bounds::default());
    let one = table.desk.ask(asked("a", "one.example.co.uk"));
    let two = table.desk.ask(asked("a", "two.example.co.uk"));
    let other = table.desk.ask(asked("a", "notexample.co.uk"));
    let id = table.questions()[0].id.clone();
    let grant = table.answer(&id, Ruling::Allow, Breadth::Domain);
    let domain = "example.co.uk".to_owned();
    assert_eq!(
        grant.expect("granted").subject,
        GrantSubject::Domain { domain }
    );
    assert_eq!(ruling(one).await, Ruling::Allow);
    assert_eq!(ruling(two).await, Ruling::Allow);
    assert!(timeout(Duration::from_millis(20), other).await.is_err());
}

#[tokio::test]
async fn a_port_narrows() {
    let table = table(Bounds::default());
    let at = |port| Asked {
        port: Some(port),
        subject: Subject::Address {
            address: "192.0.2.1".parse().expect("address"),
        },
        ..asked("a", "")
    };
    let web = table.desk.ask(at(443));
    let ssh = table.desk.ask(at(22));
    let question = table.questions().remove(0);
    assert_eq!((question.port, question.domain), (None, None));
    assert!(matches!(
        table.answer(&question.id, Ruling::Allow, Breadth::Domain),
        Err(AnswerError::Unfit(_))
    ));
    let grant = table.answer(&question.id, Ruling::Allow, Breadth::Port { port: 443 });
    assert_eq!(grant.expect("granted").port, Some(443));
    assert_eq!(ruling(web).await, Ruling::Allow);
    assert_eq!(ruling(ssh).await, Ruling::Deny, "22 was not granted");
    // And is asked about by itself.
    let _wait = table.desk.ask(at(22));
    assert_eq!(table.questions()[0].port, Some(22));
}

#[tokio::test]
async fn a_desk_that_closes_denies() {
    let table = table(Bounds::default());
    let wait = table.desk.ask(asked("a", "x.example.com"));
    table.desk.close();
    assert_eq!(ruling(wait).await, Ruling::Deny);
    let nobody = Asked {
        asks: Asks::Nobody,
        ..asked("a", "x.example.com")
    };
    assert_eq!(ruling(table.desk.ask(nobody)).await, Ruling::Deny);
    assert!(table.questions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_sleeps_waits_no_longer() {
    let table = table(Bounds::default());
    let wait = tokio::spawn(table.desk.ask(asked("a", "x.example.com")));
    tokio::task::yield_now().await;
    // The runtime's clock stood still meanwhile.
    table.pass(120);
    assert_eq!(wait.await.expect("task"), Ruling::Deny);
    // Without anybody who tends: the one who waits looks.
    let wait = tokio::spawn(table.desk.ask(asked("a", "y.example.com")));
    tokio::task::yield_now().await;
    table.clock.fetch_add(120, SeqCst);
    assert_eq!(wait.await.expect("task"), Ruling::Deny);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u8, u8),
    Pass(u64),
    Answer(usize, bool),
    Withdraw(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, 0..40u8).prop_map(|(a, n)| Step::Ask(a, n)),
        2 => (0..90u64).prop_map(Step::Pass),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(q, y)| Step::Answer(q, y)),
        1 => (0..4u8).prop_map(Step::Withdraw),
    ]
}

proptest! {
    #[test]
    fn bounds_hold_whatever_happens(steps in proptest::collection::vec(step(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let bounds = Bounds { total: 20, ..Bounds::default() };
            let table = table(bounds);
            let mut put: Vec<(u64, String)> = Vec::new();
            let mut waits = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(agent, name) => {
                        let agent = format!("a{agent}");
                        let before = table.desk.counts().asked;
                        waits.push(table.desk.ask(asked(&agent, &format!("n{name}.example.com"))));
                        if table.desk.counts().asked > before {
                            let now = table.clock.load(SeqCst);
                            let last = put.iter().filter(|(at, a)| *a == agent && at + 60 > now);
                            prop_assert!(last.count() < bounds.per_minute as usize);
                            put.push((now, agent));
                        }
                    }
                    Step::Pass(seconds) => table.pass(seconds),
                    Step::Answer(which, yes) => {
                        let all = table.questions();
                        if !all.is_empty() {
                            let id = all[which % all.len()].id.clone();
                            let ruling = if yes { Ruling::Allow } else { Ruling::Deny };
                            prop_assert!(table.answer(&id, ruling, Breadth::This).is_ok());
                        }
                    }
                    Step::Withdraw(agent) => {
                        let agent = format!("a{agent}");
                        table.desk.withdraw(|q| q.agent == agent);
                    }
                }
                let all = table.questions();
                prop_assert!(all.len() <= bounds.total + 4);
                for n in 0..4 {
                    let agent = format!("a{n}");
                    let mine = all.iter().filter(|q| q.agent == agent);
                    prop_assert!(mine.count() <= bounds.per_agent);
                }
                let mut ids: Vec<&String> = all.iter().map(|q| &q.id).collect();
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), all.len());
            }
            // Nobody is let on without a grant that is in force; nobody waits for ever.
            table.pass(1000);
            let granted = !table.forced.lock().expect("forced").iter().all(|g| g.ruling == Ruling::Deny);
            for wait in waits {
                let ruling = ruling(wait).await;
                prop_assert!(ruling == Ruling::Deny || granted);
            }
            Ok(())
        })?;
    }
}
