//! What systemd's file descriptor store is to a service: keeps what it is told to keep, and
//! hands it to the next process of the service.

use anyhow::Context;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// First descriptor that is handed over (sd_listen_fds(3)).
const FIRST: RawFd = 3;
/// Above every descriptor that is handed over.
const ASIDE: RawFd = 512;

type Kept = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// A store, with the socket at which it is told.
pub struct FdStore {
    path: PathBuf,
    socket: Arc<UnixDatagram>,
    kept: Kept,
    reader: Option<JoinHandle<()>>,
}

impl FdStore {
    /// One whose socket is in `folder`.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("notify");
        let socket = Arc::new(UnixDatagram::bind(&path).context("bind the notify socket")?);
        let kept = Kept::default();
        let reader = std::thread::spawn({
            let (socket, kept) = (Arc::clone(&socket), Arc::clone(&kept));
            move || while read(&socket, &kept) {}
        });
        Ok(Self {
            path,
            socket,
            kept,
            reader: Some(reader),
        })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of what it keeps.
    pub fn names(&self) -> Vec<String> {
        self.kept().keys().cloned().collect()
    }

    /// Whether something waits to be read from the kept descriptor of this name.
    pub fn waits(&self, name: &str) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let kept = self.kept();
        kept.get(name).is_some_and(|fd| {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO) == Ok(1)
        })
    }

    /// `program` as a process of the service: with the socket, and all that is kept. Arguments
    /// that are given to the command are the program's.
    ///
    /// # Errors
    /// When a descriptor cannot be copied.
    pub fn hand_over(&self, command: &mut Command) -> anyhow::Result<()> {
        let kept = self.kept();
        let mut copies = Vec::new();
        for fd in kept.values() {
            let copy = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(ASIDE))?;
            // SAFETY: just made, and nobody else's.
            copies.push(unsafe { OwnedFd::from_raw_fd(copy) });
        }
        let names: Vec<&str> = kept.keys().map(String::as_str).collect();
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let place = move || -> std::io::Result<()> {
            for (target, copy) in (FIRST..).zip(&copies) {
                // SAFETY: `copy` is open; what was at `target` was to be closed by exec.
                if unsafe { libc::dup2(copy.as_raw_fd(), target) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(place) };
        Ok(())
    }
}

impl Drop for FdStore {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Takes one message; false at the end.
fn read(socket: &UnixDatagram, kept: &Kept) -> bool {
    let mut text = [0; 4096];
    let mut buffers = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let got: Result<RecvMsg<'_, '_, ()>, _> = recvmsg(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    );
    let Ok(message) = got else {
        return false;
    };
    let length = message.bytes;
    let mut received = Vec::new();
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just put them into this process for us.
            received.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let text = String::from_utf8_lossy(&text[..length]);
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = name {
        if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
            kept.remove(name);
        } else if let Some(fd) = received.pop() {
            kept.insert(name.to_owned(), fd);
        }
    }
    length > 0
}

/// The words of a shell that become the program with `LISTEN_PID` as its own process id, which
/// nobody knows before.
pub const WITH_LISTEN_PID: [&str; 3] = ["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"];
