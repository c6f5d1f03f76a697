//! `sandbox:` of an agent: what the launcher leaves open to its program.
//!
//! Without a word the sandbox is whole; every field here is one opening, or one path.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The sandbox of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// The program runs as it would without Exeat, but for the network (`sandbox: none`).
    None,
    /// It runs behind every wall, but for these openings.
    Walls(Box<Openings>),
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::Walls(Box::default())
    }
}

/// What a sandbox leaves open. Paths are absolute, or begin with `~/` (the home of whom the
/// command runs as), and are in their shortest form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Openings {
    /// What is to be seen of the home besides the tools in it.
    pub home: Home,
    /// The folder that the command is started in.
    pub project: Project,
    /// Files and folders to be read, also such that are hidden without it.
    pub read: BTreeSet<String>,
    /// Files and folders to be changed.
    pub write: BTreeSet<String>,
    /// Files and folders to be hidden besides the usual secrets.
    pub hide: BTreeSet<String>,
    /// Variables of the environment that pass besides the usual ones; a `*` at the end
    /// stands for any ending.
    pub environment: BTreeSet<String>,
    /// The network namespace.
    pub network: Network,
    /// What runs by itself outside (Git's hooks, editors' tasks) may be changed in the project.
    pub autorun: bool,
    /// The user's display: the sockets of Wayland and X11.
    pub display: bool,
    /// The user's sound: the sockets of PipeWire and PulseAudio.
    pub audio: bool,
    /// The devices of the graphics card.
    pub gpu: bool,
    /// The user's SSH agent.
    pub ssh_agent: bool,
    /// io_uring(7).
    pub io_uring: bool,
    /// ptrace(2) and reading memory of the agent's own processes: debuggers.
    pub debug: bool,
    /// User namespaces of the program's own: browsers' sandboxes, containers.
    pub user_namespaces: bool,
    /// Names on D-Bus that may be spoken to, through a filtering proxy.
    pub dbus: Dbus,
}

/// What is to be seen of the home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// An empty one, but for named paths and the usual tools.
    #[default]
    Hidden,
    /// It may be read, but for secrets.
    Read,
    /// It may be changed, but for secrets and start-up files.
    Write,
}

/// What may be done with the project folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Project {
    /// It may be changed.
    #[default]
    Write,
    /// It may be read.
    Read,
    /// The program changes a copy, and a person applies it (`exeat workspace`).
    Copy,
}

/// The network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The caller's.
    #[default]
    Host,
    /// One of its own with loopback alone.
    Own,
}

/// Names on the buses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dbus {
    /// On the user's session bus.
    pub session: BTreeSet<String>,
    /// On the system's bus.
    pub system: BTreeSet<String>,
}
