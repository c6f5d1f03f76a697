//! What is said about the programs of an agent.

use super::super::file::{At, DigestsFile, IdentityFile, KeysFile, PackagesFile};
use super::super::identity::check_package;
use super::super::tree::{Node, Value};
use super::{IDENTITY_KEYS, Reader, shown};

const HELP: &str = "write what a program must be, as in `identity: {package: [nodejs]}`; `exeat identify FILE` prints what fits a file";
const NONE: &str = "leave the key out where nothing of it is asked";

impl Reader<'_> {
    pub(super) fn identity(&mut self, node: Node, what: &str) -> Option<At<IdentityFile>> {
        let at = node.at;
        let before = self.report.count();
        let mut fields =
            self.fields(node, &format!("`identity` of {what}"), IDENTITY_KEYS, HELP)?;
        let sha256 = fields.take("sha256").and_then(|node| {
            let at = node.at;
            let value = DigestsFile(self.texts(node, "sha256", |reader, at, text| {
                let digest = text.parse();
                if digest.is_err() {
                    let message = format!("`{}` is no SHA-256", shown(&text));
                    let help = "write its 64 hexadecimal digits, as `sha256sum FILE` or `exeat identify FILE` print them";
                    reader.error(at, message, help);
                }
                digest.ok()
            })?);
            Some(At { value, at })
        });
        let package = fields.take("package").and_then(|node| {
            let at = node.at;
            let value = PackagesFile(self.texts(node, "package", |reader, at, value| {
                if let Err(wrong) = check_package(&value) {
                    let help = "write the name as dpkg or rpm has it, as in `package: [nodejs, \"python3*\"]`";
                    reader.error(at, format!("`{}` {wrong}", shown(&value)), help);
                    return None;
                }
                Some(At { value, at })
            })?);
            Some(At { value, at })
        });
        let minisign = fields.take("minisign").and_then(|node| {
            let at = node.at;
            let value = KeysFile(self.texts(node, "minisign", |reader, at, key| {
                if minisign_verify::PublicKey::from_base64(&key).is_err() {
                    let message = format!("`{}` is no public key of minisign", shown(&key));
                    let help = "write the second line of `minisign.pub`, which begins with `RW`";
                    reader.error(at, message, help);
                    return None;
                }
                Some(key)
            })?);
            Some(At { value, at })
        });
        let all = fields.take("all").and_then(|node| match node.value {
            Value::Bool(value) => Some(At { value, at: node.at }),
            other => {
                let message = format!("`all` is {}", other.kind());
                let help =
                    "write `all: true` where each of what is said must hold, or leave it out";
                self.error(node.at, message, help);
                None
            }
        });
        let found = IdentityFile {
            sha256,
            package,
            minisign,
            all,
        };
        let nothing = found.sha256.is_none() && found.package.is_none() && found.minisign.is_none();
        if nothing && self.report.count() == before {
            self.error(at, "`identity` asks nothing of a program", HELP);
            return None;
        }
        Some(At { value: found, at })
    }

    /// What is made of each text of a list, or of the one that stands in its place; `None`
    /// where one of them was reported.
    fn texts<T>(
        &mut self,
        node: Node,
        key: &str,
        mut read: impl FnMut(&mut Self, super::Pos, String) -> Option<T>,
    ) -> Option<Vec<T>> {
        let nodes = self.one_or_more(node, key, NONE)?;
        let count = nodes.len();
        let found: Vec<T> = nodes
            .into_iter()
            .filter_map(|node| match node.value {
                Value::Text(text) => read(self, node.at, text),
                other => {
                    // Sixty-four digits may be all decimal, and names too.
                    let help = "put it in quotes";
                    let message = format!("a value of `{key}` is {}, not text", other.kind());
                    self.error(node.at, message, help);
                    None
                }
            })
            .collect();
        (found.len() == count).then_some(found)
    }
}
