//! The system calls of an agent (seccomp(2)).
//!
//! Two filters, because each gives one answer. The first knows the calls that programs make;
//! any other number is ENOSYS, which programs take for an older kernel and do without:
//! `clone3`, whose flags no filter can read, numbers that this version does not know, and those
//! of the x32 interface. The second refuses by EPERM what is not for an agent, and some
//! arguments of what is. It is installed last, and of two refusals the kernel gives the one
//! of the later filter. A call of another architecture ends the process.
//!
//! A filter sees registers and no memory. Paths are the affair of the mount namespace and of
//! [`super::landlock`]; addresses that of the kernel's hooks.

use std::{collections::BTreeMap, io};

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::LaunchError;
use crate::policy::Openings;

/// System calls that are allowed with any arguments that [`refused`] does not name.
fn usual() -> Vec<c_long> {
    use libc::*;
    let mut calls = vec![
        // Files and descriptors.
        SYS_read,
        SYS_write,
        SYS_pread64,
        SYS_pwrite64,
        SYS_readv,
        SYS_writev,
        SYS_preadv,
        SYS_pwritev,
        SYS_preadv2,
        SYS_pwritev2,
        SYS_openat,
        SYS_openat2,
        SYS_close,
        SYS_close_range,
        SYS_lseek,
        SYS_fstat,
        SYS_statx,
        SYS_statfs,
        SYS_fstatfs,
        SYS_faccessat,
        SYS_faccessat2,
        SYS_fcntl,
        SYS_flock,
        SYS_fsync,
        SYS_fdatasync,
        SYS_sync,
        SYS_syncfs,
        SYS_truncate,
        SYS_ftruncate,
        SYS_fallocate,
        SYS_fadvise64,
        SYS_readahead,
        SYS_getdents64,
        SYS_getcwd,
        SYS_chdir,
        SYS_fchdir,
        SYS_mkdirat,
        SYS_mknodat,
        SYS_unlinkat,
        SYS_linkat,
        SYS_symlinkat,
        SYS_readlinkat,
        SYS_renameat2,
        SYS_fchmod,
        SYS_fchmodat,
        SYS_fchown,
        SYS_fchownat,
        SYS_utimensat,
        SYS_umask,
        SYS_dup,
        SYS_dup3,
        SYS_pipe2,
        SYS_ioctl,
        SYS_sendfile,
        SYS_splice,
        SYS_tee,
        SYS_vmsplice,
        SYS_copy_file_range,
        SYS_setxattr,
        SYS_lsetxattr,
        SYS_fsetxattr,
        SYS_getxattr,
        SYS_lgetxattr,
        SYS_fgetxattr,
        SYS_listxattr,
        SYS_llistxattr,
        SYS_flistxattr,
        SYS_removexattr,
        SYS_lremovexattr,
        SYS_fremovexattr,
        SYS_io_setup,
        SYS_io_destroy,
        SYS_io_submit,
        SYS_io_cancel,
        SYS_io_getevents,
        // Waiting.
        SYS_ppoll,
        SYS_pselect6,
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_pwait,
        SYS_eventfd2,
        SYS_signalfd4,
        SYS_inotify_init1,
        SYS_inotify_add_watch,
        SYS_inotify_rm_watch,
        SYS_timerfd_create,
        SYS_timerfd_settime,
        SYS_timerfd_gettime,
        // Memory.
        SYS_mmap,
        SYS_munmap,
        SYS_mremap,
        SYS_mprotect,
        SYS_madvise,
        SYS_brk,
        SYS_msync,
        SYS_mincore,
        SYS_mlock,
        SYS_mlock2,
        SYS_munlock,
        SYS_mlockall,
        SYS_munlockall,
        SYS_remap_file_pages,
        SYS_memfd_create,
        SYS_pkey_alloc,
        SYS_pkey_free,
        SYS_pkey_mprotect,
        SYS_mbind,
        SYS_get_mempolicy,
        SYS_set_mempolicy,
        SYS_membarrier,
        SYS_mseal,
        // Processes and threads.
        SYS_clone,
        SYS_execve,
        SYS_execveat,
        SYS_exit,
        SYS_exit_group,
        SYS_wait4,
        SYS_waitid,
        SYS_getpid,
        SYS_getppid,
        SYS_gettid,
        SYS_getpgid,
        SYS_setpgid,
        SYS_getsid,
        SYS_setsid,
        SYS_set_tid_address,
        SYS_set_robust_list,
        SYS_get_robust_list,
        SYS_futex,
        SYS_rseq,
        SYS_restart_syscall,
        SYS_kill,
        SYS_tkill,
        SYS_tgkill,
        SYS_pidfd_open,
        SYS_pidfd_send_signal,
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigpending,
        SYS_rt_sigqueueinfo,
        SYS_rt_tgsigqueueinfo,
        SYS_rt_sigreturn,
        SYS_rt_sigsuspend,
        SYS_rt_sigtimedwait,
        SYS_sigaltstack,
        SYS_prctl,
        SYS_personality,
        SYS_unshare,
        SYS_sched_yield,
        SYS_sched_getaffinity,
        SYS_sched_setaffinity,
        SYS_sched_getattr,
        SYS_sched_setattr,
        SYS_sched_getparam,
        SYS_sched_setparam,
        SYS_sched_getscheduler,
        SYS_sched_setscheduler,
        SYS_sched_get_priority_max,
        SYS_sched_get_priority_min,
        SYS_sched_rr_get_interval,
        SYS_getpriority,
        SYS_setpriority,
        SYS_ioprio_get,
        SYS_ioprio_set,
        SYS_prlimit64,
        SYS_getrusage,
        SYS_times,
        SYS_getcpu,
        SYS_seccomp,
        SYS_landlock_create_ruleset,
        SYS_landlock_add_rule,
        SYS_landlock_restrict_self,
        // Who one is.
        SYS_getuid,
        SYS_geteuid,
        SYS_getgid,
        SYS_getegid,
        SYS_getresuid,
        SYS_getresgid,
        SYS_getgroups,
        SYS_setuid,
        SYS_setgid,
        SYS_setreuid,
        SYS_setregid,
        SYS_setresuid,
        SYS_setresgid,
        SYS_setfsuid,
        SYS_setfsgid,
        SYS_setgroups,
        SYS_capget,
        SYS_capset,
        SYS_uname,
        SYS_sysinfo,
        SYS_getrandom,
        // Time.
        SYS_clock_gettime,
        SYS_clock_getres,
        SYS_clock_nanosleep,
        SYS_gettimeofday,
        SYS_nanosleep,
        SYS_getitimer,
        SYS_setitimer,
        SYS_timer_create,
        SYS_timer_settime,
        SYS_timer_gettime,
        SYS_timer_getoverrun,
        SYS_timer_delete,
        // Sockets.
        SYS_socket,
        SYS_socketpair,
        SYS_bind,
        SYS_listen,
        SYS_accept,
        SYS_accept4,
        SYS_connect,
        SYS_getsockname,
        SYS_getpeername,
        SYS_sendto,
        SYS_recvfrom,
        SYS_sendmsg,
        SYS_recvmsg,
        SYS_sendmmsg,
        SYS_recvmmsg,
        SYS_setsockopt,
        SYS_getsockopt,
        SYS_shutdown,
        // Between processes; the namespace of these is the agent's own.
        SYS_shmget,
        SYS_shmat,
        SYS_shmdt,
        SYS_shmctl,
        SYS_semget,
        SYS_semop,
        SYS_semtimedop,
        SYS_semctl,
        SYS_msgget,
        SYS_msgsnd,
        SYS_msgrcv,
        SYS_msgctl,
        SYS_mq_open,
        SYS_mq_unlink,
        SYS_mq_timedsend,
        SYS_mq_timedreceive,
        SYS_mq_notify,
        SYS_mq_getsetattr,
    ];
    // From 424 on numbers are the same everywhere, and libc lacks some of their names.
    calls.extend([
        441, // epoll_pwait2
        447, // memfd_secret
        449, // futex_waitv
        450, // set_mempolicy_home_node
        451, // cachestat
        452, // fchmodat2
        453, // map_shadow_stack
        454, // futex_wake
        455, // futex_wait
        456, // futex_requeue
        463, // setxattrat
        464, // getxattrat
        465, // listxattrat
        466, // removexattrat
        468, // file_getattr
        469, // file_setattr
    ]);
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        SYS_open,
        SYS_creat,
        SYS_stat,
        SYS_lstat,
        SYS_newfstatat,
        SYS_access,
        SYS_getdents,
        SYS_mkdir,
        SYS_rmdir,
        SYS_mknod,
        SYS_unlink,
        SYS_link,
        SYS_symlink,
        SYS_readlink,
        SYS_rename,
        SYS_renameat,
        SYS_chmod,
        SYS_chown,
        SYS_lchown,
        SYS_utime,
        SYS_utimes,
        SYS_futimesat,
        SYS_dup2,
        SYS_pipe,
        SYS_poll,
        SYS_select,
        SYS_epoll_create,
        SYS_epoll_wait,
        SYS_eventfd,
        SYS_signalfd,
        SYS_inotify_init,
        SYS_fork,
        SYS_vfork,
        SYS_getpgrp,
        SYS_arch_prctl,
        SYS_pause,
        SYS_alarm,
        SYS_time,
        SYS_getrlimit,
        SYS_setrlimit,
        SYS_sync_file_range,
    ]);
    #[cfg(target_arch = "aarch64")]
    calls.extend([
        SYS_newfstatat,
        38,  // renameat
        84,  // sync_file_range
        163, // getrlimit
        164, // setrlimit
    ]);
    calls
}

