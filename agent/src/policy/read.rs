//! From the tree to the types of a policy file. Every mistake is reported and reading
//! goes on with what is left, so that one run shows them all.

use super::diagnostic::{Pos, Report, Source, near, shown};
use super::file::{
    AgentFile, At, EchFile, HttpFile, ListenFile, ModeFile, PolicyFile, PortsFile, ProtocolFile,
    QuicFile, RuleFile, TlsFile, VERSION,
};
use super::ports::{self, PortRange};
use super::tree::{Node, Value};
use std::collections::BTreeMap;

mod ask;
mod dns;
mod gateway;
mod identity;
mod inspect;
mod limits;
mod matching;
mod require;
mod sandbox;
mod services;
mod words;
use words::{one_of, unknown_key, value_help};

pub(crate) const FILE_KEYS: &[&str] = &["version", "agents", "groups"];
pub(crate) const AGENT_KEYS: &[&str] = &[
    "mode", "allow", "deny", "listen", "dns", "services", "gateway", "sandbox", "limits",
    "require", "identity", "match", "ask",
];
pub(crate) const ASK_KEYS: &[&str] = &["who", "timeout"];
pub(crate) const LIMITS_KEYS: &[&str] =
    &["memory", "swap", "cpu", "pids", "io", "open_files", "time"];
pub(crate) const IO_KEYS: &[&str] = &["read", "write", "read_ops", "write_ops"];
pub(crate) const RULE_KEYS: &[&str] = &[
    "host", "cidr", "group", "protocol", "ports", "private", "types", "ech", "tls", "quic", "http",
    "via", "inspect", "reason",
];
/// What only an allow rule for a host may say.
pub(crate) const ANSWER_KEYS: &[&str] =
    &["private", "types", "ech", "tls", "quic", "http", "inspect"];
/// What only an allow rule for tcp may say.
pub(crate) const WAY_KEYS: &[&str] = &["via"];
pub(crate) const LISTEN_KEYS: &[&str] = &["cidr", "ports", "reason"];
pub(crate) const DNS_KEYS: &[&str] = &["refuse", "dnssec", "budget", "over_budget"];
pub(crate) const BUDGET_KEYS: &[&str] = &["names", "bytes", "entropy_bits", "repeat_bits"];
pub(crate) const PROXY_KEYS: &[&str] = &["proxy", "ca", "certificate", "key", "credentials"];
pub(crate) const GATEWAY_KEYS: &[&str] = &["listen"];
pub(crate) const INSPECT_KEYS: &[&str] = &["requests", "strip", "max_body", "patterns", "pins"];
pub(crate) const IDENTITY_KEYS: &[&str] = &["sha256", "package", "minisign", "all"];
pub(crate) const REQUEST_KEYS: &[&str] = &["methods", "path"];
pub(crate) const PATTERN_KEYS: &[&str] = &["name", "regex", "action"];
pub(crate) const SANDBOX_KEYS: &[&str] = &[
    "home",
    "project",
    "read",
    "write",
    "hide",
    "environment",
    "network",
    "autorun",
    "display",
    "audio",
    "gpu",
    "ssh_agent",
    "io_uring",
    "debug",
    "user_namespaces",
    "dbus",
];
pub(crate) const DBUS_KEYS: &[&str] = &["session", "system"];

/// Reads a document. `None` where nothing can be used; then there is an error.
pub(crate) fn file(root: Node, source: &Source, report: &mut Report) -> Option<PolicyFile> {
    Reader { source, report }.file(root)
}

struct Reader<'a> {
    source: &'a Source,
    report: &'a mut Report,
}

/// The known keys of a map, each once.
struct Fields {
    at: Pos,
    found: Vec<(Pos, &'static str, Node)>,
}

impl Fields {
    fn take(&mut self, key: &str) -> Option<Node> {
        let index = self.found.iter().position(|(_, name, _)| *name == key)?;
        let (at, _, mut node) = self.found.swap_remove(index);
        if matches!(node.value, Value::Null) {
            // Nothing has no place of its own; its key has.
            node.at = at;
        }
        Some(node)
    }
}

impl Reader<'_> {
    fn error(&mut self, at: Pos, message: impl Into<String>, help: impl Into<String>) {
        let diagnostic = self.source.diagnostic(at, message, help);
        self.report.error(diagnostic);
    }

