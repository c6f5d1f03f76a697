//! What goes over a flow, counted with its socket, and told when it ends.
//!
//! A flow ends when its TCP connection does (which may be long after its descriptor was closed:
//! what waits in the socket still leaves), when another socket is closed, or when the socket
//! turns to another destination. Nothing here can change a verdict.

use core::ptr::{addr_of, read_volatile, write_volatile};

use agent_common::{
    Addr, Hook, Protocol, Reason,
    event::{
        COMM_BYTES, ENDED_EVENT_BYTES, EndedEvent, FLAG_ALLOWED, FLAG_USER, NAMED_ENDED_EVENT_BYTES,
    },
    hello::NAME_BYTES,
    layout::{Flow, Handshake, Origin, allowed_bucket_index},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{
        bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_sk_storage_get,
        generated::{bpf_get_current_comm, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    },
    programs::{SkBuffContext, SockContext, SockOpsContext},
};

use crate::{
    ctx::{self, Packet},
    egress,
    maps::{EVENTS, FLOWS, HANDSHAKES, ORIGINS, STATS},
    report::{self, Pass, Task, add, put_addr, put_name},
};

const DNS_PORT: u16 = 53;

/// `BPF_SOCK_OPS_*` (`include/uapi/linux/bpf.h`): a connection begins, was begun, was accepted;
/// its state changes; and the bit that asks for the last.
const TCP_CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE_CHANGED: u32 = 10;
const TELL_STATES: u32 = 1 << 2;
/// `BPF_TCP_CLOSE`: nothing leaves any more.
const CLOSED: u32 = 7;

/// Counts a packet that leaves.
#[inline(always)]
pub(crate) fn sent(flow: *mut Flow, bytes: u32) {
    // SAFETY: the caller's pointer is to a whole value.
    unsafe {
        add(&raw mut (*flow).counted.sent_bytes, u64::from(bytes));
        add(&raw mut (*flow).counted.sent_packets, 1);
    }
}

/// Counts a packet that comes, if it is of the flow that its socket has: an unconnected one
/// hears from anybody.
#[inline(always)]
pub(crate) fn received(ctx: &SkBuffContext, socket: *mut bpf_sock) {
    let Some(flow) = egress::flow_of(socket) else {
        return;
    };
    // SAFETY: it points to a whole value.
    let state = unsafe { &(*flow).state };
    let bytes = if state.protocol == Protocol::TCP.number() {
        ctx::packet_len(ctx.skb.skb)
    } else {
        let packet = ctx::parse(ctx);
        if packet.source != state.addr || packet.source_port != state.port {
            return;
        }
        packet.len
    };
    // SAFETY: as above.
    unsafe {
        add(&raw mut (*flow).counted.received_bytes, u64::from(bytes));
        add(&raw mut (*flow).counted.received_packets, 1);
    }
}

/// Counts a packet whose verdict was made just now: the first of its flow, perhaps.
#[inline(always)]
pub(crate) fn began(ctx: &SkBuffContext, packet: &Packet) {
    let [a, b, c, d] = packet.source.words();
    exeat_flow_began(
        ctx.skb.skb,
        u64::from(packet.len) << 16 | u64::from(packet.source_port),
        u64::from(a) << 32 | u64::from(b),
        u64::from(c) << 32 | u64::from(d),
    );
}

/// A function of its own for the verifier, as those of [`crate::judge`] are.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_flow_began(skb: *mut __sk_buff, end: u64, high: u64, low: u64) -> u64 {
    let Some(flow) = egress::full_socket(skb).and_then(egress::flow_of) else {
        return 0;
    };
    sent(flow, (end >> 16) as u32);
    // SAFETY: it points to a whole value; the packets of a socket that begins a flow leave one
    // at a time, but for a datagram socket that several threads share, where the last one is
    // the starter.
    unsafe {
        if read_volatile(&raw const (*flow).counted.first_ns) != 0 {
            return 0;
        }
        write_volatile(&raw mut (*flow).counted.first_ns, bpf_ktime_get_boot_ns());
        let starter = &raw mut (*flow).starter;
        let source = Addr::from_words([
            (high >> 32) as u32,
            high as u32,
            (low >> 32) as u32,
            low as u32,
        ]);
        put_addr(&raw mut (*starter).source, &source);
        write_volatile(&raw mut (*starter).source_port, end as u16);
        let task = Task::at(Hook::Egress, egress::without_task(Hook::Egress, skb));
        write_volatile(&raw mut (*starter).cgroup, task.cgroup);
        write_volatile(&raw mut (*starter).pid, task.pid);
        write_volatile(&raw mut (*starter).uid, task.uid);
        write_volatile(&raw mut (*starter).flags, task.flags);
        let comm: *mut u64 = (&raw mut (*starter).comm).cast();
        write_volatile(comm, 0);
        write_volatile(comm.add(1), 0);
        if task.flags & FLAG_USER != 0 {
            bpf_get_current_comm(comm.cast(), COMM_BYTES as u32);
        }
    }
    1
}

