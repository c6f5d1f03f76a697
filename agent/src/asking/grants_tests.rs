use super::*;
use crate::asking::Who;
use crate::policy;
use proptest::prelude::*;

fn grant(id: &str, subject: GrantSubject, ruling: Ruling, lasts: Lasts) -> Grant {
    let given: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
    Grant {
        id: id.to_owned(),
        agent: "bot".to_owned(),
        run: None,
        ruling,
        subject,
        port: None,
        lasts,
        by: Who {
            uid: 1000,
            name: Some("ann".to_owned()),
            via: "cli".to_owned(),
        },
        why: None,
        question: None,
        program: None,
        given,
        until: crate::asking::until(lasts, given).expect("until"),
    }
}

fn name(name: &str) -> GrantSubject {
    GrantSubject::Name {
        name: name.to_owned(),
    }
}

fn base(rules: &str) -> Policy {
    let text = format!("version: 1\nagents:\n  bot:\n{rules}");
    let set = policy::parse("t.yaml", &text).expect("a policy");
    set.agents.into_values().next().expect("an agent")
}

fn wall(seconds: i64) -> Timestamp {
    let given: Timestamp = "2026-03-04T12:00:00Z".parse().expect("time");
    given + SignedDuration::from_secs(seconds)
}

fn boot(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn hour() -> Grant {
    grant(
        "hourly",
        name("x.example.com"),
        Ruling::Allow,
        Lasts::For { seconds: 3600 },
    )
}

fn never(_: &Grant) -> bool {
    false
}

#[test]
fn time_is_over_by_whichever_clock_says_so_first() {
    for (passed, calendar, over) in [
        (3599, 3599, false),
        (3600, 3600, true),
        // A clock that is set back prolongs nothing, however often.
        (3600, -100_000, true),
        (3599, -100_000, false),
        // One that is set forward ends it.
        (1, 3600, true),
    ] {
        let mut grants = Grants::default();
        grants.add(hour(), boot(50), wall(0)).expect("added");
        grants.end(boot(60), wall(10), never);
        let ended = grants.end(boot(50 + passed), wall(calendar), never);
        assert_eq!(ended.len(), usize::from(over), "{passed} {calendar}");
    }
}

#[test]
fn a_restart_and_a_reboot_prolong_nothing() {
    let mut grants = Grants::default();
    grants.add(hour(), boot(50), wall(0)).expect("added");
    grants.end(boot(1050), wall(1000), never);
    let bytes = grants.to_bytes("one").expect("bytes");
    let back = |boot_id: &str, now, calendar| {
        let mut back =
            Grants::from_bytes(&bytes, boot_id, boot(now), wall(calendar)).expect("back");
        back.end(boot(now), wall(calendar), never).is_empty()
    };
    assert!(back("one", 3649, 3599));
    assert!(
        !back("one", 3650, 0),
        "the same boot, the calendar set back"
    );
    assert!(back("two", 5, 3599));
    assert!(!back("two", 5, 3600), "off for that long");
    // Set back while it was off: no more is left than was.
    let mut later = Grants::from_bytes(&bytes, "two", boot(5), wall(-9999)).expect("back");
    assert!(later.end(boot(5 + 2599), wall(-9999), never).is_empty());
    assert_eq!(later.end(boot(5 + 2600), wall(-9999), never).len(), 1);
}

proptest! {
    #[test]
    fn no_walk_of_the_clocks_prolongs(steps in proptest::collection::vec((0..500u64, -9000..9000i64, any::<bool>()), 1..60)) {
        let mut grants = Grants::default();
        grants.add(hour(), boot(0), wall(0)).expect("added");
        let (mut now, mut id) = (0, 0);
        for (pass, calendar, reboot) in steps {
            now += pass;
            grants.end(boot(now), wall(calendar), never);
            if reboot {
                let bytes = grants.to_bytes(&id.to_string()).expect("bytes");
                // Each boot's clock begins anew; here it goes on, which says the same.
                id += 1;
                grants = Grants::from_bytes(&bytes, &id.to_string(), boot(now), wall(calendar)).expect("back");
            }
            prop_assert!(now < 3600 || grants.get("hourly").is_none());
        }
    }
}

#[test]
fn rubbish_is_refused_whole() {
    let mut grants = Grants::default();
    grants.add(hour(), boot(0), wall(0)).expect("added");
    let bytes = grants.to_bytes("one").expect("bytes");
    let text = String::from_utf8(bytes.clone()).expect("text");
    let read = |text: &str| Grants::from_bytes(text.as_bytes(), "one", boot(0), wall(0));
    assert!(read(&text).is_ok());
    for end in 0..text.len() {
        assert!(read(&text[..end]).is_err(), "cut at {end}");
    }
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("x.example.com", "*.com"),
        ("x.example.com", "x y"),
        // A time that was taken out of it would hold for ever.
        (",\"left\":3600000", ""),
        ("\"until\":\"2026-03-04T13:00:00Z\"", "\"until\":null"),
        ("\"kind\":\"for\",\"seconds\":3600", "\"kind\":\"always\""),
    ] {
        let spoilt = text.replace(from, to);
        assert_ne!(spoilt, text, "{from}");
        assert!(read(&spoilt).is_err(), "{to}");
    }
}

