//! The caller stays outside of the sandbox, in the agent's cgroup, and is to whoever started it what
//! the command would be: signals go on to the command, it stops and continues with it, and ends
//! with its exit code or of its signal.
//!
//! ```text
//! caller (outside) ── first process (pid 1 inside, reaps) ── command
//! ```
//!
//! The command leads a process group of its own, so that no signal to "my group" reaches what
//! runs beside the caller. It has the terminal's foreground where the caller alone had it, and
//! otherwise when it first asks for it; then the keys' signals reach it without the caller.
//!
//! From inside, the caller is a process of another namespace: it has no number there. Where it
//! dies, the kernel kills the first process, and with that everything inside.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::fs::OpenOptionsExt as _,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{
            SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction,
            sigprocmask,
        },
        signalfd::{SfdFlags, SignalFd},
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{
        ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpgid, getpgrp, getpid,
        isatty, setpgid, tcgetpgrp, tcsetpgrp,
    },
};

use super::{
    LaunchError,
    namespaces::{self, Side},
    root::Plan,
    step,
};
use crate::policy::{Openings, sandbox::Network};

/// Signals that whoever has the caller's number sends to the command. Not those that end a
/// process for its own faults, nor SIGCHLD, SIGCONT (which the caller obeys) and those that stop
/// whoever uses a terminal in the background.
const FORWARDED: [Signal; 17] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGWINCH,
    Signal::SIGURG,
    Signal::SIGTSTP,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
];

/// What is said between the caller and the first process: a word and a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// To the first process: its users are mapped.
    Mapped,
    /// To the first process: a signal for the command.
    Signal(i32),
    /// To the first process: a signal for the command's group, as a terminal sends it.
    GroupSignal(i32),
    /// To the first process: the command goes on; 1 if it has the terminal.
    Continue(i32),
    /// To the caller: the command was stopped by this signal.
    Stopped(i32),
    /// To the caller: the command exited.
    Exited(i32),
    /// To the caller: the command died of this signal.
    Killed(i32),
}

impl Word {
    fn bytes(self) -> [u8; 5] {
        let (word, number) = match self {
            Self::Mapped => (0, 0),
            Self::Signal(number) => (1, number),
            Self::GroupSignal(number) => (2, number),
            Self::Continue(number) => (3, number),
            Self::Stopped(number) => (4, number),
            Self::Exited(number) => (5, number),
            Self::Killed(number) => (6, number),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [word, a, b, c, d]
    }

    fn read(bytes: [u8; 5]) -> Option<Self> {
        let [word, a, b, c, d] = bytes;
        let number = i32::from_le_bytes([a, b, c, d]);
        Some(match word {
            0 => Self::Mapped,
            1 => Self::Signal(number),
            2 => Self::GroupSignal(number),
            3 => Self::Continue(number),
            4 => Self::Stopped(number),
            5 => Self::Exited(number),
            6 => Self::Killed(number),
            _ => return None,
        })
    }
}

/// One end of what is said.
struct Line(OwnedFd);

impl Line {
    /// What the other end cannot be told any more is of no use to it.
    fn say(&self, word: Word) {
        while send(self.0.as_raw_fd(), &word.bytes(), MsgFlags::MSG_NOSIGNAL) == Err(Errno::EINTR) {
        }
    }

    /// The next word; none when the other end is gone.
    fn hear(&self) -> Option<Word> {
        let mut bytes = [0u8; 5];
        loop {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Ok(5) => return Word::read(bytes),
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// The controlling terminal.
struct Terminal(File);

impl Terminal {
    fn find() -> Option<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
            .open("/dev/tty")
            .ok()
            .map(Self)
    }

    fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0) == Ok(getpgrp())
    }

