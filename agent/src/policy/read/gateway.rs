//! What is said about the gateway: the way out of a rule, and the doors of an agent.

use super::super::file::{At, DoorFile, DoorsFile, GatewayFile, ProxyFile, ViaFile};
use super::super::tree::{Node, Value};
use super::{GATEWAY_KEYS, PROXY_KEYS, Reader, near, shown};

const VIA: &str =
    "write `via: gateway`, or a proxy, as in `via: {proxy: \"https://proxy.example:3128\"}`";

impl Reader<'_> {
    pub(super) fn via(&mut self, node: Node) -> Option<At<ViaFile>> {
        let at = node.at;
        let value = match node.value {
            Value::Text(text) if text == "gateway" => ViaFile::Gateway,
            Value::Text(text) => {
                let help = match near(&text.to_ascii_lowercase(), ["gateway"]) {
                    Some(word) => format!("did you mean `{word}`?"),
                    None => VIA.to_owned(),
                };
                // A URL may hold a password.
                let text = text.rsplit('@').next().unwrap_or_default();
                self.error(at, format!("`{}` is no value of `via`", shown(text)), help);
                return None;
            }
            value @ Value::Map(_) => ViaFile::Proxy(Box::new(self.proxy(Node { at, value })?)),
            other => {
                self.error(at, format!("`via` is {}", other.kind()), VIA);
                return None;
            }
        };
        Some(At { value, at })
    }

    fn proxy(&mut self, node: Node) -> Option<ProxyFile> {
        let before = self.report.count();
        let mut fields = self.fields(node, "`via` of a rule", PROXY_KEYS, VIA)?;
        let broken = self.report.count() > before;
        let proxy = self.text_field(
            &mut fields,
            "proxy",
            "proxy: \"https://proxy.example:3128\"",
        );
        if proxy.is_none() && !broken && self.report.count() == before {
            self.error(fields.at, "`via` of a rule names no proxy", VIA);
        }
        let mut path = |reader: &mut Self, key: &str| {
            let example = format!("{key}: /etc/exeat/proxy.pem");
            reader.text_field(&mut fields, key, &example)
        };
        let (ca, certificate) = (path(self, "ca"), path(self, "certificate"));
        let (key, credentials) = (path(self, "key"), path(self, "credentials"));
        Some(ProxyFile {
            proxy: proxy?,
            ca,
            certificate,
            key,
            credentials,
        })
    }

    pub(super) fn gateway(&mut self, node: Node, what: &str) -> Option<GatewayFile> {
        if matches!(node.value, Value::Null) {
            return Some(GatewayFile::default());
        }
        let help = "write keys and values, as in `gateway: {listen: [http]}`";
        let mut fields = self.fields(node, &format!("`gateway` of {what}"), GATEWAY_KEYS, help)?;
        Some(GatewayFile {
            listen: fields.take("listen").and_then(|node| self.doors(node)),
        })
    }

    fn doors(&mut self, node: Node) -> Option<At<DoorsFile>> {
        let words = [("http", DoorFile::Http), ("socks5", DoorFile::Socks5)];
        let at = node.at;
        let nodes = self.one_or_more(node, "listen", "for no door leave `listen` out")?;
        let count = nodes.len();
        let doors: Vec<_> = nodes
            .into_iter()
            .filter_map(|node| self.word(node, "listen", &words))
            .map(|door| door.value)
            .collect();
        (doors.len() == count).then(|| At {
            value: DoorsFile(doors.into_iter().collect()),
            at,
        })
    }

    /// The nodes of a list that is not empty, or the one that stands in its place.
    pub(super) fn one_or_more(&mut self, node: Node, key: &str, none: &str) -> Option<Vec<Node>> {
        match node.value {
            Value::List(nodes) if nodes.is_empty() => {
                self.error(node.at, format!("the list of `{key}` is empty"), none);
                None
            }
            Value::List(nodes) => Some(nodes),
            value => Some(vec![Node { at: node.at, value }]),
        }
    }
}
