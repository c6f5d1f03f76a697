//! OTLP logs over HTTP, in OpenTelemetry's own messages.

use http::{HeaderMap, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde_json::Value;

use super::http::Http;
use super::outcome::{Delivery, Outcome};
use super::parcel::{Parcel, Severity};
use crate::flow::printable;

pub(super) struct Otlp {
    pub(super) http: Http,
    pub(super) url: Uri,
    pub(super) host: String,
}

impl Otlp {
    pub(super) async fn deliver(&self, batch: &[&Parcel]) -> Delivery {
        let body = request(batch, &self.host).encode_to_vec();
        let none = HeaderMap::new();
        let answer = self
            .http
            .post(&self.url, "application/x-protobuf", &none, body)
            .await?;
        if !answer.status.is_success() {
            return Err(answer.trouble());
        }
        let mut outcome = Outcome::default();
        // What the collector threw away must not be sent again (OTLP, "Partial Success").
        let said = ExportLogsServiceResponse::decode(answer.body.clone()).unwrap_or_default();
        if let Some(partial) = said.partial_success {
            outcome.refused = u64::try_from(partial.rejected_log_records).unwrap_or(0);
            if outcome.refused > 0 {
                let why = printable(&partial.error_message).into_owned();
                outcome.why = Some(format!("it threw away {} records: {why}", outcome.refused));
            }
        }
        Ok(outcome)
    }
}

fn request(batch: &[&Parcel], host: &str) -> ExportLogsServiceRequest {
    let resource = Resource {
        attributes: vec![
            text("service.name", "exeat"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", host),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "exeat.ship".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records: batch.iter().map(|parcel| record(parcel)).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn record(parcel: &Parcel) -> LogRecord {
    let head = &parcel.head;
    let severity = match head.severity {
        Severity::Error => SeverityNumber::Error,
        Severity::Warning => SeverityNumber::Warn,
        Severity::Notice => SeverityNumber::Info2,
        Severity::Info => SeverityNumber::Info,
    };
    let mut attributes = vec![
        text("log.record.uid", &head.id.to_string()),
        text("exeat.message", &head.message),
    ];
    attributes
        .extend((head.fields.iter()).map(|(name, value)| text(&format!("exeat.{name}"), value)));
    let nanos = u64::try_from(head.time.as_nanosecond()).unwrap_or(0);
    LogRecord {
        time_unix_nano: nanos,
        observed_time_unix_nano: nanos,
        severity_number: severity.into(),
        severity_text: severity.as_str_name().replace("SEVERITY_NUMBER_", ""),
        body: serde_json::from_str(&parcel.body).ok().map(any),
        attributes,
        event_name: format!("exeat.{}", head.event),
        ..LogRecord::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key.to_owned(), Value::from(value))
}

fn pair(key: String, value: Value) -> KeyValue {
    KeyValue {
        key,
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

/// The record's own structure, so that a collector can filter by it.
fn any(value: Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(yes) => Some(Any::BoolValue(yes)),
        Value::Number(number) => Some(match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Any::IntValue(whole),
            (None, Some(float)) => Any::DoubleValue(float),
            (None, None) => Any::StringValue(number.to_string()),
        }),
        Value::String(text) => Some(Any::StringValue(text)),
        Value::Array(items) => Some(Any::ArrayValue(ArrayValue {
            values: items.into_iter().map(any).collect(),
        })),
        Value::Object(members) => Some(Any::KvlistValue(KeyValueList {
            values: (members.into_iter())
                .map(|(key, value)| pair(key, value))
                .collect(),
        })),
    };
    AnyValue { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::parcel::tests::parcel;

    #[test]
    fn a_record_has_its_id_its_severity_and_its_structure() {
        let parcel = parcel();
        let bytes = request(&[&parcel], "laptop").encode_to_vec();
        let back = ExportLogsServiceRequest::decode(bytes.as_slice()).expect("decode");
        let log = &back.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!(log.severity_text, "WARN");
        assert_eq!(log.event_name, "exeat.deny");
        let id = Any::StringValue(parcel.head.id.to_string());
        assert_eq!(log.attributes[0].key, "log.record.uid");
        let value = log.attributes[0]
            .value
            .as_ref()
            .and_then(|v| v.value.as_ref());
        assert_eq!(value, Some(&id));
        let Some(Any::KvlistValue(body)) = log.body.as_ref().and_then(|b| b.value.as_ref()) else {
            panic!("{:?}", log.body);
        };
        assert!(body.values.iter().any(|pair| pair.key == "agent"));
    }
}
