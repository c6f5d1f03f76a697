//! `exeat ship test`: one record to each receiver, and what came back.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::ReceiverConfig;
use super::parcel::test_parcel;
use super::receiver::Receiver;

const LIMIT: Duration = Duration::from_secs(45);

/// What one receiver did with a test record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub to: String,
    /// Whether it took the record.
    pub taken: bool,
    /// Id of the record, to look for.
    pub id: String,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// Sends a test record past the queue, and waits for what the receiver says.
pub async fn try_out(config: &ReceiverConfig) -> Trial {
    let parcel = test_parcel(config.format);
    let began = Instant::now();
    let attempt = async {
        let mut receiver = Receiver::new(config)?;
        let outcome = receiver.deliver(&[&parcel]).await;
        let outcome = outcome.map_err(|trouble| trouble.why().to_owned())?;
        let dead = outcome.dead.into_iter().next().map(|(_, why)| why);
        match (outcome.again.is_empty() && outcome.refused == 0, dead) {
            (true, None) => Ok(()),
            (_, Some(why)) => Err(why),
            (false, None) => Err(outcome.why.unwrap_or_else(|| "it is busy".to_owned())),
        }
    };
    let result = match tokio::time::timeout(LIMIT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("nothing came back within {} s", LIMIT.as_secs())),
    };
    Trial {
        name: config.name.clone(),
        to: config.to.to_string(),
        taken: result.is_ok(),
        id: parcel.head.id.to_string(),
        why: result.err(),
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}