/// System calls that are refused with any arguments.
fn never() -> Vec<c_long> {
    use libc::*;
    let mut calls = vec![
        // Mounts and roots.
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_open_tree,
        SYS_move_mount,
        SYS_fsopen,
        SYS_fsconfig,
        SYS_fsmount,
        SYS_fspick,
        SYS_mount_setattr,
        467, // open_tree_attr
        // Files by number, around paths.
        SYS_name_to_handle_at,
        SYS_open_by_handle_at,
        SYS_fanotify_init,
        SYS_fanotify_mark,
        // Other namespaces, and other processes' insides.
        SYS_setns,
        SYS_pidfd_getfd,
        SYS_kcmp,
        SYS_process_madvise,
        448, // process_mrelease
        SYS_migrate_pages,
        SYS_move_pages,
        // What is the kernel's.
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_keyctl,
        SYS_add_key,
        SYS_request_key,
        SYS_kexec_load,
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_syslog,
        SYS_acct,
        SYS_quotactl,
        443, // quotactl_fd
        SYS_swapon,
        SYS_swapoff,
        SYS_reboot,
        SYS_sethostname,
        SYS_setdomainname,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_clock_adjtime,
        SYS_adjtimex,
        SYS_vhangup,
        SYS_lookup_dcookie,
        SYS_nfsservctl,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        SYS_kexec_file_load,
        SYS_iopl,
        SYS_ioperm,
        SYS_modify_ldt,
        SYS_uselib,
        SYS_ustat,
        SYS_sysfs,
        SYS__sysctl,
    ]);
    #[cfg(target_arch = "aarch64")]
    calls.push(294); // kexec_file_load
    calls
}

