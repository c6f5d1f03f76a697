//! `docs/kernels.json`: what every kernel came to when the record was taken, and how a new run
//! differs from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::arch::Arch;
use super::page;
use super::results::{Attack, Program};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) kernels: Vec<Kernel>,
}

/// One kernel in one way of booting it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kernel {
    /// The series, `5.10`.
    pub(super) name: String,
    pub(super) arch: Arch,
    /// `default`, `bpf` or `no-bpf`: what the run asked for.
    pub(super) lsm: String,
    pub(super) package: String,
    pub(super) release: String,
    /// Of the run, `2026-11-22`.
    pub(super) date: String,
    pub(super) active_lsm: String,
    /// The doctor's grade by feature.
    pub(super) findings: BTreeMap<String, String>,
    pub(super) programs: Vec<Program>,
    pub(super) attacks: BTreeMap<String, Attack>,
    pub(super) suites: BTreeMap<String, Tests>,
    pub(super) wall_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tests {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

fn json(root: &Path) -> PathBuf {
    root.join("docs/kernels.json")
}

fn markdown(root: &Path) -> PathBuf {
    root.join("docs/kernels.md")
}

/// The record; an empty one where there is no file.
pub(super) fn read(root: &Path) -> Result<Record> {
    let path = json(root);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} cannot be read: remove it, and `cargo xtask vm-test --save` writes it anew",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// Writes the record and the page that is made of it.
pub(super) fn write(root: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_string_pretty(record).context("the record is no JSON")?;
    for (path, text) in [
        (json(root), text + "\n"),
        (markdown(root), page::render(record)),
    ] {
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

impl Record {
    pub(super) fn find(&self, like: &Kernel) -> Option<&Kernel> {
        self.kernels.iter().find(|one| one.key() == like.key())
    }

    /// Puts a run in the place of the one before.
    pub(super) fn put(&mut self, kernel: Kernel) {
        self.kernels.retain(|one| one.key() != kernel.key());
        self.kernels.push(kernel);
        self.kernels.sort_by_key(Kernel::order);
    }
}

impl Kernel {
    fn key(&self) -> (&str, Arch, &str) {
        (&self.name, self.arch, &self.lsm)
    }

    /// By architecture, then by version: 6.12 comes after 6.1.
    fn order(&self) -> (Arch, Vec<u64>, String) {
        let numbers = self.name.split('.').map(|part| part.parse().unwrap_or(0));
        (self.arch, numbers.collect(), self.lsm.clone())
    }

    /// What this run has that `before` has not, a line each. A run that left suites out has
    /// no attacks, and they are not missed.
    pub(super) fn differs(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        self.differing_findings(before, &mut found);
        self.differing_programs(before, &mut found);
        if !self.attacks.is_empty() {
            self.differing_attacks(before, &mut found);
        }
        found
    }

    fn differing_findings(&self, before: &Self, found: &mut Vec<String>) {
        for (feature, grade) in &before.findings {
            match self.findings.get(feature) {
                Some(now) if now == grade => {}
                now => found.push(format!(
                    "doctor: {feature}: {}, was {grade}",
                    now.map_or("not told", String::as_str)
                )),
            }
        }
        for (feature, grade) in &self.findings {
            if !before.findings.contains_key(feature) {
                found.push(format!("doctor: {feature}: {grade}, not in the record"));
            }
        }
    }

    fn differing_programs(&self, before: &Self, found: &mut Vec<String>) {
        let same = |one: &Program, other: &Program| {
            one.program == other.program && one.place == other.place
        };
        for was in &before.programs {
            let name = format!("program {} ({})", was.program, was.place);
            let Some(now) = self.programs.iter().find(|one| same(one, was)) else {
                found.push(format!("{name}: is gone"));
                continue;
            };
            let loads = |loads| if loads { "loads" } else { "is refused" };
            if now.loads != was.loads {
                found.push(format!(
                    "{name}: {}, before it {}",
                    loads(now.loads),
                    match was.loads {
                        true => "loaded",
                        false => "was refused",
                    }
                ));
            } else if now.leaves_out != was.leaves_out {
                found.push(format!(
                    "{name}: leaves out {}, before {}",
                    words(&now.leaves_out),
                    words(&was.leaves_out)
                ));
            } else if now.verified != was.verified && self.release == before.release {
                let number = |count: Option<u64>| {
                    count.map_or_else(|| "an untold number of".to_owned(), |n| n.to_string())
                };
                found.push(format!(
                    "{name}: {} instructions verified, before {}",
                    number(now.verified),
                    number(was.verified)
                ));
            }
        }
        for now in &self.programs {
            if !before.programs.iter().any(|was| same(was, now)) {
                let (program, place) = (&now.program, &now.place);
                found.push(format!("program {program} ({place}): not in the record"));
            }
        }
    }

    fn differing_attacks(&self, before: &Self, found: &mut Vec<String>) {
        for (technique, was) in &before.attacks {
            let Some(now) = self.attacks.get(technique) else {
                found.push(format!("attack {technique}: is gone"));
                continue;
            };
            for (policy, now, was) in [
                ("nothing allowed", &now.nothing, &was.nothing),
                ("one host allowed", &now.one_host, &was.one_host),
                ("not enforced", &now.free, &was.free),
            ] {
                // A column that nobody filled this time is not missed.
                if let Some(now) = now
                    && was.as_deref().map(class) != Some(class(now))
                {
                    let was = was.as_deref().unwrap_or("not told");
                    found.push(format!("attack {technique}, {policy}: {now}, before {was}"));
                }
            }
        }
        for technique in self.attacks.keys() {
            if !before.attacks.contains_key(technique) {
                found.push(format!("attack {technique}: not in the record"));
            }
        }
    }
}

/// Whether a call fails or a packet is dropped behind it may depend on who comes first: both
/// held. What did not hold fails its suite.
fn class(effect: &str) -> &str {
    match effect {
        "refused" | "dropped" => "held",
        other => other,
    }
}

fn words(list: &[String]) -> String {
    if list.is_empty() {
        "nothing".to_owned()
    } else {
        list.join(", ")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn kernel(name: &str) -> Kernel {
        let attack = Attack {
            family: "tcp".to_owned(),
            nothing: Some("refused".to_owned()),
            one_host: Some("refused".to_owned()),
            free: Some("out".to_owned()),
            later: None,
        };
        Kernel {
            name: name.to_owned(),
            arch: Arch::X86_64,
            lsm: "default".to_owned(),
            package: format!("linux-image-{name}"),
            release: format!("{name}.1"),
            date: "2026-11-22".to_owned(),
            active_lsm: "lockdown,yama".to_owned(),
            findings: [("ring buffer".to_owned(), "ok".to_owned())].into(),
            programs: vec![Program {
                program: "exeat_egress".to_owned(),
                hook: "egress".to_owned(),
                place: "slice".to_owned(),
                loads: true,
                verified: Some(1000),
                error: None,
                leaves_out: Vec::new(),
                log: String::new(),
            }],
            attacks: [("tcp_connect".to_owned(), attack)].into(),
            suites: [(
                "gate".to_owned(),
                Tests {
                    passed: 5,
                    failed: 0,
                    ignored: 0,
                },
            )]
            .into(),
            wall_seconds: 60,
        }
    }

    #[test]
    fn the_same_run_does_not_differ() {
        let before = kernel("5.10");
        assert!(before.differs(&before).is_empty());
        let mut later = before.clone();
        later.wall_seconds = 99;
        later.date = "2027-01-01".to_owned();
        assert!(later.differs(&before).is_empty());
    }

    #[test]
    fn names_what_differs() {
        let before = kernel("5.10");
        let differs = |change: fn(&mut Kernel)| {
            let mut now = before.clone();
            change(&mut now);
            now.differs(&before)
        };
        assert_eq!(
            differs(|now| now.programs[0].loads = false),
            ["program exeat_egress (slice): is refused, before it loaded"]
        );
        assert_eq!(
            differs(|now| now.programs[0].verified = Some(2000)),
            ["program exeat_egress (slice): 2000 instructions verified, before 1000"]
        );
        // Another kernel verifies otherwise.
        assert!(
            differs(|now| {
                now.programs[0].verified = Some(2000);
                now.release = "5.10.2".to_owned();
            })
            .is_empty()
        );
        assert_eq!(
            differs(|now| now.programs.clear()),
            ["program exeat_egress (slice): is gone"]
        );
        assert_eq!(
            differs(|now| {
                let attack = now.attacks.get_mut("tcp_connect");
                attack.expect("an attack").nothing = Some("out".to_owned());
            }),
            ["attack tcp_connect, nothing allowed: out, before refused"]
        );
        assert_eq!(
            differs(|now| {
                now.findings
                    .insert("ring buffer".to_owned(), "missing".to_owned());
            }),
            ["doctor: ring buffer: missing, was ok"]
        );
        // Which of the two walls held first is no difference.
        let other = differs(|now| {
            let attack = now.attacks.get_mut("tcp_connect");
            attack.expect("an attack").nothing = Some("dropped".to_owned());
        });
        assert!(other.is_empty());
        // A run without the attack suite.
        assert!(differs(|now| now.attacks.clear()).is_empty());
    }

    #[test]
    fn kernels_are_in_the_order_of_their_versions() {
        let mut record = Record::default();
        for name in ["6.12", "5.10", "6.1", "6.12"] {
            record.put(kernel(name));
        }
        let names: Vec<_> = record.kernels.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["5.10", "6.1", "6.12"]);
    }

    #[test]
    fn the_page_is_what_the_record_renders_to() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let root = root.expect("the workspace");
        let record = read(root).expect("docs/kernels.json");
        let there = fs::read_to_string(markdown(root)).expect("docs/kernels.md");
        assert!(
            there == page::render(&record),
            "docs/kernels.md is not what docs/kernels.json renders to: `cargo xtask vm-test \
             --save` writes both"
        );
    }
}
