//! Limits of an agent, in cgroup v2: written to the agent's own cgroup, so that all of its runs
//! share them. What this machine cannot do is said, each with its reason.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::cgroup::Slice;
use crate::policy::{IoLimits, Limits};

/// The controllers that limits rest on.
pub const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// The period of CPU time, microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// A limit that does not hold, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The key in the policy.
    pub limit: &'static str,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.limit, self.why)
    }
}

/// One file that says a limit.
struct Setting {
    limit: &'static str,
    controller: &'static str,
    file: &'static str,
    /// What is written; `None` for no limit.
    value: Option<String>,
}

fn settings(limits: &Limits) -> Vec<Setting> {
    let setting = |limit, controller, file, value| Setting {
        limit,
        controller,
        file,
        value,
    };
    let text = |n: Option<u64>| n.map(|n| n.to_string());
    let cpu = limits
        .cpu
        .map(|percent| format!("{} {PERIOD}", percent * PERIOD / 100));
    vec![
        setting("memory", "memory", "memory.max", text(limits.memory)),
        setting("swap", "memory", "memory.swap.max", text(limits.swap)),
        setting("cpu", "cpu", "cpu.max", cpu),
        setting("pids", "pids", "pids.max", text(limits.pids)),
    ]
}

fn words(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The controllers that cgroup v2 has here.
pub fn offered(root: &Path) -> BTreeSet<String> {
    words(&root.join("cgroup.controllers"))
}

/// Why a controller is not there.
fn absent(controller: &str) -> String {
    // Subsystem, hierarchy (0 is cgroup v2), cgroups, enabled (proc_cgroup(5)).
    let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let name = if controller == "io" {
        "blkio"
    } else {
        controller
    };
    let line = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name));
    let why = match line.as_deref() {
        Some([_, hierarchy, _, "1"]) if *hierarchy != "0" => {
            ": cgroup v1 has it; boot with `systemd.unified_cgroup_hierarchy=1` or `cgroup_no_v1=all`"
        }
        Some([_, _, _, "0"]) => ": it is turned off; boot without `cgroup_disable=` for it",
        Some(_) => "",
        None => ": this kernel is built without it",
    };
    format!("the controller is not in cgroup v2 here{why}")
}

/// The limits that this machine cannot do, as far as that shows before anything is set.
pub fn lacking(root: &Path, limits: &Limits) -> Vec<Unmet> {
    let offered = offered(root);
    let mut unmet: Vec<Unmet> = settings(limits)
        .into_iter()
        .filter(|setting| setting.value.is_some() && !offered.contains(setting.controller))
        .map(|setting| Unmet {
            limit: setting.limit,
            why: absent(setting.controller),
        })
        .collect();
    if limits.io != IoLimits::default() {
        if !offered.contains("io") {
            unmet.push(Unmet {
                limit: "io",
                why: absent("io"),
            });
        } else if disks(Path::new("/sys/block")).is_empty() {
            unmet.push(Unmet {
                limit: "io",
                why: "this machine has no disk of its own to limit".to_owned(),
            });
        }
    }
    unmet
}

/// Puts the limits in force for an agent whose cgroup is there, and takes away those that it
/// has no more. Tells of what does not hold.
pub fn apply(slice: &Slice, agent: &str, limits: &Limits) -> Vec<Unmet> {
    let mut unmet = lacking(slice.root(), limits);
    let folder = slice.folder(agent);
    let offered = offered(slice.root());
    for setting in settings(limits) {
        if !offered.contains(setting.controller) {
            continue;
        }
        let done = match &setting.value {
            Some(value) => enable(slice, setting.controller)
                .and_then(|()| write(&folder.join(setting.file), value)),
            None => unlimited(&folder.join(setting.file), "max"),
        };
        if let Err(error) = done {
            unmet.push(Unmet {
                limit: setting.limit,
                why: refused(setting.file, &error),
            });
        }
    }
    if offered.contains("io")
        && let Err(error) = apply_io(slice, &folder, &limits.io)
    {
        unmet.push(Unmet {
            limit: "io",
            why: refused("io.max", &error),
        });
    }
    unmet
}

