//! Walls without which an agent is not started, as they are written.

use super::At;
use crate::policy::require::{self, Wall};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Names of walls.
#[derive(Clone, Debug)]
pub struct RequireFile(pub Vec<At<Wall>>);

impl JsonSchema for RequireFile {
    fn schema_name() -> Cow<'static, str> {
        "require".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = require::words().into_iter().map(|(word, _)| word).collect();
        let wall = serde_json::json!({ "enum": words });
        json_schema!({
            "description": "Names of walls.",
            "anyOf": [wall, { "type": "array", "items": wall }]
        })
    }
}
