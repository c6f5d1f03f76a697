//! Where [`FlowRecord`]s and [`Incident`]s go: a bounded memory of recent ones, followers, and a file.
//!
//! [`Hub::publish`] never waits: a follower or a disk that is too slow loses records,
//! and every loss is counted and shown.

mod file;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

pub(crate) use file::Writer as Lines;
pub use file::{FileCounts, FileError, FileSink, KEPT_FILES};

use crate::flow::{FlowRecord, FlowVerdict};
use crate::incident::{Incident, IncidentKind};

/// Records that a follower may be behind before it loses some.
const FOLLOW_BUFFER: usize = 1024;

/// Of what was allowed as many records are remembered as of refusals, divided by this.
const ALLOWED_PART: usize = 4;

/// One line of the stream.
#[expect(
    clippy::large_enum_variant,
    reason = "it is held behind an Arc, and most are the large one"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A flow.
    Flow(FlowRecord),
    /// An incident.
    Incident(Incident),
}

impl Record {
    /// Its number.
    pub const fn seq(&self) -> u64 {
        match self {
            Self::Flow(flow) => flow.seq,
            Self::Incident(incident) => incident.seq,
        }
    }

    fn set_seq(&mut self, seq: u64) {
        match self {
            Self::Flow(flow) => flow.seq = seq,
            Self::Incident(incident) => incident.seq = seq,
        }
    }

    /// Name of its agent.
    pub fn agent(&self) -> &str {
        match self {
            Self::Flow(flow) => &flow.agent,
            Self::Incident(incident) => &incident.agent,
        }
    }

    /// Its user, if it is known.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Self::Flow(flow) => flow.uid(),
            Self::Incident(incident) => incident.uid,
        }
    }

    /// The flow, if it is one.
    pub const fn flow(&self) -> Option<&FlowRecord> {
        match self {
            Self::Flow(flow) => Some(flow),
            Self::Incident(_) => None,
        }
    }
}

/// `queued` where that is three quarters of a queue's room.
pub(crate) fn crowd(queued: u64, room: usize) -> Option<u64> {
    (queued >= room as u64 / 4 * 3).then_some(queued)
}

/// Somewhere that records go, beside the memory and the followers.
pub trait Sink: Send + Sync {
    /// Takes a record, or counts that it could not. It is called under the hub's lock, so it
    /// never waits, neither for a disk nor for a peer.
    fn offer(&self, record: &Arc<Record>);

    /// How it is.
    fn state(&self) -> SinkState;

    /// How many records wait in memory, where there is room for few more: who has a place to
    /// keep others does so, until there is room again. Like [`Sink::offer`] it waits for nothing.
    fn crowded(&self) -> Option<u64> {
        None
    }

    /// Writes out what waits, within a few seconds, and ends what it started.
    fn close(&self);
}

/// How a [`Sink`] is: absolute counts since the start, but for the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkState {
    /// Its name: a label of metrics, so a closed word or a name from the configuration.
    pub name: String,
    /// Records that arrived where they should.
    pub delivered: u64,
    /// Records that found the queue full.
    pub dropped: u64,
    /// Records that could not be written, and will not be.
    pub failed: u64,
    /// Records that wait.
    pub queued: u64,
    /// When one last arrived.
    pub last_success: Option<jiff::Timestamp>,
    /// From when the oldest record is that was not taken; none while records are taken.
    pub waiting_since: Option<jiff::Timestamp>,
    /// Why it does not work at the moment.
    pub trouble: Option<String>,
}

/// Incidents of one agent, by kind.
pub type IncidentCounts = [u64; IncidentKind::COUNT];

/// Numbers the records, remembers the last ones and hands them on.
pub struct Hub {
    recent: Mutex<Recent>,
    live: broadcast::Sender<Arc<Record>>,
    file: Option<FileSink>,
    sinks: Vec<Arc<dyn Sink>>,
    follower_lost: AtomicU64,
}

/// Incidents, refusals and what was allowed have a place each, so that no amount of the one
/// pushes the others out.
struct Recent {
    keep: usize,
    last_seq: u64,
    refused: VecDeque<Arc<Record>>,
    allowed: VecDeque<Arc<Record>>,
    incidents: VecDeque<Arc<Record>>,
    counts: BTreeMap<String, IncidentCounts>,
}

