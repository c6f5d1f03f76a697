//! The JSON Schema of a policy file, so that editors complete and check it.

use super::file::PolicyFile;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

/// Where the checked-in copy can be fetched.
pub const SCHEMA_ID: &str = "https://example.invalid/exeat/policy.schema.json";

/// The schema, as indented JSON with a line end.
pub fn schema() -> String {
    let settings = SchemaSettings::draft2020_12().with_transform(WithoutNull);
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<PolicyFile>();
    schema.insert("$id".to_owned(), SCHEMA_ID.into());
    let mut schema = Value::from(schema);
    // Another crate of the build may turn on serde_json's `preserve_order`.
    schema.sort_all_objects();
    let mut text = format!("{schema:#}");
    text.push('\n');
    text
}

/// An optional key may be left out, but not be null: the reader refuses it.
#[derive(Clone)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        let null = Value::from("null");
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|kind| *kind != null);
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        let is_null = |choice: &Value| choice.get("type") == Some(&null);
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| !is_null(choice));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
        transform_subschemas(self, schema);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::read;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn parsed() -> Value {
        serde_json::from_str(&schema()).expect("json")
    }

    #[test]
    fn the_checked_in_schema_is_the_one_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/policy.schema.json");
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            checked_in,
            schema(),
            "{} has drifted: write it anew with `exeat schema > agent/schema/policy.schema.json`",
            path.display()
        );
    }

    #[test]
    fn the_reader_knows_exactly_the_keys_of_the_schema() {
        let schema = parsed();
        let keys = |node: &Value| -> BTreeSet<String> {
            let properties = node["properties"].as_object().expect("properties");
            properties.keys().cloned().collect()
        };
        let known = |keys: &[&str]| -> BTreeSet<String> {
            keys.iter().map(|key| (*key).to_owned()).collect()
        };
        assert_eq!(keys(&schema), known(read::FILE_KEYS));
        let defs = &schema["$defs"];
        assert_eq!(keys(&defs["agent"]), known(read::AGENT_KEYS));
        assert_eq!(keys(&defs["rule"]), known(read::RULE_KEYS));
        assert_eq!(keys(&defs["listen_rule"]), known(read::LISTEN_KEYS));
        assert_eq!(keys(&defs["dns"]), known(read::DNS_KEYS));
        assert_eq!(keys(&defs["budget"]), known(read::BUDGET_KEYS));
        assert_eq!(keys(&defs["limits"]), known(read::LIMITS_KEYS));
        assert_eq!(keys(&defs["io"]), known(read::IO_KEYS));
        assert_eq!(keys(&defs["gateway"]), known(read::GATEWAY_KEYS));
        assert_eq!(keys(&defs["proxy"]), known(read::PROXY_KEYS));
        assert_eq!(keys(&defs["inspect"]), known(read::INSPECT_KEYS));
        assert_eq!(keys(&defs["request"]), known(read::REQUEST_KEYS));
        assert_eq!(keys(&defs["data_pattern"]), known(read::PATTERN_KEYS));
        assert_eq!(keys(&defs["openings"]), known(read::SANDBOX_KEYS));
        assert_eq!(keys(&defs["ask_more"]), known(read::ASK_KEYS));
        assert_eq!(keys(&defs["identity"]), known(read::IDENTITY_KEYS));
        assert_eq!(keys(&defs["dbus"]), known(read::DBUS_KEYS));
        for node in [
            &schema,
            &defs["identity"],
            &defs["agent"],
            &defs["rule"],
            &defs["listen_rule"],
            &defs["dns"],
            &defs["budget"],
            &defs["gateway"],
            &defs["proxy"],
            &defs["inspect"],
            &defs["request"],
            &defs["data_pattern"],
            &defs["openings"],
            &defs["dbus"],
        ] {
            assert_eq!(node["additionalProperties"], Value::Bool(false));
        }
        assert_eq!(schema["required"], serde_json::json!(["version"]));
        assert_eq!(
            defs["listen_rule"]["required"],
            serde_json::json!(["cidr", "ports"])
        );
        assert_eq!(defs["proxy"]["required"], serde_json::json!(["proxy"]));
        for optional in [
            "agent", "rule", "dns", "budget", "gateway", "inspect", "request", "openings",
            "identity",
        ] {
            assert!(defs[optional].get("required").is_none(), "{optional}");
        }
    }

    #[test]
    fn nothing_in_the_schema_may_be_null() {
        assert!(!schema().contains("null"));
    }
}
