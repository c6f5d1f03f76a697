//! What a run of several kernels came to, for a person: what failed, a line each, and a table.

use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{Cell, Table, presets};

use super::arch::Arch;
use super::plan::DOCTOR;
use super::record::{Kernel, Tests};
use super::results::{Program, Results};
use crate::step;
use crate::tally::Count;

/// One kernel's run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) arch: Arch,
    pub(super) package: String,
    pub(super) locked: bool,
    /// `default`, `bpf` or `no-bpf`.
    pub(super) lsm: String,
    pub(super) results: Results,
    /// Why the guest did not come to its end.
    pub(super) broken: Option<String>,
    pub(super) wall: Duration,
    pub(super) folder: PathBuf,
    /// Suites of the whole plan that were not asked for.
    pub(super) left_out: usize,
    /// Whether a filter chose among the tests, so that a suite may run none.
    pub(super) filtered: bool,
    /// How it differs from the record.
    pub(super) differs: Vec<String>,
}

impl Run {
    /// Everything that makes this run a failure, one useful line each.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name = &self.name;
        if let Some(why) = &self.broken {
            found.push(format!("{name}: {why}"));
        }
        for suite in &self.results.suites {
            let log = suite.log.display();
            if let Some(why) = &suite.why {
                let tests = if suite.failed.is_empty() {
                    String::new()
                } else {
                    format!(": {}", suite.failed.join(", "))
                };
                found.push(format!("{name}: {}: {why}{tests}. Log: {log}", suite.name));
            } else if suite.name != DOCTOR && !self.filtered && suite.count.passed == 0 {
                found.push(format!("{name}: {}: ran no test. Log: {log}", suite.name));
            }
        }
        if let Some(doctor) = &self.results.doctor {
            match &doctor.programs {
                None => found.push(format!(
                    "{name}: `exeat doctor --output json` tells nothing of its programs"
                )),
                Some(programs) => found.extend(
                    programs
                        .iter()
                        .filter(|one| !one.loads)
                        .map(|one| self.refused(one)),
                ),
            }
        }
        found.extend(
            self.differs
                .iter()
                .map(|line| format!("{name}: not as in docs/kernels.json: {line}")),
        );
        found
    }

    fn refused(&self, program: &Program) -> String {
        let why = program.error.as_deref().unwrap_or("it gave no reason");
        let log = program.log_in(&self.folder);
        format!(
            "{}: program {} ({}) is refused: {why}. Whole log: {}",
            self.name,
            program.program,
            program.place,
            log.display()
        )
    }

    /// The run as it goes into the record; none of a guest that never answered.
    pub(super) fn record(&self, date: &str) -> Option<Kernel> {
        let boot = self.results.boot.as_ref()?;
        let doctor = self.results.doctor.as_ref()?;
        let findings = doctor.findings.iter();
        let suites = self.results.tested().map(|suite| {
            let Count {
                passed,
                failed,
                ignored,
            } = suite.count;
            let tests = Tests {
                passed,
                failed,
                ignored,
            };
            (suite.name.clone(), tests)
        });
        Some(Kernel {
            name: self.name.clone(),
            arch: self.arch,
            lsm: self.lsm.clone(),
            package: self.package.clone(),
            release: boot.kernel.clone(),
            date: date.to_owned(),
            active_lsm: boot.lsm.clone(),
            findings: findings
                .map(|one| (one.feature.clone(), one.grade.clone()))
                .collect(),
            programs: doctor.programs.clone().unwrap_or_default(),
            attacks: self.results.attacks.clone().unwrap_or_default(),
            suites: suites.collect(),
            wall_seconds: self.wall.as_secs(),
        })
    }
}

