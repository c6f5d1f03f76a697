//! The reader of ClientHellos alone, for the test `hello`: what it makes of packets in the
//! kernel is compared with what it makes of the same bytes on the host. The product does not
//! hold these programs.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// As in `main.rs`: the attribute macros make public functions of them.
#![allow(missing_docs, unreachable_pub)]

#[path = "../payload.rs"]
mod payload;

use agent_common::Hello;
use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, cgroup_skb},
    programs::SkBuffContext,
};

use payload::Payload;

const PASS: i32 = 1;
const DROP: i32 = 0;

/// An IPv4 and a TCP header without options.
const HEADERS: u32 = 40;

#[btf_map]
static HELLO: Array<Hello, 1> = Array::new();

/// Feeds the packet's payload to the reader.
#[cgroup_skb(egress)]
pub fn hello_read(ctx: SkBuffContext) -> i32 {
    read(&ctx, false)
}

/// The same, but a stream begins with every packet.
#[cgroup_skb(egress)]
pub fn hello_anew(ctx: SkBuffContext) -> i32 {
    read(&ctx, true)
}

#[inline(always)]
fn read(ctx: &SkBuffContext, anew: bool) -> i32 {
    let skb = ctx.skb.skb;
    let Some(hello) = HELLO.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: an element of an array lives as long as the map, and the test runs one packet
    // at a time.
    let hello = unsafe { &mut *hello };
    if anew {
        hello.reset();
    }
    // SAFETY: `skb` is the program's context.
    let len = unsafe { (*skb).len };
    let payload = Payload {
        skb,
        offset: HEADERS,
    };
    hello.read(&payload, 0, len.saturating_sub(HEADERS));
    PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
