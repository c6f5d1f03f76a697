//! Making, binding and tuning sockets.

use agent_common::{
    Addr, Hook, Protocol, Reason,
    layout::Mode,
    verdict::{NO_RULE, Verdict},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::{SockAddrContext, SockContext, SockoptContext},
};

use crate::{
    Outcome,
    agent::{Agent, Owner, index_of},
    ctx::{self, Family},
    held, judge,
    report::{self, Refused},
};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;

/// Admits the kinds of socket whose packets the other hooks understand: TCP, UDP, and ping
/// where a rule speaks of ICMP. That closes raw, UDP-Lite, SCTP, DCCP, MPTCP, L2TP and
/// whatever the kernel learns next.
#[inline(always)]
pub(crate) fn create(ctx: &SockContext) -> Outcome {
    let agent = match Owner::of_task() {
        Owner::Outsider => return Outcome::Pass,
        Owner::Unknown => None,
        Owner::Agent(agent) => Some(agent),
    };
    let (family, kind, number) = ctx::sock_kind(ctx);
    let protocol = Protocol::new(number as u8);
    let reason = match &agent {
        None => Reason::NoPolicy,
        Some(agent) if agent.isolated => Reason::Isolated,
        Some(agent) => {
            let known = number <= u32::from(u8::MAX)
                && match (kind, protocol) {
                    (SOCK_STREAM, Protocol::TCP) | (SOCK_DGRAM, Protocol::UDP) => true,
                    (SOCK_DGRAM, Protocol::ICMP) => agent.info.icmp == 1,
                    _ => false,
                };
            if known {
                held::make(ctx, agent, protocol);
                return Outcome::Pass;
            }
            Reason::SocketType
        }
    };
    refuse(
        agent.as_ref(),
        Refused {
            detail: [family, kind | number << 8],
            // 255 is reserved, and stands for numbers that do not fit (MPTCP is 262).
            protocol: if number > 255 { 255 } else { number as u8 },
            // SAFETY: both helpers take the program's context.
            socket_cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
            // SAFETY: as above.
            netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            ..seen(Hook::SockCreate, reason)
        },
    )
}

/// Judges a bind. A TCP port needs a `listen` rule; an ephemeral one (0) and UDP do not,
/// because clients bind too and their packets are judged by destination. Binding to an
/// address of the gates is refused.
#[inline(always)]
pub(crate) fn bind(ctx: &SockAddrContext, hook: Hook, family: Family) -> Outcome {
    let agent = match Owner::of_task() {
        Owner::Outsider => return Outcome::Pass,
        Owner::Unknown => None,
        Owner::Agent(agent) => Some(agent),
    };
    let addr = ctx::user_addr(ctx, family);
    let port = ctx::user_port(ctx);
    let number = ctx::sock_addr_protocol(ctx);
    let (reason, rule) = match &agent {
        None => (Reason::NoPolicy, NO_RULE),
        Some(agent) if agent.isolated => (Reason::Isolated, NO_RULE),
        Some(_) if addr.is_gate_v4() => (Reason::Gate, NO_RULE),
        Some(agent) => match judge_bind(agent, Protocol::new(number), port) {
            Verdict::Allow { .. } => return Outcome::Pass,
            Verdict::Deny { reason, rule } => (reason, rule),
        },
    };
    refuse(
        agent.as_ref(),
        Refused {
            rule,
            protocol: number,
            dest: addr,
            dest_port: port,
            // SAFETY: both helpers take the program's context.
            socket_cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
            // SAFETY: as above.
            netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            ..seen(hook, reason)
        },
    )
}

#[inline(always)]
fn judge_bind(agent: &Agent, protocol: Protocol, port: u16) -> Verdict {
    if port == 0 || protocol != Protocol::TCP {
        return Verdict::FREE;
    }
    judge::bind(agent, protocol, port)
}

