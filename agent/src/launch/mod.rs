//! `exeat run`: the process that asked becomes the agent, or its supervisor.
//!
//! Without a sandbox no process is put in between: the caller is moved into the agent's cgroup by
//! the daemon and executes the command. With one the caller stays outside of the sandbox, in the
//! agent's cgroup, and is to whoever started it what the command would be ([`supervise`]).
//!
//! The steps, in order, single-threaded:
//! 1. descriptors 0 to 2 are looked at: a socket of the network among them was made
//!    outside, and what is already connected no hook will ever judge;
//! 2. the daemon moves us ([`crate::control`]);
//! 3. we read back where we are, and go no further if it is not there;
//! 4. every descriptor from 3 on is closed (`close_range`: the only cure for an inherited
//!    io_uring, whose kernel thread would go on sending);
//! 5. with `--user`: groups, group and user, in this order, because the last takes away the
//!    right to the others.
//!
//! Without a sandbox:
//! 6. a `/run` without the machine's services ([`services`]);
//! 7. `no_new_privs`, so that no set-user-ID program lifts the agent above its user;
//! 8. SIGPIPE as it was before Rust's runtime ignored it, then `execvp`.
//!
//! With one:
//! 6. what the agent will see is looked up ([`root`]), and its environment filtered
//!    ([`environment`]);
//! 7. the first process of new namespaces is forked ([`namespaces`]); it builds the new root and
//!    goes there;
//! 8. Landlock, capabilities, `no_new_privs`, and system calls last;
//! 9. it forks the command, which becomes the leader of a group, and executes as above.

pub mod bus;
pub mod capabilities;
mod descriptors;
pub mod environment;
mod files;
#[cfg(test)]
pub(crate) mod in_child;
pub mod landlock;
mod namespaces;
mod root;
pub mod seccomp;
pub mod services;
pub mod standalone;
mod supervise;

use std::{
    convert::Infallible,
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigHandler, Signal, signal},
    },
    unistd::{User, initgroups, setgid, setuid},
};

pub use descriptors::Forbidden;

use crate::policy::{Openings, Sandbox, Services};

/// What kept the command from running.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Descriptor 0, 1 or 2 is a way out that no hook would see.
    #[error("{0}")]
    Descriptor(#[from] Forbidden),
    /// We are not where the daemon said that it had put us.
    #[error(
        "this process is in the cgroup {found:?} and not in {wanted:?}: refusing to start the command"
    )]
    NotGoverned {
        /// Where we should be.
        wanted: PathBuf,
        /// Where we are.
        found: String,
    },
    /// A system call failed.
    #[error("cannot {step}: refusing to start the command")]
    Step {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The sockets of local services stay in sight.
    #[error(
        "cannot hide the machine's services from the command ({step}): refusing to start it\n  {help}; or write `services: all` for this agent, and names can be resolved around its policy"
    )]
    Services {
        /// What was tried.
        step: &'static str,
        /// What to do about it.
        help: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A part of the sandbox cannot be made.
    #[error(
        "cannot make the sandbox ({step}): refusing to start the command\n  {help}; or write `sandbox: none` for this agent, and its policy governs the network alone"
    )]
    Sandbox {
        /// What was tried.
        step: String,
        /// What to do about it.
        help: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The current folder is not one for a command in a sandbox.
    #[error(
        "the command cannot be started in {folder:?}: {why}; start it in another folder, or name this one in `sandbox:` of its policy"
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The sandbox does not show the command.
    #[error(
        "{command}: it is not in the sandbox; name its folder in the policy, as in `sandbox: {{read: [FOLDER]}}`"
    )]
    NotInSight {
        /// The command.
        command: String,
    },
    /// There is no such user.
    #[error("there is no user `{name}`: refusing to start the command")]
    NoUser {
        /// The name.
        name: String,
    },
    /// The command has a NUL byte in it.
    #[error("the command holds a NUL byte")]
    Nul,
    /// There is no such command.
    #[error("{command}: command not found")]
    NotFound {
        /// The command.
        command: String,
    },
    /// The command cannot be executed.
    #[error("{command}: cannot be executed")]
    NotExecutable {
        /// The command.
        command: String,
        /// Why not.
        source: io::Error,
    },
}

impl LaunchError {
    /// Exit code as env(1) and the shells have it: 127 not found, 126 not executable, 125
    /// when it was not even tried.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } | Self::NotInSight { .. } => 127,
            Self::NotExecutable { .. } => 126,
            _ => 125,
        }
    }
}

fn step(step: &'static str) -> impl FnOnce(Errno) -> LaunchError {
    move |errno| LaunchError::Step {
        step,
        source: errno.into(),
    }
}

/// Refuses a user who does not exist before anything is set up for them.
pub fn check_user(user: &str) -> Result<(), LaunchError> {
    find_user(user).map(drop)
}

/// Step 1: refuses descriptors that lead out. Do this before asking to be moved, so that a
/// refusal leaves the caller where it was.
pub fn check_descriptors() -> Result<(), LaunchError> {
    Ok(descriptors::check(0..3)?)
}

/// What the command is given beside its own.
#[derive(Clone, Debug, Default)]
pub struct Given<'a> {
    /// Variables of its environment.
    pub variables: Vec<(&'a str, &'a str)>,
    /// A file of the authorities (PEM) that it is to trust.
    pub authorities: Option<&'a Path>,
}