/// All kernels of a run.
pub(super) fn table(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "kernel", "package", "LSMs", "programs", "tests", "suites", "boot", "time",
    ]);
    for run in runs {
        let results = &run.results;
        let boot = results.boot.as_ref();
        let programs = results
            .doctor
            .as_ref()
            .and_then(|one| one.programs.as_ref());
        let programs = programs.map_or_else(
            || "not told".to_owned(),
            |all| {
                let loaded = all.iter().filter(|one| one.loads).count();
                format!("{loaded} of {} load", all.len())
            },
        );
        let (mut count, mut good, mut bad) = (Count::default(), 0, 0);
        for suite in results.tested() {
            count.passed += suite.count.passed;
            count.failed += suite.count.failed;
            if suite.why.is_none() {
                good += 1;
            } else {
                bad += 1;
            }
        }
        let locked = if run.locked { "" } else { " NOT LOCKED" };
        table.add_row(
            [
                run.name.clone(),
                format!("{}{locked}", run.package.trim_start_matches("linux-image-")),
                boot.map_or_else(|| "?".to_owned(), |boot| lsms(&boot.lsm)),
                programs,
                format!("{} passed, {} failed", count.passed, count.failed),
                format!("{good} passed, {bad} failed, {} left out", run.left_out),
                boot.map_or_else(
                    || "no".to_owned(),
                    |boot| step::seconds(Duration::from_millis(boot.ms)),
                ),
                step::seconds(run.wall),
            ]
            .map(Cell::new),
        );
    }
    table.to_string()
}

/// What every kernel has is left out.
fn lsms(all: &str) -> String {
    let bpf = all.split(',').any(|one| one == "bpf");
    if bpf { "bpf" } else { "no bpf" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::results::{Doctor, Outcome};
    use super::*;

    fn run() -> Run {
        Run {
            name: "5.10".to_owned(),
            arch: Arch::X86_64,
            package: "linux-image-5.10.0-46-cloud-amd64 5.10.262-1".to_owned(),
            locked: true,
            lsm: "default".to_owned(),
            results: Results {
                doctor: Some(Doctor {
                    programs: Some(Vec::new()),
                    ..Doctor::default()
                }),
                ..Results::default()
            },
            broken: None,
            wall: Duration::from_secs(9),
            folder: PathBuf::from("/nonexistent"),
            left_out: 0,
            filtered: false,
            differs: Vec::new(),
        }
    }

    fn suite(why: Option<&str>, passed: u64) -> Outcome {
        Outcome {
            name: "gate".to_owned(),
            count: Count {
                passed,
                ..Count::default()
            },
            failed: Vec::new(),
            why: why.map(str::to_owned),
            took: Duration::ZERO,
            log: PathBuf::from("gate.log"),
        }
    }

    #[test]
    fn a_good_run_has_no_failure() {
        let mut good = run();
        good.results.suites.push(suite(None, 3));
        assert!(good.failures().is_empty(), "{:?}", good.failures());
    }

    #[test]
    fn a_refused_program_is_one_line() {
        let mut refused = run();
        let doctor = refused.results.doctor.as_mut().expect("a doctor");
        doctor.programs = Some(vec![Program {
            program: "exeat_egress".to_owned(),
            hook: "egress".to_owned(),
            place: "slice".to_owned(),
            loads: false,
            verified: None,
            error: Some("R1 invalid mem access 'scalar'".to_owned()),
            leaves_out: Vec::new(),
            log: String::new(),
        }]);
        assert_eq!(
            refused.failures(),
            [
                "5.10: program exeat_egress (slice) is refused: R1 invalid mem access 'scalar'. \
                 Whole log: /nonexistent/verifier-exeat_egress-slice.log"
            ]
        );
        assert!(table(&[refused]).contains("0 of 1 load"));
    }

    #[test]
    fn what_does_not_tell_fails() {
        let mut silent = run();
        silent.results.doctor = Some(Doctor::default());
        silent.results.suites.push(suite(None, 0));
        silent.results.suites.push(suite(Some("timed out"), 3));
        silent.broken = Some("panic".to_owned());
        silent.differs.push("doctor: x".to_owned());
        assert_eq!(silent.failures().len(), 5, "{:?}", silent.failures());
        silent.filtered = true;
        assert_eq!(silent.failures().len(), 4);
    }
}
