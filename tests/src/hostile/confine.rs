//! What a sandbox keeps a program from: nothing of it sends a byte by itself. Each is open to
//! root without one.

use crate::context::{Context, Evidence, Fault, Needs, Outcome, Technique};
use crate::sys;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;

const F: &str = "confine";

const fn technique(name: &'static str, run: fn(&Context) -> Outcome) -> Technique {
    Technique::new(F, name, run)
        .evidence(Evidence::Word)
        .root()
        .needs(Needs::Pid)
}

/// Not among `list`: `list-confined` names them.
pub(crate) const TECHNIQUES: &[Technique] = &[
    technique("mount-tmpfs", |_| mount(c"tmpfs", c"/tmp")),
    technique("mount-proc", |_| mount(c"proc", c"/proc")),
    technique("mount-cgroup2", |_| mount(c"cgroup2", c"/tmp")),
    technique("mount-bpf", |_| mount(c"bpf", c"/tmp")),
    technique("mount-new-interface", |_| {
        call("fsopen", libc::SYS_fsopen, [c"tmpfs".as_ptr() as i64, 0, 0])
    }),
    technique("mount-detached-tree", |_| {
        let (here, path) = (i64::from(libc::AT_FDCWD), c"/".as_ptr() as i64);
        call("open_tree", libc::SYS_open_tree, [here, path, 1])
    }),
    technique("unshare-mounts", |_| unshare(libc::CLONE_NEWNS)),
    technique("unshare-user", |_| unshare(libc::CLONE_NEWUSER)),
    technique("unshare-processes", |_| unshare(libc::CLONE_NEWPID)),
    technique("unshare-cgroup", |_| unshare(libc::CLONE_NEWCGROUP)),
    technique("clone-user", |_| clone(libc::CLONE_NEWUSER)),
    technique("clone-network", |_| clone(libc::CLONE_NEWNET)),
    technique("enter-mounts", enter_mounts),
    technique("see-daemon", see_daemon),
    technique("daemon-root", |c| open_of(c, "root/etc/passwd")),
    technique("daemon-environment", |c| open_of(c, "environ")),
    technique("daemon-descriptors", |c| {
        let path = format!("/proc/{}/fd", c.pid);
        std::fs::read_dir(path).map_err(|e| Fault::of("read /proc/PID/fd", &e))?;
        Ok("sees the daemon's descriptors".into())
    }),
    technique("read-memory", read_memory),
    technique("compare-processes", |c| {
        // KCMP_FILES of the daemon with itself.
        let pid = i64::from(c.pid);
        let code = unsafe_call(libc::SYS_kcmp, [pid, pid, 2]);
        sys::check("kcmp", code)?;
        Ok("compared the daemon's descriptors".into())
    }),
    technique("file-by-number", file_by_number),
    technique("watch-mount", |_| {
        // FAN_CLASS_NOTIF.
        call("fanotify_init", libc::SYS_fanotify_init, [0, 0, 0])
    }),
    technique("page-faults", |_| {
        call("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0])
    }),
    technique("session-keys", |_| {
        // KEYCTL_GET_KEYRING_ID of the user's session, made if need be.
        call("keyctl", libc::SYS_keyctl, [0, -4, 1])
    }),
    technique("new-key", new_key),
    technique("measure", measure),
    technique("kernel-log", |_| {
        // SYSLOG_ACTION_SIZE_BUFFER.
        call("syslog", libc::SYS_syslog, [10, 0, 0])
    }),
    technique("host-name", |_| {
        let mut name = [0u8; 65];
        // SAFETY: the pointer and the length describe `name`.
        let code = unsafe { libc::gethostname(name.as_mut_ptr().cast(), 64) };
        sys::check("gethostname", code.into())?;
        let length = name.iter().take_while(|byte| **byte != 0).count();
        // The same name: nothing changes.
        let pointer = name.as_ptr() as i64;
        call(
            "sethostname",
            libc::SYS_sethostname,
            [pointer, length as i64, 0],
        )
    }),
    technique("core-pattern", |_| {
        write_to("/proc/sys/kernel/core_pattern")
    }),
    technique("module-path", |_| write_to("/proc/sys/kernel/modprobe")),
    technique("sysrq", |_| write_to("/proc/sysrq-trigger")),
    technique("disk", disk),
    technique("device", device),
    technique("chroot", |_| {
        call("chroot", libc::SYS_chroot, [c"/".as_ptr() as i64, 0, 0])
    }),
    technique("own-capabilities", own_capabilities),
    technique("type-into-terminal", |_| type_into_terminal(0)),
    technique("type-into-terminal-high-bits", |_| {
        type_into_terminal(1 << 32)
    }),
    technique("line-discipline", line_discipline),
    technique("executable-data", |_| {
        // READ_IMPLIES_EXEC.
        call("personality", libc::SYS_personality, [0x40_0000, 0, 0])
    }),
    technique("packet-socket", |_| {
        sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        Ok("made a packet socket".into())
    }),
    technique("old-packet-socket", |_| {
        // SOCK_PACKET.
        sys::socket(libc::AF_INET, 10, 0)?;
        Ok("made a packet socket".into())
    }),
    technique("raw-socket", |_| {
        sys::socket(libc::AF_INET, libc::SOCK_RAW, 255)?;
        Ok("made a raw socket".into())
    }),
    technique("old-architecture", old_architecture),
];

/// Any system call; every technique here makes one with arguments that only ask, or that
/// change nothing outside this process.
fn unsafe_call(number: libc::c_long, [a, b, c]: [i64; 3]) -> i64 {
    // SAFETY: pointers among the arguments are to what outlives the call.
    unsafe { libc::syscall(number, a, b, c, 0, 0) }
}

fn call(name: &'static str, number: libc::c_long, arguments: [i64; 3]) -> Outcome {
    sys::check(name, unsafe_call(number, arguments))?;
    Ok(format!("{name} did it"))
}

/// In a mount namespace of its own where it may have one, so that nobody else meets it.
fn mount(kind: &CStr, at: &CStr) -> Outcome {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let none = None::<&CStr>;
    if unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, c"/", none, flags, none).map_err(|errno| Fault::new("mount", errno as i32))?;
    }
    mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
        .map_err(|errno| Fault::new("mount", errno as i32))?;
    Ok("mounted".into())
}

