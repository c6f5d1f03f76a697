//! Who is asked about what no rule decides.

use super::super::ask::{LONGEST, SHORTEST};
use super::super::file::{AskFile, AsksFile, At};
use super::super::limits::parse_time;
use super::super::tree::{Node, Value};
use super::{ASK_KEYS, Reader, shown};

const WHO: [(&str, AsksFile); 3] = [
    ("user", AsksFile::User),
    ("admin", AsksFile::Admin),
    ("nobody", AsksFile::Nobody),
];

const HELP: &str = "write `ask: user`, or `ask: {who: user, timeout: 60s}`";
const TIME: &str = "write a time with its unit, as in `60s` or `2m`";

impl Reader<'_> {
    pub(super) fn ask(&mut self, node: Node, what: &str) -> Option<At<AskFile>> {
        let at = node.at;
        let value = match node.value {
            value @ Value::Text(_) => AskFile {
                who: Some(self.word(Node { at, value }, "ask", &WHO)?),
                timeout: None,
            },
            value => {
                let what = format!("`ask` of {what}");
                let before = self.report.count();
                let mut fields = self.fields(Node { at, value }, &what, ASK_KEYS, HELP)?;
                let who = fields.take("who");
                let timeout = fields.take("timeout");
                let ask = AskFile {
                    who: who.and_then(|node| self.word(node, "who", &WHO)),
                    timeout: timeout.and_then(|node| self.ask_timeout(&node)),
                };
                if ask.who.is_none() && self.report.count() == before {
                    self.error(at, format!("{what} does not say who is asked"), HELP);
                    return None;
                }
                ask
            }
        };
        Some(At { value, at })
    }

    fn ask_timeout(&mut self, node: &Node) -> Option<At<u64>> {
        let read = match &node.value {
            Value::Text(text) => parse_time(text),
            _ => None,
        };
        let Some(value) = read else {
            let message = match &node.value {
                Value::Text(text) => format!("`{}` is no time", shown(text)),
                other => format!("`timeout` is {}", other.kind()),
            };
            self.error(node.at, message, TIME);
            return None;
        };
        if !(u64::from(SHORTEST)..=u64::from(LONGEST)).contains(&value) {
            self.error(
                node.at,
                "a question stands for at least 5 seconds and at most 10 minutes",
                TIME,
            );
            return None;
        }
        Some(At { value, at: node.at })
    }
}
