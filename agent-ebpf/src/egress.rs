//! The authority: every packet of every socket that was made in the slice, judged by its
//! own header. What the other hooks let pass by mistake, or never saw, ends here.

use agent_common::{
    Hook, Protocol, Reason,
    layout::{AGENT_LEVEL, FlowState, Mode, Role, helper},
    verdict::{Check, NO_RULE, Query, Verdict},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_socket_cookie,
        bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
    },
    programs::SkBuffContext,
};

use crate::{
    Outcome,
    agent::{Agent, GateUse, Owner, gate_use, index_of, is_agent},
    ctx::{self, Packet},
    globals,
    handshake::{self, Seen},
    held::{self, Waits},
    judge,
    maps::FLOWS,
    report::{self, Refused},
};

const DNS_PORT: u16 = 53;

/// Judges a packet.
#[inline(always)]
pub(crate) fn judge(ctx: &SkBuffContext) -> Outcome {
    let packet = ctx::parse(ctx);
    let socket = full_socket(ctx.skb.skb);
    let mut same_destination = false;
    let mut opened = false;
    // What is known is not copied: there is little room on the stack.
    if let Some(state) = socket.and_then(state_of) {
        if packet.fault.is_none() && !packet.opens && holds(state, &packet) {
            report::count_sent(state.agent, packet.len);
            return Outcome::Pass;
        }
        same_destination = state.addr == packet.dest && state.port == packet.dest_port;
        opened = state.role != Role::Acceptor as u8;
    }
    let agent = match Owner::of_packet(ctx.skb.skb) {
        Owner::Outsider => return Outcome::Pass,
        Owner::Unknown => None,
        Owner::Agent(agent) => Some(agent),
    };
    let mut refusal = None;
    let mut told = None;
    let mut monitored = false;
    let mut outcome = Outcome::Refuse;
    match &agent {
        None => refusal = Some((Reason::NoPolicy, NO_RULE)),
        Some(agent) => {
            monitored = agent.mode() == Mode::Monitor;
            let (verdict, mut role) = decide(agent, &packet, opened);
            let named = matches!(verdict, Verdict::Allow { check, .. } if check != Check::None);
            if let (true, false, Some(socket)) = (packet.opens, named, socket) {
                handshake::forget(socket);
            }
            let rule = match verdict {
                Verdict::Allow {
                    rule,
                    check: Check::None,
                } => rule,
                Verdict::Allow { rule, .. } => match handshake::see(ctx, socket, agent, &packet) {
                    Seen::Open => {
                        role = Role::Nameless;
                        rule
                    }
                    Seen::Named { rule, news } => {
                        if news {
                            told = Some((Reason::NoRule, rule));
                        }
                        rule
                    }
                    Seen::Refused(reason) => {
                        refusal = Some((reason, rule));
                        rule
                    }
                },
                Verdict::Deny { reason, rule } => {
                    refusal = Some((reason, rule));
                    match held::waits(socket, agent, &packet, reason) {
                        Waits::No => {}
                        Waits::Still(outcome) => return outcome,
                        Waits::Told => {
                            refusal = Some((Reason::Asked, rule));
                            outcome = Outcome::Hold;
                        }
                    }
                    rule
                }
            };
            // A monitored agent's flow is told once, then kept like any other.
            if refusal.is_none() || monitored {
                let kept = packet.fault.is_none()
                    && keep(
                        socket,
                        &mut FlowState {
                            generation: agent.info.generation,
                            agent: agent.index,
                            addr: packet.dest,
                            port: packet.dest_port,
                            protocol: packet.number,
                            role: role as u8,
                            rule,
                        },
                    );
                // That a socket opened its connection must not be forgotten: without it a
                // later packet could pass for an answer on an accepted one.
                if packet.opens && !kept && refusal.is_none() {
                    refusal = Some((Reason::State, NO_RULE));
                }
            }
            if refusal.is_none() || monitored {
                // A SYN that is sent again is no new flow.
                if !same_destination {
                    report::count_allowed(agent.index, packet.protocol);
                }
                report::count_sent(agent.index, packet.len);
            }
        }
    }
    let allowed = refusal.is_none();
    let Some((reason, rule)) = refusal.or(told) else {
        return Outcome::Pass;
    };
    tell(
        ctx,
        Hook::Egress,
        agent.as_ref(),
        &packet,
        reason,
        rule,
        How { monitored, allowed },
    );
    if monitored || allowed {
        Outcome::Pass
    } else {
        outcome
    }
}

/// Whether the kept verdict is for this packet's destination and the policy in force.
#[inline(always)]
fn holds(state: &FlowState, packet: &Packet) -> bool {
    (state.role != Role::Nameless as u8 || packet.data == 0)
        && state.addr == packet.dest
        && state.port == packet.dest_port
        && state.protocol == packet.number
        && matches!(
            Agent::of_index(state.agent),
            Some(agent) if agent.info.generation == state.generation && !agent.isolated
        )
}

