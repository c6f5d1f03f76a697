//! Programs that a kernel refuses: one that every kernel does, and one that does not load on
//! kernels before 6.10. The test `rejected` loads them and reads what is said about it; the
//! product does not hold them.
#![no_std]
#![no_main]
// As in `main.rs`: the attribute macros make public functions of them.
#![allow(missing_docs, unreachable_pub)]

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_override_return},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

const PASS: i32 = 1;

/// The kernel gives the task's number to programs at this hook since 6.10.
#[cgroup_skb(egress)]
pub fn broken_when_old(_ctx: SkBuffContext) -> i32 {
    PASS | (bpf_get_current_pid_tgid() as i32 & 2)
}

/// Only probes of kernel functions may call this.
#[cgroup_skb(egress)]
pub fn broken_always(_ctx: SkBuffContext) -> i32 {
    // SAFETY: it never runs, for no kernel takes it.
    PASS | (unsafe { bpf_override_return(core::ptr::null_mut(), 0) } as i32 & 2)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
