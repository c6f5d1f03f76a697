//! An Exeat daemon in the laptop, with everything that it owns under names of its own.

use crate::attack::{Launch, PLAIN_USER};
use crate::cgroup;
use crate::disk::BPFFS;
use crate::fd_store::{FdStore, WITH_LISTEN_PID};
use crate::ns::Ns;
use crate::puppet::{self, Puppet};
use crate::world::{NAME_SERVER, World, open_to_all};
use crate::{unique, wait};
use anyhow::{Context, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// Every laptop is a network of its own, so one port would do; several daemons in one
/// laptop need several.
static METRICS_PORT: AtomicU16 = AtomicU16::new(9464);

/// The binary under test: `EXEAT_BIN`, or the workspace's release build.
pub fn program() -> PathBuf {
    match std::env::var_os("EXEAT_BIN") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/exeat"),
    }
}

/// A daemon that runs; `teardown` and removal of everything when dropped.
pub struct Daemon {
    ns: Ns,
    folder: PathBuf,
    slice: String,
    bpffs: PathBuf,
    metrics: u16,
    child: Option<Child>,
    store: Option<FdStore>,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Daemon {
    /// Starts one with a policy and returns when it answers `exeat status`.
    ///
    /// # Errors
    /// When the binary is missing (`cargo xtask build` makes it), ends at once, or does
    /// not become ready; with what it said.
    pub fn start(world: &World, policy: &str) -> anyhow::Result<Self> {
        Self::start_with(world, policy, "")
    }

    /// The same with more lines in its configuration file.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(world: &World, policy: &str, more: &str) -> anyhow::Result<Self> {
        let binary = program();
        if !binary.exists() {
            bail!(
                "{} does not exist; run `cargo xtask build` or set EXEAT_BIN",
                binary.display()
            );
        }
        let name = unique::name("exeat-test");
        let mut daemon = Self {
            ns: world.laptop.clone(),
            folder: world.folder().join(&name),
            slice: format!("{name}.slice"),
            bpffs: Path::new(BPFFS).join(&name),
            metrics: METRICS_PORT.fetch_add(1, Ordering::Relaxed),
            child: None,
            store: None,
            program: binary,
            environment: Vec::new(),
        };
        std::fs::create_dir(&daemon.folder)?;
        open_to_all(&daemon.folder)?;
        for folder in ["policy.d", "run", "state"] {
            std::fs::create_dir(daemon.folder.join(folder))?;
            open_to_all(&daemon.folder.join(folder))?;
        }
        // None at all, as a fresh installation has none.
        if !policy.is_empty() {
            daemon.write_policy(policy)?;
        }
        daemon.write_config(more)?;
        daemon.launch()?;
        Ok(daemon)
    }

    /// Without a word about it there is no sandbox: most suites are about the network, and
    /// look at it with programs and files of their own.
    fn write_config(&self, more: &str) -> anyhow::Result<()> {
        let sandbox = match more.contains("sandbox:") {
            true => "",
            false => "sandbox: false\n",
        };
        let at = |name: &str| self.folder.join(name).display().to_string();
        let text = format!(
            "policy: [{}]\nslice: {}\nbpffs: {}\nruntime_dir: {}\nstate_dir: {}\nmetrics: 127.0.0.1:{}\n\
             {sandbox}resolver:\n  upstreams: [\"{NAME_SERVER}:53\"]\n{more}",
            at("policy.d"),
            self.slice,
            self.bpffs.display(),
            at("run"),
            at("state"),
            self.metrics,
        );
        std::fs::write(self.config(), text)?;
        open_to_all(&self.config())
    }