/// The socket of a packet turns to another destination: what it had until now has ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_flow_turned(skb: *mut __sk_buff) -> u64 {
    let Some(socket) = egress::full_socket(skb) else {
        return 0;
    };
    let Some(flow) = egress::flow_of(socket) else {
        return 0;
    };
    // SAFETY: `socket` came from bpf_sk_fullsock; the helper for the cookie takes the program's
    // context.
    unsafe {
        let origin = bpf_sk_storage_get(origins(), socket.cast(), core::ptr::null_mut(), 0);
        // The name is not told: the hello of the next connection may be in its place.
        ended(
            flow,
            bpf_get_socket_cookie(skb.cast()),
            origin.cast(),
            core::ptr::null(),
        );
    }
    1
}

#[inline(always)]
fn origins() -> *mut core::ffi::c_void {
    (&raw const ORIGINS).cast_mut().cast()
}

#[inline(always)]
fn handshakes() -> *mut core::ffi::c_void {
    (&raw const HANDSHAKES).cast_mut().cast()
}

/// The last descriptor of a socket is closed.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) {
    let flows = (&raw const FLOWS).cast_mut().cast();
    // SAFETY: these helpers take the program's context for its socket.
    unsafe {
        let flow: *mut Flow =
            bpf_sk_storage_get(flows, ctx.as_ptr(), core::ptr::null_mut(), 0).cast();
        if flow.is_null() || (*flow).starter.watched != 0 {
            return;
        }
        let origin = bpf_sk_storage_get(origins(), ctx.as_ptr(), core::ptr::null_mut(), 0);
        let hello = bpf_sk_storage_get(handshakes(), ctx.as_ptr(), core::ptr::null_mut(), 0);
        ended(
            flow,
            bpf_get_socket_cookie(ctx.as_ptr()),
            origin.cast(),
            hello.cast(),
        );
    }
}

