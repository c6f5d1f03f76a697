//! What a guest does: the steps, and what the steps find in their environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::suites::Suite;

/// `/plan.json` of the initramfs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The device that the guest speaks by.
    pub(super) lines: String,
    /// Whether the Debian's own init becomes the first process, and the steps run as a service.
    pub(super) systemd: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// After so many the step is killed.
    pub(super) seconds: u64,
}

/// The step that is no suite: what the product says of this kernel.
pub(super) const DOCTOR: &str = "doctor";

/// How much longer than on the host the tests wait for things: emulation is about ten times
/// slower, and the tests' own time-outs are generous.
const PATIENCE: u64 = 6;

/// How often `survive` kills the daemon and how many policies `verdict` draws. The host's run
/// draws and kills many; a kernel shows in the first few what it does differently.
const KILLS: u64 = 5;
const POLICIES: u64 = 20;

/// Emulation has one processor; two threads let one test work while another waits.
const THREADS: u64 = 2;

/// The doctor, then `suites`, of whose tests only those that have `filter` in their names.
pub(super) fn plan(lines: &str, suites: &[&Suite], filter: Option<&str>) -> Plan {
    let mut steps = vec![step(
        DOCTOR,
        // A doctor that advises something has an exit code of its own, and a word for it in
        // the file.
        &[
            "sh",
            "-c",
            "/payload/exeat doctor --output json > /out/doctor.json",
        ],
        120,
    )];
    for suite in suites {
        let mut argv = vec![format!("/payload/{}", suite.name)];
        argv.extend(filter.map(str::to_owned));
        let argv: Vec<_> = argv.iter().map(String::as_str).collect();
        steps.push(step(suite.name, &argv, suite.seconds));
    }
    Plan {
        lines: lines.to_owned(),
        systemd: false,
        steps,
    }
}

pub(super) fn step(name: &str, argv: &[&str], seconds: u64) -> Step {
    let env = [
        ("EXEAT_BIN", "/payload/exeat".to_owned()),
        ("EXEAT_REPORT", "/out".to_owned()),
        ("EXEAT_PATIENCE", PATIENCE.to_string()),
        ("EXEAT_KILLS", KILLS.to_string()),
        ("EXEAT_POLICIES", POLICIES.to_string()),
        ("RUST_TEST_THREADS", THREADS.to_string()),
        ("RUST_BACKTRACE", "0".to_owned()),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME", "/root".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
    ];
    Step {
        name: name.to_owned(),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        seconds,
    }
}
