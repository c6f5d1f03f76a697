//! What is said about requests inside TLS.

use super::super::file::{At, InspectFile, PatternActionFile, PatternFile, RequestFile};
use super::super::tree::{Node, Value};
use super::dns::with_unit;
use super::{INSPECT_KEYS, PATTERN_KEYS, REQUEST_KEYS, Reader, shown};

impl Reader<'_> {
    pub(super) fn inspect(&mut self, node: Node) -> Option<At<InspectFile>> {
        let at = node.at;
        if matches!(node.value, Value::Null) {
            let value = InspectFile::default();
            return Some(At { value, at });
        }
        let help = "write keys and values, as in `inspect: {max_body: 1MiB}`, or `inspect: {}` to look at every request";
        let mut fields = self.fields(node, "`inspect` of a rule", INSPECT_KEYS, help)?;
        let mut list = |reader: &mut Self, key: &str| {
            let node = fields.take(key)?;
            let none = format!("leave `{key}` out, or say what is meant");
            reader.one_or_more(node, key, &none)
        };
        let (requests, patterns) = (list(self, "requests"), list(self, "patterns"));
        let (strip, pins) = (list(self, "strip"), list(self, "pins"));
        Some(At {
            value: InspectFile {
                requests: self.each(requests, Self::request),
                strip: self.each_text(strip, "strip", "strip: [cookie]"),
                max_body: fields.take("max_body").and_then(|node| self.size(node)),
                patterns: self.each(patterns, Self::pattern),
                pins: self.each_text(pins, "pins", "pins: [\"sha256/…=\"]"),
            },
            at,
        })
    }

    /// What could be read of the nodes; of the rest there are errors.
    fn each<T>(
        &mut self,
        nodes: Option<Vec<Node>>,
        mut read: impl FnMut(&mut Self, Node) -> Option<T>,
    ) -> Vec<At<T>> {
        let nodes = nodes.into_iter().flatten();
        nodes
            .filter_map(|node| {
                let at = node.at;
                read(self, node).map(|value| At { value, at })
            })
            .collect()
    }

    fn each_text(&mut self, nodes: Option<Vec<Node>>, key: &str, example: &str) -> Vec<At<String>> {
        let nodes = nodes.into_iter().flatten();
        nodes
            .filter_map(|node| self.text(node, key, example))
            .collect()
    }

    fn request(&mut self, node: Node) -> Option<RequestFile> {
        let help = "write a request as `- methods: [GET]` and below it `path: /v1/**`";
        let before = self.report.count();
        let mut fields = self.fields(node, "a request", REQUEST_KEYS, help)?;
        if fields.found.is_empty() && self.report.count() == before {
            self.error(
                fields.at,
                "the request says neither methods nor a path",
                "write `methods:` or `path:`; to let every request pass leave `requests` out",
            );
        }
        let none = "leave `methods` out for all of them";
        let methods = fields.take("methods");
        let methods = methods.and_then(|node| self.one_or_more(node, "methods", none));
        Some(RequestFile {
            methods: self.each_text(methods, "methods", "methods: [GET]"),
            path: self.text_field(&mut fields, "path", "path: /v1/**"),
        })
    }

    fn pattern(&mut self, node: Node) -> Option<PatternFile> {
        let help =
            "write a pattern as `- name: aws-key` and below it `regex: \"AKIA[0-9A-Z]{16}\"`";
        let before = self.report.count();
        let mut fields = self.fields(node, "a pattern", PATTERN_KEYS, help)?;
        // A key that is written wrongly is probably the one that is missing.
        let broken = self.report.count() > before;
        let mut text = |reader: &mut Self, key: &str, example: &str| {
            let node = fields.take(key);
            if node.is_none() && !broken {
                reader.error(fields.at, format!("the pattern has no `{key}`"), help);
            }
            reader.text(node?, key, example)
        };
        let name = text(self, "name", "name: aws-key");
        let regex = text(self, "regex", "regex: \"AKIA[0-9A-Z]{16}\"");
        let action = fields.take("action").and_then(|node| {
            let words = [
                ("block", PatternActionFile::Block),
                ("report", PatternActionFile::Report),
            ];
            self.word(node, "action", &words)
        });
        Some(PatternFile {
            name: name?,
            regex: regex?,
            action,
        })
    }

    fn size(&mut self, node: Node) -> Option<At<u64>> {
        let write = "write a number of bytes, as in `max_body: 4096` or `max_body: 1MiB`";
        let number = match &node.value {
            Value::Int(number) => Some(*number),
            Value::Text(text) => with_unit(text),
            other => {
                let message = format!("`max_body` is {}", other.kind());
                self.error(node.at, message, write);
                return None;
            }
        };
        if let Some(value) = number.and_then(|number| u64::try_from(number).ok()) {
            return Some(At { value, at: node.at });
        }
        let written = match &node.value {
            Value::Text(text) => shown(text),
            _ => number.unwrap_or_default().to_string(),
        };
        let message = format!("`{written}` is no number of bytes");
        self.error(node.at, message, write);
        None
    }
}
