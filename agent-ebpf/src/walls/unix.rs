//! Unix sockets: an agent reaches those that itself made, and of others those that its policy
//! names.
//!
//! Whose socket it is tells the cgroup that made it, not its path, so that no link, bind mount,
//! `/proc/PID/root` or other name leads around. What the policy names is known by its file
//! system and inode, or those of a folder above it. An abstract socket has neither.

use agent_common::{
    Hook, Reason,
    layout::{SocketKey, wall},
};
use aya_ebpf::programs::LsmContext;

use super::{Confined, argument, field, owner_of_sock, pointer, refuse};
use crate::{Outcome, globals, maps::SOCKETS};

/// How many folders above a socket are looked at.
const FOLDERS: u32 = 12;

/// `unix_stream_connect(sock, other, newsk)`.
#[inline(always)]
pub(crate) fn connect(ctx: &LsmContext) -> Outcome {
    match Confined::by(wall::UNIX) {
        Some(who) => judge(&who, argument(ctx, 1), Hook::UnixConnect),
        None => Outcome::Pass,
    }
}

/// `unix_may_send(sock, other)`, with the sockets of files.
#[inline(always)]
pub(crate) fn send(ctx: &LsmContext) -> Outcome {
    match Confined::by(wall::UNIX) {
        Some(who) => {
            let other = pointer(argument(ctx, 1), globals::socket_sk());
            judge(&who, other, Hook::UnixSend)
        }
        None => Outcome::Pass,
    }
}

#[inline(always)]
fn judge(who: &Confined, other: u64, hook: Hook) -> Outcome {
    if who.is(owner_of_sock(other)) {
        return Outcome::Pass;
    }
    if let Some(agent) = &who.agent
        && is_named(agent.index, other)
    {
        return Outcome::Pass;
    }
    refuse(who.agent.as_ref(), hook, Reason::UnixSocket, [0; 2])
}

/// Whether the policy names the socket, or a folder that it lies in.
#[inline(always)]
fn is_named(agent: u32, other: u64) -> bool {
    let mut key = SocketKey {
        agent,
        device: 0,
        inode: 0,
    };
    // SAFETY: nothing is read of the value, here and below.
    if unsafe { SOCKETS.get(key) }.is_some() {
        return true;
    }
    let mut dentry = pointer(other, globals::unix_dentry());
    for _ in 0..FOLDERS {
        let inode = pointer(dentry, globals::dentry_inode());
        let volume = pointer(inode, globals::inode_sb());
        key.inode = pointer(inode, globals::inode_ino());
        key.device = field(volume, globals::sb_dev()).unwrap_or(0);
        // Zeroes are a key of their own, and no file's.
        if key.inode == 0 {
            return false;
        }
        // SAFETY: as above.
        if unsafe { SOCKETS.get(key) }.is_some() {
            return true;
        }
        let above = pointer(dentry, globals::dentry_parent());
        if above == dentry {
            return false;
        }
        dentry = above;
    }
    false
}
