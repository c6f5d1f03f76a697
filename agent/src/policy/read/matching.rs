//! Which programs and cgroups are the agent's.

use super::super::file::{At, MatchFile, SelectorFile};
use super::super::matching::MatchBy;
use super::super::tree::{Node, Value};
use super::{Reader, shown};

const HELP: &str = "write selectors as a list, as in `match: [{ unit: agent.service }]`";

impl Reader<'_> {
    pub(super) fn matching(&mut self, node: Node, what: &str) -> MatchFile {
        match node.value {
            Value::Null => Vec::new(),
            Value::List(nodes) => nodes
                .into_iter()
                .filter_map(|node| {
                    let at = node.at;
                    let value = self.match_selector(node, what)?;
                    Some(At { value, at })
                })
                .collect(),
            other => {
                let message = format!("`match` of {what} is {}, not a list", other.kind());
                self.error(node.at, message, HELP);
                Vec::new()
            }
        }
    }

    fn match_selector(&mut self, node: Node, what: &str) -> Option<SelectorFile> {
        let place = node.at;
        let what = format!("a selector in `match` of {what}");
        let before = self.report.count();
        let mut fields = self.fields(node, &what, MatchBy::KEYS, HELP)?;
        let mut found: Vec<_> = std::mem::take(&mut fields.found);
        found.sort_by_key(|(at, ..)| *at);
        let mut found = found.into_iter();
        let Some((key_at, key, node)) = found.next() else {
            if self.report.count() == before {
                let help = "write one of the keys, as in `- unit: agent.service`";
                self.error(place, "the selector says nothing", help);
            }
            return None;
        };
        if let Some((at, second, _)) = found.next() {
            self.error(
                at,
                format!("the selector has `{key}` and `{second}`"),
                "a selector has one key: begin a new one with a dash",
            );
            return None;
        }
        let (at, text) = match node.value {
            Value::Text(text) => (node.at, text),
            Value::Null => {
                self.error(
                    key_at,
                    format!("`{key}` is empty"),
                    "write what is to be matched",
                );
                return None;
            }
            other => {
                let message = format!("`{key}` is {}, not text", other.kind());
                self.error(
                    node.at,
                    message,
                    "put it in quotes, and write a selector for each",
                );
                return None;
            }
        };
        match MatchBy::parse(key, &text) {
            Ok(selector) => Some(SelectorFile(selector)),
            Err((wrong, help)) => {
                self.error(at, format!("`{}` {wrong}", shown(&text)), help);
                None
            }
        }
    }
}
