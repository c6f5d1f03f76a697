use super::*;

const A: u32 = 3;
const B: u32 = 4;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn name(s: &str) -> Name {
    Name::from(s)
}

fn ip(s: &str) -> IpAddr {
    s.parse().expect("address")
}

fn leases() -> Leases {
    Leases::new(LeaseConfig::default()).expect("defaults are valid")
}

fn bounded(edit: impl FnOnce(&mut LeaseConfig)) -> Leases {
    let mut config = LeaseConfig::default();
    edit(&mut config);
    Leases::new(config).expect("valid")
}

fn answer(leases: &mut Leases, name_: &str, addresses: &[(&str, u32)], at: u64) -> Answered {
    answer_of(leases, A, name_, addresses, at)
}

fn answer_of(
    leases: &mut Leases,
    agent: u32,
    name_: &str,
    addresses: &[(&str, u32)],
    at: u64,
) -> Answered {
    let addresses: Vec<_> = addresses.iter().map(|(a, ttl)| (ip(a), *ttl)).collect();
    leases.answered(agent, &name(name_), &addresses, false, secs(at))
}

fn change(agent: u32, name_: &str, addr: &str, kind: ChangeKind) -> Change {
    Change {
        agent,
        name: name(name_),
        addr: ip(addr),
        kind,
    }
}

fn added(name_: &str, addr: &str) -> Change {
    change(A, name_, addr, ChangeKind::Added)
}

fn removed(name_: &str, addr: &str) -> Change {
    change(A, name_, addr, ChangeKind::Removed)
}

fn held(leases: &Leases, name_: &str, at: u64) -> Vec<(IpAddr, Duration, bool)> {
    leases
        .addresses(A, name_, secs(at))
        .map(|view| (view.addr, view.remaining, view.fresh))
        .collect()
}

fn one(addr: &str) -> BTreeSet<IpAddr> {
    [ip(addr)].into()
}

#[test]
fn an_address_lives_for_its_ttl_and_the_grace() {
    let mut leases = leases();
    let got = answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 100);
    assert_eq!(got.changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(leases.next_deadline(), Some(secs(100 + 60 + 600)));

    assert_eq!(leases.expire(secs(759), secs(759)), []);
    assert_eq!(
        held(&leases, "a.example", 759),
        [(ip("192.0.2.1"), secs(1), true)]
    );
    assert_eq!(
        leases.expire(secs(759), secs(760)),
        [],
        "nobody has asked for sockets since"
    );
    assert_eq!(
        held(&leases, "a.example", 760),
        [(ip("192.0.2.1"), secs(0), true)]
    );
    assert_eq!(
        leases.expire(secs(760), secs(761)),
        [removed("a.example", "192.0.2.1")]
    );
    assert_eq!(leases.next_deadline(), None);
    assert!(leases.is_empty());
}

#[test]
fn an_address_that_rotates_out_stays_for_its_grace() {
    let mut leases = leases();
    answer(&mut leases, "a.example", &[("192.0.2.1", 30)], 0);
    let got = answer(&mut leases, "a.example", &[("192.0.2.2", 30)], 30);
    assert_eq!(got.changes, [added("a.example", "192.0.2.2")]);
    assert_eq!(
        held(&leases, "a.example", 31),
        [
            (ip("192.0.2.1"), secs(599), false),
            (ip("192.0.2.2"), secs(629), true)
        ]
    );
    assert_eq!(
        leases.expire(secs(630), secs(630)),
        [removed("a.example", "192.0.2.1")]
    );
}

#[test]
fn a_shorter_ttl_does_not_take_back_what_was_promised() {
    let mut leases = leases();
    answer(&mut leases, "a.example", &[("192.0.2.1", 3600)], 0);
    let got = answer(&mut leases, "a.example", &[("192.0.2.1", 1)], 10);
    assert_eq!(got, Answered::default());
    let view = leases.addresses(A, "a.example", secs(10)).next();
    let view = view.expect("held");
    assert_eq!((view.deadline, view.promised), (secs(4200), secs(60)));
}