fn unshare(flag: i32) -> Outcome {
    call("unshare", libc::SYS_unshare, [i64::from(flag), 0, 0])
}

fn clone(flag: i32) -> Outcome {
    let flags = i64::from(flag | libc::SIGCHLD);
    let pid = unsafe_call(libc::SYS_clone, [flags, 0, 0]);
    if pid == 0 {
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(0) };
    }
    sys::check("clone", pid)?;
    Ok("made a namespace".into())
}

fn enter_mounts(c: &Context) -> Outcome {
    let path = format!("/proc/{}/ns/mnt", c.pid);
    let file = File::open(path).map_err(|e| Fault::of("open /proc/PID/ns/mnt", &e))?;
    call(
        "setns",
        libc::SYS_setns,
        [file.as_raw_fd().into(), i64::from(libc::CLONE_NEWNS), 0],
    )
}

fn see_daemon(c: &Context) -> Outcome {
    std::fs::metadata(format!("/proc/{}", c.pid)).map_err(|e| Fault::of("stat /proc/PID", &e))?;
    Ok("sees the daemon".into())
}

fn open_of(c: &Context, name: &str) -> Outcome {
    let path = format!("/proc/{}/{name}", c.pid);
    File::open(path).map_err(|e| Fault::of("open below /proc/PID", &e))?;
    Ok("opened the daemon's".into())
}

/// Of the daemon's memory nothing is read: its length is 0.
fn read_memory(c: &Context) -> Outcome {
    let mut byte = [0u8; 1];
    let local = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", c.pid))
        .map_err(|e| Fault::of("read /proc/PID/maps", &e))?;
    let start = maps
        .split('-')
        .next()
        .and_then(|start| usize::from_str_radix(start, 16).ok())
        .ok_or(Fault::new("no memory", libc::ENOMEM))?;
    let remote = libc::iovec {
        iov_base: start as *mut libc::c_void,
        iov_len: 1,
    };
    // SAFETY: one local byte is written.
    let code = unsafe { libc::process_vm_readv(c.pid, &local, 1, &remote, 1, 0) };
    sys::check("process_vm_readv", code as i64)?;
    Ok("read the daemon's memory".into())
}

/// Asks for the number of the root folder and opens it by that.
fn file_by_number(_: &Context) -> Outcome {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; 128],
    }
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        handle: [0; 128],
    };
    let mut mount = 0i32;
    // SAFETY: the structures outlive the call and have the size that is told.
    let code = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            c"/tmp".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    };
    sys::check("name_to_handle_at", code)?;
    let root = File::open("/tmp").map_err(|e| Fault::of("open /tmp", &e))?;
    // SAFETY: as above.
    let code = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            root.as_raw_fd(),
            &raw mut handle,
            libc::O_RDONLY,
        )
    };
    sys::check("open_by_handle_at", code)?;
    Ok("opened a file by its number".into())
}

/// A key in this thread's own keyring.
fn new_key(_: &Context) -> Outcome {
    // SAFETY: strings that end in NUL, and a payload of one byte.
    let code = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            c"exeat-hostile".as_ptr(),
            c"x".as_ptr(),
            1usize,
            -1i32,
        )
    };
    sys::check("add_key", code)?;
    Ok("kept a key in the kernel".into())
}

/// Counts this process's own page faults.
fn measure(_: &Context) -> Outcome {
    #[repr(C)]
    #[derive(Default)]
    struct Event {
        kind: u32,
        size: u32,
        config: u64,
        rest: [u64; 14],
    }
    let event = Event {
        // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS.
        kind: 1,
        size: size_of::<Event>() as u32,
        config: 2,
        rest: [0; 14],
    };
    // SAFETY: the structure has the size that it tells.
    let code =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const event, 0, -1, -1, 0u64) };
    sys::check("perf_event_open", code)?;
    Ok("made a counter".into())
}

