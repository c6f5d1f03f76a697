//! Records to other people's systems: journald, syslog, OpenTelemetry, Splunk, Elasticsearch,
//! and files for forwarders.
//!
//! ```text
//! Hub ─offer→ memory (4096) ─writer→ queue on the disk ─sender→ receiver
//! ```
//!
//! Each receiver has a queue, a thread that writes to it, one that syncs it and one that sends
//! from it, so that none waits for another and the hub for none. A record leaves the queue when the
//! receiver has acknowledged it: it arrives at least once, and its id, the same at every
//! attempt, tells duplicates.

mod config;
mod elastic;
mod file;
mod http;
mod journald;
mod lane;
mod otlp;
mod outcome;
mod parcel;
mod queue;
mod receiver;
mod secret;
mod splunk;
mod syslog;
mod tls;
mod trial;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::config::{Destination, Format, ReceiverConfig, Transport, check};
pub use self::parcel::Class;
pub(crate) use self::tls::client_of as tls_client;
pub use self::trial::{Trial, try_out};

use self::lane::{Counts, DRAIN, Lane, lock};
use self::parcel::Packer;
use crate::ocsf::Device;
use crate::sink::{Record, Sink, SinkState};

/// Records that may wait for the disk: about 4 MB.
const MEMORY: usize = 4096;
/// How long the writers have at the end: a disk that hangs does not keep the daemon.
const WRITERS_END: Duration = Duration::from_secs(2);

/// One receiver as a place where records go.
struct Shipper {
    lane: Arc<Lane>,
    fleet: Arc<Fleet>,
    /// None once it is closed.
    records: Mutex<Option<SyncSender<Arc<Record>>>>,
}

/// All receivers: they end together, so that the wait for one is the wait for all.
#[derive(Default)]
struct Fleet {
    shippers: Mutex<Vec<Arc<Shipper>>>,
    /// Each thread holds one; what comes is the end of the last.
    writers: Mutex<Option<mpsc::Receiver<()>>>,
    senders: Mutex<Option<mpsc::Receiver<()>>>,
}

/// Starts every receiver of the configuration, which has been checked. Nothing here fails: a
/// receiver that cannot work says so in its state, and enforcement does not wait for it.
pub fn start(receivers: &[ReceiverConfig], state_dir: &Path) -> Vec<Arc<dyn Sink>> {
    let secrets = |r: &ReceiverConfig| {
        r.token_file.is_some() || r.credential.is_some() || r.key_file.is_some()
    };
    // What is sent to receivers passes buffers that are nobody's to wipe: no core dump has it.
    if receivers.iter().any(secrets)
        && let Err(error) = nix::sys::prctl::set_dumpable(false)
    {
        tracing::warn!(%error, "a core dump of the daemon would hold tokens of receivers");
    }
    let fleet = Arc::new(Fleet::default());
    let packer = Packer::new(Device::here());
    let (writing, writers) = mpsc::channel();
    let (sending, senders) = mpsc::channel();
    for config in receivers {
        let lane = Arc::new(Lane {
            config: config.clone(),
            state_dir: state_dir.to_owned(),
            counts: Counts::default(),
            packer: packer.clone(),
            queue: Mutex::new(None),
            dirty: AtomicBool::new(false),
            more: tokio::sync::Notify::new(),
            stop: CancellationToken::new(),
        });
        let (records, taken) = sync_channel(MEMORY);
        let (writer, held) = (Arc::clone(&lane), writing.clone());
        thread(&lane, "w", move || {
            writer.write(&taken);
            drop(held);
        });
        let syncer = Arc::clone(&lane);
        thread(&lane, "d", move || syncer.sync());
        let (sender, held) = (Arc::clone(&lane), sending.clone());
        thread(&lane, "s", move || {
            match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime.block_on(sender.send()),
                Err(error) => tracing::error!(%error, "a receiver's thread cannot work"),
            }
            drop(held);
        });
        lock(&fleet.shippers).push(Arc::new(Shipper {
            lane,
            fleet: Arc::clone(&fleet),
            records: Mutex::new(Some(records)),
        }));
    }
    *lock(&fleet.writers) = Some(writers);
    *lock(&fleet.senders) = Some(senders);
    let shippers = lock(&fleet.shippers);
    (shippers.iter())
        .map(|shipper| Arc::clone(shipper) as Arc<dyn Sink>)
        .collect()
}

fn thread(lane: &Lane, end: &str, work: impl FnOnce() + Send + 'static) {
    // The kernel keeps 15 bytes of it.
    let name = format!("ship-{end}-{}", lane.config.name);
    if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
        let why = format!("its thread cannot be started: {error}");
        tracing::error!(receiver = lane.config.name, "{why}");
        lane.counts.set_writing(Some(why));
    }
}

impl Sink for Shipper {
    fn offer(&self, record: &Arc<Record>) {
        if !self.lane.config.only.contains(&Class::of(record)) {
            return;
        }
        // Held until it is counted: the writer takes it out of this number.
        let mut tally = lock(&self.lane.counts.tally);
        let taken = lock(&self.records)
            .as_ref()
            .is_some_and(|records| records.try_send(Arc::clone(record)).is_ok());
        match taken {
            true => tally.in_memory += 1,
            false => tally.dropped += 1,
        }
    }

    fn state(&self) -> SinkState {
        let counts = &self.lane.counts;
        let tally = *lock(&counts.tally);
        SinkState {
            name: self.lane.config.name.clone(),
            delivered: tally.delivered,
            dropped: tally.dropped,
            failed: tally.failed,
            queued: tally.in_memory + tally.on_disk,
            last_success: *lock(&counts.last_success),
            waiting_since: *lock(&counts.waiting_since),
            trouble: counts.trouble(),
        }
    }

    fn crowded(&self) -> Option<u64> {
        crate::sink::crowd(lock(&self.lane.counts.tally).in_memory, MEMORY)
    }

    fn close(&self) {
        self.fleet.close();
    }
}

impl Fleet {
    /// Ends every receiver; a second call has nothing to do.
    fn close(&self) {
        let shippers = std::mem::take(&mut *lock(&self.shippers));
        for shipper in &shippers {
            drop(lock(&shipper.records).take());
        }
        if let Some(writers) = lock(&self.writers).take() {
            // An error is the end of the last.
            let _ = writers.recv_timeout(WRITERS_END);
        }
        for shipper in &shippers {
            shipper.lane.stop.cancel();
        }
        if let Some(senders) = lock(&self.senders).take() {
            let _ = senders.recv_timeout(DRAIN + WRITERS_END);
        }
    }
}

#[cfg(test)]
mod tests;
