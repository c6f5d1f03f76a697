//! Records as events of the Open Cybersecurity Schema Framework, for those who collect them.
//!
//! Pure: [`Device`] is an argument, so the same record is the same event, its id included.
//! What an attribute of the schema fits goes there; the rest goes to `unmapped`, under the
//! names of `docs/events.md`.

mod bound;
mod device;
mod flow;
mod incident;
#[cfg(test)]
mod schema;
#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

pub use device::Device;

use crate::sink::Record;

/// The version of the schema that events are written by and tested against.
pub const VERSION: &str = "1.8.0";
/// An event is not longer than this as JSON; what would be is cut, and says so.
pub const MAX_BYTES: usize = 7_680;

/// Who made the record.
const PRODUCT: &str = "Exeat";

type Fields = Map<String, Value>;

/// The record as an OCSF event.
pub fn event(record: &Record, device: &Device) -> Value {
    let fields = match record {
        Record::Flow(flow) => flow::fields(flow, device),
        Record::Incident(incident) => incident::fields(incident, device),
    };
    bound::bound(Value::Object(fields), MAX_BYTES)
}

/// A class of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Process,
    Kernel,
    Finding,
    Entity,
    Network,
    Dns,
    ConfigState,
    Lifecycle,
    AppError,
    Remediation,
}

impl Class {
    const fn uid(self) -> u32 {
        match self {
            Self::Kernel => 1003,
            Self::Process => 1007,
            Self::Finding => 2004,
            Self::Entity => 3004,
            Self::Network => 4001,
            Self::Dns => 4003,
            Self::ConfigState => 5019,
            Self::Lifecycle => 6002,
            Self::AppError => 6008,
            Self::Remediation => 7001,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "Kernel Activity",
            Self::Process => "Process Activity",
            Self::Finding => "Detection Finding",
            Self::Entity => "Entity Management",
            Self::Network => "Network Activity",
            Self::Dns => "DNS Activity",
            Self::ConfigState => "Device Config State Change",
            Self::Lifecycle => "Application Lifecycle",
            Self::AppError => "Application Error",
            Self::Remediation => "Remediation Activity",
        }
    }

    const fn category(self) -> &'static str {
        match self.uid() / 1000 {
            1 => "System Activity",
            2 => "Findings",
            3 => "Identity & Access Management",
            4 => "Network Activity",
            5 => "Discovery",
            6 => "Application Activity",
            _ => "Remediation",
        }
    }
}

/// What happened, in the words of its class.
#[derive(Debug, Clone, Copy)]
struct Activity {
    id: u32,
    name: &'static str,
}

impl Activity {
    const fn new(id: u32, name: &'static str) -> Self {
        Self { id, name }
    }

    /// One that the class has no number for.
    const fn other(name: &'static str) -> Self {
        Self { id: 99, name }
    }
}

#[derive(Debug, Clone, Copy)]
enum Severity {
    Informational = 1,
    Low = 2,
    Medium = 3,
    High = 4,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
        }
    }
}

/// What was done about it: action and disposition of the profile `security_control`.
#[derive(Debug, Clone, Copy)]
enum Done {
    Allowed,
    Blocked,
    /// It would have been refused, and was not.
    Logged,
    Isolated,
    Restored,
    Alert,
}

impl Done {
    const fn words(self) -> (u32, &'static str, u32, &'static str) {
        match self {
            Self::Allowed => (1, "Allowed", 1, "Allowed"),
            Self::Blocked => (2, "Denied", 2, "Blocked"),
            Self::Logged => (3, "Observed", 17, "Logged"),
            Self::Isolated => (2, "Denied", 4, "Isolated"),
            Self::Restored => (1, "Allowed", 9, "Restored"),
            Self::Alert => (3, "Observed", 19, "Alert"),
        }
    }
}

/// What every event has.
struct Base<'a> {
    class: Class,
    activity: Activity,
    severity: Severity,
    seq: u64,
    time: Timestamp,
    code: &'a str,
    message: &'a str,
    done: Option<Done>,
}

impl Base<'_> {
    fn fields(&self, device: &Device) -> Fields {
        let class = self.class;
        let mut fields = object(json!({
            "metadata": {
                "version": VERSION,
                "product": product(device),
                "profiles": ["host", "security_control"],
                "log_name": "exeat",
                "event_code": self.code,
                "uid": uid(self.seq, self.time, device),
                "sequence": self.seq,
            },
            "time": self.time.as_millisecond(),
            "timezone_offset": 0,
            "category_uid": class.uid() / 1000,
            "category_name": class.category(),
            "class_uid": class.uid(),
            "class_name": class.name(),
            "activity_id": self.activity.id,
            "activity_name": self.activity.name,
            "type_uid": class.uid() * 100 + self.activity.id,
            "type_name": format!("{}: {}", class.name(), self.activity.name),
            "severity_id": self.severity as u32,
            "severity": self.severity.name(),
            "message": self.message,
            "device": device.object(),
        }));
        if let Some(done) = self.done {
            let (action_id, action, disposition_id, disposition) = done.words();
            fields.extend(object(json!({
                "action_id": action_id,
                "action": action,
                "disposition_id": disposition_id,
                "disposition": disposition,
                "is_alert": !matches!(done, Done::Allowed | Done::Restored),
            })));
        }
        fields
    }
}

fn product(device: &Device) -> Value {
    json!({"name": PRODUCT, "vendor_name": PRODUCT, "version": device.version})
}

/// A UUID in the form of version 7: the time of the record, and for its random part what no
/// other record has, so that whoever gets the event twice sees it.
fn uid(seq: u64, time: Timestamp, device: &Device) -> String {
    let mut hash = Sha256::new();
    for part in [device.uid.as_bytes(), device.start.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(seq.to_be_bytes());
    let hash = hash.finalize();
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .to_string()
}

/// The members of an object that was just written.
fn object(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}

/// Numbers beyond 2^53 are not the same in every reader of JSON: identifiers are strings.
fn id_text(id: u64) -> Value {
    Value::String(id.to_string())
}
