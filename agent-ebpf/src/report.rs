//! Counting and telling. Nothing here can change a verdict: it is called after the
//! verdict is made, and returns nothing.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use agent_common::{
    Addr, Hook, Protocol, Reason,
    event::{COMM_BYTES, FLAG_MONITOR, FLAG_TASK},
    layout::bucket_index,
};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_ringbuf_query,
    generated::bpf_get_current_comm,
};

use crate::{
    globals,
    maps::{BUCKETS, EVENTS, SEQUENCE, STATS},
};

/// `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP` (`include/uapi/linux/bpf.h`).
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
/// A wake-up an event cuts the rate that the reader can keep to a quarter (measured: 261k
/// against 1.03M events a second), so in a flood the reader polls and is woken only by a
/// backlog. In calm times it is woken at once: the process that was refused may be gone in
/// a millisecond, and with it the path of its program.
const WAKE_EVERY: u64 = 128 * 1024;
/// Bytes that one event takes in the ring, header included, rounded up: the width of the
/// window in which the wake-up is sent.
const EVENT_ROOM: u64 = 152;

/// A refused flow, as far as its hook can see it.
pub(crate) struct Refused {
    pub(crate) hook: Hook,
    pub(crate) reason: Reason,
    pub(crate) rule: u32,
    /// Index of the agent.
    pub(crate) agent: u32,
    pub(crate) generation: u32,
    /// Protocol number, not folded.
    pub(crate) protocol: u8,
    pub(crate) source: Addr,
    pub(crate) source_port: u16,
    pub(crate) dest: Addr,
    pub(crate) dest_port: u16,
    pub(crate) detail: [u32; 2],
    pub(crate) socket_cookie: u64,
    pub(crate) netns_cookie: u64,
    /// Whether it is let through because the agent is only monitored.
    pub(crate) monitored: bool,
    /// Id of the socket's cgroup where the task that runs is not the sender.
    pub(crate) without_task: Option<u64>,
}

/// Adds to a counter that a packet in softirq may be adding to at the same time.
#[inline(always)]
fn add(counter: *mut u64, n: u64) {
    // SAFETY: the pointer is to an aligned word of a map value, which lives as long as the
    // program runs; every other access is atomic or another CPU's own copy.
    // `AtomicU64::fetch_add` is not there for this target, which has no compare-and-swap
    // before `-C target-cpu=v3`; the add itself is one instruction everywhere.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, n) };
}

/// Counts a flow that was let out for the first time.
#[inline(always)]
pub(crate) fn count_allowed(agent: u32, protocol: Protocol) {
    if let Some(stats) = STATS.get_ptr_mut(agent) {
        // SAFETY: `stats` points to a whole value; the index is in range by its type.
        add(
            unsafe { &raw mut (*stats).allowed[protocol.class() as usize] },
            1,
        );
    }
}

/// Counts bytes of a packet that was let out.
#[inline(always)]
pub(crate) fn count_sent(agent: u32, bytes: u32) {
    if let Some(stats) = STATS.get_ptr_mut(agent) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*stats).sent_bytes }, u64::from(bytes));
    }
}

