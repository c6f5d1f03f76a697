//! What is written about an agent's limits.

use super::At;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// How much of the machine an agent may take, all of its runs together.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "limits")]
pub struct LimitsFile {
    /// Memory, as in `2GiB` or `500MB`; at least 1MiB.
    #[schemars(default, schema_with = "bytes")]
    pub memory: Option<At<u64>>,
    /// Swap, as in `1GiB`, or 0.
    #[schemars(default, schema_with = "bytes")]
    pub swap: Option<At<u64>>,
    /// Time on CPUs, as in `150%`: 100% is one CPU.
    #[schemars(default, schema_with = "percent")]
    pub cpu: Option<At<u64>>,
    /// Processes and threads.
    #[schemars(default, schema_with = "count")]
    pub pids: Option<At<u64>>,
    /// Reading from disks and writing to them.
    pub io: Option<At<IoFile>>,
    /// Open files of each process; at least 16.
    #[schemars(default, schema_with = "count")]
    pub open_files: Option<At<u64>>,
    /// How long a run may take, as in `4h` or `1h30m`; then it is ended.
    #[schemars(default, schema_with = "time")]
    pub time: Option<At<u64>>,
}

/// What may be read and written in a second, of each disk.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "io")]
pub struct IoFile {
    /// Bytes read, as in `10MB/s`.
    #[schemars(default, schema_with = "rate")]
    pub read: Option<At<u64>>,
    /// Bytes written, as in `10MB/s`.
    #[schemars(default, schema_with = "rate")]
    pub write: Option<At<u64>>,
    /// Read operations, as in `100/s`.
    #[schemars(default, schema_with = "rate")]
    pub read_ops: Option<At<u64>>,
    /// Write operations, as in `100/s`.
    #[schemars(default, schema_with = "rate")]
    pub write_ops: Option<At<u64>>,
}

fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 1 })
}

fn bytes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]{1,18} ?([KMGT]i?B)?$" }
        ]
    })
}

fn rate(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[0-9]{1,18} ?([KMGT]i?B)?/s$" })
}

fn percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[0-9]{1,6} ?%$" })
}

fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$" })
}
