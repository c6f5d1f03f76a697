//! Questions about the past: what the history answers.

use super::protocol::{Code, MAX_NAMES, Problem, Request, Response};
use super::server::Handler;
use crate::store::{Page, QueryError, Store, Wanted};

fn store<H: Handler>(handler: &H) -> Result<&Store, Problem> {
    handler.store().ok_or_else(|| {
        Problem::new(
            Code::NoHistory,
            "this daemon keeps no history",
            "set `history: {enabled: true}` in its configuration, and restart it",
        )
    })
}

fn problem(error: QueryError) -> Problem {
    let (code, help) = match &error {
        QueryError::TooSlow(_) => (
            Code::Busy,
            "ask for less time: a later `since`, or an `until`",
        ),
        QueryError::Busy => (Code::Busy, "try again in a moment"),
        QueryError::Unreadable(_) => (Code::Internal, "see `exeat status` and the daemon's log"),
    };
    Problem::new(code, error.to_string(), help)
}

/// The newest records that are wanted; with `own` only those of this user.
pub(super) async fn history<H: Handler>(
    handler: &H,
    request: Request,
    own: Option<u32>,
) -> Result<Page, Problem> {
    let Request::History {
        agent,
        since,
        until,
        names,
        verdict,
        incidents,
        limit,
        before,
    } = request
    else {
        return Ok(Page::default());
    };
    if names.len() > MAX_NAMES {
        return Err(Problem::new(
            Code::BadRequest,
            format!(
                "{} hosts are more than the {MAX_NAMES} of one question",
                names.len()
            ),
            "ask several times",
        ));
    }
    let wanted = Wanted {
        agent,
        uid: own,
        since,
        until,
        names,
        verdict,
        incidents,
        limit,
        before,
    };
    store(handler)?.history(wanted).await.map_err(problem)
}

/// What was recorded, added up.
pub(super) async fn summary<H: Handler>(
    handler: &H,
    request: Request,
    own: Option<u32>,
) -> Result<Response, Problem> {
    let Request::Summary {
        since,
        until,
        agent,
        by,
        limit,
    } = request
    else {
        return Ok(Response::End { last_seq: 0 });
    };
    let wanted = Wanted {
        agent,
        uid: own,
        since,
        until,
        limit,
        ..Wanted::default()
    };
    let (rows, more) = store(handler)?.summary(wanted, by).await.map_err(problem)?;
    Ok(Response::Summary { rows, more })
}
