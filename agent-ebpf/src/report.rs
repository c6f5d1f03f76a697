//! Counting and telling. Nothing here can change a verdict: it is called after the
//! verdict is made, and returns nothing.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr::write_volatile,
};

use agent_common::{
    Addr, FlowEvent, Hook, Protocol, Reason,
    event::{
        COMM_BYTES, EVENT_BYTES, FLAG_ALLOWED, FLAG_MONITOR, FLAG_TASK, FLAG_USER,
        NAMED_ENDED_EVENT_BYTES, NAMED_EVENT_BYTES, NamedEvent,
    },
    hello::NAME_BYTES,
    layout::{Handshake, REASON_SLOTS, allowed_bucket_index, bucket_index, helper},
};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_ringbuf_query,
    generated::{bpf_get_current_comm, bpf_ringbuf_reserve, bpf_ringbuf_submit},
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
/// Bytes that one event takes in the ring at most, header included: the width of the window in
/// which the wake-up is sent.
const EVENT_ROOM: u64 = NAMED_ENDED_EVENT_BYTES as u64 + 8;

/// A refused flow, or one whose name is told, as far as its hook can see it.
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
    /// Whether it is let out, and only its name is told: there is no reason then.
    pub(crate) allowed: bool,
    /// Id of the socket's cgroup where the task that runs is not the sender.
    pub(crate) without_task: Option<u64>,
}

/// Adds to a counter that a packet in softirq may be adding to at the same time.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, n: u64) {
    // SAFETY: the pointer is to an aligned word of a map value, which lives as long as the
    // program runs; every other access is atomic or another CPU's own copy.
    // `AtomicU64::fetch_add` is not there for this target, which has no compare-and-swap
    // before `-C target-cpu=v3`; the add itself is one instruction everywhere.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, n) };
}

