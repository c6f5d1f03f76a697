//! Elasticsearch's bulk interface, which OpenSearch has too.

use http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::Http;
use super::outcome::{Delivery, Outcome, Trouble};
use super::parcel::Parcel;
use crate::flow::printable;

pub(super) struct Elastic {
    pub(super) http: Http,
    pub(super) url: Uri,
    pub(super) index: String,
}

#[derive(Deserialize)]
struct Said {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: Created,
}

#[derive(Deserialize)]
struct Created {
    status: u16,
    error: Option<Value>,
}

impl Elastic {
    pub(super) async fn deliver(&self, batch: &[&Parcel]) -> Delivery {
        let mut body = String::new();
        for parcel in batch {
            // `create` under its id: what is there already is refused, so there are no duplicates.
            let id = parcel.head.id.to_string();
            let action = json!({ "create": { "_index": self.index, "_id": id } });
            body.push_str(&action.to_string());
            body.push('\n');
            body.push_str(&with_time(parcel));
            body.push('\n');
        }
        let none = HeaderMap::new();
        let answer = self
            .http
            .post(&self.url, "application/x-ndjson", &none, body.into_bytes())
            .await?;
        if !answer.status.is_success() {
            return Err(answer.trouble());
        }
        let Ok(said) = serde_json::from_slice::<Said>(&answer.body) else {
            let why = format!("{}; that is no answer to a bulk request", answer.words());
            return Err(Trouble::parked(why));
        };
        if said.items.len() != batch.len() {
            return Err(Trouble::later(format!(
                "it tells of {} records of {}",
                said.items.len(),
                batch.len()
            )));
        }
        let mut outcome = Outcome {
            after: answer.after(),
            ..Outcome::default()
        };
        for (n, item) in said.items.iter().enumerate() {
            let why = || words(&item.create);
            match item.create.status {
                200..=299 => {}
                // It is there: an answer to an earlier attempt was lost.
                409 => {}
                429 | 500..=599 => {
                    outcome.why = Some(why());
                    outcome.again.push(n);
                }
                401 | 403 | 404 => return Err(Trouble::parked(why())),
                _ => outcome.dead.push((n, why())),
            }
        }
        Ok(outcome)
    }
}

/// Data streams want `@timestamp`.
fn with_time(parcel: &Parcel) -> String {
    match parcel.body.strip_prefix('{') {
        Some(rest) if rest != "}" => format!("{{\"@timestamp\":\"{}\",{rest}", parcel.head.time),
        _ => parcel.body.clone(),
    }
}

fn words(item: &Created) -> String {
    let Some(error) = &item.error else {
        return format!("it answers {} for a record", item.status);
    };
    let word = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let text = format!("{}: {}", word("type"), word("reason"));
    let short: String = text.chars().take(200).collect();
    format!(
        "it answers {} for a record: {}",
        item.status,
        printable(&short)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::parcel::tests::parcel;

    #[test]
    fn a_record_has_its_time_where_data_streams_look() {
        let parcel = parcel();
        let value: Value = serde_json::from_str(&with_time(&parcel)).expect("json");
        assert_eq!(value["@timestamp"], parcel.head.time.to_string());
        assert_eq!(value["agent"], parcel.head.fields["agent"]);
    }
}
