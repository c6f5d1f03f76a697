//! The tasks that turn what happens into records: kernel events and questions at
//! the gates.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use agent_common::{
    FlowEvent, Hook, Reason,
    event::{COMM_BYTES, DecodeError, Told},
    layout::Counted,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    backlog::{Backlog, Room, Waiting},
    directory::Directory,
    holding::Holding,
    serving::next,
};
use crate::{
    dns::{
        budget::Exceeded,
        clock,
        gate::{GateEvent, GateRecord, Transport, Verdict},
    },
    flow::{BootClock, DnsQuestion, FlowRecord, FlowVerdict, GateFlow, Traffic},
    kernel::{cgroup, events::EventReader, object::Throttle},
    process,
    sink::Hub,
    sockets::Connection,
    throttle::Bucket,
};

/// How often the relation of boot time to the calendar is read anew: the wall clock may be
/// set at any time.
const CLOCK_AGE: Duration = Duration::from_secs(1);
/// Events of the backlog that are told between two looks at the ring.
const PART: usize = 1024;
/// How long what waits is told at the sinks' pace after the daemon was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the event task counts.
#[derive(Debug, Default)]
pub(super) struct EventCounts {
    /// Events read.
    pub(super) received: AtomicU64,
    /// Records in the ring that were no event.
    pub(super) unreadable: AtomicU64,
}

struct Clock {
    clock: BootClock,
    read: Instant,
}

impl Clock {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            clock: process::boot_clock()?,
            read: Instant::now(),
        })
    }

    fn get(&mut self) -> &BootClock {
        if self.read.elapsed() > CLOCK_AGE
            && let Ok(clock) = process::boot_clock()
        {
            self.clock = clock;
            self.read = Instant::now();
        }
        &self.clock
    }
}

/// What `/proc` said of a process a moment ago, by number and name: a process that executes
/// another program takes its name. A flood comes from few processes, and
/// reading four files of `/proc` an event would make the reader the bottleneck.
#[derive(Default)]
struct PathCache {
    known: HashMap<(u32, [u8; COMM_BYTES]), (Instant, Arc<process::Paths>)>,
}

impl PathCache {
    /// How long an answer holds. The kernel hands out process numbers in turn, so the number
    /// does not come back within it.
    const AGE: Duration = Duration::from_secs(1);
    /// Processes that are remembered.
    const ROOM: usize = 1024;

    fn of(&mut self, event: &FlowEvent) -> Arc<process::Paths> {
        if !event.has_task() {
            return Arc::default();
        }
        let now = Instant::now();
        let key = (event.tgid, event.comm);
        if let Some((read, paths)) = self.known.get(&key)
            && now.duration_since(*read) < Self::AGE
        {
            return Arc::clone(paths);
        }
        if self.known.len() >= Self::ROOM {
            self.known
                .retain(|_, (read, _)| now.duration_since(*read) < Self::AGE);
            if self.known.len() >= Self::ROOM {
                self.known.clear();
            }
        }
        let paths = process::paths(event.tgid, event.boot_ns, !event.has_user());
        let paths = Arc::new(paths);
        if paths.exe.is_some() {
            self.known.insert(key, (now, Arc::clone(&paths)));
        }
        paths
    }
}

/// What becomes of the kernel's events.
pub(super) struct Events {
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    counts: Arc<EventCounts>,
    slice: PathBuf,
    holding: Arc<Holding>,
    paths: PathCache,
    clock: Clock,
    backlog: Backlog,
    room: Room,
}

