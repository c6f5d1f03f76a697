//! Questions about names that no rule decides: held while a person is asked.
//!
//! ```text
//! a query ─ no rule, and a person may be asked ─→ held ─┬ granted ─→ judged anew, as any other
//!                                                       ├ denied ──→ refused, as the policy says
//!                                                       └ 4 s ─────→ no answer: the client asks
//!                                                                    again, and joins the question
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::leases::Name;

/// The longest that one query is held, from its arrival. Resolvers ask again after five seconds
/// (glibc, Go) or less, and take an answer that comes later for one to nobody.
pub const HELD_TIME: Duration = Duration::from_secs(4);

/// The most queries of one agent that are held at once; more are refused.
pub const MAX_HELD: usize = 64;

/// Ends of names that never leave a network, which nobody outside could be asked about.
const LOCAL: &[&str] = &[
    "alt",
    "arpa",
    "belkin",
    "corp",
    "domain",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "mshome",
    "onion",
    "private",
    "workgroup",
];

/// Names that are remembered as just asked.
const REMEMBERED: usize = 64;
/// For how long: a resolver goes through its search list within its time-outs.
const MEMORY: Duration = Duration::from_secs(30);

/// Whether a name is one that a person can be asked about: of the internet, and not a machine
/// nearby or a reverse look-up.
pub fn is_askable(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(host, last)| !host.is_empty() && !LOCAL.contains(&last))
}

/// The names that were asked lately. A resolver that got no address for `host.example` asks for
/// `host.example.lan` next, and so on through its search list: nobody means those.
#[derive(Debug, Default)]
pub struct Lately {
    names: VecDeque<(Name, Duration)>,
}

impl Lately {
    /// Whether a name is another one that was asked lately, or that `allowed` says is allowed,
    /// with something behind it. Remembers it, if not.
    pub fn is_appended(
        &mut self,
        name: &Name,
        now: Duration,
        allowed: impl Fn(&str) -> bool,
    ) -> bool {
        self.names.retain(|(_, until)| *until > now);
        let short = |short: &str| {
            let rest = name.strip_prefix(short);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        if self.names.iter().any(|(before, _)| short(before)) {
            return true;
        }
        let whole: &str = name;
        let dots = whole.match_indices('.').skip(1);
        if dots.filter_map(|(at, _)| whole.get(..at)).any(allowed) {
            return true;
        }
        self.names.retain(|(before, _)| before != name);
        if self.names.len() >= REMEMBERED {
            self.names.pop_front();
        }
        self.names.push_back((Name::clone(name), now + MEMORY));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_networks_nearby_are_nobodys_question() {
        for name in ["api.example.com", "a.example", "xn--bcher-kva.example"] {
            assert!(is_askable(name), "{name}");
        }
        for name in [
            "",
            "localhost",
            "wpad",
            "printer.local",
            "router.lan",
            "10.in-addr.arpa",
            "x.onion",
            "db.corp",
            ".com",
            "a.internal",
        ] {
            assert!(!is_askable(name), "{name}");
        }
    }

    #[test]
    fn what_a_search_list_makes_of_a_name_is_not_asked() {
        let mut lately = Lately::default();
        let second = Duration::from_secs;
        let ask = |lately: &mut Lately, name: &str, now| {
            lately.is_appended(&Name::from(name), second(now), |name| {
                name == "api.allowed.example"
            })
        };
        assert!(!ask(&mut lately, "host.example", 0));
        assert!(
            !ask(&mut lately, "host.example", 1),
            "it may be asked again"
        );
        assert!(ask(&mut lately, "host.example.company.example", 2));
        assert!(
            !ask(&mut lately, "host.examples.example", 2),
            "whole labels"
        );
        assert!(ask(&mut lately, "api.allowed.example.company.example", 2));
        assert!(!ask(&mut lately, "other.company.example", 2));
        assert!(
            !ask(&mut lately, "host.example.company.example", 40),
            "long ago"
        );
        for n in 0..1_000 {
            ask(&mut lately, &format!("n{n}.flood.example"), 41);
        }
        assert!(lately.names.len() <= REMEMBERED);
    }
}
