//! `exeat doctor`.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure,
    output::{Format, Style, Tone, print, print_json},
};
use crate::{
    config::Config,
    control::{Client, Request, Response, status::Status},
    kernel::{
        probe::{self, Finding, Grade},
        trial::{self, Trial},
    },
    launch,
};

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct DoctorArgs {
    /// Print for people, or JSON for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

#[derive(Serialize)]
struct Report {
    can_enforce: bool,
    kernel: String,
    findings: Vec<Finding>,
    /// Exeat's own programs, each as this kernel takes it; empty without root.
    programs: Vec<Trial>,
    /// What holds now, if a daemon runs.
    enforcing: Option<bool>,
    daemon: Option<Status>,
    /// What no version of Exeat stops on this machine yet, in words.
    limits: &'static [&'static str],
}

/// What this version leaves open, whatever the kernel can do. The README says the same.
pub const LIMITS: &[&str] = &[
    "With `sandbox: none`, and without the sandbox of `exeat run`, an agent that runs as root can leave its cgroup, load programs and open packet sockets; an ordinary user's reaches the unix sockets of the user's own services (below `/run/user`, the desktop, an SSH agent), the user's files, and sockets that no cgroup hook sees (AF_VSOCK, Bluetooth, netlink).",
    "A service behind an opening (`display`, `audio`, `ssh_agent`, a socket that `services` names) does what the agent asks of it, in a cgroup of its own.",
    "Before Linux 6.12, or without Landlock, an agent in the sandbox reaches abstract unix sockets of its network namespace, which is the machine's without `network: own`.",
    "A socket that another process connects and then passes in by SCM_RIGHTS is judged when it connects or sends to an address, not for what an already connected TCP socket carries.",
    "A rule by host name where no name is read (other ports than 443 and 80 unless it says `tls: sni` or `http: host`, with `tls: none` or `http: none`, and UDP) allows the addresses of the name; another tenant of the same address can be reached through it.",
];

/// Tries, and says what can be enforced: exit 0, or 3 where something required is missing
/// or a running daemon does not enforce.
pub fn run(config: &Config, args: &DoctorArgs) -> Result<Exit, Failure> {
    let mut findings = probe::probe(&config.bpffs);
    let programs = match nix::unistd::geteuid().is_root() {
        true => trial::programs(),
        false => Ok(Vec::new()),
    };
    findings.extend(probe::own_programs(&programs));
    if nix::unistd::geteuid().is_root() {
        findings.extend(probe::lsm_walls(&trial::walls()));
    }
    findings.push(probe::services(launch::services::attempt()));
    findings.extend(probe::sandbox(launch::trial::attempt()));
    findings.push(probe::limits());
    let programs = programs.unwrap_or_default();
    let daemon = Client::connect(&config.socket_path())
        .and_then(|mut client| client.ask(&Request::Status {}))
        .ok()
        .and_then(|answer| match answer {
            Response::Status(status) => Some(*status),
            _ => None,
        });
    let report = Report {
        can_enforce: probe::can_enforce(&findings),
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        findings,
        programs,
        enforcing: daemon.as_ref().map(|status| status.enforcement.active),
        daemon,
        limits: LIMITS,
    };
    match args.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&render(&report, Style::stdout()))?,
    }
    Ok(if report.can_enforce && report.enforcing != Some(false) {
        Exit::Ok
    } else {
        Exit::Degraded
    })
}

fn render(report: &Report, style: Style) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "Kernel {}", report.kernel);
    for finding in &report.findings {
        let (tone, word) = match finding.grade {
            Grade::Ok => (Tone::Good, "ok"),
            Grade::Missing => (Tone::Warn, "missing"),
            Grade::Required => (Tone::Bad, "FAILS"),
        };
        let _ = writeln!(
            text,
            "  {} {}: {}",
            style.paint(tone, &format!("{word:<7}")),
            finding.feature,
            finding.detail
        );
        if !finding.advice.is_empty() {
            let _ = writeln!(text, "          to change it: {}", finding.advice);
        }
    }
    let verdict = if report.can_enforce {
        style.paint(
            Tone::Good,
            "This kernel can enforce everything that this version enforces.",
        )
    } else {
        style.paint(
            Tone::Bad,
            "Exeat cannot enforce here: see what FAILS above.",
        )
    };
    let _ = writeln!(text, "{verdict}");
    match report.enforcing {
        None => {
            let _ = writeln!(
                text,
                "No daemon runs, or it does not answer us: start it with `sudo exeat daemon`."
            );
        }
        Some(true) => {
            let _ = writeln!(
                text,
                "The daemon enforces: see `exeat status` for its walls."
            );
        }
        Some(false) => {
            let _ = writeln!(
                text,
                "{}",
                style.paint(
                    Tone::Bad,
                    "The daemon does not enforce: see `exeat status`."
                )
            );
        }
    }
    let _ = writeln!(text, "What this version does not stop:");
    for limit in report.limits {
        let _ = writeln!(text, "  - {limit}");
    }
    text
}