/// A TCP connection begins, or changes its state.
#[inline(always)]
pub(crate) fn changed(ctx: &SockOpsContext) {
    // SAFETY: the program's context.
    let op = unsafe { read_volatile(addr_of!((*ctx.ops).op)) };
    match op {
        TCP_CONNECT | ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED => watch(ctx),
        STATE_CHANGED => {
            // SAFETY: as above.
            let state = unsafe { read_volatile(addr_of!((*ctx.ops).__bindgen_anon_1.args[1])) };
            if state == CLOSED {
                closed(ctx);
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn socket_of(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the program's context; null where the socket is none that carries state.
    let socket = unsafe { read_volatile(addr_of!((*ctx.ops).__bindgen_anon_2.sk)) };
    if socket.is_null() { None } else { Some(socket) }
}

/// Asks to be told of the states of a connection, and notes that it was asked.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    let Some(socket) = socket_of(ctx) else {
        return;
    };
    let flows = (&raw const FLOWS).cast_mut().cast();
    // SAFETY: not null; without a value the kernel makes one of zeroes, in which there is no
    // verdict.
    let flow: *mut Flow = unsafe {
        bpf_sk_storage_get(
            flows,
            socket.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    }
    .cast();
    if flow.is_null() {
        return;
    }
    if ctx
        .set_cb_flags((ctx.cb_flags() | TELL_STATES) as i32)
        .is_ok()
    {
        // SAFETY: not null, so it points to a whole value.
        unsafe { write_volatile(&raw mut (*flow).starter.watched, 1) };
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(socket) = socket_of(ctx) else {
        return;
    };
    let flows = (&raw const FLOWS).cast_mut().cast();
    // SAFETY: not null.
    unsafe {
        let flow: *mut Flow =
            bpf_sk_storage_get(flows, socket.cast(), core::ptr::null_mut(), 0).cast();
        if flow.is_null() {
            return;
        }
        let origin = bpf_sk_storage_get(origins(), socket.cast(), core::ptr::null_mut(), 0);
        let hello = bpf_sk_storage_get(handshakes(), socket.cast(), core::ptr::null_mut(), 0);
        ended(
            flow,
            bpf_get_socket_cookie(ctx.as_ptr()),
            origin.cast(),
            hello.cast(),
        );
    }
}

/// Tells of a flow that has ended, and makes room for the next one of its socket. Questions at
/// the gate are told of one by one, so their flow is not.
///
/// # Safety
/// `flow` is a whole value; the others are null or whole values.
#[inline(always)]
unsafe fn ended(flow: *mut Flow, cookie: u64, origin: *const Origin, hello: *const Handshake) {
    // SAFETY: the caller's promise. Read and set to zero one by one: what a packet adds between
    // the two is lost, but no packet leaves a socket that ends, and a datagram socket turns
    // under its own packet.
    unsafe {
        let counted = &raw mut (*flow).counted;
        let mut counts = [0_u64; 5];
        for (index, count) in counts.iter_mut().enumerate() {
            let at = counted.cast::<u64>().add(index);
            *count = read_volatile(at);
            write_volatile(at, 0);
        }
        if counts[4] == 0 {
            return;
        }
        let state = &(*flow).state;
        let (mut dest, mut port) = (state.addr, state.port);
        let steered = dest.is_gate_v4() || dest.is_v6_loopback();
        if steered && !origin.is_null() && u16::from_be((*origin).gate_port_be) == port {
            (dest, port) = ((*origin).addr, u16::from_be((*origin).port_be));
            if port == DNS_PORT {
                return;
            }
        }
        tell(flow, cookie, &counts, (&dest, port), hello);
    }
}

/// # Safety
/// As [`ended`].
#[inline(always)]
unsafe fn tell(
    flow: *const Flow,
    cookie: u64,
    counts: &[u64; 5],
    (dest, port): (&Addr, u16),
    hello: *const Handshake,
) {
    // SAFETY: the caller's promise, and as in `report::refused`.
    unsafe {
        let Some(stats) = STATS.get_ptr_mut((*flow).state.agent) else {
            return;
        };
        let now = bpf_ktime_get_boot_ns();
        let bucket = allowed_bucket_index((*flow).state.agent);
        let Some(Pass { suppressed, .. }) = report::pass_bucket(bucket, now) else {
            add(&raw mut (*stats).events_throttled, 1);
            return;
        };
        let sequence = report::next_sequence();
        let ring = (&raw const EVENTS).cast_mut().cast();
        let slot = match hello.is_null() {
            true => bpf_ringbuf_reserve(ring, ENDED_EVENT_BYTES as u64, 0),
            false => bpf_ringbuf_reserve(ring, NAMED_ENDED_EVENT_BYTES as u64, 0),
        };
        if slot.is_null() {
            add(&raw mut (*stats).events_lost, 1);
            return;
        }
        let to: *mut EndedEvent = slot.cast();
        write(
            &raw mut (*to).flow,
            flow,
            now,
            (cookie, suppressed, sequence),
            (dest, port),
        );
        for (index, count) in counts.iter().enumerate() {
            write_volatile((&raw mut (*to).counted).cast::<u64>().add(index), *count);
        }
        if !hello.is_null() {
            let name: &[u8; NAME_BYTES] = (*hello).client.name_bytes();
            put_name((&raw mut (*to).name).cast(), name.as_ptr().cast());
        }
        bpf_ringbuf_submit(slot, report::wake(false));
    }
}

/// # Safety
/// As [`ended`]; `to` has the size of an event.
#[inline(always)]
unsafe fn write(
    to: *mut agent_common::FlowEvent,
    flow: *const Flow,
    now: u64,
    (cookie, suppressed, sequence): (u64, u64, u64),
    (dest, port): (&Addr, u16),
) {
    // SAFETY: the caller's promise. Volatile as in `report::write`.
    unsafe {
        let (state, starter) = (&raw const (*flow).state, &raw const (*flow).starter);
        write_volatile(&raw mut (*to).boot_ns, now);
        write_volatile(&raw mut (*to).cgroup, (*starter).cgroup);
        write_volatile(&raw mut (*to).socket_cookie, cookie);
        write_volatile(&raw mut (*to).netns_cookie, 0);
        write_volatile(&raw mut (*to).suppressed, suppressed);
        write_volatile(&raw mut (*to).sequence, sequence);
        let (pid, uid) = ((*starter).pid, (*starter).uid);
        write_volatile(&raw mut (*to).pid, pid as u32);
        write_volatile(&raw mut (*to).tgid, (pid >> 32) as u32);
        write_volatile(&raw mut (*to).uid, uid as u32);
        write_volatile(&raw mut (*to).gid, (uid >> 32) as u32);
        write_volatile(&raw mut (*to).agent, (*state).agent);
        write_volatile(&raw mut (*to).generation, (*state).generation);
        write_volatile(&raw mut (*to).rule, (*state).rule);
        write_volatile(&raw mut (*to).cpu, bpf_get_smp_processor_id());
        write_volatile(&raw mut (*to).source_port, (*starter).source_port);
        write_volatile(&raw mut (*to).dest_port, port);
        write_volatile(&raw mut (*to).reason, Reason::NoRule.number());
        write_volatile(&raw mut (*to).hook, Hook::FlowEnd.number());
        write_volatile(&raw mut (*to).protocol, (*state).protocol);
        write_volatile(&raw mut (*to).flags, FLAG_ALLOWED | (*starter).flags);
        write_volatile(&raw mut (*to).detail[0], 0);
        write_volatile(&raw mut (*to).detail[1], 0);
        put_addr(&raw mut (*to).source, &(*starter).source);
        put_addr(&raw mut (*to).dest, dest);
        let (from, into): (*const u64, *mut u64) = (
            (&raw const (*starter).comm).cast(),
            (&raw mut (*to).comm).cast(),
        );
        write_volatile(into, read_volatile(from));
        write_volatile(into.add(1), read_volatile(from.add(1)));
    }
}
