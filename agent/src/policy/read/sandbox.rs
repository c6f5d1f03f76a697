//! What is said about the sandbox.

use super::super::file::{
    At, DbusFile, HomeFile, NetworkFile, OpeningsFile, ProjectFile, SandboxFile,
};
use super::super::sandbox;
use super::super::tree::{Node, Value};
use super::{DBUS_KEYS, Fields, Reader, SANDBOX_KEYS, shown};

const HELP: &str = "write what is to be open, as in `sandbox: {home: read}`, or `sandbox: none`";

impl Reader<'_> {
    pub(super) fn sandbox(&mut self, node: Node, what: &str) -> Option<At<SandboxFile>> {
        let at = node.at;
        let value = match node.value {
            Value::Null => SandboxFile::Openings(Box::default()),
            Value::Text(text) if text == "none" => SandboxFile::None,
            Value::Text(text) => {
                self.error(at, format!("`{}` is no sandbox", shown(&text)), HELP);
                return None;
            }
            value => {
                let what = format!("`sandbox` of {what}");
                let mut fields = self.fields(Node { at, value }, &what, SANDBOX_KEYS, HELP)?;
                SandboxFile::Openings(Box::new(self.openings(&mut fields)))
            }
        };
        Some(At { value, at })
    }

    fn openings(&mut self, fields: &mut Fields) -> OpeningsFile {
        const HOMES: [(&str, HomeFile); 3] = [
            ("hidden", HomeFile::Hidden),
            ("read", HomeFile::Read),
            ("write", HomeFile::Write),
        ];
        const PROJECTS: [(&str, ProjectFile); 3] = [
            ("write", ProjectFile::Write),
            ("read", ProjectFile::Read),
            ("copy", ProjectFile::Copy),
        ];
        const NETWORKS: [(&str, NetworkFile); 2] =
            [("host", NetworkFile::Host), ("own", NetworkFile::Own)];
        let home = fields.take("home");
        let project = fields.take("project");
        let network = fields.take("network");
        let mut list = |reader: &mut Self, key, parse| {
            let node = fields.take(key);
            node.map_or_else(Vec::new, |node| reader.parsed(node, key, parse))
        };
        let read = list(self, "read", sandbox::path as Parse);
        let write = list(self, "write", sandbox::path);
        let hide = list(self, "hide", sandbox::path);
        let environment = list(self, "environment", sandbox::variable);
        let dbus = fields.take("dbus");
        let mut switch = |reader: &mut Self, key| {
            let node = fields.take(key)?;
            reader.switch(node, key)
        };
        OpeningsFile {
            home: home.and_then(|node| self.word(node, "home", &HOMES)),
            project: project.and_then(|node| self.word(node, "project", &PROJECTS)),
            network: network.and_then(|node| self.word(node, "network", &NETWORKS)),
            read,
            write,
            hide,
            environment,
            autorun: switch(self, "autorun"),
            display: switch(self, "display"),
            audio: switch(self, "audio"),
            gpu: switch(self, "gpu"),
            ssh_agent: switch(self, "ssh_agent"),
            io_uring: switch(self, "io_uring"),
            debug: switch(self, "debug"),
            user_namespaces: switch(self, "user_namespaces"),
            dbus: dbus.and_then(|node| self.dbus(node)),
        }
    }

    fn dbus(&mut self, node: Node) -> Option<At<DbusFile>> {
        const HELP: &str = "write names, as in `dbus: {session: [org.freedesktop.Notifications]}`";
        let at = node.at;
        if matches!(node.value, Value::Null) {
            let value = DbusFile::default();
            return Some(At { value, at });
        }
        let mut fields = self.fields(node, "`dbus` of a sandbox", DBUS_KEYS, HELP)?;
        let mut names = |reader: &mut Self, key| {
            let node = fields.take(key);
            node.map_or_else(Vec::new, |node| reader.parsed(node, key, sandbox::bus_name))
        };
        let value = DbusFile {
            session: names(self, "session"),
            system: names(self, "system"),
        };
        Some(At { value, at })
    }

    fn switch(&mut self, node: Node, key: &str) -> Option<At<bool>> {
        match node.value {
            Value::Bool(value) => Some(At { value, at: node.at }),
            other => {
                self.error(
                    node.at,
                    format!("`{key}` is {}", other.kind()),
                    format!("write `{key}: true`, or leave the key out"),
                );
                None
            }
        }
    }

    /// One text or a list of them, each in its shortest form.
    fn parsed(&mut self, node: Node, key: &str, parse: Parse) -> Vec<At<String>> {
        let at = node.at;
        let nodes = match node.value {
            Value::Null => Vec::new(),
            Value::List(nodes) => nodes,
            value => vec![Node { at, value }],
        };
        nodes
            .into_iter()
            .filter_map(|node| match node.value {
                Value::Text(text) => match parse(&text) {
                    Ok(value) => Some(At { value, at: node.at }),
                    Err((wrong, help)) => {
                        self.error(node.at, format!("`{}` {wrong}", shown(&text)), help);
                        None
                    }
                },
                other => {
                    let message = format!("`{key}` holds {}, not text", other.kind());
                    self.error(node.at, message, "write text, or a list of texts");
                    None
                }
            })
            .collect()
    }
}

type Parse = fn(&str) -> Result<String, (&'static str, String)>;