    /// SIGTTOU must be blocked.
    fn give(&self, group: Pid) {
        // A group that is gone needs no terminal.
        let _ = tcsetpgrp(&self.0, group);
    }
}

/// What was in force before, for the command to inherit.
struct Before {
    mask: SigSet,
    child: SigAction,
}

fn block_all() -> Result<Before, LaunchError> {
    let mut mask = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut mask),
    )
    .map_err(step("block signals"))?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // Where it is ignored, children leave no status.
    // SAFETY: no handler is installed.
    let child =
        unsafe { sigaction(Signal::SIGCHLD, &default) }.map_err(step("wait for children"))?;
    Ok(Before { mask, child })
}

/// Runs the command in its sandbox. The caller ends as the command does; the command returns
/// only where it could not be executed.
pub(super) fn run(
    plan: &Plan,
    openings: &Openings,
    execute: impl FnOnce() -> Result<Infallible, LaunchError>,
) -> Result<Infallible, LaunchError> {
    let (outer, inner) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(step("make a line to the first process"))?;
    let (outer, inner) = (Line(outer), Line(inner));
    let terminal = Terminal::find();
    // Beside the caller nothing reads the terminal then.
    let eager = terminal.as_ref().is_some_and(Terminal::is_ours)
        && getpgrp() == getpid()
        && isatty(io::stdin()).unwrap_or(false)
        && isatty(io::stdout()).unwrap_or(false);
    let before = block_all()?;
    match namespaces::fork(openings)? {
        Side::Outside(child) => {
            drop(inner);
            let mapped = namespaces::map(child);
            if let Err(error) = mapped {
                // It waits for its users and has done nothing.
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
                return Err(error);
            }
            outer.say(Word::Mapped);
            supervise(child, &outer, terminal.as_ref(), eager)
        }
        Side::Inside => {
            drop(outer);
            first(
                plan,
                openings,
                &inner,
                terminal.as_ref(),
                eager,
                &before,
                execute,
            )
        }
    }
}

/// The first process: makes the sandbox, starts the command, reaps.
fn first(
    plan: &Plan,
    openings: &Openings,
    line: &Line,
    terminal: Option<&Terminal>,
    eager: bool,
    before: &Before,
    execute: impl FnOnce() -> Result<Infallible, LaunchError>,
) -> Result<Infallible, LaunchError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("end with the caller"))?;
    if line.hear() != Some(Word::Mapped) {
        // The caller is gone, or says itself why not.
        // SAFETY: ends the process without the caller's clean-up.
        unsafe { libc::_exit(125) }
    }
    if openings.network == Network::Own {
        namespaces::loopback_up()?;
    }
    plan.build()?;
    let signals = SignalFd::with_flags(
        &SigSet::from_iter([Signal::SIGCHLD]),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .map_err(step("wait for the command"))?;
    // From here on this process can do no more than the command.
    super::restrict(plan, openings)?;
    // Nothing inside may look into it. For the command exec(2) resets this.
    prctl::set_dumpable(false).map_err(step("close the first process"))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(step("start the command"))? {
        ForkResult::Parent { child } => {
            let _ = setpgid(child, child);
            detach();
            reap(child, line, terminal, &signals)
        }
        ForkResult::Child => {
            let own = Pid::from_raw(0);
            setpgid(own, own).map_err(step("give the command a group"))?;
            if let Some(terminal) = terminal.filter(|_| eager) {
                terminal.give(getpgrp());
            }
            // SAFETY: no handler of ours.
            unsafe { sigaction(Signal::SIGCHLD, &before.child) }
                .map_err(step("give back what SIGCHLD does"))?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before.mask), None)
                .map_err(step("unblock signals"))?;
            execute()
        }
    }
}

/// Nothing of what the command has open is held open here: whoever reads from it must see
/// its end.
fn detach() {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    let _ = std::env::set_current_dir("/");
}