impl Given<'_> {
    /// The variables by which programs are told of authorities: OpenSSL (and Go, and rustls'
    /// native roots), curl, Git, Node, Deno, Python's requests and pip, AWS' tools, Cargo, Nix.
    const OF_AUTHORITIES: [&'static str; 10] = [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "DENO_CERT",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "AWS_CA_BUNDLE",
        "CARGO_HTTP_CAINFO",
        "NIX_SSL_CERT_FILE",
    ];

    /// Puts it into the environment.
    fn put(&self) {
        let put = |name: &str, value: &OsStr| {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(name, value) };
        };
        for (name, value) in &self.variables {
            put(name, value.as_ref());
        }
        for name in Self::OF_AUTHORITIES {
            if let Some(file) = self.authorities {
                put(name, file.as_os_str());
            }
        }
    }
}

/// How the command is confined, besides its network.
#[derive(Clone, Copy, Debug)]
pub struct Confinement<'a> {
    /// Whom it runs as, if not as the caller.
    pub user: Option<&'a str>,
    /// What it sees of the machine's services.
    pub services: &'a Services,
    /// What its sandbox leaves open.
    pub sandbox: &'a Sandbox,
    /// Names of the agent and of this run.
    pub names: (&'a str, &'a str),
    /// Sockets that brokers made for it: where each is outside, and where inside.
    pub sockets: &'a [(PathBuf, PathBuf)],
}

/// Steps 3 and later: never returns if it succeeds. `cgroup` is the folder that the daemon put
/// us in.
pub fn execute(
    cgroup: &Path,
    confinement: &Confinement<'_>,
    given: &Given<'_>,
    command: &[OsString],
) -> Result<Infallible, LaunchError> {
    confirm(cgroup)?;
    let user = confinement.user.map(find_user).transpose()?;
    // SAFETY: closes only; every object of ours that owned one of them is never used again,
    // because this function ends in exec or exit.
    Errno::result(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) })
        .map_err(step("close inherited descriptors"))?;
    if let Some(user) = &user {
        become_user(user)?;
    }
    match confinement.sandbox {
        Sandbox::None => {
            given.put();
            services::hide(confinement.services, given.authorities)?;
            prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
            exec(command)
        }
        Sandbox::Walls(openings) => {
            let plan = root::Plan::new(
                confinement.services,
                openings,
                given.authorities,
                confinement.names,
                confinement.sockets,
            )?;
            for note in &plan.notes {
                eprintln!("exeat: {note}");
            }
            let lacks = command.first().is_some_and(|program| plan.lacks(program));
            environment::filter(openings);
            given.put();
            supervise::run(&plan, openings, || match exec(command) {
                Err(LaunchError::NotFound { command }) if lacks => {
                    Err(LaunchError::NotInSight { command })
                }
                done => done,
            })
        }
    }
}

/// What no namespace closes, once the last mount is made: files (Landlock), capabilities, and
/// system calls last, because the others need some.
fn restrict(plan: &root::Plan, openings: &Openings) -> Result<(), LaunchError> {
    landlock::restrict(&plan.paths())?;
    capabilities::drop_all()?;
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    seccomp::install(openings)
}

fn find_user(name: &str) -> Result<User, LaunchError> {
    User::from_name(name)
        .map_err(step("read the user database"))?
        .ok_or_else(|| LaunchError::NoUser {
            name: name.to_owned(),
        })
}

fn become_user(user: &User) -> Result<(), LaunchError> {
    let name = CString::new(user.name.as_bytes()).map_err(|_| LaunchError::Nul)?;
    initgroups(&name, user.gid).map_err(step("take the groups of the user (needs root)"))?;
    setgid(user.gid).map_err(step("become the user's group (needs root)"))?;
    setuid(user.uid).map_err(step("become the user (needs root)"))?;
    let home = user.dir.as_os_str();
    for (variable, value) in [
        ("HOME", home),
        ("USER", user.name.as_ref()),
        ("LOGNAME", user.name.as_ref()),
    ] {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var(variable, value) };
    }
    Ok(())
}

/// Reads our own cgroup back from the kernel.
fn confirm(cgroup: &Path) -> Result<(), LaunchError> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|source| LaunchError::Step {
        step: "read /proc/self/cgroup",
        source,
    })?;
    let found = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default();
    // `found` starts at the cgroup2 root, `cgroup` at the file system's.
    if found.len() > 1 && cgroup.as_os_str().as_bytes().ends_with(found.as_bytes()) {
        Ok(())
    } else {
        Err(LaunchError::NotGoverned {
            wanted: cgroup.to_owned(),
            found: found.to_owned(),
        })
    }
}

fn exec(command: &[OsString]) -> Result<Infallible, LaunchError> {
    // Rust programs start with SIGPIPE ignored, and exec would hand that on.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map_err(step("reset SIGPIPE"))?;
    let arguments = command
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| LaunchError::Nul)?;
    let program = arguments.first().ok_or(LaunchError::Nul)?;
    let name = || program.to_string_lossy().into_owned();
    match nix::unistd::execvp(program, &arguments) {
        Ok(never) => match never {},
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(LaunchError::NotFound { command: name() }),
        Err(errno) => Err(LaunchError::NotExecutable {
            command: name(),
            source: errno.into(),
        }),
    }
}