/// Opened and not written.
fn write_to(path: &str) -> Outcome {
    File::options()
        .write(true)
        .open(path)
        .map_err(|e| Fault::of("open for writing", &e))?;
    Ok(format!("may write {path}"))
}

/// The first disk of `/proc/partitions`, opened and not read.
fn disk(_: &Context) -> Outcome {
    let table = std::fs::read_to_string("/proc/partitions")
        .map_err(|e| Fault::of("read /proc/partitions", &e))?;
    let name = table
        .lines()
        .skip(2)
        .find_map(|line| line.split_whitespace().nth(3))
        .ok_or(Fault::new("no disk", libc::ENOENT))?;
    File::open(format!("/dev/{name}")).map_err(|e| Fault::of("open the disk", &e))?;
    Ok("may read the disk".into())
}

/// A node for `/dev/null`, where one may write.
fn device(c: &Context) -> Outcome {
    let path = format!("/tmp/{}", c.payload);
    let name = std::ffi::CString::new(path.as_bytes())
        .map_err(|_| Fault::new("a name with a NUL", libc::EINVAL))?;
    let null = libc::makedev(1, 3);
    // SAFETY: a string that ends in NUL.
    let code = unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, null) };
    let made = sys::check("mknod", code.into());
    let _ = std::fs::remove_file(&path);
    made?;
    Ok("made a device".into())
}

/// Puts all of the bounding set into the effective one.
fn own_capabilities(_: &Context) -> Outcome {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| Fault::of("read /proc/self/status", &e))?;
    let any = |set: &str| {
        status.lines().any(|line| {
            line.strip_prefix(set)
                .is_some_and(|rest| rest.trim().bytes().any(|digit| digit != b'0'))
        })
    };
    if ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"]
        .into_iter()
        .any(any)
    {
        Ok("has capabilities, or may get some".into())
    } else {
        Err(Fault::new("none is left", libc::EPERM))
    }
}

/// A terminal of this program's own, as its controlling one.
fn terminal() -> Result<File, Fault> {
    let master = nix::pty::posix_openpt(
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_CLOEXEC,
    )
    .map_err(|errno| Fault::new("posix_openpt", errno as i32))?;
    let failed = |errno: nix::errno::Errno| Fault::new("a terminal", errno as i32);
    nix::pty::grantpt(&master).map_err(failed)?;
    nix::pty::unlockpt(&master).map_err(failed)?;
    let name = nix::pty::ptsname_r(&master).map_err(failed)?;
    // SAFETY: plain system call.
    unsafe { libc::setsid() };
    let slave = File::options()
        .read(true)
        .write(true)
        .open(name)
        .map_err(|e| Fault::of("open the terminal", &e))?;
    // Left open to the end: closing it hangs up, and that is a signal to this process.
    std::mem::forget(master);
    Ok(slave)
}

fn type_into_terminal(high: u64) -> Outcome {
    // TIOCSTI.
    const REQUEST: u64 = 0x5412;
    let slave = terminal()?;
    let letter = b"x";
    // SAFETY: the request reads one byte.
    let code = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            slave.as_raw_fd(),
            REQUEST | high,
            letter.as_ptr(),
        )
    };
    sys::check("TIOCSTI", code)?;
    Ok("typed into the terminal".into())
}

/// The terminal's usual one (N_TTY), set again.
fn line_discipline(_: &Context) -> Outcome {
    // TIOCSETD.
    const REQUEST: u64 = 0x5423;
    let slave = terminal()?;
    let usual = 0i32;
    // SAFETY: the request reads one number.
    let code = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            slave.as_raw_fd(),
            REQUEST,
            &raw const usual,
        )
    };
    sys::check("TIOCSETD", code)?;
    Ok("set a line discipline".into())
}

/// `getpid` of the 32-bit interface, in a child, because being killed for it is an answer.
#[cfg(target_arch = "x86_64")]
fn old_architecture(_: &Context) -> Outcome {
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    sys::check("fork", pid.into())?;
    if pid == 0 {
        let mut number = 20i32;
        // SAFETY: the call takes nothing and changes only eax.
        unsafe {
            std::arch::asm!("int 0x80", inout("eax") number, out("r8") _, out("r9") _,
                out("r10") _, out("r11") _);
        }
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(i32::from(number <= 0)) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    sys::check("waitpid", waited.into())?;
    match status {
        0 => Ok("called the kernel by another interface".into()),
        _ if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV => {
            Err(Fault::new("this kernel has no 32-bit calls", libc::ENOSYS))
        }
        _ => Err(Fault::new("the 32-bit interface", libc::EPERM)),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn old_architecture(_: &Context) -> Outcome {
    Err(Fault::new("there is no other interface", libc::ENOSYS))
}
