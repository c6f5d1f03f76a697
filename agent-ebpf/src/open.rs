//! Connect and send: the fast refusal that the program sees as EPERM, and the steering of
//! DNS to the gate and of connections to the gateway.

use agent_common::{
    Addr, Hook, Protocol, Reason,
    layout::{Mode, Origin},
    verdict::{NO_RULE, Query, Verdict},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};

use crate::{
    Outcome,
    agent::{Agent, GateUse, Owner, gate_use, index_of},
    ctx::{self, Family},
    held, judge,
    maps::{ORIGINS, STEERED},
    report::{self, Refused},
};

const DNS_PORT: u16 = 53;

/// Judges the destination of a connect or a send by the task that asks.
#[inline(always)]
pub(crate) fn judge(ctx: &SockAddrContext, hook: Hook, family: Family) -> Outcome {
    let agent = match Owner::of_task() {
        Owner::Outsider => return Outcome::Pass,
        Owner::Unknown => None,
        Owner::Agent(agent) => Some(agent),
    };
    let number = ctx::sock_addr_protocol(ctx);
    let protocol = Protocol::new(number);
    let asked = ctx::user_addr(ctx, family);
    let dest = asked.or_loopback();
    // A ping socket's port is not one.
    let port = match protocol {
        Protocol::ICMP => 0,
        _ => ctx::user_port(ctx),
    };
    let (reason, rule) = match &agent {
        None => (Reason::NoPolicy, NO_RULE),
        Some(agent) => match decide(ctx, family, agent, protocol, asked, dest, port) {
            Verdict::Allow { .. } => return Outcome::Pass,
            Verdict::Deny { reason, rule } => (reason, rule),
        },
    };
    let monitored = matches!(&agent, Some(agent) if agent.mode() == Mode::Monitor);
    // Only a connect: a Fast Open goes by it too.
    let connects = matches!(hook, Hook::Connect4 | Hook::Connect6);
    let waits = match &agent {
        Some(agent) if connects && protocol == Protocol::TCP => {
            held::begin(ctx, agent, &dest, port, reason)
        }
        _ => false,
    };
    let reason = if waits { Reason::Asked } else { reason };
    report::refused(
        &Refused {
            hook,
            reason,
            rule,
            agent: index_of(agent.as_ref()),
            generation: agent.as_ref().map_or(0, |agent| agent.info.generation),
            protocol: number,
            source: Addr::default(),
            source_port: 0,
            dest,
            dest_port: port,
            detail: [0; 2],
            // SAFETY: both helpers take the program's context.
            socket_cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
            // SAFETY: as above.
            netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            monitored,
            allowed: false,
            without_task: None,
        },
        None,
    );
    if monitored || waits {
        Outcome::Pass
    } else {
        Outcome::Refuse
    }
}

const fn deny(reason: Reason) -> Verdict {
    Verdict::Deny {
        reason,
        rule: NO_RULE,
    }
}

#[inline(always)]
fn decide(
    ctx: &SockAddrContext,
    family: Family,
    agent: &Agent,
    protocol: Protocol,
    asked: Addr,
    dest: Addr,
    port: u16,
) -> Verdict {
    if agent.isolated {
        return deny(Reason::Isolated);
    }
    match gate_use(agent, &dest, port) {
        GateUse::Own => return Verdict::FREE,
        GateUse::Foreign => return deny(Reason::Gate),
        GateUse::None => {}
    }
    // A monitored agent is to behave as if Exeat were not there, so its DNS goes where it
    // went before.
    if port == DNS_PORT && protocol != Protocol::ICMP && agent.mode() == Mode::Enforce {
        return match agent.gate(&asked) {
            Some(gate) => match steer(ctx, family, asked, DNS_PORT, gate) {
                Some(_) => Verdict::FREE,
                None => deny(Reason::Gate),
            },
            None => deny(Reason::Gate),
        };
    }
    let verdict = judge::forward(
        agent,
        &Query {
            addr: dest,
            port,
            protocol,
        },
    );
    match verdict {
        // Here too: what is not enforced is not in the way.
        Verdict::Allow { check, .. } if check.is_steered() && agent.mode() == Mode::Enforce => {
            steer_to_gateway(ctx, family, agent, (asked, dest, port), verdict)
        }
        verdict => verdict,
    }
}

/// Sends the socket to the agent's gateway, and has the gateway know whom it asked for.
#[inline(always)]
fn steer_to_gateway(
    ctx: &SockAddrContext,
    family: Family,
    agent: &Agent,
    (asked, dest, port): (Addr, Addr, u16),
    verdict: Verdict,
) -> Verdict {
    let Some(gateway) = agent.gateway(&asked) else {
        return deny(Reason::Unsteered);
    };
    let (Some(steered), Some(origin)) = (
        STEERED.get(agent.index),
        steer(ctx, family, asked, port, gateway),
    ) else {
        return deny(Reason::State);
    };
    // SAFETY: the helper takes the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let origin = Origin {
        addr: dest,
        ..origin
    };
    match steered.insert(cookie, origin, 0) {
        Ok(()) => verdict,
        Err(_) => deny(Reason::State),
    }
}

/// Sends the socket somewhere else and remembers whom it asked for.
#[inline(always)]
fn steer(
    ctx: &SockAddrContext,
    family: Family,
    asked: Addr,
    asked_port: u16,
    (gate, port): (Addr, u16),
) -> Option<Origin> {
    let mut origin = Origin {
        addr: asked,
        port_be: asked_port.to_be(),
        gate_port_be: port.to_be(),
    };
    // SAFETY: the storage belongs to the context's socket.
    let kept = unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, Some(&mut origin)) };
    if kept.is_null() {
        return None;
    }
    // SAFETY: not null, so it points to a whole value.
    unsafe { *kept = origin };
    ctx::set_user_addr(ctx, family, &gate, port).then_some(origin)
}

/// Shows a steered socket the server that it asked, in place of the gate.
#[inline(always)]
pub(crate) fn restore(ctx: &SockAddrContext, family: Family) -> Outcome {
    // SAFETY: the storage belongs to the context's socket.
    let origin = unsafe { ORIGINS.get_ptr_mut(ctx) };
    if origin.is_null() {
        return Outcome::Pass;
    }
    // SAFETY: not null, so it points to a whole value.
    let origin = unsafe { *origin };
    let seen = ctx::user_addr(ctx, family);
    let from_gate = (seen.is_gate_v4() || seen.is_v6_loopback())
        && ctx::user_port(ctx) == u16::from_be(origin.gate_port_be);
    if from_gate {
        // A mapped server on an IPv4 hook is written as IPv4; a server that does not fit the
        // hook's family cannot have been asked on this socket, and is left alone.
        ctx::set_user_addr(ctx, family, &origin.addr, u16::from_be(origin.port_be));
    }
    Outcome::Pass
}
