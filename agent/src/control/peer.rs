//! Who is at the other end of a connection, and whether it is governed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

/// Reads the text of `/proc/PID/cgroup`. Another one is put in by tests.
pub type CgroupReader = Arc<dyn Fn(u32) -> io::Result<String> + Send + Sync>;

/// The reader of the real `/proc`.
pub fn proc_cgroup() -> CgroupReader {
    Arc::new(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")))
}

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    pid: u32,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    pidfd: OwnedFd,
}

/// Where a process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// In no governed cgroup.
    Outside,
    /// At or below the slice.
    Governed,
    /// It could not be shown, and is treated as governed.
    Unknown(String),
}

impl Peer {
    /// The process that called `connect(2)` on the other end of this socket, as it was then.
    ///
    /// Kernels before 6.5 cannot give its pidfd (`SO_PEERPIDFD`); there it is opened by
    /// number, which could by then be another process's if the first one died within the
    /// moment between its connect and this call.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        if pid == 0 {
            return Err(io::Error::other(
                "the peer has no process id here (another pid namespace?)",
            ));
        }
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(fd) => fd,
            Err(Errno::ENOPROTOOPT) => pidfd_open(pid)?,
            Err(e) => return Err(e.into()),
        };
        Ok(Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: peer_groups(socket.as_fd())?,
            pidfd,
        })
    }

    /// This process, as if of another user.
    #[cfg(test)]
    pub(super) fn as_user(uid: u32) -> Self {
        Self {
            pid: std::process::id(),
            uid,
            gid: uid,
            groups: vec![],
            pidfd: pidfd_open(std::process::id()).expect("pidfd"),
        }
    }

    /// Process id, in the daemon's pid namespace. It is this process's only while
    /// [`Peer::is_alive`].
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// User id, in the daemon's user namespace.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group id, in the daemon's user namespace.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The process itself, whatever becomes of its number.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it is root or in the group.
    pub fn may_administer(&self, admin_gid: Option<u32>) -> bool {
        self.uid == 0 || admin_gid.is_some_and(|g| self.gid == g || self.groups.contains(&g))
    }

    /// Whether the process still runs. A pidfd becomes readable when it ends.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Where the process stands now. The pidfd shows after the read that the number was
    /// this process's all the while.
    pub fn standing(&self, slice: &str, read: &CgroupReader) -> Standing {
        let text = match read(self.pid) {
            Ok(text) => text,
            Err(e) => return Standing::Unknown(format!("its cgroup cannot be read: {e}")),
        };
        if !self.is_alive() {
            return Standing::Unknown("it has ended".into());
        }
        classify(&text, slice)
    }
}

/// A process that somebody else named, held by a pidfd so that its number stays its own.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// By its number; whose that was a moment ago is not known.
    pub fn numbered(pid: u32) -> io::Result<Self> {
        let pidfd = pidfd_open(pid)?;
        Ok(Self { pid, pidfd })
    }

    /// By a pidfd.
    pub fn of(pidfd: OwnedFd) -> io::Result<Self> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
        match pid.and_then(|pid| pid.trim().parse().ok()) {
            Some(pid) if pid > 0 => Ok(Self { pid, pidfd }),
            _ => Err(io::Error::other(
                "it has ended, or is no process of this pid namespace",
            )),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it stands now: as [`Peer::standing`].
    pub fn standing(&self, slice: &str, read: &CgroupReader) -> Standing {
        let text = match read(self.pid) {
            Ok(text) => text,
            Err(e) => return Standing::Unknown(format!("its cgroup cannot be read: {e}")),
        };
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) => classify(&text, slice),
            _ => Standing::Unknown("it has ended".into()),
        }
    }
}