#[test]
fn ttls_are_bounded_both_ways() {
    let mut leases = leases();
    answer(&mut leases, "a.example", &[("192.0.2.1", u32::MAX)], 0);
    assert_eq!(leases.next_deadline(), Some(secs(4200)));
    answer(&mut leases, "a.example", &[("192.0.2.9", 0)], 0);
    assert_eq!(leases.next_deadline(), Some(secs(601)));
    let mut short = bounded(|c| c.max_ttl = secs(5));
    answer(&mut short, "a.example", &[("192.0.2.1", 3600)], 0);
    assert_eq!(
        short.next_deadline(),
        Some(secs(660)),
        "longer than what any client was told, whatever the settings"
    );
}

#[test]
fn leases_are_of_one_agent() {
    let mut leases = leases();
    answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 0);
    let got = answer_of(&mut leases, B, "a.example", &[("192.0.2.1", 60)], 100);
    let theirs = change(B, "a.example", "192.0.2.1", ChangeKind::Added);
    assert_eq!(got.changes, [theirs]);
    assert_eq!(leases.len(), 2);
    assert_eq!(
        leases.expire(secs(660), secs(660)),
        [removed("a.example", "192.0.2.1")]
    );
    assert_eq!(leases.addresses(B, "a.example", secs(660)).count(), 1);
    leases.forget(B);
    assert!(leases.is_empty());
}

#[test]
fn what_the_policy_no_longer_has_goes_at_once_and_the_rest_stays() {
    let mut leases = leases();
    let private = [(ip("10.0.0.1"), 60), (ip("192.0.2.2"), 60)];
    leases.answered(A, &name("lan.example"), &private, true, secs(0));
    answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 0);
    answer(&mut leases, "b.example", &[("192.0.2.1", 60)], 0);
    let both = |n: &str| match n {
        "b.example" => Some(false),
        "lan.example" => Some(true),
        _ => None,
    };
    let changes = leases.set_names(A, &both, secs(1));
    assert_eq!(changes, [removed("a.example", "192.0.2.1")]);
    let changes = leases.set_names(A, &|_| Some(false), secs(1));
    assert_eq!(changes, [removed("lan.example", "10.0.0.1")]);
    assert_eq!(leases.len(), 2);
    assert_eq!(leases.set_names(B, &|_| None, secs(1)), []);
}

