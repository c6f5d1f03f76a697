//! What is known of one request, and its record at the end of the last part of it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use http::request::Parts;
use tokio::time::Instant;

use super::super::name::shown_within;
use super::super::session::Ended;
use super::super::{GatewayRecord, GatewayStats, Outcome, Records, RequestRecord};

/// The longest method that is recorded; known ones have at most 16.
const MAX_METHOD: usize = 32;

/// The longest path that is recorded.
const MAX_PATH: usize = 1024;

/// One request. Its parts share it; with the last of them it is recorded.
pub(super) struct Ticket {
    begun: Instant,
    records: Records,
    stats: Arc<GatewayStats>,
    /// What is known of every request of the connection.
    like: Arc<GatewayRecord>,
    state: Mutex<State>,
}

struct State {
    request: RequestRecord,
    ended: Option<Ended>,
}

impl Ticket {
    pub(super) fn new(
        records: Records,
        stats: Arc<GatewayStats>,
        like: Arc<GatewayRecord>,
        parts: &Parts,
    ) -> Self {
        let request = RequestRecord {
            method: shown_within(parts.method.as_str().as_bytes(), MAX_METHOD),
            path: Some(shown_within(parts.uri.path().as_bytes(), MAX_PATH)),
            status: None,
            sent: 0,
            received: 0,
            patterns: Vec::new(),
        };
        let ended = None;
        Self {
            begun: Instant::now(),
            records,
            stats,
            like,
            state: Mutex::new(State { request, ended }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole whenever it is not locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn passed(&self) {
        self.stats.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.state().request.sent += bytes as u64;
    }

    pub(super) fn received(&self, bytes: usize) {
        self.state().request.received += bytes as u64;
    }

    pub(super) fn answered(&self, status: StatusCode) {
        self.state().request.status = Some(status.as_u16());
    }

    /// A pattern is in the request.
    pub(super) fn found(&self, pattern: &str) {
        let patterns = &mut self.state().request.patterns;
        if !patterns.iter().any(|it| it == pattern) {
            patterns.push(pattern.to_owned());
        }
    }

    /// A pattern is in the path, which is not told for that.
    pub(super) fn withhold_path(&self) {
        self.state().request.path = None;
    }

    /// How it ended. The first word counts, but a refusal is always the last.
    pub(super) fn end(&self, ended: Ended) {
        let mut state = self.state();
        let refused = |it: &Ended| it.outcome.is_refusal();
        match &state.ended {
            Some(before) if refused(before) || !refused(&ended) => {}
            _ => state.ended = Some(ended),
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        let ended = &self.state().ended;
        ended.as_ref().is_some_and(|it| it.outcome.is_refusal())
    }

    /// Why it was refused, if it was.
    pub(super) fn refusal(&self) -> Option<Ended> {
        let ended = self.state().ended.clone();
        ended.filter(|it| it.outcome.is_refusal())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let ended = state.ended.take();
        // Dropped before it came to an end, with its connection.
        let ended = ended.unwrap_or_else(|| Ended::new(Outcome::Reset));
        if ended.outcome != Outcome::Closed {
            self.stats.ended(ended.outcome);
        }
        let record = GatewayRecord {
            request: Some(state.request.clone()),
            elapsed: self.begun.elapsed(),
            outcome: ended.outcome,
            denied: ended.denied,
            detail: ended.detail,
            ..GatewayRecord::clone(&self.like)
        };
        if !self.records.offer(record) {
            self.stats.records_lost.fetch_add(1, Relaxed);
        }
    }
}