    /// Replaces the policy file; [`Daemon::reload`] makes the daemon read it.
    ///
    /// # Errors
    /// Those of the write.
    pub fn write_policy(&self, policy: &str) -> anyhow::Result<()> {
        let path = self.folder.join("policy.d/test.yaml");
        std::fs::write(&path, policy).with_context(|| format!("write {}", path.display()))?;
        open_to_all(&path)
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("daemon.log"))?;
        let mut command = match &self.store {
            None => self.cli(&["daemon"]),
            Some(store) => {
                let mut command = self.ns.command_as(0, "/bin/sh");
                command.args(WITH_LISTEN_PID).arg(&self.program);
                command.arg("--config").arg(self.config()).arg("daemon");
                store.hand_over(&mut command)?;
                command
            }
        };
        // The soft limit that service managers give, whatever this shell has.
        let usual = || -> std::io::Result<()> {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, 1024.min(hard), hard)?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(usual) };
        let variables = self.environment.iter().map(|(name, value)| (name, value));
        let child = command
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the daemon")?;
        self.child = Some(child);
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        let mut ended = None;
        let ready = wait::until(
            "the daemon to answer `exeat status`",
            wait::patience(),
            || {
                ended = self
                    .child
                    .as_mut()
                    .and_then(|child| child.try_wait().ok().flatten());
                (ended.is_some() || self.try_status().is_some()).then_some(())
            },
        );
        match (ready, ended) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(status)) => {
                Err(anyhow!("the daemon ended with {status}:\n{}", self.log()))
            }
            (Err(error), _) => Err(error.context(self.log())),
        }
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default()
    }

    /// Path of its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    /// Path of its only policy file.
    pub fn policy_file(&self) -> PathBuf {
        self.folder.join("policy.d/test.yaml")
    }

    /// Folder of its control socket.
    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Folder of its durable state.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Folder of its pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Ids of its pinned links, by the path of the pin: they change when something was
    /// detached and attached anew.
    ///
    /// # Errors
    /// When `bpftool` is missing or a pin is not a link.
    pub fn links(&self) -> anyhow::Result<BTreeMap<PathBuf, u64>> {
        let mut links = BTreeMap::new();
        let folder = self.bpffs.join("links");
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?
        {
            let path = entry?.path();
            let output = Command::new("bpftool")
                .args(["--json", "link", "show", "pinned"])
                .arg(&path)
                .output()
                .context("run bpftool")?;
            let link: Value = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("bpftool link show pinned {}", path.display()))?;
            let link = link.get(0).unwrap_or(&link);
            let id = link["id"]
                .as_u64()
                .with_context(|| format!("{} is no link", path.display()))?;
            links.insert(path, id);
        }
        Ok(links)
    }

    /// Folder of its slice.
    ///
    /// # Errors
    /// When cgroup2 is not mounted.
    pub fn slice(&self) -> anyhow::Result<PathBuf> {
        Ok(cgroup::root()?.join(&self.slice))
    }

    /// Its control socket: the only socket in the runtime folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn control_socket(&self) -> anyhow::Result<PathBuf> {
        use std::os::unix::fs::FileTypeExt;
        for entry in std::fs::read_dir(self.runtime_dir())? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                return Ok(entry.path());
            }
        }
        bail!("no socket in {}", self.runtime_dir().display())
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `exeat --config … ARGS` in the laptop, as root.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        self.cli_as(0, arguments)
    }

    /// The same as another user.
    pub fn cli_as(&self, uid: u32, arguments: &[&str]) -> Command {
        let mut command = self.ns.command_as(uid, &self.program);
        command.arg("--config").arg(self.config()).args(arguments);
        command
    }

    /// `exeat run --agent AGENT -- ARGV`, not yet started.
    pub fn run_command(&self, agent: &str, uid: u32, argv: &[String]) -> Command {
        let mut command = self.cli_as(uid, &["run", "--agent", agent, "--"]);
        command.args(argv);
        command
    }

    /// Runs a program as an agent to its end.
    ///
    /// # Errors
    /// When `exeat` cannot be started.
    pub fn run_as(&self, agent: &str, uid: u32, argv: &[&str]) -> anyhow::Result<Output> {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        self.run_command(agent, uid, &argv)
            .stdin(Stdio::null())
            .output()
            .context("start exeat run")
    }

    /// Kills the daemon as nothing else would, and reaps it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end by SIGTERM, and waits.
    ///
    /// # Errors
    /// When it does not run, does not end, or ends badly.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
        let status = wait::until("the daemon to end", wait::patience(), || {
            child.try_wait().ok().flatten()
        });
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(anyhow!("the daemon ended with {status}:\n{}", self.log())),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.context(self.log()))
            }
        }
    }

    /// Puts another build of it in its place, as a package does: what starts from now on is
    /// that one.
    pub fn install(&mut self, program: impl Into<PathBuf>) {
        self.program = program.into();
    }

    /// Starts it again, after a kill or a stop; returns when it is ready.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            self.stop()?;
        }
        self.launch()
    }

    /// Starts it again as a service whose manager keeps descriptors for it, from now on.
    ///
    /// # Errors
    /// As [`Daemon::restart`].
    pub fn with_fd_store(&mut self) -> anyhow::Result<()> {
        self.store = Some(FdStore::new(&self.folder)?);
        self.restart()
    }

    /// Starts it again with a variable of its environment, from now on.
    ///
    /// # Errors
    /// As [`Daemon::restart`].
    pub fn with_variable(&mut self, name: &'static str, value: String) -> anyhow::Result<()> {
        self.environment.push((name, value));
        self.restart()
    }

    /// What is kept for it, since [`Daemon::with_fd_store`].
    ///
    /// # Errors
    /// When nothing is.
    pub fn fd_store(&self) -> anyhow::Result<&FdStore> {
        self.store.as_ref().context("the daemon has no store")
    }

    /// Starts it and kills it after `delay`, ready or not: the delay is the moment of the
    /// kill that a test wants to try, not a time to wait for something.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_and_kill9(&mut self, delay: std::time::Duration) -> anyhow::Result<()> {
        self.spawn()?;
        std::thread::sleep(delay);
        self.kill9()
    }

    /// `exeat reload`: whether it was accepted is in the output.
    ///
    /// # Errors
    /// When `exeat` cannot be started.
    pub fn reload(&self) -> anyhow::Result<Output> {
        self.cli(&["reload"]).output().context("start exeat reload")
    }

    fn try_status(&self) -> Option<Value> {
        let output = self.cli(&["status", "--output", "json"]).output().ok()?;
        // 3 is degraded: a status all the same.
        matches!(output.status.code(), Some(0 | 3))
            .then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    /// `exeat status --output json`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.try_status()
            .ok_or_else(|| anyhow!("no status:\n{}", self.log()))
    }

    /// `exeat events --output json`: one object a line.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn events(&self) -> anyhow::Result<Vec<Value>> {
        let output = self
            .cli(&["events", "--limit", "10000", "--output", "json"])
            .output()?;
        if !output.status.success() {
            bail!("exeat events: {}", String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("an event: {line}")))
            .collect()
    }

    /// Waits for an event for which `wanted` holds: events are written after the verdict.
    ///
    /// # Errors
    /// When none comes; with all that came.
    pub fn event(&self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut all = Vec::new();
        wait::until("an event", wait::patience(), || {
            all = self.events().unwrap_or_default();
            all.iter().find(|event| wanted(event)).cloned()
        })
        .with_context(|| format!("{} events: {all:#?}", all.len()))
    }

    /// Port of its metrics page, at 127.0.0.1 of the laptop.
    pub fn metrics_port(&self) -> u16 {
        self.metrics
    }

    /// The metrics page.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let port = self.metrics;
        let mut stream = self
            .ns
            .run(|| Ok(TcpStream::connect(("127.0.0.1", port))?))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let (head, body) = page
            .split_once("\r\n\r\n")
            .context("a page without a head")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("metrics: {head}");
        }
        Ok(body.to_owned())
    }

    /// Sum of the samples of a metric whose labels contain every one of `labels`
    /// (`agent="a"`).
    ///
    /// # Errors
    /// As [`Daemon::metrics`].
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let page = self.metrics()?;
        Ok(page
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// `exeat teardown`.
    ///
    /// # Errors
    /// With what it said.
    pub fn teardown(&self) -> anyhow::Result<()> {
        let output = self.cli(&["teardown"]).output()?;
        if !output.status.success() {
            bail!(
                "exeat teardown: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Keeps a process of the agent alive, and with it the agent's cgroup, which is collected
    /// with its last process. Fixtures that make a run by hand need it.
    ///
    /// # Errors
    /// When it does not start, or does not become the agent.
    pub fn hold(&self, agent: &str) -> anyhow::Result<Holder> {
        let argv = ["/bin/sh", "-c", "echo; exec sleep 600"].map(str::to_owned);
        let mut command = self.run_command(agent, PLAIN_USER, &argv);
        let mut holder = Holder(command.stdout(Stdio::piped()).spawn()?);
        // It is moved before it is told so, and ends if it is never told: a test may kill the
        // daemon between the two.
        let mut line = holder.0.stdout.take().context("no standard output")?;
        line.read_exact(&mut [0])
            .context("the process of the agent ended")?;
        Ok(holder)
    }

    /// A puppet as an agent and an ordinary user.
    ///
    /// # Errors
    /// When it does not start.
    pub fn puppet(&self, agent: &str) -> anyhow::Result<Puppet> {
        Puppet::start(self.run_command(agent, PLAIN_USER, &puppet::arguments()))
    }

    /// Writes a policy and has it put in force.
    ///
    /// # Errors
    /// With what `exeat reload` said.
    pub fn enforce(&self, policy: &str) -> anyhow::Result<()> {
        self.write_policy(policy)?;
        let output = self.reload()?;
        if !output.status.success() {
            bail!("reload: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Where the metrics page is.
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics)
    }

    /// How attacks are started as the agent `agent` of this daemon.
    pub fn launcher<'a>(&'a self, agent: &'a str) -> AsAgent<'a> {
        AsAgent {
            daemon: self,
            agent,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
        if self.child.is_some() && self.stop().is_err() {
            // stop() has killed and reaped it.
            eprintln!("the daemon did not end by itself");
        }
        if self.config().exists()
            && let Err(error) = self.teardown()
        {
            eprintln!("{error}");
        }
        // Or the folder cannot be deleted.
        exeat::audit::release(&self.state_dir());
        // Pins keep programs attached at the cgroup root, so they must not stay whatever
        // teardown did.
        let _ = std::fs::remove_dir_all(&self.bpffs);
        if let Ok(slice) = self.slice() {
            cgroup::remove_tree(&slice);
        }
    }
}

/// A process of an agent that does nothing until this is dropped.
pub struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts attacks through `exeat run`.
pub struct AsAgent<'a> {
    daemon: &'a Daemon,
    agent: &'a str,
}

impl Launch for AsAgent<'_> {
    fn command(&self, root: bool, argv: &[String]) -> Command {
        self.daemon
            .run_command(self.agent, if root { 0 } else { PLAIN_USER }, argv)
    }

    fn before(&self, root: bool, argv: &[String]) -> Command {
        let mut command = self
            .daemon
            .ns
            .command_as(if root { 0 } else { PLAIN_USER }, &argv[0]);
        command.args(&argv[1..]);
        command
    }

    fn join(&self, pid: u32) -> anyhow::Result<()> {
        let run = self
            .daemon
            .slice()?
            .join(self.agent)
            .join(unique::name("joined"));
        // The daemon collects cgroups without a process, and may take this one before its
        // process is in it (seen in a guest).
        let mut last = None;
        wait::until("the process to be in the run", wait::patience(), || {
            last = match std::fs::create_dir(&run) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    Some(error.into())
                }
                _ => cgroup::add(&run, pid).err(),
            };
            last.is_none().then_some(())
        })
        .map_err(|late| last.take().unwrap_or(late))
    }
}
