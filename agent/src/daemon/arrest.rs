//! A launch is held at exec until what was started is shown to be what was judged.
//!
//! A file may be swapped between the judgement and the moment in which the launcher executes
//! it. So the launcher is traced (ptrace(2)) from before it hears that it may go on: the kernel stops
//! it, and whatever it forks, at each exec, with the new program loaded and none of it run. What
//! `/proc/PID/exe` is then is what runs; nobody can write to it from then on (`ETXTBSY`).
//! It is let go when the last file that the kernel starts for the command has been seen, and killed
//! where one is another.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::identity::{self, Sha256};

/// Launches that are held at once.
const MOST: usize = 64;
/// How long a launch may take from leave to exec.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked whether something stopped: at first, and after the first second.
const PAUSES: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(5)];

static HELD: AtomicUsize = AtomicUsize::new(0);

/// A file that was judged.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) path: PathBuf,
    pub(super) sha256: Sha256,
    /// Whether the kernel starts it; else it is a script of what follows.
    pub(super) starts: bool,
}

/// The run that the process was put into.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    pub(super) run: String,
    pub(super) cgroup: PathBuf,
}

/// What was executed was not what was judged.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) joined: Joined,
    pub(super) pid: u32,
    pub(super) what: String,
}

/// A process that is held at its next exec. It is let go when this is dropped.
pub(super) struct Hold {
    joined: Sender<Joined>,
}

impl Hold {
    /// Holds a process of one thread; `mismatch` is called, from another thread, if it
    /// executes something else, after it was killed.
    pub(super) fn start(
        pid: u32,
        expected: Vec<Expected>,
        mismatch: impl FnOnce(Mismatch) + Send + 'static,
    ) -> io::Result<Self> {
        let place = Place::take()
            .ok_or_else(|| io::Error::other(format!("{MOST} other launches are being held")))?;
        let (joined, hears) = channel();
        let (began, begins) = channel();
        std::thread::Builder::new()
            .name("hold".to_owned())
            .spawn(move || {
                let _place = place;
                let seized = seize(pid);
                let held = seized.is_ok();
                if began.send(seized).is_ok()
                    && held
                    && let Some(found) = watch(&hears, &expected)
                {
                    mismatch(found);
                }
                // The kernel lets go of everything that this thread traces when it ends.
            })?;
        begins.recv().map_err(io::Error::other)??;
        Ok(Self { joined })
    }

    /// The process is in its run, and is told to go on.
    pub(super) fn join(self, joined: Joined) {
        // The thread is gone where the process is.
        let _ = self.joined.send(joined);
    }
}

/// One of the places for launches that are held.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = HELD.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            (held < MOST).then_some(held + 1)
        });
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::AcqRel);
    }
}

fn ptrace(request: libc::c_uint, pid: i32, data: libc::c_long) -> nix::Result<()> {
    // SAFETY: these requests take integers and touch no memory of ours.
    Errno::result(unsafe { libc::ptrace(request, pid, 0 as libc::c_long, data) }).map(drop)
}

fn seize(pid: u32) -> io::Result<()> {
    const OPTIONS: i32 = libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE;
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok(ptrace(libc::PTRACE_SEIZE, pid, OPTIONS.into())?)
}

/// What a traced process came to.
enum Stop {
    /// None has stopped.
    None,
    /// None is left.
    Gone,
    /// It ended.
    Ended,
    /// It stopped, by a signal and an event (0: the signal is on its way to it).
    At { pid: i32, signal: i32, event: i32 },
}

/// The processes that this thread traces, and no other thread's.
fn wait() -> Stop {
    let mut status = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: the status is ours.
    match Errno::result(unsafe { libc::waitpid(-1, &mut status, flags) }) {
        Ok(0) | Err(Errno::EINTR) => Stop::None,
        Err(_) => Stop::Gone,
        Ok(pid) if libc::WIFSTOPPED(status) => Stop::At {
            pid,
            signal: libc::WSTOPSIG(status),
            event: status >> 16,
        },
        Ok(_) => Stop::Ended,
    }
}