/// Reads `/proc/PID/cgroup`: the line `0::` names the cgroup2 path from the root of the
/// reader's cgroup namespace.
fn classify(text: &str, slice: &str) -> Standing {
    let Some(path) = text.lines().find_map(|l| l.strip_prefix("0::")) else {
        return Standing::Unknown("it is in no cgroup2 cgroup".into());
    };
    let Some(relative) = path.strip_prefix('/') else {
        return Standing::Unknown("its cgroup path is not absolute".into());
    };
    match relative.split('/').next() {
        Some("..") => Standing::Unknown("its cgroup is outside of the daemon's namespace".into()),
        // An empty cgroup that was removed under a dying process reads `NAME (deleted)`.
        Some(first) if first.strip_suffix(" (deleted)").unwrap_or(first) == slice => {
            Standing::Governed
        }
        _ => Standing::Outside,
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0u32) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `SO_PEERGROUPS`, Linux 4.13: the supplementary groups at connect. The number is the same
/// on every architecture that the product is built for (x86-64, arm64).
const SO_PEERGROUPS: libc::c_int = 59;
/// `NGROUPS_MAX` of Linux.
const MAX_GROUPS: usize = 65_536;

fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(groups.len() * size_of::<u32>()).map_err(io::Error::other)?;
        // SAFETY: the buffer has `bytes` bytes and any bytes are valid as u32.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel has written how much it needs.
            Err(Errno::ERANGE) if count > groups.len() && count <= MAX_GROUPS => {
                groups.resize(count, 0);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn cgroup_paths_are_classified_and_doubt_is_unknown() {
        let slice = "exeat.slice";
        let cases = [
            ("0::/exeat.slice\n", Standing::Governed),
            ("0::/exeat.slice/build-bot/run-1\n", Standing::Governed),
            ("0::/exeat.slice (deleted)\n", Standing::Governed),
            ("12:cpu:/x\n0::/exeat.slice/a\n", Standing::Governed),
            ("0::/\n", Standing::Outside),
            ("0::/user.slice/exeat.slice\n", Standing::Outside),
            ("0::/exeat.slice2/a\n", Standing::Outside),
            ("0::/exeat\n", Standing::Outside),
        ];
        for (text, expected) in cases {
            assert_eq!(classify(text, slice), expected, "{text:?}");
        }
        for text in [
            "",
            "0::\n",
            "0::/../exeat.slice/a\n",
            "0::/..\n",
            "1:name=systemd:/\n",
            "0:",
        ] {
            assert!(
                matches!(classify(text, slice), Standing::Unknown(_)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_peer_is_found_with_its_process() {
        let (a, _b) = UnixStream::pair().expect("pair");
        let peer = Peer::of(&a).expect("peer");
        assert_eq!(peer.pid(), std::process::id());
        assert_eq!(peer.uid(), nix::unistd::getuid().as_raw());
        assert_eq!(peer.gid(), nix::unistd::getgid().as_raw());
        let mut groups = peer.groups.clone();
        groups.sort_unstable();
        let mut ours: Vec<u32> = nix::unistd::getgroups()
            .expect("groups")
            .iter()
            .map(|g| g.as_raw())
            .collect();
        ours.sort_unstable();
        assert_eq!(groups, ours);
        assert!(peer.is_alive());
        let text = std::fs::read_to_string("/proc/self/cgroup").expect("cgroup");
        assert_eq!(
            peer.standing("no-such.slice", &proc_cgroup()),
            classify(&text, "no-such.slice")
        );
    }

    #[test]
    fn a_pidfd_by_number_is_the_same_process() {
        let pidfd = pidfd_open(std::process::id()).expect("pidfd");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        let expected = format!("Pid:\t{}", std::process::id());
        assert!(info.expect("fdinfo").lines().any(|l| l == expected));
    }

    #[test]
    fn a_named_process_is_held_until_it_ends() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let outside: CgroupReader = Arc::new(|_| Ok("0::/\n".into()));
        let by_number = Process::numbered(child.id()).expect("process");
        let by_fd = Process::of(pidfd_open(child.id()).expect("pidfd")).expect("process");
        assert_eq!(by_fd.pid(), child.id());
        for process in [&by_number, &by_fd] {
            assert_eq!(process.standing("s", &outside), Standing::Outside);
        }
        drop(child.stdin.take());
        child.wait().expect("wait");
        for process in [&by_number, &by_fd] {
            let standing = process.standing("s", &outside);
            assert!(matches!(standing, Standing::Unknown(_)), "{standing:?}");
        }
        let gone = Process::of(by_fd.pidfd);
        assert!(gone.is_err(), "{gone:?}");
    }

    #[test]
    fn a_process_that_ended_is_unknown_whatever_its_number_says() {
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let peer = Peer {
            pid: child.id(),
            uid: 0,
            gid: 0,
            groups: vec![],
            pidfd: pidfd_open(child.id()).expect("pidfd"),
        };
        child.wait().expect("wait");
        let outside: CgroupReader = Arc::new(|_| Ok("0::/\n".into()));
        assert!(matches!(peer.standing("s", &outside), Standing::Unknown(_)));
    }

    #[test]
    fn administering_is_for_root_and_the_group() {
        let peer = |uid, gid, groups| Peer {
            pid: 1,
            uid,
            gid,
            groups,
            pidfd: pidfd_open(std::process::id()).expect("pidfd"),
        };
        assert!(peer(0, 5, vec![]).may_administer(None));
        assert!(!peer(1000, 0, vec![0]).may_administer(None));
        assert!(peer(1000, 7, vec![]).may_administer(Some(7)));
        assert!(peer(1000, 5, vec![6, 7]).may_administer(Some(7)));
        assert!(!peer(1000, 5, vec![6]).may_administer(Some(7)));
    }
}
