//! Which sockets of local services an agent sees.

use super::super::file::{At, ServicesFile};
use super::super::tree::{Node, Value};
use super::{Reader, shown};

const HELP: &str = "write paths below `/run`, as in `services: [/run/cups/cups.sock]`, or `all`";

impl Reader<'_> {
    pub(super) fn services(&mut self, node: Node) -> Option<At<ServicesFile>> {
        let at = node.at;
        let nodes = match node.value {
            Value::Text(text) if text == "all" => {
                return Some(At {
                    value: ServicesFile::All,
                    at,
                });
            }
            Value::List(nodes) => nodes,
            value => vec![Node { at, value }],
        };
        let paths = nodes
            .into_iter()
            .filter_map(|node| match node.value {
                Value::Text(value) if value == "all" => {
                    let help = "write `services: all` alone, or only paths";
                    self.error(node.at, "`all` is in a list of paths", help);
                    None
                }
                Value::Text(value) => match crate::policy::services::parse(&value) {
                    Ok(value) => Some(At { value, at: node.at }),
                    Err((wrong, help)) => {
                        self.error(node.at, format!("`{}` {wrong}", shown(&value)), help);
                        None
                    }
                },
                other => {
                    self.error(node.at, format!("a service is {}", other.kind()), HELP);
                    None
                }
            })
            .collect();
        Some(At {
            value: ServicesFile::Paths(paths),
            at,
        })
    }
}
