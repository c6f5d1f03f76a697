//! Network and mount namespaces held by a descriptor: nothing is named in the file
//! system, so nothing is left when the process dies, however it dies.

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, Signal};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// A network namespace, and perhaps a mount namespace that goes with it.
#[derive(Clone)]
pub struct Ns {
    net: Arc<File>,
    mount: Option<Arc<File>>,
}

impl Ns {
    /// A new, empty network namespace with its loopback down.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn new() -> anyhow::Result<Self> {
        let net = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET); tests need root")?;
            File::open("/proc/thread-self/ns/net").context("open the new network namespace")
        })?;
        Ok(Self {
            net: Arc::new(net),
            mount: None,
        })
    }

    /// Adds a private mount namespace, prepared by `prepare`, which runs inside it. It has
    /// what is mounted now; later mounts are made by [`Ns::run_inside`].
    ///
    /// # Errors
    /// Those of `prepare` and of the namespace calls.
    pub fn with_mounts(
        mut self,
        prepare: impl FnOnce() -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<Self> {
        use nix::mount::{MsFlags, mount};
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                .context("unshare(CLONE_NEWNS)")?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .context("make / a private mount")?;
            prepare()?;
            File::open("/proc/thread-self/ns/mnt").context("open the new mount namespace")
        })?;
        self.mount = Some(Arc::new(file));
        Ok(self)
    }

    /// Path under which another process or `ip` finds the network namespace.
    pub fn net_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Runs a closure on a thread that is in the network namespace (not in the mount
    /// namespace). Sockets that it makes stay in the namespace wherever they go.
    ///
    /// # Errors
    /// Those of the closure, of `setns`, or that it panicked.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        on_thread(|| {
            self.enter()?;
            f()
        })
    }

    /// The same in the mount namespace too, if there is one.
    ///
    /// # Errors
    /// As [`Ns::run`].
    pub fn run_inside<T: Send>(
        &self,
        f: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.run(|| {
            if let Some(mount) = &self.mount {
                // A thread that shares its working directory with others may not move.
                unshare(CloneFlags::CLONE_FS).context("unshare(CLONE_FS)")?;
                setns(mount.as_fd(), CloneFlags::CLONE_NEWNS)
                    .context("setns to the mount namespace")?;
            }
            f()
        })
    }

    /// Moves the calling thread into the network namespace, for good.
    ///
    /// # Errors
    /// Those of `setns`.
    pub fn enter(&self) -> anyhow::Result<()> {
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET).context("setns to the network namespace")
    }

    /// A command that starts in both namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_as(0, program)
    }

    /// The same under a user and group id, without supplementary groups. Signals of the
    /// terminal do what they usually do, also where whoever started the tests (`nohup`, a
    /// shell's `&`) had them ignored, which programs inherit.
    pub fn command_as(&self, uid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let (net, mount) = (self.net.clone(), self.mount.clone());
        let enter = move || -> std::io::Result<()> {
            setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
            if let Some(mount) = &mount {
                setns(mount.as_fd(), CloneFlags::CLONE_NEWNS)?;
            }
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: the default action is no handler of ours.
                unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
            }
            if uid != 0 {
                nix::unistd::setgroups(&[])?;
                nix::unistd::setgid(nix::unistd::Gid::from_raw(uid))?;
                nix::unistd::setuid(nix::unistd::Uid::from_raw(uid))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made; nothing allocates or
        // takes a lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` with words split at spaces and demands success.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, line: &str) -> anyhow::Result<()> {
        let output = self
            .command("ip")
            .args(line.split_whitespace())
            .output()
            .context("cannot run ip; install iproute2")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(anyhow!("ip {line}: {said}"));
        }
        Ok(())
    }

    /// Writes a sysctl below `/proc/sys/net` of the network namespace.
    ///
    /// # Errors
    /// With the path.
    pub fn sysctl(&self, path: &str, value: &str) -> anyhow::Result<()> {
        self.run(|| {
            let path = format!("/proc/sys/net/{path}");
            std::fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
        })
    }
}

/// Runs a closure on a thread of its own, because namespaces belong to threads.
fn on_thread<T: Send>(f: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("in-ns".into())
            .spawn_scoped(scope, f)
            .context("cannot start a thread")?;
        handle
            .join()
            .map_err(|_| anyhow!("the closure in the namespace panicked"))?
    })
}
