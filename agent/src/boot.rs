//! Units that a policy adopts do not start unfiltered: what systemd is told of them, at boot and
//! whenever it reads its units anew. Pure.
//!
//! A service gets a condition (`exeat boot guard`) that is a process of its own cgroup and waits
//! until that is governed; a slice, which has no processes, is made only where a daemon has been.
//! The daemon is wanted and not required, because what requires it would be stopped with it, and
//! enforcement outlives it.

use std::{collections::BTreeSet, path::Path};

use crate::{
    adopt::Rules,
    policy::{MatchBy, PolicySet},
};
use agent_common::layout::Mode;

/// The word on the kernel's command line that boots without Exeat.
pub const ESCAPE: &str = "exeat.escape";
/// The daemon's unit.
pub const DAEMON: &str = "exeat.service";
/// Where the daemon's own unit is, and what everything else is in.
const NEVER: [&str; 4] = ["-.slice", "system.slice", "exeat.slice", DAEMON];

/// What is read beside a unit's own file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropIn {
    /// The unit, or the beginning of units' names as systemd has it: `agent@.service`,
    /// `app-.service`.
    pub unit: String,
    /// What is said of it.
    pub text: String,
}

/// Whether the kernel's command line asks for a boot without Exeat. The last one counts.
pub fn escapes(command_line: &str) -> bool {
    let said = command_line.split_whitespace().rev().find_map(|word| {
        let rest = word.strip_prefix(ESCAPE)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(matches!(value, "1" | "y" | "yes" | "on" | "true")),
            None => rest.is_empty().then_some(true),
        }
    });
    said.unwrap_or(false)
}

/// The selectors of the agents that are held to their policy: monitor mode changes nothing.
pub fn rules(policy: &PolicySet) -> Rules {
    let agents = policy.agents.values();
    let enforced = agents.filter(|agent| agent.mode == Mode::Enforce);
    Rules::new(enforced.map(|agent| (agent.name.as_str(), &agent.matching)))
}

/// What is told of the units that a policy adopts. `installed` are the names of unit files,
/// `program` is Exeat itself, `socket` the daemon's.
pub fn drop_ins<'a>(
    policy: &PolicySet,
    installed: impl IntoIterator<Item = &'a str>,
    program: &Path,
    socket: &Path,
) -> BTreeSet<DropIn> {
    let rules = rules(policy);
    let by_rule = installed.into_iter().filter(|unit| {
        let unit_of_cgroup = format!("system.slice/{unit}");
        rules.cgroup(&unit_of_cgroup, |_| None).is_some()
    });
    let mut units: BTreeSet<String> = by_rule.map(str::to_owned).collect();
    for agent in policy.agents.values() {
        if agent.mode == Mode::Enforce {
            units.extend(agent.matching.iter().flat_map(named));
        }
    }
    units
        .into_iter()
        .filter(|unit| !NEVER.contains(&unit.as_str()))
        .filter_map(|unit| {
            let text = text(&unit, program, socket)?;
            Some(DropIn { unit, text })
        })
        .collect()
}

/// The names that a selector says, of units whose files need not be there.
fn named(by: &MatchBy) -> Vec<String> {
    let MatchBy::Unit(text) = by else {
        return Vec::new();
    };
    let Some(wild) = text.find(['*', '?']) else {
        return vec![text.clone()];
    };
    let begins = &text[..wild];
    let services = text.ends_with(".service") || text.ends_with('*');
    // Of a template, and of names with a dash, systemd reads one folder for all.
    let folder = match (begins.split_once('@'), begins.rsplit_once('-')) {
        (Some((template, _)), _) if !template.is_empty() => format!("{template}@.service"),
        (None, Some((family, _))) if !family.is_empty() => format!("{family}-.service"),
        _ => return Vec::new(),
    };
    match services {
        true => vec![folder],
        false => Vec::new(),
    }
}