/// Options that send packets of their own from a kernel socket (group joins: IGMP, MLD),
/// that change where packets go (source routes, routing headers, transparent proxying,
/// repair of a connection that was never opened), or that carry data in headers.
/// Numbers from `include/uapi/linux/in.h`, `in6.h`, `tcp.h`, `udp.h`.
const fn is_refused(level: i32, name: i32) -> bool {
    const SOL_IP: i32 = 0;
    const SOL_TCP: i32 = 6;
    const SOL_UDP: i32 = 17;
    const SOL_IPV6: i32 = 41;
    match level {
        SOL_IP => matches!(
            name,
            3 // IP_HDRINCL
            | 4 // IP_OPTIONS
            | 7 // IP_RETOPTS
            | 19 // IP_TRANSPARENT
            | 35 // IP_ADD_MEMBERSHIP
            | 37 // IP_UNBLOCK_SOURCE: reports a change of the source filter
            | 38 // IP_BLOCK_SOURCE
            | 39 // IP_ADD_SOURCE_MEMBERSHIP
            | 41 // IP_MSFILTER
            | 42 // MCAST_JOIN_GROUP
            | 43 // MCAST_BLOCK_SOURCE
            | 44 // MCAST_UNBLOCK_SOURCE
            | 46 // MCAST_JOIN_SOURCE_GROUP
            | 48 // MCAST_MSFILTER
        ),
        SOL_IPV6 => matches!(
            name,
            6 // IPV6_2292PKTOPTIONS
            | 20 // IPV6_ADD_MEMBERSHIP
            | 27 // IPV6_JOIN_ANYCAST
            | 36 // IPV6_HDRINCL
            | 42 // MCAST_JOIN_GROUP
            | 43 // MCAST_BLOCK_SOURCE
            | 44 // MCAST_UNBLOCK_SOURCE
            | 46 // MCAST_JOIN_SOURCE_GROUP
            | 48 // MCAST_MSFILTER
            | 54 // IPV6_HOPOPTS
            | 55 // IPV6_RTHDRDSTOPTS
            | 57 // IPV6_RTHDR
            | 59 // IPV6_DSTOPTS
            | 75 // IPV6_TRANSPARENT
        ),
        SOL_TCP => matches!(
            name,
            19 // TCP_REPAIR
            | 31 // TCP_ULP: another protocol on the stream (espintcp, smc)
        ),
        SOL_UDP => matches!(
            name, 100 // UDP_ENCAP
        ),
        _ => false,
    }
}

/// Judges a socket option.
#[inline(always)]
pub(crate) fn set_option(ctx: &SockoptContext) -> Outcome {
    let (level, name) = ctx::sockopt(ctx);
    if !is_refused(level, name) {
        return Outcome::Pass;
    }
    let agent = match Owner::of_task_at(Hook::Setsockopt) {
        Owner::Outsider => return Outcome::Pass,
        Owner::Unknown => None,
        Owner::Agent(agent) => Some(agent),
    };
    refuse(
        agent.as_ref(),
        Refused {
            detail: [level as u32, name as u32],
            ..seen(Hook::Setsockopt, Reason::SocketOption)
        },
    )
}

/// An event with nothing known but where and why.
#[inline(always)]
fn seen(hook: Hook, reason: Reason) -> Refused {
    Refused {
        hook,
        reason,
        rule: NO_RULE,
        agent: 0,
        generation: 0,
        protocol: 0,
        source: Addr::default(),
        source_port: 0,
        dest: Addr::default(),
        dest_port: 0,
        detail: [0; 2],
        socket_cookie: 0,
        netns_cookie: 0,
        monitored: false,
        allowed: false,
        without_task: None,
    }
}

/// Reports, and refuses unless the agent is only monitored.
#[inline(always)]
fn refuse(agent: Option<&Agent>, flow: Refused) -> Outcome {
    let monitored = matches!(agent, Some(agent) if agent.mode() == Mode::Monitor);
    report::refused(
        &Refused {
            agent: index_of(agent),
            generation: agent.map_or(0, |agent| agent.info.generation),
            monitored,
            ..flow
        },
        None,
    );
    if monitored {
        Outcome::Pass
    } else {
        Outcome::Refuse
    }
}