impl Recent {
    fn push(&mut self, record: Arc<Record>) {
        let (queue, keep) = match &*record {
            Record::Flow(flow) => match flow.verdict {
                FlowVerdict::Allow => (&mut self.allowed, (self.keep / ALLOWED_PART).max(1)),
                FlowVerdict::Deny | FlowVerdict::WouldDeny => (&mut self.refused, self.keep),
            },
            Record::Incident(incident) => {
                let counts = self.counts.entry(incident.agent.clone()).or_default();
                counts[incident.kind.index()] += 1;
                (&mut self.incidents, self.keep)
            }
        };
        if queue.len() >= keep {
            queue.pop_front();
        }
        queue.push_back(record);
    }

    /// All, newest first.
    fn newest_first(&self) -> impl Iterator<Item = &Arc<Record>> {
        let mut queues = [&self.refused, &self.allowed, &self.incidents]
            .map(|queue| queue.iter().rev().peekable());
        std::iter::from_fn(move || {
            let heads = queues.each_mut().map(|queue| queue.peek().map(|r| r.seq()));
            let newest = (0..heads.len()).max_by_key(|index| heads[*index])?;
            queues[newest].next()
        })
    }

    /// How many after this number there are.
    fn held_after(&self, seq: u64) -> u64 {
        let after = |queue: &VecDeque<Arc<Record>>| {
            queue.len() - queue.partition_point(|record| record.seq() <= seq)
        };
        (after(&self.refused) + after(&self.allowed) + after(&self.incidents)) as u64
    }
}

/// Which records a reader gets. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only of processes of this user: what a user who does not administer may see.
    pub uid: Option<u32>,
}

impl Filter {
    /// Whether the record passes.
    pub fn admits(&self, record: &Record) -> bool {
        self.agent.as_ref().is_none_or(|a| *a == record.agent())
            && self.uid.is_none_or(|uid| record.uid() == Some(uid))
    }
}

/// What [`Hub::read`] found.
#[derive(Debug)]
pub struct Page {
    /// The records, oldest first.
    pub records: Vec<Arc<Record>>,
    /// Records after the asked number that memory no longer holds, of every agent and user.
    pub overwritten: u64,
    /// Number of the last record that was published, 0 if none.
    pub last_seq: u64,
    /// What is published from now on; nothing is missing between `records` and this.
    pub live: broadcast::Receiver<Arc<Record>>,
}

/// Absolute counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HubCounts {
    /// Records published.
    pub published: u64,
    /// Records that followers were too slow for.
    pub follower_lost: u64,
    /// The file, if there is one.
    pub file: FileCounts,
}

impl Hub {
    /// A hub that remembers `keep` refusals, as many incidents, and a quarter as much of what was
    /// allowed, and writes to `file` if there is one.
    pub fn new(keep: usize, file: Option<FileSink>) -> Self {
        Self::with_follow_buffer(keep, file, FOLLOW_BUFFER)
    }

    pub(crate) fn with_follow_buffer(keep: usize, file: Option<FileSink>, buffer: usize) -> Self {
        let keep = keep.max(1);
        Self {
            recent: Mutex::new(Recent {
                keep,
                last_seq: 0,
                refused: VecDeque::new(),
                allowed: VecDeque::new(),
                incidents: VecDeque::new(),
                counts: BTreeMap::new(),
            }),
            live: broadcast::Sender::new(buffer),
            file,
            sinks: Vec::new(),
            follower_lost: AtomicU64::new(0),
        }
    }

    /// With more places for records to go.
    #[must_use]
    pub fn with_sinks(mut self, sinks: impl IntoIterator<Item = Arc<dyn Sink>>) -> Self {
        self.sinks.extend(sinks);
        self
    }

    /// How the sinks are, in the order that they were given.
    pub fn sinks(&self) -> Vec<SinkState> {
        self.sinks.iter().map(|sink| sink.state()).collect()
    }