#[test]
fn addresses_that_a_name_may_not_stand_for_are_dropped_named_and_counted() {
    let mut leases = leases();
    let given = [
        ("127.0.0.1", 60),
        ("::ffff:169.254.169.254", 60),
        ("10.0.0.1", 60),
        ("192.0.2.1", 60),
    ];
    let got = answer(&mut leases, "a.example", &given, 0);
    assert_eq!(got.changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(
        got.rebound,
        [
            ip("127.0.0.1"),
            ip("::ffff:169.254.169.254"),
            ip("10.0.0.1")
        ]
    );
    assert_eq!(leases.counters().rebind_dropped, 3);
    let given = given.map(|(addr, ttl)| (ip(addr), ttl));
    let got = leases.answered(A, &name("lan.example"), &given, true, secs(0));
    assert_eq!(got.rebound.len(), 2);
    assert_eq!(got.changes.len(), 2);
}

#[test]
fn a_mapped_address_and_its_v4_are_one_lease() {
    let mut leases = leases();
    let given = [("::ffff:192.0.2.1", 60), ("192.0.2.1", 30)];
    let got = answer(&mut leases, "a.example", &given, 0);
    assert_eq!(got.changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(leases.next_deadline(), Some(secs(660)), "the longer TTL");
}

#[test]
fn over_the_bound_of_a_name_the_stalest_goes_but_never_within_its_promise() {
    let mut leases = bounded(|c| c.max_addresses_per_name = 2);
    answer(&mut leases, "a.example", &[("192.0.2.1", 10)], 0);
    answer(&mut leases, "a.example", &[("192.0.2.2", 10)], 5);
    let got = answer(&mut leases, "a.example", &[("192.0.2.3", 10)], 9);
    assert_eq!((got.changes, got.refused), (vec![], 1), "both are promised");
    let got = answer(&mut leases, "a.example", &[("192.0.2.3", 10)], 10);
    assert_eq!(
        got.changes,
        [
            removed("a.example", "192.0.2.1"),
            added("a.example", "192.0.2.3")
        ],
        "removal first, so that a full map has room"
    );
    let counters = leases.counters();
    assert_eq!((counters.evicted, counters.refused), (1, 1));

    let many = [("192.0.2.9", 1), ("192.0.2.8", 1), ("192.0.2.7", 1)];
    let got = answer(&mut leases, "a.example", &many, 30);
    assert_eq!(got.refused, 1);
    let now: Vec<_> = leases
        .addresses(A, "a.example", secs(30))
        .map(|view| view.addr)
        .collect();
    assert_eq!(now, [ip("192.0.2.7"), ip("192.0.2.8")]);
    assert_eq!(leases.counters().answers_over_bound, 1);
}

#[test]
fn over_the_bound_of_an_agent_the_stalest_goes_of_that_agent_alone() {
    let mut leases = bounded(|c| c.max_addresses = 2);
    answer_of(&mut leases, B, "b.example", &[("192.0.2.8", 1)], 0);
    answer(&mut leases, "old.example", &[("192.0.2.1", 1)], 0);
    answer(&mut leases, "a.example", &[("192.0.2.2", 1)], 1);
    let got = answer(&mut leases, "new.example", &[("192.0.2.3", 1)], 5);
    assert_eq!(
        got.changes,
        [
            removed("old.example", "192.0.2.1"),
            added("new.example", "192.0.2.3")
        ]
    );
    assert_eq!(leases.addresses(B, "b.example", secs(5)).count(), 1);
}

#[test]
fn over_the_bound_of_names_the_one_asked_longest_ago_goes_whole() {
    let mut leases = bounded(|c| c.max_names = 2);
    let two = [("192.0.2.1", 1), ("192.0.2.2", 1)];
    answer(&mut leases, "old.example", &two, 0);
    answer(&mut leases, "hot.example", &[("192.0.2.3", 1)], 1);
    let got = answer(&mut leases, "new.example", &[("192.0.2.4", 30)], 5);
    assert_eq!(
        got.changes,
        [
            removed("old.example", "192.0.2.1"),
            removed("old.example", "192.0.2.2"),
            added("new.example", "192.0.2.4")
        ]
    );
    answer(&mut leases, "hot.example", &[("192.0.2.3", 30)], 5);
    let got = answer(&mut leases, "more.example", &[("192.0.2.5", 1)], 6);
    assert_eq!((got.changes, got.refused), (vec![], 1), "all are promised");
}

#[test]
fn an_address_in_use_outlives_its_time_and_is_not_evicted() {
    let mut leases = bounded(|c| c.max_addresses_per_name = 1);
    answer(&mut leases, "a.example", &[("192.0.2.1", 1)], 0);
    assert_eq!(leases.doubtful(secs(100)).len(), 1, "at its bound");
    leases.in_use(A, &one("192.0.2.1"), &one("192.0.2.1"), secs(30), secs(100));
    let got = answer(&mut leases, "a.example", &[("192.0.2.2", 1)], 101);
    assert_eq!(got.refused, 1);

    let asked = leases.doubtful(secs(601));
    assert_eq!(asked, [(A, one("192.0.2.1"))].into());
    leases.in_use(A, &one("192.0.2.1"), &one("192.0.2.1"), secs(30), secs(601));
    assert_eq!(leases.expire(secs(630), secs(630)), []);
    let view = leases.addresses(A, "a.example", secs(630)).next();
    assert!(view.is_some_and(|view| view.in_use));
    leases.in_use(A, &one("192.0.2.1"), &BTreeSet::new(), secs(30), secs(630));
    assert_eq!(
        leases.expire(secs(631), secs(631)),
        [removed("a.example", "192.0.2.1")],
        "once no socket uses it any more"
    );
    leases.in_use(A, &one("192.0.2.1"), &one("192.0.2.1"), secs(30), secs(632));
    assert!(leases.is_empty(), "what has ended does not come back");
}

#[test]
fn what_the_kernel_has_no_room_for_is_taken_back() {
    let mut leases = leases();
    answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 0);
    leases.revoke(A, &name("a.example"), ip("192.0.2.1"));
    leases.revoke(A, &name("a.example"), ip("192.0.2.1"));
    assert!(leases.is_empty());
    assert_eq!(leases.counters().refused, 1);
    let got = answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 1);
    assert_eq!(got.changes.len(), 1, "and tried again");
}

#[test]
fn time_that_goes_back_changes_nothing() {
    let mut leases = leases();
    answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 1000);
    assert_eq!(leases.expire(secs(5), secs(5)), []);
    assert_eq!(
        held(&leases, "a.example", 5),
        [(ip("192.0.2.1"), secs(660), true)]
    );
    answer(&mut leases, "a.example", &[("192.0.2.2", 60)], 5);
    assert_eq!(leases.expire(secs(1659), secs(1659)), []);
    assert_eq!(leases.expire(secs(1660), secs(1660)).len(), 2);
}

