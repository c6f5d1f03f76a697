//! Runs the steps one after another, each on a machine without the processes of the one
//! before.

use crate::lines::Lines;
use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// Where steps leave files.
const OUT: &str = "/out";

/// One program to run.
#[derive(Deserialize)]
pub(crate) struct Step {
    name: String,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    /// After so many it is killed.
    seconds: u64,
}

impl Step {
    /// The line that says that it begins.
    pub(crate) fn begins(&self) -> serde_json::Value {
        json!({ "start": self.name, "seconds": self.seconds })
    }
}

/// What a step may have left running, and is killed when it ends: it would disturb the next
/// one, and hold the pipe of the output open.
pub(crate) enum Leavings {
    /// Everything but the first process, which this is.
    OfAll,
    /// Everything in this cgroup but this process.
    Of(PathBuf),
}

impl Leavings {
    fn kill(&self) -> anyhow::Result<()> {
        match self {
            Self::OfAll => end(Pid::from_raw(-1)).context("kill what the step has left"),
            Self::Of(cgroup) => {
                let file = cgroup.join("cgroup.procs");
                loop {
                    let text = fs::read_to_string(&file)
                        .with_context(|| format!("read {}", file.display()))?;
                    let mut others = text
                        .lines()
                        .filter_map(|line| line.parse().ok())
                        .map(Pid::from_raw)
                        .filter(|&pid| pid != Pid::this())
                        .peekable();
                    if others.peek().is_none() {
                        return Ok(());
                    }
                    for pid in others {
                        end(pid).context("kill what the step has left")?;
                    }
                    // The pause between two looks: one that forks is met again.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

fn end(pid: Pid) -> nix::Result<()> {
    match kill(pid, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How a step's process ended.
struct End {
    /// None when a signal ended it.
    code: Option<i32>,
    why: Option<String>,
}

/// Runs steps, and reaps whatever has lost its parent meanwhile.
pub(crate) struct Steps<'a> {
    lines: &'a Lines,
    children: SignalFd,
    leavings: Leavings,
    told: BTreeMap<String, (SystemTime, u64)>,
}

impl<'a> Steps<'a> {
    /// # Errors
    /// When signals cannot be taken by a descriptor.
    pub(crate) fn new(lines: &'a Lines, leavings: Leavings) -> anyhow::Result<Self> {
        // Before any thread begins, which would take the signal in its own way. A child
        // begins without the mask: std clears it.
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        set.thread_block().context("block SIGCHLD")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let children = SignalFd::with_flags(&set, flags).context("signalfd")?;
        Ok(Self {
            lines,
            children,
            leavings,
            told: BTreeMap::new(),
        })
    }

    /// Runs one, and tells its output, its end and its files.
    ///
    /// # Errors
    /// When this program itself cannot go on. A step that fails or cannot start is told.
    pub(crate) fn run(&mut self, step: &Step) -> anyhow::Result<()> {
        self.lines.say(&step.begins())?;
        let started = Instant::now();
        let end = match self.attempt(step) {
            Ok(end) => end,
            Err(error) => End {
                code: None,
                why: Some(format!("{error:#}")),
            },
        };
        self.files()?;
        let mut line = json!({
            "end": step.name,
            "code": end.code,
            "ms": started.elapsed().as_millis(),
        });
        if let Some(why) = end.why {
            line["why"] = why.into();
        }
        self.lines.say(&line)
    }

    fn attempt(&self, step: &Step) -> anyhow::Result<End> {
        let (program, arguments) = step.argv.split_first().context("no program to run")?;
        let (reader, writer) = std::io::pipe().context("pipe")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(&step.env)
            .current_dir("/payload")
            .stdin(std::process::Stdio::null())
            .stdout(writer.try_clone().context("dup")?)
            .stderr(writer);
        let child = command.spawn().with_context(|| format!("run {program}"))?;
        // It holds the pipe's other end, which has to be the child's alone.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
        std::thread::scope(|scope| {
            let output = scope.spawn(|| self.pass_on(reader));
            let end = self.wait(pid, Duration::from_secs(step.seconds));
            self.leavings.kill()?;
            let passed = output.join();
            passed.map_err(|_| anyhow::anyhow!("the thread that reads the output has ended"))??;
            end
        })
    }

    fn pass_on(&self, pipe: PipeReader) -> anyhow::Result<()> {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).context("read output")? > 0 {
            let text = String::from_utf8_lossy(&line);
            self.lines
                .say(&json!({ "out": text.trim_end_matches(['\n', '\r']) }))?;
            line.clear();
        }
        Ok(())
    }

    fn wait(&self, pid: Pid, limit: Duration) -> anyhow::Result<End> {
        let started = Instant::now();
        let mut killed = false;
        loop {
            if let Some(mut end) = reap(pid)? {
                if killed {
                    end.code = None;
                    end.why = Some("timed out".to_owned());
                }
                return Ok(end);
            }
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() && !killed {
                killed = true;
                kill(pid, Signal::SIGKILL).context("kill a step that takes too long")?;
            }
            let timeout = if killed {
                PollTimeout::NONE
            } else {
                // The rest of a millisecond rounded up, so as not to spin.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            };
            let mut set = [PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
            match poll(&mut set, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
            while self.children.read_signal().context("signalfd")?.is_some() {}
        }
    }

    /// Tells every file that is new or has changed.
    fn files(&mut self) -> anyhow::Result<()> {
        let mut found = Vec::new();
        collect(Path::new(OUT), &mut found).context("list /out")?;
        found.sort();
        for path in found {
            let data = fs::metadata(&path).context("look at a file of /out")?;
            let stamp = (data.modified().context("a file's time")?, data.len());
            let name = path.strip_prefix(OUT).unwrap_or(&path);
            let name = name.to_string_lossy().into_owned();
            if self.told.get(&name) == Some(&stamp) {
                continue;
            }
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            self.lines
                .say(&json!({ "file": name, "text": String::from_utf8_lossy(&bytes) }))?;
            self.told.insert(name, stamp);
        }
        Ok(())
    }
}

/// Takes every ended child away; returns how `pid` ended if it is among them.
fn reap(pid: Pid) -> anyhow::Result<Option<End>> {
    let mut found = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(found),
            Ok(WaitStatus::Exited(one, code)) if one == pid => {
                found = Some(End {
                    code: Some(code),
                    why: None,
                });
            }
            Ok(WaitStatus::Signaled(one, signal, _)) if one == pid => {
                found = Some(End {
                    code: None,
                    why: Some(format!("ended by {signal}")),
                });
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waitpid"),
        }
    }
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), into)?;
        } else if kind.is_file() {
            into.push(entry.path());
        }
    }
    Ok(())
}
