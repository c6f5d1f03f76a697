use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn name(s: &str) -> Name {
    Name::from(s)
}

fn names(list: &[&str]) -> BTreeSet<Name> {
    list.iter().map(|s| name(s)).collect()
}

fn ip(s: &str) -> IpAddr {
    s.parse().expect("address")
}

fn leases_of(list: &[&str]) -> Leases {
    let mut leases = Leases::new(LeaseConfig::default()).expect("defaults are valid");
    assert_eq!(leases.set_names(&names(list), secs(0)), []);
    leases
}

fn added(name_: &str, addr: &str) -> Change {
    Change {
        name: name(name_),
        addr: ip(addr),
        kind: ChangeKind::Added,
    }
}

fn removed(name_: &str, addr: &str) -> Change {
    Change {
        name: name(name_),
        addr: ip(addr),
        kind: ChangeKind::Removed,
    }
}

fn state_of(leases: &Leases, at: Duration) -> NameState {
    leases.status(at)[0].state
}

#[test]
fn an_address_lives_for_its_ttl_and_the_grace() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    let changes = leases.answered(&a, &[(ip("192.0.2.1"), 60)], secs(100));
    assert_eq!(changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(leases.next_deadline(), Some(secs(100 + 60 + 600)));
    assert_eq!(leases.next_refresh(&a), Some(secs(160)));

    assert_eq!(leases.expire(secs(759)), []);
    let left: Vec<_> = leases.addresses(&a, secs(759)).collect();
    assert_eq!(left, [(ip("192.0.2.1"), secs(1), true)]);
    assert_eq!(
        leases.addresses(&a, secs(760)).count(),
        0,
        "ends before it is collected"
    );
    assert_eq!(
        leases.expire(secs(760)),
        [removed("a.example", "192.0.2.1")]
    );
    assert_eq!(leases.next_deadline(), None);
    assert!(leases.is_empty());
}

#[test]
fn an_address_that_rotates_out_stays_for_its_grace_and_is_no_longer_offered() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    leases.answered(&a, &[(ip("192.0.2.1"), 30)], secs(0));
    let changes = leases.answered(&a, &[(ip("192.0.2.2"), 30)], secs(30));
    assert_eq!(changes, [added("a.example", "192.0.2.2")]);
    assert_eq!(leases.addresses(&a, secs(31)).count(), 2);
    let offered = leases.answer(&a, secs(31)).expect("in the policy");
    assert_eq!(offered, [(ip("192.0.2.2"), secs(629))]);
    assert_eq!(
        leases.expire(secs(630)),
        [removed("a.example", "192.0.2.1")]
    );
}

#[test]
fn a_shorter_ttl_does_not_take_back_what_was_promised() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    leases.answered(&a, &[(ip("192.0.2.1"), 3600)], secs(0));
    assert_eq!(leases.answered(&a, &[(ip("192.0.2.1"), 1)], secs(10)), []);
    assert_eq!(leases.next_deadline(), Some(secs(4200)));
    assert_eq!(
        leases.next_refresh(&a),
        Some(secs(15)),
        "but it is asked again soon"
    );
}

#[test]
fn ttls_are_bounded_both_ways() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    leases.answered(&a, &[(ip("192.0.2.1"), u32::MAX)], secs(0));
    assert_eq!(leases.next_refresh(&a), Some(secs(3600)));
    assert_eq!(leases.next_deadline(), Some(secs(4200)));
    leases.answered(&a, &[(ip("192.0.2.9"), 0)], secs(0));
    assert_eq!(leases.next_refresh(&a), Some(secs(5)));
    assert_eq!(leases.next_deadline(), Some(secs(600)));
}

#[test]
fn a_failing_name_keeps_its_addresses_until_their_grace_ends() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    assert_eq!(state_of(&leases, secs(0)), NameState::Pending);
    leases.failed(&a, FailKind::Timeout, secs(1));
    assert_eq!(
        state_of(&leases, secs(1)),
        NameState::Failing { since: secs(1) }
    );
    leases.answered(&a, &[(ip("192.0.2.1"), 60)], secs(10));
    assert_eq!(state_of(&leases, secs(10)), NameState::Fresh);
    leases.failed(&a, FailKind::ServFail, secs(70));
    leases.failed(&a, FailKind::NxDomain, secs(80));

    let status = leases.status(secs(90)).remove(0);
    assert_eq!(status.state, NameState::Failing { since: secs(70) });
    assert_eq!(status.failures, 2);
    assert_eq!(status.last_failure, Some(FailKind::NxDomain));
    assert_eq!(status.last_success, Some(secs(10)));
    assert_eq!(status.addresses.len(), 1);

    assert_eq!(leases.expire(secs(670)).len(), 1);
    assert_eq!(state_of(&leases, secs(670)), NameState::Expired);
    assert_eq!(leases.answer(&a, secs(670)), Some(vec![]));
    leases.answered(&a, &[(ip("192.0.2.1"), 60)], secs(700));
    let status = leases.status(secs(700)).remove(0);
    assert_eq!((status.state, status.failures), (NameState::Fresh, 0));
}

