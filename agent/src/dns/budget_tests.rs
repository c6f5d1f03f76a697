use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const HOUR: Duration = WINDOW;

fn limits(names: u32, bytes: u32, entropy_bits: u32) -> BudgetLimits {
    BudgetLimits {
        names,
        bytes,
        entropy_bits,
        ..BudgetLimits::default()
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn blocked(spent: &Spent) -> Option<Measure> {
    match spent {
        Spent::Blocked(exceeded) => Some(exceeded.measure),
        _ => None,
    }
}

#[test]
fn a_name_costs_once_an_hour() {
    let mut budget = Budget::new(limits(2, 1000, 1000), OverBudget::Block);
    let mut ask = |name: &str, at| budget.spend(name, "example.com", seconds(at));
    assert_eq!(ask("a.example.com", 0), Spent::Within);
    assert_eq!(ask("b.example.com", 10), Spent::Within);
    for at in 11..100 {
        assert_eq!(ask("a.example.com", at), Spent::Known, "asked again");
    }
    assert_eq!(blocked(&ask("c.example.com", 100)), Some(Measure::Names));
    assert_eq!(blocked(&ask("c.example.com", 3599)), Some(Measure::Names));
    assert_eq!(
        ask("c.example.com", 3600),
        Spent::Within,
        "a's hour is over"
    );
    assert_eq!(blocked(&ask("a.example.com", 3601)), Some(Measure::Names));
    assert_eq!(ask("a.example.com", 3610), Spent::Within);
}

#[test]
fn bytes_and_entropy_are_of_the_labels_below_the_registered_domain() {
    let mut budget = Budget::new(limits(100, 10, 1000), OverBudget::Block);
    // "aa.bbb" below, which is 6 with its dot.
    assert_eq!(
        budget.spend("aa.bbb.example.co.uk", "example.co.uk", seconds(0)),
        Spent::Within
    );
    assert_eq!(budget.spent("example.co.uk", seconds(0)).1, 6);
    assert_eq!(
        blocked(&budget.spend("abcde.example.co.uk", "example.co.uk", seconds(0))),
        Some(Measure::Bytes)
    );
    assert_eq!(
        budget.spend("abcd.example.co.uk", "example.co.uk", seconds(0)),
        Spent::Within
    );
    let mut budget = Budget::new(limits(100, 1000, 8), OverBudget::Block);
    assert_eq!(
        budget.spend("aaaaaaaaaaaa.example.com", "example.com", seconds(0)),
        Spent::Within
    );
    // Four characters that differ: two bits each.
    assert_eq!(
        budget.spend("abcd.example.com", "example.com", seconds(0)),
        Spent::Within
    );
    assert_eq!(
        blocked(&budget.spend("ab.example.com", "example.com", seconds(0))),
        Some(Measure::Entropy)
    );
    assert_eq!(
        budget.spend("a.example.com", "example.com", seconds(0)),
        Spent::Within
    );
}

#[test]
fn entropy_is_that_of_shannon() {
    for (text, bits) in [
        ("", 0),
        ("a", 0),
        ("aaaa", 0),
        ("ab", 2),
        ("abab", 4),
        ("abcd", 8),
    ] {
        assert_eq!(entropy_bits(text), bits, "{text}");
    }
    // 3 × log2(3) and a bit: rounded up.
    assert_eq!(entropy_bits("abc"), 5);
    let longest: String = (0..253u8).map(|n| char::from(b'!' + n % 94)).collect();
    assert!(entropy_bits(&longest) < 253 * 8);
}

#[test]
fn domains_are_apart() {
    let mut budget = Budget::new(limits(1, 1000, 1000), OverBudget::Block);
    for domain in ["one.example", "two.example"] {
        assert_eq!(
            budget.spend(&format!("a.{domain}"), domain, seconds(0)),
            Spent::Within
        );
    }
    assert!(blocked(&budget.spend("b.one.example", "one.example", seconds(0))).is_some());
}

#[test]
fn crossing_is_told_once_an_hour_and_only_blocked_if_the_policy_says_so() {
    let mut budget = Budget::new(limits(1, 1000, 1000), OverBudget::Block);
    budget.spend("a.example.com", "example.com", seconds(0));
    let tells: Vec<bool> = [1, 2, 3_000, 3_500]
        .map(
            |at| match budget.spend("b.example.com", "example.com", seconds(at)) {
                Spent::Blocked(exceeded) => {
                    assert_eq!(&*exceeded.domain, "example.com");
                    assert_eq!(exceeded.limit, 1);
                    exceeded.tell
                }
                other => panic!("{at}: {other:?}"),
            },
        )
        .into();
    assert_eq!(tells, [true, false, false, false]);

    budget.set_limits(limits(1, 1000, 1000), OverBudget::Report);
    let mut ask =
        |n: u32, at| budget.spend(&format!("{n}.example.com"), "example.com", seconds(at));
    assert_eq!(ask(1, 3_550), Spent::Within, "told within the hour");
    assert_eq!(ask(2, 3_600), Spent::Within, "a's hour is over");
    match ask(3, 3_601) {
        Spent::Reported(exceeded) => assert!(exceeded.tell),
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(4, 3_602), Spent::Within);
}

#[test]
fn memory_is_bounded_over_all_domains_and_comes_back() {
    let mut budget = Budget::new(limits(10, 1000, 1000), OverBudget::Block);
    for n in 0..MAX_NAMES {
        assert_eq!(
            budget.spend(&format!("a.d{n}.com"), &format!("d{n}.com"), seconds(0)),
            Spent::Within
        );
    }
    let more = budget.spend("a.more.com", "more.com", seconds(1));
    assert_eq!(blocked(&more), Some(Measure::Total));
    assert_eq!(budget.len(), MAX_NAMES);
    assert_eq!(
        budget.spend("a.d7.com", "d7.com", seconds(1)),
        Spent::Known,
        "paid for"
    );
    assert_eq!(budget.spend("a.more.com", "more.com", HOUR), Spent::Within);
    assert_eq!(budget.len(), 1);
    budget.tidy(HOUR * 3);
    assert!(budget.is_empty() && budget.domains.is_empty());
}

#[test]
fn a_repeat_costs_the_choice_among_all_and_comes_back_with_time() {
    const DOMAIN: &str = "example.com";
    let limits = BudgetLimits {
        repeat_bits: 600,
        ..limits(300, 8192, 24_000)
    };
    let mut budget = Budget::new(limits, OverBudget::Block);
    assert_eq!(budget.repeat(DOMAIN, 10, seconds(0)), Spent::Within, "none");
    for n in 0..100 {
        let name = format!("{n}.{DOMAIN}");
        assert_eq!(budget.spend(&name, DOMAIN, seconds(0)), Spent::Within);
    }
    // 100 bits at once, and one of 100 names in ten ways is 10 bits; then one each minute.
    for n in 0..10 {
        assert_eq!(budget.repeat(DOMAIN, 10, seconds(1)), Spent::Within, "{n}");
    }
    match budget.repeat(DOMAIN, 10, seconds(1)) {
        Spent::Blocked(exceeded) => {
            assert_eq!(
                (exceeded.measure, exceeded.limit, exceeded.tell),
                (Measure::Repeats, 600, true)
            );
            let text = "example.com: more than 600 bits of names asked again an hour";
            assert_eq!(exceeded.text(), text);
        }
        other => panic!("{other:?}"),
    }
    let allowed = |budget: &mut Budget, from: u64| {
        let asks = (from..from + 605).filter(|at| {
            let spent = budget.repeat(DOMAIN, 10, seconds(*at));
            spent == Spent::Within
        });
        asks.count()
    };
    assert_eq!(allowed(&mut budget, 2), 10, "in ten minutes");
    budget.set_limits(
        BudgetLimits {
            repeat_bits: 1_200,
            ..limits
        },
        OverBudget::Block,
    );
    assert_eq!(
        allowed(&mut budget, 607),
        30,
        "100 bits more at once, and 200 in time"
    );
    // A domain of one name is cheap: ten questions there are four bits.
    budget.spend("a.other.com", "other.com", seconds(1_300));
    let cheap = (0..50).filter(|_| {
        let spent = budget.repeat("other.com", 10, seconds(1_300));
        spent == Spent::Within
    });
    assert_eq!(cheap.count(), 50);
}

/// The same by the letter: every payment is kept for ever and looked through each time.
struct Naive {
    limits: BudgetLimits,
    paid: Vec<(Duration, String, String)>,
}

impl Naive {
    fn within(&mut self, name: &str, domain: &str, now: Duration) -> bool {
        let alive: Vec<_> = self
            .paid
            .iter()
            .filter(|(at, _, of)| of == domain && now - *at < HOUR)
            .collect();
        if alive.iter().any(|(_, known, _)| known == name) {
            return true;
        }
        let label = |name: &str| {
            let label = name.strip_suffix(domain).expect("below").to_owned();
            label.trim_end_matches('.').to_owned()
        };
        let mut all: Vec<String> = alive.iter().map(|(_, name, _)| label(name)).collect();
        all.push(label(name));
        let bytes: usize = all.iter().map(String::len).sum();
        let bits: u32 = all.iter().map(|label| naive_bits(label)).sum();
        let within = all.len() <= self.limits.names as usize
            && bytes <= self.limits.bytes as usize
            && bits <= self.limits.entropy_bits;
        if within {
            self.paid.push((now, name.to_owned(), domain.to_owned()));
        }
        within
    }
}

fn naive_bits(text: &str) -> u32 {
    let mut counts = HashMap::new();
    for c in text.chars() {
        *counts.entry(c).or_insert(0u32) += 1;
    }
    let n = f64::from(text.len() as u32);
    let h: f64 = counts
        .values()
        .map(|c| f64::from(*c) / n)
        .map(|p| -p * p.log2())
        .sum();
    // A hair less, so that the order of additions does not round up a whole number.
    (h * n - 1e-9).ceil() as u32
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_the_naive_count(
        names in 0u32..8,
        bytes in 0u32..40,
        bits in 0u32..60,
        asks in prop::collection::vec((0u64..1_500, "[ab]{0,4}(\\.[a-c]{1,2})?", 0usize..2), 1..80),
    ) {
        let limits = limits(names, bytes, bits);
        let mut budget = Budget::new(limits, OverBudget::Block);
        let mut naive = Naive { limits, paid: Vec::new() };
        let mut now = Duration::ZERO;
        for (pause, label, domain) in asks {
            now += seconds(pause);
            let domain = ["one.example", "two.example"][domain];
            let label = label.trim_matches('.');
            let name = if label.is_empty() { domain.to_owned() } else { format!("{label}.{domain}") };
            let expected = naive.within(&name, domain, now);
            let spent = budget.spend(&name, domain, now);
            let within = matches!(spent, Spent::Within | Spent::Known);
            prop_assert_eq!(within, expected, "{} at {:?}: {:?}", name, now, spent);
            let (n, b, e) = budget.spent(domain, now);
            prop_assert!(n <= u64::from(names) && b <= u64::from(bytes) && e <= u64::from(bits));
        }
    }

    #[test]
    fn whatever_is_asked_memory_stays_within_its_bound(
        asks in prop::collection::vec((0u64..100, "[a-z]{1,3}\\.[a-z]{1,3}\\.(com|io|github\\.io|x)"), 1..200),
    ) {
        let mut budget = Budget::new(limits(5, 100, 100), OverBudget::Report);
        let mut now = Duration::ZERO;
        for (pause, name) in asks {
            now += seconds(pause);
            let (_, domain) = name.split_once('.').expect("two labels");
            budget.spend(&name, domain, now);
            let held: usize = budget.domains.values().map(|domain| domain.paid.len()).sum();
            prop_assert_eq!(held, budget.len());
            prop_assert!(budget.domains.values().all(|d| d.paid.len() <= 5 && d.names.len() == d.paid.len()));
        }
    }
}
