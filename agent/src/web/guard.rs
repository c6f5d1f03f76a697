//! Whether the other end of a connection is governed.
//!
//! The kernel knows the cgroup and the user of the peer's socket (sock_diag; no privilege is
//! needed). The peer is let in where its user is this one, and its cgroup is found in the tree
//! outside of the slice and of what is adopted. Whatever cannot be found is refused.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::control::Status;
use crate::sockets::{Owner, Peers};

/// Cgroups that are looked at; a laptop has some hundreds.
const MOST_CGROUPS: usize = 65_536;

/// Judges peers.
#[derive(Debug)]
pub struct Guard {
    peers: Peers,
    root: PathBuf,
    slice: String,
    users: Vec<u32>,
}

impl Guard {
    /// For this process: peers of its own user, and, under sudo, of the user who called it.
    ///
    /// # Errors
    /// Where the kernel has no sock_diag.
    pub fn new(root: PathBuf, slice: String) -> io::Result<Self> {
        let own = nix::unistd::geteuid().as_raw();
        let mut users = vec![own];
        if own == 0 {
            let caller = std::env::var("SUDO_UID").ok();
            users.extend(caller.and_then(|uid| uid.parse::<u32>().ok()));
        }
        Ok(Self {
            peers: Peers::here()?,
            root,
            slice,
            users,
        })
    }

    /// Whether the peer may speak.
    ///
    /// # Errors
    /// Why it may not, in words.
    pub fn judge(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        status: Option<&Status>,
    ) -> Result<(), String> {
        let owner = self
            .peers
            .owner(peer, local)
            .map_err(|e| format!("whose connection it is cannot be found out: {e}"))?;
        let governed = self.governed(status);
        let daemon = status.map(|status| status.daemon.pid);
        self.judge_owner(&owner, &governed, daemon)
    }

    fn judge_owner(
        &self,
        owner: &Owner,
        governed: &HashSet<PathBuf>,
        daemon: Option<u32>,
    ) -> Result<(), String> {
        if !self.users.contains(&owner.uid) {
            return Err(format!("it is of another user ({})", owner.uid));
        }
        // An agent's own connection ends at the gateway, and the next one is the daemon's.
        if owner.uid == 0 && daemon.is_some_and(|pid| holds(pid, owner.inode)) {
            return Err("it is the gateway's, for an agent".to_owned());
        }
        let Some(cgroup) = owner.cgroup else {
            return Err("the kernel does not tell whose it is".to_owned());
        };
        match is_outside(&self.root, cgroup, governed) {
            true => Ok(()),
            false => Err("it belongs to an agent, or to nobody who can be found".to_owned()),
        }
    }

    /// The folders of cgroups that are governed, with what is below them.
    fn governed(&self, status: Option<&Status>) -> HashSet<PathBuf> {
        let mut all = HashSet::from([self.root.join(&self.slice)]);
        let Some(status) = status else {
            return all;
        };
        all.insert(self.root.join(&status.daemon.slice));
        for agent in &status.agents {
            // ROOT/SLICE/AGENT: the daemon may see the tree at another place.
            let root = agent.cgroup.ancestors().nth(2);
            // Those that are programs are in runs below the slice, and no path of the tree.
            let adopted = agent.adopted.iter().map(|adopted| &adopted.what);
            for path in adopted.chain([&agent.cgroup]) {
                all.insert(path.clone());
                let below = root.and_then(|root| path.strip_prefix(root).ok());
                all.extend(below.map(|below| self.root.join(below)));
            }
        }
        all
    }
}

/// Whether a process has the socket open.
fn holds(pid: u32, inode: u32) -> bool {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        // It has ended, and holds nothing.
        return false;
    };
    entries
        .filter_map(Result::ok)
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == wanted))
}

