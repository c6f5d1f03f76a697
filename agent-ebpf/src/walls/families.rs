//! Families of sockets: those that other walls understand.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, refuse};
use crate::Outcome;

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;

/// `socket_create(family, type, protocol, kern)`.
#[inline(always)]
pub(crate) fn create(ctx: &LsmContext) -> Outcome {
    let Some(who) = Confined::by(wall::FAMILIES) else {
        return Outcome::Pass;
    };
    // The kernel's own, made on the way to something else.
    if argument(ctx, 3) as u32 != 0 {
        return Outcome::Pass;
    }
    let family = argument(ctx, 0) as u32;
    let kind = argument(ctx, 1) as u32 & 0xf;
    let protocol = argument(ctx, 2) as u32;
    let known = match family {
        AF_UNIX => true,
        AF_INET | AF_INET6 => kind != SOCK_RAW && kind != SOCK_PACKET,
        AF_NETLINK => protocol == NETLINK_ROUTE,
        _ => false,
    };
    if known {
        return Outcome::Pass;
    }
    let detail = [family, kind | protocol << 8];
    refuse(
        who.agent.as_ref(),
        Hook::SocketCreate,
        Reason::SocketFamily,
        detail,
    )
}