/// Waits for the command, and for every process that lost its parent. When the command ends this
/// does, and the kernel kills whatever is left.
fn reap(command: Pid, line: &Line, terminal: Option<&Terminal>, signals: &SignalFd) -> ! {
    let group = || {
        getpgid(Some(command))
            .ok()
            .filter(|group| group.as_raw() > 1)
    };
    let signal_group = |number: i32| {
        if let (Some(group), Ok(signal)) = (group(), Signal::try_from(number)) {
            let _ = kill(Pid::from_raw(-group.as_raw()), signal);
        }
    };
    loop {
        let mut fds = [
            PollFd::new(line.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::NONE);
        let heard = fds[0].any().unwrap_or(false);
        while matches!(signals.read_signal(), Ok(Some(_))) {}
        loop {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == command => {
                    end(line, Word::Exited(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                    end(line, Word::Killed(signal as i32));
                }
                Ok(WaitStatus::Stopped(pid, signal)) if pid == command => {
                    line.say(Word::Stopped(signal as i32));
                }
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        if !heard {
            continue;
        }
        match line.hear() {
            None => end(line, Word::Exited(125)),
            Some(Word::Signal(number)) => {
                if let Ok(signal) = Signal::try_from(number) {
                    let _ = kill(command, signal);
                }
            }
            Some(Word::GroupSignal(number)) => signal_group(number),
            Some(Word::Continue(foreground)) => {
                if let (1, Some(terminal), Some(group)) = (foreground, terminal, group()) {
                    terminal.give(group);
                }
                signal_group(libc::SIGCONT);
            }
            Some(_) => {}
        }
    }
}

fn end(line: &Line, word: Word) -> ! {
    line.say(word);
    // SAFETY: ends the process; the kernel ends the namespace with it.
    unsafe { libc::_exit(0) }
}

/// The caller, until the command has ended.
fn supervise(
    child: Pid,
    line: &Line,
    terminal: Option<&Terminal>,
    eager: bool,
) -> Result<Infallible, LaunchError> {
    // Where it shows itself to another run of the same user, it shows nothing.
    let _ = prctl::set_dumpable(false);
    let mut watched = SigSet::from_iter(FORWARDED);
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGCONT);
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(step("wait for the sandbox"))?;
    detach();
    let mut state = Supervisor {
        line,
        terminal,
        gave: eager,
        outcome: None,
    };
    loop {
        let mut fds = [
            PollFd::new(line.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        // What it says last is heard before its end.
        if state.outcome.is_some() {
            fds[0].set_events(PollFlags::empty());
        }
        let _ = poll(&mut fds, PollTimeout::NONE);
        let heard = fds[0].any().unwrap_or(false);
        if heard {
            match line.hear() {
                Some(word) => state.hear(word),
                None => state.finish(child),
            }
            continue;
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            state.signal(child, &signal);
        }
    }
}

struct Supervisor<'a> {
    line: &'a Line,
    terminal: Option<&'a Terminal>,
    /// The command was given the terminal.
    gave: bool,
    outcome: Option<Word>,
}

impl Supervisor<'_> {
    fn hear(&mut self, word: Word) {
        match word {
            Word::Exited(_) | Word::Killed(_) => self.outcome = Some(word),
            Word::Stopped(signal) => self.stopped(signal),
            _ => {}
        }
    }

    fn signal(&mut self, child: Pid, siginfo: &nix::sys::signalfd::siginfo) {
        let number = siginfo.ssi_signo as i32;
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => {
                let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
                let ended = waitid(Id::Pid(child), flags);
                if !matches!(ended, Ok(WaitStatus::StillAlive)) {
                    // What it said before is still to be heard.
                    while self.outcome.is_none() {
                        match self.line.hear() {
                            Some(word) => self.hear_last(word),
                            None => break,
                        }
                    }
                    self.finish(child);
                }
            }
            Ok(Signal::SIGCONT) => self.go_on(),
            // A key of the terminal means the whole group.
            Ok(_) if siginfo.ssi_code == libc::SI_KERNEL => {
                self.line.say(Word::GroupSignal(number));
            }
            Ok(_) => self.line.say(Word::Signal(number)),
            Err(_) => {}
        }
    }

    fn hear_last(&mut self, word: Word) {
        if matches!(word, Word::Exited(_) | Word::Killed(_)) {
            self.outcome = Some(word);
        }
    }

    /// The command continues, with the terminal if this process has it.
    fn go_on(&mut self) {
        let ours = self.terminal.is_some_and(Terminal::is_ours);
        // In the background job of a shell it does not get what it does not ask for.
        let give = ours && self.gave;
        self.line.say(Word::Continue(give.into()));
    }

    /// The command has stopped: so does this process, for whoever waits for it.
    fn stopped(&mut self, number: i32) {
        let Ok(signal) = Signal::try_from(number) else {
            return;
        };
        let asks = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        let ours = self.terminal.is_some_and(Terminal::is_ours);
        if asks && ours {
            self.gave = true;
            self.line.say(Word::Continue(1));
            return;
        }
        if asks {
            // When it continues in the foreground it is to have it.
            self.gave = true;
        }
        if let Some(terminal) = self.terminal.filter(|_| self.gave && !asks) {
            terminal.give(getpgrp());
        }
        // The key means all of a job; only the command's group had the terminal.
        let whole = self.gave && signal == Signal::SIGTSTP;
        if stop(signal, whole) || !asks {
            self.go_on();
        } else {
            // Nobody would ever continue it: to the kernel's own rule it hangs up.
            self.line.say(Word::GroupSignal(libc::SIGHUP));
            self.line.say(Word::Continue(0));
        }
    }

    /// The sandbox has ended: so does this process, in the same way.
    fn finish(&self, child: Pid) -> ! {
        let status = loop {
            match waitpid(child, None) {
                Err(Errno::EINTR) => {}
                status => break status,
            }
        };
        if let Some(terminal) = self.terminal.filter(|_| self.gave) {
            terminal.give(getpgrp());
        }
        match (self.outcome, status) {
            (Some(Word::Exited(code)), _) => exit(code),
            (Some(Word::Killed(number)), _) => match Signal::try_from(number) {
                Ok(signal) => die(signal),
                // One of those for real time has no name.
                Err(_) => exit(128 + number),
            },
            // It could not start the command and has said why.
            (_, Ok(WaitStatus::Exited(_, code))) => exit(code),
            (_, Ok(WaitStatus::Signaled(_, signal, _))) => die(signal),
            _ => exit(125),
        }
    }
}

/// Stops this process, or all of its group, by a signal; whether it was stopped, and has been continued. The kernel
/// stops nobody whom nobody would continue (a group without a shell).
fn stop(signal: Signal, whole: bool) -> bool {
    let only = SigSet::from_iter([signal]);
    let _ = kill(if whole { Pid::from_raw(0) } else { getpid() }, signal);
    if signal != Signal::SIGSTOP {
        let mut mask = SigSet::empty();
        if sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), Some(&mut mask)).is_ok() {
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
        }
    }
    let continues = SigSet::from_iter([Signal::SIGCONT]);
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // It is pending, because it is blocked here.
    // SAFETY: both pointers are to values that live through the call; nothing is written.
    unsafe {
        libc::sigtimedwait(continues.as_ref(), std::ptr::null_mut(), &at_once) == libc::SIGCONT
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process; nothing of ours is left to be written.
    unsafe { libc::_exit(code) }
}

fn die(signal: Signal) -> ! {
    // What may be dumped is the command's, and that was.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed; of SIGKILL and SIGSTOP it is refused and not needed.
    let _ = unsafe { sigaction(signal, &default) };
    let _ = kill(getpid(), signal);
    let only = SigSet::from_iter([signal]);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
    exit(128 + signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_understood() {
        for word in [
            Word::Mapped,
            Word::Signal(15),
            Word::GroupSignal(2),
            Word::Continue(1),
            Word::Stopped(20),
            Word::Exited(255),
            Word::Killed(-1),
        ] {
            assert_eq!(Word::read(word.bytes()), Some(word));
        }
        assert_eq!(Word::read([9, 0, 0, 0, 0]), None);
    }

    #[test]
    fn what_stops_or_continues_is_not_passed_on_twice() {
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGCONT,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            assert!(!FORWARDED.contains(&signal));
        }
    }
}