impl Events {
    pub(super) fn new(
        directory: Arc<Directory>,
        hub: Arc<Hub>,
        counts: Arc<EventCounts>,
        slice: PathBuf,
        holding: Arc<Holding>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            directory,
            hub,
            counts,
            slice,
            holding,
            paths: PathCache::default(),
            clock: Clock::new()?,
            backlog: Backlog::default(),
            room: Room::default(),
        })
    }

    /// Reads the ring until cancelled, and then tells what waits.
    pub(super) async fn run(mut self, mut reader: EventReader, cancel: CancellationToken) {
        loop {
            if !self.backlog.is_empty() {
                reader.hurry();
            }
            let read = reader.read(|told| self.take(told));
            tokio::select! {
                () = cancel.cancelled() => break,
                result = read => if let Err(error) = result {
                    error!(%error, "the event ring cannot be read");
                    break;
                }
            }
            // A bounded part of it, so that the ring is looked at in between.
            for _ in 0..PART {
                if self.backlog.is_empty() || !self.room.there_is(&self.hub) {
                    break;
                }
                self.tell_oldest();
            }
        }
        let until = Instant::now() + LAST_WORDS;
        while !self.backlog.is_empty() {
            match self.room.there_is(&self.hub) || Instant::now() > until {
                true => self.tell_oldest(),
                false => tokio::time::sleep(LAST_WORDS / 1000).await,
            }
        }
    }

    fn take(&mut self, told: Result<Told, DecodeError>) {
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                self.counts.unreadable.fetch_add(1, Relaxed);
                warn!(%error, "the ring held something else than an event");
                return;
            }
        };
        self.counts.received.fetch_add(1, Relaxed);
        let flow = &told.said.flow;
        if is_broken_off(flow) {
            let (agent, _) = self.directory.agent(flow.agent);
            let connection = connection(flow, &cgroup::agent_folder(&self.slice, &agent));
            self.holding.aborter().end(connection);
        }
        let event = Waiting::new(told, self.paths.of(flow));
        // Somebody waits for what is held: no burst of others keeps it back.
        let direct = self.backlog.is_empty() && self.room.there_is(&self.hub);
        if direct || self.holding.waits_for(event.flow()) {
            return self.tell(event);
        }
        self.backlog.push(event);
        // Twice what comes, where there is room, so that it gets shorter in a flood too.
        for _ in 0..2 {
            if self.backlog.is_full() || self.room.there_is(&self.hub) {
                self.tell_oldest();
            }
        }
    }

    fn tell_oldest(&mut self) {
        if let Some(event) = self.backlog.pop() {
            self.tell(event);
        }
    }

    fn tell(&mut self, event: Waiting) {
        let (told, paths) = event.into_parts();
        let event = &told.said;
        let known = self
            .directory
            .known(&event.flow, Arc::unwrap_or_clone(paths));
        let mut record = FlowRecord::from_event(event, self.clock.get(), known);
        record.traffic = told
            .counted
            .map(|counted| traffic(&counted, event.flow.boot_ns));
        if self.holding.seen(&event.flow, &record) {
            self.hub.publish(record);
        }
    }
}

/// What went over a flow that ended then.
fn traffic(counted: &Counted, end: u64) -> Traffic {
    Traffic {
        sent_bytes: counted.sent_bytes,
        sent_packets: counted.sent_packets,
        received_bytes: counted.received_bytes,
        received_packets: counted.received_packets,
        lasted_ms: end.saturating_sub(counted.first_ns) / 1_000_000,
    }
}

/// Whether data was refused after its connection had been let open: its program would wait for
/// a time-out.
fn is_broken_off(event: &FlowEvent) -> bool {
    let of_data = event.reason().is_of_tls() || event.reason() == Reason::Unsteered;
    of_data && event.hook() == Hook::Egress && !event.monitored() && !event.allowed()
}

fn connection(event: &FlowEvent, cgroup: &Path) -> Connection {
    let end = |addr, port| SocketAddr::new(IpAddr::from(addr), port);
    Connection {
        ends: (
            end(event.source, event.source_port),
            end(event.dest, event.dest_port),
        ),
        cookie: event.socket_cookie,
        cgroup: cgroup.to_owned(),
        unless_open: false,
    }
}

/// The throttles of one gate or gateway, at the rate that the kernel keeps for an agent and a reason:
/// one for each reason, so that names that are refused cannot
/// hide a budget that is crossed, and one for what is allowed, at a quarter of the rate.
pub(super) struct Buckets {
    refusals: HashMap<Reason, Bucket>,
    answers: Bucket,
    throttle: Throttle,
}

impl Buckets {
    pub(super) fn new(throttle: Throttle) -> Self {
        let slow = Throttle {
            per_second: (throttle.per_second / 4).max(1),
            burst: (throttle.burst / 4).max(1),
        };
        Self {
            refusals: HashMap::new(),
            answers: Bucket::new(slow),
            throttle,
        }
    }

    pub(super) fn of(&mut self, reason: Option<Reason>) -> &mut Bucket {
        match reason {
            Some(reason) => self
                .refusals
                .entry(reason)
                .or_insert_with(|| Bucket::new(self.throttle)),
            None => &mut self.answers,
        }
    }
}

