//! What is written about requests inside TLS.

use super::At;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// What the gateway asks of requests inside TLS, which ends there. All of it together; without
/// a key every request may pass, and is told of.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "inspect")]
pub struct InspectFile {
    /// Requests that may pass: those that one of these means. Every one when not said.
    #[schemars(default, length(min = 1))]
    pub requests: Vec<At<RequestFile>>,
    /// Request headers that do not leave: they are taken out.
    #[schemars(default, schema_with = "texts_schema")]
    pub strip: Vec<At<String>>,
    /// The most bytes of a request's body, as in `4096` or `1MiB`.
    #[schemars(default, schema_with = "size_schema")]
    pub max_body: Option<At<u64>>,
    /// Data that must not leave in a request.
    #[schemars(default, length(min = 1))]
    pub patterns: Vec<At<PatternFile>>,
    /// Keys of which one must be in the certificates of the server, as in `sha256/` and the
    /// hash of the public key in Base64.
    #[schemars(default, schema_with = "pins_schema")]
    pub pins: Vec<At<String>>,
}

/// Requests that may pass: those that match both.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "request", extend("minProperties" = 1))]
pub struct RequestFile {
    /// The methods, as in `[GET, HEAD]`; all when not said.
    #[schemars(default, schema_with = "methods_schema")]
    pub methods: Vec<At<String>>,
    /// The path without the query: `*` is anything within one segment, `**` are any segments.
    /// Every path when not said.
    #[schemars(default, schema_with = "path_schema")]
    pub path: Option<At<String>>,
}

/// Data that must not leave.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "data_pattern")]
pub struct PatternFile {
    /// Its name in events: what matched is never told.
    #[schemars(schema_with = "pattern_name_schema")]
    pub name: At<String>,
    /// A regular expression.
    pub regex: At<String>,
    /// `block` (the default) refuses the request, `report` only tells of it.
    pub action: Option<At<PatternActionFile>>,
}

/// What is done with a request that matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "pattern_action", rename_all = "lowercase")]
pub enum PatternActionFile {
    /// It is refused.
    Block,
    /// It passes and is told of.
    Report,
}

fn one_or_more(one: serde_json::Value) -> Schema {
    json_schema!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
}

fn texts_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_more(serde_json::json!({ "type": "string" }))
}

fn methods_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_more(serde_json::json!({ "type": "string", "pattern": "^[A-Z][A-Z0-9_-]*$" }))
}

fn pins_schema(_: &mut SchemaGenerator) -> Schema {
    one_or_more(serde_json::json!({
        "type": "string",
        "pattern": "^sha256/[A-Za-z0-9+/]{43}=$"
    }))
}

fn path_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^/" })
}

fn pattern_name_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": super::name_pattern() })
}

fn size_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]{1,10} ?(KiB|MiB)$" }
        ]
    })
}
