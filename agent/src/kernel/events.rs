//! The reader of the event ring.

use std::{io, time::Duration};

use agent_common::event::{DecodeError, Told};
use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// How long a backlog below the kernel's wake-up mark may wait. A program is woken at once
/// in calm times; only in a flood does the poll matter.
const POLL: Duration = Duration::from_millis(5);
/// How long the reader rests when nothing has come for a while.
const REST: Duration = Duration::from_millis(500);

/// Reads events as they come.
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
    wait: Duration,
}

impl EventReader {
    /// A reader of the ring; needs a tokio runtime.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the descriptor belongs to the map that `ring` owns and is the same for as
        // long as `ring` lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(io::Error::from)?;
        Ok(Self { ring, wait: POLL })
    }

    /// Does not rest before the next look: there is more to do.
    pub fn hurry(&mut self) {
        self.wait = POLL;
    }

    /// Waits for events and hands each to `take`; returns how many came. Cancel-safe: an
    /// event is taken from the ring only when it is handed over.
    pub async fn read(
        &mut self,
        mut take: impl FnMut(Result<Told, DecodeError>),
    ) -> io::Result<usize> {
        // A time-out is no failure: below the wake-up mark nobody tells us.
        if let Ok(ready) = tokio::time::timeout(self.wait, self.ring.readable_mut()).await {
            ready?.clear_ready();
        }
        let ring = self.ring.get_mut();
        let mut count = 0;
        while let Some(item) = ring.next() {
            take(Told::decode(&item));
            count += 1;
        }
        self.wait = if count > 0 { POLL } else { REST };
        Ok(count)
    }
}
