//! YAML text as a tree in which every node knows its place.
//!
//! Deserializing straight into typed structs would stop at the first mistake. The tree
//! is read whole, and [`super::read`] then reports every mistake in it at once.

use super::diagnostic::Pos;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Budget, DuplicateKeyPolicy, MergeKeyPolicy, Options, Spanned};
use std::fmt;

/// Bytes of the largest policy file that is read.
pub(crate) const MAX_FILE_BYTES: u64 = 128 * 1024 * 1024;

/// A node of the document.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Pos,
    pub(crate) value: Value,
}

/// What a node holds. Keys that are written twice are all kept, so that the reader can
/// name both places.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) at: Pos,
    pub(crate) name: String,
}

impl Value {
    /// The kind of thing, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a true/false value",
            Self::Int(_) | Self::Float => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map of keys",
        }
    }
}

/// Text that is not YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) at: Pos,
    pub(crate) message: String,
}

/// Parses one document. Aliases, nesting and size are bounded, so a hostile file costs
/// no more than its own length.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: Some(budget()),
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        with_snippet: false,
        emit_comments: false,
    };
    parse_with(text, options)
}

fn budget() -> Budget {
    let mut budget = Budget::default();
    // A million rules of four lines each must fit; the other limits are the defaults.
    budget.max_events = 64_000_000;
    budget.max_nodes = 32_000_000;
    budget.max_total_scalar_bytes = MAX_FILE_BYTES as usize;
    budget.max_depth = 32;
    budget.max_aliases = 1_000;
    budget.max_anchors = 1_000;
    budget
}

fn parse_with(text: &str, options: Options) -> Result<Node, SyntaxError> {
    serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options)
        .map(Node::from)
        .map_err(|error| SyntaxError {
            at: error.location().map_or(Pos::START, Pos::from),
            message: message(&error),
        })
}

/// The text of a parser error without its place, which is shown apart.
fn message(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::MultipleDocuments { .. } = error.without_snippet() {
        return "the file holds more than one YAML document".to_owned();
    }
    let full = error.without_snippet().to_string();
    let first = full.lines().next().unwrap_or_default();
    let text = match error.location() {
        Some(at) => {
            let place = format!("line {}, column {}", at.line(), at.column());
            first.replace(&format!(" at {place}"), "")
        }
        None => first.to_owned(),
    };
    text.trim_start_matches("error: ").to_owned()
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            at: Pos::from(spanned.referenced),
            value: spanned.value,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Int(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element::<Spanned<Value>>()? {
            list.push(Node::from(element));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Spanned<Value>>()?;
            let key = Key {
                at: Pos::from(key.referenced),
                name: key.value,
            };
            entries.push((key, Node::from(value)));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_and_key_knows_its_place() {
        let root = parse("a:\n  - b: 1\n    c: [x, 2.5]\n").expect("yaml");
        let Value::Map(top) = root.value else {
            panic!("a map")
        };
        assert_eq!(top[0].0.name, "a");
        assert_eq!(top[0].0.at, Pos { line: 1, column: 1 });
        let Value::List(list) = &top[0].1.value else {
            panic!("a list")
        };
        assert_eq!(list[0].at, Pos { line: 2, column: 5 });
        let Value::Map(inner) = &list[0].value else {
            panic!("a map")
        };
        assert_eq!(inner[0].0.at, Pos { line: 2, column: 5 });
        assert!(matches!(inner[0].1.value, Value::Int(1)));
        assert_eq!(inner[1].1.at, Pos { line: 3, column: 8 });
        let Value::List(inner) = &inner[1].1.value else {
            panic!("a list")
        };
        assert_eq!(
            inner[1].at,
            Pos {
                line: 3,
                column: 12
            }
        );
    }

    #[test]
    fn keys_that_are_written_twice_are_all_kept() {
        let root = parse("a: 1\na: 2\n<<: 3\n").expect("yaml");
        let Value::Map(top) = root.value else {
            panic!("a map")
        };
        assert_eq!(top.len(), 3);
    }

    #[test]
    fn an_alias_bomb_and_deep_nesting_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let p = i - 1;
            bomb +=
                &format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n");
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(40), "]".repeat(40))).is_err());
    }

    #[test]
    fn a_syntax_error_says_where_once() {
        for text in [
            "a: [1, 2\nb: 3\n",
            "a: \"x\n",
            "a: *nope\n",
            "a: b: c\n",
            "{a: 1}}\n",
            "---\na: 1\n---\nb: 2\n",
        ] {
            let error = parse(text).expect_err("no yaml");
            assert!(!error.message.contains("line "), "{error:?}");
            assert!(!error.message.is_empty());
        }
    }
}
