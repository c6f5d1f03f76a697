//! Sockets in somebody else's hands: an agent receives none that it did not make, and nobody
//! receives one of an agent that packets leave from.
//!
//! The hook runs for whoever receives (`SCM_RIGHTS`, `pidfd_getfd(2)`), so of what leaves an
//! agent the agent is told by the socket. A Unix socket may leave: who accepts a connection
//! from an agent holds one that the agent's connect made, and may hand it to a worker.

use agent_common::{Hook, Reason, layout::wall};
use aya_ebpf::programs::LsmContext;

use super::{Confined, NOBODY, argument, field, owner_of_sock, refuse};
use crate::{
    Outcome,
    agent::{Agent, Owner},
    globals,
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const AF_UNIX: u16 = 1;

/// Into the agent, and out of it: the second word of the event's detail.
const IN: u32 = 1;
const OUT: u32 = 2;

/// `file_receive(file)`.
#[inline(always)]
pub(crate) fn receive(ctx: &LsmContext) -> Outcome {
    let file = argument(ctx, 0);
    let inode: u64 = field(file, globals::file_inode()).unwrap_or(0);
    let mode: u16 = field(inode, globals::inode_mode()).unwrap_or(0);
    if mode & S_IFMT != S_IFSOCK {
        return Outcome::Pass;
    }
    let socket: u64 = field(file, globals::file_private()).unwrap_or(0);
    let sock: u64 = field(socket, globals::socket_sk()).unwrap_or(0);
    let family: u16 = field(sock, globals::sock_family()).unwrap_or(0);
    let maker = owner_of_sock(sock);
    if let Owner::Outsider = Owner::of_task() {
        if maker == NOBODY {
            return Outcome::Pass;
        }
        let Some(agent) = Agent::of_index(maker) else {
            return Outcome::Pass;
        };
        if family == AF_UNIX || agent.info.open & wall::PASSING != 0 {
            return Outcome::Pass;
        }
        let detail = [u32::from(family), OUT];
        return refuse(
            Some(&agent),
            Hook::FileReceive,
            Reason::PassedSocket,
            detail,
        );
    }
    match Confined::by(wall::PASSING) {
        Some(who) if !who.is(maker) => {
            let detail = [u32::from(family), IN];
            refuse(
                who.agent.as_ref(),
                Hook::FileReceive,
                Reason::PassedSocket,
                detail,
            )
        }
        _ => Outcome::Pass,
    }
}
