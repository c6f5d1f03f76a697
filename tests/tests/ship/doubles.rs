//! Splunk, Elasticsearch and an OpenTelemetry collector, as far as they document what they
//! take: each refuses what the real one would.

use exeat_tests::collector::{Post, Reply};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;

pub(super) const TOKEN: &str = "geheim-1234-token";

/// The event collector with acknowledgements: ids of events, in the order of arrival.
#[derive(Default)]
pub(super) struct Splunk {
    pub(super) events: Mutex<Vec<String>>,
    asked: Mutex<usize>,
}

impl Splunk {
    pub(super) fn answer(&self, number: usize, post: &Post) -> Option<Reply> {
        let said = post.headers.get("authorization").map(String::as_str);
        if said != Some(&format!("Splunk {TOKEN}")) {
            // Some gateways tell what they were sent.
            let echo = json!({ "text": format!("Invalid token: {said:?}"), "code": 4 });
            return Some(Reply::new(403, echo.to_string()));
        }
        if !post.headers.contains_key("x-splunk-request-channel") {
            return Some(Reply::new(
                400,
                r#"{"text":"Data channel is missing","code":10}"#,
            ));
        }
        match post.path.as_str() {
            "/services/collector/event" => {}
            "/services/collector/ack" => return Some(self.acknowledge(post)),
            _ => return Some(Reply::new(404, "{}")),
        }
        if number == 0 {
            let busy = Reply::new(503, r#"{"text":"Server is busy","code":9}"#);
            return Some(busy.with("Retry-After", "1"));
        }
        let mut events = self.events.lock().expect("lock");
        for event in serde_json::Deserializer::from_slice(&post.body).into_iter::<Value>() {
            let Ok(event) = event else {
                return Some(Reply::new(
                    400,
                    r#"{"text":"Invalid data format","code":6}"#,
                ));
            };
            assert_eq!(event["sourcetype"], "exeat:event", "{event}");
            assert!(
                event["time"].is_f64() && event["event"].is_object(),
                "{event}"
            );
            let id = event["fields"]["id"].as_str().expect("id");
            assert_eq!(event["event"]["metadata"]["uid"], id);
            events.push(id.to_owned());
        }
        // Taken, and the answer is lost: what follows is sent twice.
        (number != 1).then(|| {
            Reply::new(
                200,
                format!(r#"{{"text":"Success","code":0,"ackId":{number}}}"#),
            )
        })
    }

    /// Not at the first question.
    fn acknowledge(&self, post: &Post) -> Reply {
        let mut asked = self.asked.lock().expect("lock");
        *asked += 1;
        let wanted: Value = serde_json::from_slice(&post.body).expect("json");
        let id = wanted["acks"][0].to_string();
        Reply::new(200, json!({ "acks": { id: *asked > 1 } }).to_string())
    }
}

/// The bulk interface: documents by id.
#[derive(Default)]
pub(super) struct Elastic {
    pub(super) documents: Mutex<BTreeMap<String, Value>>,
    /// Refused for good: the one whose mapping does not fit.
    pub(super) misfit: Mutex<Option<String>>,
    pub(super) conflicts: Mutex<usize>,
}

impl Elastic {
    pub(super) fn answer(&self, number: usize, post: &Post) -> Option<Reply> {
        assert_eq!(post.path, "/exeat/_bulk");
        assert_eq!(post.headers["content-type"], "application/x-ndjson");
        if post.headers["authorization"] != format!("ApiKey {TOKEN}") {
            return Some(Reply::new(
                401,
                r#"{"error":{"type":"security_exception"}}"#,
            ));
        }
        let text = String::from_utf8(post.body.clone()).expect("text");
        assert!(text.ends_with('\n'), "the bulk interface wants it");
        let mut lines = text.lines();
        let mut items = Vec::new();
        let mut documents = self.documents.lock().expect("lock");
        while let Some(action) = lines.next() {
            let action: Value = serde_json::from_str(action).expect("action");
            let id = action["create"]["_id"].as_str().expect("create").to_owned();
            let document: Value =
                serde_json::from_str(lines.next().expect("document")).expect("document");
            assert!(document["@timestamp"].is_string(), "{document}");
            let mut misfit = self.misfit.lock().expect("lock");
            let place = items.len();
            let status = if number == 0 && place == 1 {
                *misfit = Some(id);
                400
            } else if misfit.as_ref() == Some(&id) {
                400
            } else if number == 0 && place == 2 {
                429
            } else if let Entry::Vacant(place) = documents.entry(id) {
                place.insert(document);
                201
            } else {
                *self.conflicts.lock().expect("lock") += 1;
                409
            };
            items.push(match status {
                201 => json!({ "create": { "status": 201, "result": "created" } }),
                400 => json!({ "create": { "status": 400, "error": {
                    "type": "document_parsing_exception", "reason": "failed to parse field" } } }),
                status => json!({ "create": { "status": status, "error": {
                    "type": "es_rejected_execution_exception", "reason": "later" } } }),
            });
        }
        let said = json!({ "took": 1, "errors": number == 0, "items": items });
        // The second is stored, and its answer is lost.
        (number != 1).then(|| Reply::new(200, said.to_string()))
    }
}

/// A collector: ids of log records, decoded by OpenTelemetry's own types.
#[derive(Default)]
pub(super) struct Collector {
    pub(super) logs: Mutex<Vec<String>>,
}

impl Collector {
    pub(super) fn answer(&self, number: usize, post: &Post) -> Option<Reply> {
        assert_eq!(post.path, "/v1/logs");
        assert_eq!(post.headers["content-type"], "application/x-protobuf");
        if number == 0 {
            return Some(Reply::new(429, "").with("Retry-After", "1"));
        }
        let request = ExportLogsServiceRequest::decode(post.body.as_slice()).expect("protobuf");
        let mut logs = self.logs.lock().expect("lock");
        for resource in &request.resource_logs {
            let names = &resource.resource.as_ref().expect("resource").attributes;
            assert!(names.iter().any(|name| name.key == "service.name"));
            for record in resource
                .scope_logs
                .iter()
                .flat_map(|scope| &scope.log_records)
            {
                assert!(record.time_unix_nano > 0 && record.severity_number > 0);
                assert!(matches!(
                    record.body.as_ref().and_then(|body| body.value.as_ref()),
                    Some(Any::KvlistValue(_))
                ));
                let id = record.attributes.iter().find(|a| a.key == "log.record.uid");
                let id = id.and_then(|a| a.value.as_ref()?.value.clone());
                let Some(Any::StringValue(id)) = id else {
                    panic!("no id: {record:?}");
                };
                logs.push(id);
            }
        }
        Some(Reply::new(200, ""))
    }
}