/// What a record of the gate is told as.
fn judged(record: &GateRecord) -> (FlowVerdict, Option<Reason>) {
    match record.verdict {
        Verdict::OverBudget => (FlowVerdict::Deny, Some(Reason::Budget)),
        Verdict::Refused => (FlowVerdict::Deny, Some(Reason::Name)),
        Verdict::Asked => (FlowVerdict::Deny, Some(Reason::Asked)),
        Verdict::Denied => (FlowVerdict::Deny, Some(Reason::DeniedByPerson)),
        Verdict::NoRoom | Verdict::Busy => (FlowVerdict::Deny, Some(Reason::State)),
        Verdict::Rebind => (FlowVerdict::Deny, Some(Reason::Rebind)),
        // What is taken out of an answer is refused, though the rest of it is given.
        _ if !record.rebound.is_empty() => (FlowVerdict::Deny, Some(Reason::Rebind)),
        _ if !record.targets.is_empty() => (FlowVerdict::Deny, Some(Reason::Name)),
        _ if record.over.is_some() => (FlowVerdict::WouldDeny, Some(Reason::Budget)),
        _ => (FlowVerdict::Allow, None),
    }
}

/// The name of a record type; of one without, `TYPE65400` (RFC 3597).
fn type_name(number: u16) -> String {
    match hickory_proto::rr::RecordType::from(number) {
        hickory_proto::rr::RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

fn question(record: GateRecord) -> DnsQuestion {
    let left_out = record.rebound.iter().map(ToString::to_string);
    let budget = record.over.as_ref().map(Exceeded::text);
    DnsQuestion {
        qtype: type_name(record.qtype),
        outcome: record.verdict.as_str().to_owned(),
        rcode: record.rcode.as_str().to_owned(),
        ttl: record.ttl,
        chain: record.chain.iter().map(ToString::to_string).collect(),
        left_out: left_out.chain(record.targets).collect(),
        upstream: record
            .upstream
            .filter(|name| !name.is_empty())
            .map(|name| name.to_string()),
        source: record.source.map(|source| source.as_str().to_owned()),
        took_us: u64::try_from(record.elapsed.as_micros()).ok(),
        detail: budget.or(record.detail),
        addresses: record.addresses,
        name: record.name,
    }
}

/// Records the questions at one gate until cancelled, refusals first.
pub(super) async fn gate_records(
    mut refusals: mpsc::Receiver<GateEvent>,
    mut answers: mpsc::Receiver<GateEvent>,
    throttle: Throttle,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    cancel: CancellationToken,
) {
    let mut buckets = Buckets::new(throttle);
    while let Some(event) = next(&mut refusals, &mut answers, &cancel).await {
        let (verdict, reason) = judged(&event.record);
        let bucket = buckets.of(reason);
        // A budget that stays crossed is told once an hour.
        if event.record.over.as_ref().is_some_and(|over| !over.tell)
            && event.record.verdict == Verdict::OverBudget
        {
            bucket.keep_back();
            continue;
        }
        let Some(suppressed) = bucket.pass(clock::now()) else {
            continue;
        };
        let (agent, generation) = directory.agent(event.agent);
        hub.publish(FlowRecord::from_gate(GateFlow {
            time: jiff::Timestamp::now(),
            agent,
            tcp: event.transport == Transport::Tcp,
            source: Some(event.peer),
            generation,
            verdict,
            reason,
            question: question(event.record),
            suppressed,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, verdict: Verdict) -> GateEvent {
        GateEvent {
            agent: 7,
            transport: Transport::Tcp,
            peer: ([127, 0, 0, 1], 4000).into(),
            record: GateRecord {
                name: name.into(),
                qtype: 65_400,
                verdict,
                rcode: crate::dns::gate::Rcode::NoError,
                ..GateRecord::default()
            },
        }
    }

    fn over(tell: bool) -> Exceeded {
        Exceeded {
            domain: "example.com".into(),
            measure: crate::dns::budget::Measure::Names,
            limit: 300,
            tell,
        }
    }

    /// What is told of these, in order.
    async fn told(events: Vec<GateEvent>, throttle: Throttle) -> Vec<FlowRecord> {
        let hub = Arc::new(Hub::new(10_000, None));
        let (refused, refusals) = mpsc::channel(10_000);
        let (answered, answers) = mpsc::channel(10_000);
        for event in events {
            let queue = match event.record.is_refusal() {
                true => &refused,
                false => &answered,
            };
            queue.send(event).await.expect("room");
        }
        let cancel = CancellationToken::new();
        let task = tokio::spawn(gate_records(
            refusals,
            answers,
            throttle,
            Arc::default(),
            Arc::clone(&hub),
            cancel.clone(),
        ));
        while refused.capacity() < 10_000 || answered.capacity() < 10_000 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
        task.await.expect("no panic");
        let page = hub.read(&crate::sink::Filter::default(), None, usize::MAX);
        page.records
            .iter()
            .filter_map(|r| r.flow().cloned())
            .collect()
    }

    const FREE: Throttle = Throttle {
        per_second: 1_000_000,
        burst: 1_000_000,
    };

    #[tokio::test]
    async fn each_verdict_is_told_as_what_it_is() {
        let mut reported = asked("reported", Verdict::Answered);
        reported.record.over = Some(over(true));
        let mut blocked = asked("blocked", Verdict::OverBudget);
        blocked.record.over = Some(over(true));
        let mut again = blocked.clone();
        again.record.over = Some(over(false));
        let mut partly = asked("partly", Verdict::Answered);
        partly.record.rebound = vec![[10, 0, 0, 1].into()];
        let mut elsewhere = asked("elsewhere", Verdict::NoData);
        elsewhere.record.targets = vec!["outside.example".into()];
        let records = told(
            vec![
                asked("refused", Verdict::Refused),
                again,
                blocked,
                reported,
                partly,
                asked("rebind", Verdict::Rebind),
                elsewhere,
                asked("no room", Verdict::NoRoom),
                asked("busy", Verdict::Busy),
                asked("answered", Verdict::Answered),
                asked("failed", Verdict::Failed),
            ],
            FREE,
        )
        .await;
        let seen: Vec<_> = records
            .iter()
            .map(|r| {
                let dns = r.dns.as_ref().expect("a question");
                assert_eq!(dns.qtype, "TYPE65400");
                (dns.name.as_str(), r.verdict, r.reason, r.suppressed)
            })
            .collect();
        use FlowVerdict::{Allow, Deny, WouldDeny};
        assert_eq!(
            seen,
            [
                ("refused", Deny, Some(Reason::Name), 0),
                ("blocked", Deny, Some(Reason::Budget), 1),
                ("reported", WouldDeny, Some(Reason::Budget), 0),
                ("partly", Deny, Some(Reason::Rebind), 0),
                ("rebind", Deny, Some(Reason::Rebind), 0),
                ("elsewhere", Deny, Some(Reason::Name), 0),
                ("no room", Deny, Some(Reason::State), 0),
                ("busy", Deny, Some(Reason::State), 0),
                ("answered", Allow, None, 0),
                ("failed", Allow, None, 0),
            ]
        );
        let dns = |n: usize| records[n].dns.as_ref().expect("a question");
        assert_eq!(dns(3).left_out, ["10.0.0.1"]);
        assert_eq!(dns(5).left_out, ["outside.example"]);
        let detail = dns(1).detail.as_deref().expect("which budget");
        assert_eq!(detail, "example.com: more than 300 distinct names an hour");
    }

    #[tokio::test]
    async fn chatter_and_refused_names_hide_nothing_of_another_kind() {
        let mut events = vec![asked("chatter", Verdict::Answered); 5_000];
        events.extend(vec![asked("noise", Verdict::Refused); 5_000]);
        let mut blocked = asked("tunnel", Verdict::OverBudget);
        blocked.record.over = Some(over(true));
        events.push(blocked);
        let slow = Throttle {
            per_second: 1,
            burst: 40,
        };
        let records = told(events, slow).await;
        let count = |name: &str| {
            records
                .iter()
                .filter(|r| r.dns.as_ref().is_some_and(|dns| dns.name == name))
                .count()
        };
        // A second or two may pass meanwhile.
        assert!((40..60).contains(&count("noise")), "{}", count("noise"));
        assert!((10..30).contains(&count("chatter")), "{}", count("chatter"));
        assert_eq!(count("tunnel"), 1);
    }
}
