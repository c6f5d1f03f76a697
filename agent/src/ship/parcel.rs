//! A record on its way to a receiver: its id, its particulars by name, and its text.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_common::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::Format;
use crate::flow::{FlowRecord, FlowVerdict};
use crate::incident::{Incident, IncidentKind};
use crate::ocsf::{self, Device};
use crate::sink::Record;

/// Kinds of records that a receiver may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Flows that were refused.
    Deny,
    /// Flows that a monitor mode would have refused.
    WouldDeny,
    /// Flows that were let out.
    Allow,
    /// Incidents.
    Incidents,
}

impl Class {
    /// What a record is.
    pub const fn of(record: &Record) -> Self {
        match record {
            Record::Incident(_) => Self::Incidents,
            Record::Flow(flow) => match flow.verdict {
                FlowVerdict::Deny => Self::Deny,
                FlowVerdict::WouldDeny => Self::WouldDeny,
                FlowVerdict::Allow => Self::Allow,
            },
        }
    }
}

/// How grave it is: the numbers of syslog (RFC 5424 section 6.2.1) and journald.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// 3
    Error,
    /// 4
    Warning,
    /// 5
    Notice,
    /// 6
    Info,
}

impl Severity {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
        }
    }
}

/// What a parcel holds beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The same at every receiver and at every attempt.
    pub(super) id: Uuid,
    pub(super) time: Timestamp,
    /// `deny`, `would_deny`, `allow`, or the incident's kind.
    pub(super) event: String,
    pub(super) severity: Severity,
    /// In a sentence.
    pub(super) message: String,
    /// The particulars, by lower-case names.
    pub(super) fields: BTreeMap<String, String>,
}

/// One record, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) head: Head,
    /// A JSON object in one line.
    pub(super) body: String,
}

/// Makes parcels of the records of one run of the daemon.
#[derive(Clone)]
pub(super) struct Packer {
    device: Arc<Device>,
}

impl Packer {
    pub(super) fn new(device: Device) -> Self {
        Self {
            device: Arc::new(device),
        }
    }

    /// The id is the one that the record has in the audit log, too.
    pub(super) fn pack(&self, record: &Record, format: Format) -> Parcel {
        let event = ocsf::event(record, &self.device);
        let id = event["metadata"]["uid"].as_str();
        let id = id.and_then(|id| Uuid::parse_str(id).ok());
        let id = id.unwrap_or_else(Uuid::now_v7);
        let head = match record {
            Record::Flow(flow) => flow_head(id, flow),
            Record::Incident(incident) => incident_head(id, incident),
        };
        let body = match format {
            Format::Ocsf => event.to_string(),
            Format::Native => native(record, id).to_string(),
        };
        Parcel { head, body }
    }
}

/// A parcel that says that it is a test, for `exeat ship test`.
pub(super) fn test_parcel(format: Format) -> Parcel {
    let time = Timestamp::now();
    let head = Head {
        id: Uuid::now_v7(),
        time,
        event: "test".to_owned(),
        severity: Severity::Info,
        message: "a test by `exeat ship test`: nothing has happened".to_owned(),
        fields: BTreeMap::new(),
    };
    let body = match format {
        Format::Native => serde_json::json!({
            "type": "test", "id": head.id, "time": time, "message": head.message,
        }),
        // OCSF's Base Event.
        Format::Ocsf => serde_json::json!({
            "class_uid": 0, "category_uid": 0, "activity_id": 99, "activity_name": "Test",
            "type_uid": 99, "severity_id": 1, "time": time.as_millisecond(),
            "message": head.message,
            "metadata": {
                "uid": head.id, "version": ocsf::VERSION,
                "product": { "name": "Exeat", "vendor_name": "Exeat" },
            },
        }),
    };
    let body = body.to_string();
    Parcel { head, body }
}

fn native(record: &Record, id: Uuid) -> serde_json::Value {
    let (kind, value) = match record {
        Record::Flow(flow) => ("flow", serde_json::to_value(flow)),
        Record::Incident(incident) => ("incident", serde_json::to_value(incident)),
    };
    let mut value = value.unwrap_or_else(|_| serde_json::json!({}));
    if let Some(object) = value.as_object_mut() {
        object.insert("type".to_owned(), kind.into());
        object.insert("id".to_owned(), id.to_string().into());
    }
    value
}

