//! The tasks that turn what happens into records: kernel events and the gates' refusals.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use agent_common::Reason;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::directory::Directory;
use crate::{
    dns::gate::{GateEvent, Transport, Verdict},
    flow::{BootClock, DnsQuestion, FlowRecord, GateRefusal},
    kernel::events::EventReader,
    process,
    sink::Hub,
};

/// How often the relation of boot time to the calendar is read anew: the wall clock may be
/// set at any time.
const CLOCK_AGE: Duration = Duration::from_secs(1);

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

/// Reads the ring until cancelled.
pub(super) async fn events(
    mut reader: EventReader,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    counts: Arc<EventCounts>,
    cancel: CancellationToken,
) {
    let Ok(mut clock) = Clock::new() else {
        error!("no boot clock: events are not read");
        return;
    };
    loop {
        let read = reader.read(|event| match event {
            Ok(event) => {
                counts.received.fetch_add(1, Relaxed);
                let known = directory.known(&event);
                hub.publish(FlowRecord::from_event(&event, clock.get(), known));
            }
            Err(error) => {
                counts.unreadable.fetch_add(1, Relaxed);
                warn!(%error, "the ring held something else than an event");
            }
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            result = read => if let Err(error) = result {
                error!(%error, "the event ring cannot be read");
                return;
            }
        }
    }
}

/// Records the names that gates refused until cancelled.
pub(super) async fn gate_refusals(
    mut records: mpsc::Receiver<GateEvent>,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    cancel: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = records.recv() => match event {
                Some(event) => event,
                None => return,
            },
        };
        if event.record.verdict != Verdict::Refused {
            continue;
        }
        let (agent, generation) = directory.agent(event.agent);
        hub.publish(FlowRecord::from_gate(GateRefusal {
            time: jiff::Timestamp::now(),
            agent,
            question: DnsQuestion {
                name: event.record.name,
                qtype: hickory_proto::rr::RecordType::from(event.record.qtype).to_string(),
            },
            tcp: event.transport == Transport::Tcp,
            source: Some(event.peer),
            generation,
            monitored: false,
            reason: Reason::Name,
            suppressed: 0,
        }));
    }
}
