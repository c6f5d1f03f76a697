//! What is written about the programs of an agent.

use super::At;
use crate::identity::Sha256;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Which programs may be started as the agent: the file of the command, of its interpreter
/// where it is a script, and of the program that `env` starts for one. One of `sha256`, `package` and `minisign`
/// must hold for each file, or with `all: true` each of those that are said.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "identity")]
pub struct IdentityFile {
    /// SHA-256 digests, 64 hexadecimal digits each.
    pub sha256: Option<At<DigestsFile>>,
    /// Packages of dpkg or rpm whose unchanged files will do; a `*` stands for any characters.
    pub package: Option<At<PackagesFile>>,
    /// Public keys of minisign; the signature lies beside the file, as `FILE.minisig`.
    pub minisign: Option<At<KeysFile>>,
    /// Each of those that are said must hold, instead of one of them.
    pub all: Option<At<bool>>,
}

/// Digests.
#[derive(Clone, Debug)]
pub struct DigestsFile(pub Vec<Sha256>);

/// Names of packages.
#[derive(Clone, Debug)]
pub struct PackagesFile(pub Vec<At<String>>);

/// Keys.
#[derive(Clone, Debug)]
pub struct KeysFile(pub Vec<String>);

/// One of them, or a list that is not empty.
fn one_or_more(description: &str, one: serde_json::Value) -> Schema {
    json_schema!({
        "description": description,
        "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }]
    })
}

impl JsonSchema for DigestsFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "digests".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        one_or_more(
            "SHA-256 digests.",
            serde_json::json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" }),
        )
    }
}

impl JsonSchema for PackagesFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "packages".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        one_or_more(
            "Names of packages.",
            serde_json::json!({ "type": "string", "pattern": "^[A-Za-z0-9+._~*-]{1,128}$" }),
        )
    }
}

impl JsonSchema for KeysFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "keys".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        one_or_more(
            "Public keys of minisign.",
            serde_json::json!({ "type": "string", "pattern": "^RW[A-Za-z0-9+/]{54}$" }),
        )
    }
}