fn flow_head(id: Uuid, flow: &FlowRecord) -> Head {
    let mut fields = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            fields.insert(name.to_owned(), value);
        }
    };
    put("seq", Some(flow.seq.to_string()));
    put("agent", Some(flow.agent.clone()));
    put("verdict", Some(flow.verdict.as_str().to_owned()));
    put("reason", flow.reason.map(Reason::as_str).map(str::to_owned));
    put("hook", Some(flow.hook.as_str().to_owned()));
    put("protocol", Some(flow.protocol.as_str().to_owned()));
    put("dest_ip", flow.dest.map(|dest| dest.ip.to_string()));
    put("dest_port", flow.dest.map(|dest| dest.port.to_string()));
    let asked = flow.dns.as_ref().map(|dns| dns.name.clone());
    put("name", asked.or_else(|| flow.names.first().cloned()));
    put("server_name", flow.server_name.clone());
    put("rule", flow.rule.as_ref().map(|rule| rule.text.clone()));
    put("generation", Some(flow.generation.to_string()));
    if let Some(process) = &flow.process {
        put("pid", Some(process.pid.to_string()));
        put("uid", Some(process.uid.to_string()));
        put("comm", Some(process.comm.clone()));
        let exe = process.exe.as_ref();
        put("exe", exe.map(|exe| exe.to_string_lossy().into_owned()));
    }
    let severity = match flow.verdict {
        FlowVerdict::Deny => Severity::Warning,
        FlowVerdict::WouldDeny => Severity::Notice,
        FlowVerdict::Allow => Severity::Info,
    };
    Head {
        id,
        time: flow.time,
        event: flow.verdict.as_str().to_owned(),
        severity,
        message: sentence(&flow.line(&jiff::tz::TimeZone::UTC)),
        fields,
    }
}

fn incident_head(id: Uuid, incident: &Incident) -> Head {
    use IncidentKind as K;
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &incident.facts {
        fields.insert(format!("fact_{name}"), value.clone());
    }
    for (name, value) in [
        ("seq", Some(incident.seq.to_string())),
        ("agent", Some(incident.agent.clone())),
        ("kind", Some(incident.kind.as_str().to_owned())),
        ("run", incident.run.clone()),
        ("pid", incident.pid.map(|pid| pid.to_string())),
        ("uid", incident.uid.map(|uid| uid.to_string())),
    ] {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    }
    let severity = match incident.kind {
        K::Killed | K::IdentityMismatch | K::WallMissing | K::Detected | K::EventsLost => {
            Severity::Error
        }
        kind if kind.is_routine() => Severity::Info,
        _ => Severity::Warning,
    };
    Head {
        id,
        time: incident.time,
        event: incident.kind.as_str().to_owned(),
        severity,
        message: sentence(&incident.line(&jiff::tz::TimeZone::UTC)),
        fields,
    }
}

/// The line without its clock: every receiver has the time of its own accord.
fn sentence(line: &str) -> String {
    line.split_once(' ')
        .map_or(line, |(_, rest)| rest)
        .to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    pub(crate) fn packer() -> Packer {
        Packer::new(Device::default())
    }

    /// Another one with each call.
    pub(crate) fn parcel() -> Parcel {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let mut flow = crate::flow::tests::record();
        flow.seq = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        packer().pack(&Record::Flow(flow), Format::Native)
    }

    #[test]
    fn an_id_is_the_records_and_of_this_start_in_every_format() {
        let other = Packer::new(Device {
            start: "another".into(),
            ..Device::default()
        });
        let mut flow = crate::flow::tests::record();
        flow.seq = 7;
        let record = Record::Flow(flow.clone());
        let one = packer().pack(&record, Format::Native);
        let two = packer().pack(&record, Format::Ocsf);
        assert_eq!(one.head, two.head);
        assert_eq!(one.head.id.get_version_num(), 7);
        let (seconds, _) = one.head.id.get_timestamp().expect("time").to_unix();
        assert_eq!(seconds, flow.time.as_second() as u64);
        for body in [one.body, two.body] {
            assert!(body.contains(&one.head.id.to_string()), "{body}");
        }
        assert_ne!(one.head.id, other.pack(&record, Format::Ocsf).head.id);
        flow.seq = 8;
        let next = packer().pack(&Record::Flow(flow), Format::Ocsf);
        assert_ne!(one.head.id, next.head.id);
    }

    #[test]
    fn a_body_is_one_line_whatever_the_program_calls_itself() {
        let mut flow = crate::flow::tests::record();
        if let Some(process) = &mut flow.process {
            process.comm = "a\nb\u{2028}".into();
        }
        let parcel = packer().pack(&Record::Flow(flow), Format::Ocsf);
        assert!(!parcel.body.contains('\n'));
        assert!(!parcel.head.message.contains('\n'));
    }

    #[test]
    fn classes_and_severities_follow_the_record() {
        let incident = crate::incident::tests::incident();
        let record = Record::Incident(incident);
        assert_eq!(Class::of(&record), Class::Incidents);
        let head = packer().pack(&record, Format::Native).head;
        assert_eq!(
            (head.event.as_str(), head.severity.number()),
            ("limit_hit", 4)
        );
        assert_eq!(head.fields["agent"], "build-bot");
        for format in [Format::Native, Format::Ocsf] {
            let test = test_parcel(format);
            serde_json::from_str::<serde_json::Value>(&test.body).expect("json");
        }
    }
}
