//! What is written about the sandbox.

use super::At;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// The sandbox that `exeat run` makes.
#[derive(Clone, Debug)]
pub enum SandboxFile {
    /// `none`.
    None,
    /// What it leaves open.
    Openings(Box<OpeningsFile>),
}

impl JsonSchema for SandboxFile {
    fn schema_name() -> Cow<'static, str> {
        "sandbox".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let openings = generator.subschema_for::<OpeningsFile>();
        json_schema!({
            "description": "What the sandbox leaves open, or `none`.",
            "anyOf": [{ "const": "none" }, openings]
        })
    }
}

/// What the sandbox leaves open. Without a key it is whole.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "openings")]
pub struct OpeningsFile {
    /// `hidden` (the default): an empty home but for the usual tools; `read`: it may be read,
    /// but for secrets; `write`: it may be changed, but for secrets and start-up files.
    pub home: Option<At<HomeFile>>,
    /// The folder that the command is started in: `write` (the default), `read`, or
    /// `copy`: a copy is changed, and `exeat workspace` applies it.
    pub project: Option<At<ProjectFile>>,
    /// Files and folders that may be read: absolute, or below `~/`.
    #[schemars(default, schema_with = "paths_schema")]
    pub read: Vec<At<String>>,
    /// Files and folders that may be changed.
    #[schemars(default, schema_with = "paths_schema")]
    pub write: Vec<At<String>>,
    /// Files and folders that are hidden besides the usual secrets.
    #[schemars(default, schema_with = "paths_schema")]
    pub hide: Vec<At<String>>,
    /// Variables of the environment that pass besides the usual ones; a `*` at the end stands
    /// for any ending.
    #[schemars(default, schema_with = "variables_schema")]
    pub environment: Vec<At<String>>,
    /// `host` (the default): the caller's network; `own`: one with loopback alone.
    pub network: Option<At<NetworkFile>>,
    /// What runs by itself outside (Git's hooks, editors' tasks) may be changed in the project.
    pub autorun: Option<At<bool>>,
    /// The user's display: the sockets of Wayland and X11.
    pub display: Option<At<bool>>,
    /// The user's sound: the sockets of PipeWire and PulseAudio.
    pub audio: Option<At<bool>>,
    /// The devices of the graphics card.
    pub gpu: Option<At<bool>>,
    /// The user's SSH agent.
    pub ssh_agent: Option<At<bool>>,
    /// io_uring(7).
    pub io_uring: Option<At<bool>>,
    /// ptrace(2) among the agent's own processes: debuggers.
    pub debug: Option<At<bool>>,
    /// User namespaces of the program's own: the sandboxes of browsers, containers.
    pub user_namespaces: Option<At<bool>>,
    /// Names on D-Bus that may be spoken to, through xdg-dbus-proxy.
    pub dbus: Option<At<DbusFile>>,
}

/// Names on the buses, as in `org.freedesktop.Notifications`; a `.*` at the end stands for all
/// names below.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "dbus")]
pub struct DbusFile {
    /// On the user's session bus.
    #[schemars(default, schema_with = "names_schema")]
    pub session: Vec<At<String>>,
    /// On the system's bus.
    #[schemars(default, schema_with = "names_schema")]
    pub system: Vec<At<String>>,
}

fn names_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_more("^[A-Za-z_-][A-Za-z0-9_-]*(\\.[A-Za-z_-][A-Za-z0-9_-]*)+(\\.\\*)?$")
}

/// What is to be seen of the home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "home", rename_all = "lowercase")]
pub enum HomeFile {
    /// An empty one.
    Hidden,
    /// It may be read.
    Read,
    /// It may be changed.
    Write,
}

/// What may be done with the project folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "project", rename_all = "lowercase")]
pub enum ProjectFile {
    /// It may be changed.
    Write,
    /// It may be read.
    Read,
    /// The command changes a copy, which `exeat workspace` applies.
    Copy,
}

/// The network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "network_namespace", rename_all = "lowercase")]
pub enum NetworkFile {
    /// The caller's.
    Host,
    /// One of its own.
    Own,
}

fn one_or_more(pattern: &str) -> Schema {
    let one = serde_json::json!({ "type": "string", "pattern": pattern });
    json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
}

fn paths_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_more("^(/|~/).")
}

fn variables_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_more("^[A-Za-z_][A-Za-z0-9_]*\\*?$")
}
