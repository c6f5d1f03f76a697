//! Programs that do nothing, at the hooks where Exeat's do something: what the kernel's
//! call of any program costs. `cargo xtask bench` measures against them; the product does
//! not hold them.
#![no_std]
#![no_main]
// As in `main.rs`: the attribute macros make public functions of them.
#![allow(missing_docs, unreachable_pub)]

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt},
    programs::{SkBuffContext, SockAddrContext, SockContext, SockoptContext},
};

const PASS: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn empty_connect4(_ctx: SockAddrContext) -> i32 {
    PASS
}

#[cgroup_sock_addr(sendmsg4)]
pub fn empty_sendmsg4(_ctx: SockAddrContext) -> i32 {
    PASS
}

#[cgroup_sock_addr(bind4)]
pub fn empty_bind4(_ctx: SockAddrContext) -> i32 {
    PASS
}

#[cgroup_sock(sock_create)]
pub fn empty_sock_create(_ctx: SockContext) -> i32 {
    PASS
}

#[cgroup_sockopt(setsockopt)]
pub fn empty_setsockopt(_ctx: SockoptContext) -> i32 {
    PASS
}

#[cgroup_skb(egress)]
pub fn empty_egress(_ctx: SkBuffContext) -> i32 {
    PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
