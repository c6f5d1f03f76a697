//! Moments in the past, as `--since` and `--until` take them, and records of the history.

use std::path::Path;

use jiff::{Span, Timestamp, Zoned, civil, tz::TimeZone};

use super::exit::{Exit, Failure};
use crate::control::{Client, ClientError, Request, Response};
use crate::store::MAX_LIMIT;

/// A moment: so long ago (`1h`, `7d`), or a time or date, in this machine's zone unless it says
/// which.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, &Zoned::now())
}

fn moment_at(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "`{}` is no moment: write how long ago, as in 90m or 7d, or a time, as in \
             2026-03-04T12:00 or 2026-03-04T12:00:00Z",
            text.escape_debug()
        )
    };
    if let Ok(span) = text.parse::<Span>() {
        if span.is_negative() {
            return Err(wrong());
        }
        let then = now.checked_sub(span).map_err(|_| wrong())?;
        return Ok(then.timestamp());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let zone: TimeZone = now.time_zone().clone();
    let local = text.parse::<civil::DateTime>().map_err(|_| wrong())?;
    let local = local.to_zoned(zone).map_err(|_| wrong())?;
    Ok(local.timestamp())
}

/// Asks for records, page by page from the newest, and hands each page on, the oldest of it
/// first. Ends early where `take` says so.
pub(super) fn pages(
    socket: &Path,
    request: impl Fn(u32, Option<u64>) -> Request,
    mut limit: u64,
    mut take: impl FnMut(Vec<Response>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut before = None;
    while limit > 0 {
        let page = u32::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT);
        let mut client = Client::connect(socket)?;
        client.send(&request(page, before))?;
        let mut records = Vec::new();
        let next = loop {
            match client.next()? {
                Some(Response::End { last_seq }) => break last_seq,
                Some(record) => records.push(record),
                None => return Err(ClientError::Closed(socket.to_owned()).into()),
            }
        };
        limit = limit.saturating_sub(records.len() as u64);
        take(records)?;
        match next {
            0 => break,
            next if before.is_some_and(|before| next >= before) => {
                let text = "the daemon gives the same part of the history again";
                return Err(Failure::new(Exit::Failed, text));
            }
            next => before = Some(next),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let now: Zoned = "2026-03-04T12:00:00+01:00[Europe/Berlin]"
            .parse()
            .expect("now");
        for (text, wanted) in [
            ("1h", "2026-03-04T10:00:00Z"),
            ("7d", "2026-02-25T11:00:00Z"),
            ("1h 30m", "2026-03-04T09:30:00Z"),
            ("2026-03-01", "2026-02-28T23:00:00Z"),
            ("2026-03-01T08:00", "2026-03-01T07:00:00Z"),
            ("2026-03-01T08:00:00Z", "2026-03-01T08:00:00Z"),
        ] {
            let got = moment_at(text, &now).expect(text);
            assert_eq!(got.to_string(), wanted, "{text}");
        }
        for wrong in ["", "yesterday", "-1h", "1", "12:00"] {
            assert!(moment_at(wrong, &now).is_err(), "{wrong}");
        }
    }
}
