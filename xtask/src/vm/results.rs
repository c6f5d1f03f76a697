//! What a guest's lines come to: the kernel, the doctor's findings, every suite's outcome.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::lines::{Boot, End, Line};
use super::plan::DOCTOR;
use crate::tally::Count;

/// One kernel's run, as it grows line by line.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) boot: Option<Boot>,
    pub(super) doctor: Option<Doctor>,
    pub(super) attacks: Option<BTreeMap<String, Attack>>,
    pub(super) suites: Vec<Outcome>,
    /// The step that runs, and what it wrote.
    pub(super) running: Option<(String, String)>,
}

/// `exeat doctor --output json`, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Doctor {
    #[serde(default)]
    pub(super) findings: Vec<Finding>,
    /// None of a doctor that tells nothing of programs.
    pub(super) programs: Option<Vec<Program>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) feature: String,
    /// `ok`, `missing` and what else the doctor knows.
    pub(super) grade: String,
}

/// One BPF program on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) program: String,
    pub(super) hook: String,
    /// `slice` or `root`: where it is attached.
    pub(super) place: String,
    pub(super) loads: bool,
    /// Instructions that the verifier went through.
    pub(super) verified: Option<u64>,
    /// The verifier's line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// What this kernel cannot do, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) leaves_out: Vec<String>,
    /// All that the verifier said of a program that it refused. Too long for the record.
    #[serde(default, skip_serializing)]
    pub(super) log: String,
}

impl Program {
    /// Where the log of a refused program is kept.
    pub(super) fn log_in(&self, folder: &Path) -> PathBuf {
        folder.join(format!("verifier-{}-{}.log", self.program, self.place))
    }
}

/// What became of one technique of the hostile program. A column is absent where the suite
/// that fills it did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attack {
    pub(super) family: String,
    /// Under a policy that allows nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nothing: Option<String>,
    /// Under one that allows one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) one_host: Option<String>,
    /// Without enforcement: the test's own control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) free: Option<String>,
    /// Instead of the first two, the wall that is still to be built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) later: Option<String>,
}

/// How a step ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) count: Count,
    /// The tests that failed.
    pub(super) failed: Vec<String>,
    /// None when it passed.
    pub(super) why: Option<String>,
    pub(super) took: Duration,
    pub(super) log: PathBuf,
}

impl Results {
    /// Takes a line; logs and files go below `folder`. Returns the outcome that it completes.
    pub(super) fn take(&mut self, line: Line, folder: &Path) -> Result<Option<&Outcome>> {
        match line {
            Line::Boot { boot } => self.boot = Some(boot),
            Line::Start { start, .. } => self.running = Some((start, String::new())),
            Line::Out { out } => {
                if let Some((_, text)) = &mut self.running {
                    text.push_str(&out);
                    text.push('\n');
                }
            }
            Line::File { file, text } => self.file(&file, &text, folder)?,
            Line::End(end) => {
                let outcome = self.end(end, folder)?;
                self.suites.push(outcome);
                return Ok(self.suites.last());
            }
            Line::Done { .. } | Line::Reboot { .. } => {}
        }
        Ok(None)
    }