    fn file(&mut self, root: Node) -> Option<PolicyFile> {
        const START: &str = "begin the file with `version: 1`, then `agents:`";
        if matches!(root.value, Value::Null) {
            self.error(Pos::START, "the file is empty", START);
            return None;
        }
        let mut fields = self.fields(root, "a policy file", FILE_KEYS, START)?;
        let version = match fields.take("version") {
            None => {
                self.error(
                    fields.at,
                    "the file has no `version`",
                    "write `version: 1` as its first line",
                );
                None
            }
            Some(node) => self.version(node),
        };
        let (agents, groups) = (fields.take("agents"), fields.take("groups"));
        if agents.is_none() && groups.is_none() {
            self.error(
                fields.at,
                "the file names neither agents nor groups",
                "write `agents:` and below it the name of an agent",
            );
        }
        let agents = agents.map_or_else(BTreeMap::new, |node| {
            self.named(node, "agents", |reader, name, node| {
                reader.agent(name, node)
            })
        });
        let groups = groups.map_or_else(BTreeMap::new, |node| {
            self.named(node, "groups", |reader, name, node| {
                let what = format!("group `{}`", shown(name));
                reader.list(node, &what, |reader, node| reader.rule(node, &what))
            })
        });
        Some(PolicyFile {
            version: version?,
            agents,
            groups,
        })
    }

    fn version(&mut self, node: Node) -> Option<At<u32>> {
        match node.value {
            Value::Int(number) if number == i128::from(VERSION) => Some(At {
                value: VERSION,
                at: node.at,
            }),
            Value::Int(number) => {
                self.error(
                    node.at,
                    format!("version {number} of the policy language is not known"),
                    "this Exeat knows version 1: write `version: 1`, or install a newer Exeat",
                );
                None
            }
            other => {
                self.error(
                    node.at,
                    format!("`version` is {}", other.kind()),
                    "write `version: 1`",
                );
                None
            }
        }
    }

    fn agent(&mut self, name: &str, node: Node) -> Option<AgentFile> {
        if matches!(node.value, Value::Null) {
            return Some(AgentFile::default());
        }
        let what = format!("agent `{}`", shown(name));
        let help = "below the name write `allow:` with a list of rules";
        let mut fields = self.fields(node, &what, AGENT_KEYS, help)?;
        let mode = fields.take("mode").and_then(|node| {
            let words = [
                ("enforce", ModeFile::Enforce),
                ("monitor", ModeFile::Monitor),
            ];
            self.word(node, "mode", &words)
        });
        let mut rules = |reader: &mut Self, key: &str| {
            fields.take(key).map_or_else(Vec::new, |node| {
                let what = format!("`{key}` of {what}");
                reader
                    .list(node, &what, |reader, node| reader.rule(node, &what))
                    .unwrap_or_default()
            })
        };
        let allow = rules(self, "allow");
        let deny = rules(self, "deny");
        let listen = fields.take("listen").map_or_else(Vec::new, |node| {
            let what = format!("`listen` of {what}");
            self.list(node, &what, |reader, node| reader.listen(node, &what))
                .unwrap_or_default()
        });
        let dns = fields.take("dns").and_then(|node| {
            let at = node.at;
            let value = self.dns(node, &what)?;
            Some(At { value, at })
        });
        let services = fields.take("services");
        let services = services.and_then(|node| self.services(node));
        let ask = fields.take("ask").and_then(|node| self.ask(node, &what));
        let require = fields.take("require");
        let require = require.and_then(|node| self.require(node));
        let gateway = fields.take("gateway").and_then(|node| {
            let at = node.at;
            let value = self.gateway(node, &what)?;
            Some(At { value, at })
        });
        let sandbox = fields.take("sandbox");
        let sandbox = sandbox.and_then(|node| self.sandbox(node, &what));
        let limits = fields.take("limits").and_then(|node| {
            let at = node.at;
            let value = self.limits(node, &what)?;
            Some(At { value, at })
        });
        let identity = fields.take("identity");
        let identity = identity.and_then(|node| self.identity(node, &what));
        let matching = fields.take("match");
        let matching = matching.map_or_else(Vec::new, |node| self.matching(node, &what));
        Some(AgentFile {
            ask,
            limits,
            matching,
            mode,
            allow,
            deny,
            listen,
            dns,
            services,
            gateway,
            require,
            sandbox,
            identity,
        })
    }

