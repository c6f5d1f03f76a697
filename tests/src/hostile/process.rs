//! Children of every kind: an agent is a program with all its children.

use crate::context::{Context, Evidence, Fault, Needs, Outcome, Technique};
use crate::sys::{self, Address};
use std::os::unix::process::CommandExt;
use std::process::Command;

const F: &str = "process";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "fork", |c| in_child(c, 1, false)),
    Technique::new(F, "double-fork", |c| in_child(c, 2, false)),
    Technique::new(F, "double-fork-setsid", |c| in_child(c, 2, true)),
    Technique::new(F, "thread", thread),
    Technique::new(F, "vfork-exec-bash", bash),
    Technique::new(F, "vfork-exec-python", python),
    Technique::new(F, "daemonized-bash", daemonized),
    Technique::new(F, "setuid-exec", setuid)
        .needs(Needs::Setuid)
        .evidence(Evidence::Word),
];

fn send(c: &Context) -> Result<(), Fault> {
    let fd = sys::udp(libc::AF_INET)?;
    sys::sendto(&fd, c.bytes(), 0, &Address::new(c.v4(), c.port))
}

/// Forks `depth` times; the innermost child sends, and its errno comes back as exit code.
fn in_child(c: &Context, depth: u32, session: bool) -> Outcome {
    if depth == 0 {
        if session {
            // SAFETY: plain system call.
            unsafe { libc::setsid() };
        }
        send(c)?;
        return Ok("sent by a child".into());
    }
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(Fault::last("fork"));
    }
    if pid == 0 {
        let code = in_child(c, depth - 1, session).map_or_else(|fault| fault.errno, |_| 0);
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    sys::check("waitpid", waited.into())?;
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok("sent by a child".into()),
        errno => Err(Fault::new("sendto in a child", errno)),
    }
}

fn thread(c: &Context) -> Outcome {
    std::thread::scope(|scope| scope.spawn(|| send(c)).join())
        .map_err(|_| Fault::new("a thread panicked", libc::EIO))??;
    Ok("sent by a thread".into())
}

/// Runs a command that sends; it has failed if it says so.
fn exec(command: &mut Command) -> Outcome {
    let status = command
        .stderr(std::process::Stdio::null())
        .status()
        .map_err(|e| Fault::of("exec", &e))?;
    if status.success() {
        Ok("sent by another program".into())
    } else {
        Err(Fault::new("sending in another program", libc::EPERM))
    }
}

fn bash(c: &Context) -> Outcome {
    let script = format!("printf %s {} > /dev/udp/{}/{}", c.payload, c.target, c.port);
    exec(Command::new("/bin/bash").args(["-c", &script]))
}

fn python(c: &Context) -> Outcome {
    let script = format!(
        "import socket; socket.create_connection(('{}', {}), 2).sendall(b'{}')",
        c.target, c.port, c.payload
    );
    exec(Command::new("/usr/bin/python3").args(["-I", "-S", "-c", &script]))
}

/// Outlives its parent in a session of its own; says so through a pipe when it is over.
fn daemonized(c: &Context) -> Outcome {
    let script = format!(
        "(printf %s {} > /dev/udp/{}/{}) && echo sent",
        c.payload, c.target, c.port
    );
    let mut command = Command::new("/usr/bin/setsid");
    let output = command
        .args(["-f", "/bin/bash", "-c", &script])
        .output()
        .map_err(|e| Fault::of("exec setsid", &e))?;
    // The pipe stays open as long as the grandchild lives, so this is its end too.
    if output.stdout.starts_with(b"sent") {
        Ok("sent by a program without a parent".into())
    } else {
        Err(Fault::new("sending in a daemonized program", libc::EPERM))
    }
}

/// Executes a setuid-root copy of this program, which tells who it is.
fn setuid(c: &Context) -> Outcome {
    if c.path == "-" {
        // SAFETY: plain system call.
        let uid = unsafe { libc::geteuid() };
        return if uid == 0 {
            Ok("root".into())
        } else {
            Err(Fault::new("still not root", libc::EPERM))
        };
    }
    let error = Command::new(&c.path)
        .args(["setuid-exec", "--path", "-"])
        .exec();
    Err(Fault::of("exec the setuid copy", &error))
}
