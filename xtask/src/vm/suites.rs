//! The live tests that run in a guest, and those that do not, each with its reason.

use anyhow::{Result, bail};

/// A test program of `tests/tests`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// Whether `--core` has it: what tells most of a kernel in three minutes of emulation (the
    /// verifier's words, the verdict compared with the host's, every attack).
    pub(super) core: bool,
    /// A limit for emulation on a busy machine, not the time that it takes.
    pub(super) seconds: u64,
}

/// In the order in which they run: what tells most comes first.
pub(super) const SUITES: [Suite; 35] = [
    suite("rejected", true, 120),
    suite("hello", true, 300),
    suite("verdict", true, 600),
    suite("attacks", true, 1800),
    suite("walls", false, 900),
    suite("sandbox", false, 1800),
    suite("adopt", false, 1200),
    suite("identity", false, 900),
    suite("tls", false, 1200),
    suite("gateway", false, 900),
    suite("world", false, 300),
    suite("gate", false, 900),
    suite("hold", false, 900),
    suite("icmp", false, 300),
    suite("listen", false, 300),
    suite("dns", false, 600),
    suite("names", false, 900),
    suite("leases", false, 600),
    suite("services", false, 600),
    suite("run", false, 600),
    suite("cli", false, 600),
    suite("control", false, 600),
    suite("reload", false, 1200),
    suite("standalone", false, 600),
    suite("survive", false, 900),
    suite("upgrade", false, 1800),
    suite("desktop", false, 900),
    suite("limits", false, 900),
    suite("detect", false, 300),
    suite("ask", false, 900),
    suite("workspace", false, 300),
    suite("bounds", false, 900),
    suite("history", false, 600),
    suite("faults", false, 600),
    suite("audit", false, 600),
];

/// Suites that no guest runs, and why.
pub(super) const LEFT_OUT: [(&str, &str); 13] = [
    (
        "bundle",
        "signatures, files and HTTPS are the same on every kernel, and what is put in force goes the way \
         that `reload` tries",
    ),
    (
        "answer",
        "it answers by terminals, pages, programs and polkit; what an answer does in the kernel is \
         in `ask` and `hold`",
    ),
    (
        "top",
        "it draws what the control socket says, which is the same on every kernel (`control`)",
    ),
    (
        "learn",
        "it reads records, which are the same on every kernel (`verdict` compares them)",
    ),
    (
        "prometheus",
        "the metrics page is the same on every kernel, and Prometheus would make the userland \
         five times as large",
    ),
    (
        "clients",
        "clients differ, kernels do not in what they are shown (`dns`, `names`, `tls`), and Node and Go \
         would make the userland five times as large",
    ),
    (
        "programs",
        "package managers, a browser and an agent differ, kernels do not in what they are shown \
         (`sandbox`), and the programs are many times the userland",
    ),
    (
        "web",
        "pages and a browser are the same on every kernel, and the browser is many times the userland",
    ),
    (
        "bus",
        "the proxy and the bus are programs like others to every kernel",
    ),
    (
        "ship",
        "receivers and the way to them are the same on every kernel, and rsyslog would have to be \
         in the userland",
    ),
    (
        "notify",
        "the bus, the display and the notification servers are programs like others to every \
         kernel, and many times the userland",
    ),
    (
        "fleet",
        "it judges what the control socket says, which is the same on every kernel, and Ansible and \
         Puppet would make the userland five times as large",
    ),
    (
        "demo",
        "it tells a person what other suites assert; it runs where people see it, on the host",
    ),
];

const fn suite(name: &'static str, core: bool, seconds: u64) -> Suite {
    Suite {
        name,
        core,
        seconds,
    }
}

/// The suites to run, and the filter for their tests: `filter` may be the name of a suite.
pub(super) fn choose(
    core: bool,
    filter: Option<&str>,
) -> Result<(Vec<&'static Suite>, Option<&str>)> {
    if let Some(name) = filter {
        if let Some(one) = SUITES.iter().find(|suite| suite.name == name) {
            return Ok((vec![one], None));
        }
        if let Some((_, why)) = LEFT_OUT.iter().find(|(left, _)| *left == name) {
            bail!("the suite {name} does not run in a guest: {why}");
        }
    }
    let chosen = SUITES.iter().filter(|suite| suite.core || !core).collect();
    Ok((chosen, filter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_live_test_runs_or_has_a_reason() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("tests/tests")
            .map(|entry| {
                let path = entry.expect("an entry").path();
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                stem.expect("a name").to_owned()
            })
            .collect();
        let left = LEFT_OUT.iter().map(|(name, _)| (*name).to_owned());
        let named: BTreeSet<String> = SUITES
            .iter()
            .map(|suite| suite.name.to_owned())
            .chain(left)
            .collect();
        assert_eq!(named, there);
        assert_eq!(named.len(), SUITES.len() + LEFT_OUT.len());
    }

    #[test]
    fn a_filter_may_name_a_suite() {
        let (one, filter) = choose(true, Some("dns")).expect("a suite");
        assert_eq!((one[0].name, one.len(), filter), ("dns", 1, None));
        let (all, filter) = choose(false, Some("v4_mapped")).expect("a filter");
        assert_eq!((all.len(), filter), (SUITES.len(), Some("v4_mapped")));
        let (core, _) = choose(true, None).expect("core");
        assert!(core.len() < SUITES.len() && !core.is_empty());
        assert!(choose(false, Some("demo")).is_err());
    }
}
