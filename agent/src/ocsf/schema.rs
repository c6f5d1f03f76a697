//! What the schema says of an event, for tests: `schema-1.8.0.json` has the classes and objects
//! that are written here, taken from OCSF 1.8.0 itself (its head names the source).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(crate) struct Schema {
    pub(crate) version: String,
    pub(crate) classes: BTreeMap<String, Object>,
    objects: BTreeMap<String, Object>,
}

#[derive(Deserialize)]
pub(crate) struct Object {
    attributes: BTreeMap<String, Attribute>,
    #[serde(default)]
    constraints: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Attribute {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: bool,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    array: bool,
    #[serde(default)]
    r#enum: Vec<String>,
    #[serde(default)]
    profile: Option<String>,
}

impl Schema {
    pub(crate) fn read() -> Self {
        serde_json::from_str(include_str!("schema-1.8.0.json")).expect("the schema")
    }

    /// Everything that is wrong with an event.
    pub(crate) fn faults(&self, event: &Value) -> Vec<String> {
        let class = event["class_uid"].to_string();
        let Some(object) = self.classes.get(&class) else {
            return vec![format!("no class {class}")];
        };
        let mut faults = Vec::new();
        let profiles: Vec<&str> = event["metadata"]["profiles"]
            .as_array()
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        self.object(&class, object, event, &profiles, &mut faults);
        faults
    }

    fn object(
        &self,
        at: &str,
        object: &Object,
        value: &Value,
        profiles: &[&str],
        faults: &mut Vec<String>,
    ) {
        let Some(members) = value.as_object() else {
            faults.push(format!("{at}: no object"));
            return;
        };
        for (name, attribute) in &object.attributes {
            if attribute.required && !members.contains_key(name) {
                faults.push(format!("{at}.{name}: required"));
            }
        }
        for (rule, names) in &object.constraints {
            let there = names.iter().filter(|n| members.contains_key(*n)).count();
            if there == 0 || (rule == "just_one" && there > 1) {
                faults.push(format!("{at}: {rule} of {names:?}, has {there}"));
            }
        }
        for (name, value) in members {
            let at = format!("{at}.{name}");
            let Some(attribute) = object.attributes.get(name) else {
                faults.push(format!("{at}: not in the schema"));
                continue;
            };
            let profile = attribute.profile.as_deref();
            if profile.is_some_and(|profile| !profiles.contains(&profile)) {
                faults.push(format!("{at}: of a profile that the event does not name"));
            }
            match (attribute.array, value.as_array()) {
                (true, Some(items)) => {
                    for item in items {
                        self.value(&at, attribute, item, profiles, faults);
                    }
                }
                (true, None) => faults.push(format!("{at}: no list")),
                (false, _) => self.value(&at, attribute, value, profiles, faults),
            }
        }
    }

    fn value(
        &self,
        at: &str,
        attribute: &Attribute,
        value: &Value,
        profiles: &[&str],
        faults: &mut Vec<String>,
    ) {
        if attribute.object {
            match self.objects.get(&attribute.kind) {
                Some(object) => self.object(at, object, value, profiles, faults),
                // `unmapped` is an object of whatever there is.
                None if attribute.kind == "object" && value.is_object() => {}
                None => faults.push(format!("{at}: an object that is not looked into")),
            }
            return;
        }
        let right = match attribute.kind.as_str() {
            "integer_t" => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            "long_t" | "timestamp_t" => value.as_i64().is_some(),
            "port_t" => value.as_u64().is_some_and(|n| n <= 65535),
            "boolean_t" => value.is_boolean(),
            "ip_t" => value
                .as_str()
                .is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()),
            "json_t" => true,
            kind if kind.ends_with("_t") => value.is_string(),
            _ => false,
        };
        if !right {
            faults.push(format!("{at}: {value} is no {}", attribute.kind));
        }
        let word = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if !attribute.r#enum.is_empty() && !attribute.r#enum.contains(&word) {
            faults.push(format!("{at}: {word} is not one of {:?}", attribute.r#enum));
        }
    }
}