#[test]
fn a_failing_name_keeps_its_addresses_and_says_since_when() {
    let mut leases = leases();
    let a = name("a.example");
    let state = |leases: &Leases, at: u64| leases.status(secs(at))[0].state;
    leases.failed(&a, FailKind::Timeout, secs(0));
    assert!(leases.status(secs(0)).is_empty(), "nobody watches it");
    leases.watch(&[a.clone()].into());
    assert_eq!(state(&leases, 0), NameState::Pending);
    leases.failed(&a, FailKind::Timeout, secs(1));
    assert_eq!(state(&leases, 1), NameState::Failing { since: secs(1) });
    answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 10);
    leases.succeeded(&a, 60, 0, secs(10));
    assert_eq!(state(&leases, 10), NameState::Fresh);
    assert_eq!(leases.status(secs(10))[0].next_refresh, secs(70));
    leases.failed(&a, FailKind::ServFail, secs(70));
    leases.failed(&a, FailKind::NxDomain, secs(80));

    let status = leases.status(secs(90)).remove(0);
    assert_eq!(status.state, NameState::Failing { since: secs(70) });
    assert_eq!(status.failures, 2);
    assert_eq!(status.last_failure, Some(FailKind::NxDomain));
    assert_eq!(status.last_success, Some(secs(10)));
    assert_eq!(status.addresses, [(ip("192.0.2.1"), secs(580))]);

    assert_eq!(leases.expire(secs(670), secs(670)).len(), 1);
    assert_eq!(state(&leases, 670), NameState::Expired);
    answer(&mut leases, "a.example", &[("192.0.2.1", 60)], 700);
    leases.succeeded(&a, 1, 3, secs(700));
    let status = leases.status(secs(700)).remove(0);
    assert_eq!((status.state, status.failures), (NameState::Fresh, 0));
    assert_eq!((status.left_out, status.next_refresh), (3, secs(705)));
}

fn indices() -> BTreeMap<String, u32> {
    [("worker".to_owned(), A), ("second".to_owned(), B)].into()
}

fn agents() -> BTreeMap<u32, String> {
    indices().into_iter().map(|(name, i)| (i, name)).collect()
}

#[test]
fn a_restart_on_the_same_boot_keeps_leases_and_another_boot_does_not() {
    let mut before = leases();
    let both = [("192.0.2.1", 60), ("2001:db8::1", 60)];
    answer(&mut before, "a.example", &both, 100);
    answer_of(&mut before, B, "a.example", &[("192.0.2.7", 60)], 100);
    let json = before.snapshot(&agents(), "boot-1\n").expect("snapshot");
    assert!(matches!(Snapshot::parse(&json, "boot-2"), Ok(None)));
    let snapshot = Snapshot::parse(&json, "boot-1").expect("snapshot");
    let snapshot = snapshot.expect("this boot");
    assert_eq!(snapshot.addresses()["second"], one("192.0.2.7"));

    let none = BTreeMap::new();
    let mut after = leases();
    // The agents' indices are others now, and one agent has gone.
    let moved = [("worker".to_owned(), 9)].into();
    assert_eq!(
        after.restore(&snapshot, &moved, &none, secs(30), secs(200)),
        2
    );
    assert_eq!(
        after.next_deadline(),
        Some(secs(760)),
        "the deadline is kept"
    );
    assert!(
        after
            .addresses(9, "a.example", secs(200))
            .all(|view| view.fresh)
    );
    let mut late = leases();
    let used = [("worker".to_owned(), one("192.0.2.1"))].into();
    assert_eq!(
        late.restore(&snapshot, &indices(), &none, secs(30), secs(760)),
        0
    );
    assert_eq!(
        late.restore(&snapshot, &indices(), &used, secs(30), secs(760)),
        1,
        "a live socket brings its address back"
    );
    assert_eq!(late.next_deadline(), Some(secs(790)));
}

