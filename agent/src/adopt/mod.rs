//! Whose is it? From facts about a cgroup or a program to the agent that a policy's `match:`
//! gives it to. Pure, but for [`containers`], which reads what the engines write.

pub mod containers;
mod names;

use std::{collections::HashMap, path::Path};

use globset::GlobMatcher;

pub use containers::Container;
pub use names::container_id;

use crate::policy::MatchBy;

/// A selector of an agent, ready to match.
#[derive(Clone, Debug)]
struct Rule {
    agent: String,
    by: MatchBy,
    glob: Option<GlobMatcher>,
}

/// Whose it is, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The agent.
    pub agent: &'a str,
    /// The selector.
    pub by: &'a MatchBy,
}

/// Every selector of every agent, those that come first before the others.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    cgroups: Vec<Rule>,
    programs: Vec<Rule>,
    /// Selectors by digest, by index in `programs`: there may be many.
    digests: HashMap<String, usize>,
    containers: bool,
}

impl Rules {
    /// From the selectors of each agent.
    pub fn new<'a>(
        agents: impl IntoIterator<Item = (&'a str, &'a std::collections::BTreeSet<MatchBy>)>,
    ) -> Self {
        let mut all: Vec<Rule> = agents
            .into_iter()
            .flat_map(|(agent, selectors)| {
                selectors.iter().map(|by| Rule {
                    agent: agent.to_owned(),
                    by: by.clone(),
                    // That of a policy that was loaded is a glob, or none.
                    glob: by.glob().ok().flatten().map(|glob| glob.compile_matcher()),
                })
            })
            .collect();
        all.sort_by(|a, b| (a.by.rank(), &a.agent).cmp(&(b.by.rank(), &b.agent)));
        let (programs, cgroups): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|rule| rule.by.is_of_programs());
        let mut digests = HashMap::new();
        for (index, rule) in programs.iter().enumerate() {
            if let MatchBy::Sha256(digest) = &rule.by {
                digests.entry(digest.clone()).or_insert(index);
            }
        }
        let containers = cgroups
            .iter()
            .any(|rule| matches!(rule.by, MatchBy::Container(_)));
        Self {
            cgroups,
            programs,
            digests,
            containers,
        }
    }

    /// Whether some selector is of cgroups.
    pub fn has_cgroups(&self) -> bool {
        !self.cgroups.is_empty()
    }

    /// Whether some selector is of programs.
    pub fn has_programs(&self) -> bool {
        !self.programs.is_empty()
    }

    /// Whether programs must be hashed to be known.
    pub fn has_digests(&self) -> bool {
        !self.digests.is_empty()
    }

    /// The globs of programs' paths, for whoever looks for them on the disk.
    pub fn executables(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().filter_map(|rule| match &rule.by {
            MatchBy::Executable(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// Whose a cgroup is, by its path below the cgroup2 root. `container` tells what is known
    /// of a container by its id.
    pub fn cgroup(
        &self,
        below_root: &str,
        container: impl FnOnce(&str) -> Option<Container>,
    ) -> Option<Found<'_>> {
        let last = below_root.rsplit('/').next()?;
        if last.is_empty() {
            return None;
        }
        let container = match self.containers {
            true => names::container_id(below_root).and_then(container),
            false => None,
        };
        let is_glob =
            |rule: &Rule, text: &str| rule.glob.as_ref().is_some_and(|g| g.is_match(text));
        let found =
            self.cgroups.iter().find(|rule| match &rule.by {
                MatchBy::Container(text) => container.as_ref().is_some_and(|container| match text
                    .split_once('=')
                {
                    Some((key, value)) => container.labels.get(key).is_some_and(|v| v == value),
                    None => container.names.iter().any(|name| is_glob(rule, name)),
                }),
                MatchBy::Flatpak(id) => names::flatpak(last).as_deref() == Some(id),
                MatchBy::Snap(name) => names::snap(last) == Some(name),
                MatchBy::Unit(_) => names::is_unit(last) && is_glob(rule, last),
                MatchBy::Cgroup(_) => is_glob(rule, below_root),
                MatchBy::Sha256(_) | MatchBy::Executable(_) | MatchBy::ProgramsUnder(_) => false,
            });
        found.map(Rule::found)
    }

    /// Whose a program is, by its path, and by its digest where that is known.
    pub fn program(&self, path: &Path, digest: Option<&str>) -> Option<Found<'_>> {
        let by_digest = digest.and_then(|digest| self.digests.get(digest));
        if let Some(rule) = by_digest.and_then(|index| self.programs.get(*index)) {
            return Some(rule.found());
        }
        self.programs
            .iter()
            .find(|rule| rule.glob.as_ref().is_some_and(|glob| glob.is_match(path)))
            .map(Rule::found)
    }
}

impl Rule {
    fn found(&self) -> Found<'_> {
        Found {
            agent: &self.agent,
            by: &self.by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn rules(agents: &[(&str, &[(&str, &str)])]) -> Rules {
        let agents: BTreeMap<&str, BTreeSet<MatchBy>> = agents
            .iter()
            .map(|(agent, selectors)| {
                let selectors = selectors
                    .iter()
                    .map(|(key, text)| MatchBy::parse(key, text).expect(text))
                    .collect();
                (*agent, selectors)
            })
            .collect();
        Rules::new(agents.iter().map(|(agent, set)| (*agent, set)))
    }

    fn agent_of<'a>(rules: &'a Rules, path: &str) -> Option<&'a str> {
        rules.cgroup(path, |_| None).map(|found| found.agent)
    }

    #[test]
    fn cgroups_are_known_by_unit_path_flatpak_and_snap() {
        let rules = rules(&[
            (
                "a",
                &[
                    ("unit", "agent@*.service"),
                    ("flatpak", "com.example.Agent-X"),
                ],
            ),
            ("b", &[("cgroup", "work/*/agent"), ("snap", "agent")]),
            ("c", &[("cgroup", "deep/**/agent")]),
        ]);
        for (path, wanted) in [
            ("system.slice/agent@1.service", Some("a")),
            (
                "user.slice/user-1.slice/user@1.service/app.slice/agent@x.service",
                Some("a"),
            ),
            ("system.slice/agent@1.service/below", None),
            ("agent@1.service.d", None),
            (
                r"app.slice/app-flatpak-com.example.Agent\x2dX-1234.scope",
                Some("a"),
            ),
            ("app.slice/app-flatpak-com.example.Agent-1234.scope", None),
            ("work/1/agent", Some("b")),
            ("work/1/2/agent", None),
            ("deep/1/2/agent", Some("c")),
            ("app.slice/snap.agent.agent-0e2c.scope", Some("b")),
            ("system.slice/snap.agent.daemon.service", Some("b")),
            ("app.slice/snap.agentx.agent-0e2c.scope", None),
            ("", None),
        ] {
            assert_eq!(agent_of(&rules, path), wanted, "{path}");
        }
        assert!(rules.has_cgroups() && !rules.has_programs());
    }

    #[test]
    fn containers_are_known_by_name_and_by_label() {
        let rules = rules(&[
            ("a", &[("container", "agent-*")]),
            ("b", &[("container", "role=agent"), ("cgroup", "docker/*")]),
        ]);
        let id = "ab".repeat(32);
        let named = |name: &str, role: &str| {
            let container = Container {
                names: vec![name.to_owned()],
                labels: [("role".to_owned(), role.to_owned())].into(),
            };
            let path = format!("docker/{id}");
            let found = rules.cgroup(&path, |asked| (asked == id).then_some(container));
            found.map(|found| (found.agent.to_owned(), found.by.key()))
        };
        assert_eq!(named("agent-1", "agent"), Some(("a".into(), "container")));
        assert_eq!(named("x", "agent"), Some(("b".into(), "container")));
        assert_eq!(named("x", "y"), Some(("b".into(), "cgroup")));
    }

    #[test]
    fn programs_are_known_by_digest_then_path_then_folder() {
        let digest = "0f".repeat(32);
        let rules = rules(&[
            (
                "a",
                &[
                    ("programs_under", "/opt/agents"),
                    ("programs_under", "/home/*/x"),
                ],
            ),
            (
                "b",
                &[
                    ("executable", "/opt/agents/b"),
                    ("programs_under", "/opt/agents/deep"),
                ],
            ),
            ("c", &[("sha256", &digest)]),
        ]);
        let of = |path: &str, digest: Option<&str>| {
            rules
                .program(Path::new(path), digest)
                .map(|found| found.agent)
        };
        assert_eq!(of("/opt/agents/b", Some(&digest)), Some("c"));
        assert_eq!(of("/opt/agents/b", Some("00")), Some("b"));
        assert_eq!(of("/opt/agents/b", None), Some("b"));
        assert_eq!(of("/opt/agents/x", None), Some("a"));
        assert_eq!(of("/opt/agents/deep/x/y", None), Some("b"));
        assert_eq!(of("/home/u/x/y/z", None), Some("a"));
        assert_eq!(of("/opt/agentsx", None), None);
        assert_eq!(of("/opt", None), None);
        assert!(rules.has_digests());
        assert_eq!(rules.executables().collect::<Vec<_>>(), ["/opt/agents/b"]);
    }

    #[test]
    fn among_equals_the_name_decides() {
        let rules = rules(&[
            ("b", &[("unit", "x.service")]),
            ("a", &[("unit", "x*.service")]),
        ]);
        assert_eq!(agent_of(&rules, "x.service"), Some("a"));
    }
}