/// Watches until everything that is expected has been executed, or something else.
fn watch(hears: &Receiver<Joined>, expected: &[Expected]) -> Option<Mismatch> {
    let mut rest = expected;
    let mut joined: Option<(Joined, Instant)> = None;
    let begun = Instant::now();
    loop {
        if joined.is_none() {
            match hears.try_recv() {
                Ok(told) => joined = Some((told, Instant::now())),
                Err(TryRecvError::Empty) => {}
                // It is not to run.
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        match wait() {
            Stop::Gone => return None,
            Stop::Ended => {}
            Stop::None => {
                if let Some((told, since)) = &joined
                    && since.elapsed() > PATIENCE
                {
                    kill(&told.cgroup);
                    return Some(Mismatch {
                        joined: told.clone(),
                        pid: 0,
                        what: format!(
                            "the command was not executed within {} s",
                            PATIENCE.as_secs()
                        ),
                    });
                }
                let early = begun.elapsed() < Duration::from_secs(1);
                std::thread::sleep(PAUSES[usize::from(!early)]);
            }
            Stop::At { pid, signal, event } => match event {
                libc::PTRACE_EVENT_EXEC => {
                    let told = match joined.take() {
                        Some((told, _)) => told,
                        // It did not wait for leave; it waits here.
                        None => match hears.recv_timeout(PATIENCE) {
                            Ok(told) => told,
                            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {
                                return None;
                            }
                        },
                    };
                    match check(pid, rest) {
                        Ok([]) => {
                            let _ = ptrace(libc::PTRACE_DETACH, pid, 0);
                            return None;
                        }
                        Ok(left) => {
                            rest = left;
                            joined = Some((told, Instant::now()));
                            let _ = ptrace(libc::PTRACE_CONT, pid, 0);
                        }
                        Err(what) => {
                            // SAFETY: it is stopped by us, so the number is still its own.
                            unsafe { libc::kill(pid, libc::SIGKILL) };
                            kill(&told.cgroup);
                            let pid = pid.unsigned_abs();
                            return Some(Mismatch {
                                joined: told,
                                pid,
                                what,
                            });
                        }
                    }
                }
                libc::PTRACE_EVENT_STOP
                    if [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]
                        .contains(&signal) =>
                {
                    // Stopped by job control: it stays so until it is continued.
                    let _ = ptrace(libc::PTRACE_LISTEN, pid, 0);
                }
                0 => {
                    let _ = ptrace(libc::PTRACE_CONT, pid, signal.into());
                }
                _ => {
                    let _ = ptrace(libc::PTRACE_CONT, pid, 0);
                }
            },
        }
    }
}

/// What is still expected after this exec.
fn check(pid: i32, expected: &[Expected]) -> Result<&[Expected], String> {
    let mut rest = expected;
    while let Some((next, after)) = rest.split_first() {
        rest = after;
        let path = match next.starts {
            true => PathBuf::from(format!("/proc/{pid}/exe")),
            false => below(&PathBuf::from(format!("/proc/{pid}/root")), &next.path),
        };
        let found = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .and_then(|file| identity::digest(&file));
        let name = next.path.display();
        match found {
            Ok(sha256) if sha256 == next.sha256 => {}
            Ok(sha256) => {
                let now = match fs::read_link(&path) {
                    Ok(now) if next.starts => format!("{} ", now.display()),
                    _ => String::new(),
                };
                return Err(format!(
                    "what was executed is not the {name} that was judged (SHA-256 {}), but {now}with SHA-256 {sha256}",
                    next.sha256
                ));
            }
            Err(error) => {
                return Err(format!(
                    "what was executed cannot be shown to be {name}: {error}"
                ));
            }
        }
        if next.starts {
            return Ok(rest);
        }
    }
    Ok(rest)
}

/// An absolute path below a folder that stands for the root.
fn below(root: &Path, path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let relative = bytes.iter().take_while(|byte| **byte == b'/').count();
    root.join(std::ffi::OsStr::from_bytes(&bytes[relative..]))
}

/// Kills everything in a cgroup and below.
fn kill(cgroup: &Path) {
    // From kernel 5.14 on; what forks meanwhile dies too.
    if fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..100 {
        let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<i32> = procs.lines().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids.into_iter().filter(|pid| *pid > 0) {
            // SAFETY: no memory is touched; a number that has just been given away is of the
            // same cgroup, or the kernel would not have listed it.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, ChildStdout, Command, Stdio};

    /// A shell that waits for a line and then executes what the line says, below another
    /// that ends as it does: its parent is another process, as the daemon never is.
    struct Shell {
        outer: Child,
        pid: u32,
        _out: BufReader<ChildStdout>,
    }

    impl Shell {
        fn new() -> Self {
            const OUTER: &str =
                "exec 3<&0; /bin/sh -c 'echo $$; read line; eval \"$line\"' <&3 & wait $!";
            let mut outer = Command::new("/bin/sh")
                .args(["-c", OUTER])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("shell");
            let mut out = BufReader::new(outer.stdout.take().expect("output"));
            let mut line = String::new();
            out.read_line(&mut line).expect("line");
            let pid = line.trim().parse().expect("pid");
            Self {
                outer,
                pid,
                _out: out,
            }
        }

        /// Its code; 128 and the signal where one ended it.
        fn execute(mut self, line: &str) -> Option<i32> {
            let mut input = self.outer.stdin.take().expect("input");
            writeln!(input, "{line}").expect("write");
            drop(input);
            self.outer.wait().expect("end").code()
        }
    }

    fn expected(path: &str, starts: bool) -> Expected {
        let path = fs::canonicalize(path).expect(path);
        let file = File::open(&path).expect("open");
        Expected {
            sha256: identity::digest(&file).expect("digest"),
            path,
            starts,
        }
    }

    /// Has a shell execute `line` where `what` is expected: its code, and what was told of it.
    fn run(line: &str, what: Vec<Expected>) -> (Option<i32>, Option<String>) {
        let folder = tempfile::tempdir().expect("folder");
        let shell = Shell::new();
        let (told, tells) = channel();
        let hold = Hold::start(shell.pid, what, move |mismatch| {
            let _ = told.send(mismatch.what);
        })
        .expect("hold");
        hold.join(Joined {
            run: "run-0".to_owned(),
            cgroup: folder.path().to_owned(),
        });
        let code = shell.execute(line);
        (code, tells.recv_timeout(Duration::from_secs(10)).ok())
    }

    #[test]
    fn what_was_judged_runs_to_its_end() {
        let env = || expected("/usr/bin/env", true);
        assert_eq!(run("exec env true", vec![env()]), (Some(0), None));
        let both = vec![env(), expected("/bin/false", true)];
        assert_eq!(run("exec env false", both), (Some(1), None));
        // Signals arrive, and a launch that fails is nobody's mismatch.
        for line in ["trap 'exit 7' USR1; kill -USR1 $$; sleep 100", "exit 7"] {
            let sleep = expected("/bin/sleep", true);
            assert_eq!(run(line, vec![sleep]), (Some(7), None), "{line}");
        }
        // A child's exec is as good as its own.
        let line = "/bin/true; exit 3";
        let what = vec![expected("/bin/true", true)];
        assert_eq!(run(line, what), (Some(3), None));
    }

    #[test]
    fn what_was_not_judged_does_not_run() {
        const KILLED: Option<i32> = Some(128 + libc::SIGKILL);
        let folder = tempfile::tempdir().expect("folder");
        let proof = folder.path().join("proof");
        let line = format!("exec touch {}", proof.display());
        let (code, told) = run(&line, vec![expected("/bin/true", true)]);
        assert_eq!(code, KILLED);
        let told = told.expect("mismatch");
        assert!(
            told.contains("is not the") && told.contains("touch"),
            "{told}"
        );
        // The second program, after the first was the right one.
        let line = format!("exec env touch {}", proof.display());
        let both = vec![expected("/usr/bin/env", true), expected("/bin/true", true)];
        let (code, told) = run(&line, both);
        assert_eq!((code, told.is_some()), (KILLED, true));
        // The interpreter is right, the script is not.
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("mode");
        let judged = vec![
            expected(script.to_str().expect("text"), false),
            expected("/bin/sh", true),
        ];
        fs::write(&script, format!("#!/bin/sh\ntouch {}\n", proof.display())).expect("write");
        let (code, told) = run(&format!("exec {}", script.display()), judged);
        assert_eq!((code, told.is_some()), (KILLED, true));
        assert!(!proof.exists());
    }

    #[test]
    fn a_launch_that_is_given_up_is_let_go() {
        let shell = Shell::new();
        let hold = Hold::start(shell.pid, vec![expected("/bin/true", true)], |_| {
            panic!("nothing was to be told");
        });
        drop(hold.expect("hold"));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(shell.execute("exec env false"), Some(1));
    }

    #[test]
    fn who_is_traced_by_another_cannot_be_held() {
        let shell = Shell::new();
        let first = Hold::start(shell.pid, vec![], |_| ()).expect("hold");
        assert!(Hold::start(shell.pid, vec![], |_| ()).is_err());
        drop(first);
        assert!(Hold::start(u32::MAX, vec![], |_| ()).is_err());
        assert_eq!(shell.execute("exit 5"), Some(5));
    }
}