/// Counts a refused flow, and tells the daemon unless the throttle or a full ring keeps
/// it back, which is counted too.
#[inline(always)]
pub(crate) fn refused(flow: &Refused) {
    let Some(stats) = STATS.get_ptr_mut(flow.agent) else {
        return;
    };
    let class = Protocol::new(flow.protocol).class() as usize;
    // SAFETY: `stats` points to a whole value; both indices are in range by their types.
    add(
        unsafe { &raw mut (*stats).blocked[flow.reason as usize][class] },
        1,
    );
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let Some(Pass { suppressed, calm }) = pass_throttle(flow, now) else {
        // SAFETY: as above.
        add(unsafe { &raw mut (*stats).events_throttled }, 1);
        return;
    };
    let sequence = match SEQUENCE.get_ptr_mut(0) {
        // SAFETY: a map value of this CPU. A softirq may take the same number in between,
        // which the reader sees as one gap less, never as a lost event.
        Some(sequence) => unsafe {
            *sequence += 1;
            *sequence
        },
        None => 0,
    };
    let Some(mut slot) = EVENTS.reserve(0) else {
        // SAFETY: as above.
        add(unsafe { &raw mut (*stats).events_lost }, 1);
        return;
    };
    let event = slot.as_mut_ptr();
    // SAFETY: `event` points to reserved memory of the size of a FlowEvent, and every field
    // of it is written.
    unsafe {
        (*event).boot_ns = now;
        (*event).socket_cookie = flow.socket_cookie;
        (*event).netns_cookie = flow.netns_cookie;
        (*event).suppressed = suppressed;
        (*event).sequence = sequence;
        (*event).agent = flow.agent;
        (*event).generation = flow.generation;
        (*event).rule = flow.rule;
        (*event).cpu = bpf_get_smp_processor_id();
        (*event).source_port = flow.source_port;
        (*event).dest_port = flow.dest_port;
        (*event).reason = flow.reason.number();
        (*event).hook = flow.hook.number();
        (*event).protocol = flow.protocol;
        (*event).detail = flow.detail;
        (*event).source = flow.source;
        (*event).dest = flow.dest;
        let mut flags = if flow.monitored { FLAG_MONITOR } else { 0 };
        match flow.without_task {
            Some(cgroup) => {
                (*event).cgroup = cgroup;
                (*event).pid = 0;
                (*event).tgid = 0;
                (*event).uid = 0;
                (*event).gid = 0;
                (*event).comm = [0; COMM_BYTES];
            }
            None => {
                flags |= FLAG_TASK;
                let pid = bpf_get_current_pid_tgid();
                let uid = bpf_get_current_uid_gid();
                (*event).cgroup = bpf_get_current_cgroup_id();
                (*event).pid = pid as u32;
                (*event).tgid = (pid >> 32) as u32;
                (*event).uid = uid as u32;
                (*event).gid = (uid >> 32) as u32;
                if bpf_get_current_comm((&raw mut (*event).comm).cast(), COMM_BYTES as u32) != 0 {
                    (*event).comm = [0; COMM_BYTES];
                }
            }
        }
        (*event).flags = flags;
    }
    slot.submit(wake(calm));
}

/// An event that the throttle lets through.
struct Pass {
    /// Events kept back before it.
    suppressed: u64,
    /// Whether most of the bucket is still there: no flood.
    calm: bool,
}

/// Takes an event's worth from the bucket; nothing if this one is to be kept back.
#[inline(always)]
fn pass_throttle(flow: &Refused, now: u64) -> Option<Pass> {
    let cost = globals::event_cost_ns();
    if cost == 0 {
        return Some(Pass {
            suppressed: 0,
            calm: false,
        });
    }
    let bucket = BUCKETS.get_ptr_mut(bucket_index(flow.agent, flow.reason))?;
    // SAFETY: a map value of this CPU. A softirq in between can make the throttle let one
    // event more or less through; the counts are exact because they are added atomically.
    unsafe {
        let passed = now.wrapping_sub((*bucket).refilled);
        let burst = globals::event_burst_ns();
        let mut credit = (*bucket).credit.wrapping_add(passed);
        if credit > burst || passed > burst {
            credit = burst;
        }
        (*bucket).refilled = now;
        if credit < cost {
            (*bucket).credit = credit;
            add(&raw mut (*bucket).suppressed, 1);
            return None;
        }
        (*bucket).credit = credit - cost;
        let suppressed = (*bucket).suppressed;
        (*bucket).suppressed = 0;
        Some(Pass {
            suppressed,
            calm: credit > burst / 2,
        })
    }
}

/// How to wake the reader: at once when calm, else once for every `WAKE_EVERY` bytes of
/// backlog.
#[inline(always)]
fn wake(calm: bool) -> u64 {
    if calm {
        return FORCE_WAKEUP;
    }
    // SAFETY: the map's address is what the helper wants; flag 0 asks for the bytes waiting.
    let waiting = unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), 0) };
    if waiting >= WAKE_EVERY && waiting % WAKE_EVERY < EVENT_ROOM {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    }
}
