//! What this kernel can do, found by trying and never by its version.

use std::{fs, io, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};
use serde::Serialize;

use super::{
    KernelError, cgroup,
    trial::Trial,
    walls::{LsmWall, Standing},
};
use crate::{
    error::chain,
    launch::trial::{Outcome, Part},
};

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// It is there.
    Ok,
    /// It is not there, and something optional is missing for it.
    Missing,
    /// It is not there, and Exeat cannot enforce without it.
    Required,
}

/// One thing that was tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was tried.
    pub feature: &'static str,
    /// The outcome.
    pub grade: Grade,
    /// What was seen.
    pub detail: String,
    /// What to change; empty where there is nothing to change.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub advice: &'static str,
}

/// Tries everything that enforcement rests on. Needs root for most of it.
pub fn probe(bpffs: &Path) -> Vec<Finding> {
    let mut findings = vec![privilege(), cgroup2(), bpffs_at(bpffs)];
    for (feature, kind, grade) in [
        (
            "programs on connect, send and bind (cgroup_sock_addr)",
            ProgramType::CgroupSockAddr,
            Grade::Required,
        ),
        (
            "programs on packets (cgroup_skb)",
            ProgramType::CgroupSkb,
            Grade::Required,
        ),
        (
            "programs on socket creation (cgroup_sock)",
            ProgramType::CgroupSock,
            Grade::Required,
        ),
        (
            "programs on socket options (cgroup_sockopt)",
            ProgramType::CgroupSockopt,
            Grade::Required,
        ),
    ] {
        findings.push(program(feature, kind, grade));
    }
    for (feature, kind) in [
        ("hash maps", MapType::Hash),
        ("prefix tries", MapType::LpmTrie),
        ("maps of maps", MapType::ArrayOfMaps),
        ("socket storage", MapType::SkStorage),
        ("ring buffer", MapType::RingBuf),
    ] {
        findings.push(map(feature, kind));
    }
    findings.push(file(
        "kernel type information (BTF)",
        "/sys/kernel/btf/vmlinux",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    ));
    findings.push(unprivileged_bpf());
    findings
}

/// What came of trying Exeat's own programs: whether all load, and what they leave out.
pub fn own_programs(trials: &Result<Vec<Trial>, KernelError>) -> Vec<Finding> {
    let feature = "Exeat's programs";
    let advice = "send the output of `sudo exeat doctor --output json` to whoever maintains Exeat";
    let trials = match trials {
        Ok(trials) if trials.is_empty() => return Vec::new(),
        Ok(trials) => trials,
        Err(error) => return vec![lacks(feature, Grade::Required, chain(error), advice)],
    };
    let refused: Vec<String> = trials
        .iter()
        .filter_map(|trial| Some(format!("{}: {}", trial.program, trial.error.as_ref()?)))
        .collect();
    let mut findings = vec![if refused.is_empty() {
        ok(feature, format!("all {} load", trials.len()))
    } else {
        let detail = format!(
            "{} of {} are refused: {}",
            refused.len(),
            trials.len(),
            refused.join("; ")
        );
        lacks(feature, Grade::Required, detail, advice)
    }];
    for trial in trials {
        for lost in &trial.leaves_out {
            findings.push(lacks(
                trial.program,
                Grade::Missing,
                format!("this kernel does not tell it {lost}"),
                "use a newer kernel",
            ));
        }
    }
    findings
}