#[test]
fn an_agent_has_so_many_and_no_more() {
    let mut grants = Grants::default();
    for n in 0..MOST {
        let one = grant(
            &format!("g{n}"),
            name("x.example.com"),
            Ruling::Allow,
            Lasts::Always,
        );
        grants.add(one, boot(0), wall(0)).expect("room");
    }
    let more = grant("more", name("x.example.com"), Ruling::Allow, Lasts::Always);
    assert!(matches!(
        grants.add(more.clone(), boot(0), wall(0)),
        Err(AnswerError::Failed(_))
    ));
    let other = Grant {
        agent: "other".to_owned(),
        ..more
    };
    grants.add(other, boot(0), wall(0)).expect("another's room");
}

#[test]
fn grants_are_rules_behind_those_of_the_policy() {
    let base = base(
        "    allow:\n      - { host: a.example.com, ports: [443] }\n    deny:\n      - { host: bad.example.com }\n",
    );
    let domain = GrantSubject::Domain {
        domain: "example.org".to_owned(),
    };
    let mut grants = Grants::default();
    grants
        .add(
            grant("gb", domain, Ruling::Allow, Lasts::Always),
            boot(0),
            wall(1),
        )
        .expect("added");
    let narrow = Grant {
        port: Some(443),
        why: Some("the\nbuild".to_owned()),
        ..grant("ga", name("x.example.com"), Ruling::Allow, Lasts::Always)
    };
    grants.add(narrow, boot(0), wall(0)).expect("added");
    let joined = grants.join(&base);
    assert_eq!(joined.rules[..2], base.rules[..]);
    let lines: Vec<String> = joined.rules[2..].iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "allow tcp x.example.com:443 (allowed by ann: the build)",
            "allow tcp example.org:all (allowed by ann)",
            "allow udp example.org:1-442,444-65535 (allowed by ann)",
            "allow tcp *.example.org:all (allowed by ann)",
            "allow udp *.example.org:1-442,444-65535 (allowed by ann)",
        ]
    );
    for (index, rule) in joined.rules.iter().enumerate() {
        assert_eq!(rule.number as usize, index);
    }
    assert_eq!(joined.rules[2].origin.to_string(), "grant ga:1");
    policy::Compiled::new(&joined).expect("it compiles");
}

#[test]
fn denials_are_deny_rules_but_for_a_port_of_a_name() {
    let denied = grant("d", name("x.example.com"), Ruling::Deny, Lasts::Always);
    let lines = |grant: &Grant| -> Vec<String> {
        let rules = rules_of(grant).expect("rules");
        rules.iter().map(ToString::to_string).collect()
    };
    assert_eq!(lines(&denied), ["deny any x.example.com (denied by ann)"]);
    let narrow = Grant {
        port: Some(22),
        ..denied
    };
    assert!(lines(&narrow).is_empty());
    let address = Grant {
        subject: GrantSubject::Address {
            address: "192.0.2.1".parse().expect("address"),
        },
        ..narrow
    };
    assert_eq!(lines(&address), ["deny any 192.0.2.1:22 (denied by ann)"]);
}

