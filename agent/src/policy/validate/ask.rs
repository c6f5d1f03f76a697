//! Who is asked about what no rule decides.

use super::super::ask::{Ask, DEFAULT_TIMEOUT};
use super::super::diagnostic::Pos;
use super::super::file::{AskFile, AsksFile, At};
use super::super::model::Policy;
use crate::asking::Asks;
use agent_common::layout::Mode;

/// Nobody, where nothing is said.
pub(super) fn ask(file: Option<&At<AskFile>>) -> Ask {
    let Some(At { value: file, .. }) = file else {
        return Ask::default();
    };
    Ask {
        who: match file.who.as_ref().map(|who| who.value) {
            Some(AsksFile::User) => Asks::User,
            Some(AsksFile::Admin) => Asks::Admin,
            Some(AsksFile::Nobody) | None => Asks::Nobody,
        },
        timeout: file
            .timeout
            .as_ref()
            .and_then(|timeout| u32::try_from(timeout.value).ok())
            .unwrap_or(DEFAULT_TIMEOUT),
    }
}

/// Place, message and help of every warning about it.
pub(super) fn lint(policy: &Policy, file: &At<AskFile>) -> Option<(Pos, String, String)> {
    let name = &policy.name;
    if policy.ask.who == Asks::Nobody {
        return file.value.timeout.as_ref().map(|timeout| {
            (
                timeout.at,
                format!("nobody is asked about agent `{name}`, so no question times out"),
                "remove the time-out, or write `who: user`".to_owned(),
            )
        });
    }
    (policy.mode == Mode::Monitor).then(|| {
        (
            file.at,
            format!("agent `{name}` is only monitored, so nobody is asked"),
            "remove `mode: monitor` to have questions asked".to_owned(),
        )
    })
}
