//! Leaving the cgroup or the namespace, and disarming the guard.

use crate::context::{Context, Evidence, Fault, Needs, Outcome, Technique};
use crate::sys::{self, Address};
use std::io::{Read, Write};
use std::path::PathBuf;

const F: &str = "escape";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "netns-own", own_netns).evidence(Evidence::Word),
    Technique::new(F, "netns-of-other", other_netns)
        .root()
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "cgroup-move", cgroup_move),
    Technique::new(F, "cgroup-move-root", cgroup_move).root(),
    Technique::new(F, "cgroup-move-in-user-namespace", cgroup_move_userns),
    Technique::new(F, "cgroup-clone-into", clone_into).root(),
    Technique::new(F, "kill-daemon", kill)
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "ptrace-daemon", ptrace)
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "pidfd-getfd-daemon", pidfd_getfd)
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "proc-mem-daemon", proc_mem)
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "kill-daemon-root", kill)
        .root()
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "ptrace-daemon-root", ptrace)
        .root()
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "pidfd-getfd-daemon-root", pidfd_getfd)
        .root()
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "proc-mem-daemon-root", proc_mem)
        .root()
        .needs(Needs::Pid)
        .evidence(Evidence::Word),
    Technique::new(F, "control-socket", control)
        .needs(Needs::Socket)
        .evidence(Evidence::Word),
    Technique::new(F, "pins-write", pins_write)
        .needs(Needs::Folder)
        .evidence(Evidence::Word),
];

fn send(c: &Context) -> Outcome {
    let fd = sys::udp(libc::AF_INET)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v4(), c.port))?;
    Ok("sent".into())
}

/// A network of one's own leads nowhere; that it may be made is what is reported.
fn own_netns(_: &Context) -> Outcome {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Fault::new("unshare", errno as i32))?;
    Ok("in a network namespace of its own".into())
}

/// Joining another process's network. Nothing is sent there.
fn other_netns(c: &Context) -> Outcome {
    let path = format!("/proc/{}/ns/net", c.pid);
    let file = std::fs::File::open(path).map_err(|e| Fault::of("open /proc/PID/ns/net", &e))?;
    nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Fault::new("setns", errno as i32))?;
    Ok("in the network namespace of another process".into())
}

/// Where cgroup2 is mounted.
fn cgroup_root() -> Result<PathBuf, Fault> {
    let info = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Fault::of("read mountinfo", &e))?;
    info.lines()
        .find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup2 ")
                .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
        .ok_or(Fault::new("cgroup2 is not mounted", libc::ENODEV))
}

/// Moves itself to the root cgroup. Failing that, it still sends, and tells the failure.
fn cgroup_move(c: &Context) -> Outcome {
    let procs = cgroup_root()?.join("cgroup.procs");
    let moved = std::fs::write(procs, std::process::id().to_string());
    let sent = send(c)?;
    match moved {
        Ok(()) => Ok(format!("left the cgroup, {sent}")),
        Err(error) => Err(Fault::of("write cgroup.procs", &error)),
    }
}

/// Root of a user namespace is nobody to the cgroup's owner.
fn cgroup_move_userns(c: &Context) -> Outcome {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWCGROUP)
        .map_err(|errno| Fault::new("unshare", errno as i32))?;
    cgroup_move(c)
}

/// A child that is born in the root cgroup.
fn clone_into(c: &Context) -> Outcome {
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        unused: [u64; 3],
        exit_signal: u64,
        unused_too: [u64; 5],
        cgroup: u64,
    }
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let root =
        std::fs::File::open(cgroup_root()?).map_err(|e| Fault::of("open the root cgroup", &e))?;
    let arguments = Arguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: std::os::fd::AsRawFd::as_raw_fd(&root) as u64,
        ..Arguments::default()
    };
    // SAFETY: without CLONE_VM this is a fork; the structure has the size that is told.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<Arguments>(),
        )
    };
    if pid < 0 {
        return Err(Fault::last("clone3"));
    }
    if pid == 0 {
        let code = send(c).map_or_else(|fault| fault.errno, |_| 0);
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid as i32, &mut status, 0) };
    sys::check("waitpid", waited.into())?;
    match libc::WEXITSTATUS(status) {
        0 => Ok("sent from the root cgroup".into()),
        errno => Err(Fault::new("sendto", errno)),
    }
}

/// Signal 0: whether it could be killed, without doing it.
fn kill(c: &Context) -> Outcome {
    // SAFETY: signal 0 only checks.
    sys::check("kill", unsafe { libc::kill(c.pid, 0) }.into())?;
    Ok("may signal the daemon".into())
}

fn ptrace(c: &Context) -> Outcome {
    const SEIZE: libc::c_uint = 0x4206;
    // SAFETY: PTRACE_SEIZE takes no pointers; the tracee goes on.
    let code = unsafe { libc::ptrace(SEIZE, c.pid, 0usize, 0usize) };
    sys::check("ptrace", code)?;
    Ok("traces the daemon".into())
}

fn pidfd_getfd(c: &Context) -> Outcome {
    // SAFETY: plain system calls.
    let pidfd = sys::check("pidfd_open", unsafe {
        libc::syscall(libc::SYS_pidfd_open, c.pid, 0)
    })?;
    for number in 0..16 {
        // SAFETY: as above.
        let code = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) };
        match sys::check("pidfd_getfd", code) {
            Ok(_) => return Ok(format!("took descriptor {number} of the daemon")),
            Err(fault) if fault.errno == libc::EBADF => {}
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::new("pidfd_getfd", libc::EBADF))
}

fn proc_mem(c: &Context) -> Outcome {
    std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", c.pid))
        .map_err(|e| Fault::of("open /proc/PID/mem", &e))?;
    Ok("may write the daemon's memory".into())
}

/// Asks for a reload. An answer that is an error is a refusal.
fn control(c: &Context) -> Outcome {
    let mut stream =
        std::os::unix::net::UnixStream::connect(&c.path).map_err(|e| Fault::of("connect", &e))?;
    let limit = Some(std::time::Duration::from_millis(1500));
    stream
        .set_read_timeout(limit)
        .map_err(|e| Fault::of("SO_RCVTIMEO", &e))?;
    stream
        .write_all(b"{\"version\":1,\"method\":\"reload\"}\n")
        .map_err(|e| Fault::of("write", &e))?;
    let mut answer = [0u8; 4096];
    let length = stream
        .read(&mut answer)
        .map_err(|e| Fault::of("read", &e))?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    if length == 0 || answer.contains("\"error\"") {
        return Err(Fault::new("the daemon refused", libc::EPERM));
    }
    Ok(answer)
}

/// Makes a file beside the pins; whoever can do that can remove them.
fn pins_write(c: &Context) -> Outcome {
    let path = std::path::Path::new(&c.path).join(format!("x{}", std::process::id()));
    std::fs::create_dir(&path).map_err(|e| Fault::of("mkdir beside the pins", &e))?;
    std::fs::remove_dir(&path).map_err(|e| Fault::of("rmdir", &e))?;
    Ok("may change the pins' folder".into())
}