#[test]
fn what_was_leased_after_the_last_snapshot_is_in_the_journal() {
    let mut before = leases();
    answer(&mut before, "a.example", &[("192.0.2.1", 60)], 100);
    let json = before.snapshot(&agents(), "boot-1").expect("snapshot");
    let mut journal = journal_head("boot-1");
    let mut lease = |at: u64, addr: &str| {
        answer(&mut before, "a.example", &[(addr, 60)], at);
        journal += &before
            .journal_line(A, "worker", &name("a.example"), ip(addr))
            .expect("leased");
    };
    lease(110, "192.0.2.2");
    lease(120, "192.0.2.3");
    let none = before.journal_line(B, "second", &name("a.example"), ip("192.0.2.2"));
    assert_eq!(none, None);
    journal.truncate(journal.len() - 5);

    let after = |mut snapshot: Snapshot, journal: &str| {
        snapshot.replay(journal);
        let mut after = leases();
        after.restore(&snapshot, &indices(), &BTreeMap::new(), secs(30), secs(130));
        held(&after, "a.example", 130)
            .into_iter()
            .map(|(addr, left, _)| (addr, left))
            .collect::<Vec<_>>()
    };
    let first = (ip("192.0.2.1"), secs(630));
    let second = (ip("192.0.2.2"), secs(640));
    let saved = || {
        Snapshot::parse(&json, "boot-1")
            .expect("snapshot")
            .expect("this boot")
    };
    assert_eq!(after(saved(), &journal), [first, second]);
    assert_eq!(after(Snapshot::empty("boot-1"), &journal), [second]);
    let other = journal.replace("boot-1", "boot-2");
    assert_eq!(after(saved(), &other), [first], "of another boot");
    assert_eq!(after(saved(), ""), [first]);
}

#[test]
fn a_forged_snapshot_gives_no_more_than_an_answer_could() {
    let json = r#"{"version":2,"boot_id":"b","agents":{"worker":{"a.example":[
        {"addr":"127.0.0.1","deadline_ms":900000,"promised_ms":0,"fresh":true},
        {"addr":"192.0.2.1","deadline_ms":18446744073709551615,
         "promised_ms":18446744073709551615,"fresh":true}]}}}"#;
    let snapshot = Snapshot::parse(json, "b").expect("snapshot");
    let mut leases = leases();
    let none = BTreeMap::new();
    let snapshot = snapshot.expect("this boot");
    assert_eq!(
        leases.restore(&snapshot, &indices(), &none, secs(30), secs(10)),
        1
    );
    let view = leases.addresses(A, "a.example", secs(10)).next();
    let view = view.expect("held");
    assert_eq!(view.deadline, secs(10 + 3600 + 600));
    assert_eq!(view.promised, secs(10 + 60));

    for bad in [
        "",
        "{}",
        r#"{"version":2,"boot_id":"b","agents":{},"more":1}"#,
    ] {
        let result = Snapshot::parse(bad, "b");
        assert!(matches!(result, Err(RestoreError::Json(_))));
    }
    let older = r#"{"version":1,"boot_id":"b","names":{}}"#;
    let result = Snapshot::parse(older, "b");
    assert!(matches!(result, Err(RestoreError::Version(1))));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    type Edit = fn(&mut LeaseConfig);
    let cases: [(&str, Edit); 8] = [
        ("grace below min_ttl", |c| c.min_ttl = secs(700)),
        ("no min_ttl", |c| c.min_ttl = secs(0)),
        ("min_ttl above max_ttl", |c| c.max_ttl = secs(4)),
        ("grace of weeks", |c| c.grace = secs(1_000_000)),
        ("max_ttl of weeks", |c| c.max_ttl = secs(1_000_000)),
        ("no address of a name", |c| c.max_addresses_per_name = 0),
        ("no names", |c| c.max_names = 0),
        ("no addresses", |c| c.max_addresses = 0),
    ];
    for (what, edit) in cases {
        let mut config = LeaseConfig::default();
        edit(&mut config);
        assert!(Leases::new(config).is_err(), "{what}");
    }
}

#[test]
fn settings_are_written_with_units_and_unknown_keys_are_errors() {
    let config: LeaseConfig =
        serde_saphyr::from_str("grace: 2m\nmin_ttl: 10s\nmax_names: 9\n").expect("settings");
    assert_eq!(config.grace, secs(120));
    assert_eq!(config.min_ttl, secs(10));
    assert_eq!(config.max_names, 9);
    assert_eq!(config.max_ttl, LeaseConfig::default().max_ttl);
    assert!(serde_saphyr::from_str::<LeaseConfig>("grase: 2m\n").is_err());
}
