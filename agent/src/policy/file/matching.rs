//! What is written below `match:`.

use super::At;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

use crate::policy::matching::MatchBy;

/// One selector: exactly one key.
#[derive(Clone, Debug)]
pub struct SelectorFile(pub MatchBy);

impl JsonSchema for SelectorFile {
    fn schema_name() -> Cow<'static, str> {
        "match".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let properties: serde_json::Map<String, serde_json::Value> = ABOUT
            .iter()
            .map(|(key, about)| {
                let value = serde_json::json!({ "type": "string", "description": about });
                ((*key).to_owned(), value)
            })
            .collect();
        json_schema!({
            "type": "object",
            "description": "Programs or cgroups that are the agent's, however they were started: exactly one of these.",
            "properties": properties,
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1
        })
    }
}

/// The selectors of an agent.
pub type MatchFile = Vec<At<SelectorFile>>;

const ABOUT: &[(&str, &str)] = &[
    ("unit", "A glob of the name of a systemd unit or scope."),
    (
        "cgroup",
        "A glob of the path of a cgroup below the cgroup2 root; `*` stays within one part, `**` does not.",
    ),
    (
        "container",
        "A glob of the name of a container of podman or docker, or a label as `key=value`.",
    ),
    ("flatpak", "The id of a flatpak."),
    ("snap", "The name of a snap."),
    ("executable", "A glob of the path of a program."),
    ("sha256", "The SHA-256 of a program."),
    (
        "programs_under",
        "A folder, or a glob of folders: every program below it that nothing else matches.",
    ),
];
