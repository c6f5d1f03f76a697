//! A second wall around files, and two that namespaces have no word for (landlock(7)).
//!
//! The new root shows an agent little; this keeps it from reading, changing and executing
//! even of that what is not named, and from mounting anything. From the kernel's sixth version of it
//! (Linux 6.12) on, abstract unix sockets of whoever is outside are out of reach, in the same
//! network namespace too, and so are outside processes for signals.
//!
//! What the kernel lacks is not enforced and is told: [`Reached`].

use std::{fmt, path::PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use serde::Serialize;

use super::LaunchError;

/// The version whose walls are asked for: those of this program that tests have seen at work.
const WANTED: ABI = ABI::V6;

/// What may be done where. A folder stands for all that is in it, also for what is mounted there;
/// what is not there is not missed. What no path covers can be neither opened nor changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// To be read.
    pub read: Vec<PathBuf>,
    /// To be read and executed.
    pub execute: Vec<PathBuf>,
    /// To be read, changed and executed. No devices are made there.
    pub write: Vec<PathBuf>,
}

/// What of it the kernel enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The kernel's version of Landlock; 0 without one.
    pub version: i32,
    /// Whether anything about files is enforced.
    pub files: bool,
    /// Whether abstract unix sockets outside are out of reach.
    pub abstract_sockets: bool,
    /// Whether processes outside are out of reach for signals.
    pub signals: bool,
    /// What is not enforced here, and since when Linux could.
    pub missing: Vec<&'static str>,
}

impl Reached {
    /// By the kernel's version alone.
    fn of(status: LandlockStatus) -> Self {
        let version = match status {
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            } => kernel_abi.unwrap_or(effective_abi as i32),
            _ => 0,
        };
        let missing = match status {
            LandlockStatus::NotEnabled => {
                vec!["any of it: Landlock is not enabled (kernel parameter `lsm=`)"]
            }
            LandlockStatus::NotImplemented => {
                vec![
                    "any of it: this kernel has no Landlock (Linux 5.13 with CONFIG_SECURITY_LANDLOCK)",
                ]
            }
            LandlockStatus::Available { .. } => [
                (3, "the truncation of files (Linux 6.2)"),
                (5, "requests to devices (Linux 6.10)"),
                (6, "abstract unix sockets (Linux 6.12)"),
                (6, "signals (Linux 6.12)"),
            ]
            .into_iter()
            .filter(|(since, _)| version < *since)
            .map(|(_, what)| what)
            .collect(),
        };
        Self {
            version,
            files: version >= 1,
            abstract_sockets: version >= 6,
            signals: version >= 6,
            missing,
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing.is_empty() {
            write!(f, "whole (version {})", self.version)
        } else {
            write!(f, "without {}", self.missing.join(", "))
        }
    }
}

/// Confines this process, and what it becomes, to these paths for good; it also sets
/// `no_new_privs`. Call it with one thread, after the last mount.
///
/// # Errors
/// When the kernel has it and refuses: then nothing may be started.
pub fn restrict(paths: &Paths) -> Result<Reached, LaunchError> {
    apply(paths).map_err(|error| LaunchError::Step {
        step: "confine it to its files (Landlock)",
        source: std::io::Error::other(error),
    })
}