    fn file(&mut self, name: &str, text: &str, folder: &Path) -> Result<()> {
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        ensure!(inside, "the guest names a file {name:?}");
        let to = folder.join("files").join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("could not make {}", parent.display()))?;
        }
        fs::write(&to, text).with_context(|| format!("could not write {}", to.display()))?;
        let unread = || format!("{} is not what was agreed on", to.display());
        match name {
            "doctor.json" if !text.is_empty() => {
                let doctor: Doctor = serde_json::from_str(text).with_context(unread)?;
                for program in doctor.programs.iter().flatten() {
                    if !program.log.is_empty() {
                        fs::write(program.log_in(folder), &program.log)
                            .context("could not keep the verifier's log")?;
                    }
                }
                self.doctor = Some(doctor);
            }
            "attacks.json" => self.attacks = Some(serde_json::from_str(text).with_context(unread)?),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, end: End, folder: &Path) -> Result<Outcome> {
        let (_, text) = self.running.take().unwrap_or_default();
        let log = folder.join(format!("{}.log", end.end));
        fs::write(&log, &text).with_context(|| format!("could not write {}", log.display()))?;
        let mut count = Count::default();
        let mut failed = Vec::new();
        for line in text.lines() {
            count.add(line);
            failed.extend(failing(line));
        }
        let why = if end.end == DOCTOR {
            // Its exit code tells what it advises; its file is what counts.
            (self.doctor.is_none()).then(|| "it wrote no doctor.json".to_owned())
        } else {
            match (end.code, end.why) {
                (Some(0), _) => None,
                (Some(code), _) => Some(format!("exit code {code}")),
                (None, why) => Some(why.unwrap_or_else(|| "ended by a signal".to_owned())),
            }
        };
        Ok(Outcome {
            name: end.end,
            count,
            failed,
            why,
            took: Duration::from_millis(end.ms),
            log,
        })
    }

    /// What ran, without the doctor.
    pub(super) fn tested(&self) -> impl Iterator<Item = &Outcome> {
        self.suites.iter().filter(|suite| suite.name != DOCTOR)
    }
}

/// The name in `test gate::refuses ... FAILED`, with or without colours.
fn failing(line: &str) -> Option<String> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    verdict.contains("FAILED").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(results: &mut Results, text: &str, folder: &Path) -> Option<Outcome> {
        let line = super::super::lines::read(text).expect("a line");
        results.take(line, folder).expect("taken").cloned()
    }

    #[test]
    fn a_suite_ends_with_its_count_and_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let mut results = Results::default();
        for line in [
            r#"{"start":"gate","seconds":1}"#,
            r#"{"out":"test refuses ... ok"}"#,
            r#"{"out":"test answers ... FAILED"}"#,
            r#"{"out":"test result: FAILED. 1 passed; 1 failed; 0 ignored"}"#,
        ] {
            assert!(take(&mut results, line, at).is_none());
        }
        let end = r#"{"end":"gate","code":101,"ms":1500}"#;
        let outcome = take(&mut results, end, at).expect("an outcome");
        assert_eq!(outcome.failed, ["answers"]);
        assert_eq!((outcome.count.passed, outcome.count.failed), (1, 1));
        assert_eq!(outcome.why.as_deref(), Some("exit code 101"));
        let log = fs::read_to_string(at.join("gate.log")).expect("the log");
        assert!(log.starts_with("test refuses ... ok\n"));
    }

    #[test]
    fn a_doctor_may_advise_and_must_speak() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let mut results = Results::default();
        let end = r#"{"end":"doctor","code":4,"ms":1}"#;
        let silent = take(&mut results, end, at).expect("an outcome");
        assert!(silent.why.is_some());
        let file = serde_json::json!({ "file": "doctor.json", "text":
            r#"{"can_enforce":true,"findings":[{"feature":"ring buffer","grade":"ok","detail":"d"}]}"# });
        take(&mut results, &file.to_string(), at);
        let spoken = take(&mut results, end, at).expect("an outcome");
        assert_eq!(spoken.why, None);
        assert_eq!(results.tested().count(), 0);
        assert!(results.doctor.expect("a doctor").programs.is_none());
    }

    #[test]
    fn the_verifiers_log_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut results = Results::default();
        let text = r#"{"programs":[{"program":"exeat_egress","hook":"egress","place":"slice",
            "loads":false,"verified":null,"error":"R1 is bad","log":"0: r1 = 0\nR1 is bad",
            "leaves_out":[]}]}"#;
        let file = serde_json::json!({ "file": "doctor.json", "text": text });
        take(&mut results, &file.to_string(), folder.path());
        let log = folder.path().join("verifier-exeat_egress-slice.log");
        assert!(fs::read_to_string(log).expect("the log").contains("r1 = 0"));
    }

    #[test]
    fn a_file_stays_in_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["../x", "/etc/x", ""] {
            let line = Line::File {
                file: name.to_owned(),
                text: String::new(),
            };
            let refused = Results::default().take(line, folder.path()).is_err();
            assert!(refused, "{name:?}");
        }
    }
}