fn refused(file: &str, error: &io::Error) -> String {
    match (file, error.kind()) {
        ("memory.swap.max", io::ErrorKind::NotFound) => {
            "this kernel does not count swap by cgroup (boot with `swapaccount=1`)".to_owned()
        }
        _ => format!("the kernel refuses it ({file}: {error})"),
    }
}

/// Has the controller count below the slice.
fn enable(slice: &Slice, controller: &str) -> io::Result<()> {
    for folder in [slice.root(), slice.path()] {
        let file = folder.join("cgroup.subtree_control");
        if !words(&file).contains(controller) {
            write(&file, &format!("+{controller}"))?;
        }
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::options().write(true).open(file)?;
    file.write_all(text.as_bytes())
}

/// A limit that was never set has no file where its controller does not count.
fn unlimited(file: &Path, text: &str) -> io::Result<()> {
    match write(file, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A limit for each disk: bandwidth of a partition or a mapping counts at its disk.
fn apply_io(slice: &Slice, folder: &Path, io: &IoLimits) -> io::Result<()> {
    let file = folder.join("io.max");
    if *io == IoLimits::default() {
        // One line for each disk that has a limit.
        let text = fs::read_to_string(&file).unwrap_or_default();
        for disk in text.lines().filter_map(|line| line.split(' ').next()) {
            unlimited(&file, &io_line(disk, io))?;
        }
        return Ok(());
    }
    enable(slice, "io")?;
    for disk in disks(Path::new("/sys/block")) {
        write(&file, &io_line(&disk, io))?;
    }
    Ok(())
}

fn io_line(disk: &str, io: &IoLimits) -> String {
    let value = |n: Option<u64>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
    format!(
        "{disk} rbps={} wbps={} riops={} wiops={}",
        value(io.read),
        value(io.write),
        value(io.read_ops),
        value(io.write_ops)
    )
}

/// Major and minor number of every physical disk: those that have a device behind them.
fn disks(block: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(block) else {
        return Vec::new();
    };
    let physical = |path: &PathBuf| path.join("device").exists();
    let mut disks: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(physical)
        .filter_map(|path| fs::read_to_string(path.join("dev")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    disks.sort();
    disks
}

/// How often limits of an agent were hit, since its cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Hits {
    /// Processes that were ended for want of memory.
    pub oom_kill: u64,
    /// Times that nothing could be had though everything was given back.
    pub oom: u64,
    /// Times that memory had to be given back at the limit.
    pub memory_max: u64,
    /// Times that a process or thread was not started.
    pub pids_max: u64,
}

fn field(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// What the kernel counts of an agent's limits.
pub fn hits(folder: &Path) -> Hits {
    let memory = folder.join("memory.events");
    Hits {
        oom_kill: field(&memory, "oom_kill"),
        oom: field(&memory, "oom"),
        memory_max: field(&memory, "max"),
        pids_max: field(&folder.join("pids.events"), "max"),
    }
}

/// What an agent uses of a limit now, in words; `None` where nothing counts it.
pub fn used(folder: &Path, limit: &str) -> Option<String> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let bytes = |file: &str| {
        let n: u64 = read(file)?.trim().parse().ok()?;
        Some(format!("{:.1} MiB in use", n as f64 / f64::from(1 << 20)))
    };
    match limit {
        "memory" => bytes("memory.current"),
        "swap" => bytes("memory.swap.current"),
        "pids" => Some(format!("{} in use", read("pids.current")?.trim())),
        "cpu" => {
            let file = folder.join("cpu.stat");
            let seconds = field(&file, "throttled_usec") as f64 / 1e6;
            file.exists()
                .then(|| format!("held back {seconds:.1} s in all"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of plain files: what is written is read back.
    fn tree(offered: &str) -> (tempfile::TempDir, Slice) {
        let root = tempfile::tempdir().expect("folder");
        fs::write(root.path().join("cgroup.controllers"), offered).expect("file");
        let slice = Slice::new(root.path(), "s");
        let agent = slice.path().join("a");
        fs::create_dir_all(&agent).expect("folders");
        for folder in [root.path(), slice.path()] {
            fs::write(folder.join("cgroup.subtree_control"), "").expect("file");
        }
        for file in ["memory.max", "memory.swap.max", "cpu.max", "pids.max"] {
            fs::write(agent.join(file), "").expect("file");
        }
        (root, slice)
    }

    fn all() -> Limits {
        Limits {
            memory: Some(1 << 30),
            swap: Some(0),
            cpu: Some(150),
            pids: Some(7),
            ..Limits::default()
        }
    }

    #[test]
    fn each_limit_is_written_where_its_controller_is() {
        let (_root, slice) = tree("cpu memory pids\n");
        let read = |file: &str| fs::read_to_string(slice.path().join("a").join(file)).expect(file);
        assert_eq!(apply(&slice, "a", &all()), []);
        assert_eq!(read("memory.max"), "1073741824");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("pids.max"), "7");
        let enabled = fs::read_to_string(slice.path().join("cgroup.subtree_control"));
        assert!(enabled.expect("file").contains('+'));
    }

    #[test]
    fn what_this_machine_cannot_do_is_said_of_each() {
        let (_root, slice) = tree("hugetlb pids\n");
        let unmet = apply(&slice, "a", &all());
        let limits: Vec<&str> = unmet.iter().map(|unmet| unmet.limit).collect();
        assert_eq!(limits, ["memory", "swap", "cpu"]);
        for unmet in &unmet {
            let text = unmet.to_string();
            assert!(text.contains("is not in cgroup v2 here"), "{text}");
        }
        let pids = fs::read_to_string(slice.path().join("a/pids.max")).expect("file");
        assert_eq!(pids, "7");
        let io = Limits {
            io: IoLimits {
                read: Some(1),
                ..IoLimits::default()
            },
            ..Limits::default()
        };
        assert_eq!(apply(&slice, "a", &io)[0].limit, "io");
        fs::remove_dir_all(slice.path().join("a")).expect("remove");
        let pids = Limits {
            pids: Some(7),
            ..Limits::default()
        };
        let unmet = apply(&slice, "a", &pids);
        assert!(unmet[0].why.contains("the kernel refuses it"), "{unmet:?}");
    }

    #[test]
    fn disks_are_those_with_a_device() {
        let block = tempfile::tempdir().expect("folder");
        for (name, dev) in [("vda", "254:0"), ("nvme0n1", "259:1"), ("loop0", "7:0")] {
            let folder = block.path().join(name);
            fs::create_dir(&folder).expect("folder");
            fs::write(folder.join("dev"), format!("{dev}\n")).expect("file");
            if name != "loop0" {
                fs::create_dir(folder.join("device")).expect("folder");
            }
        }
        assert_eq!(disks(block.path()), ["254:0", "259:1"]);
        let io = IoLimits {
            read: Some(5),
            write_ops: Some(6),
            ..IoLimits::default()
        };
        assert_eq!(
            io_line("254:0", &io),
            "254:0 rbps=5 wbps=max riops=max wiops=6"
        );
    }

    #[test]
    fn hits_are_read_by_their_words() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(
            folder.path().join("memory.events"),
            "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n",
        )
        .expect("file");
        fs::write(folder.path().join("pids.events"), "max 9\n").expect("file");
        let expected = Hits {
            oom_kill: 2,
            oom: 3,
            memory_max: 4,
            pids_max: 9,
        };
        assert_eq!(hits(folder.path()), expected);
        assert_eq!(hits(Path::new("/nonexistent")), Hits::default());
    }
}
