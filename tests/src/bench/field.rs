//! What is measured on: cgroups, network namespaces, Exeat with three agents, the empty
//! programs and nftables, and the switch between them.
//!
//! ```text
//! column     programs attached      cgroup of the process      network namespace
//! nothing    none                   bystander                  plain
//! empty      empty ones             agent                      plain
//! exeat      Exeat's                agent                      plain
//! outside    Exeat's                bystander                  plain
//! nftables   none                   agent                      one with the set
//! ```
//!
//! In the plain namespace, as in the others, every IPv4 address is local, so that any
//! address of a list can be asked, and the answer comes from the same kernel.

use crate::bpf::{Empty, detach_all};
use crate::lists::{List, image};
use crate::nft;
use crate::sock::Socket;
use anyhow::Context;
use aya::programs::Program;
use exeat::kernel::Kernel;
use exeat::kernel::cgroup::{Slice, cgroup2_root};
use exeat::kernel::object::Throttle;
use exeat::kernel::pins::Pins;
use exeat::policy::Compiled;
use exeat_tests::ns::Ns;
use std::path::{Path, PathBuf};

/// What stands around the measured call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Column {
    /// No programs, no rules.
    Nothing,
    /// Programs that do nothing.
    Empty,
    /// Exeat, for one of its agents.
    Exeat,
    /// Exeat, for a process that it does not govern.
    Outside,
    /// nftables with the same set.
    Nftables,
}

impl Column {
    /// In tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Empty => "empty programs",
            Self::Exeat => "exeat",
            Self::Outside => "exeat, ungoverned",
            Self::Nftables => "nftables",
        }
    }
}

/// A network namespace with something that listens.
pub(crate) struct Net {
    /// The namespace.
    pub(crate) ns: Ns,
    /// Takes TCP connections to any address.
    pub(crate) listener: Socket,
    _swallower: Socket,
}

impl Net {
    fn new() -> anyhow::Result<Self> {
        let ns = Ns::new()?;
        ns.ip("link set lo up")?;
        ns.ip("route add local 0.0.0.0/0 dev lo")?;
        // A million destinations would fill the kernel's memory of past connections.
        ns.sysctl("ipv4/tcp_no_metrics_save", "1")?;
        let (listener, swallower) = ns.run(|| Ok((Socket::listener()?, Socket::swallower()?)))?;
        Ok(Self {
            ns,
            listener,
            _swallower: swallower,
        })
    }
}

/// A list, and the agent that is governed by it.
pub(crate) struct Agent {
    /// The list.
    pub(crate) list: List,
    run: PathBuf,
    nft: Option<Net>,
    /// Why there is no nftables column.
    pub(crate) without_nft: Option<String>,
}

/// Everything; released when dropped.
pub(crate) struct Field {
    /// Exeat's kernel side.
    pub(crate) kernel: Kernel,
    /// The empty programs.
    pub(crate) empty: Empty,
    /// One agent a list, by index.
    pub(crate) agents: Vec<Agent>,
    /// The plain namespace.
    pub(crate) plain: Net,
    pins: Pins,
    root: PathBuf,
    home: PathBuf,
    bystander: PathBuf,
}

const PREFIX: &str = "exeat-bench-";

fn name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

impl Field {
    /// Makes it, with a list of each size; nftables only where `nft` says so.
    pub(crate) fn new(
        sizes: &[usize],
        throttle: Throttle,
        object: &Path,
        nft: impl Fn(usize) -> bool,
    ) -> anyhow::Result<Self> {
        let root = cgroup2_root()?;
        sweep(&root);
        let home = root.join(own_cgroup()?.trim_start_matches('/'));
        let slice = Slice::new(&root, &format!("{}.slice", name()));
        let bystander = root.join(format!("{}-aside", name())).join("a/b");
        let pins = Pins::new(Path::new("/sys/fs/bpf").join(name()));
        let mut field = Self {
            kernel: Kernel::load(slice.clone(), pins.clone(), throttle)?,
            empty: Empty::load(object)?,
            agents: Vec::new(),
            plain: Net::new()?,
            pins,
            root,
            home,
            bystander,
        };
        std::fs::create_dir_all(&field.bystander)
            .with_context(|| format!("mkdir {}", field.bystander.display()))?;
        for (index, size) in (0..).zip(sizes) {
            let agent = field.agent(&slice, index, *size, nft(*size))?;
            field.agents.push(agent);
        }
        Ok(field)
    }

