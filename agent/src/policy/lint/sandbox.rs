//! What each opening of a sandbox lets out.

use super::super::diagnostic::Pos;
use super::super::file::{At, DbusFile, HomeFile, OpeningsFile, SandboxFile};
use super::super::model::Policy;
use super::super::sandbox;
use agent_common::layout::Mode;

/// Place, message and help of every warning about the sandbox.
pub(crate) fn sandbox(policy: &Policy, file: &At<SandboxFile>) -> Vec<(Pos, String, String)> {
    let name = &policy.name;
    match &file.value {
        SandboxFile::None => vec![(
            file.at,
            format!(
                "agent `{name}` runs without a sandbox: it reads and changes every file of its user, sees their other programs, and asks them to act for it"
            ),
            "name what it needs instead, as in `sandbox: {home: read, write: [~/notes]}`"
                .to_owned(),
        )],
        SandboxFile::Openings(_) if policy.mode == Mode::Monitor => vec![(
            file.at,
            format!("agent `{name}` is in monitor mode, where there is no sandbox"),
            "write `mode: enforce` when it is to hold".to_owned(),
        )],
        SandboxFile::Openings(file) => openings(file),
    }
}

const UNLESS: &str = "remove it, unless the agent cannot work without it";

fn openings(file: &OpeningsFile) -> Vec<(Pos, String, String)> {
    let mut warnings = Vec::new();
    let mut warn =
        |at: Pos, message: String, help: &str| warnings.push((at, message, help.to_owned()));
    if let Some(home) = &file.home {
        match home.value {
            HomeFile::Hidden => {}
            HomeFile::Read => warn(
                home.at,
                "the agent reads all of the home but the secrets that Exeat knows: mail, documents, the history of other programs".to_owned(),
                "name what it needs, as in `read: [~/notes]`",
            ),
            HomeFile::Write => warn(
                home.at,
                "the agent changes all of the home but the secrets and start-up files that Exeat knows: what it writes there other programs read and run".to_owned(),
                "name what it needs, as in `write: [~/notes]`",
            ),
        }
    }
    for path in file.read.iter().chain(&file.write) {
        if let Some(secret) = sandbox::found(sandbox::SECRETS, &path.value) {
            warn(
                path.at,
                format!("`{}` gives the agent {}", path.value, secret),
                "name a narrower path, or remove it",
            );
        }
    }
    for path in &file.write {
        if let Some(what) = sandbox::found(sandbox::STARTUP, &path.value) {
            warn(
                path.at,
                format!(
                    "`{}` holds {what}: what the agent writes there runs outside of it",
                    path.value
                ),
                "name it under `read`, or remove it",
            );
        }
    }
    for path in file.hide.iter() {
        let opened = file.read.iter().chain(&file.write);
        if opened.into_iter().any(|open| open.value == path.value) {
            warn(
                path.at,
                format!("`{}` is hidden and opened: it stays hidden", path.value),
                "keep one of the two",
            );
        }
    }
    for variable in &file.environment {
        if variable.value == "*" {
            warn(
                variable.at,
                "every variable passes, those with tokens and with the addresses of other programs too".to_owned(),
                "name the variables that are needed",
            );
        }
    }
    let names = file.dbus.iter().flat_map(|dbus| {
        let DbusFile { session, system } = &dbus.value;
        session.iter().chain(system)
    });
    for name in names {
        warn(
            name.at,
            format!(
                "what answers at `{}` on D-Bus acts outside of the agent, and does what it is asked",
                name.value
            ),
            UNLESS,
        );
    }
    let switches: [(&Option<At<bool>>, &str); 8] = [
        (
            &file.autorun,
            "the agent changes what runs by itself in the project: Git's hooks, editors' tasks, direnv's files run outside of it",
        ),
        (
            &file.display,
            "a program at an X11 display reads every key and types into every window; at a Wayland display it reads the clipboard",
        ),
        (&file.audio, "the agent hears the microphone"),
        (
            &file.gpu,
            "the drivers of graphics cards are large, and what a program finds in them leads into the kernel",
        ),
        (
            &file.ssh_agent,
            "the agent signs with every key of the SSH agent, on every host that a rule allows",
        ),
        (
            &file.io_uring,
            "io_uring passes the filter of system calls by, and is a large part of the kernel",
        ),
        (
            &file.debug,
            "a program of the agent takes over every other of its run",
        ),
        (
            &file.user_namespaces,
            "in a user namespace of its own a program has parts of the kernel in reach that only root has",
        ),
    ];
    for (switch, message) in switches {
        if let Some(at) = switch.as_ref().filter(|at| at.value) {
            warn(at.at, message.to_owned(), UNLESS);
        }
    }
    warnings
}
