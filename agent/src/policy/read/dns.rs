//! What is said about the DNS: of a rule, and of an agent.

use super::super::file::{
    At, BudgetFile, DnsFile, DnssecFile, OverBudgetFile, RefuseFile, TypesFile,
};
use super::super::rrtype;
use super::super::tree::{Node, Value};
use super::{BUDGET_KEYS, DNS_KEYS, Reader, shown};

impl Reader<'_> {
    pub(super) fn dns(&mut self, node: Node, what: &str) -> Option<DnsFile> {
        if matches!(node.value, Value::Null) {
            return Some(DnsFile::default());
        }
        let help = "write keys and values, as in `dns: {refuse: nxdomain}`";
        let mut fields = self.fields(node, &format!("`dns` of {what}"), DNS_KEYS, help)?;
        Some(DnsFile {
            refuse: fields.take("refuse").and_then(|node| {
                let words = [
                    ("refused", RefuseFile::Refused),
                    ("nxdomain", RefuseFile::NxDomain),
                ];
                self.word(node, "refuse", &words)
            }),
            dnssec: fields
                .take("dnssec")
                .and_then(|node| self.word(node, "dnssec", &[("validate", DnssecFile::Validate)])),
            budget: fields.take("budget").and_then(|node| {
                let at = node.at;
                let value = self.budget(node, what)?;
                Some(At { value, at })
            }),
            over_budget: fields.take("over_budget").and_then(|node| {
                let words = [
                    ("block", OverBudgetFile::Block),
                    ("report", OverBudgetFile::Report),
                ];
                self.word(node, "over_budget", &words)
            }),
        })
    }

    fn budget(&mut self, node: Node, what: &str) -> Option<BudgetFile> {
        if matches!(node.value, Value::Null) {
            return Some(BudgetFile::default());
        }
        let help = "write numbers for an hour, as in `budget: {names: 300, bytes: 8KiB}`";
        let mut fields = self.fields(node, &format!("`budget` of {what}"), BUDGET_KEYS, help)?;
        let mut number = |reader: &mut Self, key: &str| {
            let node = fields.take(key)?;
            reader.amount(node, key)
        };
        Some(BudgetFile {
            names: number(self, "names"),
            bytes: number(self, "bytes"),
            entropy_bits: number(self, "entropy_bits"),
            repeat_bits: number(self, "repeat_bits"),
        })
    }

    /// A number of the budget, from 1; that of bytes may have a unit.
    fn amount(&mut self, node: Node, key: &str) -> Option<At<u32>> {
        let write = match key {
            "bytes" => "write a number of bytes from 1, as in `8192` or `8KiB`",
            _ => "write a whole number from 1",
        };
        let number = match &node.value {
            Value::Int(number) => Some(*number),
            Value::Text(text) if key == "bytes" => with_unit(text),
            Value::Text(_) => None,
            other => {
                let message = format!("`{key}` is {}", other.kind());
                self.error(node.at, message, write);
                return None;
            }
        };
        let message = match number {
            None => {
                let Value::Text(text) = &node.value else {
                    return None;
                };
                format!("`{}` is no number for `{key}`", shown(text))
            }
            Some(0) => {
                self.error(
                    node.at,
                    format!("a budget of 0 {key} would answer nothing below a wildcard"),
                    "remove the wildcards instead, or write a number from 1",
                );
                return None;
            }
            Some(number) => match u32::try_from(number) {
                Ok(value) => return Some(At { value, at: node.at }),
                Err(_) => format!("{number} is out of the range of `{key}`"),
            },
        };
        self.error(node.at, message, write);
        None
    }

    pub(super) fn private(&mut self, node: Node) -> Option<At<bool>> {
        match node.value {
            Value::Bool(value) => Some(At { value, at: node.at }),
            other => {
                self.error(
                    node.at,
                    format!("`private` is {}", other.kind()),
                    "write `private: true`, or leave it out",
                );
                None
            }
        }
    }

    pub(super) fn types(&mut self, node: Node) -> Option<At<TypesFile>> {
        let at = node.at;
        let nodes = match node.value {
            Value::List(nodes) if nodes.is_empty() => {
                self.error(
                    at,
                    "the list of types is empty",
                    "leave `types` out: A, AAAA, CNAME, HTTPS and SVCB are answered in any case",
                );
                return None;
            }
            Value::List(nodes) => nodes,
            value => vec![Node { at, value }],
        };
        let count = nodes.len();
        let types: Vec<u16> = nodes
            .into_iter()
            .filter_map(|node| self.rrtype(node))
            .collect();
        (types.len() == count).then(|| At {
            value: TypesFile(types.into_iter().collect()),
            at,
        })
    }

    fn rrtype(&mut self, node: Node) -> Option<u16> {
        let found = match &node.value {
            Value::Int(number) => rrtype::from_number(*number),
            Value::Text(text) => rrtype::from_text(text),
            other => {
                let help = match other {
                    // YAML reads the name of type 10 so.
                    Value::Null => {
                        "write names and numbers, as in `types: [TXT, MX, 65400]`; the type NULL is `10`"
                    }
                    _ => "write names and numbers, as in `types: [TXT, MX, 65400]`",
                };
                self.error(node.at, format!("a type is {}", other.kind()), help);
                return None;
            }
        };
        found
            .map_err(|error| self.error(node.at, error.to_string(), error.help()))
            .ok()
    }
}

/// `8KiB`, `1 MiB`.
pub(super) fn with_unit(text: &str) -> Option<i128> {
    let (digits, unit) = match text.strip_suffix("KiB") {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix("MiB")?, 1024 * 1024),
    };
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    if digits.is_empty() || digits.len() > 10 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse::<i128>().ok()? * unit)
}
