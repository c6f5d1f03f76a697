//! How many series a laptop has, and a fleet of them: docs/sizing.md reckons with these numbers.

use std::collections::BTreeSet;

use super::reference::one_of_each;
use super::*;

/// Laptops of the fleet on paper.
const FLEET: usize = 100_000;

/// A laptop as it is: the walls of a daemon, ten maps and hooks at most, one DNS server or two, and
/// its agents.
fn laptop(agents: usize) -> Snapshot {
    let mut s = one_of_each();
    let one = s.walls[0].clone();
    s.walls = (0..WALLS)
        .map(|n| crate::control::status::Wall {
            name: format!("wall-{n}"),
            ..one.clone()
        })
        .collect();
    s.programs = (0..WALLS).map(|n| (format!("hook-{n}"), 1)).collect();
    let agent = s.agents[0].clone();
    // One more, for processes that belong to none.
    s.agents = (0..=agents)
        .map(|n| AgentSample {
            name: format!("agent-{n}"),
            ..agent.clone()
        })
        .collect();
    let server = s.dns.upstreams[0].clone();
    s.dns.upstreams.push(UpstreamSample {
        label: "192.0.2.54:53".into(),
        ..server
    });
    s
}

/// Walls that a daemon shows at most, and hooks.
const WALLS: usize = 40;

/// Each series of a page, as a receiver tells them apart.
fn series(snapshot: &Snapshot) -> BTreeSet<String> {
    let page = encode(snapshot).expect("page");
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').expect("a value").0.to_owned())
        .collect()
}

/// docs/sizing.md, "a laptop has at most": without agents, and for each of them.
fn promised() -> (usize, usize) {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sizing.md"))
        .expect("docs/sizing.md");
    let number = |after: &str| {
        let (_, rest) = text
            .split_once(after)
            .unwrap_or_else(|| panic!("`{after}` in sizing.md"));
        let digits = rest.trim_start().split(' ').next().expect("a number");
        digits.parse().expect("a number")
    };
    (number("A laptop has at most"), number("series, and"))
}

#[test]
fn a_laptop_has_no_more_series_than_the_documents_say() {
    let (fixed, each) = promised();
    let count = |agents| series(&laptop(agents)).len();
    let (none, one, ten) = (count(0), count(1), count(10));
    let agent = one - none;
    assert_eq!(ten - none, 10 * agent, "each agent costs the same");
    // The one for processes of no agent is in the fixed part.
    assert!(none <= fixed, "{none} series without an agent");
    assert!(agent <= each, "{agent} series for an agent");
    // A promise far above what is true would be none.
    assert!(
        none * 10 > fixed * 8 && agent * 10 > each * 8,
        "{none} {agent}"
    );
}

#[test]
fn nothing_that_an_agent_does_makes_a_series() {
    let before = laptop(3);
    let mut after = before.clone();
    after.version = before.version.clone();
    for (n, agent) in after.agents.iter_mut().enumerate() {
        let n = n as u64 + 1;
        for by_protocol in &mut agent.stats.blocked {
            by_protocol.iter_mut().for_each(|count| *count += n);
        }
        agent.stats.allowed.iter_mut().for_each(|count| *count += n);
        agent.stats.sent_bytes = n;
        agent.stats.events_throttled = n;
        agent.incidents.iter_mut().for_each(|count| *count += n);
        agent
            .gate
            .queries
            .iter_mut()
            .flatten()
            .for_each(|count| *count += n);
        agent.gate.outcomes.iter_mut().for_each(|count| *count += n);
        agent.gate.drops.iter_mut().for_each(|count| *count += n);
        agent
            .gateway
            .outcomes
            .iter_mut()
            .for_each(|count| *count += n);
        agent.leases = n;
    }
    after.events_lost.iter_mut().for_each(|count| *count += 1);
    after
        .approvals
        .iter_mut()
        .flatten()
        .for_each(|count| *count += 1);
    after.degraded = vec!["anything".into()];
    assert_eq!(series(&after), series(&before));
}

#[test]
fn of_a_hundred_thousand_laptops_only_what_is_named_tells_them_apart() {
    // Without the label of the laptop: what dashboards group by must not grow with the fleet.
    // Laptops differ in the number of their agents; all have agents of the same stock names.
    let mut all = BTreeSet::new();
    let mut sum = 0;
    let pages: Vec<BTreeSet<String>> = (0..=10).map(|agents| series(&laptop(agents))).collect();
    for laptop in 0..FLEET {
        let page = &pages[laptop % pages.len()];
        sum += page.len();
        if laptop < pages.len() {
            all.extend(page.iter().cloned());
        }
    }
    assert_eq!(
        all.len(),
        pages.iter().map(BTreeSet::len).max().expect("one")
    );
    let (fixed, each) = promised();
    assert!(sum <= FLEET * (fixed + 5 * each), "{sum}");
}
