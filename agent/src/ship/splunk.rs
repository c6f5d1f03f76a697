//! Splunk's HTTP event collector.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::http::{Answer, Http};
use super::outcome::{Delivery, Outcome, Trouble};
use super::parcel::Parcel;

const CHANNEL: &str = "x-splunk-request-channel";
/// How long the indexer may take to acknowledge, and how often it is asked.
const ACK_LIMIT: Duration = Duration::from_secs(120);
const ACK_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Splunk {
    http: Http,
    url: Uri,
    host: String,
    /// Where acknowledgements are asked for, and under which channel.
    ack: Option<(Uri, HeaderMap)>,
}

#[derive(Serialize)]
struct Event<'a> {
    /// Seconds, with milliseconds behind the point.
    time: f64,
    host: &'a str,
    source: &'static str,
    sourcetype: &'static str,
    event: &'a RawValue,
    /// Indexed, so that duplicates are found without reading events: `| dedup id`.
    fields: BTreeMap<&'static str, String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    code: u32,
    #[serde(rename = "ackId")]
    ack_id: Option<u64>,
}

#[derive(Deserialize)]
struct Acks {
    acks: BTreeMap<String, bool>,
}

impl Splunk {
    pub(super) fn new(http: Http, url: Uri, host: String, ack: bool) -> Result<Self, String> {
        let ack = match ack {
            false => None,
            true => {
                let channel = Uuid::new_v4().to_string();
                let channel = HeaderValue::try_from(channel).map_err(|e| e.to_string())?;
                let headers =
                    HeaderMap::from_iter([(http::HeaderName::from_static(CHANNEL), channel)]);
                let mut parts = url.clone().into_parts();
                let path = url.path().trim_end_matches("/event").to_owned() + "/ack";
                parts.path_and_query = Some(path.parse().map_err(|_| "no path".to_owned())?);
                let uri = Uri::from_parts(parts).map_err(|e| e.to_string())?;
                Some((uri, headers))
            }
        };
        Ok(Self {
            http,
            url,
            host,
            ack,
        })
    }

    pub(super) async fn deliver(&self, batch: &[&Parcel]) -> Delivery {
        let mut body = Vec::new();
        for parcel in batch {
            let event: &RawValue =
                serde_json::from_str(&parcel.body).map_err(|error| Trouble::Indigestible {
                    why: error.to_string(),
                })?;
            let event = Event {
                time: parcel.head.time.as_millisecond() as f64 / 1000.0,
                host: &self.host,
                source: "exeat",
                sourcetype: "exeat:event",
                event,
                fields: [
                    ("id", parcel.head.id.to_string()),
                    ("exeat_event", parcel.head.event.clone()),
                ]
                .into(),
            };
            serde_json::to_writer(&mut body, &event).map_err(|e| Trouble::later(e.to_string()))?;
        }
        let none = HeaderMap::new();
        let headers = self.ack.as_ref().map_or(&none, |(_, headers)| headers);
        let answer = self
            .http
            .post(&self.url, "application/json", headers, body)
            .await?;
        if !answer.status.is_success() {
            return Err(trouble(&answer));
        }
        if let Some((url, headers)) = &self.ack {
            let said: Option<Said> = serde_json::from_slice(&answer.body).ok();
            let Some(id) = said.and_then(|said| said.ack_id) else {
                return Err(Trouble::parked(
                    "it gives no acknowledgements: enable them for the token, or say ack: false",
                ));
            };
            self.acknowledged(url, headers, id).await?;
        }
        Ok(Outcome::default())
    }

    async fn acknowledged(&self, url: &Uri, headers: &HeaderMap, id: u64) -> Result<(), Trouble> {
        let asked = Instant::now();
        while asked.elapsed() < ACK_LIMIT {
            let body = format!("{{\"acks\":[{id}]}}").into_bytes();
            let answer = self
                .http
                .post(url, "application/json", headers, body)
                .await?;
            if !answer.status.is_success() {
                return Err(trouble(&answer));
            }
            let said: Option<Acks> = serde_json::from_slice(&answer.body).ok();
            if said.is_some_and(|said| said.acks.get(&id.to_string()) == Some(&true)) {
                return Ok(());
            }
            tokio::time::sleep(ACK_PAUSE).await;
        }
        let limit = ACK_LIMIT.as_secs();
        Err(Trouble::later(format!(
            "no acknowledgement within {limit} s"
        )))
    }
}

/// Splunk's own codes tell more than the status: a 400 may be about the token's index.
fn trouble(answer: &Answer) -> Trouble {
    let code = serde_json::from_slice::<Said>(&answer.body).map_or(0, |said| said.code);
    match (answer.status, code) {
        // No data, invalid data, and event field missing or blank.
        (StatusCode::BAD_REQUEST, 5 | 6 | 12 | 13) => Trouble::Indigestible {
            why: answer.words(),
        },
        (StatusCode::BAD_REQUEST, _) => Trouble::parked(format!(
            "{}; look at the index and the token's settings",
            answer.words()
        )),
        _ => answer.trouble(),
    }
}