    fn agent(
        &mut self,
        slice: &Slice,
        index: u32,
        size: usize,
        nft: bool,
    ) -> anyhow::Result<Agent> {
        let list = List::new(size);
        let policy = list.policy("bench")?;
        let run = slice.create_run(&format!("agent-{index}"))?;
        let image = image(&Compiled::new(&policy)?, 1);
        drop(policy);
        let prepared = self.kernel.prepare(index, &image)?;
        self.kernel.flip(prepared)?;
        self.kernel.admit(run.agent_id, index)?;
        let mut agent = Agent {
            list,
            run: run.path,
            nft: None,
            without_nft: None,
        };
        if nft {
            let net = Net::new()?;
            let place = format!("{}/agent-{index}", slice.name());
            match nft::load(&net.ns, &agent.list, &place) {
                Ok(()) => agent.nft = Some(net),
                Err(why) => agent.without_nft = Some(format!("{why:#}")),
            }
        }
        Ok(agent)
    }

    /// Number of lists.
    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether the column can be measured for the list at `index`.
    pub(crate) fn has(&self, column: Column, index: usize) -> bool {
        column != Column::Nftables || self.agents[index].nft.is_some()
    }

    /// The program that a column has at a hook.
    pub(crate) fn program(&self, column: Column, hook: &str) -> anyhow::Result<&Program> {
        match column {
            Column::Empty => self.empty.program(hook),
            _ => self
                .kernel
                .program(&format!("exeat_{hook}"))
                .with_context(|| format!("no program for {hook}")),
        }
    }

    /// Runs `measure` in a column, on a thread in its network namespace.
    pub(crate) fn within<T: Send>(
        &mut self,
        column: Column,
        index: usize,
        measure: impl FnOnce(&Self, &Agent, &Net) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        match column {
            Column::Nothing | Column::Nftables => {}
            Column::Empty => self.empty.attach(&self.root, self.kernel.slice().path())?,
            Column::Exeat | Column::Outside => self.kernel.enforce()?,
        }
        let result = self.measured(column, index, measure);
        match column {
            Column::Nothing | Column::Nftables => {}
            Column::Empty => self.empty.detach(),
            Column::Exeat | Column::Outside => detach_all(&self.pins.links())?,
        }
        result
    }

    fn measured<T: Send>(
        &self,
        column: Column,
        index: usize,
        measure: impl FnOnce(&Self, &Agent, &Net) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let agent = &self.agents[index];
        let (cgroup, net) = match column {
            Column::Nothing | Column::Outside => (&self.bystander, &self.plain),
            Column::Empty | Column::Exeat => (&agent.run, &self.plain),
            Column::Nftables => (&agent.run, agent.nft.as_ref().context("no nftables here")?),
        };
        let _home = Visit::to(cgroup, &self.home)?;
        // A namespace and a CPU belong to a thread, so the measuring is done by one.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    net.ns.enter()?;
                    settle();
                    measure(self, agent, net)
                })
                .join()
                .map_err(|_| anyhow::anyhow!("a measuring thread panicked"))?
        })
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        // The pins are in a mount namespace of our own and would go with it; the cgroups
        // would not.
        let links = detach_all(&self.pins.links());
        let pins = self.pins.remove();
        for (what, failed) in [("links", links.err()), ("pins", pins.err().map(Into::into))] {
            if let Some(why) = failed {
                eprintln!("the {what} of the benchmark stay until it ends: {why:#}");
            }
        }
        remove_folders(self.kernel.slice().path());
        if let Some(aside) = self.bystander.ancestors().nth(2) {
            remove_folders(aside);
        }
    }
}

/// The process in a cgroup; back home when dropped.
struct Visit<'a>(&'a Path);

impl<'a> Visit<'a> {
    fn to(cgroup: &Path, home: &'a Path) -> anyhow::Result<Self> {
        join(cgroup)?;
        Ok(Self(home))
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Err(why) = join(self.0) {
            eprintln!("{why:#}");
        }
    }
}

fn join(cgroup: &Path) -> anyhow::Result<()> {
    exeat_tests::cgroup::add(cgroup, std::process::id())
}

/// Path of this process below the cgroup2 root.
fn own_cgroup() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .context("this process has no cgroup2")
}

/// Stays on the last CPU: a move in the middle would be measured.
fn settle() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = nix::sched::CpuSet::new();
    // Where it is not allowed the measuring is only noisier.
    if set.set(cpus - 1).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
    }
}

/// Removes what a benchmark that was killed has left: cgroups named for a process that is
/// no more.
fn sweep(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split(['.', '-']).next());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            remove_folders(&entry.path());
        }
    }
}

/// Removes empty cgroups, the deepest first. One that is not empty stays.
fn remove_folders(path: &Path) {
    if let Ok(entries) = std::fs::read_dir(path) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_folders(&entry.path());
            }
        }
    }
    if let Err(why) = std::fs::remove_dir(path)
        && why.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("cgroup {} stays behind: {why}", path.display());
    }
}