fn apply(paths: &Paths) -> Result<Reached, RulesetError> {
    let every = AccessFs::from_all(WANTED);
    let execute = AccessFs::from_read(WANTED);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let devices: BitFlags<AccessFs> = AccessFs::MakeChar | AccessFs::MakeBlock;
    let status = Ruleset::default()
        .handle_access(every)?
        .scope(Scope::from_all(WANTED))?
        .create()?
        .add_rules(path_beneath_rules(&paths.read, read))?
        .add_rules(path_beneath_rules(&paths.execute, execute))?
        .add_rules(path_beneath_rules(&paths.write, every & !devices))?
        .restrict_self()?;
    let mut reached = Reached::of(status.landlock);
    if status.ruleset == RulesetStatus::NotEnforced && reached.version > 0 {
        // The crate's word counts for more than the number.
        reached.files = false;
        reached.abstract_sockets = false;
        reached.signals = false;
        reached.missing = vec!["any of it"];
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::in_child::in_child;
    use std::{fs, io::ErrorKind, os::linux::net::SocketAddrExt as _, path::Path};

    /// What is to be seen of the system for programs to start.
    fn system() -> Vec<PathBuf> {
        ["/usr", "/lib", "/lib64", "/bin", "/etc"]
            .map(PathBuf::from)
            .to_vec()
    }

    /// Runs it behind the wall; a kernel without the wall fails the test.
    fn behind(paths: &Paths, act: impl FnOnce(&Reached) -> i32) -> i32 {
        in_child(|| match restrict(paths) {
            Ok(reached) if reached.files => act(&reached),
            Ok(_) => 249,
            Err(_) => 250,
        })
    }

    fn refused<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    /// The number of the first of these that is not so, from 1; 0 if all are.
    fn all(facts: &[bool]) -> i32 {
        facts
            .iter()
            .position(|fact| !fact)
            .map_or(0, |at| at as i32 + 1)
    }

    #[test]
    fn files_outside_are_out_of_reach() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["read", "write", "hidden", "tools"] {
            fs::create_dir(at(name)).expect("folder");
            fs::write(at(name).join("file"), "text").expect("file");
        }
        fs::copy("/bin/true", at("tools").join("true")).expect("copy");
        fs::copy("/bin/true", at("read").join("true")).expect("copy");
        let mut execute = system();
        execute.push(at("tools"));
        let paths = Paths {
            read: vec![at("read"), at("not there")],
            execute,
            write: vec![at("write")],
        };
        let run = |path: &Path| std::process::Command::new(path).status();
        let code = behind(&paths, |_| {
            all(&[
                fs::read(at("read").join("file")).is_ok(),
                refused(fs::write(at("read").join("file"), "x")),
                refused(run(&at("read").join("true"))),
                run(&at("tools").join("true")).is_ok_and(|status| status.success()),
                refused(fs::write(at("tools").join("file"), "x")),
                fs::write(at("write").join("new"), "x").is_ok(),
                fs::create_dir(at("write").join("sub")).is_ok(),
                fs::rename(at("write").join("new"), at("write").join("sub/new")).is_ok(),
                fs::remove_file(at("write").join("file")).is_ok(),
                refused(fs::read(at("hidden").join("file"))),
                refused(fs::read_dir(at("hidden"))),
                refused(fs::create_dir(at("new"))),
                refused(fs::remove_file(at("hidden").join("file"))),
            ])
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn mounts_are_refused() {
        let paths = Paths {
            write: vec!["/".into()],
            ..Paths::default()
        };
        let code = behind(&paths, |_| {
            let mounted = nix::mount::mount(
                Some("tmpfs"),
                "/tmp",
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                None::<&str>,
            );
            i32::from(mounted != Err(nix::errno::Errno::EPERM))
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn sockets_and_processes_outside_are_out_of_reach_from_version_6() {
        use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
        let name = format!("exeat-landlock-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("name");
        let _listener = UnixListener::bind_addr(&address).expect("bind");
        let outside = nix::unistd::Pid::this();
        let paths = Paths {
            execute: system(),
            ..Paths::default()
        };
        let code = behind(&paths, |reached| {
            let own = format!("{name}-own");
            let own = SocketAddr::from_abstract_name(own.as_bytes()).expect("name");
            let _own = UnixListener::bind_addr(&own).expect("bind");
            all(&[
                UnixStream::connect_addr(&own).is_ok(),
                refused(UnixStream::connect_addr(&address)) == reached.abstract_sockets,
                (nix::sys::signal::kill(outside, None) == Err(nix::errno::Errno::EPERM))
                    == reached.signals,
                nix::sys::signal::kill(nix::unistd::Pid::this(), None).is_ok(),
                reached.missing.is_empty() == (reached.version >= 6),
            ])
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn what_is_missing_is_said() {
        let at = |effective_abi| {
            Reached::of(LandlockStatus::Available {
                effective_abi,
                kernel_abi: None,
            })
        };
        assert!(at(ABI::V6).missing.is_empty());
        assert_eq!(at(ABI::V6).to_string(), "whole (version 6)");
        assert_eq!(at(ABI::V5).missing.len(), 2);
        assert_eq!(at(ABI::V1).missing.len(), 4);
        assert!(at(ABI::V1).files && !at(ABI::V1).signals);
        let none = Reached::of(LandlockStatus::NotEnabled);
        assert!(!none.files && none.version == 0);
        assert!(none.to_string().starts_with("without any of it"));
    }
}
