//! Why the kernel did not take a program, in one line and in full.

use std::{fmt, io};

use aya::programs::ProgramError;

/// A program that was refused. Shows as one line; the verifier's whole log is in
/// [`Rejection::log`].
#[derive(Debug)]
pub struct Rejection {
    line: String,
    log: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Rejection {
    /// Everything that the verifier wrote; empty where it never ran.
    pub fn log(&self) -> &str {
        &self.log
    }
}

impl From<ProgramError> for Rejection {
    fn from(error: ProgramError) -> Self {
        match error {
            // Not the error itself: its text holds the log.
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let log = verifier_log.to_string();
                Self {
                    line: deciding_line(&log, &io_error),
                    log,
                    source: io_error.into(),
                }
            }
            other => Self {
                line: other.to_string(),
                log: String::new(),
                source: other.into(),
            },
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// The line of a verifier's log that says what was wrong: the last that is no statistic, and
/// that stands before the report which kernels from 7.x on add where they tell every step.
fn deciding_line(log: &str, error: &io::Error) -> String {
    const STATISTICS: [&str; 4] = ["processed ", "verification time", "stack depth", "subprog "];
    const REPORT: &str = "Verification failed:";
    log.lines()
        .take_while(|line| !line.starts_with(REPORT))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word)))
        .last()
        .map_or_else(|| error.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_the_log_decides() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let log = "0: R1=ctx()\nunknown func bpf_get_current_ancestor_cgroup_id#123\n\
            verification time 831641 usec\nstack depth 344+0+0+80+72\n\
            subprog 1 (exeat_judge) static insns_self 0 insns_total 0 stack 0\n\
            processed 52730 insns (limit 1000000) max_states_per_insn 33\n";
        assert_eq!(
            deciding_line(log, &error),
            "unknown func bpf_get_current_ancestor_cgroup_id#123"
        );
        assert_eq!(deciding_line("", &error), error.to_string());
        // 7.3.
        let log = "0: (85) call bpf_override_return#58\n\
            program of this type cannot use helper bpf_override_return#58\n\n\
            Verification failed: Policy: Operation is not allowed\n\nReason:\n  The helper …\n\n\
            Suggestion:\n  Use a helper allowed for this program type\n\n\
            processed 1 insns (limit 1000000)\n";
        assert_eq!(
            deciding_line(log, &error),
            "program of this type cannot use helper bpf_override_return#58"
        );
    }
}
