//! Constants that the daemon writes before it loads the programs.
//!
//! They are read with `read_volatile`, so that the compiler does not fold in the value
//! here; the verifier knows them as constants and drops the dead branches.

use core::ptr::read_volatile;

use agent_common::Hook;

/// Nanoseconds that one event costs its bucket; 0 turns the throttle off.
#[unsafe(no_mangle)]
static EVENT_COST_NS: u64 = 0;

/// The most nanoseconds that a bucket saves up.
#[unsafe(no_mangle)]
static EVENT_BURST_NS: u64 = 0;

/// Helpers that programs on packets may call on this kernel, by [`agent_common::layout::helper`].
///
/// Which helper a type of program may call differs by kernel. Every call of one that some
/// kernel refuses stands behind its bit here: the verifier knows the word as a constant
/// (kernel 5.5, `bpf_map_is_rdonly`) and never looks at a call that cannot be reached.
#[unsafe(no_mangle)]
static PACKET_HELPERS: u64 = 0;

/// The same for programs on socket options.
#[unsafe(no_mangle)]
static SOCKOPT_HELPERS: u64 = 0;

/// Where `sk_buff.head` lies.
#[unsafe(no_mangle)]
static SKB_HEAD: u64 = 0;

/// Where `sk_buff.end` lies.
#[unsafe(no_mangle)]
static SKB_END: u64 = 0;

/// Where in `skb_shared_info` the byte lies that tells whose a packet's pages are.
#[unsafe(no_mangle)]
static PAGE_FLAGS: u64 = 0;

/// Bits of that byte by which a page may still be changed by who wrote it. Zero: not known, and
/// then every page may.
#[unsafe(no_mangle)]
static PAGE_SHARED: u64 = 0;

// Where fields of the kernel's own structures lie, for the walls.
/// `file.f_inode`.
#[unsafe(no_mangle)]
static FILE_INODE: u64 = 0;
/// `file.f_mode`.
#[unsafe(no_mangle)]
static FILE_MODE: u64 = 0;
/// `file.private_data`: of a socket's file the socket.
#[unsafe(no_mangle)]
static FILE_PRIVATE: u64 = 0;
/// `inode.i_mode`.
#[unsafe(no_mangle)]
static INODE_MODE: u64 = 0;
/// `inode.i_sb`.
#[unsafe(no_mangle)]
static INODE_SB: u64 = 0;
/// `inode.i_ino`.
#[unsafe(no_mangle)]
static INODE_INO: u64 = 0;
/// `inode.i_private`: in cgroupfs, the `kernfs_node` of the file.
#[unsafe(no_mangle)]
static INODE_PRIVATE: u64 = 0;
/// `super_block.s_magic`.
#[unsafe(no_mangle)]
static SB_MAGIC: u64 = 0;
/// `super_block.s_dev`.
#[unsafe(no_mangle)]
static SB_DEV: u64 = 0;
/// `socket.sk`.
#[unsafe(no_mangle)]
static SOCKET_SK: u64 = 0;
/// `sock.skc_family`.
#[unsafe(no_mangle)]
static SOCK_FAMILY: u64 = 0;
/// `sock.sk_cgrp_data.cgroup`: the cgroup of whom made it.
#[unsafe(no_mangle)]
static SOCK_CGROUP: u64 = 0;
/// `unix_sock.path.dentry`: where it is bound.
#[unsafe(no_mangle)]
static UNIX_DENTRY: u64 = 0;
/// `dentry.d_inode`.
#[unsafe(no_mangle)]
static DENTRY_INODE: u64 = 0;
/// `dentry.d_parent`.
#[unsafe(no_mangle)]
static DENTRY_PARENT: u64 = 0;
/// `cgroup.self`.
#[unsafe(no_mangle)]
static CGROUP_SELF: u64 = 0;
/// `cgroup_subsys_state.parent`.
#[unsafe(no_mangle)]
static CSS_PARENT: u64 = 0;
/// `cgroup.kn`.
#[unsafe(no_mangle)]
static CGROUP_KN: u64 = 0;
/// `kernfs_node.id`: the cgroup's id.
#[unsafe(no_mangle)]
static KN_ID: u64 = 0;
/// `kernfs_node.parent`, `__parent` since Linux 6.15: the folder's.
#[unsafe(no_mangle)]
static KN_PARENT: u64 = 0;
/// `kernfs_node.name`.
#[unsafe(no_mangle)]
static KN_NAME: u64 = 0;
/// `task_struct.cgroups`.
#[unsafe(no_mangle)]
static TASK_CGROUPS: u64 = 0;
/// `css_set.dfl_cgrp`.
#[unsafe(no_mangle)]
static SET_CGROUP: u64 = 0;
/// `task_struct.tgid`.
#[unsafe(no_mangle)]
static TASK_TGID: u64 = 0;

macro_rules! getter {
    ($name:ident, $global:ident) => {
        #[inline(always)]
        pub(crate) fn $name() -> u64 {
            // SAFETY: a reference to a static is always valid to read.
            unsafe { read_volatile(&$global) }
        }
    };
}

getter!(event_cost_ns, EVENT_COST_NS);
getter!(event_burst_ns, EVENT_BURST_NS);
getter!(packet_helpers, PACKET_HELPERS);
getter!(sockopt_helpers, SOCKOPT_HELPERS);
getter!(skb_head, SKB_HEAD);
getter!(skb_end, SKB_END);
getter!(page_flags, PAGE_FLAGS);
getter!(page_shared, PAGE_SHARED);
getter!(file_inode, FILE_INODE);
getter!(file_mode, FILE_MODE);
getter!(file_private, FILE_PRIVATE);
getter!(inode_mode, INODE_MODE);
getter!(inode_sb, INODE_SB);
getter!(inode_ino, INODE_INO);
getter!(inode_private, INODE_PRIVATE);
getter!(sb_magic, SB_MAGIC);
getter!(sb_dev, SB_DEV);
getter!(socket_sk, SOCKET_SK);
getter!(sock_family, SOCK_FAMILY);
getter!(sock_cgroup, SOCK_CGROUP);
getter!(unix_dentry, UNIX_DENTRY);
getter!(dentry_inode, DENTRY_INODE);
getter!(dentry_parent, DENTRY_PARENT);
getter!(cgroup_self, CGROUP_SELF);
getter!(css_parent, CSS_PARENT);
getter!(cgroup_kn, CGROUP_KN);
getter!(kn_id, KN_ID);
getter!(kn_name, KN_NAME);
getter!(kn_parent, KN_PARENT);
getter!(task_cgroups, TASK_CGROUPS);
getter!(set_cgroup, SET_CGROUP);
getter!(task_tgid, TASK_TGID);

/// Whether a hook's program may call a helper here. Programs on sockets and on addresses
/// may call all of them since kernel 5.7.
#[inline(always)]
pub(crate) fn may_call(hook: Hook, helper: u64) -> bool {
    match hook {
        Hook::Egress | Hook::Ingress => packet_helpers() & helper != 0,
        Hook::Setsockopt => sockopt_helpers() & helper != 0,
        _ => true,
    }
}