/// Whether the cgroup is in the tree and not at or below one of `governed`.
fn is_outside(root: &Path, cgroup: u64, governed: &HashSet<PathBuf>) -> bool {
    let mut folders = vec![root.to_owned()];
    let mut looked = 0;
    while let Some(folder) = folders.pop() {
        looked += 1;
        if governed.contains(&folder) || looked > MOST_CGROUPS {
            continue;
        }
        if fs::metadata(&folder).is_ok_and(|meta| meta.ino() == cgroup) {
            return true;
        }
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let children = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(children.map(|entry| entry.path()));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn ino(path: &Path) -> u64 {
        fs::metadata(path).expect("metadata").ino()
    }

    #[test]
    fn only_what_is_found_outside_is_outside() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        for name in ["user.slice/app", "exeat.slice/bot/run", "box/deep"] {
            fs::create_dir_all(at(name)).expect("folder");
        }
        let governed = HashSet::from([at("exeat.slice"), at("box")]);
        let outside = |name: &str| is_outside(dir.path(), ino(&at(name)), &governed);
        assert!(outside("") && outside("user.slice") && outside("user.slice/app"));
        for name in [
            "exeat.slice",
            "exeat.slice/bot",
            "exeat.slice/bot/run",
            "box",
            "box/deep",
        ] {
            assert!(!outside(name), "{name}");
        }
        assert!(!is_outside(dir.path(), 0, &governed), "there is none");
        assert!(!is_outside(&at("gone"), 1, &governed));
    }

    #[test]
    fn a_peer_is_judged_by_user_cgroup_and_holder() {
        let dir = tempfile::tempdir().expect("dir");
        let own = dir.path().join("user.slice");
        fs::create_dir(&own).expect("folder");
        let guard = |users: &[u32]| Guard {
            peers: Peers::here().expect("netlink"),
            root: dir.path().to_owned(),
            slice: "exeat.slice".into(),
            users: users.to_vec(),
        };
        let owner = Owner {
            cgroup: Some(ino(&own)),
            uid: 1000,
            inode: 7,
        };
        let judge = |users: &[u32], owner: &Owner, daemon| {
            let guard = guard(users);
            guard.judge_owner(owner, &guard.governed(None), daemon)
        };
        assert_eq!(judge(&[1000], &owner, Some(1)), Ok(()));
        assert!(judge(&[1001], &owner, None).is_err());
        let unknown = Owner {
            cgroup: None,
            ..owner
        };
        assert!(judge(&[1000], &unknown, None).is_err());
        let gone = Owner {
            cgroup: Some(0),
            ..owner
        };
        assert!(judge(&[1000], &gone, None).is_err());
    }

    #[test]
    fn adopted_cgroups_are_governed_wherever_the_daemon_sees_the_tree() {
        let mut status = crate::control::status::tests::status();
        status.agents[0].adopted = vec![crate::control::status::AdoptedStatus {
            what: "/sys/fs/cgroup/system.slice/bot.service".into(),
            by: None,
            run: None,
            processes: 1,
        }];
        let guard = Guard {
            peers: Peers::here().expect("netlink"),
            root: "/elsewhere".into(),
            slice: "own.slice".into(),
            users: vec![],
        };
        let governed = guard.governed(Some(&status));
        for path in [
            "/elsewhere/own.slice",
            "/elsewhere/exeat.slice",
            "/elsewhere/exeat.slice/build-bot",
            "/elsewhere/system.slice/bot.service",
            "/sys/fs/cgroup/system.slice/bot.service",
        ] {
            assert!(governed.contains(Path::new(path)), "{path}: {governed:?}");
        }
        assert!(!governed.contains(Path::new("/elsewhere")));
    }

    #[test]
    fn what_the_daemon_holds_is_an_agents() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let local = listener.local_addr().expect("address");
        let client = TcpStream::connect(local).expect("connect");
        let peer = client.local_addr().expect("address");
        let owner = Peers::here()
            .and_then(|p| p.owner(peer, local))
            .expect("owner");
        let pid = std::process::id();
        assert!(holds(pid, owner.inode));
        drop(client);
        assert!(!holds(pid, owner.inode));
        assert!(!holds(pid, 0));
    }
}