#[test]
fn what_a_deny_rule_covers_cannot_be_granted() {
    let base = base(
        "    deny:\n      - { host: bad.example.com, ports: [22] }\n      - { host: '*.evil.com' }\n      - { cidr: 10.0.0.0/8 }\n      - { cidr: 192.0.2.0/24, ports: [22] }\n",
    );
    let allowed = |subject: GrantSubject, port: Option<u16>| {
        let grant = Grant {
            port,
            ..grant("g", subject, Ruling::Allow, Lasts::Always)
        };
        forbidden_by(&base, &grant).map(ToString::to_string)
    };
    let at = |text: &str| GrantSubject::Address {
        address: text.parse().expect("address"),
    };
    let domain = |text: &str| GrantSubject::Domain {
        domain: text.to_owned(),
    };
    // A name that is denied at all is not even looked up.
    assert!(allowed(name("bad.example.com"), Some(443)).is_some());
    assert!(allowed(name("a.evil.com"), None).is_some());
    assert!(allowed(domain("evil.com"), None).is_some());
    assert!(allowed(at("10.1.2.3"), Some(443)).is_some());
    assert!(allowed(at("192.0.2.7"), Some(22)).is_some());
    for (subject, port) in [
        (name("evil.com"), None),
        (name("good.example.com"), None),
        (domain("example.com"), None),
        (at("192.0.2.7"), Some(443)),
        (at("192.0.2.7"), None),
        (at("11.0.0.1"), None),
    ] {
        assert_eq!(allowed(subject, port), None);
    }
}

#[test]
fn addresses_that_nobody_or_only_administrators_grant() {
    for (address, admin, user) in [
        ("203.0.113.1", true, true),
        ("10.0.0.1", true, false),
        ("192.168.1.1", true, false),
        ("127.0.0.1", false, false),
        ("169.254.169.254", false, false),
        ("::ffff:169.254.169.254", false, false),
        ("0.0.0.0", false, false),
    ] {
        let address: IpAddr = address.parse().expect("address");
        // Documentation addresses are no public ones everywhere: what `canonical` says counts.
        let user = user && canonical(address, false).is_some();
        assert_eq!(check_address(address, true).is_ok(), admin, "{address}");
        assert_eq!(check_address(address, false).is_ok(), user, "{address}");
    }
}

#[test]
fn users_answer_narrowly_and_for_a_while() {
    let choice = |ruling, lasts, breadth| Choice {
        ruling,
        lasts,
        breadth,
    };
    let day = Lasts::For { seconds: 86_400 };
    let longer = Lasts::For { seconds: 86_401 };
    let (allow, deny) = (Ruling::Allow, Ruling::Deny);
    let much = |choice| too_much(&choice, Users::default()).is_some();
    assert!(!much(choice(allow, day, Breadth::This)));
    assert!(!much(choice(allow, Lasts::Run, Breadth::Port { port: 1 })));
    assert!(much(choice(allow, longer, Breadth::This)));
    assert!(much(choice(allow, Lasts::Always, Breadth::This)));
    assert!(much(choice(allow, Lasts::Once, Breadth::Domain)));
    assert!(!much(choice(deny, Lasts::Always, Breadth::Domain)));
    let users = Users {
        always: true,
        domain: true,
    };
    assert!(too_much(&choice(allow, Lasts::Always, Breadth::Domain), users).is_none());
}

#[test]
fn grants_as_a_policy_are_a_policy() {
    let hostile = Grant {
        why: Some("\"} ]\n  evil: { allow: all } # \u{1b}[2J".to_owned()),
        ..hour()
    };
    let all = [
        hostile,
        grant(
            "b",
            GrantSubject::Domain {
                domain: "example.org".to_owned(),
            },
            Ruling::Allow,
            Lasts::Run,
        ),
        grant("c", name("no.example.com"), Ruling::Deny, Lasts::Always),
        Grant {
            port: Some(5432),
            ..grant(
                "d",
                GrantSubject::Address {
                    address: "2001:db8::1".parse().expect("address"),
                },
                Ruling::Allow,
                Lasts::Always,
            )
        },
    ];
    let text = as_policy(&all);
    let set = policy::parse("export.yaml", &text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    assert_eq!(set.agents.len(), 1, "{text}");
    let policy = set.agents.values().next().expect("an agent");
    let mut kept: Vec<Rule> = all
        .iter()
        .flat_map(|g| rules_of(g).expect("rules"))
        .collect();
    kept.sort_by_key(|rule| rule.action == Action::Deny);
    let what = |rule: &Rule| {
        let mut rule = rule.clone();
        (rule.number, rule.origin) = (
            0,
            Origin {
                file: "".into(),
                line: 0,
            },
        );
        rule
    };
    let written: Vec<Rule> = policy.rules.iter().map(what).collect();
    assert_eq!(written, kept.iter().map(what).collect::<Vec<_>>(), "{text}");
    assert!(policy::parse("none.yaml", &as_policy(&[])).is_ok());
}