/// Index of a reason's counter. LLVM knows how many reasons there are and drops a comparison
/// with their number, but the verifier of 6.1 and earlier has forgotten it when the byte
/// comes back from the stack ("R0 max value is outside of the allowed memory range").
#[inline(always)]
fn slot(reason: Reason) -> usize {
    const _: () = assert!(REASON_SLOTS.is_power_of_two());
    let mut slot = reason as u64;
    // SAFETY: the register keeps its value, but LLVM takes it for changed, and so keeps the
    // mask below. An instruction, because an empty one still has a line in the debug
    // information, and the kernel refuses two lines for one place ("Invalid line_info").
    unsafe { asm!("{slot} = {slot}", slot = inout(reg) slot, options(nomem, nostack)) };
    slot as usize & (REASON_SLOTS - 1)
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

/// Counts a refused flow, and tells the daemon of it or of one that is let out, unless the throttle or a full ring keeps
/// it back, which is counted too.
#[inline(always)]
pub(crate) fn refused(flow: &Refused, name: Option<&[u8; NAME_BYTES]>) {
    let Some(stats) = STATS.get_ptr_mut(flow.agent) else {
        return;
    };
    // A SYN that is held is counted where its connect was.
    let held_again = flow.reason == Reason::Asked && matches!(flow.hook, Hook::Egress);
    if !flow.allowed && !held_again {
        let class = Protocol::new(flow.protocol).class() as usize;
        let reason = slot(flow.reason);
        // SAFETY: `stats` points to a whole value; both indices are in range by their types.
        add(unsafe { &raw mut (*stats).blocked[reason][class] }, 1);
    }
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let Some(Pass { suppressed, calm }) = pass_throttle(flow, now) else {
        // SAFETY: as above.
        add(unsafe { &raw mut (*stats).events_throttled }, 1);
        return;
    };
    let sequence = next_sequence();
    let bytes = match name {
        Some(_) => NAMED_EVENT_BYTES,
        None => EVENT_BYTES,
    };
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: the map's address is what the helper wants.
    let slot = unsafe { bpf_ringbuf_reserve(ring, bytes as u64, 0) };
    if slot.is_null() {
        // SAFETY: as above.
        add(unsafe { &raw mut (*stats).events_lost }, 1);
        return;
    }
    // SAFETY: the slot is reserved memory of the size of a FlowEvent, or of a NamedEvent where
    // there is a name.
    unsafe {
        write(slot.cast(), flow, now, suppressed, sequence);
        if let Some(name) = name {
            let to = &raw mut (*slot.cast::<NamedEvent>()).name;
            put_name(to.cast(), name.as_ptr().cast());
        }
        // What is let out can wait: the reader looks twice a second anyway, and waking it costs
        // the program more than all the rest of its hello.
        bpf_ringbuf_submit(slot, wake(calm && !flow.allowed));
    }
}

/// The number of an event on this CPU.
#[inline(always)]
pub(crate) fn next_sequence() -> u64 {
    match SEQUENCE.get_ptr_mut(0) {
        // SAFETY: a map value of this CPU. A softirq may take the same number in between,
        // which the reader sees as one gap less, never as a lost event.
        Some(sequence) => unsafe {
            *sequence += 1;
            *sequence
        },
        None => 0,
    }
}

/// Writes a name word by word.
#[inline(always)]
pub(crate) unsafe fn put_name(to: *mut u64, name: *const u64) {
    for word in 0..NAME_BYTES / 8 {
        // SAFETY: the caller gives room for a name, and a whole one; both lie at multiples of
        // eight. Volatile, because LLVM makes a call of `memcpy` of anything else, which is a
        // loop byte by byte here.
        unsafe { write_volatile(to.add(word), name.add(word).read_volatile()) };
    }
}

const _: () = assert!(core::mem::offset_of!(NamedEvent, name) % 8 == 0);
const _: () = assert!(core::mem::offset_of!(Handshake, client) % 8 == 0);

/// Writes every field of an event. Volatile where a field may be a constant zero: LLVM makes
/// calls of `memset` of neighbouring zeros, which is a loop byte by byte here.
#[inline(always)]
unsafe fn write(event: *mut FlowEvent, flow: &Refused, now: u64, suppressed: u64, sequence: u64) {
    let task = Task::of(flow);
    // SAFETY: the caller gives memory of the size of a FlowEvent.
    unsafe {
        write_volatile(&raw mut (*event).boot_ns, now);
        write_volatile(&raw mut (*event).cgroup, task.cgroup);
        write_volatile(&raw mut (*event).socket_cookie, flow.socket_cookie);
        write_volatile(&raw mut (*event).netns_cookie, flow.netns_cookie);
        write_volatile(&raw mut (*event).suppressed, suppressed);
        write_volatile(&raw mut (*event).sequence, sequence);
        write_volatile(&raw mut (*event).pid, task.pid as u32);
        write_volatile(&raw mut (*event).tgid, (task.pid >> 32) as u32);
        write_volatile(&raw mut (*event).uid, task.uid as u32);
        write_volatile(&raw mut (*event).gid, (task.uid >> 32) as u32);
        (*event).agent = flow.agent;
        (*event).generation = flow.generation;
        (*event).rule = flow.rule;
        (*event).cpu = bpf_get_smp_processor_id();
        write_volatile(&raw mut (*event).source_port, flow.source_port);
        write_volatile(&raw mut (*event).dest_port, flow.dest_port);
        (*event).reason = flow.reason.number();
        (*event).hook = flow.hook.number();
        write_volatile(&raw mut (*event).protocol, flow.protocol);
        let monitor = if flow.monitored { FLAG_MONITOR } else { 0 };
        let allowed = if flow.allowed { FLAG_ALLOWED } else { 0 };
        (*event).flags = monitor | allowed | task.flags;
        write_volatile(&raw mut (*event).detail[0], flow.detail[0]);
        write_volatile(&raw mut (*event).detail[1], flow.detail[1]);
        put_addr(&raw mut (*event).source, &flow.source);
        put_addr(&raw mut (*event).dest, &flow.dest);
        let words: *mut u64 = (&raw mut (*event).comm).cast();
        write_volatile(words, 0);
        write_volatile(words.add(1), 0);
        if task.flags & FLAG_USER != 0 {
            // On failure the kernel clears it.
            bpf_get_current_comm(words.cast(), COMM_BYTES as u32);
        }
    }
}

const _: () = assert!(core::mem::offset_of!(FlowEvent, comm) % 8 == 0 && COMM_BYTES == 16);

/// Writes an address word by word.
#[inline(always)]
pub(crate) unsafe fn put_addr(to: *mut Addr, addr: &Addr) {
    let to: *mut u32 = to.cast();
    let [a, b, c, d] = addr.words();
    // SAFETY: an address is four aligned words, and the caller gives room for one.
    unsafe {
        write_volatile(to, a);
        write_volatile(to.add(1), b);
        write_volatile(to.add(2), c);
        write_volatile(to.add(3), d);
    }
}

/// What the kernel tells of the task that runs; zero where it tells nothing.
pub(crate) struct Task {
    pub(crate) cgroup: u64,
    /// Process id above, thread id below.
    pub(crate) pid: u64,
    /// Group id above, user id below.
    pub(crate) uid: u64,
    pub(crate) flags: u8,
}

impl Task {
    #[inline(always)]
    fn of(flow: &Refused) -> Self {
        Self::at(flow.hook, flow.without_task)
    }

    /// The same at a hook; with the cgroup of a socket, where no task is to be told.
    #[inline(always)]
    pub(crate) fn at(hook: Hook, without_task: Option<u64>) -> Self {
        let mut task = Self {
            cgroup: 0,
            pid: 0,
            uid: 0,
            flags: 0,
        };
        if let Some(cgroup) = without_task {
            task.cgroup = cgroup;
            return task;
        }
        let may = |helper| globals::may_call(hook, helper);
        if may(helper::CGROUP) {
            // SAFETY: a helper without pointers, as are the next two.
            task.cgroup = unsafe { bpf_get_current_cgroup_id() };
        }
        if may(helper::PROCESS) {
            task.pid = bpf_get_current_pid_tgid();
            task.flags = FLAG_TASK;
            if may(helper::USER) && may(helper::NAME) {
                task.uid = bpf_get_current_uid_gid();
                task.flags |= FLAG_USER;
            }
        }
        task
    }
}

/// An event that the throttle lets through.
pub(crate) struct Pass {
    /// Events kept back before it.
    pub(crate) suppressed: u64,
    /// Whether most of the bucket is still there: no flood.
    pub(crate) calm: bool,
}

/// Takes an event's worth from the bucket; nothing if this one is to be kept back.
#[inline(always)]
fn pass_throttle(flow: &Refused, now: u64) -> Option<Pass> {
    // Somebody waits for it, and the kernel bounds how many do.
    if flow.reason == Reason::Asked {
        return Some(Pass {
            suppressed: 0,
            calm: true,
        });
    }
    let index = match flow.allowed {
        true => allowed_bucket_index(flow.agent),
        false => bucket_index(flow.agent, flow.reason),
    };
    pass_bucket(index, now)
}

/// The same of a bucket.
#[inline(always)]
pub(crate) fn pass_bucket(index: u32, now: u64) -> Option<Pass> {
    let cost = globals::event_cost_ns();
    if cost == 0 {
        return Some(Pass {
            suppressed: 0,
            calm: false,
        });
    }
    let bucket = BUCKETS.get_ptr_mut(index)?;
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
pub(crate) fn wake(calm: bool) -> u64 {
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