    fn rule(&mut self, node: Node, what: &str) -> Option<RuleFile> {
        let help = "write a rule as `- host: api.example.com` and below it `ports: [443]`";
        let before = self.report.count();
        let mut fields = self.fields(node, &format!("a rule in {what}"), RULE_KEYS, help)?;
        let rule = RuleFile {
            host: self.text_field(&mut fields, "host", "host: api.example.com"),
            cidr: self.text_field(&mut fields, "cidr", "cidr: 10.20.0.0/16"),
            group: self.text_field(&mut fields, "group", "group: package-registries"),
            protocol: fields.take("protocol").and_then(|node| {
                let words = [
                    ("tcp", ProtocolFile::Tcp),
                    ("udp", ProtocolFile::Udp),
                    ("icmp", ProtocolFile::Icmp),
                ];
                self.word(node, "protocol", &words)
            }),
            ports: fields.take("ports").and_then(|node| self.ports(node)),
            private: fields.take("private").and_then(|node| self.private(node)),
            types: fields.take("types").and_then(|node| self.types(node)),
            ech: fields
                .take("ech")
                .and_then(|node| self.word(node, "ech", &[("keep", EchFile::Keep)])),
            tls: fields.take("tls").and_then(|node| {
                let words = [("sni", TlsFile::Sni), ("none", TlsFile::None)];
                self.word(node, "tls", &words)
            }),
            quic: fields.take("quic").and_then(|node| {
                let words = [("unchecked", QuicFile::Unchecked)];
                self.word(node, "quic", &words)
            }),
            http: fields.take("http").and_then(|node| {
                let words = [("host", HttpFile::Host), ("none", HttpFile::None)];
                self.word(node, "http", &words)
            }),
            via: fields.take("via").and_then(|node| self.via(node)),
            inspect: fields.take("inspect").and_then(|node| self.inspect(node)),
            reason: self.text_field(&mut fields, "reason", "reason: \"model endpoint\""),
            broken: false,
        };
        Some(RuleFile {
            broken: self.report.count() > before,
            ..rule
        })
    }

    fn listen(&mut self, node: Node, what: &str) -> Option<ListenFile> {
        let help = "write a listen rule as `- cidr: 127.0.0.1` and below it `ports: [8080]`";
        let before = self.report.count();
        let mut fields = self.fields(node, &format!("a rule in {what}"), LISTEN_KEYS, help)?;
        // A key that is written wrongly is probably the one that is missing.
        let broken = self.report.count() > before;
        // Every field is read before the first missing one ends it, to report them all.
        let cidr = match fields.take("cidr") {
            Some(node) => self.text(node, "cidr", "cidr: 127.0.0.1"),
            None if broken => None,
            None => {
                self.error(
                    fields.at,
                    "the listen rule names no peers",
                    "write `cidr:` with the network or address that may connect",
                );
                None
            }
        };
        let ports = match fields.take("ports") {
            Some(node) => self.ports(node),
            None if broken => None,
            None => {
                self.error(
                    fields.at,
                    "the listen rule names no ports",
                    "write the agent's own ports, as in `ports: [8080]`, or `ports: all`",
                );
                None
            }
        };
        let reason = self.text_field(&mut fields, "reason", "reason: \"preview server\"");
        Some(ListenFile {
            cidr: cidr?,
            ports: ports?,
            reason,
        })
    }

    /// A map from names to things. What a name may be is checked later.
    fn named<T>(
        &mut self,
        node: Node,
        key: &str,
        mut read: impl FnMut(&mut Self, &str, Node) -> Option<T>,
    ) -> BTreeMap<String, At<T>> {
        let mut named: BTreeMap<String, At<T>> = BTreeMap::new();
        let mut first: BTreeMap<String, Pos> = BTreeMap::new();
        let entries = match node.value {
            Value::Map(entries) => entries,
            Value::Null => return named,
            other => {
                self.error(
                    node.at,
                    format!("`{key}` is {}, not a map of names", other.kind()),
                    format!(
                        "below `{key}:` write a name and a colon, as in `my-{}:`",
                        key.trim_end_matches('s')
                    ),
                );
                return named;
            }
        };
        for (name, node) in entries {
            if let Some(before) = first.get(&name.name) {
                let message = format!(
                    "`{}` is written twice below `{key}`, first in line {}",
                    shown(&name.name),
                    before.line
                );
                self.error(name.at, message, "keep one of them, with the rules of both");
            }
            first.entry(name.name.clone()).or_insert(name.at);
            if let Some(value) = read(self, &name.name, node) {
                named.entry(name.name).or_insert(At { value, at: name.at });
            }
        }
        named
    }

    fn list<T>(
        &mut self,
        node: Node,
        what: &str,
        mut read: impl FnMut(&mut Self, Node) -> Option<T>,
    ) -> Option<Vec<At<T>>> {
        match node.value {
            Value::Null => Some(Vec::new()),
            Value::List(nodes) => Some(
                nodes
                    .into_iter()
                    .filter_map(|node| {
                        let at = node.at;
                        read(self, node).map(|value| At { value, at })
                    })
                    .collect(),
            ),
            other => {
                let message = format!("{what} is {}, not a list of rules", other.kind());
                self.error(
                    node.at,
                    message,
                    "begin every rule with a dash, as in `- host: api.example.com`",
                );
                None
            }
        }
    }