/// The verdict on a packet, and which side of a connection the agent is on.
#[inline(always)]
pub(crate) fn decide(agent: &Agent, packet: &Packet, opened: bool) -> (Verdict, Role) {
    let deny = |reason| Verdict::Deny {
        reason,
        rule: NO_RULE,
    };
    if agent.isolated {
        return (deny(Reason::Isolated), Role::Opener);
    }
    if let Some(reason) = packet.fault {
        return (deny(reason), Role::Opener);
    }
    match gate_use(agent, &packet.dest, packet.dest_port) {
        GateUse::Own => return (Verdict::FREE, Role::Opener),
        GateUse::Foreign => return (deny(Reason::Gate), Role::Opener),
        GateUse::None => {}
    }
    let forward = if packet.dest_port == DNS_PORT
        && packet.protocol != Protocol::ICMP
        && agent.mode() == Mode::Enforce
    {
        deny(Reason::Gate)
    } else {
        judge::forward(
            agent,
            &Query {
                addr: packet.dest,
                port: packet.dest_port,
                protocol: packet.protocol,
            },
        )
    };
    let forward = match forward {
        // The connect hook does not steer a monitored agent.
        Verdict::Allow { rule, check } if check.is_steered() && agent.mode() == Mode::Monitor => {
            Verdict::Allow {
                rule,
                check: Check::None,
            }
        }
        // It would have come by the gateway, but for one that is older than the rule: that one
        // goes on if the name that it has said does not leave by the gateway.
        Verdict::Allow { rule, check }
            if check == Check::Relay || check == Check::Gateway && packet.opens =>
        {
            Verdict::Deny {
                reason: Reason::Unsteered,
                rule,
            }
        }
        forward => forward,
    };
    let free = matches!(forward, Verdict::Allow { check, .. } if check == Check::None);
    if free || packet.opens || opened || packet.protocol != Protocol::TCP {
        return (forward, Role::Opener);
    }
    let reply = judge::reply(
        agent,
        &Query {
            addr: packet.dest,
            port: packet.source_port,
            protocol: packet.protocol,
        },
    );
    // An accepted connection has no name to say, whatever port its peer has.
    if forward.is_allow() && !reply.is_allow() {
        return (forward, Role::Opener);
    }
    (reply, Role::Acceptor)
}

/// The packet's socket, if it is one that can carry state: not a request (SYN-ACK) or
/// time-wait socket.
#[inline(always)]
pub(crate) fn full_socket(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    let socket = ctx::packet_socket(skb);
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null; the verifier tracks the type.
    let full = unsafe { bpf_sk_fullsock(socket) };
    if full.is_null() { None } else { Some(full) }
}

/// The verdict that the socket carries; with `initial`, made if there is none.
#[inline(always)]
fn storage(socket: *mut bpf_sock, initial: Option<&mut FlowState>) -> *mut FlowState {
    let map = (&raw const FLOWS).cast_mut().cast();
    let (value, flags) = match initial {
        Some(value) => (core::ptr::from_mut(value), BPF_SK_STORAGE_GET_F_CREATE),
        None => (core::ptr::null_mut(), 0),
    };
    // SAFETY: `socket` came from bpf_sk_fullsock; a value, if given, is a whole one.
    unsafe { bpf_sk_storage_get(map, socket.cast(), value.cast(), flags.into()) }.cast()
}

#[inline(always)]
fn state_of(socket: *mut bpf_sock) -> Option<&'static FlowState> {
    // SAFETY: if not null it points to a whole value, which lives as long as the socket.
    unsafe { storage(socket, None).as_ref() }
}

/// Keeps a verdict with the socket; false where there is none or no memory.
#[inline(always)]
fn keep(socket: Option<*mut bpf_sock>, new: &mut FlowState) -> bool {
    let Some(socket) = socket else {
        return false;
    };
    let state = storage(socket, Some(new));
    if state.is_null() {
        return false;
    }
    // SAFETY: not null, so it points to a whole value.
    unsafe { *state = *new };
    true
}

/// What becomes of a packet that is reported.
#[derive(Clone, Copy)]
pub(crate) struct How {
    /// It is let through because the agent is only monitored.
    pub(crate) monitored: bool,
    /// It is let out, by its name.
    pub(crate) allowed: bool,
}

/// Whether a socket is of the very cgroup that the task is in: all that can be asked where the
/// cgroup is governed where it is, and lies at any level.
#[inline(always)]
fn is_of_task(hook: Hook, skb: *mut __sk_buff) -> bool {
    globals::may_call(hook, helper::CGROUP)
        // SAFETY: a helper without pointers, and one that takes the program's context.
        && unsafe { bpf_get_current_cgroup_id() == bpf_skb_cgroup_id(skb) }
}

/// Reports a packet. The task that runs now is the sender only of a packet that
/// leaves, and only if it is of the agent that owns the socket: a packet may leave in a timer
/// or in another task's softirq.
#[inline(always)]
pub(crate) fn tell(
    ctx: &SkBuffContext,
    hook: Hook,
    agent: Option<&Agent>,
    packet: &Packet,
    reason: Reason,
    rule: u32,
    how: How,
) {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let owner = unsafe { bpf_skb_ancestor_cgroup_id(skb, AGENT_LEVEL) };
    let sends = hook as u8 == Hook::Egress as u8
        && globals::may_call(hook, helper::ANCESTOR)
        // SAFETY: a helper without pointers.
        && unsafe { bpf_get_current_ancestor_cgroup_id(AGENT_LEVEL) } == owner
        && (is_agent(owner) || is_of_task(hook, skb));
    let without_task = if sends {
        None
    } else {
        // SAFETY: as above.
        Some(unsafe { bpf_skb_cgroup_id(skb) })
    };
    let name = match reason.is_of_tls() || how.allowed {
        true => handshake::said(skb),
        false => None,
    };
    report::refused(
        &Refused {
            hook,
            reason,
            rule,
            agent: index_of(agent),
            generation: agent.map_or(0, |agent| agent.info.generation),
            protocol: packet.number,
            source: packet.source,
            source_port: packet.source_port,
            dest: packet.dest,
            dest_port: packet.dest_port,
            detail: [0; 2],
            // SAFETY: the helper takes the program's context.
            socket_cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
            netns_cookie: 0,
            monitored: how.monitored,
            allowed: how.allowed,
            without_task,
        },
        name,
    );
}