/// What came of trying the walls of BPF LSM: a finding for each.
pub fn lsm_walls(walls: &Result<Vec<(&'static LsmWall, Standing)>, KernelError>) -> Vec<Finding> {
    const ADVICE: &str = "boot a kernel that has BPF LSM with `bpf` among the words of `lsm=`; programs that `exeat run` starts have the launcher's walls all the same";
    let walls = match walls {
        Ok(walls) => walls,
        Err(error) => {
            return vec![lacks(
                "walls of BPF LSM",
                Grade::Missing,
                chain(error),
                ADVICE,
            )];
        }
    };
    walls
        .iter()
        .map(|(wall, standing)| match standing {
            Standing::Up => ok(wall.name, format!("can close {}", wall.closes)),
            Standing::Missing(why) | Standing::Failed(why) => lacks(
                wall.name,
                Grade::Missing,
                format!("leaves open {}: {why}", wall.closes),
                ADVICE,
            ),
        })
        .collect()
}

/// What came of hiding the machine's services from an ordinary user's program.
pub fn services(attempt: Result<(), (io::Error, &'static str)>) -> Finding {
    let feature = "a /run without the machine's services, for agents of ordinary users";
    match attempt {
        Ok(()) => ok(feature, "works"),
        Err((error, advice)) => {
            let detail = format!(
                "{error}: `exeat run` starts nothing without `services: all` in its policy"
            );
            lacks(feature, Grade::Missing, detail, advice)
        }
    }
}

/// What came of trying the sandbox of `exeat run`, part by part.
pub fn sandbox(attempt: io::Result<Vec<Outcome>>) -> Vec<Finding> {
    match attempt {
        Ok(outcomes) => outcomes
            .into_iter()
            .map(|outcome| match outcome.works {
                true => ok(outcome.part.name(), outcome.detail),
                false => {
                    let consequence = match outcome.part {
                        Part::Network => {
                            "agents with `network: own` in their policy are not started"
                        }
                        Part::Landlock => "the other walls of the sandbox stand alone there",
                        _ => "`exeat run` starts nothing without `sandbox: none` in its policy",
                    };
                    let detail = format!("{}: {consequence}", outcome.detail);
                    lacks(
                        outcome.part.name(),
                        Grade::Missing,
                        detail,
                        outcome.part.advice(),
                    )
                }
            })
            .collect(),
        Err(error) => vec![lacks(
            "the sandbox",
            Grade::Missing,
            format!("cannot be tried: {error}"),
            "let this user have more processes",
        )],
    }
}

/// Which limits of a policy this machine can do.
pub fn limits() -> Finding {
    let feature = "limits on memory, cpu, pids and io (cgroup v2 controllers)";
    let offered = cgroup::cgroup2_root()
        .map(|root| super::limits::offered(&root))
        .unwrap_or_default();
    let missing: Vec<&str> = super::limits::CONTROLLERS
        .into_iter()
        .filter(|name| !offered.contains(*name))
        .collect();
    match missing.is_empty() {
        true => ok(feature, "all are there"),
        false => lacks(
            feature,
            Grade::Missing,
            format!(
                "not in cgroup v2 here: {}; those limits of a policy do not hold",
                missing.join(", ")
            ),
            "boot with systemd.unified_cgroup_hierarchy=1, or with cgroup_no_v1=all",
        ),
    }
}

/// Whether nothing that is required is missing.
pub fn can_enforce(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.grade != Grade::Required)
}

fn ok(feature: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        feature,
        grade: Grade::Ok,
        detail: detail.into(),
        advice: "",
    }
}

fn lacks(
    feature: &'static str,
    grade: Grade,
    detail: impl Into<String>,
    advice: &'static str,
) -> Finding {
    Finding {
        feature,
        grade,
        detail: detail.into(),
        advice,
    }
}

fn privilege() -> Finding {
    let feature = "privilege to load programs";
    if nix::unistd::geteuid().is_root() {
        ok(feature, "running as root")
    } else {
        lacks(
            feature,
            Grade::Required,
            "not running as root, so the tries below say little",
            "run `sudo exeat doctor`",
        )
    }
}

fn cgroup2() -> Finding {
    let feature = "cgroup2 hierarchy";
    match cgroup::cgroup2_root() {
        Ok(root) => ok(feature, format!("mounted at {}", root.display())),
        Err(_) => lacks(
            feature,
            Grade::Required,
            "no cgroup2 file system is mounted",
            "mount one: `mount -t cgroup2 none /sys/fs/cgroup`, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

fn bpffs_at(root: &Path) -> Finding {
    let feature = "BPF file system for pins";
    let parent = root.parent().unwrap_or(root);
    match super::pins::is_bpffs(parent) {
        Ok(true) => ok(feature, format!("mounted at {}", parent.display())),
        _ => ok(
            feature,
            format!("not mounted at {}; the daemon mounts it", parent.display()),
        ),
    }
}

fn program(feature: &'static str, kind: ProgramType, grade: Grade) -> Finding {
    match is_program_supported(kind) {
        Ok(true) => ok(feature, "a program of this type loads"),
        Ok(false) => lacks(
            feature,
            grade,
            "the kernel refuses programs of this type",
            "use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL",
        ),
        Err(e) => lacks(
            feature,
            grade,
            format!("cannot be tried: {}", chain(&e)),
            "run as root, and see whether a security module or container forbids bpf(2)",
        ),
    }
}

fn map(feature: &'static str, kind: MapType) -> Finding {
    match is_map_supported(kind) {
        Ok(true) => ok(feature, "a map of this type can be made"),
        Ok(false) => lacks(
            feature,
            Grade::Required,
            "the kernel refuses maps of this type",
            "use a newer kernel",
        ),
        Err(e) => lacks(
            feature,
            Grade::Required,
            format!("cannot be tried: {}", chain(&e)),
            "run as root, and see whether a security module or container forbids bpf(2)",
        ),
    }
}

fn file(feature: &'static str, path: &str, advice: &'static str) -> Finding {
    if Path::new(path).exists() {
        ok(feature, path)
    } else {
        lacks(
            feature,
            Grade::Required,
            format!("{path} is not there"),
            advice,
        )
    }
}

fn unprivileged_bpf() -> Finding {
    let feature = "bpf(2) closed to ordinary users";
    match fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Ok(value) if value.trim() != "0" => ok(
            feature,
            format!("kernel.unprivileged_bpf_disabled = {}", value.trim()),
        ),
        Ok(_) => lacks(
            feature,
            Grade::Missing,
            "kernel.unprivileged_bpf_disabled = 0",
            "set kernel.unprivileged_bpf_disabled=2 in /etc/sysctl.d",
        ),
        Err(_) => ok(feature, "this kernel has no such switch"),
    }
}