    fn fields(
        &mut self,
        node: Node,
        what: &str,
        known: &'static [&'static str],
        help: &str,
    ) -> Option<Fields> {
        let entries = match node.value {
            Value::Map(entries) => entries,
            other => {
                self.error(
                    node.at,
                    format!("{what} is {}, not a map of keys", other.kind()),
                    help,
                );
                return None;
            }
        };
        let mut fields = Fields {
            at: node.at,
            found: Vec::with_capacity(entries.len()),
        };
        for (key, node) in entries {
            let Some(name) = known.iter().find(|name| **name == key.name) else {
                let (message, help) = unknown_key(&key.name, what, known);
                self.error(key.at, message, help);
                continue;
            };
            if let Some((first, ..)) = fields.found.iter().find(|(_, found, _)| found == name) {
                let message = format!("`{name}` is written twice, first in line {}", first.line);
                let help = match *name {
                    "host" | "cidr" | "group" => "begin a new rule with a dash for each".to_owned(),
                    _ => format!("keep one `{name}:`, with what both say"),
                };
                self.error(key.at, message, help);
                continue;
            }
            fields.found.push((key.at, name, node));
        }
        Some(fields)
    }

    fn text_field(&mut self, fields: &mut Fields, key: &str, example: &str) -> Option<At<String>> {
        let node = fields.take(key)?;
        self.text(node, key, example)
    }

    fn text(&mut self, node: Node, key: &str, example: &str) -> Option<At<String>> {
        match node.value {
            Value::Text(value) => Some(At { value, at: node.at }),
            other => {
                let help = match (key, &other) {
                    ("reason", Value::Bool(_) | Value::Int(_) | Value::Float) => {
                        "put it in quotes".to_owned()
                    }
                    ("host" | "cidr" | "group", Value::List(_)) => {
                        format!("write one rule for each, as in `- {example}`")
                    }
                    _ => format!("write text, as in `{example}`"),
                };
                self.error(
                    node.at,
                    format!("`{key}` is {}, not text", other.kind()),
                    help,
                );
                None
            }
        }
    }

    fn word<T: Copy>(&mut self, node: Node, key: &str, words: &[(&str, T)]) -> Option<At<T>> {
        let list = words
            .iter()
            .map(|(word, _)| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let Value::Text(text) = &node.value else {
            self.error(
                node.at,
                format!("`{key}` is {}", node.value.kind()),
                one_of(&list, words.len()),
            );
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
            return Some(At {
                value: *value,
                at: node.at,
            });
        }
        let help = value_help(key, text, words.iter().map(|(word, _)| *word), &list);
        let what = match key {
            "mode" | "protocol" => key.to_owned(),
            _ => format!("value of `{key}`"),
        };
        self.error(node.at, format!("`{}` is no {what}", shown(text)), help);
        None
    }

    fn ports(&mut self, node: Node) -> Option<At<PortsFile>> {
        let at = node.at;
        let value = match node.value {
            Value::Text(text) if text == "all" => PortsFile::All,
            Value::List(nodes) if nodes.is_empty() => {
                self.error(
                    at,
                    "the list of ports is empty, so the rule would match nothing",
                    "write `ports: [443]`, or `ports: all`",
                );
                return None;
            }
            Value::List(nodes) => {
                let count = nodes.len();
                let ranges: Vec<_> = nodes
                    .into_iter()
                    .filter_map(|node| self.port(node))
                    .collect();
                if ranges.len() < count {
                    return None;
                }
                PortsFile::Ranges(ranges)
            }
            value => PortsFile::Ranges(vec![self.port(Node { at, value })?]),
        };
        Some(At { value, at })
    }

    fn port(&mut self, node: Node) -> Option<PortRange> {
        const WRITE: &str =
            "write numbers and ranges, as in `ports: [443, \"4000-4010\"]`, or `ports: all`";
        let range = match node.value {
            Value::Int(number) => ports::from_number(number),
            Value::Text(text) if text == "all" => {
                self.error(
                    node.at,
                    "`all` stands in a list of ports",
                    "write `ports: all` without the list",
                );
                return None;
            }
            Value::Text(text) => ports::from_text(&text),
            other => {
                self.error(node.at, format!("a port is {}", other.kind()), WRITE);
                return None;
            }
        };
        match range {
            Ok(range) => Some(range),
            Err(error) => {
                self.error(node.at, error.to_string(), error.help());
                None
            }
        }
    }
}
