//! What the kernel counts of the programs that stand around a connection.

use anyhow::Context;
use aya::programs::ProgramInfo;
use std::collections::BTreeMap;
use std::path::Path;

/// Nanoseconds and runs.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct Count {
    pub(super) nanoseconds: f64,
    pub(super) runs: f64,
}

impl Count {
    /// Nanoseconds a run; NaN without one.
    pub(super) fn each(self) -> f64 {
        self.nanoseconds / self.runs
    }
}

/// Of every program, by its hook (`egress`).
#[derive(Clone, Default, Debug)]
pub(super) struct Counted(BTreeMap<String, Count>);

impl Counted {
    /// The programs that a daemon has pinned in a folder.
    pub(super) fn pinned(folder: &Path) -> anyhow::Result<Self> {
        let entries = std::fs::read_dir(folder);
        let mut counted = Self::default();
        for entry in entries.with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let info = ProgramInfo::from_pin(&path)
                .with_context(|| format!("ask the kernel about {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            counted.add(name.trim_start_matches("exeat_"), &info);
        }
        Ok(counted)
    }

    /// Adds a program.
    pub(super) fn add(&mut self, hook: &str, info: &ProgramInfo) {
        let count = Count {
            nanoseconds: info.run_time().as_nanos() as f64,
            runs: info.run_count() as f64,
        };
        self.0.insert(hook.to_owned(), count);
    }

    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let less = |(hook, now): (&String, &Count)| {
            let before = before.0.get(hook).copied().unwrap_or_default();
            let count = Count {
                nanoseconds: now.nanoseconds - before.nanoseconds,
                runs: now.runs - before.runs,
            };
            (hook.clone(), count)
        };
        Self(self.0.iter().map(less).collect())
    }

    /// One hook's.
    pub(super) fn of(&self, hook: &str) -> Count {
        self.0.get(hook).copied().unwrap_or_default()
    }

    /// All programs together.
    pub(super) fn all(&self) -> Count {
        self.0.values().fold(Count::default(), |sum, one| Count {
            nanoseconds: sum.nanoseconds + one.nanoseconds,
            runs: sum.runs + one.runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &[(&str, f64, f64)]) -> Counted {
        let counts = counts.iter().map(|&(hook, nanoseconds, runs)| {
            let count = Count { nanoseconds, runs };
            (hook.to_owned(), count)
        });
        Counted(counts.collect())
    }

    #[test]
    fn only_what_came_after_counts() {
        let before = counted(&[("egress", 1000.0, 10.0), ("connect4", 50.0, 1.0)]);
        let now = counted(&[
            ("egress", 1600.0, 14.0),
            ("connect4", 150.0, 2.0),
            ("bind4", 0.0, 0.0),
        ]);
        let since = now.since(&before);
        assert_eq!(since.of("egress").each(), 150.0);
        assert!(since.of("bind4").each().is_nan());
        let all = since.all();
        assert_eq!((all.nanoseconds, all.runs), (700.0, 5.0));
    }
}
