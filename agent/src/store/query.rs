//! Questions: each on a connection of its own that can only read, with a deadline. A slow one
//! holds neither the writer nor the engine.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::model::{
    DEFAULT_LIMIT, MAX_LIMIT, MAX_ROWS, Page, QueryError, SummaryBy, SummaryRow, Wanted,
};
use super::row::needle;
use super::schema;
use crate::sink::Record;

/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 1000;
/// Bytes of records in one answer: what is beyond them is on the next page.
const MAX_BYTES: usize = 8 << 20;
const HOUR_US: i64 = 3_600_000_000;

/// A connection whose questions end in time.
fn connect(path: &Path, limit: Duration) -> Result<Connection, QueryError> {
    let unreadable = |error: rusqlite::Error| QueryError::Unreadable(error.to_string());
    let mut db = schema::open_to_read(path).map_err(unreadable)?;
    let until = Instant::now() + limit;
    db.progress_handler(STEPS, Some(move || Instant::now() > until))
        .map_err(unreadable)?;
    Ok(db)
}

fn failure(limit: Duration) -> impl Fn(rusqlite::Error) -> QueryError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => QueryError::TooSlow(limit),
        _ => QueryError::Unreadable(error.to_string()),
    }
}

/// The conditions of a question, and their values.
#[derive(Default)]
struct Conditions {
    text: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn of(wanted: &Wanted) -> Self {
        let mut all = Self::default();
        if !wanted.incidents {
            all.text.push("incident = 0".into());
        }
        if let Some(agent) = &wanted.agent {
            all.add("agent = ?", agent.clone().into());
        }
        if let Some(uid) = wanted.uid {
            all.add("uid = ?", i64::from(uid).into());
        }
        if let Some(since) = wanted.since {
            all.add("time >= ?", since.as_microsecond().into());
        }
        if let Some(until) = wanted.until {
            all.add("time < ?", until.as_microsecond().into());
        }
        if let Some(verdict) = wanted.verdict {
            all.add("verdict = ?", verdict.as_str().to_owned().into());
        }
        if let Some(before) = wanted.before {
            let before = i64::try_from(before).unwrap_or(i64::MAX);
            all.add("id < ?", before.into());
        }
        if !wanted.names.is_empty() {
            let one = "instr(names, ?) > 0";
            all.text
                .push(format!("({})", vec![one; wanted.names.len()].join(" OR ")));
            all.values
                .extend(wanted.names.iter().map(|name| Value::from(needle(name))));
        }
        all
    }

    fn add(&mut self, condition: &str, value: Value) {
        self.text.push(condition.into());
        self.values.push(value);
    }

    fn clause(&self) -> String {
        match self.text.is_empty() {
            true => "1".into(),
            false => self.text.join(" AND "),
        }
    }
}

/// The newest records that are wanted, the oldest of them first.
pub(super) fn history(path: &Path, wanted: &Wanted, limit: Duration) -> Result<Page, QueryError> {
    let fail = failure(limit);
    let db = connect(path, limit)?;
    let most = wanted.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let mut all = Conditions::of(wanted);
    let sql = format!(
        "SELECT id, incident, record FROM records WHERE {} ORDER BY id DESC LIMIT ?",
        all.clause()
    );
    // One more than asked for tells whether there is another page.
    all.values.push((i64::from(most) + 1).into());
    let mut question = db.prepare(&sql).map_err(&fail)?;
    let mut rows = question
        .query(params_from_iter(all.values))
        .map_err(&fail)?;
    let mut page = Page::default();
    let (mut oldest, mut bytes) = (0, 0);
    while let Some(row) = rows.next().map_err(&fail)? {
        if page.records.len() >= most as usize || bytes > MAX_BYTES {
            page.next = oldest;
            break;
        }
        let id: i64 = row.get(0).map_err(&fail)?;
        let incident: bool = row.get(1).map_err(&fail)?;
        let json = row
            .get_ref(2)
            .and_then(|v| Ok(v.as_str()?))
            .map_err(&fail)?;
        bytes += json.len();
        let record = match incident {
            true => serde_json::from_str(json).map(Record::Incident),
            false => serde_json::from_str(json).map(Record::Flow),
        };
        oldest = u64::try_from(id).unwrap_or(0);
        // A word that this version does not know any more is no reason to show nothing.
        if let Ok(record) = record {
            page.records.push(record);
        }
    }
    page.records.reverse();
    Ok(page)
}

/// What was recorded, added up; the rows with the most bytes, then the most flows, first. Whether
/// there are more rows than are given.
pub(super) fn summary(
    path: &Path,
    wanted: &Wanted,
    by: SummaryBy,
    limit: Duration,
) -> Result<(Vec<SummaryRow>, bool), QueryError> {
    let fail = failure(limit);
    let db = connect(path, limit)?;
    let (key, detail) = match by {
        SummaryBy::Agent => ("agent", "NULL"),
        SummaryBy::Destination => ("destination", "NULL"),
        SummaryBy::Verdict => ("verdict", "reason"),
        // Rounded down before 1970 too, where nobody was.
        SummaryBy::Hour => ("time / 3600000000", "NULL"),
        SummaryBy::Process => ("process", "NULL"),
    };
    let mut all = Conditions::of(&Wanted {
        incidents: false,
        ..wanted.clone()
    });
    let most = wanted.limit.unwrap_or(MAX_ROWS).min(MAX_ROWS);
    let sql = format!(
        "SELECT {key}, {detail}, sum(ended), sum(verdict <> 'allow'), sum(question),
            sum(suppressed), sum(sent_bytes), sum(sent_packets), sum(received_bytes),
            sum(received_packets), min(time), max(time)
         FROM records WHERE {} GROUP BY 1, 2
         ORDER BY sum(sent_bytes) + sum(received_bytes) DESC, count(*) DESC, 1, 2 LIMIT ?",
        all.clause()
    );
    all.values.push((i64::from(most) + 1).into());
    let mut question = db.prepare(&sql).map_err(&fail)?;
    let mut rows = question
        .query(params_from_iter(all.values))
        .map_err(&fail)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(&fail)? {
        found.push(summary_row(row, by).map_err(&fail)?);
    }
    let more = found.len() > most as usize;
    found.truncate(most as usize);
    if by == SummaryBy::Hour {
        found.sort_by(|a, b| a.key.cmp(&b.key));
    }
    Ok((found, more))
}

fn summary_row(row: &rusqlite::Row<'_>, by: SummaryBy) -> rusqlite::Result<SummaryRow> {
    let count = |index| {
        row.get::<_, i64>(index)
            .map(|n| u64::try_from(n).unwrap_or(0))
    };
    let time = |index| row.get::<_, i64>(index).map(when);
    Ok(SummaryRow {
        key: match by {
            SummaryBy::Hour => when(row.get::<_, i64>(0)?.saturating_mul(HOUR_US)).to_string(),
            _ => row.get::<_, Option<String>>(0)?.unwrap_or_default(),
        },
        detail: row.get(1)?,
        allowed: count(2)?,
        denied: count(3)?,
        questions: count(4)?,
        suppressed: count(5)?,
        sent_bytes: count(6)?,
        sent_packets: count(7)?,
        received_bytes: count(8)?,
        received_packets: count(9)?,
        first: time(10)?,
        last: time(11)?,
    })
}

fn when(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or_default()
}
