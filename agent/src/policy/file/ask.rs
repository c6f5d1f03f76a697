//! Who is asked about what no rule decides, as it is written.

use super::At;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Who is asked, in one word or with more to say.
#[derive(Clone, Debug)]
pub struct AskFile {
    /// Who.
    pub who: Option<At<AsksFile>>,
    /// Seconds until a question that nobody answers is denied.
    pub timeout: Option<At<u64>>,
}

/// The keys, for the schema: [`AskFile`] is also one word.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ask_more")]
#[allow(dead_code)]
struct More {
    /// Who is asked.
    who: At<AsksFile>,
    /// How long a question stands before it is denied, as in `60s` or `2m`; 2m when not said.
    #[schemars(default, schema_with = "time")]
    timeout: Option<At<u64>>,
}

impl JsonSchema for AskFile {
    fn schema_name() -> Cow<'static, str> {
        "ask".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<AsksFile>();
        let more = generator.subschema_for::<More>();
        json_schema!({
            "description": "Who is asked about a destination that no rule decides.",
            "anyOf": [word, more]
        })
    }
}

/// Who is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "asks", rename_all = "lowercase")]
pub enum AsksFile {
    /// The person whose program it is.
    User,
    /// Who administers the machine.
    Admin,
    /// Nobody: it is refused.
    Nobody,
}

fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^([0-9]{1,9}[smhd])+$" })
}