#[test]
fn a_name_that_leaves_the_policy_loses_its_leases_and_others_do_not() {
    let mut leases = leases_of(&["a.example", "b.example"]);
    leases.answered(&name("a.example"), &[(ip("192.0.2.1"), 60)], secs(0));
    leases.answered(&name("b.example"), &[(ip("192.0.2.1"), 60)], secs(0));
    let changes = leases.set_names(&names(&["b.example", "c.example"]), secs(1));
    assert_eq!(changes, [removed("a.example", "192.0.2.1")]);
    assert_eq!(leases.len(), 1);
    assert_eq!(leases.answer(&name("a.example"), secs(1)), None);
    assert_eq!(leases.answer(&name("c.example"), secs(1)), Some(vec![]));
    let late = leases.answered(&name("a.example"), &[(ip("192.0.2.1"), 60)], secs(2));
    assert_eq!(late, [], "an answer that was under way brings nothing back");
}

#[test]
fn addresses_of_the_machine_itself_are_dropped_and_counted() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    let answer = [
        (ip("127.0.0.1"), 60),
        (ip("::ffff:169.254.169.254"), 60),
        (ip("192.0.2.1"), 60),
    ];
    let changes = leases.answered(&a, &answer, secs(0));
    assert_eq!(changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(leases.counters().rebind_dropped, 2);

    leases.answered(&a, &[(ip("::1"), 60)], secs(1));
    let status = leases.status(secs(1)).remove(0);
    assert_eq!(status.last_failure, Some(FailKind::Rebind));
    assert_eq!(
        status.addresses.len(),
        1,
        "what was good stays for its grace"
    );
    leases.answered(&a, &[], secs(2));
    assert_eq!(
        leases.status(secs(2))[0].last_failure,
        Some(FailKind::NoAddresses)
    );
}