    /// How many records wait at sinks that have room for few more; none where all have room.
    pub fn crowded(&self) -> Option<u64> {
        let file = self.file.as_ref().and_then(FileSink::crowded);
        let sinks = self.sinks.iter().filter_map(|sink| sink.crowded());
        sinks.chain(file).reduce(u64::saturating_add)
    }

    /// Gives a flow its number and hands it on. Never waits.
    pub fn publish(&self, record: FlowRecord) {
        self.hand_on(Record::Flow(record));
    }

    /// The same for an incident, which is logged too.
    pub fn incident(&self, incident: Incident) {
        let (agent, kind) = (&incident.agent, incident.kind.as_str());
        let (run, pid, message) = (&incident.run, incident.pid, &incident.message);
        match incident.kind.is_routine() {
            true => tracing::info!(agent, kind, run, pid, "{message}"),
            false => tracing::warn!(agent, kind, run, pid, "{message}"),
        }
        self.hand_on(Record::Incident(incident));
    }

    /// Incidents since the start, by agent.
    pub fn incidents(&self) -> BTreeMap<String, IncidentCounts> {
        self.recent().counts.clone()
    }

    fn hand_on(&self, mut record: Record) {
        // The lock is held until followers have it, so that numbers arrive in order.
        let mut recent = self.recent();
        recent.last_seq += 1;
        record.set_seq(recent.last_seq);
        let record = Arc::new(record);
        recent.push(Arc::clone(&record));
        // An error only says that nobody follows.
        let _ = self.live.send(Arc::clone(&record));
        for sink in &self.sinks {
            sink.offer(&record);
        }
        if let Some(file) = &self.file {
            file.offer(record);
        }
    }

    /// The remembered records after `since_seq` that pass, the newest `limit` of them, and
    /// a receiver of what follows.
    pub fn read(&self, filter: &Filter, since_seq: Option<u64>, limit: usize) -> Page {
        let recent = self.recent();
        let since = since_seq.unwrap_or(0);
        let overwritten = match since_seq {
            Some(since) => {
                (recent.last_seq.saturating_sub(since)).saturating_sub(recent.held_after(since))
            }
            None => 0,
        };
        let mut records: Vec<_> = recent
            .newest_first()
            .take_while(|r| r.seq() > since)
            .filter(|r| filter.admits(r))
            .take(limit)
            .cloned()
            .collect();
        records.reverse();
        Page {
            records,
            overwritten,
            last_seq: recent.last_seq,
            live: self.live.subscribe(),
        }
    }

    /// Counts records that a follower was too slow for.
    pub fn count_follower_loss(&self, records: u64) {
        self.follower_lost.fetch_add(records, Ordering::Relaxed);
    }

    /// Absolute counts since the start.
    pub fn counts(&self) -> HubCounts {
        HubCounts {
            published: self.recent().last_seq,
            follower_lost: self.follower_lost.load(Ordering::Relaxed),
            file: self.file.as_ref().map(FileSink::counts).unwrap_or_default(),
        }
    }

    /// Writes out what the file still has to get, and ends its thread.
    pub fn close(mut self) {
        if let Some(file) = self.file.take() {
            file.close();
        }
        for sink in &self.sinks {
            sink.close();
        }
    }

    /// A panic while the lock was held leaves nothing half done: every change is one push.
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::record;
    use crate::incident::tests::incident;

    fn seqs(page: &Page) -> Vec<u64> {
        page.records.iter().map(|r| r.seq()).collect()
    }

    fn of(agent: &str, uid: u32) -> FlowRecord {
        let mut r = record();
        r.agent = agent.into();
        if let Some(p) = &mut r.process {
            p.uid = uid;
        }
        r
    }

