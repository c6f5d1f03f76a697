//! Walls without which an agent is not started.

use super::super::diagnostic::near;
use super::super::file::{At, RequireFile};
use super::super::require::words;
use super::super::tree::{Node, Value};
use super::{Reader, shown};

/// What is always required, by the names that status has for it.
const ALWAYS: &[&str] = &[
    "egress",
    "ingress",
    "sock_create",
    "sock_release",
    "tcp_state",
    "setsockopt",
    "bind4",
    "bind6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
];

impl Reader<'_> {
    pub(super) fn require(&mut self, node: Node) -> Option<At<RequireFile>> {
        let at = node.at;
        let nodes = match node.value {
            Value::List(nodes) => nodes,
            value => vec![Node { at, value }],
        };
        let known = words();
        let list = known.iter().map(|(word, _)| format!("`{word}`"));
        let list = list.collect::<Vec<_>>().join(", ");
        let mut walls = Vec::new();
        for node in nodes {
            let Value::Text(text) = &node.value else {
                let message = format!("a wall is {}", node.value.kind());
                self.error(
                    node.at,
                    message,
                    format!("name walls, as in `require: [seccomp]`; there are {list}"),
                );
                continue;
            };
            if let Some((_, value)) = known.iter().find(|(word, _)| word == text) {
                walls.push(At {
                    value: *value,
                    at: node.at,
                });
                continue;
            }
            let help = match near(text, known.iter().map(|(word, _)| *word)) {
                _ if ALWAYS.contains(&text.as_str()) => {
                    "remove it: nothing is ever started without it".to_owned()
                }
                Some(word) => format!("did you mean `{word}`? There are {list}"),
                None => format!("there are {list}"),
            };
            self.error(
                node.at,
                format!("`{}` is no wall to require", shown(text)),
                help,
            );
        }
        Some(At {
            value: RequireFile(walls),
            at,
        })
    }
}