/// Those that an opening allows.
fn opened(openings: &Openings) -> [(bool, &'static [c_long]); 3] {
    [
        (
            openings.io_uring,
            &[
                libc::SYS_io_uring_setup,
                libc::SYS_io_uring_enter,
                libc::SYS_io_uring_register,
            ],
        ),
        (
            openings.debug,
            &[
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
            ],
        ),
        // A browser's sandbox makes itself an empty root in a user namespace of its own.
        (openings.user_namespaces, &[libc::SYS_chroot]),
    ]
}

/// CLONE_NEW* of clone(2) and unshare(2); the last only of the latter, because in the former
/// these bits are a signal.
const NAMESPACES: [u64; 8] = [
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
    CLONE_NEWTIME,
];

const CLONE_NEWTIME: u64 = 0x80;

/// Values of personality(2) that change nothing but what uname(2) tells or that addresses are
/// not random: PER_LINUX, PER_LINUX32, UNAME26, ADDR_NO_RANDOMIZE, and the question.
const PERSONALITIES: [u64; 6] = [0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];

/// Requests of ioctl(2) that act on a terminal for whoever else uses it: typing (TIOCSTI),
/// the console's own (TIOCLINUX, TIOCCONS), and line disciplines (TIOCSETD), which are network
/// interfaces and modems. The kernel looks at the low 32 bits.
const REQUESTS: [u64; 4] = [0x5412, 0x541c, 0x541d, 0x5423];

/// Types of socket(2), without the flags that are in the same number.
const TYPES: u64 = 0xf;
/// SOCK_PACKET, by which AF_INET gives a packet socket.
const SOCK_PACKET: u64 = 10;

/// IPPROTO_MPTCP.
const MPTCP: u64 = 262;

/// Protocols of the internet families that a hook may still refuse: none named, ICMP, TCP,
/// UDP, ICMPv6 and multipath TCP.
const PROTOCOLS: [u64; 6] = [
    0,
    libc::IPPROTO_ICMP as u64,
    libc::IPPROTO_TCP as u64,
    libc::IPPROTO_UDP as u64,
    libc::IPPROTO_ICMPV6 as u64,
    MPTCP,
];

/// The families of sockets.
const FAMILIES: [u64; 4] = [
    libc::AF_UNIX as u64,
    libc::AF_INET as u64,
    libc::AF_INET6 as u64,
    libc::AF_NETLINK as u64,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A condition on the low 32 bits of an argument: what the kernel reads of an `int`.
fn on(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// One rule: all of the conditions.
fn all<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// One rule: the argument is none of these.
fn none_of(
    argument: u8,
    values: &[u64],
    more: &[SeccompCondition],
) -> Result<SeccompRule, BackendError> {
    let mut conditions = more.to_vec();
    for value in values {
        conditions.push(on(argument, SeccompCmpOp::Ne, *value)?);
    }
    SeccompRule::new(conditions)
}

/// What the first filter allows.
fn known(openings: &Openings) -> Rules {
    let open = opened(openings)
        .into_iter()
        .filter(|(open, _)| *open)
        .flat_map(|(_, calls)| calls.iter().copied());
    usual()
        .into_iter()
        .chain(open)
        .map(|call| (call, Vec::new()))
        .collect()
}

/// What the second refuses.
fn refused(openings: &Openings) -> Result<Rules, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let closed = opened(openings)
        .into_iter()
        .filter(|(open, _)| !*open)
        .flat_map(|(_, calls)| calls.iter().copied());
    let mut rules: Rules = never()
        .into_iter()
        .chain(closed)
        .map(|call| (call, Vec::new()))
        .collect();
    if !openings.user_namespaces {
        for flag in NAMESPACES {
            let rule = all([on(0, MaskedEq(flag), flag)])?;
            rules
                .entry(libc::SYS_unshare)
                .or_default()
                .push(rule.clone());
            if flag != CLONE_NEWTIME {
                rules.entry(libc::SYS_clone).or_default().push(rule);
            }
        }
    }
    rules.insert(
        libc::SYS_personality,
        vec![none_of(0, &PERSONALITIES, &[])?],
    );
    rules.insert(
        libc::SYS_ioctl,
        REQUESTS
            .iter()
            .map(|request| all([on(1, Eq, *request)]))
            .collect::<Result<_, _>>()?,
    );
    // Devices: whoever has the right to make one is beyond the sandbox already.
    let kind = u64::from(libc::S_IFMT);
    for device in [u64::from(libc::S_IFCHR), u64::from(libc::S_IFBLK)] {
        rules
            .entry(libc::SYS_mknodat)
            .or_default()
            .push(all([on(2, MaskedEq(kind), device)])?);
        #[cfg(target_arch = "x86_64")]
        rules
            .entry(libc::SYS_mknod)
            .or_default()
            .push(all([on(1, MaskedEq(kind), device)])?);
    }
    let (inet, inet6, netlink) = (
        libc::AF_INET as u64,
        libc::AF_INET6 as u64,
        libc::AF_NETLINK as u64,
    );
    let raw = libc::SOCK_RAW as u64;
    let mut sockets = vec![
        none_of(0, &FAMILIES, &[])?,
        all([on(0, Eq, netlink), on(2, Ne, libc::NETLINK_ROUTE as u64)])?,
        all([on(1, MaskedEq(TYPES), SOCK_PACKET)])?,
    ];
    for family in [inet, inet6] {
        // Of these, netlink knows no other type than this one.
        sockets.push(all([on(0, Eq, family), on(1, MaskedEq(TYPES), raw)])?);
        sockets.push(none_of(2, &PROTOCOLS, &[on(0, Eq, family)?])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(
        libc::SYS_socketpair,
        vec![all([on(0, Ne, libc::AF_UNIX as u64)])?],
    );
    Ok(rules)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, action, arch)?.try_into()
}

/// Both filters, in the order in which they are installed.
fn programs(openings: &Openings) -> Result<[BpfProgram; 2], BackendError> {
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    Ok([
        compile(known(openings), errno(libc::ENOSYS), SeccompAction::Allow)?,
        compile(refused(openings)?, SeccompAction::Allow, errno(libc::EPERM))?,
    ])
}

/// Puts this process, and what it becomes, behind the filters for good; it also sets
/// `no_new_privs`. Call it last, with one thread.
///
/// # Errors
/// When this processor's architecture has no filter, or the kernel takes none: then nothing may
/// be started.
pub fn install(openings: &Openings) -> Result<(), LaunchError> {
    let failed = |source: io::Error| LaunchError::Step {
        step: "filter its system calls",
        source,
    };
    for program in programs(openings).map_err(|error| failed(io::Error::other(error)))? {
        apply_filter(&program).map_err(|error| {
            failed(match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                other => io::Error::other(other),
            })
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::in_child::in_child;

    /// The errno of a system call with up to six arguments, 0 for success.
    fn call(number: c_long, arguments: &[u64]) -> i32 {
        let a = |at: usize| arguments.get(at).copied().unwrap_or(0);
        // SAFETY: every number is one that the tests below choose, with arguments that make it
        // fail or do nothing but give a descriptor or a child that ends at once.
        let code = unsafe { libc::syscall(number, a(0), a(1), a(2), a(3), a(4), a(5)) };
        match code {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
            _ => 0,
        }
    }

    /// The errno of a call behind the filter.
    fn behind(openings: &Openings, number: c_long, arguments: &[u64]) -> i32 {
        in_child(|| match install(openings) {
            Ok(()) => call(number, arguments),
            Err(_) => 250,
        })
    }

    fn whole() -> Openings {
        Openings::default()
    }

    #[test]
    fn every_call_is_either_known_or_refused() {
        let mut every = vec![whole()];
        for set in [
            |o: &mut Openings| o.io_uring = true,
            |o: &mut Openings| o.debug = true,
            |o: &mut Openings| o.user_namespaces = true,
        ] {
            let mut openings = whole();
            set(&mut openings);
            every.push(openings);
        }
        for openings in every {
            let known = known(&openings);
            for (number, rules) in refused(&openings).expect("rules") {
                assert_eq!(
                    known.contains_key(&number),
                    !rules.is_empty(),
                    "system call {number}"
                );
            }
            programs(&openings).expect("programs");
        }
        let mut usual = usual();
        usual.sort_unstable();
        let length = usual.len();
        usual.dedup();
        assert_eq!(usual.len(), length, "a call is named twice");
    }

    #[test]
    fn what_is_not_for_an_agent_is_refused() {
        for number in never() {
            assert_eq!(
                behind(&whole(), number, &[]),
                libc::EPERM,
                "system call {number}"
            );
        }
        for (_, calls) in opened(&whole()) {
            for number in calls {
                assert_eq!(
                    behind(&whole(), *number, &[]),
                    libc::EPERM,
                    "system call {number}"
                );
            }
        }
    }

    #[test]
    fn what_is_unknown_is_not_there() {
        for number in [libc::SYS_clone3, 1000, 600, 0x4000_0000 | libc::SYS_getpid] {
            assert_eq!(
                behind(&whole(), number, &[]),
                libc::ENOSYS,
                "system call {number}"
            );
        }
    }

    #[test]
    fn no_namespace_is_made() {
        for flag in NAMESPACES {
            assert_eq!(
                behind(&whole(), libc::SYS_unshare, &[flag]),
                libc::EPERM,
                "unshare({flag:#x})"
            );
            assert_eq!(
                behind(&whole(), libc::SYS_unshare, &[flag | libc::CLONE_FS as u64]),
                libc::EPERM
            );
            if flag != CLONE_NEWTIME {
                assert_eq!(
                    behind(
                        &whole(),
                        libc::SYS_clone,
                        &[flag | libc::SIGCHLD as u64 | 0xffff_ffff_0000_0000]
                    ),
                    libc::EPERM,
                    "clone({flag:#x})"
                );
            }
        }
        assert_eq!(
            behind(&whole(), libc::SYS_unshare, &[libc::CLONE_FS as u64]),
            0
        );
    }

    #[test]
    fn sockets_are_of_four_families() {
        let socket = |family: i32, kind: i32, protocol: i32| {
            behind(
                &whole(),
                libc::SYS_socket,
                &[family as u64, kind as u64, protocol as u64],
            )
        };
        let cloexec = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        for (family, kind, protocol) in [
            (libc::AF_UNIX, libc::SOCK_STREAM | cloexec, 0),
            (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
            (libc::AF_INET, libc::SOCK_STREAM | cloexec, 0),
            (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            (
                libc::AF_NETLINK,
                libc::SOCK_RAW | cloexec,
                libc::NETLINK_ROUTE,
            ),
        ] {
            assert_eq!(
                socket(family, kind, protocol),
                0,
                "socket({family}, {kind})"
            );
        }
        for family in 0..48 {
            if !FAMILIES.contains(&(family as u64)) {
                assert_eq!(
                    socket(family, libc::SOCK_DGRAM, 0),
                    libc::EPERM,
                    "family {family}"
                );
            }
        }
        for protocol in 1..23 {
            assert_eq!(
                socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol),
                libc::EPERM,
                "netlink {protocol}"
            );
        }
        for family in [libc::AF_INET, libc::AF_INET6] {
            for kind in [libc::SOCK_RAW, libc::SOCK_RAW | cloexec, 10] {
                assert_eq!(
                    socket(family, kind, libc::IPPROTO_TCP),
                    libc::EPERM,
                    "socket({family}, {kind})"
                );
            }
            // Stream control, lightweight datagrams, congestion control, encapsulation.
            for protocol in [132, 136, 33, 47, 255] {
                assert_eq!(socket(family, libc::SOCK_STREAM, protocol), libc::EPERM);
            }
        }
        // Only the low 32 bits are the family.
        let high = 1 << 32;
        assert_eq!(
            behind(
                &whole(),
                libc::SYS_socket,
                &[high | libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0]
            ),
            libc::EPERM
        );
        assert_eq!(
            behind(
                &whole(),
                libc::SYS_socketpair,
                &[libc::AF_TIPC as u64, libc::SOCK_STREAM as u64, 0]
            ),
            libc::EPERM
        );
    }

    #[test]
    fn nobody_types_into_the_terminal() {
        for request in REQUESTS {
            for high in [0, 1 << 32, 0xffff_ffff_0000_0000] {
                assert_eq!(
                    behind(&whole(), libc::SYS_ioctl, &[9, request | high]),
                    libc::EPERM,
                    "ioctl {request:#x}"
                );
            }
        }
        // FIONREAD of no descriptor.
        assert_eq!(
            behind(&whole(), libc::SYS_ioctl, &[u64::MAX, 0x541b]),
            libc::EBADF
        );
    }

    #[test]
    fn a_pipe_may_be_made_and_a_device_not() {
        let path = std::env::temp_dir().join(format!("exeat-seccomp-{}", std::process::id()));
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("name");
        let make = |kind: u32| {
            behind(
                &whole(),
                libc::SYS_mknodat,
                &[
                    libc::AT_FDCWD as u64,
                    name.as_ptr() as u64,
                    u64::from(kind | 0o600),
                    0,
                ],
            )
        };
        assert_eq!(make(libc::S_IFCHR), libc::EPERM);
        assert_eq!(make(libc::S_IFBLK), libc::EPERM);
        assert_eq!(make(libc::S_IFIFO), 0);
        std::fs::remove_file(&path).expect("the pipe");
    }

    #[test]
    fn personality_changes_nothing_that_matters() {
        for value in [0, 0x4_0000, 0xffff_ffff] {
            assert_eq!(behind(&whole(), libc::SYS_personality, &[value]), 0);
        }
        for value in [0x40_0000, 0x10_0000, 0x4_0008, 1] {
            assert_eq!(
                behind(&whole(), libc::SYS_personality, &[value]),
                libc::EPERM,
                "{value:#x}"
            );
        }
    }

    #[test]
    fn openings_open() {
        let debug = Openings {
            debug: true,
            ..whole()
        };
        // PTRACE_TRACEME is 0.
        assert_eq!(behind(&debug, libc::SYS_ptrace, &[0]), 0);
        assert_eq!(behind(&debug, libc::SYS_pidfd_getfd, &[]), libc::EPERM);
        assert_eq!(behind(&debug, libc::SYS_kcmp, &[]), libc::EPERM);
        let uring = Openings {
            io_uring: true,
            ..whole()
        };
        assert_ne!(behind(&uring, libc::SYS_io_uring_setup, &[1]), libc::EPERM);
        let namespaces = Openings {
            user_namespaces: true,
            ..whole()
        };
        // Whether the machine lets anybody have one is not the filter's affair: two of them
        // that contradict each other are EINVAL from the kernel itself.
        let contradiction = (libc::CLONE_NEWUSER | libc::CLONE_FS) as u64 | libc::SIGCHLD as u64;
        assert_eq!(
            behind(&namespaces, libc::SYS_clone, &[contradiction]),
            libc::EINVAL
        );
        assert_eq!(
            behind(&whole(), libc::SYS_clone, &[contradiction]),
            libc::EPERM
        );
        assert_eq!(behind(&namespaces, libc::SYS_setns, &[]), libc::EPERM);
        assert_eq!(behind(&namespaces, libc::SYS_mount, &[]), libc::EPERM);
    }

    #[test]
    fn programs_run_behind_it() {
        use std::os::unix::process::CommandExt as _;
        let code = in_child(|| {
            if install(&whole()).is_err() {
                return 250;
            }
            let threads = std::thread::spawn(|| 7).join();
            if threads.ok() != Some(7) {
                return 251;
            }
            let script = "x=$(printf ok | cat) && test \"$x\" = ok && exit 42";
            let _ = std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .exec();
            252
        });
        assert_eq!(code, 42);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn another_architecture_ends_the_process() {
        let code = in_child(|| {
            if install(&whole()).is_err() {
                return 250;
            }
            // SAFETY: `getpid` of the 32-bit interface; it takes nothing and changes only eax.
            unsafe {
                std::arch::asm!("int 0x80", inout("eax") 20 => _, out("r8") _, out("r9") _,
                    out("r10") _, out("r11") _);
            }
            0
        });
        assert_eq!(code, 128 + libc::SIGSYS);
    }
}
