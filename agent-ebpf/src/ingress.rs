//! What reaches a socket that listens, so that no connection is answered that no rule allows.
//!
//! The answer to a SYN is a packet of the agent, and egress would refuse it. But before
//! kernel 6.5 an IPv6 SYN-ACK passes that hook by: it leaves by the listener for a request
//! socket, and the hook only looked where both are the same (`BPF_CGROUP_RUN_PROG_INET_EGRESS`,
//! changed by 223f5f79f2ce). A bit for each SYN that somebody outside sends is a way out, so
//! the SYN is refused where it comes in, on every kernel.

use agent_common::{
    Hook, Protocol, Reason,
    layout::Mode,
    verdict::{NO_RULE, Verdict},
};
use aya_ebpf::programs::SkBuffContext;

use crate::{
    Outcome,
    agent::Owner,
    ctx::{self, Packet},
    egress, traffic,
};

/// Judges a packet that comes in.
#[inline(always)]
pub(crate) fn judge(ctx: &SkBuffContext) -> Outcome {
    match egress::full_socket(ctx.skb.skb) {
        Some(socket) if ctx::is_tcp_listener(socket) => {}
        Some(socket) => {
            traffic::received(ctx, socket);
            return Outcome::Pass;
        }
        None => return Outcome::Pass,
    }
    let agent = match Owner::of_packet(ctx.skb.skb) {
        Owner::Outsider => return Outcome::Pass,
        Owner::Unknown => None,
        Owner::Agent(agent) => Some(agent),
    };
    let packet = answer(ctx::parse(ctx));
    let (reason, rule) = match &agent {
        None => (Reason::NoPolicy, NO_RULE),
        // Egress tells what a monitored agent sends.
        Some(agent) if agent.mode() == Mode::Monitor => return Outcome::Pass,
        Some(agent) => match egress::decide(agent, &packet, false).0 {
            Verdict::Allow { .. } => return Outcome::Pass,
            Verdict::Deny { reason, rule } => (reason, rule),
        },
    };
    egress::tell(
        ctx,
        Hook::Ingress,
        agent.as_ref(),
        &packet,
        reason,
        rule,
        egress::How {
            monitored: false,
            allowed: false,
        },
    );
    Outcome::Refuse
}

/// The packet that would answer: judged as egress would judge it. A packet that cannot be
/// read keeps its fault, so a SYN behind an extension header is not answered either.
#[inline(always)]
fn answer(packet: Packet) -> Packet {
    Packet {
        source: packet.dest,
        dest: packet.source,
        source_port: packet.dest_port,
        dest_port: packet.source_port,
        protocol: Protocol::TCP,
        number: Protocol::TCP.number(),
        opens: false,
        ..packet
    }
}
