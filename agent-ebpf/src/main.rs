//! Exeat's BPF programs: one function an attach point, and the only place that picks
//! return codes.
//!
//! `connect*` and `sendmsg*` are attached at the cgroup2 root, because a hook runs for the
//! cgroup that a *socket* was made in, and only there is a socket seen that was made
//! before its process joined, or that was handed in. They judge by the task, and leave at
//! once for tasks outside the slice. Everything else is attached at the slice.
#![no_std]
#![no_main]
// An atomic add without its result: see `report::add`. A bound that LLVM must not drop: see
// `report::slot`.
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)]
// The attribute macros repeat each program as a public function of a binary, which has no
// public face and whose names say all that there is to say.
#![allow(missing_docs, unreachable_pub)]

mod agent;
mod ctx;
mod egress;
mod globals;
mod handshake;
mod held;
mod ingress;
mod judge;
mod maps;
mod open;
mod pages;
mod payload;
mod report;
mod socket;
mod walls;

use agent_common::Hook;
use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, lsm},
    programs::{LsmContext, SkBuffContext, SockAddrContext, SockContext, SockoptContext},
};

use crate::ctx::Family;

/// What a program does with what it was asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pass,
    Refuse,
    /// Kept back in egress, to be judged again when it is sent again.
    Hold,
}

/// For every cgroup hook used here, 1 lets through and 0 refuses: with EPERM for
/// system calls, by dropping for packets (`kernel/bpf/cgroup.c`).
const fn code(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Pass => 1,
        Outcome::Refuse | Outcome::Hold => 0,
    }
}

/// For packets on their way out there is a third: 2 drops and says that there is no room just
/// now (`NET_XMIT_DROP`), after which TCP sends again every half second instead of ever later
/// (`TCP_RESOURCE_PROBE_INTERVAL`).
const fn packet_code(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Hold => 2,
        outcome => code(outcome),
    }
}

#[cgroup_sock_addr(connect4)]
pub fn exeat_connect4(ctx: SockAddrContext) -> i32 {
    code(open::judge(&ctx, Hook::Connect4, Family::V4))
}

#[cgroup_sock_addr(connect6)]
pub fn exeat_connect6(ctx: SockAddrContext) -> i32 {
    code(open::judge(&ctx, Hook::Connect6, Family::V6))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn exeat_sendmsg4(ctx: SockAddrContext) -> i32 {
    code(open::judge(&ctx, Hook::Sendmsg4, Family::V4))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn exeat_sendmsg6(ctx: SockAddrContext) -> i32 {
    code(open::judge(&ctx, Hook::Sendmsg6, Family::V6))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn exeat_recvmsg4(ctx: SockAddrContext) -> i32 {
    code(open::restore(&ctx, Family::V4))
}

#[cgroup_sock_addr(recvmsg6)]
pub fn exeat_recvmsg6(ctx: SockAddrContext) -> i32 {
    code(open::restore(&ctx, Family::V6))
}

#[cgroup_sock_addr(getpeername4)]
pub fn exeat_getpeername4(ctx: SockAddrContext) -> i32 {
    code(open::restore(&ctx, Family::V4))
}

#[cgroup_sock_addr(getpeername6)]
pub fn exeat_getpeername6(ctx: SockAddrContext) -> i32 {
    code(open::restore(&ctx, Family::V6))
}

#[cgroup_sock_addr(bind4)]
pub fn exeat_bind4(ctx: SockAddrContext) -> i32 {
    code(socket::bind(&ctx, Hook::Bind4, Family::V4))
}

#[cgroup_sock_addr(bind6)]
pub fn exeat_bind6(ctx: SockAddrContext) -> i32 {
    code(socket::bind(&ctx, Hook::Bind6, Family::V6))
}

#[cgroup_sock(sock_create)]
pub fn exeat_sock_create(ctx: SockContext) -> i32 {
    code(socket::create(&ctx))
}

#[cgroup_sockopt(setsockopt)]
pub fn exeat_setsockopt(ctx: SockoptContext) -> i32 {
    code(socket::set_option(&ctx))
}

#[cgroup_skb(egress)]
pub fn exeat_egress(ctx: SkBuffContext) -> i32 {
    packet_code(egress::judge(&ctx))
}

#[cgroup_skb(ingress)]
pub fn exeat_ingress(ctx: SkBuffContext) -> i32 {
    code(ingress::judge(&ctx))
}

/// For every hook of BPF LSM used here, 0 lets through and an error number refuses.
const fn errno(outcome: Outcome) -> i32 {
    const EPERM: i32 = 1;
    match outcome {
        Outcome::Pass => 0,
        Outcome::Refuse | Outcome::Hold => -EPERM,
    }
}

#[lsm(hook = "bpf")]
pub fn exeat_wall_trial(_ctx: LsmContext) -> i32 {
    errno(walls::trial::seen())
}

#[lsm(hook = "bprm_committed_creds")]
pub fn exeat_wall_exec(_ctx: LsmContext) -> i32 {
    errno(walls::starting::executed())
}

#[lsm(hook = "unix_stream_connect")]
pub fn exeat_wall_unix_connect(ctx: LsmContext) -> i32 {
    errno(walls::unix::connect(&ctx))
}

#[lsm(hook = "unix_may_send")]
pub fn exeat_wall_unix_send(ctx: LsmContext) -> i32 {
    errno(walls::unix::send(&ctx))
}

#[lsm(hook = "file_receive")]
pub fn exeat_wall_receive(ctx: LsmContext) -> i32 {
    errno(walls::passing::receive(&ctx))
}

#[lsm(hook = "file_open")]
pub fn exeat_wall_open(ctx: LsmContext) -> i32 {
    errno(walls::migrating::open(&ctx))
}

#[lsm(hook = "task_alloc")]
pub fn exeat_wall_clone(ctx: LsmContext) -> i32 {
    errno(walls::migrating::clone(&ctx))
}

#[lsm(hook = "ptrace_access_check")]
pub fn exeat_wall_ptrace(ctx: LsmContext) -> i32 {
    errno(walls::ptrace::access(&ctx))
}

#[lsm(hook = "ptrace_traceme")]
pub fn exeat_wall_traceme(ctx: LsmContext) -> i32 {
    errno(walls::ptrace::traceme(&ctx))
}

#[lsm(hook = "socket_create")]
pub fn exeat_wall_socket(ctx: LsmContext) -> i32 {
    errno(walls::families::create(&ctx))
}

#[lsm(hook = "bpf")]
pub fn exeat_wall_bpf(ctx: LsmContext) -> i32 {
    errno(walls::bpf::call(&ctx))
}

#[lsm(hook = "sb_mount")]
pub fn exeat_wall_mount(ctx: LsmContext) -> i32 {
    errno(walls::mount::mount(&ctx))
}

#[lsm(hook = "move_mount")]
pub fn exeat_wall_move_mount(_ctx: LsmContext) -> i32 {
    errno(walls::mount::change(Hook::MoveMount))
}

#[lsm(hook = "sb_umount")]
pub fn exeat_wall_umount(_ctx: LsmContext) -> i32 {
    errno(walls::mount::change(Hook::Umount))
}

#[lsm(hook = "sb_pivotroot")]
pub fn exeat_wall_pivot(_ctx: LsmContext) -> i32 {
    errno(walls::mount::change(Hook::PivotRoot))
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
