//! Every exit code, and which failure gets which. Only here.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::{ClientError, Code};

/// What the command's end means.
///
/// | code | meaning |
/// |---|---|
/// | 0 | done; for `status`: healthy and enforcing |
/// | 1 | refused or failed |
/// | 2 | wrong usage, bad configuration or bad policy |
/// | 3 | degraded: something that should be enforced is not |
/// | 4 | the daemon is not running |
/// | 5 | not permitted |
/// | 125 | `run`: Exeat itself failed, the program was not started |
/// | 126 | `run`: the program cannot be executed |
/// | 127 | `run`: there is no such program |
///
/// 125 to 127 are those of env(1); any other code of `run` is the program's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Refused or failed.
    Failed = 1,
    /// Wrong usage (as clap reports it), bad configuration or bad policy.
    Usage = 2,
    /// Something that should be enforced is not.
    Degraded = 3,
    /// The daemon is not running.
    NotRunning = 4,
    /// This user, or a governed process, may not.
    NotPermitted = 5,
    /// `run`: the program was not started.
    RunFailed = 125,
    /// `run`: the program cannot be executed.
    NotExecutable = 126,
    /// `run`: there is no such program.
    NotFound = 127,
}

impl Exit {
    /// Every code with its meaning, for the manual.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Ok, "done; for status: healthy and enforcing"),
        (Self::Failed, "refused or failed"),
        (Self::Usage, "wrong usage, bad configuration or bad policy"),
        (
            Self::Degraded,
            "degraded: something that should be enforced is not",
        ),
        (Self::NotRunning, "the daemon is not running"),
        (Self::NotPermitted, "not permitted"),
        (
            Self::RunFailed,
            "run: Exeat itself failed, the program was not started",
        ),
        (Self::NotExecutable, "run: the program cannot be executed"),
        (Self::NotFound, "run: there is no such program"),
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The codes that a subcommand ends with, and what each says there; all of them for the
    /// name "".
    pub fn meanings(subcommand: &str) -> Vec<(u8, &'static str)> {
        if subcommand == "health" {
            return crate::health::codes();
        }
        let numbers: &[u8] = match subcommand {
            "" => &[0, 1, 2, 3, 4, 5, 125, 126, 127],
            "run" => &[125, 126, 127],
            "status" => &[0, 1, 2, 3, 4, 5],
            "events" | "leases" | "reload" | "freeze" | "thaw" | "kill" | "ask" | "grants"
            | "grant" | "revoke" | "isolate" | "portal" | "bundle" | "report" | "flows"
            | "simulate" => &[0, 1, 2, 4, 5],
            "doctor" => &[0, 1, 2, 3],
            "notify" => &[0, 1, 2, 5],
            "daemon" | "teardown" => &[0, 1, 2, 5],
            _ => &[0, 1, 2],
        };
        let all = Self::ALL.iter().map(|(exit, text)| (exit.code(), *text));
        all.filter(|(code, _)| numbers.contains(code))
            .map(|(code, text)| match (subcommand, code) {
                ("explain", 0) => (code, "the flow is allowed"),
                ("explain", 1) => (code, "the flow is refused"),
                ("explain", 2) => (code, "the question or the policy is wrong"),
                ("simulate", 0) => (code, "nothing would change"),
                ("simulate", 1) => (code, "something would change, or it failed"),
                ("check", 0) => (code, "the files are sound"),
                ("doctor", 0) => (code, "Exeat can enforce here"),
                ("doctor", 3) => (
                    code,
                    "something required is missing, or a running daemon does not enforce",
                ),
                ("daemon", 0) => (code, "it was told to stop; what it enforced stays enforced"),
                ("run", _) => (code, text.strip_prefix("run: ").unwrap_or(text)),
                ("status" | "", _) => (code, text),
                (_, 0) => (code, "done"),
                (_, _) => (code, text),
            })
            .collect()
    }
}

impl TryFrom<u8> for Exit {
    type Error = Failure;

    /// From a code that a command gave as a number; one that is not in [`Exit::ALL`] is a
    /// failure.
    fn try_from(code: u8) -> Result<Self, Failure> {
        Self::ALL
            .iter()
            .map(|(exit, _)| *exit)
            .find(|exit| exit.code() == code)
            .ok_or_else(|| Failure::new(Self::Failed, format!("unknown outcome {code}")))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command that did not do what was asked: what to say, and the code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For the person; printed once, by the caller of the command.
    pub message: String,
    /// The code.
    pub exit: Exit,
}

impl Failure {
    /// A failure with its code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, format!("cannot write the output: {error}"))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Exit::Failed, format!("cannot write the output: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotRunning(_) => Exit::NotRunning,
            ClientError::Forbidden(_) => Exit::NotPermitted,
            ClientError::TimedOut(_)
            | ClientError::Closed(_)
            | ClientError::Io { .. }
            | ClientError::Protocol(_) => Exit::Failed,
            ClientError::Refused(problem) => match problem.code {
                Code::Governed | Code::NotPermitted | Code::Forbidden => Exit::NotPermitted,
                Code::Policy => Exit::Usage,
                Code::BadRequest
                | Code::TooLong
                | Code::Version
                | Code::UnknownMethod
                | Code::NoAgent
                | Code::NoQuestion
                | Code::NoGrant
                | Code::NotEnforceable
                | Code::Frozen
                | Code::Identity
                | Code::Busy
                | Code::Internal
                | Code::NoHistory
                | Code::Unknown => Exit::Failed,
            },
        };
        Self::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Problem;

    #[test]
    fn codes_are_those_of_the_documentation() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|(e, _)| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 125, 126, 127]);
    }

    #[test]
    fn refusals_keep_their_meaning() {
        let exit = |code| {
            let problem = Problem::new(code, "m", "h");
            Failure::from(ClientError::Refused(problem)).exit
        };
        assert_eq!(exit(Code::Governed), Exit::NotPermitted);
        assert_eq!(exit(Code::NotPermitted), Exit::NotPermitted);
        assert_eq!(exit(Code::Policy), Exit::Usage);
        assert_eq!(exit(Code::NoAgent), Exit::Failed);
        let gone = Failure::from(ClientError::NotRunning("/x".into()));
        assert_eq!(gone.exit, Exit::NotRunning);
    }
}