fn text(unit: &str, program: &Path, socket: &Path) -> Option<String> {
    let head = format!(
        "# Made by exeat-generator: a policy adopts this unit (`match:`).\n\
         [Unit]\nWants={DAEMON}\nAfter={DAEMON}\n"
    );
    // Percent is systemd's own, in paths too.
    let path = |path: &Path| path.to_string_lossy().replace('%', "%%");
    if unit.ends_with(".service") {
        return Some(format!(
            "{head}[Service]\nExecCondition=+{} boot guard %n\n",
            path(program)
        ));
    }
    // Its services wait for it.
    unit.ends_with(".slice")
        .then(|| format!("{head}AssertPathExists={}\n", path(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    fn told(matching: &str, mode: &str, installed: &[&str]) -> Vec<(String, String)> {
        let text = format!(
            "version: 1\nagents:\n  a:\n    mode: {mode}\n    match: [{matching}]\n    allow: []\n"
        );
        let set = policy::parse("p.yaml", &text).expect("a policy");
        let found = drop_ins(
            &set,
            installed.iter().copied(),
            Path::new("/usr/bin/exeat"),
            Path::new("/run/exeat/control.sock"),
        );
        found.into_iter().map(|one| (one.unit, one.text)).collect()
    }

    fn names(matching: &str, installed: &[&str]) -> Vec<String> {
        let told = told(matching, "enforce", installed);
        told.into_iter().map(|(unit, _)| unit).collect()
    }

    #[test]
    fn a_service_waits_in_its_own_cgroup_and_a_slice_for_the_daemon() {
        let service = told("{unit: one.service}", "enforce", &[]);
        assert_eq!(service[0].0, "one.service");
        let text = &service[0].1;
        assert!(text.contains("After=exeat.service\n"), "{text}");
        assert!(
            text.contains("ExecCondition=+/usr/bin/exeat boot guard %n\n"),
            "{text}"
        );
        assert!(!text.contains("Requires="), "{text}");
        let slice = told("{unit: agents.slice}", "enforce", &[]);
        let text = &slice[0].1;
        assert!(
            text.contains("AssertPathExists=/run/exeat/control.sock\n"),
            "{text}"
        );
        assert!(!text.contains("Exec"), "{text}");
    }

    #[test]
    fn units_are_found_by_every_selector_that_says_their_names() {
        let installed = [
            "one.service",
            "two.service",
            "snap.agent.run.service",
            "t@.service",
        ];
        assert_eq!(names("{unit: 'o*.service'}", &installed), ["one.service"]);
        assert_eq!(
            names("{cgroup: system.slice/two.service}", &installed),
            ["two.service"]
        );
        assert_eq!(
            names("{snap: agent}", &installed),
            ["snap.agent.run.service"]
        );
        // Whose files are not there yet, or are a template's.
        assert_eq!(names("{unit: new.service}", &[]), ["new.service"]);
        assert_eq!(names("{unit: 't@b*.service'}", &installed), ["t@.service"]);
        assert_eq!(names("{unit: 'app-x*.service'}", &[]), ["app-.service"]);
        // Those come and go, and are adopted when they come.
        assert!(names("{unit: 'app-*.scope'}", &installed).is_empty());
        assert!(names("{executable: /usr/bin/one}", &installed).is_empty());
    }

    #[test]
    fn what_the_daemon_needs_never_waits_for_it_and_monitor_mode_changes_nothing() {
        for unit in NEVER.iter().filter(|unit| !unit.starts_with('-')) {
            assert!(
                names(&format!("{{unit: {unit}}}"), &[unit]).is_empty(),
                "{unit}"
            );
        }
        assert!(told("{unit: one.service}", "monitor", &["one.service"]).is_empty());
    }

    #[test]
    fn only_the_word_itself_escapes() {
        for line in [
            "exeat.escape=1",
            "quiet exeat.escape",
            "exeat.escape=0 exeat.escape=yes\n",
        ] {
            assert!(escapes(line), "{line}");
        }
        for line in [
            "",
            "exeat.escape=0",
            "xexeat.escape=1",
            "exeat.escaped",
            "exeat.escape=1 exeat.escape=0",
        ] {
            assert!(!escapes(line), "{line}");
        }
    }
}
