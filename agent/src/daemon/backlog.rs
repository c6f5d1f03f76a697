//! Events that wait between the kernel's ring and the sinks: a burst comes faster than disks and
//! rules take it.
//!
//! An event as the kernel wrote it takes a fifth of what a record takes, so a burst waits in this
//! form. Where the bound is reached the oldest goes on all the same, and each sink counts
//! what it has no room for: nothing is lost here.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_common::{
    FlowEvent,
    event::{NamedEvent, Told},
};

use crate::{process::Paths, sink::Hub};

/// What all that waits may take: events of a second at a rate of 100,000.
const MOST_BYTES: usize = 20 << 20;
/// Events that are kept together, so that memory is given back while they are worked off.
const CHUNK: usize = 2048;
/// Records between two looks at the sinks' queues. A quarter of each is free then.
const LOOK: u32 = 64;
/// How long sinks that take nothing are waited for: a disk that hangs holds up no other sink.
const STUCK: Duration = Duration::from_millis(250);

/// An event that waits.
pub(super) struct Waiting {
    flow: FlowEvent,
    /// Read when it came: its process may be gone by now.
    paths: Arc<Paths>,
    /// All of it, where it has a name or the end of a flow.
    whole: Option<Box<Told>>,
}

impl Waiting {
    pub(super) fn new(told: Told, paths: Arc<Paths>) -> Self {
        let flow = told.said.flow;
        let plain = told.counted.is_none() && told.said.name().is_none();
        Self {
            flow,
            paths,
            whole: (!plain).then(|| Box::new(told)),
        }
    }

    pub(super) fn flow(&self) -> &FlowEvent {
        &self.flow
    }

    pub(super) fn into_parts(self) -> (Told, Arc<Paths>) {
        let told = match self.whole {
            Some(told) => *told,
            None => Told {
                said: NamedEvent {
                    flow: self.flow,
                    name: [0; _],
                },
                counted: None,
            },
        };
        (told, self.paths)
    }

    fn bytes(&self) -> usize {
        let more = self.whole.as_ref().map_or(0, |_| size_of::<Told>());
        size_of::<Self>() + more
    }
}

/// What waits, oldest first.
#[derive(Default)]
pub(super) struct Backlog {
    chunks: VecDeque<VecDeque<Waiting>>,
    bytes: usize,
    most: Option<usize>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.most.unwrap_or(MOST_BYTES)
    }

    pub(super) fn push(&mut self, event: Waiting) {
        self.bytes += event.bytes();
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push_back(event),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK);
                chunk.push_back(event);
                self.chunks.push_back(chunk);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let chunk = self.chunks.front_mut()?;
        let event = chunk.pop_front()?;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        self.bytes -= event.bytes();
        Some(event)
    }
}

/// Whether the sinks have room.
#[derive(Default)]
pub(super) struct Room {
    until_look: u32,
    /// Records that wait at crowded sinks, and since when there are not fewer.
    crowd: Option<(u64, Instant)>,
    stuck: bool,
}

impl Room {
    /// Whether a record may be handed on. Called for each: most of the time it costs nothing.
    pub(super) fn there_is(&mut self, hub: &Hub) -> bool {
        if self.until_look > 0 {
            self.until_look -= 1;
            return true;
        }
        if self.look(hub.crowded(), Instant::now()) {
            self.until_look = LOOK;
            return true;
        }
        false
    }

    fn look(&mut self, crowd: Option<u64>, now: Instant) -> bool {
        let Some(waits) = crowd else {
            (self.crowd, self.stuck) = (None, false);
            return true;
        };
        match &mut self.crowd {
            Some((seen, since)) if waits >= *seen => {
                *seen = (*seen).max(waits);
                self.stuck |= now.duration_since(*since) >= STUCK;
            }
            crowd => {
                *crowd = Some((waits, now));
                self.stuck = false;
            }
        }
        self.stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::layout::Counted;

    fn told(sequence: u64) -> Told {
        let bytes = [0; agent_common::event::EVENT_BYTES];
        let mut told = Told::decode(&bytes).expect("an event");
        told.said.flow.sequence = sequence;
        told
    }

    fn push(backlog: &mut Backlog, told: Told) {
        backlog.push(Waiting::new(told, Arc::default()));
    }

    #[test]
    fn what_waits_comes_back_whole_and_in_order() {
        let mut backlog = Backlog::default();
        let mut named = told(1);
        named.said.name[..2].copy_from_slice(b"ab");
        let mut ended = told(2);
        let bytes = [7; size_of::<Counted>()];
        // SAFETY: it is made of integers, for which any bytes are a value.
        ended.counted = Some(unsafe { bytes.as_ptr().cast::<Counted>().read_unaligned() });
        let mut all = vec![told(0), named, ended];
        all.extend((3..3 * CHUNK as u64).map(told));
        for one in &all {
            push(&mut backlog, *one);
        }
        for one in &all {
            let back = backlog.pop().expect("one").into_parts().0;
            assert_eq!(format!("{back:?}"), format!("{one:?}"));
        }
        assert!(backlog.is_empty() && backlog.pop().is_none() && backlog.bytes == 0);
    }

    #[test]
    fn it_is_bounded_in_bytes_and_holds_a_burst() {
        let mut backlog = Backlog::default();
        let mut held = 0;
        while !backlog.is_full() {
            push(&mut backlog, told(held));
            held += 1;
        }
        assert!(held > 100_000, "{held}");
        let mut named = Backlog::default();
        let mut of_names = 0;
        while !named.is_full() {
            let mut told = told(of_names);
            told.said.name[0] = b'a';
            push(&mut named, told);
            of_names += 1;
        }
        assert!(of_names < held / 2, "a name takes room too: {of_names}");
    }

    #[test]
    fn sinks_that_take_something_are_waited_for_and_those_that_hang_are_not() {
        let mut room = Room::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(room.look(None, at(0)));
        assert!(!room.look(Some(100), at(1)));
        assert!(!room.look(Some(90), at(200)));
        assert!(!room.look(Some(80), at(440)), "it takes something");
        assert!(!room.look(Some(80), at(600)));
        assert!(room.look(Some(80), at(700)), "it hangs");
        assert!(room.look(Some(95), at(710)), "and fills");
        assert!(!room.look(Some(94), at(720)), "it goes on");
        assert!(room.look(None, at(730)));
    }
}
