//! What is written about the gateway: the way out of a rule, and the doors of an agent.

use super::At;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Whether the host of a plain HTTP request must be one that the policy allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "http", rename_all = "lowercase")]
pub enum HttpFile {
    /// On every port of the rule.
    Host,
    /// On none: the address is enough.
    None,
}

/// The way out.
#[derive(Clone, Debug)]
pub enum ViaFile {
    /// `gateway`.
    Gateway,
    /// A proxy of the enterprise.
    Proxy(Box<ProxyFile>),
}

impl JsonSchema for ViaFile {
    fn schema_name() -> Cow<'static, str> {
        "via".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let proxy = generator.subschema_for::<ProxyFile>();
        json_schema!({
            "description": "`gateway`, or a proxy that the gateway asks in its turn.",
            "anyOf": [{ "const": "gateway" }, proxy]
        })
    }
}

/// A proxy of the enterprise. Its files are named by absolute paths.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "proxy")]
pub struct ProxyFile {
    /// `https://proxy.corp:3128`, or the same with `http`; it is asked with CONNECT.
    #[schemars(schema_with = "url_schema")]
    pub proxy: At<String>,
    /// Authorities (PEM) that its certificate must come from; those of the system when not
    /// said.
    #[schemars(default, schema_with = "path_schema")]
    pub ca: Option<At<String>>,
    /// The gateway's own certificate with its chain (PEM).
    #[schemars(default, schema_with = "path_schema")]
    pub certificate: Option<At<String>>,
    /// The key of that certificate (PEM).
    #[schemars(default, schema_with = "path_schema")]
    pub key: Option<At<String>>,
    /// A file with `user:password`.
    #[schemars(default, schema_with = "path_schema")]
    pub credentials: Option<At<String>>,
}

fn url_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^https?://[^/?#@]+:[0-9]{1,5}/?$" })
}

fn path_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^/." })
}

/// The gateway of an agent.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "gateway")]
pub struct GatewayFile {
    /// What it speaks to programs that ask for a proxy themselves; nothing when not said.
    pub listen: Option<At<DoorsFile>>,
}

/// Protocols of proxies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DoorsFile(pub BTreeSet<DoorFile>);

impl JsonSchema for DoorsFile {
    fn schema_name() -> Cow<'static, str> {
        "doors".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<DoorFile>();
        json_schema!({
            "description": "A protocol of proxies, or a list of them.",
            "anyOf": [one, { "type": "array", "minItems": 1, "items": one }]
        })
    }
}

/// A protocol of proxies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, JsonSchema)]
#[schemars(rename = "door", rename_all = "lowercase")]
pub enum DoorFile {
    /// HTTP: CONNECT, and requests for a whole URL.
    Http,
    /// SOCKS5.
    Socks5,
}