#[test]
fn a_mapped_address_and_its_v4_are_one_lease() {
    let mut leases = leases_of(&["a.example"]);
    let answer = [(ip("::ffff:192.0.2.1"), 60), (ip("192.0.2.1"), 30)];
    let changes = leases.answered(&name("a.example"), &answer, secs(0));
    assert_eq!(changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(
        leases.next_deadline(),
        Some(secs(630)),
        "the shorter TTL holds"
    );
}

#[test]
fn over_the_bound_the_stalest_goes_and_a_fresh_answer_takes_its_first() {
    let config = LeaseConfig {
        max_addresses_per_name: 2,
        ..LeaseConfig::default()
    };
    let mut leases = Leases::new(config).expect("valid");
    leases.set_names(&names(&["a.example"]), secs(0));
    let a = name("a.example");
    leases.answered(&a, &[(ip("192.0.2.1"), 60)], secs(0));
    leases.answered(&a, &[(ip("192.0.2.2"), 60)], secs(10));
    let changes = leases.answered(&a, &[(ip("192.0.2.3"), 60)], secs(20));
    assert_eq!(
        changes,
        [
            removed("a.example", "192.0.2.1"),
            added("a.example", "192.0.2.3")
        ],
        "removal first, so that a full map has room"
    );
    assert_eq!(leases.counters().evicted, 1);

    let many = ["192.0.2.9", "192.0.2.8", "192.0.2.7"].map(|s| (ip(s), 60));
    leases.answered(&a, &many, secs(30));
    let held: Vec<_> = leases
        .addresses(&a, secs(30))
        .map(|(addr, ..)| addr)
        .collect();
    assert_eq!(held, [ip("192.0.2.7"), ip("192.0.2.8")]);
    assert_eq!(leases.counters().answers_over_bound, 1);
}

#[test]
fn names_over_the_bound_are_left_out_and_counted() {
    let config = LeaseConfig {
        max_names: 2,
        ..LeaseConfig::default()
    };
    let mut leases = Leases::new(config).expect("valid");
    leases.set_names(&names(&["c.example", "a.example", "b.example"]), secs(0));
    assert_eq!(leases.counters().names_over_bound, 1);
    assert_eq!(leases.answer(&name("c.example"), secs(0)), None);
    leases.set_names(&names(&["c.example"]), secs(0));
    assert_eq!(leases.counters().names_over_bound, 0);
    assert_eq!(leases.answer(&name("c.example"), secs(0)), Some(vec![]));
}

#[test]
fn time_that_goes_back_changes_nothing() {
    let mut leases = leases_of(&["a.example"]);
    let a = name("a.example");
    leases.answered(&a, &[(ip("192.0.2.1"), 60)], secs(1000));
    assert_eq!(leases.expire(secs(5)), []);
    let left: Vec<_> = leases.addresses(&a, secs(5)).collect();
    assert_eq!(left, [(ip("192.0.2.1"), secs(660), true)]);
    leases.answered(&a, &[(ip("192.0.2.2"), 60)], secs(5));
    assert_eq!(leases.expire(secs(1659)), []);
    assert_eq!(leases.expire(secs(1660)).len(), 2);
}

#[test]
fn a_restart_on_the_same_boot_keeps_leases_and_another_boot_does_not() {
    let mut before = leases_of(&["a.example", "gone.example"]);
    let a = name("a.example");
    before.answered(
        &a,
        &[(ip("192.0.2.1"), 60), (ip("2001:db8::1"), 60)],
        secs(100),
    );
    before.answered(&name("gone.example"), &[(ip("192.0.2.7"), 60)], secs(100));
    let json = before.snapshot("boot-1\n").expect("snapshot");

    let mut after = leases_of(&["a.example", "new.example"]);
    let changes = after.restore(&json, "boot-1", secs(200)).expect("restore");
    assert_eq!(
        changes,
        [
            added("a.example", "192.0.2.1"),
            added("a.example", "2001:db8::1")
        ],
        "only names that the policy still has"
    );
    assert_eq!(
        after.next_deadline(),
        Some(secs(760)),
        "the deadline is kept"
    );
    assert_eq!(
        after.next_refresh(&a),
        Some(secs(0)),
        "and it is asked anew at once"
    );
    assert_eq!(after.status(secs(200))[0].last_success, Some(secs(100)));
    assert_eq!(
        after.restore(&json, "boot-1", secs(200)).expect("restore"),
        []
    );

    let mut other = leases_of(&["a.example"]);
    assert_eq!(
        other.restore(&json, "boot-2", secs(200)).expect("restore"),
        []
    );
    let mut late = leases_of(&["a.example"]);
    assert_eq!(
        late.restore(&json, "boot-1", secs(760)).expect("restore"),
        []
    );
}

#[test]
fn a_forged_snapshot_gives_no_more_than_an_answer_could() {
    let json = r#"{"version":1,"boot_id":"b","names":{"a.example":{"last_success_ms":99999999,
        "addresses":[{"addr":"127.0.0.1","deadline_ms":900000,"fresh":true},
                     {"addr":"192.0.2.1","deadline_ms":18446744073709551615,"fresh":true}]}}}"#;
    let mut leases = leases_of(&["a.example"]);
    let changes = leases.restore(json, "b", secs(10)).expect("restore");
    assert_eq!(changes, [added("a.example", "192.0.2.1")]);
    assert_eq!(leases.next_deadline(), Some(secs(10 + 3600 + 600)));
    assert_eq!(leases.status(secs(10))[0].last_success, Some(secs(10)));

    for bad in [
        "",
        "{}",
        r#"{"version":1,"boot_id":"b","names":{},"more":1}"#,
    ] {
        assert!(matches!(
            leases.restore(bad, "b", secs(10)),
            Err(RestoreError::Json(_))
        ));
    }
    let newer = r#"{"version":2,"boot_id":"b","names":{}}"#;
    assert!(matches!(
        leases.restore(newer, "b", secs(10)),
        Err(RestoreError::Version(2))
    ));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    type Edit = fn(&mut LeaseConfig);
    let cases: [(&str, Edit); 8] = [
        ("grace as long as clients keep answers", |c| {
            c.grace = CLIENT_TTL
        }),
        ("grace below min_ttl", |c| c.min_ttl = secs(700)),
        ("no min_ttl", |c| c.min_ttl = secs(0)),
        ("min_ttl above max_ttl", |c| c.max_ttl = secs(4)),
        ("grace of weeks", |c| c.grace = secs(1_000_000)),
        ("max_ttl of weeks", |c| c.max_ttl = secs(1_000_000)),
        ("no address", |c| c.max_addresses_per_name = 0),
        ("no names", |c| c.max_names = 0),
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
