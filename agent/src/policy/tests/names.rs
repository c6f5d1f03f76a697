//! Which names the gate answers, against a naive reference.

use super::verdicts::{Random, means};
use crate::policy::{
    Answers, BASE_TYPES, HostPattern, NameRule, Policy, Rule, Selector, parse, type_name,
};
use agent_common::verdict::Action;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn agent(rules: &str) -> Policy {
    let text = format!("version: 1\nagents:\n  a:\n{rules}");
    let set = parse("p.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    set.agents["a"].clone()
}

/// Every rule is looked at for every name.
fn naive(policy: &Policy, name: &str) -> Option<NameRule> {
    let matching = |action| {
        policy.rules.iter().filter(move |rule| {
            let hit = matches!(&rule.selector, Selector::Host(pattern) if means(pattern, name));
            hit && rule.action == action
        })
    };
    if matching(Action::Deny).next().is_some() {
        return None;
    }
    let rules: Vec<&Rule> = matching(Action::Allow).collect();
    if rules.is_empty() {
        return None;
    }
    let pattern = |rule: &Rule| match &rule.selector {
        Selector::Host(pattern) => pattern.clone(),
        Selector::Net(_) => unreachable!("filtered"),
    };
    let answers = || rules.iter().filter_map(|rule| rule.answers.as_deref());
    let mut bases: Vec<_> = rules.iter().map(|rule| pattern(rule)).collect();
    bases.sort_by_key(|pattern| pattern.base().as_str().len());
    let exact = bases.iter().any(|pattern| !pattern.is_wildcard());
    Some(NameRule {
        types: answers()
            .flat_map(|answers| answers.types.clone())
            .chain(BASE_TYPES)
            .collect(),
        private: answers().any(|answers| answers.private),
        keep_ech: answers().any(|answers| answers.keep_ech),
        wildcard: bases.last().filter(|_| !exact).map(|p| p.base().clone()),
    })
}

/// Names of one to five labels out of three, so that rules meet.
fn name(random: &mut Random) -> String {
    let labels: Vec<&str> = (0..=random.below(5))
        .map(|_| ["a", "b", "_c"][random.below(3) as usize])
        .collect();
    labels.join(".")
}

const EXTRA: [u16; 4] = [15, 16, 33, 65400];

fn answers(random: &mut Random) -> Answers {
    Answers {
        types: EXTRA.into_iter().filter(|_| random.below(6) == 0).collect(),
        private: random.below(4) == 0,
        keep_ech: random.below(4) == 0,
    }
}

/// Its rules as YAML.
fn policy(random: &mut Random) -> (String, Vec<Answers>) {
    let (mut allow, mut deny, mut said) = (String::new(), String::new(), Vec::new());
    for _ in 0..random.below(8) {
        let star = ["", "*."][random.below(2) as usize];
        let host = format!("\"{star}{}\"", name(random));
        if random.below(5) == 0 {
            deny += &format!("    - {{host: {host}}}\n");
            continue;
        }
        let answers = answers(random);
        let mut keys = String::new();
        if answers.private {
            keys += ", private: true";
        }
        if answers.keep_ech {
            keys += ", ech: keep";
        }
        if !answers.types.is_empty() {
            let types: Vec<_> = answers.types.iter().map(|t| type_name(*t)).collect();
            keys += &format!(", types: [{}]", types.join(", "));
        }
        allow += &format!("    - {{host: {host}, ports: [443]{keys}}}\n");
        said.push(answers);
    }
    (format!("    allow:\n{allow}    deny:\n{deny}"), said)
}

/// Compares; returns how many names were answered, and how many of them by a wildcard.
fn compare(seed: u64) -> (u32, u32) {
    let mut random = Random::new(seed);
    let (text, said) = policy(&mut random);
    let policy = agent(&text);
    let read: Vec<Answers> = policy
        .rules
        .iter()
        .filter(|rule| rule.action == Action::Allow)
        .map(|rule| rule.answers.as_deref().cloned().unwrap_or_default())
        .collect();
    assert_eq!(read, said, "what is written is read\n{text}");
    let rules = policy.names();
    let (mut found, mut wild) = (0, 0);
    for _ in 0..40 {
        let name = name(&mut random);
        let want = naive(&policy, &name);
        assert_eq!(rules.find(&name), want, "{name}\n{text}");
        let shouted = name.to_uppercase() + ".";
        assert_eq!(rules.find(&shouted), want, "{shouted}\n{text}");
        found += u32::from(want.is_some());
        wild += u32::from(want.is_some_and(|rule| rule.wildcard.is_some()));
    }
    (found, wild)
}

#[test]
fn names_are_found_as_the_words_say() {
    const POLICIES: u32 = 1_500;
    let (mut found, mut wild) = (0, 0);
    for seed in 0..POLICIES {
        let (f, w) = compare(seed.into());
        (found, wild) = (found + f, wild + w);
    }
    // The comparison means little if nearly all names go one way.
    let asked = POLICIES * 40;
    assert!(
        found > asked / 20 && found < asked / 2,
        "{found} of {asked}"
    );
    assert!(
        wild > found / 10 && wild < found - found / 50,
        "{wild} of {found}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn seed_is_found_as_the_words_say(seed: u64) {
        compare(seed);
    }

    #[test]
    fn a_pattern_covers_what_it_means(outer: u64, inner: u64) {
        let pattern = |seed| -> HostPattern {
            let mut random = Random::new(seed);
            let star = ["", "*."][random.below(2) as usize];
            format!("{star}{}", name(&mut random)).parse().expect("pattern")
        };
        let (outer, inner) = (pattern(outer), pattern(inner));
        let base = inner.base();
        let example = match &inner {
            HostPattern::Exact(_) => base.to_string(),
            HostPattern::Below(_) => format!("zz.{base}"),
        };
        prop_assert_eq!(outer.covers(&inner), means(&outer, &example));
    }
}

#[test]
fn what_is_answered_for_a_name() {
    let rules = agent(
        "    allow:\n    - {host: \"*.example.com\", ports: [443], types: [TXT]}\n    - {host: api.example.com, ports: [443], private: true}\n    - {host: \"*.lab.example.com\", ports: [22], ech: keep}\n    - {host: printer, ports: [631]}\n    - {cidr: 10.0.0.0/8, ports: all}\n    deny:\n    - {host: bad.example.com, ports: [25]}\n    - {host: \"*.worse.example.com\"}\n",
    )
    .names();
    let txt: BTreeSet<u16> = BASE_TYPES.into_iter().chain([16]).collect();
    let find = |name| {
        let rule: NameRule = rules.find(name)?;
        let wildcard = rule.wildcard.as_ref().map(|base| base.as_str().to_owned());
        Some((rule.types == txt, rule.private, rule.keep_ech, wildcard))
    };
    let below = |base: &str| Some(base.to_owned());
    // An exact rule and the wildcard above it count together.
    assert_eq!(find("api.example.com"), Some((true, true, false, None)));
    assert_eq!(
        find("www.example.com"),
        Some((true, false, false, below("example.com")))
    );
    assert_eq!(
        find("x.y.lab.EXAMPLE.com."),
        Some((true, false, true, below("lab.example.com")))
    );
    assert_eq!(find("printer"), Some((false, false, false, None)));
    for refused in [
        "example.com",
        "com",
        "bad.example.com",
        "x.worse.example.com",
        "printer.local",
        r"x\.example.com",
        "x y.example.com",
        "*.example.com",
        "10.0.0.1",
        ".",
        "",
    ] {
        assert_eq!(find(refused), None, "{refused}");
    }
    // Only what is below it.
    assert!(find("worse.example.com").is_some());
    assert!(find("x.bad.example.com").is_some());
}

#[test]
fn a_policy_without_hosts_answers_nothing() {
    let rules = agent("    allow:\n    - {cidr: 0.0.0.0/0, ports: all}\n").names();
    assert_eq!(rules.find("example.com"), None);
    let denied = agent("    deny:\n    - {host: \"*.com\"}\n").names();
    assert_eq!(denied.find("example.com"), None);
    assert_eq!(denied.find("example.org"), None);
    // It allows nothing, so it needs no room for addresses either.
    assert!(!denied.allows_wildcards());
    let below = agent("    allow:\n    - {host: \"*.example.com\", ports: [443]}\n").names();
    assert!(below.allows_wildcards());
    let exact = agent("    allow:\n    - {host: example.com, ports: [443]}\n").names();
    assert!(!exact.allows_wildcards());
}

#[test]
fn whose_budget_a_question_uses() {
    let rules = agent(
        "    allow:\n    - {host: \"*.a.example.com\", ports: [443]}\n    - {host: b.example.com, ports: [443]}\n    - {host: \"*.github.io\", ports: [443]}\n    - {host: \"*.corp\", ports: [443]}\n",
    )
    .names();
    for (name, want) in [
        ("x.a.example.com", Some("example.com")),
        ("b.example.com", None),
        // Whoever may choose the registered domain must not get a budget for each.
        ("x.me.github.io", Some("github.io")),
        ("me.github.io", Some("github.io")),
        ("x.y.corp", Some("corp")),
    ] {
        let rule = rules.find(name).expect(name);
        assert_eq!(rule.budget_of(name), want, "{name}");
    }
}

/// `cargo test --release -p exeat -- --ignored --nocapture a_look_up`: what one look-up
/// costs. Without --release the number means nothing.
#[test]
#[ignore = "a measurement"]
fn a_look_up_of_a_name() {
    let mut text = String::from("    allow:\n");
    for i in 0..100_000 {
        text += &format!("    - {{host: h{i}.example.com, ports: [443]}}\n");
        text += &format!("    - {{host: \"*.w{i}.example.com\", ports: [443]}}\n");
    }
    let rules = agent(&text).names();
    for name in [
        "h777.example.com",
        "a.b.c.w777.example.com",
        "a.b.c.d.example.org",
    ] {
        let start = std::time::Instant::now();
        let mut found = 0;
        for _ in 0..1_000_000 {
            found += u32::from(rules.find(std::hint::black_box(name)).is_some());
        }
        println!(
            "{name}: {:?} a look-up, {found} found",
            start.elapsed() / 1_000_000
        );
    }
}

#[test]
fn a_name_is_undecided_where_no_rule_says_anything_of_it() {
    let text = "version: 1\nagents:\n  a:\n    allow:\n    - {host: a.example, ports: [443]}\n    - {host: \"*.wild.example\", ports: [443]}\n    deny:\n    - {host: no.example}\n    - {host: \"*.evil.example\"}\n";
    let set = crate::policy::parse("p.yaml", text).expect("policy");
    let names = set.agents.values().next().expect("agent").names();
    for name in [
        "b.example",
        "B.example.",
        "wild.example",
        "evil.example",
        "x.a.example",
    ] {
        assert!(names.silent_of(name), "{name}");
    }
    for name in [
        "a.example",
        "A.Example",
        "x.wild.example",
        "no.example",
        "x.evil.example",
        "y.x.evil.example",
        "no host",
        "",
    ] {
        assert!(!names.silent_of(name), "{name}");
    }
}

#[test]
fn what_a_person_denied_is_never_resolved() {
    let text = "version: 1\nagents:\n  a:\n    allow:\n    - {host: a.example, ports: [443]}\n    deny:\n    - {host: no.example}\n    - {host: secret.example}\n";
    let mut set = crate::policy::parse("p.yaml", text).expect("policy");
    let policy = set.agents.values_mut().next().expect("agent");
    let hosts = |policy: &crate::policy::Policy| -> Vec<String> {
        policy.hosts().iter().map(ToString::to_string).collect()
    };
    assert_eq!(hosts(policy), ["a.example", "no.example", "secret.example"]);
    policy.rules[2].origin.file = "grant abc234".into();
    assert_eq!(hosts(policy), ["a.example", "no.example"]);
    assert!(policy.names().find("secret.example").is_none());
    assert!(!policy.names().silent_of("secret.example"));
}