    #[test]
    fn the_memory_is_bounded_and_says_what_it_forgot() {
        let hub = Hub::new(3, None);
        let empty = hub.read(&Filter::default(), Some(0), 10);
        assert_eq!((seqs(&empty), empty.overwritten), (vec![], 0));
        for _ in 0..5 {
            hub.publish(record());
        }
        let all = hub.read(&Filter::default(), None, 10);
        assert_eq!(
            (seqs(&all), all.overwritten, all.last_seq),
            (vec![3, 4, 5], 0, 5)
        );
        let from_start = hub.read(&Filter::default(), Some(0), 10);
        assert_eq!(
            (seqs(&from_start), from_start.overwritten),
            (vec![3, 4, 5], 2)
        );
        let later = hub.read(&Filter::default(), Some(3), 10);
        assert_eq!((seqs(&later), later.overwritten), (vec![4, 5], 0));
        let newest = hub.read(&Filter::default(), None, 2);
        assert_eq!(seqs(&newest), vec![4, 5]);
        let future = hub.read(&Filter::default(), Some(u64::MAX), 2);
        assert_eq!((seqs(&future), future.overwritten), (vec![], 0));
    }

    #[test]
    fn what_was_allowed_pushes_no_refusal_out() {
        let hub = Hub::new(8, None);
        let mut allowed = record();
        allowed.verdict = FlowVerdict::Allow;
        hub.publish(record());
        for _ in 0..50 {
            hub.publish(allowed.clone());
        }
        hub.publish(record());
        hub.publish(allowed);
        let all = hub.read(&Filter::default(), Some(0), 100);
        assert_eq!(seqs(&all), vec![1, 51, 52, 53]);
        assert_eq!(all.overwritten, 49);
        let newest = hub.read(&Filter::default(), Some(51), 1);
        assert_eq!((seqs(&newest), newest.overwritten), (vec![53], 0));
    }

    #[test]
    fn incidents_are_numbered_with_the_flows_and_outlive_them() {
        let hub = Hub::new(2, None);
        hub.incident(incident());
        for _ in 0..5 {
            hub.publish(record());
        }
        hub.incident(incident().of_process(7, Some(1000)));
        let all = hub.read(&Filter::default(), None, 100);
        assert_eq!(seqs(&all), vec![1, 5, 6, 7]);
        assert!(all.records[0].flow().is_none() && all.records[1].flow().is_some());
        let own = Filter {
            uid: Some(1000),
            ..Filter::default()
        };
        assert_eq!(seqs(&hub.read(&own, None, 100)), vec![5, 6, 7]);
        let counts = hub.incidents()["build-bot"];
        assert_eq!(counts[IncidentKind::LimitHit.index()], 2);
        assert_eq!(counts.iter().sum::<u64>(), 2);
    }

    #[test]
    fn a_filter_shows_one_agent_and_one_user() {
        let hub = Hub::new(10, None);
        hub.publish(of("a", 1));
        hub.publish(of("b", 1));
        hub.publish(of("a", 2));
        let mut without_process = of("a", 1);
        without_process.process = None;
        hub.publish(without_process);
        let read = |agent: Option<&str>, uid| {
            let filter = Filter {
                agent: agent.map(str::to_owned),
                uid,
            };
            seqs(&hub.read(&filter, None, 10))
        };
        assert_eq!(read(None, None), vec![1, 2, 3, 4]);
        assert_eq!(read(Some("a"), None), vec![1, 3, 4]);
        assert_eq!(read(None, Some(1)), vec![1, 2]);
        assert_eq!(read(Some("a"), Some(2)), vec![3]);
        assert_eq!(read(Some("c"), None), Vec::<u64>::new());
    }

    #[tokio::test]
    async fn nothing_is_missing_between_the_page_and_what_follows() {
        let hub = Hub::new(10, None);
        hub.publish(record());
        let mut page = hub.read(&Filter::default(), None, 10);
        hub.publish(record());
        assert_eq!(seqs(&page), vec![1]);
        assert_eq!(page.live.recv().await.expect("live").seq(), 2);
    }

    #[tokio::test]
    async fn a_follower_that_lags_is_told_how_much_it_lost() {
        let hub = Hub::with_follow_buffer(10, None, 2);
        let mut page = hub.read(&Filter::default(), None, 10);
        for _ in 0..5 {
            hub.publish(record());
        }
        let lost = page.live.recv().await;
        assert!(
            matches!(lost, Err(broadcast::error::RecvError::Lagged(3))),
            "{lost:?}"
        );
        hub.count_follower_loss(3);
        let counts = hub.counts();
        assert_eq!((counts.published, counts.follower_lost), (5, 3));
    }
}
